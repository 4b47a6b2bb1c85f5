"""The last publications of one sequence (a room, or a user's inbox), kept for whoever comes back.

    offsets      1 … 41 │ 42 43 44 45 46          top = 46
    kept                └─ count, bytes and age bound it; the oldest go first, never one from the middle

Offsets have no holes, so they are not stored: the oldest kept entry is `top - len + 1`. An entry is the complete push,
encoded, as members received it. Age is measured on the clock of `now` (monotonic).

All histories share one `Tally`. When it is full, the history that grows drops its own oldest: memory is bounded
whatever the number of rooms, and a replay that is no longer whole is refused (`replay` returns None), never shortened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

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
    __slots__ = ("_bytes", "_bytes_max", "_entries", "_size", "_tally", "_ttl_s", "top")

    def __init__(self, tally: Tally, size: int, ttl_s: float, bytes_max: int) -> None:
        self.top = 0
        self._entries = _NOTHING
        self._bytes = 0
        self._tally = tally
        self._size = size
        self._ttl_s = ttl_s
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes_kept(self) -> int:
        return self._bytes

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    @property
    def oldest_at(self) -> float | None:
        """When the oldest kept entry was appended."""
        return self._entries[0][0] if self._entries else None

    @property
    def oldest_offset(self) -> int:
        """Of the oldest entry that is kept; where none is, the next one's."""
        return self.top - len(self._entries) + 1

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
        if len(entries) > self._size or self._bytes > self._bytes_max or entries[0][0] <= now - self._ttl_s:
            self.trim(now)
        if tally.bytes > tally.bytes_max:
            tally.trimmed += 1
            while entries and tally.bytes > tally.bytes_max:
                self._drop_oldest()
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
            self._drop_oldest()

    def trim(self, now: float) -> None:
        """Drop what is over a bound, or too old at `now`."""
        entries, born_after = self._entries, now - self._ttl_s
        while entries and (len(entries) > self._size or self._bytes > self._bytes_max or entries[0][0] <= born_after):
            self._drop_oldest()
        if not entries:
            self._entries = _NOTHING

    def _drop_oldest(self) -> None:
        length = len(self._entries.popleft()[1])
        self._bytes -= length
        self._tally.bytes -= length

    def replay(self, after: int, now: float) -> list[bytes] | None:
        """Everything after the offset `after`; None when that can no longer be given without a hole."""
        self.trim(now)
        missing = self.top - after
        if not 0 <= missing <= len(self._entries):
            return None
        return self._tail(missing)

    def last(self, count: int, now: float) -> list[bytes]:
        """The newest `count` entries, or as many as are kept."""
        self.trim(now)
        return self._tail(min(count, len(self._entries)))

    def _tail(self, count: int) -> list[bytes]:
        return [body for _, body in islice(self._entries, len(self._entries) - count, None)]

    def configure(self, size: int, ttl_s: float, bytes_max: int, now: float) -> None:
        """New bounds, effective at once."""
        self._size, self._ttl_s, self._bytes_max = size, ttl_s, bytes_max
        self.trim(now)

    def entries(self, now: float) -> list[Entry]:
        """All that is kept, as (when, body), the last of which has offset `top`: for a journal."""
        self.trim(now)
        return list(self._entries)

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._size > 0

    def confirm(self, offset: int) -> None:
        """Nobody will ask for what came up to `offset` again."""
        while self._entries and self.top - len(self._entries) < offset:
            self._drop_oldest()

    def clear(self) -> None:
        """Forget all entries (the sequence goes on): call before letting go of a history, for the tally's sake."""
        self._tally.bytes -= self._bytes
        self._bytes = 0
        self._entries = _NOTHING


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
