"""Out of file descriptors: one line when it begins and one when it is over, however many clients meet it, and a figure.

Who hits the process's own limit is sent away by the acceptor long before. This is for the rest: a limit that is lowered
while the node runs, a system that has none left (ENFILE), an application that opens files and keeps them.
"""

from __future__ import annotations

import logging
import os

from tuskws_fast_ext.tables import Counters

from tuskws_fast.metrics import Metric

log = logging.getLogger(__name__)


class Shortage:
    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._clients = 0

    def met(self, error: int) -> None:
        """A client came, and there was no descriptor for it: `error` is why."""
        self._counters.add(Metric.OUT_OF_FILES)
        self._clients += 1
        if self._clients == 1:
            log.error("no descriptor is left for clients: they are refused", extra={"reason": os.strerror(error)})

    def look(self) -> None:
        """Whether it is over. Costs nothing when there is none."""
        if not self._clients:
            return
        try:
            os.close(os.eventfd(0))
        except OSError:
            return
        log.info("there are descriptors for clients again", extra={"missed": self._clients})
        self._clients = 0
