"""What a process sleeps on: an eventfd of its own, that every peer may ring.

One bell a *process*, not one a ring: whoever publishes to one of the rings it reads, or frees space in one it writes,
rings the same bell, and the process then looks at all of them. Rings ring by descriptor (`ext/ring`); the supervisor
rings through this class what a dead process may have owed.
"""

from __future__ import annotations

import os


class Bell:
    """`fd` becomes readable when rung and stays so until `clear`. The bell owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls) -> Bell:
        return cls(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    def fileno(self) -> int:
        return self.fd

    def ring(self) -> None:
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:
            return  # the counter is full, so the bell is ringing already

    def clear(self) -> bool:
        """To be called *before* looking at the rings. Whether it had been rung."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Lookout:
    """Tells a lost bell from a late one, for who looks at its rings now and then while it sleeps.

    Records that lie there once are no sign: who published them may be just about to ring, or has rung and the loop has
    not come to it. Those that a whole interval later still lie there, in the same sleep, are.
    """

    def __init__(self) -> None:
        self._suspects = False

    def woken(self) -> None:
        """The rings are being read, for whatever reason."""
        self._suspects = False

    def is_lost(self, waiting: bool) -> bool:
        """`waiting`: its owner sleeps, and there are records."""
        lost = waiting and self._suspects
        self._suspects = waiting
        return lost
