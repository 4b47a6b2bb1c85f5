"""What members who come back are given, made once for all who come from the same place.

    since 40, top 46     [ page: 41,42,43,44,45,46 ]            the first who asks: the history is read, the page made
    since 40, top 46     the same page                          everybody else
    since 40, top 48     the same page, and 47,48 at its end    only what is new is read

When a worker dies, thousands ask at once from nearly the same position. What each gets differs in its head alone, so
only that is made for each. Pages are kept for a few seconds, within a bound on all of them.
"""

from __future__ import annotations

from collections import OrderedDict

from tuskws_fast.broker.state import Core, Room
from tuskws_fast.broker.timers import Timer
from tuskws_fast.rooms.history import History
from tuskws_fast.rooms.recovery import replay_since

# Heads differ by a name more or less: pages are cut as if each were a multiple of this.
_STEP_BYTES = 4096

# Room, position, and what is free on the first page.
_Key = tuple[str, str, int, int]


class Pages:
    """The messages from one offset on, joined, page by page. `parts` of a page are waiting to be joined."""

    __slots__ = ("_free", "_page_bytes", "_parts", "bytes", "history", "pages", "until", "upto")

    def __init__(self, history: History, after: int, first_bytes: int, page_bytes: int, until: float) -> None:
        self.history = history
        self.upto = after
        self.until = until
        self.pages: list[bytes] = []
        self.bytes = 0
        self._parts: list[bytes] = []
        self._free = first_bytes
        self._page_bytes = page_bytes

    def extend(self, bodies: list[bytes]) -> None:
        for body in bodies:
            length = len(body) + 1  # the comma
            if length > self._free and (self._parts or not self.pages):
                self.pages.append(b",".join(self._parts))
                self._parts = []
                self._free = self._page_bytes
            self._parts.append(body)
            self._free -= length
            self.bytes += length
        self.upto += len(bodies)

    def joined(self) -> list[bytes]:
        """All pages; the first may be empty, and there always is one."""
        if len(self._parts) > 1:
            self._parts = [b",".join(self._parts)]
        return [*self.pages, self._parts[0] if self._parts else b""]


class Replays:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: OrderedDict[_Key, Pages] = OrderedDict()
        self._held = 0
        self._armed = False

    def since(self, room: Room, since: tuple[str, int], first_bytes: int, page_bytes: int) -> list[bytes] | None:
        """Everything after `since`, as pages of joined messages, the first of at most `first_bytes`; None: it cannot be
        given. Raises `OnShelf`."""
        core, history = self._core, room.history
        first_bytes = max(first_bytes, 0) // _STEP_BYTES * _STEP_BYTES
        key = (room.name, *since, first_bytes)
        pages = self._known.get(key)
        if pages is not None and pages.history is history and room.epoch == since[0]:
            history.trim(core.now)
            new = history.between(pages.upto + 1, history.top, core.now)
            if new is not None and since[1] >= history.kept_from - 1:
                core.counters["replays_shared"] += 1
                self._keep(key, pages, new)
                return pages.joined()
        replay = replay_since(history, room.epoch, room.base, since, 0, core.now, core.limits.replay_bytes_max)
        if not replay.recovered:
            if history.shelved_from(since[1] + 1) > core.limits.replay_bytes_max:
                core.counters["replay_bytes_max"] += 1
            return None
        if not replay.bodies:
            return [b""]
        core.counters["replays_made"] += 1
        pages = Pages(history, since[1], first_bytes, page_bytes, core.now + core.limits.replays_s)
        self._keep(key, pages, replay.bodies)
        return pages.joined()

    def _keep(self, key: _Key, pages: Pages, new: list[bytes]) -> None:
        known = self._known
        if known.get(key) is not pages:
            self._forget(key)
            known[key] = pages
        before = pages.bytes
        pages.extend(new)
        self._held += pages.bytes - before
        while self._held > self._core.limits.replays_bytes_max and len(known) > 1:
            self._forget(next(iter(known)))
        self._arm()

    def _forget(self, key: _Key) -> None:
        gone = self._known.pop(key, None)
        if gone is not None:
            self._held -= gone.bytes

    def _arm(self) -> None:
        if self._known and not self._armed:
            self._armed = True
            self._core.timers.add(next(iter(self._known.values())).until, Timer.REPLAYS)

    def expire(self) -> None:
        self._armed = False
        while self._known and next(iter(self._known.values())).until <= self._core.now:
            self._forget(next(iter(self._known)))
        self._arm()
