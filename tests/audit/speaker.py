"""One user who publishes and listens, on one connection at a time, and writes down what it said and saw.

It comes back after every loss, at once or nearly, with `since` or (one who `resumes`) with its ticket; says again, with
the same id, what was not answered; and never gives up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from audit.wire import Wire
from tuskws_fast.ipc.records import worker_of

if TYPE_CHECKING:
    from audit.crowd import Crowd

Message = dict[str, Any]
PAD = "x" * 64
OPEN_S = 12.0
# As docs/protocol.md has clients come back. Sooner, all who were cut off together keep the auditor busy, by whose clock
# the messages of the others are late then: it is one process.
BACK_WITHIN_S = 0.5
# Publications of one speaker that may be without an answer: while there is no broker it waits, as people do.
UNANSWERED_MAX = 500
# Of the private messages that come, so many are confirmed, and all before them.
CONFIRMING = 0.2
STATUSES = ("online", "online", "away", "busy")


@dataclass(slots=True)
class Seat:
    """A speaker's place in a room. `members`: who is there as it was told, with the status where that was told too."""

    epoch: str = ""
    offset: int = 0
    joined: bool = False
    unanswered: dict[str, str | None] = field(default_factory=dict)
    members: dict[str, str | None] = field(default_factory=dict)


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
        self._leaves: dict[int, str] = {}
        self._resume = 0
        self._status_id = 0
        self._numbered = count(1)
        self._welcomed = False
        self._stopped = False
        # Private messages without an answer: key → (to, level).
        self._letters: dict[str, tuple[str, str | None]] = {}

    # -- the connection ------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """In all its rooms, with the status that it wants."""
        return all(seat.joined for seat in self.seats.values()) and (self._status_granted or self.status == "online")

    @property
    def unanswered(self) -> int:
        return len(self._letters) + sum(len(seat.unanswered) for seat in self.seats.values())

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

    def _come_back(self, least_s: float = 0.0, most_s: float = BACK_WITHIN_S) -> None:
        asyncio.get_running_loop().call_later(self._rng.uniform(least_s, most_s), self.connect)

    def on_open(self, wire: Wire) -> None:
        self._wire = wire

    def on_lost(self, code: int) -> None:
        self._wire = None
        self._joins.clear()
        self._leaves.clear()
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
        self._write_again()
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
        self._write_again()
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
        seat.members = {each["userId"]: each["status"] for each in message.get("members", ())}
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
        self._leaves.pop(message.get("id") or 0, None)
        self._chronicle.write("leave", self.conn, message["room"])
        self._join(message["room"])

    def _on_gap(self, message: Message) -> None:
        room, epoch, first, last = (message[name] for name in ("room", "epoch", "from", "to"))
        self._chronicle.write("gap", self.conn, room, epoch, first, last)
        seat = self.seats[room]
        seat.offset = max(last, seat.offset) if epoch == seat.epoch else last
        seat.epoch = epoch

    def _on_private_message(self, message: Message) -> None:
        epoch, offset = message["epoch"], message["offset"]
        self._chronicle.write("post", self.conn, epoch, offset, self._checked(message))
        if self._rng.random() < CONFIRMING:
            self._chronicle.write("confirm", self.conn, epoch, offset)
            self._send({"type": "ack", "inbox": True, "epoch": epoch, "offset": offset})

    def _on_member_joined(self, message: Message) -> None:
        self.seats[message["room"]].members[message["user"]["id"]] = None

    def _on_member_left(self, message: Message) -> None:
        self.seats[message["room"]].members.pop(message["user"]["id"], None)

    def _on_room_members(self, message: Message) -> None:
        self.seats[message["room"]].members = {each["userId"]: each["status"] for each in message["members"]}

    def _on_presence_update(self, message: Message) -> None:
        for seat in self.seats.values():
            if message["userId"] in seat.members:
                seat.members[message["userId"]] = message["status"]

    def _on_nothing(self, message: Message) -> None:
        """Pushes that say nothing which the judge looks at."""

    def _on_ack(self, message: Message) -> None:
        key = message["id"]
        if key == self._status_id:
            self._status_granted = True
            self._chronicle.write("status", self.conn, self.status)
            return
        if key in self._letters:
            to, _ = self._letters.pop(key)
            self._chronicle.write("posted", self.conn, to, key, message["offset"], message["level"])
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
        elif number in self._leaves and code == "unavailable":
            # It is a member still, and has said nothing meanwhile.
            self.seats[self._leaves.pop(number)].joined = True
        elif number == self._status_id:
            self._later(wait_s, self._set_status)
        elif number in self._letters:
            self._chronicle.write("returned", self.conn, self._letters[number][0], number, code)
            self._later(wait_s, lambda: self._write(number))
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

    def write(self, to: str, level: str | None) -> None:
        """One private message more."""
        if self._wire is not None and self.settled and len(self._letters) < UNANSWERED_MAX:
            key = f"{self.user}-{next(self._numbered)}"
            self._letters[key] = to, level
            self._write(key)

    def _write(self, key: str) -> None:
        if key in self._letters:
            to, level = self._letters[key]
            command: Message = {"type": "private_message", "id": key, "to": to, "message": {"n": key, "pad": PAD}}
            if level is not None:
                command["ack"] = level
            self._chronicle.write("write", self.conn, to, key, level)
            self._send(command)

    def _write_again(self) -> None:
        for key in list(self._letters):
            self._write(key)

    def leave(self) -> None:
        """A room, and join it again."""
        room, seat = self._rng.choice(list(self.seats.items()))
        if seat.joined and not seat.unanswered:
            seat.joined = False
            number = next(self._numbers)
            self._leaves[number] = room
            self._send({"type": "leave_room", "id": number, "room": room})

    def tell_view(self) -> None:
        for room, seat in self.seats.items():
            self._chronicle.write("view", self.conn, room, sorted(seat.members.items()))


_TAKERS: dict[str, Callable[[Speaker, Message], None]] = {
    "welcome": Speaker._on_welcome,
    "room_joined": Speaker._on_room_joined,
    "history": Speaker._on_history,
    "room_left": Speaker._on_room_left,
    "resumed": Speaker._on_resumed,
    "auth_success": Speaker._on_auth_success,
    "gap": Speaker._on_gap,
    "private_message": Speaker._on_private_message,
    "error": Speaker._on_error,
    "member_joined": Speaker._on_member_joined,
    "member_left": Speaker._on_member_left,
    "room_members": Speaker._on_room_members,
    "presence_update": Speaker._on_presence_update,
    "reconnect": Speaker._on_nothing,
}
