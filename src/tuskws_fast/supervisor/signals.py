"""Signals as something to read: handlers do nothing, the interpreter writes each number to a socket (`set_wakeup_fd`).

So a signal is handled by the supervisor's loop, between two other things, and never in the middle of one.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from types import FrameType
from typing import Any


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler must exist, or the signal would have its default effect."""


class SignalInbox:
    """Takes over `numbers` until `restore`. Only in the main thread (a rule of Python's `signal`)."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers_before: dict[signal.Signals, Any] = {}
        for number in numbers:
            self._handlers_before[number] = signal.signal(number, _nothing)

    @property
    def fd(self) -> int:
        return self._reader.fileno()

    def take(self) -> list[int]:
        """The signals that came, in order."""
        try:
            return list(self._reader.recv(4096))
        except BlockingIOError:
            return []

    def restore(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self.abandon()

    def abandon(self) -> None:
        """In a child: only close the copies; it resets its own signals."""
        self._reader.close()
        self._writer.close()
