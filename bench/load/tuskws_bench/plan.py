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

Kind = Literal["fanout", "rooms", "echo", "idle"]
Protocol = Literal["tusk", "raw"]


class PlanError(ValueError):
    """The flags contradict each other; the text is for the person who gave them."""


@dataclass(frozen=True, slots=True)
class RoomShare:
    name: str
    members: int
    publisher_base: int
    publisher_count: int
    publishers: tuple[int, ...]


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
    raw: bool
    action: Literal["publish", "ping", "none"]
    batch: bool
    window: int
    interval_ns: int
    phase_ns: int
    run: int
    payload: int
    connect_burst: int
    base_ns: int
    publisher_total: int
    loose_connections: int
    rooms: list[RoomShare]

    @property
    def connections(self) -> int:
        return self.loose_connections + sum(room.members for room in self.rooms)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. `rate` 0 is the closed loop: each publisher keeps `window` messages outstanding."""

    kind: Kind
    url: str = "ws://127.0.0.1:8080/"
    protocol: Protocol = "tusk"
    rooms: int = 1
    members: int = 1000
    publishers: int = 1
    payload: int = 128
    wire: int = 0
    rate: float = 0.0
    window: int = 64
    batch: bool = False
    duration_s: float = 10.0
    warmup_s: float = 2.0
    settle_s: float = 2.0
    connect_timeout_s: float = 60.0
    drain_timeout_s: float = 5.0
    processes: int = 1
    cores: tuple[int, ...] = ()
    connect_burst: int = 64
    server_pid: int = 0
    token: str = field(default="", repr=False)

    @property
    def connections(self) -> int:
        return self.rooms * self.members if self.kind in ("fanout", "rooms") else self.members

    @property
    def open_loop(self) -> bool:
        return self.rate > 0

    def endpoint(self) -> tuple[str, int, str, str]:
        """(host, port, authority for the Host header, path)."""
        parts = urlsplit(self.url)
        if parts.scheme != "ws" or not parts.hostname:
            raise PlanError(f"--url must be ws://HOST:PORT/PATH, not {self.url!r}")
        path = parts.path or "/"
        return parts.hostname, parts.port or 80, parts.netloc, path + (f"?{parts.query}" if parts.query else "")

    def payload_bytes(self) -> int:
        """Bytes of one message value (tusk) or of one frame's payload (raw)."""
        if self.protocol == "tusk" or not self.wire:
            return self.payload
        head = 2 if self.wire <= 127 else 4 if self.wire <= 65539 else 10
        return self.wire - head

    def validate(self) -> None:
        if self.payload_bytes() < 16:
            raise PlanError("a message carries a stamp of 16 bytes: --payload at least 16 (--wire at least 18)")
        if self.wire and self.protocol == "tusk":
            raise PlanError("--wire is the length of a raw frame; with --protocol tusk the server decides it")
        if self.kind in ("fanout", "rooms") and not 1 <= self.publishers <= self.members:
            raise PlanError("a room's publishers are members of it: 1 <= --publishers <= --members")
        if not self.open_loop and self.window < 1:
            raise PlanError("the closed loop needs --window of at least 1 (or give --rate)")
        if min(self.members, self.rooms, self.processes, self.connect_burst) < 1:
            raise PlanError("members, rooms, processes and the connect burst are at least 1")
        if self.connections < self.processes:
            raise PlanError("more load processes than connections")

    def shares(self, *, address: str, run: int, name: str, base_ns: int) -> list[Share]:
        """`name` makes the room names of this run unique; `run` (0..63) stands in every stamp."""
        self.validate()
        _, port, authority, path = self.endpoint()
        raw = self.protocol == "raw"
        rooms = [self._rooms_of(index, name) for index in range(self.processes)]
        shares = []
        for index, (mine, loose) in enumerate(rooms):
            publishers = sum(len(room.publishers) for room in mine)
            interval_ns = 0
            if self.open_loop and publishers:
                interval_ns = max(1, round(1e9 * self.publishers / (self.rate * publishers)))
            shares.append(
                Share(
                    index=index,
                    core=self.cores[index % len(self.cores)] if self.cores else None,
                    address=address,
                    port=port,
                    authority=authority,
                    path=self._path(raw, path),
                    token=self.token,
                    raw=raw,
                    action=self._action(raw),
                    batch=self.batch,
                    window=0 if self.open_loop or self.kind == "idle" else self.window,
                    interval_ns=interval_ns,
                    phase_ns=interval_ns * index // self.processes,
                    run=run,
                    payload=self.payload_bytes(),
                    connect_burst=self.connect_burst,
                    base_ns=base_ns,
                    publisher_total=self._publisher_total(),
                    loose_connections=loose,
                    rooms=mine,
                )
            )
        return shares

    def _path(self, raw: bool, path: str) -> str:
        """Empty: the room's own path, which is how a raw server is told the room."""
        if not raw:
            return path
        return {"fanout": "", "rooms": "", "echo": "/echo", "idle": "/idle"}[self.kind]

    def _action(self, raw: bool) -> Literal["publish", "ping", "none"]:
        if self.kind == "idle":
            return "none"
        return "ping" if self.kind == "echo" and not raw else "publish"

    def _publisher_total(self) -> int:
        if self.kind == "idle":
            return 0
        return self.members if self.kind == "echo" else self.rooms * self.publishers

    def _rooms_of(self, process: int, name: str) -> tuple[list[RoomShare], int]:
        """The rooms of one process, and its connections outside any room."""
        if self.kind == "idle":
            return [], _part(self.members, process, self.processes)
        if self.kind == "echo":  # each connection is a room of one that it publishes to
            numbers = range(process, self.members, self.processes)
            return [RoomShare(f"{name}-{number:06d}", 1, number, 1, (0,)) for number in numbers], 0
        if self.rooms == 1:
            mine = tuple(range(process, self.publishers, self.processes))
            members = _part(self.members, process, self.processes)
            if len(mine) > members:
                raise PlanError("more publishers than members in a load process: fewer --processes or more --members")
            return [RoomShare(f"{name}-000000", members, 0, self.publishers, mine)], 0
        everyone = tuple(range(self.publishers))
        return [
            RoomShare(f"{name}-{room:06d}", self.members, room * self.publishers, self.publishers, everyone)
            for room in range(process, self.rooms, self.processes)
        ], 0


def _part(total: int, index: int, parts: int) -> int:
    return total // parts + (index < total % parts)
