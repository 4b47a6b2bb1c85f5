"""Signals are read, not handled; and given back afterwards."""

import os
import signal

from tuskws_fast.supervisor.signals import SignalInbox


def test_signals_wait_in_order_until_they_are_taken() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    inbox = SignalInbox((signal.SIGUSR1, signal.SIGUSR2))
    try:
        assert inbox.take() == []
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert inbox.take() == [signal.SIGUSR2, signal.SIGUSR1]
        assert inbox.take() == []
    finally:
        inbox.restore()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1
