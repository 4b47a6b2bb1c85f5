"""One interface over four WebSocket implementations: websockets, aiohttp, Node's ws, and Chromium's own.

    async with sockets("chromium", server) as open_socket:
        socket = await open_socket(url)
        await socket.send_text("…");  text = await socket.receive_text();  await socket.close()

`receive_text` raises `Closed` (with the close code) once the connection is gone. Node and Chromium run elsewhere: many
sockets share one process there, and `_RemoteHost` tells them apart by number.

For a server with TLS, `sockets(kind, server, browser, trusted)` takes the PEM file of its certificate. Chromium reads
no such file: it is started as `started_browser(trusted)`, and then trusts the certificate's key.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from helpers.certificates import key_hash
from helpers.server import RunningServer, wait_until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

KINDS = ("websockets", "aiohttp", "node", "chromium")
NODE_CLIENT = Path(__file__).parents[1] / "node" / "client.js"


class Closed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Socket(Protocol):
    async def send_text(self, text: str) -> None: ...

    async def receive_text(self) -> str: ...

    async def close(self, code: int = 1000) -> None: ...


OpenSocket = Callable[[str], Awaitable[Socket]]


class WebsocketsSocket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send_text(self, text: str) -> None:
        await self.connection.send(text)

    async def receive_text(self) -> str:
        try:
            return str(await self.connection.recv(decode=True))
        except ConnectionClosed:
            raise Closed(self.connection.close_code or 1006) from None

    async def close(self, code: int = 1000) -> None:
        await self.connection.close(code)


class AiohttpSocket:
    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.connection = connection

    async def send_text(self, text: str) -> None:
        await self.connection.send_str(text)

    async def receive_text(self) -> str:
        message = await self.connection.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            return str(message.data)
        raise Closed(self.connection.close_code or 1006)

    async def close(self, code: int = 1000) -> None:
        await self.connection.close(code=code)


class RemoteSocket:
    """A socket of another process; `_RemoteHost` puts its events into `events`."""

    def __init__(self, host: _RemoteHost, number: int) -> None:
        self._host = host
        self._number = number
        self._closed: int | None = None
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def opened(self) -> None:
        event = await self.events.get()
        assert event["event"] == "open", event
        assert event["protocol"] == "tusk.v1", event

    async def send_text(self, text: str) -> None:
        await self._host.tell({"op": "send", "n": self._number, "text": text})

    async def receive_text(self) -> str:
        while self._closed is None:
            event = await self.events.get()
            if event["event"] == "message":
                return str(event["text"])
            if event["event"] == "close":
                self._closed = event["code"]
        raise Closed(self._closed)

    async def close(self, code: int = 1000) -> None:
        if self._closed is None:
            await self._host.tell({"op": "close", "n": self._number, "code": code})
            with contextlib.suppress(Closed):
                while True:
                    await self.receive_text()


class _RemoteHost:
    def __init__(self, tell: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self.tell = tell
        self._sockets: dict[int, RemoteSocket] = {}
        self._numbers = itertools.count(1)

    async def open(self, url: str) -> Socket:
        number = next(self._numbers)
        socket = self._sockets[number] = RemoteSocket(self, number)
        await self.tell({"op": "open", "n": number, "url": url})
        await socket.opened()
        return socket

    def on_event(self, event: dict[str, Any]) -> None:
        self._sockets[event["n"]].events.put_nowait(event)


@contextlib.asynccontextmanager
async def sockets(
    kind: str, server: RunningServer, browser: Browser | None = None, trusted: Path | None = None
) -> AsyncIterator[OpenSocket]:
    """What opens sockets of `kind`; those still open at the end are closed. `browser` is needed for "chromium"."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[Socket] = []
        if kind == "websockets":

            async def open_one(url: str) -> Socket:
                # No bound on what nobody has read yet: a full queue would also keep the Close frame from being read.
                return WebsocketsSocket(
                    await connect(url, subprotocols=["tusk.v1"], max_queue=None, ssl=server.tls)  # type: ignore[list-item]
                )
        elif kind == "aiohttp":
            session = await stack.enter_async_context(aiohttp.ClientSession())

            async def open_one(url: str) -> Socket:
                # The others offer compression by themselves; aiohttp wants to be asked.
                tls = server.tls or True
                return AiohttpSocket(await session.ws_connect(url, protocols=["tusk.v1"], compress=15, ssl=tls))
        elif kind == "node":
            open_one = (await stack.enter_async_context(_node(trusted))).open
        else:
            assert browser is not None, "a test with Chromium needs the fixture `browser`"
            open_one = (await stack.enter_async_context(_page(browser, f"{server.origin}/health"))).open

        async def open_and_remember(url: str) -> Socket:
            socket = await open_one(url)
            opened.append(socket)
            return socket

        yield open_and_remember
        for socket in opened:
            await socket.close()


