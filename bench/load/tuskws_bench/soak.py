"""`tuskws-bench soak` (and scripts/soak): does a node that has done much hold more than one that has done little?

One node, journal on, two workers. Rounds of load until three totals are reached: deliveries, connections made, rooms
made and left. Each round is a scenario of the harness, in turn; most are many small rooms, which make all three.

    round ─▶ everybody has gone ─▶ wait until every gauge is back ─▶ sample each process ─▶ next round

So all samples are of the same situation, and what differs is what was kept. Times that are minutes by default (`FLAGS`)
are seconds here, or each wait would be as long. The verdict:

    gauges      after each round what they were before the first; the rings empty; descriptors as after the warm-up
    memory      what each process has allocated at rest, its RSS, the PSS of all, and the most that each took in a
                round do not grow after the warm-up (`drift`)
    counters    those that must stay 0 did; nothing was lost, doubled or out of order

What is allocated (blocks of Python's allocator) is exact to some hundreds: one object kept of a hundred connections
shows. RSS is what an operator sees; it also has the holes that bursts leave between things that stay. Python's
allocator gives back only whole arenas of a mebibyte, and any number that is counted up in a burst holds one until the
next: with the same blocks, to within 200 of 165,752, a broker had 82 to 97 MiB in one run and 104 in another, and of 48
arenas in use 21 MiB were pools with nothing in them (`sys._debugmallocstats`). It wanders below the most that a burst
took, and so the peak of each round is asked as well (the most ever could only rise): with a leak each goes higher.

All clients are guests, of whom nothing is left when their tickets are over. The journal's size is asked to stay below
its bound and not to return.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from tuskws_fast_ext.ring import inspect_ring, ring_bytes

from tuskws_bench import report
from tuskws_bench.contenders import OurServer
from tuskws_bench.drift import SAMPLES_MIN, Drift, drift
from tuskws_bench.machine import machine
from tuskws_bench.plan import ORDERED_KINDS, ROOM_KINDS, Scenario
from tuskws_bench.result import Result
from tuskws_bench.run import RunError, run
from tuskws_fast.ipc.segment import NAME_PREFIX, Segment
from tuskws_fast.metrics import GAUGES, Metric
from tuskws_fast.supervisor.stats import read_stats

MIB = 1024 * 1024
FLAGS = {
    "leave-grace": "1s",
    "keep-alive-timeout": "1s",
    "history-ttl": "1s",
    "inbox-ttl": "1s",
    "dedupe-window": "1s",
    "journal-size": "64MiB",
    "journal-age": "30s",
    "max-half-open": "4096",
    "max-half-open-per-ip": "4096",
    "connection-timeout": "60s",
}
# Gauges that say something else than what the node holds for its clients.
APART = {
    Metric.BEAT,
    Metric.MEMORY_BYTES,
    Metric.MEMORY_BLOCKS,
    Metric.JOURNAL_BYTES,
    Metric.TLS_NOT_AFTER,
}
RETURNING = tuple(metric.name.lower() for metric in GAUGES if metric not in APART)
# Gauges that have a bound to stay below: nine segments of an eighth of the journal, and one being begun.
BOUNDED = {"journal_bytes": 80 * MIB}
STAY_ZERO = ("lost_wakeup_rescued", "records_failed", "ring_poisoned", "journal_failed", "handler_failed")
SETTLE_MAX_S = 60.0
LOOK_S = 0.25
FILE_LOOKS = 5
ROOM_MEMBERS = 10
BURST = 256
# A soak measures no speed: a machine that is busy otherwise only makes it longer.
PATIENCE_S = 300.0
WARM_UP = 0.3
# Each connection comes from a port of 28,000, and a closed one rests for a second: addresses take turns.
ADDRESSES = 50


@dataclass(frozen=True, slots=True)
class Goal:
    deliveries: int
    connects: int
    rooms: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A node at rest: of each process blocks, RSS and open files, of the tree PSS, of all rings what waits in them."""

    at_s: float
    blocks: dict[str, int]
    rss: dict[str, int]
    peak: dict[str, int]
    files: dict[str, int]
    pss: int
    waiting: int
    gauges: dict[str, int]


