"""Who of this worker is in which room, and what a publication becomes for them.

    Publication ─▶ batch of the room ─▶ (end of drain) one Frame ─▶ fan_out ─▶ queues ─▶ flush point

All publications of a room that one wake-up brings are framed into one buffer, once, whatever the number of members.
Whatever must not overtake them (a join, a leave, a push with an exception) flushes the room's batch first.

A busy room of many members waits up to a tick for more to send with: a send costs the kernel the same for one message
as for ten. The first message after a pause never waits.

The hub also keeps each room's position. Publications of a room arrive in order and without gaps, or the down ring
overran: then `publish` reports a hole, nothing more of that room is passed on, and the history since the last offset
is asked for once. Members never see an offset twice, nor one after a silent hole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.fanout import fan_out
from tuskws_fast_ext.frame import Frame

from tuskws_fast.protocol import codec

if TYPE_CHECKING:
    from tuskws_fast.worker.session import Session


# Members here from which on a busy room waits for more to send with: below, a send more is cheap.
TICK_MEMBERS_MIN = 32


class LocalRoom:
    """The members of one room on this worker, and how far they have been told."""

    __slots__ = ("batch", "epoch", "flushed_at", "late", "members", "name", "offset", "recovering")

    def __init__(self, name: str, epoch: str, offset: int) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = offset
        self.members: dict[Connection, None] = {}
        self.batch: list[bytes] = []
        self.flushed_at = 0.0
        self.recovering = False
        # Who joined while the room was recovering: their join reply held everything up to this offset.
        self.late: dict[Connection, int] = {}


class Hub:
    """`clock` gives Unix time for `batch` messages; `recover(room, epoch, offset)` asks the broker for history. A busy
    room is flushed every `tick_s` seconds (0: whenever there is something), by `call_later` where nothing else does."""

    def __init__(
        self,
        clock: Callable[[], float],
        recover: Callable[[str, str, int], None],
        tick_s: float,
        call_later: Callable[[float, Callable[[], None]], object],
        monotonic: Callable[[], float],
    ) -> None:
        self.rooms: dict[str, LocalRoom] = {}
        self.deliveries = 0
        self.holes = 0
        self.gaps = 0
        self._clock = clock
        self._recover = recover
        self._active: list[LocalRoom] = []
        self._tick_s = tick_s
        self._call_later = call_later
        self._monotonic = monotonic
        self._ticking = False

    # -- membership --------------------------------------------------------------------------------------------

    def join(self, connection: Connection, name: str, epoch: str, offset: int) -> None:
        """`connection` gets every publication after `offset`."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = LocalRoom(name, epoch, offset)
        self.flush_room(room)
        room.members[connection] = None
        if room.epoch != epoch:
            # The first to hear of a new epoch; the others get a Gap of their own.
            room.epoch, room.offset = epoch, offset
        elif offset > room.offset:
            if len(room.members) == 1:
                room.offset = offset
            else:
                room.late[connection] = offset
                self._miss(room)

    def leave(self, connection: Connection, name: str) -> None:
        room = self.rooms.get(name)
        if room is None:
            return
        self.flush_room(room)
        room.members.pop(connection, None)
        room.late.pop(connection, None)
        if not room.members:
            del self.rooms[name]

    def forget_recovery(self) -> None:
        """The broker that was asked for history is dead; its successor is told every room's position."""
        for room in self.rooms.values():
            room.recovering = False

    def drop_room(self, name: str) -> dict[Connection, None]:
        """Forget the room; returns who was in it."""
        room = self.rooms.pop(name, None)
        if room is None:
            return {}
        self.flush_room(room)
        return room.members

    # -- sequenced -----------------------------------------------------------------------------------------------

    def publish(self, name: str, offset: int, body: bytes, exclude: Connection | None) -> None:
        room = self.rooms.get(name)
        if room is None or room.recovering or offset <= room.offset:
            # Nobody left; or the answer to `Recover` will hold it; or it did already.
            return
        if offset != room.offset + 1:
            self._miss(room)
            return
        room.offset = offset
        self._queue(room, body, exclude)

    def check(self, name: str, epoch: str, offset: int) -> None:
        """The broker says where the room stands (it dropped records for us): ask for what is missing."""
        room = self.rooms.get(name)
        if room is not None and (room.epoch != epoch or room.offset < offset):
            self._miss(room)

    def _miss(self, room: LocalRoom) -> None:
        if not room.recovering:
            room.recovering = True
            self.holes += 1
            self._recover(room.name, room.epoch, room.offset)

    def recovered(self, name: str, epoch: str, publications: list[tuple[int, bytes]]) -> None:
        room = self.rooms.get(name)
        if room is None or room.epoch != epoch:
            return
        room.recovering = False
        for offset, body in publications:
            if offset <= room.offset:
                continue
            room.offset = offset
            # Whom the publisher left out (`echo: false`) is not in history: after a hole it gets its own message too.
            behind = [connection for connection, known in room.late.items() if known >= offset]
            if not behind:
                self._queue(room, body, None)
                continue
            self.flush_room(room)
            self._fan_out({c: None for c in room.members if c not in room.late or room.late[c] < offset}, body, None)
        room.late.clear()

    def gap(self, name: str, epoch: str, first: int, last: int) -> None:
        """Tell the members what they will not get, and go on from `last`."""
        room = self.rooms.get(name)
        if room is None:
            return
        self.gaps += 1
        room.recovering = False
        room.late.clear()
        room.epoch, room.offset = epoch, last
        body = codec.encode({"type": "gap", "room": name, "epoch": epoch, "from": first, "to": last})
        self._append(room, body)

    # -- unsequenced -----------------------------------------------------------------------------------------------

    def push(self, name: str, body: bytes, exclude: Connection | None) -> None:
        room = self.rooms.get(name)
        if room is None:
            return
        if exclude is None:
            self._append(room, body)
        else:
            self.flush_room(room)
            self._fan_out(room.members, body, exclude)

    def sharing(self, names: list[str], wants: Callable[[Session], bool]) -> dict[Connection, None]:
        """The connections that are in at least one of these rooms and whose session `wants` it, each once."""
        found: dict[Connection, None] = {}
        for name in names:
            room = self.rooms.get(name)
            if room is not None:
                self.flush_room(room)
                for connection in room.members:
                    session = connection.session
                    if session is not None and wants(session):  # type: ignore[arg-type]
                        found[connection] = None
        return found

    def send_to(self, connections: dict[Connection, None], body: bytes) -> None:
        self._fan_out(connections, body, None)

    # -- out -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Frame and fan out what each room has waiting, or leave it to the tick: call at the end of every drain."""
        active, self._active = self._active, []
        now = self._monotonic()
        for room in active:
            if len(room.members) < TICK_MEMBERS_MIN or now >= room.flushed_at + self._tick_s:
                room.flushed_at = now
                self.flush_room(room)
            elif room.batch:
                self._active.append(room)
        if self._active and not self._ticking:
            self._ticking = True
            self._call_later(self._tick_s, self._on_tick)

    def _on_tick(self) -> None:
        self._ticking = False
        self.flush()

    def flush_room(self, room: LocalRoom) -> None:
        batch = room.batch
        if batch:
            room.batch = []
            self.deliveries += len(batch) * fan_out(room.members, Frame(batch, self._clock()))

    def _queue(self, room: LocalRoom, body: bytes, exclude: Connection | None) -> None:
        if exclude is None:
            self._append(room, body)
        else:
            self.flush_room(room)
            self._fan_out(room.members, body, exclude)

    def _append(self, room: LocalRoom, body: bytes) -> None:
        if not room.batch:
            self._active.append(room)
        room.batch.append(body)

    def _fan_out(self, members: dict[Connection, None], body: bytes, exclude: Connection | None) -> None:
        self.deliveries += fan_out(members, Frame([body], self._clock()), exclude)
