"""Run a function in a process of its own: for what one process cannot show (races, kills, crashes)."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable

from helpers.waiting import PATIENCE


def fork_to(body: Callable[[], None]) -> int:
    """Runs `body` in a child and returns its pid. The child ends with 0, with 1 after an exception, or by signal."""
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def reap(pid: int, timeout_s: float = 30.0) -> int:
    """The child's end as `os.waitstatus_to_exitcode` has it; one that does not end in time is killed (-9)."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], timeout_s * PATIENCE)[0]:
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)


def kill(pid: int) -> None:
    """SIGKILL, and gone when this returns."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