@dataclass(slots=True)
class Soak:
    """All that was found. `problems` are of single rounds."""

    baseline: dict[str, int]
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rounds: int = 0
    deliveries: int = 0
    connects: int = 0
    rooms: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    restarts: int = 0

    @property
    def measured(self) -> list[Sample]:
        """Without the warm-up."""
        return self.samples[int(len(self.samples) * WARM_UP) :]

    def peaks(self) -> dict[str, Drift]:
        """By the hour, what each process took at most in a round. Empty where there are too few samples for any."""
        return self._drifts(lambda sample: sample.peak)

    def allocated(self) -> dict[str, Drift]:
        """The same of the blocks that it has at rest."""
        return self._drifts(lambda sample: sample.blocks)

    def at_rest(self) -> dict[str, Drift]:
        """The same of what it has from the kernel at rest."""
        return self._drifts(lambda sample: {**sample.rss, "PSS of all": sample.pss})

    def _drifts(self, figures: Callable[[Sample], dict[str, int]]) -> dict[str, Drift]:
        samples = self.measured
        if len(samples) < SAMPLES_MIN:
            return {}
        hours = [sample.at_s / 3600 for sample in samples]
        rows = [figures(sample) for sample in samples]
        return {name: drift(hours, [row[name] for row in rows]) for name in rows[0]}

    def faults(self) -> list[str]:
        found = list(self.problems)
        last = self.samples[-1]
        found += [
            f"{name} is {last.gauges[name]}, and was {self.baseline[name]}"
            for name in RETURNING
            if last.gauges[name] != self.baseline[name]
        ]
        if last.waiting:
            found.append(f"{last.waiting} bytes wait in rings")
        found += [
            f"{name} is {last.gauges[name]}, and may be {most}"
            for name, most in BOUNDED.items()
            if last.gauges[name] > most
        ]
        for name, files in last.files.items():
            if files > (before := self.measured[0].files[name]):
                found.append(f"{name} has {files} files open, and had {before}")
        found += [f"{name} is {self.totals[name]}" for name in STAY_ZERO if self.totals[name]]
        if self.restarts:
            found.append(f"{self.restarts} processes died")
        found += [f"{name} grows: {in_mib(each)}" for name, each in self.at_rest().items() if not each.holds]
        found += [f"{name} peaks higher: {in_mib(each)}" for name, each in self.peaks().items() if not each.holds]
        found += [f"{name} allocates: {in_blocks(each)}" for name, each in self.allocated().items() if not each.holds]
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": machine(),
            "rounds": self.rounds,
            "deliveries": self.deliveries,
            "connects": self.connects,
            "rooms": self.rooms,
            "journal_entries": self.totals["journal_entries"],
            "baseline": self.baseline,
            "peaks": {name: each._asdict() for name, each in self.peaks().items()},
            "at_rest": {name: each._asdict() for name, each in self.at_rest().items()},
            "allocated": {name: each._asdict() for name, each in self.allocated().items()},
            "samples": [
                {
                    "at_s": round(each.at_s, 1),
                    "blocks": each.blocks,
                    "rss": each.rss,
                    "peak": each.peak,
                    "pss": each.pss,
                    "files": each.files,
                }
                for each in self.samples
            ],
            "faults": self.faults(),
        }


def in_mib(each: Drift) -> str:
    slope, low, high, gained = (f"{value / MIB:+.2f}" for value in (each.slope, each.low, each.high, each.gained))
    return f"{slope} MiB an hour ({low} to {high}), {gained} in all"


def in_blocks(each: Drift) -> str:
    slope, low, high, gained = (f"{value:+,.0f}" for value in (each.slope, each.low, each.high, each.gained))
    return f"{slope} blocks an hour ({low} to {high}), {gained} in all"


# -- the node ----------------------------------------------------------------------------------------------------------


