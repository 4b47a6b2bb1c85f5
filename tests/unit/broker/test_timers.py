"""Timers come due in the order of their deadlines, and none before its time."""

from tuskws_fast.broker.timers import LAPSED_MIN, Timer, Timers


def test_an_empty_table_has_no_deadline() -> None:
    timers = Timers(lambda deadline, kind, key: True)
    assert timers.next_deadline() is None
    assert timers.pop_due(1e9) is None


def test_the_earliest_comes_first_and_ties_in_the_order_they_were_made() -> None:
    timers = Timers(lambda deadline, kind, key: True)
    timers.add(3.0, Timer.STATS, "late")
    timers.add(1.0, Timer.GRACE, 7)
    timers.add(1.0, Timer.STATS, "second")
    assert timers.next_deadline() == 1.0
    assert timers.pop_due(0.9) is None
    assert timers.pop_due(1.0) == (1.0, Timer.GRACE, 7)
    assert timers.pop_due(5.0) == (1.0, Timer.STATS, "second")
    assert timers.pop_due(5.0) == (3.0, Timer.STATS, "late")
    assert len(timers) == 0


def test_what_lapsed_is_sifted_out_and_the_order_of_the_rest_stays() -> None:
    live = {("u1", 1.0), ("u2", 2.0), ("u2", 2.5)}
    timers = Timers(lambda deadline, kind, key: (key, deadline) in live)
    for key, deadline in sorted(live, reverse=True):
        timers.add(deadline, Timer.SWEEP_INBOX, key)
    most = 0
    for n in range(10 * LAPSED_MIN):
        timers.add(100.0 + n, Timer.SWEEP_INBOX, f"gone-{n}")
        timers.lapse()
        most = max(most, len(timers))
    assert most <= 2 * LAPSED_MIN + len(live)
    assert [timers.pop_due(50.0) for _ in range(4)] == [
        (1.0, Timer.SWEEP_INBOX, "u1"),
        (2.0, Timer.SWEEP_INBOX, "u2"),
        (2.5, Timer.SWEEP_INBOX, "u2"),
        None,
    ]
