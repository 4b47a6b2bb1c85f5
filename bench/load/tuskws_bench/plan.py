"""What is to be measured (Scenario), and which part of it each load process does (Share). Values only, no I/O.

    Scenario ── shares() ──> Share 0 … Share n-1, one a load process; each is pickled to its process once

A room's publishers are members too. One room is spread over all processes; many rooms are dealt out whole, so that a
publisher's window sees every member of its room. Publisher numbers are unique over all processes:
room r has the numbers r * publishers … r * publishers + publishers - 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal[
    "fanout", "slow", "rooms", "mixed", "private", "presence", "echo", "join", "reconnect", "handshake", "idle"
]
Protocol = Literal["tusk", "raw", "nats", "socketio", "nchan"]
Action = Literal["publish", "ping", "presence", "private", "join", "none"]
# How safe a message is to be before it is acknowledged; "none": no acknowledgement is asked for.
Level = Literal["none", "accepted", "stored", "synced"]

# Members of one or many rooms; one connection each; in no room at all; nothing is said; nobody is asked to do anything.
ROOM_KINDS: tuple[Kind, ...] = ("fanout", "slow", "rooms", "mixed", "presence", "join", "reconnect")
LONE_KINDS: tuple[Kind, ...] = ("echo", "private")
LOOSE_KINDS: tuple[Kind, ...] = ("handshake", "idle")
SILENT_KINDS: tuple[Kind, ...] = ("join", "reconnect", "handshake", "idle")
RESTING_KINDS: tuple[Kind, ...] = ("idle", "join")
# Messages that get a place in a sequence.
ORDERED_KINDS: tuple[Kind, ...] = ("fanout", "slow", "rooms", "mixed", "private")
# What only our protocol has.
TUSK_KINDS: tuple[Kind, ...] = ("private", "presence", "mixed")

# What a run counts, by kind; where it is not named, a delivery.
UNITS: dict[Kind, str] = {"echo": "reply", "presence": "reply", "reconnect": "reconnect", "handshake": "handshake"}
PLURALS = {"delivery": "deliveries", "reply": "replies", "reconnect": "reconnects", "handshake": "handshakes"}

FIXED_PATHS: dict[Protocol, str] = {"nats": "/", "socketio": "/socket.io/?EIO=4&transport=websocket"}
STAMP_BYTES = 16


class PlanError(ValueError):
    """The flags contradict each other; the text is for the person who gave them."""


@dataclass(frozen=True, slots=True)
class RoomShare:
    """`members` in this process; the last `slow` of them do not read while messages are published. `same_members`: they
    are those of the room before."""

    name: str
    members: int
    publisher_base: int
    publisher_count: int
    publishers: tuple[int, ...]
    slow: int = 0
    same_members: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What the compiled client of one process needs; see loadclient.pyx for the meaning of each field."""

    index: int
    core: int | None
    address: str
    port: int
    authority: str
    path: str
    token: str
    dialect: Protocol
    tls: bool
    compression: bool
    action: Action
    level: Level
    batch: bool
    window: int
    interval_ns: int
    phase_ns: int
    open_interval_ns: int
    drops: int
    drop_interval_ns: int
    churn: bool
    side_connections: int
    side_interval_ns: int
    run: int
    payload: int
    connect_burst: int
    base_ns: int
    publisher_total: int
    loose_connections: int
    rooms: list[RoomShare]

    @property
    def connections(self) -> int:
        return self.loose_connections + sum(room.members for room in self.rooms if not room.same_members)

    @property
    def fans_out(self) -> bool:
        """A message reaches all members of its room; else what is done concerns one connection alone."""
        return self.action in ("publish", "private")

    @property
    def slow(self) -> int:
        return sum(room.slow for room in self.rooms)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. `rate` 0 is the closed loop: each publisher keeps `window` messages outstanding.

    `rooms_each`: so many rooms have the same members, so there may be more rooms than connections.
    `slow`: per cent of a room's members that do not read. `drop`: per cent of all connections that are dropped
    (reconnect), `drop_rate` of them a second, 0: all at once. `side`: connections of `mixed` that send other commands.
    """

    kind: Kind
    url: str = "ws://127.0.0.1:8080/"
    protocol: Protocol = "tusk"
    rooms: int = 1
    rooms_each: int = 1
    members: int = 1000
    publishers: int = 1
    payload: int = 128
    wire: int = 0
    rate: float = 0.0
    window: int = 64
    level: Level = "none"
    batch: bool = False
    compression: bool = False
    slow: float = 0.0
    drop: float = 100.0
    drop_rate: float = 0.0
    side: int = 0
    side_rate: float = 0.0
    duration_s: float = 10.0
    warmup_s: float = 2.0
    settle_s: float = 2.0
    connect_timeout_s: float = 60.0
    drain_timeout_s: float = 5.0
    processes: int = 1
    cores: tuple[int, ...] = ()
    connect_burst: int = 64
    connect_rate: float = 0.0
    server_pid: int = 0
    token: str = field(default="", repr=False)

    @property
    def connections(self) -> int:
        rooms = self.rooms // self.rooms_each if self.kind in ROOM_KINDS else 1
        return rooms * self.members + self.side

    @property
    def open_loop(self) -> bool:
        return self.rate > 0

    @property
    def publishes(self) -> bool:
        return self.kind not in SILENT_KINDS

    @property
    def unit(self) -> str:
        return UNITS.get(self.kind, "delivery")

    @property
    def dropped(self) -> int:
        """Connections that a reconnect storm drops, all processes together."""
        return round(self.connections * self.drop / 100) if self.kind == "reconnect" else 0

    def endpoint(self) -> tuple[str, int, str, str]:
        """(host, port, authority for the Host header, path)."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise PlanError(f"--url must be ws://HOST:PORT/PATH or wss://HOST:PORT/PATH, not {self.url!r}")
        path = parts.path or "/"
        port = parts.port or (443 if self.tls else 80)
        return parts.hostname, port, parts.netloc, path + (f"?{parts.query}" if parts.query else "")

    @property
    def tls(self) -> bool:
        return self.url.startswith("wss:")

    def payload_bytes(self) -> int:
        """Bytes of one message value (tusk) or of one frame's payload (the others)."""
        if self.protocol == "tusk" or not self.wire:
            return self.payload
        head = 2 if self.wire <= 127 else 4 if self.wire <= 65539 else 10
        return self.wire - head

    def slow_members(self) -> int:
        """Of each room."""
        return round(self.members * self.slow / 100) if self.kind == "slow" else 0

    def validate(self) -> None:
        if self.payload_bytes() < STAMP_BYTES:
            raise PlanError("a message carries a stamp of 16 bytes: --payload at least 16 (--wire at least 18)")
        if self.wire and self.protocol == "tusk":
            raise PlanError("--wire is the length of a raw frame; with --protocol tusk the server decides it")
        if not 0 <= self.slow <= 100 or not 0 < self.drop <= 100:
            raise PlanError("--slow and --drop are per cent")
        if self.kind in TUSK_KINDS and self.protocol != "tusk":
            raise PlanError(f"{self.kind} needs --protocol tusk: the other protocols have no such thing")
        if self.kind in ROOM_KINDS and self.publishes:
            reading = self.members - self.slow_members()
            if not 1 <= self.publishers <= reading:
                raise PlanError("a room's publishers are members of it that read: 1 <= --publishers <= --members")
        if self.publishes and not self.open_loop and self.window < 1:
            raise PlanError("the closed loop needs --window of at least 1 (or give --rate)")
        if self.kind == "private" and self.members < 2 * self.processes:
            raise PlanError("a private message needs two users in each load process")
        if self.level != "none" and (self.protocol != "tusk" or self.batch):
            raise PlanError("--level is for --protocol tusk, and --batch hides the acknowledgements")
        if self.side and self.batch:
            raise PlanError("--batch hides which command a reply belongs to: not with side connections")
        if min(self.rate, self.side_rate, self.drop_rate, self.connect_rate, self.side) < 0:
            raise PlanError("rates are not negative")
        if min(self.members, self.rooms, self.processes, self.connect_burst) < 1:
            raise PlanError("members, rooms, processes and the connect burst are at least 1")
        if self.kind in ROOM_KINDS and 1 < self.rooms < self.processes * self.rooms_each:
            raise PlanError("many rooms are never split: at least as many --rooms as load processes")
        if self.rooms_each > 1 and (self.kind not in ("rooms", "join") or self.protocol != "tusk"):
            raise PlanError("--rooms-each is for rooms and join, and for our protocol")
        if self.rooms_each < 1 or self.rooms % self.rooms_each:
            raise PlanError("--rooms is a multiple of --rooms-each")
        if self.connections < self.processes:
            raise PlanError("more load processes than connections")

    def shares(self, *, address: str, run: int, name: str, base_ns: int) -> list[Share]:
        """`name` makes the room names of this run unique; `run` (0..63) stands in every stamp."""
        self.validate()
        _, port, authority, path = self.endpoint()
        shares = []
        for index in range(self.processes):
            rooms = self._rooms_of(index, name)
            publishers = sum(len(room.publishers) for room in rooms)
            members = sum(room.members for room in rooms)
            side = _part(self.side, index, self.processes)
            loose = _part(self.members, index, self.processes) if self.kind in LOOSE_KINDS else side
            interval_ns = _interval_ns(self.rate * publishers / self.publishers) if self.publishes else 0
            share = Share(
                index=index,
                core=self.cores[index % len(self.cores)] if self.cores else None,
                address=address,
                port=port,
                authority=authority,
                path=self._path(path),
                token=self.token,
                dialect=self.protocol,
                tls=self.tls,
                compression=self.compression,
                action=self._action(),
                level=self.level,
                batch=self.batch,
                window=self.window if self.publishes and not self.open_loop else 0,
                interval_ns=interval_ns,
                phase_ns=interval_ns * index // self.processes,
                open_interval_ns=_interval_ns(self.connect_rate * (members + loose) / self.connections),
                drops=_part(self.dropped, index, self.processes),
                drop_interval_ns=_interval_ns(self.drop_rate / self.processes),
                churn=self.kind == "handshake",
                side_connections=side,
                side_interval_ns=_interval_ns(self.side_rate * side / self.side) if self.side else 0,
                run=run,
                payload=self.payload_bytes(),
                connect_burst=self.connect_burst,
                base_ns=base_ns,
                publisher_total=self._publisher_total(),
                loose_connections=loose,
                rooms=rooms,
            )
            shares.append(share)
        return shares

    def _path(self, path: str) -> str:
        """Empty: the room's own path, which is how a raw server and nchan are told the room."""
        if self.protocol == "tusk":
            return path
        if self.protocol in FIXED_PATHS:
            return FIXED_PATHS[self.protocol]
        if self.kind in LOOSE_KINDS:
            return "/idle"
        return "/echo" if self.kind == "echo" and self.protocol == "raw" else ""

    def _action(self) -> Action:
        if self.kind in LOOSE_KINDS:
            return "none"
        if self.kind in ("join", "reconnect"):
            return "join"
        if self.kind == "echo" and self.protocol == "tusk":
            return "ping"
        if self.kind == "private":
            return "private"
        return "presence" if self.kind == "presence" else "publish"

    def _publisher_total(self) -> int:
        if not self.publishes:
            return 0
        return self.members if self.kind in LONE_KINDS else self.rooms * self.publishers

    def _rooms_of(self, process: int, name: str) -> list[RoomShare]:
        """The rooms of one process, with the part of the members that lives in it."""
        if self.kind in LOOSE_KINDS:
            return []
        if self.kind in LONE_KINDS:  # each connection is a room of one, and a publisher
            numbers = range(process, self.members, self.processes)
            return [RoomShare(f"{name}-{number:06d}", 1, number, 1, (0,)) for number in numbers]
        publishers = self.publishers if self.publishes else 0
        slow = self.slow_members()
        if self.rooms == 1:
            mine = tuple(range(process, publishers, self.processes))
            members = _part(self.members, process, self.processes)
            slow = _part(slow, process, self.processes)
            if len(mine) > members - slow:
                raise PlanError("more publishers than members in a load process: fewer --processes or more --members")
            return [RoomShare(f"{name}-000000", members, 0, publishers, mine, slow)]
        everyone = tuple(range(publishers))
        return [
            RoomShare(f"{name}-{room:06d}", self.members, room * publishers, publishers, everyone, slow, room > first)
            for first in range(process * self.rooms_each, self.rooms, self.processes * self.rooms_each)
            for room in range(first, first + self.rooms_each)
        ]


def _part(total: int, index: int, parts: int) -> int:
    return total // parts + (index < total % parts)


def _interval_ns(rate: float) -> int:
    """0 where there is no rate: then it is not the clock that decides."""
    return max(1, round(1e9 / rate)) if rate > 0 else 0
