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
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.fanout import fan_out
from tuskws_fast_ext.frame import Feed, Frame

from tuskws_fast.ipc.records import Seen, Watch
from tuskws_fast.protocol import codec
from tuskws_fast.worker.receipts import Watches

if TYPE_CHECKING:
    from tuskws_fast.worker.session import Session


# Members here from which on a busy room waits for more to send with: below, a send more is cheap.
TICK_MEMBERS_MIN = 32


# Of all rooms that have nothing waiting, of which there may be very many; replaced before it is written.
_NOTHING: list[bytes] = []
_NOBODY = cast("dict[Connection, int]", MappingProxyType({}))


class LocalRoom:
    """The members of one room on this worker, and how far they have been told."""

    __slots__ = (
        "batch",
        "epoch",
        "feed",
        "first_offset",
        "flushed_at",
        "late",
        "members",
        "name",
        "offset",
        "recovering",
        "told",
        "watches",
    )

    def __init__(self, name: str, epoch: str, offset: int) -> None:
        self.name = name
        self.epoch = epoch
        self.offset = offset
        # `records.Push.told`.
        self.told = 0
        self.members: dict[Connection, None] = {}
        self.batch = _NOTHING
        # Of the batch's first publication; with a feed there is nothing else in a batch.
        self.first_offset = 0
        # What slow readers may miss; None: they are cut off.
        self.feed: Feed | None = None
        self.watches: Watches | None = None
        self.flushed_at = 0.0
        self.recovering = False
        # Who joined while the room was recovering: their join reply held everything up to this offset.
        self.late = _NOBODY


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
        # Rooms whose publishers wait for receipts, and the way to who tells them.
        self._watched: dict[str, LocalRoom] = {}
        self.report: Callable[[Seen], object] = lambda seen: None

    # -- membership --------------------------------------------------------------------------------------------

    def join(
        self, connection: Connection, name: str, epoch: str, offset: int, slow: str = "disconnect", told: int = 0
    ) -> str:
        """`connection` gets every publication after `offset`. Returns the name to keep: one copy for all members.

        `told` is what it knows of who is there: others who are here already have yet to be told.
        """
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = LocalRoom(name, epoch, offset)
            self.treat_slow(name, slow)
            room.told = told
        self.flush_room(room)
        room.members[connection] = None
        if room.watches is not None:
            room.watches.joined(connection, offset)
        if room.epoch != epoch:
            # The first to hear of a new epoch; the others get a Gap of their own.
            self._move(room, epoch, offset)
        elif offset > room.offset:
            room.late = room.late or {}
            room.late[connection] = offset
            self._miss(room)
        return room.name

    def leave(self, connection: Connection, name: str) -> None:
        room = self.rooms.get(name)
        if room is None:
            return
        self.flush_room(room)
        room.members.pop(connection, None)
        if connection in room.late:
            del room.late[connection]
        if room.watches is not None:
            room.watches.left(connection)
        if room.feed is not None:
            connection.end_skip(room.feed, False)
        if not room.members:
            self._forget(room)

    def _forget(self, room: LocalRoom) -> None:
        del self.rooms[room.name]
        self._watched.pop(room.name, None)
        if room.watches is not None:
            for seen in room.watches.changed(self._monotonic()):
                self.report(seen)
        if room.feed is not None:
            # What still waits of it is left out no more: who would be told of that is not in the room.
            room.feed.active = False

    def forget_recovery(self) -> None:
        """The broker that was asked for history is dead; its successor is told every room's position."""
        for room in self.rooms.values():
            room.recovering = False

    def drop_room(self, name: str) -> dict[Connection, None]:
        """Forget the room; returns who was in it."""
        room = self.rooms.get(name)
        if room is None:
            return {}
        self.flush_room(room)
        if room.feed is not None:
            for connection in room.members:
                connection.end_skip(room.feed, False)
        self._forget(room)
        return room.members

    # -- slow readers ------------------------------------------------------------------------------------------

    def treat_slow(self, name: str, slow: str) -> None:
        """What becomes of members who do not read fast enough, from here on."""
        room = self.rooms.get(name)
        if room is None:
            return
        self.flush_room(room)
        if slow == "disconnect":
            self._end_feed(room)
        elif room.feed is None:
            room.feed = Feed(_gap_head(room), slow == "conflate")
        else:
            room.feed.conflate = slow == "conflate"

    @staticmethod
    def _end_feed(room: LocalRoom) -> None:
        """Who was left out so far hears of it now, and what waits of the feed is left out no more."""
        feed, room.feed = room.feed, None
        if feed is not None:
            feed.active = False
            for connection in room.members:
                connection.end_skip(feed, True)

    def _move(self, room: LocalRoom, epoch: str, offset: int) -> None:
        feed = room.feed
        self._end_feed(room)
        if room.epoch != epoch and room.watches is not None:
            for seen in room.watches.end():
                self.report(seen)
        room.epoch, room.offset = epoch, offset
        if feed is not None:
            # Another one: what is left out from here on must not be told in one gap with what was before.
            room.feed = Feed(_gap_head(room), feed.conflate)

    # -- receipts ----------------------------------------------------------------------------------------------

    def watch(self, record: Watch, publisher: Connection | None) -> None:
        """Count who confirms the publication that comes next, and report for how many members it is."""
        room = self.rooms.get(record.room)
        if room is None or room.epoch != record.epoch:
            self.report(Seen(*record, 0, 0))
            return
        if room.watches is None:
            room.watches = Watches()
            self._watched[room.name] = room
        others = len(room.members) - (publisher in room.members)
        self.report(room.watches.add(record, publisher, others, self._monotonic()))

    def unwatch(self, name: str, epoch: str, offset: int) -> None:
        room = self.rooms.get(name)
        if room is not None and room.watches is not None and room.epoch == epoch:
            room.watches.forget(offset)
            self._rest(room)

    def _rest(self, room: LocalRoom) -> None:
        """Stop counting where nobody waits."""
        if not room.watches:
            room.watches = None
            self._watched.pop(room.name, None)

    def confirm(self, connection: Connection, name: str, epoch: str, offset: int) -> bool:
        """A member has everything up to `offset`. False: it is none."""
        room = self.rooms.get(name)
        if room is None or connection not in room.members:
            return False
        if room.watches is not None and epoch in ("", room.epoch):
            for seen in room.watches.confirm(connection, min(offset, room.offset)):
                self.report(seen)
        return True

    def report_changes(self) -> None:
        """Call once a second."""
        now = self._monotonic()
        for room in list(self._watched.values()):
            if room.watches is not None:
                for seen in room.watches.changed(now):
                    self.report(seen)
            self._rest(room)

    def announce_watches(self) -> None:
        """Report all that is counted, to a broker that knows of nothing yet."""
        for room in self._watched.values():
            for seen in room.watches.all() if room.watches is not None else ():
                self.report(seen)

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
        """The broker says where the room stands (it dropped records for us): ask for what is missing.

        Until it is asked it says so no more. So it is asked in any case: also where a replay has already brought what
        was dropped, and where everybody has left (tests/model/drops.py).
        """
        room = self.rooms.get(name)
        if room is None:
            self._recover(name, epoch, offset)
        elif room.epoch != epoch or room.offset < offset:
            self._miss(room)
        elif not room.recovering:
            self._recover(name, room.epoch, room.offset)

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
            targets = {c: None for c in room.members if c not in room.late or room.late[c] < offset}
            self._fan_out(targets, body, None, room)
        # The answer may come in pages, of which this need not be the last.
        room.late = {c: known for c, known in room.late.items() if known > room.offset} or _NOBODY

    def gap(self, name: str, epoch: str, first: int, last: int) -> None:
        """Tell the members what they will not get, and go on from `last`."""
        room = self.rooms.get(name)
        if room is None:
            return
        self.gaps += 1
        room.recovering = False
        room.late = _NOBODY
        self.flush_room(room)
        self._move(room, epoch, last)
        body = codec.encode({"type": "gap", "room": name, "epoch": epoch, "from": first, "to": last})
        self._append(room, body)

    # -- unsequenced -----------------------------------------------------------------------------------------------

    def push(self, name: str, body: bytes, exclude: Connection | None, told: int = 0) -> None:
        room = self.rooms.get(name)
        if room is None:
            return
        room.told = told
        if exclude is None:
            self._append(room, body)
        else:
            self.flush_room(room)
            self._fan_out(room.members, body, exclude)

    def sharing(self, rooms: dict[str, int], wants: Callable[[Session], bool]) -> dict[Connection, None]:
        """The connections that are in at least one of these rooms and whose session `wants` it, each once, to be told
        what changes the rooms' `told` to these."""
        found: dict[Connection, None] = {}
        for name, told in rooms.items():
            room = self.rooms.get(name)
            if room is not None:
                room.told = told
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
            room.batch = _NOTHING
            frame = Frame(batch, self._clock(), False, room.feed, room.first_offset)
            self.deliveries += len(batch) * fan_out(room.members, frame)

    def _queue(self, room: LocalRoom, body: bytes, exclude: Connection | None) -> None:
        """The publication with offset `room.offset`."""
        if exclude is not None:
            self.flush_room(room)
            self._fan_out(room.members, body, exclude, room)
            return
        if room.batch:
            room.batch.append(body)
            return
        self._active.append(room)
        room.first_offset = room.offset
        room.batch = [body]

    def _append(self, room: LocalRoom, body: bytes) -> None:
        if room.feed is not None:
            # It is not to be left out with the publications.
            self.flush_room(room)
            self._fan_out(room.members, body, None)
        elif room.batch:
            room.batch.append(body)
        else:
            self._active.append(room)
            room.batch = [body]

    def _fan_out(
        self, members: dict[Connection, None], body: bytes, exclude: Connection | None, room: LocalRoom | None = None
    ) -> None:
        """`room`: `body` is its publication with offset `room.offset`."""
        if room is None:
            frame = Frame([body], self._clock())
        else:
            frame = Frame([body], self._clock(), False, room.feed, room.offset)
        self.deliveries += fan_out(members, frame, exclude)


def _gap_head(room: LocalRoom) -> bytes:
    return codec.encode({"type": "gap", "room": room.name, "epoch": room.epoch})[:-1]
