"""The three bounds of a history, the bound of all together, and replays that are whole or not given."""

import pytest

from tuskws_fast.rooms.history import History, Tally, paged


def history(size: int = 5, ttl_s: float = 60.0, bytes_max: int = 1_000, tally: Tally | None = None) -> History:
    return History(tally or Tally(1_000_000), size, ttl_s, bytes_max)


def fill(kept: History, count: int, now: float = 0.0) -> None:
    for _ in range(count):
        kept.append(b"%d" % (kept.top + 1), now)


def test_offsets_count_from_one_and_never_repeat() -> None:
    kept = history(size=2)
    assert [kept.append(b"x", 0.0) for _ in range(4)] == [1, 2, 3, 4]
    kept.clear()
    assert kept.append(b"x", 0.0) == 5


def test_count_keeps_the_newest() -> None:
    kept = history(size=3)
    fill(kept, 5)
    assert kept.last(10, 0.0) == [b"3", b"4", b"5"]


def test_bytes_keep_the_newest() -> None:
    kept = history(bytes_max=10)
    kept.append(b"a" * 6, 0.0)
    kept.append(b"b" * 6, 0.0)
    assert kept.last(10, 0.0) == [b"b" * 6]
    assert kept.bytes_kept == 6


def test_one_body_larger_than_the_bound_is_not_kept() -> None:
    kept = history(bytes_max=10)
    assert kept.append(b"a" * 11, 0.0) == 1
    assert len(kept) == 0


def test_age_ends_exactly_at_the_ttl() -> None:
    kept = history(ttl_s=10.0)
    kept.append(b"old", 0.0)
    kept.append(b"new", 5.0)
    assert kept.last(10, 9.9) == [b"old", b"new"]
    assert kept.last(10, 10.0) == [b"new"]
    assert kept.last(10, 15.0) == []


def test_without_a_size_nothing_is_kept_but_the_offset_goes_on() -> None:
    kept = history(size=0)
    fill(kept, 3)
    assert (kept.top, len(kept)) == (3, 0)
    assert kept.replay(3, 0.0) == []
    assert kept.replay(2, 0.0) is None


@pytest.mark.parametrize(
    ("after", "expected"),
    [(5, []), (4, [b"5"]), (2, [b"3", b"4", b"5"]), (1, None), (0, None), (6, None), (-1, None)],
)
def test_a_replay_is_everything_or_nothing(after: int, expected: list[bytes] | None) -> None:
    kept = history(size=3)
    fill(kept, 5)
    assert kept.replay(after, 0.0) == expected


def test_a_replay_does_not_show_what_is_too_old() -> None:
    kept = history(ttl_s=10.0)
    fill(kept, 2, now=0.0)
    fill(kept, 1, now=8.0)
    assert kept.replay(0, 9.0) == [b"1", b"2", b"3"]
    assert kept.replay(0, 10.0) is None
    assert kept.replay(2, 10.0) == [b"3"]


def test_new_bounds_hold_at_once() -> None:
    kept = history(size=5)
    fill(kept, 5)
    kept.configure(2, 60.0, 1_000, 0.0)
    assert kept.last(10, 0.0) == [b"4", b"5"]


def test_all_histories_together_stay_below_their_bound() -> None:
    tally = Tally(100)
    first, second = history(bytes_max=80, tally=tally), history(bytes_max=80, tally=tally)
    first.append(b"a" * 70, 0.0)
    second.append(b"b" * 20, 0.0)
    assert tally.trimmed == 0
    second.append(b"c" * 25, 0.0)
    assert second.last(9, 0.0) == [b"c" * 25], "the one that grows makes the room"
    assert first.last(9, 0.0) == [b"a" * 70]
    assert (tally.bytes, tally.trimmed) == (95, 1)
    first.clear()
    second.clear()
    assert tally.bytes == 0


def test_pages_hold_as_many_as_fit_in_order() -> None:
    bodies = [b"aaaa", b"bbbb", b"cccc", b"dd"]
    assert paged(bodies, 10, 8) == [[b"aaaa", b"bbbb"], [b"cccc", b"dd"]]


def test_the_first_page_may_be_empty_but_no_other_is() -> None:
    assert paged([b"aaaa", b"bbbb"], 0, 2) == [[], [b"aaaa"], [b"bbbb"]]
    assert paged([], 0, 2) == [[]]
