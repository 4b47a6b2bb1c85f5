"""A small broadcast server that loses, repeats, swaps, refuses or hangs up on request: what a load harness must notice.

    with UnrulyServer(lambda count, push: [push, push] if count == 5 else [push]) as server:   # the fifth comes twice
        … server.url …

It speaks the few commands the harness uses. `deliver(count, push)` decides what the *last* member of the room gets for
the count-th publication; all others get it once. `refuse(count)` names an error code, or None. Runs in a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType

from websockets.asyncio.server import Server, ServerConnection, serve

from tuskws_fast.protocol import codec

Deliver = Callable[[int, str], list[str]]
Refuse = Callable[[int], str | None]


def once(count: int, push: str) -> list[str]:
    return [push]


def never(count: int) -> str | None:
    return None


class UnrulyServer:
    def __init__(self, deliver: Deliver = once, refuse: Refuse = never, *, hang_up_at: int = 0) -> None:
        self._deliver = deliver
        self._refuse = refuse
        self._hang_up_at = hang_up_at
        self._members: dict[str, list[ServerConnection]] = {}
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    def __enter__(self) -> UnrulyServer:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> Server:
        return await serve(self._serve, "127.0.0.1", 0, subprotocols=["tusk.v1"], compression=None)  # type: ignore[list-item]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        await _send(connection, {"type": "welcome", "protocol": 1})
        async for text in connection:
            command = codec.decode(text)
            if command["type"] == "ping":
                await _send(connection, {"type": "pong", "timestamp": 1.0})
            elif command["type"] == "join_room":
                self._members.setdefault(command["room"], []).append(connection)
                await _send(connection, {"type": "room_joined", "room": command["room"]})
            elif command["type"] == "broadcast":
                await self._broadcast(connection, command["room"], command["message"])

    async def _broadcast(self, publisher: ServerConnection, room: str, message: str) -> None:
        self._count += 1
        code = self._refuse(self._count)
        if code is not None:
            await _send(publisher, {"type": "error", "code": code, "message": "no"})
            return
        push = codec.encode({"type": "room_message", "room": room, "message": message, "offset": self._count}).decode()
        *others, last = self._members[room]
        for member in others:
            await member.send(push)
        if self._count == self._hang_up_at:
            self._members[room].remove(last)
            await last.close(4008, "too slow")
            return
        for text in self._deliver(self._count, push):
            await last.send(text)


async def _send(connection: ServerConnection, message: dict[str, object]) -> None:
    await connection.send(codec.encode(message).decode())