class Node:
    """What can be asked of a node that runs here."""

    def __init__(self, control_socket: Path, began_s: float) -> None:
        self._control_socket = control_socket
        self._began_s = began_s

    def stats(self) -> dict[str, Any]:
        return read_stats(self._control_socket)

    def gauges(self) -> dict[str, int]:
        totals = self.stats()["totals"]
        return {name: int(totals[name]) for name in (*RETURNING, *BOUNDED)}

    def sample(self) -> Sample:
        processes = [each for each in self.stats()["processes"] if each["pid"]]
        pids = {each["name"]: int(each["pid"]) for each in processes}
        return Sample(
            at_s=time.monotonic() - self._began_s,
            blocks={each["name"]: int(each["blocks"]) for each in processes if each["blocks"]},
            rss={each["name"]: int(each["rss"]) for each in processes},
            peak={name: take_peak(pid) for name, pid in pids.items()},
            files={name: files_open(pid) for name, pid in pids.items()},
            pss=sum(int(each["pss"]) for each in processes),
            waiting=waiting_in_rings(pids["supervisor"]),
            gauges=self.gauges(),
        )

    def off(self, baseline: dict[str, int]) -> dict[str, int]:
        """The gauges that have not come back, after some patience."""
        deadline = time.monotonic() + SETTLE_MAX_S
        while True:
            gauges = self.gauges()
            off = {name: gauges[name] for name in RETURNING if gauges[name] != baseline[name]}
            if not off or time.monotonic() > deadline:
                return off
            time.sleep(LOOK_S)


def take_peak(pid: int) -> int:
    """The most that a process has had from the kernel since the last time (proc(5), `clear_refs`)."""
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text().splitlines()
    (process / "clear_refs").write_text("5")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def files_open(pid: int) -> int:
    """The least of a few looks: the question for the figures was a descriptor, too."""
    looks = []
    for _ in range(FILE_LOOKS):
        looks.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.02)
    return min(looks)


def waiting_in_rings(supervisor: int) -> int:
    """Bytes in the rings of a node, whose supervisor holds all segments."""
    waiting = 0
    for entry in Path(f"/proc/{supervisor}/fd").iterdir():
        if os.readlink(entry).startswith(f"/memfd:{NAME_PREFIX}link"):
            segment = Segment.from_fd(os.open(entry, os.O_RDWR))
            try:
                up = inspect_ring(segment.buffer, 0)
                down = inspect_ring(segment.buffer, ring_bytes(up.capacity))
            finally:
                segment.close()
            waiting += up.tail - up.head + down.tail - down.head
    return waiting


# -- the load ----------------------------------------------------------------------------------------------------------


