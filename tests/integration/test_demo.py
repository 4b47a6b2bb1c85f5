"""The demo page in Chromium: two people talk through it, hostile text stays text, and a lost connection is taken up."""

from __future__ import annotations

import json
import os
import signal

from helpers.clients import on_loop
from helpers.server import SECRET, RunningServer, running_server, started_server
from helpers.sockets import Browser, Page, open_page
from helpers.waiting import eventually

HOSTILE = '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1">'


async def until(page: Page, expression: str, what: str) -> None:
    """Wait for the page, which tells nobody when it has drawn something."""

    async def is_so() -> bool:
        return bool(await page.evaluate(expression))

    await eventually(is_so, what)


async def say(page: Page, text: str) -> None:
    await page.evaluate(
        f"document.getElementById('text').value = {json.dumps(text)};"
        "document.getElementById('compose').requestSubmit(); undefined"
    )


async def join(page: Page, room: str) -> None:
    await until(page, "document.getElementById('link-text').textContent === 'connected'", "connected")
    await page.evaluate(
        f"document.getElementById('room').value = {json.dumps(room)};"
        "document.getElementById('join').requestSubmit(); undefined"
    )
    await until(page, "current && current.joined", f"joined {room}")


TEXTS = "[...document.querySelectorAll('.message:not(.pending)')].map((one) => one.lastChild.textContent)"


def shows(text: str) -> str:
    return f"{TEXTS}.includes({json.dumps(text)})"


def home(server: RunningServer) -> str:
    return f"http://127.0.0.1:{server.port}/"


@on_loop
async def test_two_people_talk_and_hostile_text_stays_text(browser: Browser) -> None:
    async with (
        running_server(workers=2) as server,
        open_page(browser, home(server)) as ann,
        open_page(browser, home(server)) as bob,
    ):
        for page in (ann, bob):
            await join(page, "general")
        await until(ann, "document.querySelectorAll('#members li').length === 2", "two members")
        await say(ann, HOSTILE)
        await say(bob, "hello")
        for page in (ann, bob):
            await until(page, shows(HOSTILE), "the hostile text")
            await until(page, shows("hello"), "the other text")
            assert await page.evaluate(
                "window.pwned === undefined && document.querySelectorAll('#log img').length === 0"
            )
            assert await page.evaluate(f"{TEXTS}.length === 2"), "one's own message is shown once"


@on_loop
async def test_names_of_object_properties_are_names_like_any_other(browser: Browser) -> None:
    async with (
        running_server(workers=1, jwt_secret=SECRET) as server,
        open_page(browser, home(server)) as page,
    ):
        await until(page, "document.getElementById('link-text').textContent === 'please sign in'", "a stranger")
        await page.evaluate(
            f"document.getElementById('token').value = {json.dumps(server.token('__proto__'))};"
            "document.getElementById('sign-in').requestSubmit(); undefined"
        )
        for room in ("__proto__", "constructor"):
            await join(page, room)
            await say(page, f"in {room}")
            await until(page, shows(f"in {room}"), room)
        assert await page.evaluate("document.querySelectorAll('#tabs li').length === 2")
        assert await page.evaluate("({}).polluted === undefined && Object.keys(Object.prototype).length === 0")


@on_loop
async def test_lost_connection_is_taken_up_without_missing_or_doubling_anything(browser: Browser) -> None:
    async with (
        running_server(workers=1) as server,
        open_page(browser, home(server)) as ann,
        open_page(browser, home(server)) as bob,
    ):
        for page in (ann, bob):
            await join(page, "general")
        await say(ann, "before")
        await until(bob, shows("before"), "before")
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        await until(ann, "!current.joined", "the loss is seen")
        await say(ann, "meanwhile")
        await until(ann, "current.joined", "back")
        await until(bob, "current.joined", "back")
        await say(bob, "after")
        for page in (ann, bob):
            for text in ("before", "meanwhile", "after"):
                await until(page, shows(text), text)
            assert await page.evaluate(f"{TEXTS}.length") == 3


def test_page_is_one_file_that_loads_nothing(server: RunningServer) -> None:
    status, body = server.get("/")
    page = body.decode()
    assert status == 200
    assert page.startswith("<!doctype html>")
    for forbidden in ("http://", "https://", "innerHTML", "eval(", " src="):
        assert forbidden not in page


def test_page_can_be_left_out() -> None:
    with started_server(workers=1, no_demo=True) as server:
        assert server.get("/")[0] == 426
