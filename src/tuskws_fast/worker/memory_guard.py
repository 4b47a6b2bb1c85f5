"""A bound on what a worker's clients can make it hold, before the kernel ends the whole process for it.

    above 80 %   nobody is let in: upgrades are answered 503
    above 90 %   those who do not read are let go, who has most waiting first, until 80 % would be reached

Every queue has a bound of its own; this one holds when very many are near theirs at once. It looks once a second at the
process's own memory (neither rings nor files), so it is a net, not a fence: leave room for what a second can bring.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tuskws_fast_ext.connection import FlushPoint

SHUT_SHARE, SHED_SHARE = 0.80, 0.90
STATUS_BYTES_MAX = 8192


class MemoryGuard:
    """`limit` in bytes; 0 = off. Of the `points` the first that has anybody to let go is shed from."""

    def __init__(self, limit: int, points: Sequence[FlushPoint]) -> None:
        self._limit = limit
        self._points = points
        # Kept open: a process without a descriptor left has to be able to look, too.
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self.used = 0
        self.is_tight = False
        self.shed = 0

    def look(self) -> None:
        self.used = anonymous_bytes(self._status)
        if not self._limit:
            return
        self.is_tight = self.used > SHUT_SHARE * self._limit
        if self.used > SHED_SHARE * self._limit:
            size = int(self.used - SHUT_SHARE * self._limit)
            self.shed += next(filter(None, (point.shed(size) for point in self._points)), 0)

    def __del__(self) -> None:
        os.close(self._status)


def anonymous_bytes(status: int) -> int:
    """`status` is open on /proc/self/status."""
    for line in os.pread(status, STATUS_BYTES_MAX, 0).splitlines():
        if line.startswith(b"RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status does not say what memory is this process's own")
