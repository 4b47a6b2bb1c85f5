"""From what happened to what was wrong. Pure: events in (see `chronicle`), a `Verdict` out.

What must hold, whatever was done to the node:

    position    (room, epoch, offset) means one message, whoever heard of it and how; and a message has one position,
                however often it was sent
    stream      what a connection hears in a room begins where its join ended and goes on by one, or a `gap` says what
                is missing; a replay is whole, and given as long as the epoch lasts (runs keep more than they publish)
    order       two messages of one connection, both sent once, have their order
    storage     what was acknowledged as `stored`, and what anybody heard in an epoch that is stored, is in the history
                in the end; after a loss of power what was acknowledged as `synced` is; after damage whatever is still
                in its room's epoch, and all of it where the node gave no alarm
    history     has no hole
    end         who is connected has heard everything; who asked has been answered
    presence    who the server says is in a room, and who a member was told is, is who is there
    letters     see `letters`
    doors       who was banned stays so, and knocks in the end; a loss of power within `BAN_UNSYNCED_US` may undo it

An epoch in which something was acknowledged as `accepted` though the best was asked for is *volatile*: the disk
refused, and its messages may be gone, or be published again, when the broker has died.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any

from audit.letters import Letters
from audit.verdict import Verdict, percentile, quantile

STORED, SYNCED = ("stored", "synced"), "synced"
NEVER = -(10**12)
BAN_UNSYNCED_US = 1_000_000
DISK_FAILS_US = 4_000_000
OFFLINE = "offline"
_STATUSES = (OFFLINE, "away", "online", "busy")
Place = tuple[str, int]


@dataclass(slots=True)
class Message:
    """`said`: when first and last; `conn` sent it first. `placed`: (epoch, offset), when that was known first."""

    room: str
    conn: int
    said: int
    said_last: int
    times: int = 1
    place: Place | None = None
    placed: int = 0
    level: str = ""
    acked_place: Place | None = None
    refused: bool = False
    acked: int = 0


@dataclass(slots=True)
class Stream:
    """Where a connection is in a room. `until`: what its join promised to replay."""

    epoch: str
    offset: int
    until: int


@dataclass(slots=True)
class Connection:
    user: str
    worker: int
    opened: int
    streams: dict[str, Stream] = field(default_factory=dict)
    status: str = "online"


@dataclass(slots=True)
class Absence:
    """A user whose connection was lost, until all its rooms are joined again."""

    since: int
    rooms: set[str]


class Judge:
    def __init__(self) -> None:
        self._verdict = Verdict()
        self._run: dict[str, Any] = {}
        self._t = 0
        self._phase = ""
        self._phases: dict[str, tuple[int, int]] = {}
        self._messages: dict[str, Message] = {}
        self._places: dict[str, dict[Place, str]] = defaultdict(dict)
        self._doubles: dict[tuple[str, Place], tuple[int, Place]] = {}
        self._conns: dict[int, Connection] = {}
        # Where each user was last in each room.
        self._was: dict[tuple[str, str], Place] = {}
        self._absent: dict[str, Absence] = {}
        self._volatile: set[tuple[str, str]] = set()
        self._cuts: list[int] = []
        # When files were damaged of which the node said so, and of the last damage, whether it has.
        self._alarms: list[int] = []
        self._damaged = 0
        self._bans: dict[tuple[str, str], int] = {}
        self._passing: set[str] = set()
        self._kept: dict[str, tuple[int, str, int, list[Any]]] = {}
        self._hurt: dict[str, int] = {}
        self._outage: tuple[int, str] | None = None
        self._outages: dict[str, list[float]] = defaultdict(list)
        self._returns: list[float] = []
        self._latency: dict[str, Counter[int]] = defaultdict(Counter)
        self._letters = Letters(self._verdict, self._deprived)
        self._counts: Counter[str] = Counter()
        self._fault_counts: Counter[str] = Counter()

    def take_all(self, events: Iterable[list[Any]]) -> Verdict:
        takers = {name: taker.__get__(self) for name, taker in self._TAKERS.items()}
        for event in events:
            self._t = event[1]
            takers[event[0]](*event[2:])
        return self.verdict()

    def _fault(self, kind: str, text: str) -> None:
        self._verdict.fault(kind, self._t, text)

    # -- what the auditor did ------------------------------------------------------------------------------------------

    def _on_run(self, run: dict[str, Any]) -> None:
        self._run = run

    def _on_phase(self, name: str) -> None:
        if self._phase:
            self._phases[self._phase] = (self._phases[self._phase][0], self._t)
        self._phase = name
        self._phases[name] = (self._t, self._t)

    def _on_fault(self, what: str, target: str) -> None:
        self._fault_counts[f"{what} {target.split(maxsplit=1)[0]}" if target else what] += 1
        if what == "disk":
            # A broker whose write fails starts over, at any time while it lasts.
            self._hurt["broker 0"] = self._t + DISK_FAILS_US
        if what in ("kill", "stop"):
            self._hurt[target] = self._t
            if target == "broker 0":
                self._outage = (self._t, f"{what} broker")

    def _on_dark(self, powerless: bool) -> None:
        self._hurt = {"node": self._t}
        self._outage = (self._t, "power" if powerless else "node")

    def _on_cut(self) -> None:
        self._cuts.append(self._t)

    def _on_damage(self, what: str) -> None:
        self._damaged = self._t
        self._fault_counts["damage"] += 1

    def _on_alarm(self) -> None:
        self._alarms.append(self._damaged)
        self._fault_counts["damage that was told"] += 1

    # -- connections ---------------------------------------------------------------------------------------------------

    def _on_open(self, conn: int, user: str, worker: int) -> None:
        self._conns[conn] = Connection(user, worker, self._t)
        self._counts["opened"] += 1

    def _on_close(self, conn: int, code: int) -> None:
        connection = self._conns.pop(conn)
        self._counts["closed"] += 1
        if code == 1000:
            return
        since = max(self._hurt.get(f"worker {connection.worker}", NEVER), self._hurt.get("node", NEVER))
        # Not of our doing, or long after it: counted from when it was lost.
        if self._t - since > 10e6:
            since = self._t
            self._counts["lost_unhurt"] += 1
        if connection.streams:
            self._absent.setdefault(connection.user, Absence(since, set())).rooms |= set(connection.streams)

    def _on_status(self, conn: int, status: str) -> None:
        self._conns[conn].status = status

    def _on_odd(self, conn: int, text: str) -> None:
        self._fault("odd", f"connection {conn}: {text}")

    # -- publications --------------------------------------------------------------------------------------------------

    def _on_say(self, conn: int, room: str, key: str, level: str | None) -> None:
        message = self._messages.get(key)
        if message is None:
            self._messages[key] = Message(room, conn, self._t, self._t)
        else:
            message.times += 1
            message.said_last = self._t

    def _on_ack(self, conn: int, room: str, key: str, epoch: str, offset: int, level: str) -> None:
        message = self._messages[key]
        message.acked, message.level, message.acked_place = self._t, level, (epoch, offset)
        self._place(room, epoch, offset, key)
        if level == "accepted":
            self._volatile.add((room, epoch))
            self._counts["accepted"] += 1
        self._counts["acked"] += 1
        if self._outage is not None and message.said_last > self._outage[0]:
            at, target = self._outage
            self._outages[target].append((self._t - at) / 1e6)
            self._outage = None

    def _on_refuse(self, conn: int, room: str, key: str, code: str) -> None:
        self._messages[key].refused = True
        self._counts["refused"] += 1
        if code not in ("unavailable",):
            self._fault("refused", f"{key} in {room}: {code}")

    def _place(self, room: str, epoch: str, offset: int, key: str) -> None:
        place = (epoch, offset)
        known = self._places[room].setdefault(place, key)
        if known != key:
            self._fault("position", f"{room} {place} is {known} and {key}")
        message = self._messages.get(key)
        if message is None or message.room != room:
            self._fault("odd", f"{room} {place}: nobody said {key} there")
        elif message.place is None:
            message.place, message.placed = place, self._t
        elif message.place != place:
            self._doubles.setdefault((key, place), (self._t, message.place))

    # -- streams -------------------------------------------------------------------------------------------------------

    def _on_join(
        self, conn: int, room: str, since: list[Any] | None, epoch: str, offset: int, recovered: bool | None
    ) -> None:
        connection = self._conns[conn]
        self._counts["joins"] += 1
        was = self._was.get((connection.user, room))
        if since is not None and was is not None and (since[0], since[1]) != was:
            self._fault("auditor", f"{connection.user} joined {room} since {since}, but was at {was}")
        if since is None or not recovered:
            if (since is None) != (recovered is None):
                self._fault("stream", f"{connection.user} joined {room} since {since}: recovered is {recovered}")
            if since is not None:
                self._counts["unrecovered"] += 1
                if since[0] == epoch:
                    self._fault("stream", f"{connection.user} in {room} since {since}: not recovered, at {offset}")
            stream = Stream(epoch, offset, offset)
        else:
            self._counts["recovered"] += 1
            stream = Stream(epoch, since[1], offset)
            if since[0] != epoch:
                self._fault("stream", f"{connection.user} recovered {room} from epoch {since[0]} in {epoch}")
            if since[1] > offset:
                self._fault("stream", f"{connection.user} recovered {room} from {since[1]}, but it is at {offset}")
        connection.streams[room] = stream
        self._was[connection.user, room] = (epoch, stream.offset)
        absence = self._absent.get(connection.user)
        if absence is not None:
            absence.rooms.discard(room)
            if not absence.rooms:
                self._returns.append((self._t - absence.since) / 1e6)
                del self._absent[connection.user]

    def _on_leave(self, conn: int, room: str) -> None:
        del self._conns[conn].streams[room]

    def _on_old(self, conn: int, room: str, epoch: str, offset: int, key: str) -> None:
        connection = self._conns[conn]
        stream = connection.streams[room]
        if epoch != stream.epoch or offset != stream.offset + 1 or offset > stream.until:
            self._fault("stream", f"{connection.user} in {room} at {stream} was replayed {epoch} {offset}")
        stream.epoch, stream.offset = epoch, offset
        self._was[connection.user, room] = (epoch, offset)
        self._place(room, epoch, offset, key)
        self._counts["replayed"] += 1

    def _on_hear(self, conn: int, room: str, epoch: str, offset: int, key: str) -> None:
        connection = self._conns[conn]
        stream = connection.streams.get(room)
        if stream is None:
            self._fault("stream", f"{connection.user} heard {room} {offset} without being there")
            return
        if epoch != stream.epoch or offset != stream.offset + 1 or stream.offset < stream.until:
            self._judge_step(connection, room, stream, epoch, offset)
        stream.epoch, stream.offset = epoch, offset
        self._was[connection.user, room] = (epoch, offset)
        if self._places[room].get((epoch, offset)) != key:
            self._place(room, epoch, offset, key)
        self._counts["heard"] += 1
        message = self._messages.get(key)
        if message is not None and message.times == 1:
            self._latency[self._phase][(self._t - message.said) // 100] += 1

    def _judge_step(self, connection: Connection, room: str, stream: Stream, epoch: str, offset: int) -> None:
        what = f"{connection.user} in {room} at {stream} heard {epoch} {offset}"
        if stream.offset < stream.until:
            self._fault("silent gap", f"{what}: the replay was cut short")
            stream.until = stream.offset
        elif epoch != stream.epoch:
            self._fault("silent gap", f"{what}: a new epoch untold")
        elif offset > stream.offset + 1:
            self._fault("silent gap", what)
        elif offset <= stream.offset:
            self._fault("order", what)

    def _on_gap(self, conn: int, room: str, epoch: str, first: int, last: int) -> None:
        connection = self._conns[conn]
        stream = connection.streams[room]
        if first > stream.offset + 1:
            self._fault(
                "silent gap", f"{connection.user} in {room} at {stream} was told of a gap {first} to {last} only"
            )
        self._counts["gaps"] += 1
        self._counts["gap_messages"] += max(0, last - first + 1)
        # What was heard already may be told as missing; what comes next goes on behind both.
        offset = max(last, stream.offset) if epoch == stream.epoch else last
        connection.streams[room] = Stream(epoch, offset, offset)
        self._was[connection.user, room] = (epoch, offset)

    # -- private messages ----------------------------------------------------------------------------------------------

    def _on_write(self, conn: int, to: str, key: str, level: str | None) -> None:
        self._letters.write(self._t, to, key)

    def _on_posted(self, conn: int, to: str, key: str, offset: int, level: str) -> None:
        self._letters.posted(self._t, key, offset, level)

    def _on_returned(self, conn: int, to: str, key: str, code: str) -> None:
        if code != "unavailable":
            self._fault("refused", f"{key} to {to}: {code}")

    def _on_post(self, conn: int, epoch: str, offset: int, key: str) -> None:
        self._counts["private_heard"] += 1
        connection = self._conns[conn]
        outlived = self._hurt.get("broker 0", NEVER) > connection.opened
        self._letters.post(self._t, conn, connection.user, epoch, offset, key, outlived)

    def _on_confirm(self, conn: int, epoch: str, offset: int) -> None:
        self._letters.confirm(self._t, self._conns[conn].user, epoch, offset)

    def _on_inbox(self, user: str, messages: list[Any]) -> None:
        self._counts["private_waiting"] += len(messages)
        conns = [conn for conn, each in self._conns.items() if each.user == user]
        self._letters.waiting(self._t, user, messages, conns)

    # -- doors ---------------------------------------------------------------------------------------------------------

    def _on_ban(self, room: str, user: str) -> None:
        self._bans[room, user] = self._t
        self._counts["bans"] += 1

    def _on_door(self, room: str, user: str, code: str) -> None:
        banned = self._bans.pop((room, user))
        if code != "forbidden" and not self._cut_between(banned, banned + BAN_UNSYNCED_US):
            self._fault(
                "door", f"{user}, banned in {room} at {banned / 1e6:.3f} s, is answered {code or 'room_joined'}"
            )

    # -- what the server says in the end -------------------------------------------------------------------------------

    def _on_kept(self, room: str, epoch: str, offset: int, messages: list[Any]) -> None:
        self._kept[room] = (self._t, epoch, offset, messages)
        last = None
        for each_epoch, each_offset, key in messages:
            if last is not None and each_offset != last + 1:
                self._fault("history", f"{room}: {each_offset} follows {last}")
            last = each_offset
            self._place(room, each_epoch, each_offset, key)
        if last is not None and last != offset:
            self._fault("history", f"{room} is at {offset}, and keeps messages up to {last}")

    def _on_pass(self, user: str, room: str) -> None:
        self._passing.add(user)
        self._counts["passed_by"] += 1

    def _on_gone(self, user: str) -> None:
        self._passing.remove(user)

    def _on_members(self, room: str, members: list[Any]) -> None:
        if self._passing:
            self._fault("auditor", f"{room}: asked who is there while {sorted(self._passing)} came by")
        told, there = dict(members), self._there(room)
        if told.keys() != there.keys():
            self._fault(
                "presence",
                f"{room}: {_difference(told.keys(), there.keys())}",
            )
        for user in told.keys() & there.keys():
            if told[user] != there[user]:
                self._fault("presence", f"{room}: {user} is {told[user]}, not {there[user]}")

    def _on_view(self, conn: int, room: str, members: list[Any]) -> None:
        told, there, own = dict(members), self._there(room), self._conns[conn].user
        if told.keys() != there.keys():
            self._fault("presence", f"{own} sees in {room} {_difference(told.keys(), there.keys())}")
        for user in told.keys() & there.keys():
            # Nobody is told of their own status.
            if user != own and told[user] not in (None, there[user]):
                self._fault("presence", f"{own} sees in {room} that {user} is {told[user]}, not {there[user]}")

    def _there(self, room: str) -> dict[str, str]:
        """User → the most present status of their connections; see docs/protocol.md."""
        there: dict[str, str] = {}
        for each in self._conns.values():
            if room in each.streams:
                there[each.user] = max(there.get(each.user, OFFLINE), each.status, key=_STATUSES.index)
        return there

    # -- the end -------------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        if self._phase:
            self._phases[self._phase] = (self._phases[self._phase][0], self._t)
        self._judge_doubles()
        self._judge_storage()
        self._judge_order()
        self._judge_end()
        self._letters.judge()
        self._count()
        return self._verdict

    def _cut_between(self, first: int, last: int) -> bool:
        return any(first <= cut <= last for cut in self._cuts)

    def _damaged_between(self, first: int, last: int) -> bool:
        return any(first <= alarm <= last for alarm in self._alarms)

    def _deprived(self, first: int, last: int, level: str) -> bool:
        """May what was known at `first`, at this level, be gone at `last`?"""
        return self._damaged_between(first, last) or (level != SYNCED and self._cut_between(first, last))

    def _judge_doubles(self) -> None:
        for (key, second), (t, first) in self._doubles.items():
            message = self._messages[key]
            room = message.room
            if (room, first[0]) in self._volatile or (room, second[0]) in self._volatile:
                continue
            if self._cut_between(message.placed, t) and not (message.level == SYNCED and message.acked_place == first):
                continue
            if self._damaged_between(message.placed, t):
                continue
            self._verdict.fault("duplicate", t, f"{key} in {room} is {first} and {second}")

    def _judge_storage(self) -> None:
        keep = self._run.get("keep", 0)
        aged = {}
        for room, (_, _, _, messages) in self._kept.items():
            # Older ones may be gone where the history is as long as it may be.
            aged[room] = messages[0][1] if len(messages) >= keep > 0 else 0
        held = {room: {(epoch, offset) for epoch, offset, _ in kept[3]} for room, kept in self._kept.items()}
        last_cut = self._cuts[-1] if self._cuts else 0
        for key, message in self._messages.items():
            place = message.acked_place or message.place
            room = message.room
            if place is None or room not in held or place in held[room] or place[1] < aged[room]:
                continue
            known = message.acked or message.placed
            if known < last_cut and message.level != SYNCED:
                continue
            if place[0] != self._kept[room][1] and self._damaged_between(known, self._t):
                continue
            if message.level in STORED:
                self._verdict.fault("lost", known, f"{key}: {room} {place}, acknowledged as {message.level}")
            elif (room, place[0]) not in self._volatile:
                self._verdict.fault("lost", known, f"{key}: {room} {place} was heard")

    def _judge_order(self) -> None:
        last: dict[tuple[int, str], tuple[int, str, str]] = {}
        for key, message in self._messages.items():
            if message.place is None or message.times > 1 or message.refused:
                continue
            epoch, offset = message.place
            before = last.get((message.conn, message.room))
            if before is not None and before[1] == epoch and offset < before[0]:
                self._verdict.fault("order", message.said, f"{key} was said after {before[2]} and is before it")
            last[message.conn, message.room] = (offset, epoch, key)

    def _judge_end(self) -> None:
        end = self._t
        for key, message in self._messages.items():
            if not message.acked:
                self._verdict.fault("unanswered", message.said_last, f"{key} in {message.room}")
        if self._kept:
            for (room, user), banned in self._bans.items():
                self._verdict.fault("odd", banned, f"nobody asked whether {user} is still banned in {room}")
        for connection in self._conns.values():
            for room, stream in connection.streams.items():
                if room in self._kept and (stream.epoch, stream.offset) != self._kept[room][1:3]:
                    top = self._kept[room][1:3]
                    self._verdict.fault("tail", end, f"{connection.user} in {room} is at {stream}, the room at {top}")
        for user, absence in self._absent.items():
            self._verdict.fault("tail", absence.since, f"{user} never came back to {sorted(absence.rooms)}")

    def _count(self) -> None:
        figures = self._verdict.figures
        figures.update(self._counts)
        figures["said"] = len(self._messages)
        figures["private_said"] = len(self._letters.letters)
        figures["said_again"] = sum(message.times - 1 for message in self._messages.values())
        for level in ("accepted", "stored", "synced"):
            figures[level] = sum(1 for message in self._messages.values() if message.level == level)
        for kind, count in self._fault_counts.items():
            figures[f"faults: {kind}"] = count
        for name, latency in self._latency.items():
            began, ended = self._phases.get(name, (0, 0))
            heard = latency.total()
            figures[f"{name}: deliveries a second"] = round(heard / max((ended - began) / 1e6, 1e-6))
            for share in (50, 99):
                figures[f"{name}: latency p{share} ms"] = percentile(latency, share) / 10
        calm, hurt = (figures.get(f"{name}: latency p99 ms", 0) for name in ("calm", "faults"))
        figures["latency p99, faults to calm"] = round(hurt / calm, 2) if calm else 0
        if self._returns:
            figures["return p50 s"], figures["return p99 s"] = (quantile(self._returns, share) for share in (50, 99))
            figures["return max s"] = max(self._returns)
        for target, outages in self._outages.items():
            figures[f"outage of {target}: p50 s"] = quantile(outages, 50)
            figures[f"outage of {target}: max s"] = max(outages)

    _TAKERS = {
        "run": _on_run,
        "phase": _on_phase,
        "fault": _on_fault,
        "dark": _on_dark,
        "cut": _on_cut,
        "damage": _on_damage,
        "alarm": _on_alarm,
        "open": _on_open,
        "close": _on_close,
        "say": _on_say,
        "ack": _on_ack,
        "refuse": _on_refuse,
        "join": _on_join,
        "leave": _on_leave,
        "old": _on_old,
        "hear": _on_hear,
        "gap": _on_gap,
        "status": _on_status,
        "write": _on_write,
        "posted": _on_posted,
        "returned": _on_returned,
        "post": _on_post,
        "confirm": _on_confirm,
        "inbox": _on_inbox,
        "ban": _on_ban,
        "door": _on_door,
        "kept": _on_kept,
        "pass": _on_pass,
        "gone": _on_gone,
        "members": _on_members,
        "view": _on_view,
        "odd": _on_odd,
    }


def _difference(told: Set[str], there: Set[str]) -> str:
    return f"too many: {sorted(told - there)[:5]}, missing: {sorted(there - told)[:5]}"
