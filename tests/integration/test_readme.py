"""The README's examples, run as a newcomer would: the page in a browser and the script in a shell, chatting."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from helpers.raw import RawClient
from helpers.server import started_server, wait_until
from helpers.sockets import Page, open_page, started_browser
from helpers.waiting import eventually

README = (Path(__file__).parents[2] / "README.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}


def example(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[number]


async def shows(page: Page, wanted: str) -> None:
    async def is_shown() -> bool:
        return wanted in await page.evaluate("document.body.innerText")

    await eventually(is_shown, f"{wanted!r} on the page")


def started_script(script: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def test_the_page_and_the_script_chat_with_each_other(tmp_path: Path) -> None:
    async def chat(port: int) -> None:
        html = tmp_path / "chat.html"
        html.write_text(example("html").replace("8080", str(port)))
        script = tmp_path / "chat.py"
        script.write_text(example("python").replace("8080", str(port)))
        with started_browser() as browser:
            async with open_page(browser, html.as_uri(), lambda event: None) as page:
                with started_script(script) as process:
                    assert process.stdin is not None
                    assert process.stdout is not None
                    await shows(page, "are here")
                    process.stdin.write("hello from the shell\n")
                    process.stdin.flush()
                    await shows(page, "hello from the shell")
                    await page.evaluate(
                        "document.getElementById('line').value = 'hello from the browser';"
                        "document.getElementById('line').dispatchEvent(new Event('change'))"
                    )
                    lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(2)]
                    assert [line.split(": ")[1].strip() for line in lines] == [
                        "hello from the shell",
                        "hello from the browser",
                    ]
                    process.stdin.close()
                    assert await asyncio.to_thread(process.wait, 10) == 0

    with started_server(workers=2) as server:
        asyncio.run(chat(server.port))


def test_the_servers_example_answers_its_command(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(example("python", 1).replace("port=8080", "port=0, workers=1"))
    log = tmp_path / "log"
    with log.open("wb") as sink, subprocess.Popen([sys.executable, script], stderr=sink, env=ENVIRONMENT) as process:
        try:
            address = re.compile(r"serving ws://127\.0\.0\.1:(\d+)")
            wait_until(lambda: address.search(log.read_text()) is not None, "an address in the log")
            found = address.search(log.read_text())
            assert found is not None
            with RawClient(int(found[1])) as client:
                client.send({"type": "join_room", "room": "general"})
                client.expect("room_joined")
                client.send({"type": "custom_action"})
                assert client.expect("custom_response")["data"] == "Action processed"
        finally:
            process.terminate()
