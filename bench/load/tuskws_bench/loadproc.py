"""One load process: drives the compiled client through the phases, on the word of the parent (run.py).

    parent                      load process
      │ ────── Share ──────────▶ │  open every connection, join          (Progress while it does)
      │ ◀───── Opened ────────── │  keeps serving its sockets while it waits
      │ ────── Timing ─────────▶ │  publish; snapshots at the two marks
      │ ◀───── Stopped ───────── │  what it published, by room
      │ ────── Drain ──────────▶ │  receive until everything that is on its way is here, or nothing comes any more
      │ ◀───── Finished ──────── │
      │ ────── Leave ──────────▶ │  Close frames, end

Marks are CLOCK_MONOTONIC, which all processes share. The loop never waits on the pipe: between runs of SLICE_S it only
looks whether something is there, so that pings are answered and pushes are read at all times.
"""

from __future__ import annotations

import gc
import os
import resource
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

from tuskws_bench.loadclient import CLOSED, DELIVERED, READY, LoadClient
from tuskws_bench.plan import Share

SLICE_S = 0.05
PROGRESS_S = 0.25
LEAVE_S = 3.0
SPARE_DESCRIPTORS = 64
SLOW_WAKE_MAX_S = 10.0
SLOW_QUIET_S = 0.3

Counters = dict[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    counters: Counters


@dataclass(frozen=True, slots=True)
class Opened:
    counters: Counters
    share: float
    error_codes: dict[str, int]
    first_error: str


@dataclass(frozen=True, slots=True)
class Timing:
    start_ns: int
    measure_from_ns: int
    measure_until_ns: int


@dataclass(frozen=True, slots=True)
class Stopped:
    published_by_room: dict[str, int]
    before: Counters
    after: Counters
    cpu_s: float
    by_second: list[int]


@dataclass(frozen=True, slots=True)
class Drain:
    expected: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    published_by_room: dict[str, int]
    unique_deliveries: int
    counters: Counters
    error_codes: dict[str, int]
    first_error: str
    latency: bytes
    lateness: bytes
    opening: bytes
    replies: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    text: str


def main(share: Share, pipe: Connection, connect_timeout_s: float) -> None:
    """Entry of the process. Whatever goes wrong reaches the parent as one `Failed`."""
    try:
        _prepare(share)
        LoadProcess(share, pipe).work(connect_timeout_s)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # the parent is gone or was interrupted: there is nobody to tell
    except Exception:
        pipe.send(Failed(traceback.format_exc()))


def _prepare(share: Share) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if share.connections + SPARE_DESCRIPTORS > hard:
        raise RuntimeError(
            f"{share.connections} connections are more than the limit of open files, {hard}, allows: more --processes"
        )
    if share.core is not None:
        os.sched_setaffinity(0, {share.core})
    gc.disable()  # a collection would look like latency; nothing here makes cycles


class LoadProcess:
    def __init__(self, share: Share, pipe: Connection) -> None:
        self._share = share
        self._pipe = pipe
        self._client = LoadClient(share)
        self._next_progress = 0.0

    def work(self, connect_timeout_s: float) -> None:
        client = self._client
        began, cpu_before = time.monotonic(), time.process_time()
        self._open(connect_timeout_s)
        share = (time.process_time() - cpu_before) / (time.monotonic() - began)
        self._pipe.send(Opened(client.counters(), share, client.error_codes(), client.first_error()))
        while not isinstance(command := self._serve_until_told(), Leave):
            if isinstance(command, Timing):
                self._publish(command)
            else:
                assert isinstance(command, Drain), command
                self._drain(command)
        client.goodbye()
        client.run(_ns_from_now(LEAVE_S), CLOSED)

    def _open(self, timeout_s: float) -> None:
        deadline_ns = _ns_from_now(timeout_s)
        self._client.open_up_to(self._share.connections)
        while time.monotonic_ns() < deadline_ns:
            self._run_slice(deadline_ns, READY)
            counters = self._client.counters()
            if counters["ready"] + counters["failed"] + counters["closed_early"] >= self._share.connections:
                return

    def _serve_until_told(self) -> object:
        while not self._pipe.poll(0):
            self._client.run(_ns_from_now(SLICE_S))
        return self._pipe.recv()

    def _publish(self, timing: Timing) -> None:
        client = self._client
        share = self._share
        client.measure(timing.measure_from_ns, timing.measure_until_ns)
        self._run_to(timing.start_ns)
        if share.slow:
            client.pause(True)
        if share.churn:
            client.churn()
        elif share.action != "join":
            client.publish(timing.start_ns + share.phase_ns, share.interval_ns, share.side_interval_ns)
        self._run_to(timing.measure_from_ns)
        before, cpu_before = client.counters(), time.process_time()
        if share.drops:
            client.drop(timing.measure_from_ns, share.drop_interval_ns, share.drops)
        by_second = self._count_seconds(timing)
        after, cpu_after = client.counters(), time.process_time()
        client.stop()
        self._pipe.send(Stopped(self._published(), before, after, cpu_after - cpu_before, by_second))

    def _count_seconds(self, timing: Timing) -> list[int]:
        """Run to the end of the interval; deliveries in each second of it."""
        counted, last = [], self._client.counters()["deliveries"]
        at_ns = timing.measure_from_ns
        while at_ns < timing.measure_until_ns:
            at_ns = min(at_ns + 1_000_000_000, timing.measure_until_ns)
            self._run_to(at_ns)
            now = self._client.counters()["deliveries"]
            counted.append(now - last)
            last = now
        return counted

    def _published(self) -> dict[str, int]:
        """Accepted messages by room, as far as refusals have come back; of who is to come back, what was dropped."""
        if self._share.action == "join" or self._share.churn:
            return {"": self._client.counters()["dropped"]}
        return {self._share.rooms[index].name: count for index, count in self._client.published_by_room().items()}

    def _drain(self, drain: Drain) -> None:
        """Until all is here, or `timeout_s` went by without a single delivery."""
        client = self._client
        client.expect(drain.expected)
        seen, quiet_since = -1, time.monotonic()
        while (deliveries := client.counters()["deliveries"]) < drain.expected:
            if deliveries != seen:
                seen, quiet_since = deliveries, time.monotonic()
            elif time.monotonic() - quiet_since > drain.timeout_s:
                break
            client.run(_ns_from_now(SLICE_S), DELIVERED)
        client.run(_ns_from_now(SLICE_S))  # a duplicate would come now
        if self._share.slow:
            self._wake_slow()
        self._pipe.send(
            Finished(
                self._published(),
                sum(client.unique_by_room()) if self._share.rooms else client.counters()["returned"],
                client.counters(),
                client.error_codes(),
                client.first_error(),
                client.latency(),
                client.lateness(),
                client.opening(),
                client.replies(),
            )
        )

    def _wake_slow(self) -> None:
        """The slow members read what is left for them: messages, gaps, or the end of the connection."""
        client = self._client
        client.pause(False)
        until = time.monotonic() + SLOW_WAKE_MAX_S
        seen: object = None
        while time.monotonic() < until:
            client.run(_ns_from_now(SLOW_QUIET_S))
            counters = client.counters()
            if seen == (now := [counters[name] for name in ("bytes", "slow_deliveries", "slow_gaps", "slow_closed")]):
                return
            seen = now

    def _run_to(self, until_ns: int) -> None:
        while time.monotonic_ns() < until_ns:
            self._run_slice(until_ns)

    def _run_slice(self, until_ns: int, goal: int = 0) -> None:
        self._client.run(min(until_ns, _ns_from_now(SLICE_S)), goal)
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_S
            self._pipe.send(Progress(self._client.counters()))


def _ns_from_now(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)
