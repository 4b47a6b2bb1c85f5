"""Who of a room's members here has confirmed which publication, for publishers that asked to know.

    watches    offset 7: 5 members, 3 have confirmed      offset 9: 6 members, 1 has
    acked      ann ─▶ 9    bob ─▶ 7    (carl joined at 8)     confirmation is cumulative: one number a member

Nothing is kept of a room in which nobody waits for a receipt. A member that came after a publication is taken to have
confirmed what was before it, so that it never counts for that. Pure; time is an argument.
"""

from __future__ import annotations

from tuskws_fast_ext.connection import Connection

from tuskws_fast.ipc.records import Seen
from tuskws_fast.ipc.records import Watch as WatchRecord

# As long as the broker waits at most, and a little: what is late by then finds nobody who wants to know.
WATCH_S = 31.0


class Watch:
    __slots__ = ("acked", "delivered", "is_changed", "publisher", "record", "until")

    def __init__(self, record: WatchRecord, publisher: Connection | None, delivered: int, until: float) -> None:
        self.record = record
        self.publisher = publisher
        self.delivered = delivered
        self.acked = 0
        self.is_changed = False
        self.until = until

    def seen(self) -> Seen:
        self.is_changed = False
        return Seen(*self.record, self.delivered, self.acked)


class Watches:
    def __init__(self) -> None:
        # In the order of their offsets.
        self._watches: list[Watch] = []
        self._acked: dict[Connection, int] = {}

    def __bool__(self) -> bool:
        return bool(self._watches)

    def add(self, record: WatchRecord, publisher: Connection | None, members: int, now: float) -> Seen:
        """`members`: whom the publication is for, without its publisher."""
        watch = Watch(record, publisher, members, now + WATCH_S)
        self._watches.append(watch)
        return watch.seen()

    def joined(self, connection: Connection, offset: int) -> None:
        self._acked[connection] = offset

    def left(self, connection: Connection) -> None:
        """What it has confirmed stays counted. In a room that is never without a watch it would be held for ever."""
        self._acked.pop(connection, None)

    def confirm(self, connection: Connection, offset: int) -> list[Seen]:
        """Returns what has now been confirmed by all."""
        known = self._acked.get(connection, 0)
        if offset <= known:
            return []
        self._acked[connection] = offset
        complete = []
        for watch in self._watches:
            if known < watch.record.offset <= offset and watch.publisher is not connection:
                watch.acked += 1
                watch.is_changed = True
                if watch.acked == watch.delivered:
                    complete.append(watch.seen())
        return complete

    def changed(self, now: float) -> list[Seen]:
        """What has to be told; what nobody can wait for any more is forgotten."""
        seen = [watch.seen() for watch in self._watches if watch.is_changed]
        self._watches = [each for each in self._watches if now < each.until]
        return seen

    def forget(self, offset: int) -> None:
        self._watches = [each for each in self._watches if each.record.offset != offset]

    def end(self) -> list[Seen]:
        """Another epoch has begun: offsets that are confirmed from here on are not those that are watched."""
        seen = self.all()
        self._watches.clear()
        self._acked.clear()
        return seen

    def all(self) -> list[Seen]:
        return [watch.seen() for watch in self._watches]
