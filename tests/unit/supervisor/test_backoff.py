"""How long a dead process waits for its successor."""

from tuskws_fast.supervisor.backoff import Backoff, BackoffRule


def test_delays_double_up_to_the_most() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1, most_s=1.0))
    delays = [backoff.died(lived_s=1.0, was_ready=True) for _ in range(6)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_long_life_is_forgiven() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1, forgiven_after_s=30))
    for _ in range(4):
        backoff.died(lived_s=1.0, was_ready=True)
    assert backoff.died(lived_s=30.0, was_ready=True) == 0.1


def test_a_long_life_without_ever_being_ready_is_not() -> None:
    backoff = Backoff(BackoffRule(first_s=0.1))
    backoff.died(lived_s=100.0, was_ready=False)
    assert backoff.died(lived_s=100.0, was_ready=False) == 0.2


def test_so_many_boot_failures_in_a_row_are_hopeless() -> None:
    backoff = Backoff(BackoffRule(boot_failures_max=3))
    backoff.died(lived_s=0.0, was_ready=False)
    backoff.died(lived_s=0.0, was_ready=False)
    assert not backoff.hopeless
    backoff.died(lived_s=0.0, was_ready=True)
    backoff.died(lived_s=0.0, was_ready=False)
    backoff.died(lived_s=0.0, was_ready=False)
    assert not backoff.hopeless
    backoff.died(lived_s=0.0, was_ready=False)
    assert backoff.hopeless