def scenarios(size: int, interval_s: float) -> Iterator[Scenario]:
    """Round after round, for ever. `size`: connections of a large one."""
    few = max(size // 10, ROOM_MEMBERS)
    rooms = Scenario("rooms", rooms=size // ROOM_MEMBERS, members=ROOM_MEMBERS, window=8)
    fanout = Scenario("fanout", members=few, window=64)
    several = Scenario("reconnect", rooms=few // ROOM_MEMBERS, members=ROOM_MEMBERS)
    others = (
        several,
        Scenario("private", members=few, window=4),
        replace(several, kind="mixed", rate=5.0, side=few, side_rate=500.0),
        replace(several, kind="presence", window=1, publishers=2),
        replace(fanout, kind="slow", window=16, slow=10.0),
        replace(fanout, compression=True, batch=True),
    )
    for number in count():
        turn = [rooms]
        if number % 4 == 0:
            turn.append(fanout)
        elif number % 4 == 2:
            turn.append(others[number // 4 % len(others)])
        for each in turn:
            patient = replace(each, connect_burst=BURST, connect_timeout_s=PATIENCE_S, drain_timeout_s=10.0)
            yield replace(patient, duration_s=interval_s, warmup_s=0.1)


def soak(server: OurServer, goal: Goal, size: int, interval_s: float, say: Callable[[str], None]) -> Soak:
    """Raises RunError when a round could not be run."""
    assert server.control_socket is not None, "a server that was started"
    node = Node(server.control_socket, time.monotonic())
    found = Soak(node.gauges())
    for number, scenario in enumerate(scenarios(size, interval_s)):
        address = f"ws://127.0.0.{1 + number % ADDRESSES}:{server.port}/"
        placed = replace(scenario, url=address, server_pid=server.pid)
        result = run(placed, control_socket=server.control_socket)
        found.rounds += 1
        found.deliveries += _delivered(result, placed)
        found.connects += result.connections + placed.dropped
        found.rooms += scenario.rooms if scenario.kind in ROOM_KINDS else 0
        found.problems += [f"round {found.rounds}, {scenario.kind}: {problem}" for problem in result.problems]
        if off := node.off(found.baseline):
            found.problems.append(f"round {found.rounds}, {scenario.kind}: not back after {SETTLE_MAX_S:g} s: {off}")
        found.samples.append(node.sample())
        say(_line(found, scenario))
        done = found.deliveries >= goal.deliveries and found.connects >= goal.connects and found.rooms >= goal.rooms
        if done and len(found.measured) >= SAMPLES_MIN:
            break
    stats = node.stats()
    found.totals = {name: int(value) for name, value in stats["totals"].items()}
    found.restarts = sum(int(each["restarts"]) for each in stats["processes"])
    return found


def _delivered(result: Result, scenario: Scenario) -> int:
    """Pushed messages that arrived, of the whole run and not of the measured interval alone."""
    if scenario.kind not in ORDERED_KINDS:
        return 0
    readers = 1 if scenario.kind == "private" else scenario.members - scenario.slow_members()
    return result.accepted * readers - result.lost


def _line(found: Soak, scenario: Scenario) -> str:
    sample = found.samples[-1]
    rss = " ".join(f"{size / MIB:.1f}" for size in sample.rss.values())
    return (
        f"{sample.at_s:6.0f} s  {scenario.kind:<9} {found.deliveries / 1e6:7.2f} M deliveries  "
        f"{found.connects / 1e3:7.1f} k connects  {found.rooms / 1e3:6.1f} k rooms  RSS {rss} MiB"
    )


# -- the command -------------------------------------------------------------------------------------------------------


def verdict(found: Soak) -> Table:
    table = Table(title="Memory after the warm-up", title_justify="left")
    for name in ("", "", "mean", "slope, 95 %", "verdict"):
        table.add_column(name)
    rows = [("at most", name, in_mib(each), f"{each.mean / MIB:.1f} MiB", each) for name, each in found.peaks().items()]
    rows += [
        ("at rest", name, in_mib(each), f"{each.mean / MIB:.1f} MiB", each) for name, each in found.at_rest().items()
    ]
    rows += [
        ("at rest", name, in_blocks(each), f"{each.mean:,.0f} blocks", each) for name, each in found.allocated().items()
    ]
    for when, name, slope, mean, each in rows:
        holds = "does not grow" if each.holds else "GROWS"
        table.add_row(when, name, mean, slope, holds, style=None if each.holds else "bold red")
    return table


@click.command("soak")
@click.option("--deliveries", default=50_000_000, show_default=True, help="Deliveries to reach.")
@click.option("--connects", default=1_000_000, show_default=True, help="Connections to make and end.")
@click.option("--rooms", default=100_000, show_default=True, help="Rooms to make and leave.")
@click.option("--size", default=8000, show_default=True, help="Connections of a large round: files on both sides.")
@click.option("--interval", "interval_s", default=1.0, show_default=True, help="Seconds of publishing a round.")
@click.option("--workers", default=2, show_default=True, help="Workers of the node.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the journal is.  [default: a scratch folder]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON (- is stdout).")
def command(
    *,
    deliveries: int,
    connects: int,
    rooms: int,
    size: int,
    interval_s: float,
    workers: int,
    data_dir: Path | None,
    json_file: Path | None,
) -> None:
    """Load one node for long. When all totals are reached, nothing may be left, and nothing may have grown."""
    console = report.open_console(stderr=json_file == Path("-"))
    flags = tuple(part for name, value in FLAGS.items() for part in (f"--{name}", value))
    server = OurServer(workers=workers, flags=("--host", "0.0.0.0", *flags), data_dir=data_dir or "journal")
    try:
        with server:
            found = soak(server, Goal(deliveries, connects, rooms), size, interval_s, console.print)
    except RunError as error:
        raise click.ClickException(str(error)) from error
    _conclude(console, found)
    report.write_json(json_file, found.as_json())
    raise SystemExit(1 if found.faults() else 0)


def _conclude(console: Console, found: Soak) -> None:
    console.print(verdict(found))
    console.print(
        f"{found.rounds} rounds: {found.deliveries:,} deliveries, {found.connects:,} connects, {found.rooms:,} rooms; "
        f"{found.totals['journal_entries']:,} entries written to the journal"
    )
    for fault in found.faults():
        console.print(f"[bold red]! {fault}[/]", highlight=False)
    if not found.faults():
        console.print("every gauge is back, nothing grew, nothing was lost")
