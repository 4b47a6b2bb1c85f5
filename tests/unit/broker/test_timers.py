"""Timers come due in the order of their deadlines, and none before its time."""

from tuskws_fast.broker.timers import Timer, Timers


def test_an_empty_table_has_no_deadline() -> None:
    timers = Timers()
    assert timers.next_deadline() is None
    assert timers.pop_due(1e9) is None


def test_the_earliest_comes_first_and_ties_in_the_order_they_were_made() -> None:
    timers = Timers()
    timers.add(3.0, Timer.STATS, "late")
    timers.add(1.0, Timer.GRACE, 7)
    timers.add(1.0, Timer.STATS, "second")
    assert timers.next_deadline() == 1.0
    assert timers.pop_due(0.9) is None
    assert timers.pop_due(1.0) == (1.0, Timer.GRACE, 7)
    assert timers.pop_due(5.0) == (1.0, Timer.STATS, "second")
    assert timers.pop_due(5.0) == (3.0, Timer.STATS, "late")
    assert len(timers) == 0
