"""Everybody who is there while things break: speakers, clients of the library, passers-by, and one who asks the server.

A `Reader` is the client of the library, judged by what it hands to its application. An `Observer` asks the server what
it keeps and who is there, and is a member of nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from audit.chronicle import Chronicle
from audit.node import Node
from audit.speaker import Message, Speaker
from audit.wire import Wire
from tuskws_fast.client import Client
from tuskws_fast.client.state import Backoff

PACE_S = 0.005
# So many private messages for each in a room.
PRIVATE = 0.1
PRIVATE_SYNCED = 0.3
WARDEN = "warden"
BAN_S = 1.0
PASS_S = 0.4
STAY_MAX_S = 2.0


class Reader:
    """A client of the library in one room. For the judge it is one connection that is never lost."""

    def __init__(self, crowd: Crowd, user: str, room: str) -> None:
        self._crowd = crowd
        self._room = room
        self._user = user
        self._conn = next(crowd.conns)
        node = crowd.node
        self._client = Client(f"ws://127.0.0.1:{node.port}/ws", node.token(user), backoff=Backoff(0.02, 0.2))
        self._client.on("room_message", self._on_message)
        self._client.on("gap", self._on_gap)
        self._client.on("room_lost", self._on_lost)

    async def open(self) -> None:
        chronicle = self._crowd.chronicle
        await self._client.connect()
        chronicle.write("open", self._conn, self._user, -1)
        await self._client.join(self._room)
        state = self._client.state.rooms[self._room]
        chronicle.write("join", self._conn, self._room, None, state.epoch, state.offset, None)

    def _on_message(self, push: Message) -> None:
        chronicle = self._crowd.chronicle
        epoch, offset, key = push["epoch"], push["offset"], push.get("ref", "?")
        chronicle.hear(chronicle.now(), self._conn, self._room, epoch, offset, key)

    def _on_gap(self, push: Message) -> None:
        self._crowd.chronicle.write("gap", self._conn, self._room, push["epoch"], push["from"], push["to"])

    def _on_lost(self, push: Message) -> None:
        self._crowd.chronicle.write("odd", self._conn, f"the library lost its room: {push}")

    async def close(self) -> None:
        await self._client.close()


class Passer:
    """Joins a room and is cut off for good, after a while: in the end it must be in nobody's list."""

    def __init__(self, crowd: Crowd, user: str, room: str, stay_s: float) -> None:
        self._crowd = crowd
        self._user = user
        self._room = room
        self._stay_s = stay_s

    async def pass_by(self) -> None:
        node, loop = self._crowd.node, asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: Wire(self, node.token(self._user)), "127.0.0.1", node.port)
        loop.call_later(self._stay_s, wire.abort)

    def on_open(self, wire: Wire) -> None:
        self._wire = wire
        self._crowd.passing.add(self._user)
        self._crowd.chronicle.write("pass", self._user, self._room)

    def on_message(self, message: Message) -> None:
        if message["type"] == "welcome":
            self._wire.send({"type": "join_room", "id": 1, "room": self._room})

    def on_lost(self, code: int) -> None:
        self._crowd.passing.discard(self._user)
        self._crowd.chronicle.write("gone", self._user)

    def on_odd(self, text: str) -> None:
        self._crowd.chronicle.write("odd", 0, text)


class Question:
    """One command over a connection of its own, and all pages of its answer."""

    def __init__(self, crowd: Crowd, command: Message) -> None:
        self._crowd = crowd
        self._command = {**command, "id": 1}
        self._pages: list[Message] = []
        self._answer: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
        self._wire: Wire | None = None
        self.letters: list[Message] = []

    async def ask(self, user: str = "observer") -> list[Message]:
        node = self._crowd.node
        token = node.token(user, roles=[] if user != WARDEN else ["admin"], permissions=["history", "presence"])
        await asyncio.get_running_loop().create_connection(lambda: Wire(self, token), "127.0.0.1", node.port)
        async with asyncio.timeout(60):
            return await self._answer

    def on_open(self, wire: Wire) -> None:
        self._wire = wire

    def on_message(self, message: Message) -> None:
        assert self._wire is not None
        if message["type"] == "welcome":
            self._wire.send(self._command)
        elif message["type"] == "private_message":
            self.letters.append(message)
        elif message.get("id") == 1:
            self._pages.append(message)
            if not message.get("more"):
                self._answer.set_result(self._pages)
                self._wire.close()

    def on_lost(self, code: int) -> None:
        if not self._answer.done():
            self._answer.set_exception(RuntimeError(f"{self._command}: closed with {code}"))

    def on_odd(self, text: str) -> None:
        self._crowd.chronicle.write("odd", 0, text)


class Observer:
    """Asks the server, and is a member of nothing."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    async def ask(self, command: Message) -> list[Message]:
        pages = await Question(self._crowd, command).ask()
        if pages[-1]["type"] == "error":
            raise RuntimeError(f"{command}: {pages[-1]}")
        return pages

    async def tell(self, room: str) -> None:
        """The room's history and members, into the chronicle."""
        pages = await self.ask({"type": "history", "room": room})
        kept = [[each["epoch"], each["offset"], each.get("ref", "?")] for page in pages for each in page["messages"]]
        # A page says where *it* ends; nothing is published now, so the last one says where the room is.
        self._crowd.chronicle.write("kept", room, pages[-1]["epoch"], pages[-1]["offset"], kept)
        (state,) = await self.ask({"type": "get_presence", "room": room})
        self._crowd.chronicle.write("members", room, [[each["userId"], each["status"]] for each in state["users"]])


