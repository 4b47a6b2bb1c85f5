"""A birth, seen by the parent: fork, and the three handles by which the supervisor holds a process.

    pidfd     readable when it has ended; signals sent through it can never hit a process that took over the number
    control   its end of the socket pair (`control`)
    bell      the child's doorbell, kept so that it can be handed to peers and rung after a death

Signals are blocked around the fork: the parent's handlers write to a wake-up socket that the child would share.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tuskws_fast.ipc.bell import Bell
from tuskws_fast.supervisor.child import ChildContext, ChildMain, run_child
from tuskws_fast.supervisor.control import socket_pair


@dataclass(slots=True)
class Process:
    """A running (or just ended) child. `close` after it was reaped."""

    pid: int
    pidfd: int
    control: socket.socket
    bell: Bell

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # It has ended already; its pidfd is readable.

    def reap(self) -> int:
        """Its exit code, or the negative number of the signal that ended it. Call when `pidfd` is readable."""
        info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        assert info is not None
        return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status

    def close(self) -> None:
        os.close(self.pidfd)
        self.bell.close()
        self.control.close()


def spawn(
    make_context: Callable[[socket.socket, int], ChildContext], main: ChildMain, abandon: Callable[[], None]
) -> Process:
    """Fork a child that runs `main` with the context that `make_context(control, bell)` builds.

    `abandon` runs in the child and closes what only the supervisor may hold. Raises `OSError` (no more processes,
    memory or descriptors).
    """
    bell = Bell.create()
    try:
        ours, theirs = socket_pair()
    except OSError:
        bell.close()
        raise
    # Made before the fork: what fails here fails in the parent.
    context = make_context(theirs, bell.fd)
    parent = os.getpid()
    # What is buffered now would be printed by the child a second time.
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            run_child(context, main, parent, abandon)
    except OSError:
        ours.close()
        bell.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return Process(pid, os.pidfd_open(pid), ours, bell)
