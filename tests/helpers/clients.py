"""A client that speaks the protocol's words, over any kind of socket. What it does not expect stays for later.

ann = await people.connect("ann")                       # welcomed and authenticated
reply = await ann.request("join_room", room="a")        # the reply to this id, errors too
push = await ann.expect("room_message", room="a", message="hi")
await ann.expect_close(4500)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from helpers.server import RunningServer
from helpers.sockets import Browser, Closed, OpenSocket, Socket, sockets

from tuskws_fast.ipc.records import worker_of

TIMEOUT_S = 10.0
TEST_TIMEOUT_S = 60.0

Message = dict[str, Any]


class SpeakingClient:
    """`name` is for failures only. Every message is kept in `seen`, in order; `expect` takes the first that fits."""

    def __init__(self, socket: Socket, name: str = "client") -> None:
        self.socket = socket
        self.name = name
        self.user: Message = {}
        self.worker = -1
        self.seen: list[Message] = []
        self._waiting: list[Message] = []
        self._numbers = itertools.count(1)

    async def send(self, message: object) -> None:
        """Any JSON value."""
        await self.socket.send_text(json.dumps(message))

    async def receive(self) -> Message:
        """The next message that nothing has taken yet, in the order of arrival."""
        return self._waiting.pop(0) if self._waiting else await self._read()

    async def _read(self) -> Message:
        async with asyncio.timeout(TIMEOUT_S):
            message: Message = json.loads(await self.socket.receive_text())
        self.seen.append(message)
        return message

    async def expect(self, kind: str, **fields: Any) -> Message:
        """The first message, waiting or still to come, of this type with these values (compared with ==)."""
        for i, message in enumerate(self._waiting):
            if _fits(message, kind, fields):
                return self._waiting.pop(i)
        with self._explained(f"{kind} {fields}"):
            while not _fits(message := await self._read(), kind, fields):
                self._waiting.append(message)
        return message

    async def request(self, kind: str, **fields: Any) -> Message:
        """Send a command with an id; its reply, whatever it is."""
        command_id = fields.pop("id", None) or next(self._numbers)
        await self.send({"type": kind, "id": command_id, **fields})
        return await self.expect_reply(command_id)

    async def expect_reply(self, command_id: str | int) -> Message:
        for i, message in enumerate(self._waiting):
            if message.get("id") == command_id:
                return self._waiting.pop(i)
        with self._explained(f"a reply to {command_id!r}"):
            while (message := await self._read()).get("id") != command_id:
                self._waiting.append(message)
        return message

    async def expect_error(self, code: str) -> Message:
        return await self.expect("error", code=code)

    async def expect_close(self, code: int) -> None:
        closed_with = await self.closed_with()
        assert closed_with == code, f"{self.name} was closed with {closed_with}, not {code}; seen: {self.seen[-5:]}"

    async def closed_with(self) -> int:
        """The close code, once the connection is gone; messages until then can still be expected."""
        while True:
            try:
                self._waiting.append(await self._read())
            except Closed as closed:
                return closed.code

    async def nothing_of(self, kind: str, **fields: Any) -> None:
        """None has come, and none is on its way: what was decided before is here before the broker's next answer."""
        await self.barrier()
        unwanted = [message for message in self._waiting if _fits(message, kind, fields)]
        assert not unwanted, f"{self.name} got {unwanted}"

    def forget(self) -> None:
        """What has come and was not expected is of no interest."""
        self._waiting.clear()

    async def barrier(self) -> None:
        """Everything the broker decided before this is here after it (it answers in order, through the same ring)."""
        await self.request("room_info", room="no-room-of-any-test")

    async def close(self, code: int = 1000) -> None:
        await self.socket.close(code)

    @contextlib.contextmanager
    def _explained(self, wanted: str) -> Any:
        try:
            yield
        except TimeoutError:
            raise AssertionError(f"{self.name} waited for {wanted}; unexpected so far: {self._waiting[-8:]}") from None
        except Closed as closed:
            raise AssertionError(f"{self.name} waited for {wanted}, but was closed with {closed.code}") from None


def _fits(message: Message, kind: str, fields: dict[str, Any]) -> bool:
    return message.get("type") == kind and all(message.get(name, ...) == value for name, value in fields.items())


class People:
    """Clients of one server. `connect("ann")` authenticates where the server has a key; None stays a stranger."""

    def __init__(self, server: RunningServer, opener: OpenSocket, kind: str) -> None:
        self.server = server
        self.kind = kind
        self._open = opener
        self.clients: list[SpeakingClient] = []

    async def connect(self, user: str | None = None, **claims: Any) -> SpeakingClient:
        client = SpeakingClient(await self._open(self.server.url), f"{user or 'a stranger'} ({self.kind})")
        self.clients.append(client)
        welcome = await client.expect("welcome")
        client.worker = worker_of(int(welcome["connection_id"], 16))
        client.user = welcome.get("user") or {}
        if user is not None:
            reply = await client.request("auth", token=self.server.token(user, **claims))
            assert reply["type"] == "auth_success", reply
            client.user = reply["user"]
        return client

    async def connect_on_workers(self, user: str, workers: int, **claims: Any) -> list[SpeakingClient]:
        """Connections of one user on that many different workers: the kernel deals them out, so until it has
        (the fullest worker gets one in thirty, and who is the fullest is a second old)."""
        found: dict[int, SpeakingClient] = {}
        for _ in range(200 * workers):
            client = await self.connect(user, **claims)
            if client.worker in found:
                await client.close()
            found.setdefault(client.worker, client)
            if len(found) == workers:
                return list(found.values())
        raise AssertionError(f"only workers {sorted(found)} ever got a connection")


@contextlib.asynccontextmanager
async def people(
    server: RunningServer, kind: str = "websockets", browser: Browser | None = None, trusted: Path | None = None
) -> AsyncIterator[People]:
    async with sockets(kind, server, browser, trusted) as opener:
        yield People(server, opener, kind)


def on_loop(
    test: Callable[..., Awaitable[None]], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> Callable[..., None]:
    """Run an async test on a loop of its own, with an end."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(TEST_TIMEOUT_S):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(limited())

    return run
