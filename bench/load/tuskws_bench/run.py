"""Run one scenario: start the load processes, move them through the phases together, and take the server's figures.

The parent sleeps at the pipes and wakes at the marks, where it samples the CPU of the server's tree and of the machine.
A run that could not be carried out raises RunError; one that was carried out but went wrong (loss, refusals, closed
connections) has a Result whose `problems` say so.
"""

from __future__ import annotations

import multiprocessing
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tuskws_bench import counted, loadproc, procfs
from tuskws_bench.loadproc import Counters, Drain, Failed, Finished, Leave, Opened, Progress, Stopped, Timing
from tuskws_bench.plan import ORDERED_KINDS, RESTING_KINDS, Scenario, Share
from tuskws_bench.result import Interval, Result, Run, compose

START_DELAY_S = 0.1
DRAIN_MAX_S = 60.0
RECORDS_POLL_S = 0.1
LOCAL_NAMES = ("localhost", "127.", "::1")

Message = TypeVar("Message")
# Phase, counters of all load processes, the part of the phase that is done (None: nobody knows).
OnProgress = Callable[[str, Counters, float | None], None]


class RunError(RuntimeError):
    """The scenario could not be run; the text is for the person who started it."""


def run(
    scenario: Scenario,
    on_progress: OnProgress = lambda phase, counters, done: None,
    control_socket: Path | None = None,
) -> Result:
    """`control_socket`: where our server answers with its counters, if not at the place its port gives it."""
    scenario.validate()
    host, port, _, _ = scenario.endpoint()
    shares = scenario.shares(
        address=_resolve(host, port),
        run=random.randrange(64),
        name=f"bench-{random.randrange(36**6):08x}",
        base_ns=time.monotonic_ns(),
    )
    server = Server(scenario.server_pid, host, port)

    with Crew(scenario, shares, on_progress) as crew:
        before, cpu_before = Memory(server), server.cpu()
        crew.start()
        opened = crew.gather(Opened, "connecting", scenario.connect_timeout_s + 5)
        opening_cpu_s = server.cpu_since(cpu_before)
        _check_opened(scenario, opened)
        records = Records(scenario, server, crew, control_socket or counted.default_socket(port))
        stopped: list[Stopped] = []
        if scenario.kind in RESTING_KINDS:
            crew.pause("settling", scenario.settle_s)
            memory = Memory(server)
            interval = _rest(scenario, server, crew)
        else:
            interval, stopped = _measure(scenario, server, crew)
            memory = Memory(server)
        finished = _drain(scenario, shares, crew, stopped)
        accepted = sum(each.counters["published"] - each.counters["refused"] for each in finished)
        made = records.since(accepted)
        crew.tell(Leave())
    lost = sum(_expected(shares, finished)) - sum(each.unique_deliveries for each in finished)
    return compose(
        scenario,
        Run(
            opened=opened,
            opening_cpu_s=opening_cpu_s,
            interval=interval,
            pss=(before.pss_bytes, memory.pss_bytes),
            kernel=memory.kernel_since(before),
            records=made,
            stopped=stopped,
            finished=finished,
            lost=lost,
        ),
    )


def _resolve(host: str, port: int) -> str:
    try:
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise RunError(f"cannot resolve {host}: {error}") from error


def _check_opened(scenario: Scenario, opened: list[Opened]) -> None:
    ready = sum(each.counters["ready"] for each in opened)
    if ready == scenario.connections:
        return
    throttled = sum(each.counters["throttled_joins"] for each in opened)
    reason = next((each.first_error for each in opened if each.first_error), "no answer in time")
    hint = " The server limits rates: start it with --disable-rate-limiting." if throttled else ""
    raise RunError(
        f"{ready} of {scenario.connections} connections became ready ({throttled} joins rate limited): {reason}.{hint}"
    )


def _measure(scenario: Scenario, server: Server, crew: Crew) -> tuple[Interval, list[Stopped]]:
    start_ns = time.monotonic_ns() + int(START_DELAY_S * 1e9)
    from_ns = start_ns + int(scenario.warmup_s * 1e9)
    until_ns = from_ns + int(scenario.duration_s * 1e9)
    crew.tell(Timing(start_ns, from_ns, until_ns))
    crew.pause("warming up", (from_ns - time.monotonic_ns()) / 1e9)
    before = Sample(server)
    crew.pause("measuring", (until_ns - time.monotonic_ns()) / 1e9)
    after = Sample(server)
    stopped = crew.gather(Stopped, "stopping", scenario.connect_timeout_s)
    harness_s = [each.cpu_s for each in stopped]
    return after.since(before, harness_s), stopped


def _rest(scenario: Scenario, server: Server, crew: Crew) -> Interval:
    """Nothing happens for the duration: what the server spends on it."""
    before = Sample(server)
    crew.pause("resting", scenario.duration_s)
    return Sample(server).since(before, [])


def _drain(scenario: Scenario, shares: list[Share], crew: Crew, stopped: list[Stopped]) -> list[Finished]:
    for pipe, deliveries in zip(crew.pipes, _expected(shares, stopped), strict=True):
        pipe.send(Drain(deliveries, scenario.drain_timeout_s))
    return crew.gather(Finished, "draining", DRAIN_MAX_S + scenario.drain_timeout_s)


def _expected(shares: list[Share], reports: Sequence[Stopped | Finished]) -> list[int]:
    """Deliveries that each load process is owed, by what all of them published in its rooms. Where nothing fans out: by
    what it did itself."""
    if not all(share.fans_out for share in shares):
        return [sum(report.published_by_room.values()) for report in reports] or [0] * len(shares)
    published: Counter[str] = Counter()
    for report in reports:
        published.update(report.published_by_room)
    return [sum(published[room.name] * (room.members - room.slow) for room in share.rooms) for share in shares]


