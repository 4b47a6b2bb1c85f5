"""Those who publish and listen while things break, and write down what they said and saw.

A `Speaker` is one user on one connection at a time. It comes back after every loss, at once or nearly, with `since` or
(those who `resume`) with its ticket; says again, with the same id, what was not answered; and never gives up. A
`Reader` is the client of the library, judged by what it hands to its application. An `Observer` asks the server what
it keeps and who is there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from audit.chronicle import Chronicle
from audit.node import Node
from audit.wire import Wire
from tuskws_fast.client import Client
from tuskws_fast.client.state import Backoff
from tuskws_fast.ipc.records import worker_of

Message = dict[str, Any]
PAD = "x" * 64
PACE_S = 0.005
OPEN_S = 12.0
# Publications of one speaker that may be without an answer: while there is no broker it waits, as people do.
UNANSWERED_MAX = 500
STATUSES = ("online", "online", "away", "busy")


@dataclass(slots=True)
class Seat:
    """A speaker's place in a room. `joining`: the id of the join whose answer is not complete."""

    epoch: str = ""
    offset: int = 0
    joined: bool = False
    unanswered: dict[str, str | None] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)


class Speaker:
    def __init__(self, crowd: Crowd, user: str, rooms: list[str], rng: random.Random, resumes: bool) -> None:
        self.user = user
        self.seats = {room: Seat() for room in rooms}
        self.conn = 0
        self.status = rng.choice(STATUSES)
        # Whether the session, which a resumption brings back, has it.
        self._status_granted = False
        self._crowd = crowd
        self._chronicle = crowd.chronicle
        self._rng = rng
        self._resumes = resumes
        self._token = crowd.node.token(user)
        self._ticket: str | None = None
        self._wire: Wire | None = None
        self._numbers = count(1)
        self._joins: dict[int, str] = {}
        self._resume = 0
        self._status_id = 0
        self._numbered = count(1)
        self._welcomed = False
        self._stopped = False

    # -- the connection ------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """In all its rooms, with the status that it wants."""
        return all(seat.joined for seat in self.seats.values()) and (self._status_granted or self.status == "online")

    @property
    def unanswered(self) -> int:
        return sum(len(seat.unanswered) for seat in self.seats.values())

    def connect(self) -> None:
        if not self._stopped:
            self._crowd.spawn(self._connect())

    async def _connect(self) -> None:
        token = None if self._resumes and self._ticket else self._token
        loop = asyncio.get_running_loop()
        try:
            _, wire = await loop.create_connection(lambda: Wire(self, token), "127.0.0.1", self._crowd.node.port)
        except OSError:
            self._come_back(0.05, 0.2)
            return
        loop.call_later(OPEN_S, self._check_open, wire)

    def _check_open(self, wire: Wire) -> None:
        if self._wire is wire and not self._welcomed:
            wire.abort()

    def _come_back(self, least_s: float = 0.0, most_s: float = 0.1) -> None:
        asyncio.get_running_loop().call_later(self._rng.uniform(least_s, most_s), self.connect)

    def on_open(self, wire: Wire) -> None:
        self._wire = wire

    def on_lost(self, code: int) -> None:
        self._wire = None
        self._joins.clear()
        for seat in self.seats.values():
            seat.joined = False
        if self._welcomed:
            self._welcomed = False
            self._chronicle.write("close", self.conn, code)
        self._come_back()

    def on_odd(self, text: str) -> None:
        self._chronicle.write("odd", self.conn, text)

    def break_off(self) -> None:
        """The cable is pulled."""
        if self._wire is not None:
            self._wire.abort()

    def go(self) -> None:
        """A clean end; it comes back all the same."""
        if self._wire is not None:
            self._wire.close(1000)

    def stop(self) -> None:
        self._stopped = True
        self.go()

    # -- what comes ----------------------------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        kind = message["type"]
        if kind == "room_message":
            self._on_room_message(message)
        elif kind == "ack":
            self._on_ack(message)
        else:
            taker = _TAKERS.get(kind)
            if taker is None:
                self.on_odd(f"unexpected {message}")
            else:
                taker(self, message)

    def _on_room_message(self, message: Message) -> None:
        room, epoch, offset = message["room"], message["epoch"], message["offset"]
        self._chronicle.hear(self._chronicle.now(), self.conn, room, epoch, offset, self._checked(message))
        seat = self.seats[room]
        seat.epoch, seat.offset = epoch, offset

    def _checked(self, message: Message) -> str:
        """The key of a message whose every byte is as it was said."""
        said = message["message"]
        key: str = message.get("ref", "?")
        if said != {"n": key, "pad": PAD} or message["from"] != key.rpartition("-")[0]:
            self.on_odd(f"a message that nobody said: {message}")
        return key

    def _on_welcome(self, message: Message) -> None:
        self.conn = next(self._crowd.conns)
        self._welcomed = True
        worker = worker_of(int(message["connection_id"], 16))
        self._chronicle.write("open", self.conn, self.user, worker)
        if message["authenticated"]:
            self._ticket = message["session"]
            self._join_all()
        else:
            self._ask_to_resume()

    def _ask_to_resume(self) -> None:
        self._resume = next(self._numbers)
        rooms = {name: {"epoch": s.epoch, "offset": s.offset} for name, s in self.seats.items() if s.epoch}
        self._send({"type": "resume", "id": self._resume, "session": self._ticket, "rooms": rooms})

    def _on_resumed(self, message: Message) -> None:
        self._ticket = message["session"]
        if self._status_granted:
            self._chronicle.write("status", self.conn, self.status)
        elif self.status != "online":
            self._set_status()
        for body in message["rooms"].values():
            if body["type"] == "room_joined":
                self._on_room_joined({**body, "id": None})
                self._crowd.resumed += 1
        for room in self.seats:
            if message["rooms"].get(room, {"type": "error"})["type"] == "error":
                self._join(room)

    def _on_auth_success(self, message: Message) -> None:
        self._ticket = message["session"]
        self._join_all()

    def _join_all(self) -> None:
        for room in self.seats:
            self._join(room)
        self._status_granted = False
        if self.status != "online":
            self._set_status()

    def _join(self, room: str) -> None:
        seat = self.seats[room]
        number = next(self._numbers)
        self._joins[number] = room
        command: Message = {"type": "join_room", "id": number, "room": room}
        if seat.epoch:
            command["since"] = {"epoch": seat.epoch, "offset": seat.offset}
        self._send(command)

    def _on_room_joined(self, message: Message) -> None:
        room, epoch, offset, recovered = (message[name] for name in ("room", "epoch", "offset", "recovered"))
        seat = self.seats[room]
        since = [seat.epoch, seat.offset] if seat.epoch else None
        self._chronicle.write("join", self.conn, room, since, epoch, offset, recovered)
        if not recovered:
            seat.epoch, seat.offset = epoch, offset
        seat.members = {each["userId"] for each in message.get("members", ())}
        self._replayed(seat, message)

    def _on_history(self, message: Message) -> None:
        self._replayed(self.seats[message["room"]], message)

    def _replayed(self, seat: Seat, message: Message) -> None:
        room = message["room"]
        for each in message["messages"]:
            key = self._checked(each)
            self._chronicle.write("old", self.conn, room, each["epoch"], each["offset"], key)
            seat.epoch, seat.offset = each["epoch"], each["offset"]
        if not message.get("more"):
            self._joins.pop(message["id"] or 0, None)
            seat.joined = True
            for key, level in seat.unanswered.items():
                self._say(room, key, level)

    def _on_room_left(self, message: Message) -> None:
        self._chronicle.write("leave", self.conn, message["room"])
        self._join(message["room"])

    def _on_gap(self, message: Message) -> None:
        room, epoch, first, last = (message[name] for name in ("room", "epoch", "from", "to"))
        self._chronicle.write("gap", self.conn, room, epoch, first, last)
        seat = self.seats[room]
        seat.offset = max(last, seat.offset) if epoch == seat.epoch else last
        seat.epoch = epoch

    def _on_member_joined(self, message: Message) -> None:
        self.seats[message["room"]].members.add(message["user"]["id"])

    def _on_member_left(self, message: Message) -> None:
        self.seats[message["room"]].members.discard(message["user"]["id"])

    def _on_nothing(self, message: Message) -> None:
        """Pushes that say nothing which the judge looks at."""

    def _on_ack(self, message: Message) -> None:
        key = message["id"]
        if key == self._status_id:
            self._status_granted = True
            self._chronicle.write("status", self.conn, self.status)
            return
        room = message["room"]
        if self.seats[room].unanswered.pop(key, "none") == "none":
            self.on_odd(f"an answer to nothing: {message}")
            return
        self._crowd.acks += 1
        self._chronicle.write("ack", self.conn, room, key, message["epoch"], message["offset"], message["level"])

    def _on_error(self, message: Message) -> None:
        number, code = message.get("id"), message["code"]
        wait_s = message.get("retry_after", 0.25) * self._rng.uniform(1.0, 1.5)
        if number == self._resume and number:
            if code == "unavailable":
                self._later(wait_s, self._ask_to_resume)
            else:
                self._crowd.not_resumed[code] = self._crowd.not_resumed.get(code, 0) + 1
                self._ticket = None
                self._send({"type": "auth", "id": next(self._numbers), "token": self._token})
        elif number in self._joins:
            room = self._joins.pop(number)
            if code != "unavailable":
                self.on_odd(f"joining {room}: {message}")
            self._later(wait_s, lambda: self._join(room))
        elif number == self._status_id:
            self._later(wait_s, self._set_status)
        else:
            for room, seat in self.seats.items():
                if number in seat.unanswered:
                    self._chronicle.write("refuse", self.conn, room, number, code)
                    self._later(wait_s, lambda room=room, number=number: self._say_again(room, number))
                    return
            self.on_odd(f"an error for nothing: {message}")

    def _set_status(self) -> None:
        self._status_id = next(self._numbers)
        self._send({"type": "presence", "id": self._status_id, "status": self.status})

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """On this connection, or not at all."""
        wire = self._wire

        def act() -> None:
            if self._wire is wire and wire is not None:
                action()

        asyncio.get_running_loop().call_later(delay_s, act)

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _send(self, command: Message) -> None:
        if self._wire is not None:
            self._wire.send(command)

    def publish(self, room: str, level: str | None = None) -> bool:
        """One message more; False where this is not the time for it."""
        seat = self.seats[room]
        if not seat.joined or len(seat.unanswered) >= UNANSWERED_MAX:
            return False
        key = f"{self.user}-{next(self._numbered)}"
        seat.unanswered[key] = level
        self._say(room, key, level)
        return True

    def _say_again(self, room: str, key: str) -> None:
        seat = self.seats[room]
        if seat.joined and key in seat.unanswered:
            self._say(room, key, seat.unanswered[key])

    def _say(self, room: str, key: str, level: str | None) -> None:
        command: Message = {"type": "broadcast", "id": key, "room": room, "message": {"n": key, "pad": PAD}}
        if level is not None:
            command["ack"] = level
        self._chronicle.write("say", self.conn, room, key, level)
        self._send(command)

    def leave(self) -> None:
        """A room, and join it again."""
        room, seat = self._rng.choice(list(self.seats.items()))
        if seat.joined and not seat.unanswered:
            seat.joined = False
            self._send({"type": "leave_room", "id": next(self._numbers), "room": room})

    def tell_view(self) -> None:
        for room, seat in self.seats.items():
            self._chronicle.write("view", self.conn, room, sorted(seat.members))


