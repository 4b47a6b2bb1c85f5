"""The verdict `recovered`, for every relation of a position to a room."""

import pytest

from tuskws_fast.rooms.history import History, Tally
from tuskws_fast.rooms.recovery import Replay, replay_since


@pytest.fixture
def kept() -> History:
    """At offset 5, holding 3 to 5."""
    history = History(Tally(1_000), 3, 60.0, 1_000)
    for n in range(1, 6):
        history.append(b"%d" % n, 0.0)
    return history


def test_a_newcomer_gets_the_newest_and_no_verdict(kept: History) -> None:
    assert replay_since(kept, "e", 0, None, 2, 0.0, 0) == Replay(None, [b"4", b"5"])
    assert replay_since(kept, "e", 0, None, 0, 0.0, 0) == Replay(None, [])
    assert replay_since(kept, "e", 0, None, 99, 0.0, 0) == Replay(None, [b"3", b"4", b"5"])


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (("e", 5), Replay(True, [])),
        (("e", 3), Replay(True, [b"4", b"5"])),
        (("e", 2), Replay(True, [b"3", b"4", b"5"])),
        (("e", 1), Replay(False, [])),
        (("e", 6), Replay(False, [])),
        (("d", 5), Replay(False, [])),
        (("d", 3), Replay(False, [])),
    ],
)
def test_a_position_is_recovered_completely_or_not_at_all(
    kept: History, since: tuple[str, int], expected: Replay
) -> None:
    assert replay_since(kept, "e", 0, since, 99, 0.0, 0) == expected


def test_what_came_before_the_epoch_began_belongs_to_another(kept: History) -> None:
    assert replay_since(kept, "e", 3, ("e", 3), 99, 0.0, 0) == Replay(True, [b"4", b"5"])
    assert replay_since(kept, "e", 3, ("e", 2), 99, 0.0, 0) == Replay(False, [])