class Server:
    """The server's process tree, if it is on this machine."""

    def __init__(self, pid: int, host: str, port: int) -> None:
        """`pid` 0: find it by its port; -1: do not look."""
        if pid == 0 and host.startswith(LOCAL_NAMES):
            pid = procfs.server_of_port(port)
        self.pid = max(pid, 0)

    def cpu(self) -> procfs.TreeCpu:
        return procfs.tree_cpu(self.pid) if self.pid else procfs.TreeCpu({})

    def cpu_since(self, earlier: procfs.TreeCpu) -> float:
        return self.cpu().since(earlier)

    def pss_bytes(self) -> int:
        return procfs.tree_pss_bytes(self.pid) if self.pid else 0


class Records:
    """What our server's broker counts from now on. It tells about once a second, so a reading waits for what is
    expected, or that long; a server that has not counted anything yet needs no wait."""

    def __init__(self, scenario: Scenario, server: Server, crew: Crew, control_socket: Path) -> None:
        asked = scenario.protocol == "tusk" and scenario.kind in ORDERED_KINDS and server.pid > 0
        self._crew = crew
        self._control_socket = control_socket
        self._before = counted.broker_records(control_socket) if asked else None
        if self._before:
            crew.pause("counting", counted.TOLD_WITHIN_S)
            self._before = counted.broker_records(control_socket)

    def since(self, expected: int) -> int | None:
        if self._before is None:
            return None
        deadline = time.monotonic() + counted.TOLD_WITHIN_S
        while (now := counted.broker_records(self._control_socket)) is not None:
            if now - self._before >= expected or time.monotonic() > deadline:
                return now - self._before
            self._crew.pause("counting", RECORDS_POLL_S)
        return None


class Memory:
    """What the server's tree holds, and the kernel for all connections of the machine, at one moment."""

    def __init__(self, server: Server) -> None:
        self.pss_bytes = server.pss_bytes()
        self._kernel = procfs.kernel_memory_bytes() if server.pid else None

    def kernel_since(self, earlier: Memory) -> int | None:
        return None if self._kernel is None or earlier._kernel is None else self._kernel - earlier._kernel


class Sample:
    """CPU times of the server's tree and of the machine at one moment."""

    def __init__(self, server: Server) -> None:
        self._at_s = time.monotonic()
        self._cpu = server.cpu()
        self._machine_s = procfs.machine_busy_s()
        self._own_s = time.process_time()

    def since(self, earlier: Sample, harness_s: list[float]) -> Interval:
        return Interval(
            seconds=self._at_s - earlier._at_s,
            server_cpu_s=self._cpu.since(earlier._cpu),
            server_by_process=self._cpu.by_process(earlier._cpu),
            harness_cpu_s=harness_s,
            machine_cpu_s=self._machine_s - earlier._machine_s,
            parent_cpu_s=self._own_s - earlier._own_s,
        )


class Crew:
    """The load processes and their pipes. Ends every one of them when the context is left, whatever happened."""

    def __init__(self, scenario: Scenario, shares: list[Share], on_progress: OnProgress) -> None:
        self._scenario = scenario
        self._shares = shares
        self._on_progress = on_progress
        self._latest: dict[int, Counters] = {}
        self._processes: list[BaseProcess] = []
        self._waiting: list[tuple[int, object]] = []
        self.pipes: list[Connection] = []

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for share in self._shares:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=loadproc.main,
                args=(share, theirs, self._scenario.connect_timeout_s),
                name=f"load-{share.index}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self.pipes.append(ours)

    def tell(self, message: object) -> None:
        for pipe in self.pipes:
            pipe.send(message)

    def gather(self, kind: type[Message], phase: str, timeout_s: float) -> list[Message]:
        """One message of `kind` from each process, in their order. Raises RunError when one fails or is late."""
        found: dict[int, Message] = {}
        deadline = time.monotonic() + timeout_s
        while True:
            for index, message in self._waiting:
                if not isinstance(message, kind):
                    raise RunError(f"a load process said {message!r} while {phase}")
                found[index] = message
            self._waiting.clear()
            if len(found) == len(self.pipes):
                return [found[index] for index in range(len(self.pipes))]
            left = deadline - time.monotonic()
            if left <= 0:
                raise RunError(f"a load process did not answer in time while {phase}")
            self._receive(phase, left, None)

    def pause(self, phase: str, seconds: float) -> None:
        """Sleep exactly that long, taking progress meanwhile; what else comes waits for the next gather()."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._receive(phase, left, 1 - left / seconds)

    def _receive(self, phase: str, timeout_s: float, done: float | None) -> None:
        """Take what is there: progress is shown, all else put aside."""
        for pipe in wait(self.pipes, timeout=min(timeout_s, 0.5)):
            assert isinstance(pipe, Connection)
            index = self.pipes.index(pipe)
            try:
                message = pipe.recv()
            except EOFError as error:
                raise RunError(f"load process {index} died while {phase}") from error
            if isinstance(message, Failed):
                raise RunError(f"load process {index} failed while {phase}:\n{message.text}")
            if isinstance(message, Progress):
                self._latest[index] = message.counters
            else:
                self._waiting.append((index, message))
        total: Counter[str] = Counter()
        for counters in self._latest.values():
            total.update(counters)
        if phase == "connecting":
            done = total["ready"] / self._scenario.connections
        self._on_progress(phase, dict(total), done)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        patience_s = loadproc.LEAVE_S + 2 if error is None else 0.0
        for process in self._processes:
            process.join(patience_s)
            if process.is_alive():
                process.terminate()
                process.join()
        for pipe in self.pipes:
            pipe.close()