_TAKERS: dict[str, Callable[[Speaker, Message], None]] = {
    "welcome": Speaker._on_welcome,
    "room_joined": Speaker._on_room_joined,
    "history": Speaker._on_history,
    "room_left": Speaker._on_room_left,
    "resumed": Speaker._on_resumed,
    "auth_success": Speaker._on_auth_success,
    "gap": Speaker._on_gap,
    "error": Speaker._on_error,
    "member_joined": Speaker._on_member_joined,
    "member_left": Speaker._on_member_left,
    "presence_update": Speaker._on_nothing,
    "reconnect": Speaker._on_nothing,
}


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


class Question:
    """One command over a connection of its own, and all pages of its answer."""

    def __init__(self, crowd: Crowd, command: Message) -> None:
        self._crowd = crowd
        self._command = {**command, "id": 1}
        self._pages: list[Message] = []
        self._answer: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
        self._wire: Wire | None = None

    async def ask(self) -> list[Message]:
        node = self._crowd.node
        token = node.token("observer", permissions=["history", "presence"])
        await asyncio.get_running_loop().create_connection(lambda: Wire(self, token), "127.0.0.1", node.port)
        async with asyncio.timeout(60):
            return await self._answer

    def on_open(self, wire: Wire) -> None:
        self._wire = wire

    def on_message(self, message: Message) -> None:
        assert self._wire is not None
        if message["type"] == "welcome":
            self._wire.send(self._command)
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
        self._publishing = asyncio.get_running_loop().create_task(self._publish(rate))

    async def _publish(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        began, said = loop.time(), 0
        while True:
            due = int((loop.time() - began) * rate)
            # A stall of ours is not made up for in one go.
            for _ in range(min(due - said, int(rate) + 1)):
                for room, speakers in self._publishers:
                    level = "synced" if self._synced and self._rng.random() < self._synced else None
                    self._rng.choice(speakers).publish(room, level)
            said = due
            await asyncio.sleep(PACE_S)

    async def hush(self) -> None:
        """No more publications; wait until everybody is there and everything is answered."""
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        await self.until(lambda: all(each.settled for each in self.speakers), "everybody is back", 40)
        await self.until(lambda: not any(each.unanswered for each in self.speakers), "everything is answered", 20)
        tops: dict[str, int] = {}

        def level() -> bool:
            for speaker in self.speakers:
                for room, seat in speaker.seats.items():
                    tops[room] = max(tops.get(room, 0), seat.offset)
            return all(seat.offset == tops[room] for each in self.speakers for room, seat in each.seats.items())

        await self.until(level, "everybody has heard everything", 20)

    async def tell(self, grace_s: float) -> None:
        """After `hush`: what the server keeps and who it says is there, and what members believe."""
        await asyncio.sleep(grace_s)
        observer = Observer(self)
        for room in self.rooms:
            await observer.tell(room)
        for speaker in self.speakers:
            speaker.tell_view()

    async def close(self) -> None:
        for speaker in self.speakers:
            speaker.stop()
        for reader in self.readers:
            await reader.close()
        await asyncio.sleep(0.1)
