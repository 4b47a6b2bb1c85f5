"""The child's side of a birth: what a freshly forked process does to itself, and its line to the supervisor.

A child is a `Callable[[ChildContext], None]` that the composition root gives to the supervisor. It runs in the child
after `prepare`: death of the parent kills it, signals meant for the node do not touch it (the terminal sends Ctrl-C, a
service manager SIGTERM, to *every* process: draining is ordered through the control socket instead), its title says who
it is. Everything that must not be copied by fork (loop, threads, sockets to others) is created inside the callable.

Return from it = a clean end (drained). `BootError` or `ConfigError` before `ready` = the node stops with that reason.

    def main(context):
        loop = uvloop.new_event_loop()
        context.connect(loop, on_message)          # link, link_gone, adopt, release, drain, reload, stop
        loop.call_later(1, …context.beat…)         # about each second, from the loop: a stuck loop does not beat
        context.send("ready")
        loop.run_forever()
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from setproctitle import setproctitle

from tuskws_fast import logs
from tuskws_fast.errors import BootError, ConfigError, ExitCode
from tuskws_fast.metrics import Metric
from tuskws_fast.supervisor.control import Message, receive_message, send_message

if TYPE_CHECKING:
    from tuskws_fast_ext.tables import Counters

    from tuskws_fast.supervisor.memory import NodeMemory

log = logging.getLogger(__name__)

OnMessage = Callable[[Message], None]


PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

# Who dies first when memory is short: workers (500) cost their own clients a reconnect, the broker (100) costs all.
OOM_SCORE_ADJ = {"worker": 500, "broker": 100}

# The supervisor takes these for the whole node; a child that died of one of them would look like a crash.
IGNORED_IN_CHILD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


@dataclass(slots=True)
class ChildContext:
    """All that a child is handed. Plain attributes; the three methods below are its line to the supervisor.

    `generation` counts the processes of this slot from 1. `workers` are the worker slots in use. `bell` is this
    process's own eventfd; it is also the `own bell` of every `link` message (whose copy of it may be closed).
    `listener` is a worker's listening socket; `leads`: it is the node's first one, so this worker shows the figures
    that are the whole node's.
    """

    role: str
    slot: int
    generation: int
    workers: tuple[int, ...]
    control: socket.socket
    memory: NodeMemory
    counters: Counters
    bell: int
    listener: socket.socket | None
    leads: bool = False
    # Where this process is to run; None: wherever the node may.
    cores: frozenset[int] | None = None

    @property
    def name(self) -> str:
        return f"{self.role} {self.slot}"

    def connect(self, loop: asyncio.AbstractEventLoop, on_message: OnMessage) -> None:
        """Call `on_message(message)` from `loop` for every control message; those sent before are not lost.

        The callee owns `message.fds`. When the supervisor is gone the process ends at once, as PDEATHSIG demands.
        """

        def on_readable() -> None:
            while True:
                try:
                    message = receive_message(self.control)
                except BlockingIOError:
                    return
                except ConnectionResetError:
                    message = None
                if message is None:
                    os._exit(ExitCode.FAILED)
                on_message(message)

        loop.add_reader(self.control, on_readable)
        self.beat()

    def send(self, op: str, **fields: Any) -> None:
        """Tell the supervisor: `ready`, `reloaded {problem}`, `drained`, `poisoned {worker, reason}`."""
        send_message(self.control, op, fields)

    def beat(self) -> None:
        """Show that this process's loop turns."""
        self.counters.set(Metric.BEAT, time.monotonic_ns() // 1_000_000)
        self.counters.set(Metric.LOG_DROPPED, logs.dropped())

    def boot_failed(self, reason: str) -> NoReturn:
        """End this process before it was ready; the node stops and says `reason`."""
        self.send("boot_failed", reason=reason)
        os._exit(ExitCode.BOOT)


ChildMain = Callable[[ChildContext], None]


def run_child(context: ChildContext, main: ChildMain, parent: int, abandon: Callable[[], None]) -> NoReturn:
    """The life of a child, from just after fork (all signals blocked) to its end.

    `abandon` closes what the fork copied and only the supervisor may hold. Never returns, never unwinds into the
    supervisor's frames below it.
    """
    try:
        abandon()
        prepare(context, parent)
        main(context)
    except (BootError, ConfigError) as error:
        context.boot_failed(str(error))
    except SystemExit as error:
        os._exit(_exit_code(error))
    except BaseException:
        log.critical("%s ends: unexpected error", context.name, exc_info=True)
        os._exit(ExitCode.FAILED)
    os._exit(ExitCode.OK)


def prepare(context: ChildContext, parent: int) -> None:
    """Make the fork a process of its own: dies with its parent, deaf to the node's signals, named, no core dumps."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died between fork and prctl: nobody would ever kill us.
        os._exit(ExitCode.FAILED)
    signal.set_wakeup_fd(-1)
    for number in IGNORED_IN_CHILD:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    set_name(f"tuskws-fast: {context.name}", f"{context.role}-{context.slot}")
    logs.set_process(context.name)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    # Tokens and secrets are in memory: no core file may hold them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _set_oom_score(OOM_SCORE_ADJ.get(context.role, 0))
    if context.cores is not None:
        try:
            os.sched_setaffinity(0, context.cores)
        except OSError as error:
            # A core was taken away (offline, another cpuset): slower is better than not at all.
            log.warning("not pinned", extra={"cores": sorted(context.cores), "reason": str(error)})


def _set_oom_score(score: int) -> None:
    # Of a process that has changed its user /proc belongs to root, because it may hold root's secrets: so that nobody
    # of that user can look into it, either. Only for this write it is an ordinary process.
    is_ordinary = prctl(PR_GET_DUMPABLE, 0) == 1
    prctl(PR_SET_DUMPABLE, 1)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError as error:
        log.debug("oom_score_adj is left as it is", extra={"reason": str(error)})
    finally:
        prctl(PR_SET_DUMPABLE, is_ordinary)


def _exit_code(error: SystemExit) -> int:
    return error.code if isinstance(error.code, int) else ExitCode.FAILED


def set_name(title: str, comm: str) -> None:
    """`title` is what `ps` shows, `comm` (15 bytes) what `top` and `/proc/PID/comm` show."""
    setproctitle(title)
    prctl(PR_SET_NAME, comm.encode()[:15])


def prctl(option: int, argument: int | bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    zero = ctypes.c_ulong(0)
    result: int = libc.prctl(ctypes.c_int(option), value, zero, zero, zero)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
    return result
