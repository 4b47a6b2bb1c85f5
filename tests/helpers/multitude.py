"""Thousands of clients in one process: a socket, a position, and what they missed. Guests, each in one of some rooms.

    async with multitude(port, 10_000, ["a", "b"]) as clients:      # all are members
        ...                                                         # the server's workers are killed
        await clients.come_back({"a": since, …}, spread_s=1.0)      # all at once, each since its room's position
        clients.missed(), clients.took_s

A client of `helpers.clients` costs a task and a library. These are a `Protocol` each on libuv's loop, and decode what
all of them are sent alike once: ten thousand are no more work than the server they ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import random
import resource
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import uvloop
from helpers.clients import on_loop

CLIENTS = int(os.environ.get("MULTITUDE", "400"))
_HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECTING_MAX = 500
PATIENCE_S = 60.0

Position = dict[str, Any]

on_fast_loop = functools.partial(on_loop, loop_factory=uvloop.new_event_loop)


@functools.lru_cache(maxsize=64)
def offsets_of(messages: bytes) -> tuple[int, ...]:
    """Of the entries of an encoded `messages`; all who missed the same are sent the same bytes."""
    return tuple(each["offset"] for each in json.loads(messages))


def masked_text(payload: bytes) -> bytes:
    """A client's frame, masked with zeros."""
    head = b"\x81" + (bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2))
    return head + bytes(4) + payload


class Member(asyncio.Protocol):
    """`joined`: set when `room_joined` and the pages behind it are here."""

    def __init__(self, room: str, since: Position | None) -> None:
        self.room = room
        self.since = since
        self.joined: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self.epoch = ""
        self.offset = 0
        self.recovered: bool | None = None
        self._offsets: tuple[int, ...] = ()
        self._data = b""
        self._upgraded = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # libuv's is one by its methods only.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_HEAD)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.joined.done():
            self.joined.set_exception(ConnectionResetError("cut before it was in the room"))
            self.joined.exception()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._upgraded:
            head, ended, rest = self._data.partition(b"\r\n\r\n")
            if not ended:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._transport.abort()
                return
            self._upgraded, self._data = True, rest
            join = {"type": "join_room", "id": 1, "room": self.room}
            if self.since is not None:
                join["since"] = self.since
            self._transport.write(masked_text(json.dumps(join).encode()))
        while (frame := self._frame()) is not None:
            self._take(*frame)

    def _frame(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        length, at = data[1], 2
        if length == 126:
            length, at = int.from_bytes(data[2:4]), 4
        elif length == 127:
            length, at = int.from_bytes(data[2:10]), 10
        if len(data) < at + length:
            return None
        self._data = data[at + length :]
        return data[0] & 15, data[at : at + length]

    def _take(self, op: int, payload: bytes) -> None:
        if op != 1 or self.joined.done() or b'"id":1' not in payload[-16:]:
            return
        head, _, rest = payload.partition(b'"messages":[')
        messages, ended, tail = rest.rpartition(b"]")
        message = json.loads(b'%b"messages":[]%b' % (head, tail) if ended else payload)
        if message["type"] == "error":
            self._transport.abort()
            return
        self._offsets += offsets_of(b"[%b]" % messages)
        if message["type"] == "room_joined":
            self.epoch, self.offset, self.recovered = message["epoch"], message["offset"], message["recovered"]
        if not message.get("more"):
            self.joined.set_result(self._offsets)

    def abort(self) -> None:
        self._transport.abort()


class Multitude:
    def __init__(self, port: int, count: int, rooms: Sequence[str]) -> None:
        self.members: list[Member] = []
        # When each was in the room, from the moment `come_back` was called; and how often one had to try again.
        self.took_s: list[float] = []
        self.tried_again = 0
        self._port = port
        self._count = count
        self._rooms = rooms

    async def come_back(self, since: Mapping[str, Position], spread_s: float = 0.0) -> None:
        """Connect and join, each at a moment of its own within `spread_s`, and again until it is in."""
        for member in self.members:
            member.abort()
        self.members = []
        self.took_s = []
        self.tried_again = 0
        began = time.monotonic()
        turn = asyncio.Semaphore(CONNECTING_MAX)
        async with asyncio.timeout(PATIENCE_S):
            rooms = itertools.islice(itertools.cycle(self._rooms), self._count)
            await asyncio.gather(*(self._one(room, since.get(room), spread_s, began, turn) for room in rooms))

    async def _one(
        self, room: str, since: Position | None, spread_s: float, began: float, turn: asyncio.Semaphore
    ) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(random.uniform(0.0, spread_s))
        while True:
            async with turn:
                try:
                    _, member = await loop.create_connection(lambda: Member(room, since), "127.0.0.1", self._port)
                    await member.joined
                except OSError:
                    self.tried_again += 1
                    await asyncio.sleep(random.uniform(0.0, 0.5))
                    continue
            self.members.append(member)
            self.took_s.append(time.monotonic() - began)
            return

    def missed(self) -> set[tuple[int, ...]]:
        return {member.joined.result() for member in self.members}


@contextlib.asynccontextmanager
async def multitude(port: int, count: int, rooms: Sequence[str] = ("room",)) -> AsyncIterator[Multitude]:
    clients = Multitude(port, count, rooms)
    try:
        await clients.come_back({}, spread_s=0.5)
        yield clients
    finally:
        for member in clients.members:
            member.abort()


def ask_for_files() -> None:
    """As many open files as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def in_percent(took_s: list[float], share: float) -> float:
    return sorted(took_s)[min(int(len(took_s) * share), len(took_s) - 1)]
