"""What a client knows that outlives a connection: positions, publications without an answer, when to try again.

No sockets, no clock, no tasks: messages in, a `Step` out (answers, pushes for the application, commands to send).

    position    (epoch, offset) of the last message of a room that the application was given. A message at or below it
                is dropped; one above offset + 1 is held while `history` fetches what is missing; what cannot be
                fetched is told as a `gap`. So the application sees every message once, in order, or hears of a loss.
    outbox      publications keep their string id until they are answered, and are sent again with the same id on the
                next connection: the server knows the id, so that again is not twice. A refusal that names a time
                (`retry_after`) holds all of them back for that long.
    inbox       private messages have a position too. What was given to the application already is dropped when it comes
                again, and what it has dealt with is confirmed, so that the server can let go of it.
    session     the ticket of the last connection: a new one resumes it, which brings identity, rooms and what was
                missed with one command. Where that is refused, the client authenticates and joins as at first.
    joins       a room is wanted from `join` to `leave`. A new connection joins all of them first, with `since`; the
                outbox follows when the last join is answered, because only a member may publish.

Made here, not by the server: `gap` with `"recovered": false` (messages are lost, or an epoch began: load the state
anew) and `room_lost` (a room could not be joined again; `code` says why).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
CommandId = str | int

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
OUTBOX_MAX = 10_000
HELD_MAX = 10_000

# Refusals that pass by themselves: what meets one is tried again.
_PASSING = frozenset({"rate_limited", "overloaded", "unavailable", "internal"})


class Backoff:
    """Full jitter: a delay anywhere from 0 to a bound that doubles, so that clients dropped together return apart."""

    def __init__(
        self, first_s: float = BACKOFF_FIRST_S, max_s: float = BACKOFF_MAX_S, rng: random.Random | None = None
    ) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng or random.Random()
        self.attempts = 0

    @property
    def bound_s(self) -> float:
        # The exponent stops growing long after the bound has: 2 ** 4000 is no float.
        return min(self._max_s, self._first_s * 2.0 ** min(self.attempts, 64))

    def next_delay_s(self) -> float:
        delay = self._rng.uniform(0.0, self.bound_s)
        self.attempts += 1
        return delay

    def reset(self) -> None:
        self.attempts = 0


@dataclass(slots=True)
class RoomState:
    """`epoch` None: never joined yet. `fetching`: a `history` is under way, and newer messages wait in `held`.

    `told_to`: the server said (by `gap`) that there are messages up to this offset.
    """

    name: str
    password: str | None = None
    history: int | None = None
    epoch: str | None = None
    offset: int = 0
    told_to: int = 0
    fetching: bool = False
    held: list[Message] = field(default_factory=list)

    @property
    def position(self) -> Message:
        return {"epoch": self.epoch, "offset": self.offset}

    def move_to(self, epoch: str, offset: int) -> None:
        self.epoch, self.offset = epoch, offset

    def forget_fetch(self) -> None:
        self.fetching = False
        self.held.clear()


@dataclass(slots=True)
class Replay:
    """A join whose answer comes in pages. `returning`: the pages are pushes; else part of the answer's `messages`."""

    answer: Message
    returning: bool


@dataclass(slots=True)
class Step:
    """What follows from a message.

    `delayed`: commands to send after some seconds, if the connection still stands. `resume_after_s`: call `resume`
    then, and send what it returns.
    """

    answers: list[tuple[CommandId, Message]] = field(default_factory=list)
    pushes: list[Message] = field(default_factory=list)
    commands: list[Message] = field(default_factory=list)
    delayed: list[tuple[float, Message]] = field(default_factory=list)
    resume_after_s: float | None = None


