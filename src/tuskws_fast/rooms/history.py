"""The last publications of one sequence (a room, or a user's inbox), kept for whoever comes back.

    offsets      1 … 41 │ 42 43 44 45 46          top = 46
    kept                └─ count, bytes and age bound it; the oldest go first, never one from the middle

Offsets have no holes, so they are not stored: the oldest kept entry is `top - len + 1`. An entry is the complete push,
encoded, as members received it. Age is measured on the clock of `now` (monotonic).

All histories share one `Tally`. When it is full, the history that grows drops its own oldest: memory is bounded
whatever the number of rooms, and a replay that is no longer whole is refused (`replay` returns None), never shortened.

A room whose messages are in the journal may keep more than it has in memory: the oldest then go onto a `Shelf`, and who
asks for them meets `OnShelf` until they have been fetched into a `Window`. The bounds of the room hold for both parts
together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from tuskws_fast.rooms.shelf import OnShelf, Shelf, Stacks, Window

Entry = tuple[float, bytes]
# Of all histories that hold nothing, of which there may be one a room: an empty deque alone takes 624 bytes. One that
# is to hold something gets its own.
_NOTHING: deque[Entry] = deque(maxlen=0)


class Tally:
    """How many bytes all histories hold together, and may; `trimmed` counts how often that bound made one shorter."""

    __slots__ = ("bytes", "bytes_max", "trimmed")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max
        self.trimmed = 0


class History:
    """`stacks`: what is `written` in the journal as `scope` may leave memory; None: all that is kept is there."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_entries",
        "_size",
        "_stacks",
        "_tail_max",
        "_tally",
        "_ttl_s",
        "reaches",
        "scope",
        "shelf",
        "top",
        "windows",
        "written",
    )

    def __init__(
        self,
        tally: Tally,
        size: int,
        ttl_s: float,
        bytes_max: int,
        stacks: Stacks[History] | None = None,
        scope: str = "",
    ) -> None:
        self.top = 0
        self._entries = _NOTHING
        self._bytes = 0
        self._tally = tally
        self._size = size
        self._ttl_s = ttl_s
        self._bytes_max = bytes_max
        self._stacks = stacks
        self._bound_memory()
        self.scope = scope
        self.written = False
        self.shelf: Shelf | None = None
        # Made by who fetches.
        self.windows: Sequence[Window] = ()

    def _bound_memory(self) -> None:
        stacks = self._stacks
        # Whether it may keep more than it has in memory.
        self.reaches = stacks is not None and stacks.memory_max < self._bytes_max
        self._tail_max = self._bytes_max if stacks is None else min(self._bytes_max, stacks.memory_max)

    def __len__(self) -> int:
        return self.top - self.kept_from + 1

    @property
    def bytes_kept(self) -> int:
        return self._bytes

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    @property
    def oldest_at(self) -> float | None:
        """When the oldest entry in memory was appended."""
        if self._entries:
            return self._entries[0][0]
        return self.shelf.chunks[-1].newest_at if self.shelf is not None else None

    @property
    def oldest_offset(self) -> int:
        """Of the oldest entry that is in memory; where none is, the next one's."""
        return self.top - len(self._entries) + 1

    @property
    def kept_from(self) -> int:
        """The oldest offset that is kept, wherever."""
        return self.shelf.first if self.shelf is not None else self.oldest_offset

    def append(self, body: bytes, now: float) -> int:
        """Give `body` the next offset, and keep it as long as the bounds allow. Returns the offset."""
        self.top += 1
        if self._size == 0:
            return self.top
        entries, tally = self._entries, self._tally
        if entries is _NOTHING:
            entries = self._entries = deque()
        entries.append((now, body))
        length = len(body)
        self._bytes += length
        tally.bytes += length
        if len(entries) > self._size or self._bytes > self._tail_max or entries[0][0] <= now - self._ttl_s:
            self.trim(now)
        if tally.bytes > tally.bytes_max:
            tally.trimmed += 1
            while entries and tally.bytes > tally.bytes_max:
                self._leave_memory()
        return self.top

    def fill(self, entries: Sequence[Entry], now: float) -> None:
        """What an empty history kept before a restart; the last has offset `top`."""
        self._entries = deque()
        for at, body in entries:
            self._entries.append((at, body))
            self._bytes += len(body)
            self._tally.bytes += len(body)
        self.trim(now)
        while self._entries and self._tally.bytes > self._tally.bytes_max:
            self._tally.trimmed += 1
            self._leave_memory()

    # -- bounds ----------------------------------------------------------------------------------------------------

    def trim(self, now: float) -> None:
        """Drop what is over a bound, or too old at `now`; put onto the shelf what is only too much for memory."""
        entries, born_after = self._entries, now - self._ttl_s
        while entries and (len(entries) > self._size or entries[0][0] <= born_after):
            self._drop_oldest()
        while self._bytes > self._tail_max and entries:
            self._leave_memory()
        shelf = self.shelf
        if shelf is not None:
            shelf.trim(self.top - self._size + 1, born_after)
            while shelf.chunks and self._bytes + shelf.bytes > self._bytes_max:
                shelf.drop_oldest()
            if not shelf.chunks:
                self._clear_shelf()
        if not entries:
            self._entries = _NOTHING

    def _pop_oldest(self) -> tuple[float, bytes]:
        entry = self._entries.popleft()
        length = len(entry[1])
        self._bytes -= length
        self._tally.bytes -= length
        return entry

    def _drop_oldest(self) -> None:
        """It is over; so is what is older."""
        self._pop_oldest()
        self._clear_shelf()

    def _clear_shelf(self) -> None:
        if self.shelf is not None and self._stacks is not None:
            self.shelf = None
            del self._stacks.shelved[self]

    def _leave_memory(self) -> None:
        """There is no room for the oldest in memory. The journal has it, or it is over."""
        stacks = self._stacks
        if stacks is None or not (self.reaches and self.written):
            self._drop_oldest()
            return
        offset = self.oldest_offset
        at, body = self._pop_oldest()
        if self.shelf is None:
            self.shelve(Shelf(offset, stacks.homes.get(self.scope, 0)))
        assert self.shelf is not None
        self.shelf.put(offset, at, body)
        for window in self.windows:
            window.follow(offset, at, body)

    def shelve(self, shelf: Shelf) -> None:
        """What is older than memory is here."""
        assert self._stacks is not None, "only where there is a journal"
        self.shelf = shelf
        self._stacks.shelved[self] = None

    def lose(self, upto: int) -> None:
        """The journal's segments up to this one are gone."""
        if self.shelf is not None:
            self.shelf.lose(upto)
            if not self.shelf.chunks:
                self._clear_shelf()

    def lose_from_shelf(self, upto: int) -> None:
        """What came up to this offset could not be read."""
        if self.shelf is not None:
            self.shelf.lose_below(upto + 1)
            if not self.shelf.chunks:
                self._clear_shelf()

    def configure(self, size: int, ttl_s: float, bytes_max: int, now: float) -> None:
        """New bounds, effective at once."""
        self._size, self._ttl_s, self._bytes_max = size, ttl_s, bytes_max
        self._bound_memory()
        self.trim(now)

    # -- reading ---------------------------------------------------------------------------------------------------

    def replay(self, after: int, now: float) -> list[bytes] | None:
        """Everything after the offset `after`; None when that can no longer be given without a hole. Raises
        `OnShelf`."""
        self.trim(now)
        if not self.kept_from - 1 <= after <= self.top:
            return None
        return self._between(after + 1, self.top, now)

    def last(self, count: int, now: float, shelf_bytes: int = 0) -> list[bytes]:
        """The newest `count` entries, or as many as are kept, of which `shelf_bytes` may have to be fetched. Raises
        `OnShelf`."""
        self.trim(now)
        first = max(self.top - count + 1, self.kept_from)
        if self.shelf is not None:
            first = self.shelf.first_within(first, shelf_bytes)
        found = self._between(first, self.top, now)
        while found is None:
            # Some of a chunk is too old, and the chunk not yet.
            first += 1
            found = self._between(first, self.top, now)
        return found

    def shelved_from(self, first: int) -> int:
        """How many bytes have to be fetched to give everything from `first` on."""
        return self.shelf.bytes_from(first, self.top) if self.shelf is not None else 0

    def between(self, first: int, last: int, now: float) -> list[bytes] | None:
        """The offsets `first` … `last`; None where one of them is not kept. Raises `OnShelf`."""
        self.trim(now)
        return self._between(first, last, now) if first >= self.kept_from and last <= self.top else None

    def bring(self, first: int) -> None:
        """Raises `OnShelf` if everything from `first` on cannot be given at once."""
        while first < self.oldest_offset:
            for window in self.windows:
                if window.ready and window.first <= first <= window.last:
                    first = window.last + 1
                    break
            else:
                raise OnShelf(self.scope, first, self.oldest_offset - 1)

    def _between(self, first: int, last: int, now: float) -> list[bytes] | None:
        oldest = self.oldest_offset
        if first >= oldest:
            return [body for _, body in islice(self._entries, first - oldest, last - oldest + 1)]
        for window in self.windows:
            if window.first <= first <= window.last:
                break
        else:
            raise OnShelf(self.scope, first, min(last, oldest - 1))
        if not window.ready:
            raise OnShelf(self.scope, first, min(last, window.last))
        found = window.bodies(first, min(last, window.last), now - self._ttl_s)
        if found is None or last <= window.last:
            return found
        rest = self._between(window.last + 1, last, now)
        return None if rest is None else found + rest

    def entries(self, now: float) -> list[Entry]:
        """All that is in memory, as (when, body), the last of which has offset `top`: for a journal."""
        self.trim(now)
        return list(self._entries)

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._size > 0

    def confirm(self, offset: int) -> list[tuple[int, float, bytes]]:
        """Nobody will ask for what came up to `offset` again: it is dropped. Returns it, as (offset, when, body)."""
        dropped = []
        while self._entries and self.oldest_offset <= offset:
            dropped.append((self.oldest_offset, *self._entries[0]))
            self._drop_oldest()
        return dropped

    def clear(self) -> None:
        """Forget all entries (the sequence goes on): call before letting go of a history, for the tally's sake."""
        self._tally.bytes -= self._bytes
        self._bytes = 0
        self._entries = _NOTHING
        self._clear_shelf()


def paged(bodies: Sequence[bytes], first_bytes: int, page_bytes: int) -> list[list[bytes]]:
    """Cut a replay into pages: the first of at most `first_bytes` (it may be empty), the others of `page_bytes`.

    A body larger than a page gets one to itself. There is always a first page.
    """
    page: list[bytes] = []
    pages = [page]
    free = first_bytes
    for body in bodies:
        length = len(body) + 1  # the comma
        if length > free and (page or len(pages) == 1):
            page = []
            pages.append(page)
            free = page_bytes
        page.append(body)
        free -= length
    return pages
