"""How long a dead process waits for its successor."""

from tuskws_fast.supervisor.backoff import Backoff, BackoffRule


def test_delays_double_up_to_the_most() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1, most_s=1.0))
    delays = [backoff.died(lived_s=0.5, boot_failed=False) for _ in range(6)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_life_ten_times_as_long_as_the_last_delay_is_forgiven() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1))
    for _ in range(3):
        backoff.died(lived_s=0.5, boot_failed=False)
    assert backoff.died(lived_s=3.9, boot_failed=False) == 0.8
    assert backoff.died(lived_s=8.0, boot_failed=False) == 0.1


def test_no_more_than_so_long_a_life_is_ever_asked_for() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1, most_s=10.0, forgiven_after_s=30))
    while backoff.died(lived_s=0.0, boot_failed=False) < 10.0:
        pass
    assert backoff.died(lived_s=29.9, boot_failed=False) == 10.0
    assert backoff.died(lived_s=30.0, boot_failed=False) == 0.1


def test_a_long_life_that_never_came_to_anything_is_not() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1))
    backoff.died(lived_s=100.0, boot_failed=True)
    assert backoff.died(lived_s=100.0, boot_failed=True) == 0.2


def test_so_many_boot_failures_in_a_row_are_hopeless() -> None:
    backoff = Backoff(BackoffRule(boot_failures_max=3))
    backoff.died(lived_s=0.0, boot_failed=True)
    backoff.died(lived_s=0.0, boot_failed=True)
    assert not backoff.hopeless
    backoff.died(lived_s=0.0, boot_failed=False)
    backoff.died(lived_s=0.0, boot_failed=True)
    backoff.died(lived_s=0.0, boot_failed=True)
    assert not backoff.hopeless
    backoff.died(lived_s=0.0, boot_failed=True)
    assert backoff.hopeless