class ClientState:
    """`prefix` makes this client's publication ids unlike any other's of the same user: a fresh random string."""

    def __init__(self, prefix: str, outbox_max: int = OUTBOX_MAX) -> None:
        self.rooms: dict[str, RoomState] = {}
        self.outbox: dict[CommandId, Message] = {}
        self.ticket: str | None = None
        self.connected = False
        self.ready = False  # connected, and every wanted room is joined: publications may go out
        self._prefix = prefix
        self._outbox_max = outbox_max
        self._numbers = 0
        self._unsent: set[CommandId] = set()  # of the outbox: not on this connection yet, or refused for now
        self._paused = False
        self._joins: dict[CommandId, str] = {}  # joins without an answer, by id; the application's and our own
        self._unanswered: set[CommandId] = set()  # of those, the ones the application waits for
        self._replays: dict[CommandId, Replay] = {}
        # The last `resume`, and which join of ours each room's pages under its id belong to.
        self._resume_id: CommandId | None = None
        self._resumed: dict[str, CommandId] = {}
        self._fetches: dict[CommandId, str] = {}
        # The last private message that the application was given, and the last that it has dealt with.
        self._inbox: tuple[str, int] = ("", 0)
        self._dealt_with: tuple[str, int] | None = None

    def next_id(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- what the application wants ------------------------------------------------------------------------------

    def publish(self, command: Message) -> tuple[str, list[Message]]:
        """Keep a `broadcast` or `private_message` until it is answered. Returns its id, and what to send now.

        Raises `BufferError` where too many are waiting already.
        """
        if len(self.outbox) >= self._outbox_max:
            raise BufferError(f"{self._outbox_max} publications are waiting for an answer")
        command_id = f"{self._prefix}-{self.next_id()}"
        self.outbox[command_id] = {**command, "id": command_id}
        self._unsent.add(command_id)
        return command_id, self._due()

    def join(self, room: str, password: str | None, history: int | None) -> tuple[int, list[Message]]:
        """Want `room`, which is not wanted yet, from now on. Returns the id of the answer, and what to send now."""
        assert room not in self.rooms, "a room is joined once"
        self.rooms[room] = RoomState(room, password, history)
        command_id = self.next_id()
        self._joins[command_id] = room
        self._unanswered.add(command_id)
        return command_id, [self._join_command(command_id, self.rooms[room])] if self.connected else []

    def leave(self, room: str) -> Step:
        """Want `room` no longer. A join of it that the application still waits for is answered here."""
        self.rooms.pop(room, None)
        step = Step()
        for command_id in [each for each in self._unanswered if self._joins[each] == room]:
            self._unanswered.discard(command_id)
            step.answers.append((command_id, {"type": "error", "code": "not_in_room", "message": "Left meanwhile"}))
        return step

    # -- connections come and go -----------------------------------------------------------------------------------

    def resumption(self) -> Message | None:
        """The command that brings everything back, if there is a session to be resumed."""
        if self.ticket is None:
            return None
        self._resume_id = self.next_id()
        rooms = {room.name: room.position for room in self.rooms.values() if room.epoch is not None}
        return {"type": "resume", "id": self._resume_id, "session": self.ticket, "rooms": rooms}

    def connection_resumed(self, answer: Message) -> Step:
        """As `connection_ready`, with the answer `resumed`: only rooms that it did not bring back are joined."""
        step = Step()
        self.ticket = answer["session"]
        self._begin_joins()
        for command_id, name in list(self._joins.items()):
            body = answer["rooms"].get(name, {})
            if body.get("type") == "room_joined":
                self._resumed[name] = command_id
                self._on_join_answer(command_id, body, step)
            else:
                step.commands.append(self._join_command(command_id, self.rooms[name]))
        if not self.rooms:
            step.commands += self._open_outbox()
        return step

    def _begin_joins(self) -> None:
        self.connected = True
        asked = {self._joins[command_id]: command_id for command_id in self._unanswered}
        self._joins = {asked.get(room) or self.next_id(): room for room in self.rooms}

    def connection_ready(self) -> list[Message]:
        """A connection stands and is authenticated. Returns the joins, or the outbox where no room is wanted."""
        self._begin_joins()
        if not self._joins:
            return self._open_outbox()
        return [self._join_command(command_id, self.rooms[room]) for command_id, room in self._joins.items()]

    def connection_lost(self) -> None:
        """Positions, wanted rooms and the outbox stay; whatever was on its way is forgotten."""
        self.connected = self.ready = self._paused = False
        self._unsent = set(self.outbox)
        self._replays.clear()
        self._resumed.clear()
        self._fetches.clear()
        for room in self.rooms.values():
            room.forget_fetch()

    def surviving_ids(self) -> set[CommandId]:
        """Ids whose answers still come, on a later connection."""
        return self._unanswered | self.outbox.keys()

    def resume(self) -> list[Message]:
        """The time that a refusal named is over: what was held back."""
        self._paused = False
        return self._due()

    def _open_outbox(self) -> list[Message]:
        self.ready = True
        return self._due()

    def _due(self) -> list[Message]:
        if not self.ready or self._paused or not self._unsent:
            return []
        due = [command for command_id, command in self.outbox.items() if command_id in self._unsent]
        self._unsent.clear()
        return due

    @staticmethod
    def _join_command(command_id: CommandId, room: RoomState) -> Message:
        command: Message = {"type": "join_room", "id": command_id, "room": room.name}
        if room.password is not None:
            command["password"] = room.password
        if room.epoch is not None:
            command["since"] = room.position
        elif room.history is not None:
            command["history"] = room.history
        return command

    # -- private messages ------------------------------------------------------------------------------------------

    def _on_private_message(self, message: Message, step: Step) -> None:
        epoch, offset = str(message["epoch"]), int(message["offset"])
        if epoch == self._inbox[0] and offset <= self._inbox[1]:
            return
        self._inbox = (epoch, offset)
        step.pushes.append(message)

    def deal_with(self, push: Message) -> bool:
        """The application has `push`. True: there is something to confirm."""
        if push["type"] == "private_message" and "epoch" in push:
            self._dealt_with = (push["epoch"], push["offset"])
        return self._dealt_with is not None

    def confirmation(self) -> list[Message]:
        """What to send for all that was dealt with since the last time."""
        if self._dealt_with is None:
            return []
        (epoch, offset), self._dealt_with = self._dealt_with, None
        return [{"type": "ack", "inbox": True, "epoch": epoch, "offset": offset}]

    # -- messages ----------------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> Step:
        """Everything that follows from one message of the server."""
        step = Step()
        for each in _unpacked(message):
            self._receive(each, step)
        return step

    def _receive(self, message: Message, step: Step) -> None:
        command_id = message.get("id")
        if command_id is not None:
            self._on_reply(command_id, message, step)
            return
        kind = message.get("type")
        if kind == "private_message" and "epoch" in message:
            self._on_private_message(message, step)
            return
        room = self.rooms.get(message.get("room", ""))
        if room is None or room.epoch is None:
            step.pushes.append(message)
        elif kind == "room_message":
            self._on_room_message(room, message, step)
        elif kind == "gap":
            self._on_gap(room, message, step)
        else:
            if kind in ("kicked", "room_deleted"):
                del self.rooms[room.name]
            step.pushes.append(message)

    def _on_reply(self, command_id: CommandId, message: Message, step: Step) -> None:
        if command_id in self._joins:
            self._on_join_answer(command_id, message, step)
        elif command_id == self._resume_id and message.get("room") in self._resumed:
            self._on_join_answer(self._resumed[message["room"]], message, step)
        elif command_id in self._fetches:
            self._on_fetched(command_id, message, step)
        elif command_id in self.outbox and message.get("code") in _PASSING and "retry_after" in message:
            self._unsent.add(command_id)
            if not self._paused:
                self._paused = True
                step.resume_after_s = _delay_s(message)
        else:
            self.outbox.pop(command_id, None)
            self._unsent.discard(command_id)
            step.answers.append((command_id, message))

    def _on_room_message(self, room: RoomState, message: Message, step: Step) -> None:
        epoch, offset = str(message.get("epoch", room.epoch)), message["offset"]
        if room.fetching:
            room.held.append(message)
            if len(room.held) > HELD_MAX:
                self._give_up_fetch(room, step)
        elif epoch != room.epoch:
            self._tell_gap(room, epoch, 1, offset - 1, step)
            room.move_to(epoch, offset)
            step.pushes.append(message)
        elif offset == room.offset + 1:
            room.offset = offset
            step.pushes.append(message)
        elif offset > room.offset:
            room.held.append(message)
            self._fetch(room, step)

    def _on_gap(self, room: RoomState, message: Message, step: Step) -> None:
        if message["epoch"] != room.epoch:
            self._tell_gap(room, message["epoch"], message["from"], message["to"], step)
            room.forget_fetch()
            room.move_to(message["epoch"], message["to"])
        elif message["to"] > room.offset:
            room.told_to = message["to"]
            if not room.fetching:
                self._fetch(room, step)

    def _fetch(self, room: RoomState, step: Step) -> None:
        room.fetching = True
        command_id = self.next_id()
        self._fetches[command_id] = room.name
        step.commands.append(self._fetch_command(command_id, room))

    @staticmethod
    def _fetch_command(command_id: CommandId, room: RoomState) -> Message:
        return {"type": "history", "id": command_id, "room": room.name, "since": room.position}

    def _on_fetched(self, command_id: CommandId, message: Message, step: Step) -> None:
        room = self.rooms.get(self._fetches[command_id])
        if room is not None and room.fetching and message.get("code") in _PASSING:
            step.delayed.append((_delay_s(message), self._fetch_command(command_id, room)))
            return
        del self._fetches[command_id]
        if room is None or not room.fetching:
            return
        if message.get("type") != "history" or not message.get("recovered"):
            self._give_up_fetch(room, step)
            return
        self._replay(room, message["messages"], step)
        missing = [each["offset"] > room.offset + 1 for each in room.held if each["offset"] > room.offset]
        if not message["messages"] and ((all(missing) and missing) or room.told_to > room.offset):
            self._give_up_fetch(room, step)
            return
        held, room.held, room.fetching = room.held, [], False
        # One that is still beyond the next offset asks for the next part of the history by itself.
        for each in held:
            self._on_room_message(room, each, step)

    def _give_up_fetch(self, room: RoomState, step: Step) -> None:
        """What is missing will not come: say so, and go on with what is here."""
        held, room.held, room.fetching = room.held, [], False
        for each in held:
            epoch, offset = str(each.get("epoch", room.epoch)), each["offset"]
            if epoch == room.epoch and offset <= room.offset:
                continue
            if epoch != room.epoch or offset > room.offset + 1:
                self._tell_gap(room, epoch, 1 if epoch != room.epoch else room.offset + 1, offset - 1, step)
            room.move_to(epoch, offset)
            step.pushes.append(each)
        if room.epoch is not None and room.told_to > room.offset:
            self._tell_gap(room, room.epoch, room.offset + 1, room.told_to, step)
            room.offset = room.told_to

    def _on_join_answer(self, command_id: CommandId, message: Message, step: Step) -> None:
        room = self.rooms.get(self._joins[command_id])
        if message.get("type") == "error":
            self._on_join_refused(command_id, room, message, step)
            return
        replay = self._replays.get(command_id)
        if replay is None:
            replay = self._replays[command_id] = Replay(message, room is not None and room.epoch is not None)
            if room is not None:
                self._begin_replay(room, replay, step)
        elif not replay.returning:
            replay.answer["messages"].extend(message["messages"])
        elif room is not None:
            self._replay(room, message["messages"], step)
        if not message.get("more"):
            del self._replays[command_id]
            if room is not None:
                room.offset = max(room.offset, replay.answer["offset"])
            self._join_done(command_id, replay.answer, step)

    def _begin_replay(self, room: RoomState, replay: Replay, step: Step) -> None:
        answer = replay.answer
        if replay.returning and answer.get("recovered"):
            self._replay(room, answer["messages"], step)
            return
        if replay.returning:
            self._tell_gap(room, answer["epoch"], room.offset + 1, answer["offset"], step)
        room.move_to(answer["epoch"], answer["offset"])

    def _on_join_refused(self, command_id: CommandId, room: RoomState | None, message: Message, step: Step) -> None:
        if room is not None and room.epoch is not None and message.get("code") in _PASSING:
            step.delayed.append((_delay_s(message), self._join_command(command_id, room)))
            return
        if room is not None:
            del self.rooms[room.name]
            if command_id not in self._unanswered:
                step.pushes.append({**message, "type": "room_lost", "room": room.name})
        self._join_done(command_id, message, step)

    def _join_done(self, command_id: CommandId, message: Message, step: Step) -> None:
        del self._joins[command_id]
        if command_id in self._unanswered:
            self._unanswered.discard(command_id)
            step.answers.append((command_id, message))
        if not self._joins and self.connected and not self.ready:
            step.commands.extend(self._open_outbox())

    @staticmethod
    def _replay(room: RoomState, messages: list[Message], step: Step) -> None:
        for each in messages:
            if each["offset"] > room.offset:
                room.offset = each["offset"]
                step.pushes.append(each)

    @staticmethod
    def _tell_gap(room: RoomState, epoch: str, first: int, last: int, step: Step) -> None:
        step.pushes.append(
            {"type": "gap", "room": room.name, "epoch": epoch, "from": first, "to": last, "recovered": False}
        )


def _delay_s(refusal: Message) -> float:
    return float(refusal.get("retry_after") or 1.0)


def _unpacked(message: Message) -> Iterator[Message]:
    if message.get("type") == "batch":
        yield from message["messages"]
    else:
        yield message