@contextlib.asynccontextmanager
async def _node(trusted: Path | None) -> AsyncIterator[_RemoteHost]:
    node = shutil.which("node")
    assert node is not None, "node is needed for this test"
    assert (NODE_CLIENT.parent / "node_modules" / "ws").is_dir(), "run: npm ci --prefix tests/node"
    process = await asyncio.create_subprocess_exec(
        node,
        str(NODE_CLIENT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        env={**os.environ, **({"NODE_EXTRA_CA_CERTS": str(trusted)} if trusted else {})},
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    async def tell(command: dict[str, Any]) -> None:
        stdin.write(json.dumps(command).encode() + b"\n")
        await stdin.drain()

    async def listen(host: _RemoteHost) -> None:
        async for line in stdout:
            host.on_event(json.loads(line))

    host = _RemoteHost(tell)
    listening = asyncio.create_task(listen(host))
    try:
        yield host
    finally:
        stdin.close()
        await process.wait()
        await listening


# -- Chromium --------------------------------------------------------------------------------------------------------


class Browser:
    """A headless Chromium with a new empty profile; pages in it are driven over its DevTools protocol."""

    def __init__(self, process: subprocess.Popen[bytes], profile: Path) -> None:
        self.process = process
        self._port_file = profile / "DevToolsActivePort"

    @property
    def devtools_url(self) -> str:
        port, path = self._port_file.read_text().split("\n")[:2]
        return f"ws://127.0.0.1:{port}{path}"

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, f"Chromium ended with {self.process.returncode}"
            return self._port_file.exists() and self._port_file.read_text().count("\n") >= 1

        wait_until(is_up, "Chromium is up", 30.0)


@contextlib.contextmanager
def started_browser(trusted: Path | None = None) -> Iterator[Browser]:
    """`trusted`: a certificate, whose key is believed whoever shows it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium is not None, "chromium is needed for this test"
    with tempfile.TemporaryDirectory(prefix="tuskws-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                *([f"--ignore-certificate-errors-spki-list={key_hash(trusted)}"] if trusted else []),
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        browser = Browser(process, Path(profile))
        try:
            browser.wait_until_up()
            yield browser
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


class Page:
    """One page, attached to over the browser's DevTools connection."""

    def __init__(self, connection: ClientConnection, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._connection = connection
        self._on_event = on_event
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._loaded = asyncio.Event()
        self.session = ""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self.session} if self.session else {}
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params, **session}))
        return await answer

    async def listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._connection:
                message = json.loads(frame)
                if "id" in message:
                    self._answer(message)
                elif message["method"] == "Runtime.bindingCalled":
                    self._on_event(json.loads(message["params"]["payload"]))
                elif message["method"] == "Page.loadEventFired":
                    self._loaded.set()

    def _answer(self, message: dict[str, Any]) -> None:
        answer = self._answers.pop(message["id"])
        if "error" in message:
            answer.set_exception(RuntimeError(str(message["error"])))
        else:
            answer.set_result(message["result"])

    async def open(self, url: str) -> str:
        """Attach to a new page showing `url`; returns its target id."""
        # A window of its own: a page in a background tab draws nothing.
        target = (await self.call("Target.createTarget", url="about:blank", newWindow=True))["targetId"]
        self.session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        await self.call("Page.enable")
        await self.call("Runtime.enable")  # without it no `bindingCalled` comes
        await self.call("Runtime.addBinding", name="tell")
        await self.call("Page.navigate", url=url)
        await self._loaded.wait()
        return str(target)

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@contextlib.asynccontextmanager
async def open_page(
    browser: Browser, url: str, on_event: Callable[[dict[str, Any]], None] = lambda event: None
) -> AsyncIterator[Page]:
    """A page of its own in `browser`; what its scripts `tell(JSON)` comes to `on_event`."""
    async with connect(browser.devtools_url, max_size=None, ping_interval=None) as connection:
        page = Page(connection, on_event)
        listening = asyncio.create_task(page.listen())
        target = await page.open(url)
        try:
            yield page
        finally:
            page.session = ""
            await page.call("Target.closeTarget", targetId=target)
            await connection.close()
            await listening


_PAGE_SCRIPT = """
globalThis.sockets = new Map();
globalThis.operations = {
  open({n, url}) {
    const socket = new WebSocket(url, ["tusk.v1"]);
    const say = (event) => tell(JSON.stringify({n, ...event}));
    sockets.set(n, socket);
    socket.onopen = () => say({event: "open", protocol: socket.protocol});
    socket.onmessage = ({data}) => say({event: "message", text: data});
    socket.onclose = ({code}) => say({event: "close", code});
  },
  send({n, text}) { sockets.get(n).send(text); },
  close({n, code}) { sockets.get(n).close(code); },
};
undefined;
"""


@contextlib.asynccontextmanager
async def _page(browser: Browser, url: str) -> AsyncIterator[_RemoteHost]:
    async def tell(command: dict[str, Any]) -> None:
        await page.evaluate(f"operations[{json.dumps(command['op'])}]({json.dumps(command)}); undefined")

    host = _RemoteHost(tell)
    async with open_page(browser, url, host.on_event) as page:
        await page.evaluate(_PAGE_SCRIPT)
        yield host
