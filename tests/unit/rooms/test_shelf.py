"""A history that is longer than its memory: what it keeps, what it says has to be fetched, and when that is over."""

from __future__ import annotations

import pytest

from tuskws_fast.rooms.history import History, Tally
from tuskws_fast.rooms.shelf import CHUNK_ENTRIES, Chunk, OnShelf, Shelf, Stacks, Window

BODY = 10


def long_history(
    size: int = 10_000, ttl_s: float = 1e9, bytes_max: int = 1_000_000, memory_max: int = 5 * BODY
) -> tuple[History, Stacks[History]]:
    stacks: Stacks[History] = Stacks(memory_max)
    stacks.homes = {"room": 3}
    kept = History(Tally(1_000_000_000), size, ttl_s, bytes_max, stacks, "room")
    kept.written = True
    return kept, stacks


def body(offset: int) -> bytes:
    return b"%010d" % offset


def fill(kept: History, count: int, now: float = 0.0) -> None:
    for _ in range(count):
        kept.append(body(kept.top + 1), now)


def fetch(kept: History, first: int, last: int, at: float = 0.0) -> Window:
    window = Window(first, last)
    window.fill([(at, body(offset)) for offset in range(first, last + 1)])
    kept.windows = [*kept.windows, window]
    return window


def test_what_is_too_much_for_memory_is_kept_and_has_to_be_fetched() -> None:
    kept, _ = long_history()
    fill(kept, 20)
    assert (len(kept), kept.kept_from, kept.oldest_offset) == (20, 1, 16)
    assert kept.replay(15, 0.0) == [body(n) for n in range(16, 21)]
    with pytest.raises(OnShelf) as wish:
        kept.replay(3, 0.0)
    assert (wish.value.scope, wish.value.first, wish.value.last) == ("room", 4, 15)
    fetch(kept, 1, 15)
    assert kept.replay(3, 0.0) == [body(n) for n in range(4, 21)]
    assert kept.between(2, 7, 0.0) == [body(n) for n in range(2, 8)]


def test_what_is_in_no_journal_is_over_when_memory_is_full() -> None:
    kept, stacks = long_history()
    fill(kept, 10)
    kept.written = False
    fill(kept, 1)
    assert (kept.kept_from, kept.shelf, stacks.shelved) == (7, None, {})
    assert kept.replay(3, 0.0) is None


def test_count_bytes_and_age_hold_for_both_parts_together() -> None:
    counted, _ = long_history(size=12)
    fill(counted, 30)
    assert (len(counted), counted.kept_from) == (12, 19)
    weighed, _ = long_history(bytes_max=20 * BODY * CHUNK_ENTRIES)
    fill(weighed, 40 * CHUNK_ENTRIES)
    assert 19 * CHUNK_ENTRIES <= len(weighed) <= 20 * CHUNK_ENTRIES
    aged, stacks = long_history(ttl_s=10.0)
    fill(aged, 20, now=0.0)
    fill(aged, 20, now=8.0)
    aged.trim(10.0)
    assert aged.kept_from <= 21, "a chunk goes when its newest is too old"
    aged.trim(18.0)
    assert (len(aged), aged.shelf, stacks.shelved) == (0, None, {})


def test_what_is_too_old_is_not_given_though_its_chunk_is_there() -> None:
    kept, _ = long_history(ttl_s=10.0)
    fill(kept, 10, now=0.0)
    fill(kept, 10, now=8.0)
    window = Window(1, 15)
    window.fill([(0.0 if n <= 10 else 8.0, body(n)) for n in range(1, 16)])
    kept.windows = [*kept.windows, window]
    assert kept.replay(9, 11.0) is None, "offset 10 is too old"
    assert kept.replay(10, 11.0) == [body(n) for n in range(11, 21)]
    assert kept.last(100, 11.0, 1_000_000) == [body(n) for n in range(11, 21)]


def test_window_and_memory_have_no_hole_while_messages_go_from_one_to_the_shelf() -> None:
    kept, _ = long_history()
    fill(kept, 20)
    window = Window(1, 15)
    kept.windows = [*kept.windows, window]
    fill(kept, 8)
    with pytest.raises(OnShelf):
        kept.replay(0, 0.0)
    window.fill([(0.0, body(n)) for n in range(1, 16)])
    fill(kept, 4)
    assert kept.replay(0, 0.0) == [body(n) for n in range(1, 33)]


def test_newest_are_as_many_as_may_be_fetched() -> None:
    kept, _ = long_history()
    fill(kept, 3 * CHUNK_ENTRIES + 5)
    allowed = CHUNK_ENTRIES * BODY
    with pytest.raises(OnShelf) as wish:
        kept.last(10_000, 0.0, allowed)
    assert (wish.value.first, wish.value.last) == (2 * CHUNK_ENTRIES + 1, 3 * CHUNK_ENTRIES)
    assert kept.last(10_000, 0.0, 0) == [body(n) for n in range(3 * CHUNK_ENTRIES + 1, 3 * CHUNK_ENTRIES + 6)]


def test_where_it_is_begins_at_home_and_moves_on_with_the_segments() -> None:
    kept, _ = long_history()
    fill(kept, 20)
    assert kept.shelf is not None
    assert kept.shelf.segment_of(1) == 3
    kept.shelf.mark(21, 4)
    fill(kept, 2 * CHUNK_ENTRIES)
    kept.shelf.mark(kept.top + 1, 5)
    fill(kept, 10)
    assert [kept.shelf.segment_of(n) for n in (1, 20, 21, 532, 533)] == [3, 3, 4, 4, 5]


def test_what_only_a_retired_segment_had_is_gone_and_nothing_else() -> None:
    kept, stacks = long_history()
    fill(kept, CHUNK_ENTRIES)
    kept.shelf.mark(kept.top + 1, 4)  # type: ignore[union-attr]
    fill(kept, 2 * CHUNK_ENTRIES)
    kept.lose(2)
    assert kept.kept_from == 1
    kept.lose(3)
    assert kept.kept_from == CHUNK_ENTRIES + 1
    assert kept.shelf is not None
    assert kept.shelf.oldest_segment == 4
    kept.lose(4)
    assert (kept.kept_from, kept.shelf, stacks.shelved) == (kept.oldest_offset, None, {})


def test_chunk_knows_its_bodies_from_others() -> None:
    chunk = Chunk(1)
    for n in (1, 2, 3):
        chunk.take(0.0, body(n))
    assert Chunk.crc_of([body(1), body(2), body(3)]) == chunk.crc
    for others in ([body(1), body(2)], [body(2), body(1), body(3)], [body(1), body(2), body(4)]):
        assert Chunk.crc_of(others) != chunk.crc


def test_shelf_without_a_mark_that_is_left_is_empty() -> None:
    shelf = Shelf(1, 0)
    shelf.put(1, 0.0, b"x")
    shelf.lose(7)
    assert (list(shelf.chunks), shelf.bytes) == ([], 0)
