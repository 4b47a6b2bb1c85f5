"""How entries lie in a segment file, and how they are found again in one that a crash or a bad disk has been at.

    0          128                                                                      size (preallocated: zeros)
    ├─ header ─┼─ crc │ length │ number │ kind │ payload │ pad ─┼─ crc │ … ─┼─ 0 0 0 0 … ─┤

The CRC (CRC32C) covers everything of its entry after itself. Numbers run through all segments without a hole, so a
missing entry is noticed wherever it was. Entries begin at multiples of eight.

`scan` tells three ends apart. Zeros or garbage after the last good entry, and nothing good behind them: the *torn tail*
of a write that was cut short, which is no damage (nobody was told of it, or the mark says otherwise: `recovery`). A bad
spot with good entries behind it: a *hole*, skipped and told. The end of the file: the end.

Pure: takes bytes, gives values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tuskws_fast_ext.journal import frame_entries, read_published
from tuskws_fast_ext.ring import crc32c

from tuskws_fast.storage.entries import HEAD, Entry, Published, pack_entry, unpack_entry

HEADER_BYTES = 128
MAGIC = b"TUSKJRNL"
VERSION = 1
ALIGN = 8
_CRC_BYTES = 4
# magic, version, segment, first number, boot, run, created
_HEADER = struct.Struct("<8sIQQ16s16sd")
_MARK = struct.Struct("<8sQQ")
MARK_MAGIC = b"TUSKMARK"
# Two slots in sectors of their own: a write that is cut short spoils one of them, never both.
MARK_SLOT_BYTES = 512
ENTRY_OVERHEAD = _CRC_BYTES + HEAD.size
ENTRY_BYTES_MAX = 256 * 1024 * 1024


class Header(NamedTuple):
    """`boot` names the boot of the machine, `run` the life of the node, in which connection numbers do not repeat."""

    segment: int
    first: int
    boot: bytes
    run: bytes
    created: float


class Found(NamedTuple):
    number: int
    entry: Entry


class Hole(NamedTuple):
    """Entries from `number` on are missing; what follows was found behind the bad spot."""

    number: int
    at: int


def pack_header(header: Header) -> bytes:
    body = _HEADER.pack(MAGIC, VERSION, *header)
    return (body + crc32c(body).to_bytes(4, "little")).ljust(HEADER_BYTES, b"\0")


def unpack_header(data: bytes) -> Header | None:
    """None where it is damaged, or not a segment of this version."""
    body, crc = data[: _HEADER.size], data[_HEADER.size : _HEADER.size + 4]
    if len(crc) < 4 or crc32c(body) != int.from_bytes(crc, "little"):
        return None
    magic, version, *fields = _HEADER.unpack(body)
    return Header(*fields) if magic == MAGIC and version == VERSION else None


def pack_mark(number: int, turn: int) -> bytes:
    """Everything up to `number` was written completely. `turn`: what else tells marks apart, as a count of them."""
    body = _MARK.pack(MARK_MAGIC, number, turn)
    return body + crc32c(body).to_bytes(4, "little")


def unpack_mark(data: bytes, turn: int | None = None) -> int:
    """The newest number of the two slots, or of those of this `turn`; 0 where neither can be read."""
    newest = 0
    for at in (0, MARK_SLOT_BYTES):
        body, crc = data[at : at + _MARK.size], data[at + _MARK.size : at + _MARK.size + 4]
        if len(crc) == 4 and crc32c(body) == int.from_bytes(crc, "little"):
            magic, number, its_turn = _MARK.unpack(body)
            if magic == MARK_MAGIC and turn in (None, its_turn):
                newest = max(newest, number)
    return newest


def frame_batch(entries: list[Entry], number: int) -> bytes:
    """The bytes of `entries`, the first of which has `number`."""
    return frame_entries(entries, number, Published, pack_entry)


def scan(data: bytes, expected: int) -> Iterator[Found | Hole]:
    """The entries in a segment's bytes, in order; `expected` is the number of the first."""
    at = HEADER_BYTES
    while True:
        publications, at = read_published(data, at, expected, Published)
        for publication in publications:
            yield Found(expected, publication)
            expected += 1
        frame = _frame_at(data, at)
        if frame is not None:
            number, entry, after = frame
            if number != expected:
                # Older than expected: of a write that was never told of and done again. Newer: something is missing.
                if number > expected:
                    yield Hole(expected, at)
                else:
                    at = after
                    continue
            yield Found(number, entry)
            expected, at = number + 1, after
            continue
        behind = _next_frame(data, at + ALIGN, expected)
        if behind is None:
            return
        at = behind
        # The loop finds that entry's number to be beyond `expected`, or what was bad was no entry of ours.


def _frame_at(data: bytes, at: int) -> tuple[int, Entry, int] | None:
    head_at = at + _CRC_BYTES
    if head_at + HEAD.size > len(data):
        return None
    length, number, kind = HEAD.unpack_from(data, head_at)
    end = head_at + HEAD.size + length
    if number == 0 or length > ENTRY_BYTES_MAX or end > len(data):
        return None
    packed = data[head_at:end]
    if crc32c(packed) != int.from_bytes(data[at:head_at], "little"):
        return None
    try:
        entry = unpack_entry(kind, packed[HEAD.size :])
    except ValueError:
        # Its checksum is right, so it was written like this: by another version. It is missing all the same.
        return None
    return number, entry, at + (end - at + ALIGN - 1) // ALIGN * ALIGN


def _next_frame(data: bytes, at: int, expected: int) -> int | None:
    """Where the next good entry begins that is not older than `expected`; None: there is none."""
    end = len(data.rstrip(b"\0"))
    most = expected + (len(data) - at) // ENTRY_OVERHEAD
    while at + ENTRY_OVERHEAD <= end + ALIGN and at + ENTRY_OVERHEAD <= len(data):
        length, number, _ = HEAD.unpack_from(data, at + _CRC_BYTES)
        if expected <= number <= most and length <= len(data) - at and _frame_at(data, at) is not None:
            return at
        at += ALIGN
    return None
