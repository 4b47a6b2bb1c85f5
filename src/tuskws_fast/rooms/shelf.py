"""The older part of a history, which is kept in the journal alone: what is known of it without reading it.

    offsets     12 … 267 │ 268 … 523 │ 524 … 600 │ 601 … 640        top = 640
                └──── chunks ── a Shelf ─────────┘ └ in memory ┘
    marks       (12, segment 3)  (301, segment 4)                   from that offset on nothing is in an earlier segment

A message goes onto the shelf when its history is over the bound of memory, and leaves it when it is over a bound of the
room (count, bytes, age: by whole chunks where it is bytes) or when its segment is retired. A chunk remembers a checksum
of its bodies, so that what is read later is known to be what was put there, whatever else the segments hold of a room
of that name. A chunk is 100 bytes for 256 messages.

Who needs what is on the shelf meets `OnShelf`: somebody has to fetch it first. What was fetched is a `Window`: it goes
on to grow by what leaves memory after it, so that window and memory together have no hole.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Generic, TypeVar

Kept = TypeVar("Kept")

CHUNK_ENTRIES = 256
CHUNK_BYTES = 64 * 1024


class Chunk:
    """The offsets `first` … `last`. `newest_at`: when the last of them was published."""

    __slots__ = ("bytes", "crc", "first", "last", "newest_at")

    def __init__(self, first: int) -> None:
        self.first = first
        self.last = first - 1
        self.bytes = 0
        self.crc = 0
        self.newest_at = 0.0

    def take(self, at: float, body: bytes) -> None:
        self.last += 1
        self.bytes += len(body)
        self.crc = zlib.crc32(body, self.crc)
        self.newest_at = at

    @property
    def is_full(self) -> bool:
        return self.last - self.first + 1 >= CHUNK_ENTRIES or self.bytes >= CHUNK_BYTES

    @staticmethod
    def crc_of(bodies: Iterable[bytes]) -> int:
        """What `crc` of a chunk of these is."""
        crc = 0
        for body in bodies:
            crc = zlib.crc32(body, crc)
        return crc


class Shelf:
    """`first`: the oldest offset that may still be given. `segment`: where nothing of it is earlier."""

    __slots__ = ("bytes", "chunks", "first", "marks")

    def __init__(self, first: int, segment: int) -> None:
        self.first = first
        self.bytes = 0
        self.chunks: deque[Chunk] = deque()
        self.marks: deque[tuple[int, int]] = deque(((first, segment),))

    @property
    def last(self) -> int:
        return self.chunks[-1].last

    def put(self, offset: int, at: float, body: bytes) -> None:
        chunks = self.chunks
        if not chunks or chunks[-1].is_full:
            chunks.append(Chunk(offset))
        chunks[-1].take(at, body)
        self.bytes += len(body)

    # -- bounds ----------------------------------------------------------------------------------------------------

    def trim(self, first: int, born_after: float) -> None:
        """Let go of what is below offset `first`, or too old."""
        chunks = self.chunks
        self.first = max(self.first, first)
        while chunks and (chunks[0].last < self.first or chunks[0].newest_at <= born_after):
            self.drop_oldest()

    def drop_oldest(self) -> None:
        gone = self.chunks.popleft()
        self.bytes -= gone.bytes
        self.first = max(self.first, gone.last + 1)
        marks = self.marks
        while len(marks) > 1 and marks[1][0] <= self.first:
            marks.popleft()

    # -- how much ----------------------------------------------------------------------------------------------------

    def bytes_from(self, first: int, last: int) -> int:
        """Of the chunks that it takes to give these offsets."""
        return sum(chunk.bytes for chunk in self.chunks if chunk.last >= first and chunk.first <= last)

    def first_within(self, first: int, bytes_max: int) -> int:
        """The oldest offset, not below `first`, from which on all chunks together have no more than `bytes_max`."""
        found = self.last + 1
        for chunk in reversed(self.chunks):
            bytes_max -= chunk.bytes
            if bytes_max < 0 or found <= first:
                break
            found = chunk.first
        return max(first, found)

    def last_within(self, first: int, bytes_max: int) -> int:
        """The newest offset up to which the chunks from `first` on have no more than `bytes_max`; one at least."""
        found = first
        for chunk in self.chunks:
            if chunk.last >= first:
                bytes_max -= chunk.bytes
                if bytes_max < 0 and found > first:
                    break
                found = chunk.last
        return found

    # -- where it is -----------------------------------------------------------------------------------------------

    def mark(self, offset: int, segment: int) -> None:
        """From `offset` on everything is in `segment` or later ones."""
        marks = self.marks
        while marks and marks[-1][0] >= offset:
            marks.pop()
        marks.append((offset, segment))

    def segment_of(self, offset: int) -> int:
        """The first segment in which `offset` may be."""
        found = self.marks[0][1]
        for at, segment in self.marks:
            if at > offset:
                break
            found = segment
        return found

    @property
    def oldest_segment(self) -> int:
        return self.segment_of(self.first)

    def lose(self, upto: int) -> None:
        """The segments up to `upto` are gone."""
        while self.marks and self.marks[0][1] <= upto:
            self.marks.popleft()
        self.lose_below(self.marks[0][0] if self.marks else self.last + 1)

    def lose_below(self, first: int) -> None:
        """What is older than `first` cannot be read. A chunk is proven whole or not at all."""
        while self.chunks and self.chunks[0].first < first:
            self.drop_oldest()

    def covering(self, first: int, last: int) -> list[Chunk]:
        """The chunks that hold these offsets, and others beside them."""
        return [chunk for chunk in self.chunks if chunk.last >= first and chunk.first <= last]


class Stacks(Generic[Kept]):
    """What all shelves of a node share. `memory_max`: bytes of one history in memory. `homes` (the journal's): in which
    segment begins what is written of a scope. `segment`: the one that is written to. `shelved`: what has a shelf."""

    __slots__ = ("homes", "memory_max", "segment", "shelved")

    def __init__(self, memory_max: int) -> None:
        self.memory_max = memory_max
        self.homes: Mapping[str, int] = {}
        self.segment = 0
        self.shelved: dict[Kept, None] = {}


class Window:
    """Messages from the shelf, in memory again until `until`: `entries` are (when, body) from offset `first` on.

    While it is being read (`ready` False), `entries` has what left memory meanwhile.
    """

    __slots__ = ("bytes", "entries", "first", "last", "ready", "until")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.entries: list[tuple[float, bytes]] = []
        self.bytes = 0
        self.ready = False
        self.until = 0.0

    def follow(self, offset: int, at: float, body: bytes) -> None:
        if offset == self.last + 1:
            self.last = offset
            self.entries.append((at, body))
            self.bytes += len(body)

    def fill(self, entries: list[tuple[float, bytes]]) -> None:
        self.entries[:0] = entries
        self.bytes += sum(len(body) for _, body in entries)
        self.ready = True

    def bodies(self, first: int, last: int, born_after: float) -> list[bytes] | None:
        """None where the first of them is too old by now."""
        if self.entries[first - self.first][0] <= born_after:
            return None
        return [body for _, body in islice(self.entries, first - self.first, last - self.first + 1)]


class OnShelf(Exception):
    """What is asked for, `first` … `last` of the sequence `scope`, has to be fetched: ask again when it is there."""

    def __init__(self, scope: str, first: int, last: int) -> None:
        super().__init__(scope, first, last)
        self.scope = scope
        self.first = first
        self.last = last
