"""Old publications, found again in the segments: for a history that has more than its memory (`rooms.shelf`).

There is no index on disk. In memory a room has a mark a segment, so the search begins where the messages can be, and
walks from frame to frame without looking into those of others: 4 MiB in 0.1 ms, in a thread of its own, without
the interpreter's lock. A frame whose length was damaged leads astray; then the slow way of `format.scan` is gone, which
finds what is behind it. What is given is proven by the chunk's checksum: it is what the room put there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuskws_fast_ext.journal import find_published

from tuskws_fast.rooms.shelf import Chunk
from tuskws_fast.storage.entries import Published
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.format import HEADER_BYTES, Found, scan, unpack_header

Entries = dict[int, tuple[float, bytes]]


def look_up(
    files: Files, segments: Sequence[Path], scope: str, chunks: Sequence[tuple[int, int, int]]
) -> list[tuple[float, bytes]] | None:
    """(wall, body) of all `chunks` (first, last, checksum) of `scope`, in order; None where one cannot be proven."""
    for search in (_search, _search_slowly):
        found: Entries = {}
        for path in segments:
            try:
                data = files.read(path)
            except OSError:
                continue  # retired since, or unreadable: what it had is missing then
            search(data, scope, chunks[0][0], chunks[-1][1], found)
            if _are_proven(found, chunks):
                return [found[offset] for offset in range(chunks[0][0], chunks[-1][1] + 1)]
    return None


def _are_proven(found: Entries, chunks: Sequence[tuple[int, int, int]]) -> bool:
    if len(found) < chunks[-1][1] - chunks[0][0] + 1:
        return False
    return all(
        Chunk.crc_of(found[offset][1] for offset in range(first, last + 1)) == crc for first, last, crc in chunks
    )


def _search(data: bytes, scope: str, first: int, last: int, found: Entries) -> None:
    find_published(data, HEADER_BYTES, scope.encode(), first, last, found)


def _search_slowly(data: bytes, scope: str, first: int, last: int, found: Entries) -> None:
    header = unpack_header(data[:HEADER_BYTES])
    for each in scan(data, header.first if header is not None else 1):
        entry = each.entry if isinstance(each, Found) else None
        if isinstance(entry, Published) and entry.scope == scope and first <= entry.offset <= last:
            found[entry.offset] = (entry.wall, entry.body)
