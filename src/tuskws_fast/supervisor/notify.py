"""What a service manager is told: one datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names.

    READY=1 MAINPID=…                  every process is ready; after a reload, too
    RELOADING=1 MONOTONIC_USEC=…       SIGHUP is being worked on (Type=notify-reload waits for the next READY=1)
    STOPPING=1 EXTEND_TIMEOUT_USEC=…   draining, and for how long it may take
    WATCHDOG=1                         the supervisor's loop turns; twice in each WATCHDOG_USEC
    STATUS=…                           one line for people

The protocol is sd_notify(3)'s, and small enough to be written here. Without NOTIFY_SOCKET nothing is sent. A manager
that does not listen costs a line of the log and no more: nobody is served worse for it.

The variables are taken out of the environment: children and the application are not the service's main process.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    def __init__(self, environ: MutableMapping[str, str]) -> None:
        path = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", "")
        # "@" stands for the zero byte with which an abstract name begins.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        self.watchdog_s: float | None = None
        if not path:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if watchdog_us.isdigit() and int(watchdog_us) and watchdog_pid in ("", str(os.getpid())):
            self.watchdog_s = int(watchdog_us) / 1e6
        self._pet_due = 0.0

    def ready(self, status: str) -> None:
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, within_s: float) -> None:
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}", "STATUS=draining")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def pet(self, now: float) -> None:
        """Say that the loop turns, if it is time to."""
        if self.watchdog_s is not None and now >= self._pet_due:
            self._pet_due = now + self.watchdog_s / 2
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            # A status may quote what somebody else wrote: it stays one line.
            text = "\n".join(line.replace("\n", " ") for line in lines)
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("the service manager does not listen", extra={"reason": os.strerror(error.errno or 0)})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
