"""Finding entries in a segment's bytes: all of them, up to a torn tail, around a hole."""

from __future__ import annotations

import pytest

from tuskws_fast.storage.entries import Ended
from tuskws_fast.storage.format import (
    HEADER_BYTES,
    MARK_SLOT_BYTES,
    Found,
    Header,
    Hole,
    frame_batch,
    pack_header,
    pack_mark,
    scan,
    unpack_header,
    unpack_mark,
)

HEADER = Header(7, 10, b"b" * 16, b"r" * 16, 1.5)
NAMES = [f"room-{n}" for n in range(10)]


def segment(frames: list[bytes], free: int = 256) -> bytes:
    return pack_header(HEADER) + b"".join(frames) + bytes(free)


def frames(first: int = 10) -> list[bytes]:
    return [frame_batch([Ended(name)], number) for number, name in enumerate(NAMES, first)]


def numbers(data: bytes, expected: int = 10) -> list[int]:
    return [each.number if isinstance(each, Found) else -each.number for each in scan(data, expected)]


def test_header_comes_back_and_damage_is_none() -> None:
    packed = pack_header(HEADER)
    assert len(packed) == HEADER_BYTES
    assert unpack_header(packed) == HEADER
    for at in range(70):
        assert unpack_header(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]) is None
    assert unpack_header(b"") is None


def test_everything_written_is_found() -> None:
    assert numbers(segment(frames())) == list(range(10, 20))


def test_entries_begin_at_multiples_of_eight() -> None:
    assert all(len(frame) % 8 == 0 for frame in frames())


@pytest.mark.parametrize("junk", [b"", b"\xff" * 64, b"\x01" * 7])
def test_torn_tail_is_the_end_and_no_hole(junk: bytes) -> None:
    whole = frames()
    for cut in range(1, len(whole[-1]) - 8, 5):
        assert numbers(segment([*whole[:-1], whole[-1][:cut] + junk])) == list(range(10, 19))


def test_bad_entry_is_a_hole_with_the_rest_behind_it() -> None:
    whole = frames()
    whole[3] = whole[3][:-9] + b"X" + whole[3][-8:]
    assert numbers(segment(whole)) == [10, 11, 12, -13, *range(14, 20)]


def test_missing_beginning_is_a_hole() -> None:
    assert numbers(segment(frames(first=12))) == [-10, *range(12, 22)]


def test_number_that_cannot_be_is_not_believed() -> None:
    # A good checksum with a number far beyond what fits into the segment: left over from something else.
    assert numbers(segment([b"\xff" * 24, *frames(first=1_000_000)])) == []


def test_marks_take_turns_and_the_newest_good_one_counts() -> None:
    slots = bytearray(2 * MARK_SLOT_BYTES)
    for turn, number in enumerate((5, 9), start=1):
        at = (turn & 1) * MARK_SLOT_BYTES
        slots[at : at + len(pack_mark(number, turn))] = pack_mark(number, turn)
    assert unpack_mark(bytes(slots)) == 9
    slots[10] ^= 1
    assert unpack_mark(bytes(slots)) == 5
    slots[MARK_SLOT_BYTES + 10] ^= 1
    assert unpack_mark(bytes(slots)) == 0
    assert unpack_mark(b"") == 0


def test_holes_say_where() -> None:
    whole = frames()
    whole[0] = bytes(len(whole[0]))
    hole = next(iter(scan(segment(whole), 10)))
    assert hole == Hole(10, HEADER_BYTES + len(whole[0]))