class Crowd:
    """`rooms` rooms of `members` speakers, of whom the first `publishers` publish; and a `Reader` in the first few."""

    def __init__(
        self,
        node: Node,
        chronicle: Chronicle,
        rng: random.Random,
        rooms: int,
        members: int,
        publishers: int,
        readers: int = 1,
        resuming: float = 0.3,
        synced: float = 0.0,
    ) -> None:
        self.node = node
        self.chronicle = chronicle
        self.conns = count(1)
        self.acks = 0
        self.resumed = 0
        self.not_resumed: dict[str, int] = {}
        self.rooms = [f"room-{n}" for n in range(rooms)]
        self._rng = rng
        self._synced = synced
        self._tasks: set[asyncio.Task[None]] = set()
        self.speakers = [
            Speaker(self, f"u{r}.{m}", [room], rng, rng.random() < resuming)
            for r, room in enumerate(self.rooms)
            for m in range(members)
        ]
        self._publishers = [
            (room, self.speakers[r * members : r * members + publishers]) for r, room in enumerate(self.rooms)
        ]
        self.readers = [Reader(self, f"reader-{n}", self.rooms[n]) for n in range(min(readers, rooms))]
        self._publishing: asyncio.Task[None] | None = None
        self._bystanders: list[asyncio.Task[None]] = []
        self._banned: list[tuple[str, str]] = []
        # Who has come by and is not gone yet.
        self.passing: set[str] = set()

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.chronicle.write("odd", 0, f"the auditor failed: {task.exception()!r}")

    async def open(self) -> None:
        for speaker in self.speakers:
            speaker.connect()
        for reader in self.readers:
            await reader.open()
        await self.until(lambda: all(each.settled for each in self.speakers), "everybody has joined", 60)

    async def until(self, fact: Callable[[], bool], what: str, timeout_s: float) -> bool:
        """Whether it came to hold."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not fact():
            if loop.time() > deadline:
                self.chronicle.write("odd", 0, f"not within {timeout_s:g} s: {what}")
                return False
            await asyncio.sleep(0.02)
        return True

    def publish(self, rate: float) -> None:
        """From now on, `rate` messages a second in each room."""
        loop = asyncio.get_running_loop()
        self._publishing = loop.create_task(self._publish(rate))
        self._bystanders = [loop.create_task(self._ban()), loop.create_task(self._pass_by())]

    async def _ban(self) -> None:
        """Facts that are no publications: one ban after another, of people who never came."""
        for n in count(1):
            room, user = self._rng.choice(self.rooms), f"villain-{n}"
            try:
                (answer,) = await Question(self, {"type": "ban", "room": room, "user": user}).ask(WARDEN)
            except (OSError, RuntimeError):
                # There is no node just now, or it ended. Whether this one is banned nobody was told.
                await asyncio.sleep(BAN_S)
                continue
            if answer["type"] == "ack":
                self._banned.append((room, user))
                self.chronicle.write("ban", room, user)
            await asyncio.sleep(BAN_S)

    async def _pass_by(self) -> None:
        """People who come once, one after another."""
        chance = random.Random("passers")
        for n in count(1):
            with suppress(OSError):
                await Passer(self, f"passer-{n}", chance.choice(self.rooms), chance.uniform(0.1, STAY_MAX_S)).pass_by()
            await asyncio.sleep(PASS_S)

    async def _publish(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        began, said = loop.time(), 0
        while True:
            due = int((loop.time() - began) * rate)
            # A stall of ours is not made up for in one go.
            for _ in range(min(due - said, int(rate) + 1)):
                for room, speakers in self._publishers:
                    self._rng.choice(speakers).publish(room, self._level(self._synced))
                    if self._rng.random() < PRIVATE:
                        # Not that of what it accompanies, whose sync would do for both.
                        level = self._level(PRIVATE_SYNCED if self._synced else 0.0)
                        self._rng.choice(speakers).write(self._rng.choice(self.speakers).user, level)
            said = due
            await asyncio.sleep(PACE_S)

    def _level(self, synced: float) -> str | None:
        return "synced" if synced and self._rng.random() < synced else None

    async def hush(self) -> None:
        """No more publications; wait until everybody is there, everything is answered, and who came by is gone."""
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        while self._bystanders:
            self._bystanders.pop().cancel()
        await self.until(lambda: all(each.settled for each in self.speakers), "everybody is back", 40)
        await self.until(lambda: not any(each.unanswered for each in self.speakers), "everything is answered", 20)
        tops: dict[str, int] = {}

        def level() -> bool:
            for speaker in self.speakers:
                for room, seat in speaker.seats.items():
                    tops[room] = max(tops.get(room, 0), seat.offset)
            return all(seat.offset == tops[room] for each in self.speakers for room, seat in each.seats.items())

        await self.until(level, "everybody has heard everything", 20)
        await self.until(lambda: not self.passing, "who came by is gone", STAY_MAX_S + 5)

    async def tell(self, rest_s: float) -> None:
        """After `hush`, and when the server has had `rest_s` to notice who is gone: what it keeps and who it says is
        there, and what members believe."""
        await asyncio.sleep(rest_s)
        observer = Observer(self)
        for room in self.rooms:
            await observer.tell(room)
        for speaker in self.speakers:
            speaker.tell_view()
        for room, user in self._banned:
            (answer,) = await Question(self, {"type": "join_room", "room": room}).ask(user)
            self.chronicle.write("door", room, user, answer.get("code", ""))
        for speaker in self.speakers:
            # What waits comes before the answer to anything.
            question = Question(self, {"type": "list_rooms"})
            await question.ask(speaker.user)
            found = [[each["epoch"], each["offset"], each.get("ref", "?")] for each in question.letters]
            self.chronicle.write("inbox", speaker.user, found)

    async def close(self) -> None:
        for speaker in self.speakers:
            speaker.stop()
        for reader in self.readers:
            await reader.close()
        await asyncio.sleep(0.1)
