"""The wheel never brings an item up early, brings each up once, and holds deadlines beyond its own circumference."""

from hypothesis import given
from hypothesis import strategies as st

from tuskws_fast.worker.timers import SLOTS, Wheel


def test_item_comes_up_in_the_second_after_its_deadline() -> None:
    wheel: Wheel[str] = Wheel(100.0)
    wheel.add("ping", 102.5)
    assert wheel.advance(102.6) == []
    assert wheel.advance(103.0) == ["ping"]
    assert wheel.advance(200.0) == []


def test_deadline_beyond_the_wheel_comes_up_for_a_look_and_not_later() -> None:
    wheel: Wheel[str] = Wheel(0.0)
    wheel.add("far", 1000.0)
    assert wheel.advance(SLOTS - 1.0) == ["far"]


def test_a_stuck_loop_finds_everything_due_once() -> None:
    wheel: Wheel[int] = Wheel(0.0)
    for n in range(SLOTS):
        wheel.add(n, float(n))
    assert sorted(wheel.advance(10_000.0)) == list(range(SLOTS))
    assert wheel.advance(10_001.0) == []


@given(
    st.lists(st.floats(0, 60), min_size=1, max_size=50),
    st.lists(st.floats(0.01, 5), min_size=30, max_size=60),
)
def test_never_early_and_at_most_a_second_late(dues: list[float], steps: list[float]) -> None:
    wheel: Wheel[int] = Wheel(0.0)
    for n, due in enumerate(dues):
        wheel.add(n, due)
    now, seen = 0.0, {}
    for step in steps:
        before, now = now, now + step
        for n in wheel.advance(now):
            assert n not in seen
            seen[n] = now
            assert now >= dues[n]
            # It was not yet in the wheel's reach at the step before, or that step was under a second late.
            assert before < dues[n] + 1.0
