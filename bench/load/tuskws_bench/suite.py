"""`tuskws-bench suite` (and scripts/bench): the scenarios that have targets, against our server and its limits in turn.

Every run has a fresh server; contenders take turns within a round, so that a slow minute of the machine hits all of
them; the median round counts. Our server goes first: the C loop then sends frames of the length our pushes had.

The targets compare CPU and ratios on one machine at one time. A figure taken while other programs used the cores is
marked, and does not pass: a server that falls behind coalesces more, so a disturbed run can even look cheaper.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table

from tuskws_bench import report
from tuskws_bench.contenders import BareUvloop, CLoop, Contender, OurServer, default_cores
from tuskws_bench.machine import machine
from tuskws_bench.plan import Scenario
from tuskws_bench.result import FOREIGN_LOAD_MAX, Result
from tuskws_bench.rounds import Entry, Metric, Rounds, median, run_once
from tuskws_bench.run import RunError

BASELINES = Path(__file__).resolve().parents[2] / "baselines"
IDLE_WORKERS = 2

# `plain` is one send() a member and message.
OURS, PLAIN, COALESCING, BARE = "tuskws-fast", "C loop, plain", "C loop, coalescing", "bare uvloop"

PASS, FAIL, NO_EVIDENCE = "pass", "FAIL", "no evidence: others used the cores"

# Of the median results by contender: (what was measured, whether it is enough).
Judge = Callable[[dict[str, Result]], tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Target:
    """`load`: what other programs do to the figure. nothing; worsens: a pass still stands; skews: no verdict stands."""

    text: str
    judge: Judge
    load: Literal["nothing", "worsens", "skews"]

    def verdict(self, results: dict[str, Result]) -> tuple[str, str]:
        """(what was measured; pass, FAIL or "no evidence")."""
        text, enough = self.judge(results)
        disturbed = any(result.foreign_cores > FOREIGN_LOAD_MAX for result in results.values())
        if disturbed and (self.load == "skews" or (self.load == "worsens" and not enough)):
            return text, NO_EVIDENCE
        return text, PASS if enough else FAIL


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario, who runs it besides us, what decides the median, and what must hold."""

    name: str
    scenario: Scenario
    peers: tuple[str, ...]
    metric: Metric
    targets: tuple[Target, ...] = ()
    workers: int = 0
    pinned: bool = True


def cases() -> list[Case]:
    return [
        Case(
            "fanout-closed",
            Scenario("fanout", members=1000, window=64),
            (PLAIN, COALESCING),
            lambda result: result.deliveries_per_s,
            (
                Target("at least 1.5 M deliveries/s", _at_least(1.5e6), "worsens"),
                Target("at least 0.7 of the coalescing C loop's deliveries", _rate_ratio(COALESCING, 0.7), "skews"),
                Target("0 lost, 0 twice", _nothing_lost, "nothing"),
            ),
        ),
        Case(
            "fanout-100",
            Scenario("fanout", members=1000, rate=100),
            (PLAIN,),
            lambda result: result.server_cpu_us_per_delivery,
            (
                Target("CPU a delivery at most 1.05 of the plain C loop's", _cpu_ratio(PLAIN, 1.05), "skews"),
                Target("p99 at most 1.5 of the plain C loop's", _p99_ratio(PLAIN, 1.5), "skews"),
            ),
        ),
        Case(
            "rooms",
            Scenario("rooms", rooms=200, members=10, window=8),
            (COALESCING,),
            lambda result: result.deliveries_per_s,
            (Target("0 lost, 0 twice", _nothing_lost, "nothing"),),
        ),
        Case(
            "echo-1",
            Scenario("echo", members=64, window=1),
            (PLAIN,),
            lambda result: result.deliveries_per_s,
            (Target("at least 0.8 of the plain C loop's replies", _rate_ratio(PLAIN, 0.8), "skews"),),
        ),
        Case(
            "echo-32",
            Scenario("echo", members=64, window=32),
            (PLAIN,),
            lambda result: result.deliveries_per_s,
            (Target("at least 400,000 replies/s", _at_least(400_000), "worsens"),),
        ),
        Case(
            "handshake",
            Scenario("handshake", members=16),
            (BARE, PLAIN),
            lambda result: result.server_cpu_us_per_delivery,
            (Target("CPU a handshake at most 1.5 of a bare uvloop protocol's", _cpu_ratio(BARE, 1.5), "skews"),),
        ),
        Case(
            "idle",
            Scenario("idle", members=10_000),
            (PLAIN,),
            lambda result: result.pss_bytes_per_connection,
            (Target("at most 5 KB PSS a connection", _pss_at_most(5000), "nothing"),),
            workers=IDLE_WORKERS,
            pinned=False,
        ),
    ]


def _at_least(rate: float) -> Judge:
    def judge(results: dict[str, Result]) -> tuple[str, bool]:
        found = results[OURS].deliveries_per_s
        return f"{found:,.0f}/s", found >= rate

    return judge


def _nothing_lost(results: dict[str, Result]) -> tuple[str, bool]:
    ours = results[OURS]
    return f"{ours.lost} / {ours.duplicates}", ours.valid and ours.lost == ours.duplicates == 0


def _rate_ratio(peer: str, least: float) -> Judge:
    return _against(peer, lambda result: result.deliveries_per_s, lambda ratio: ratio >= least)


def _cpu_ratio(peer: str, most: float) -> Judge:
    return _against(peer, lambda result: result.server_cpu_us_per_delivery, lambda ratio: ratio <= most)


def _p99_ratio(peer: str, most: float) -> Judge:
    return _against(peer, lambda result: result.latency_us.get("p99"), lambda ratio: ratio <= most)


def _against(peer: str, figure: Metric, enough: Callable[[float], bool]) -> Judge:
    """Our figure divided by the peer's."""

    def judge(results: dict[str, Result]) -> tuple[str, bool]:
        ratio = _ratio(figure(results[OURS]), figure(results[peer]))
        return ("-", False) if ratio is None else (f"{ratio:.2f}", enough(ratio))

    return judge


def _pss_at_most(size: int) -> Judge:
    def judge(results: dict[str, Result]) -> tuple[str, bool]:
        found = results[OURS].pss_bytes_per_connection
        return ("-", False) if found is None else (f"{found:,.0f} B", found <= size)

    return judge


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


@dataclass(frozen=True, slots=True)
class Settings:
    quick: bool
    runs: int
    workers: int
    processes: int
    server_cores: tuple[int, ...]
    load_cores: tuple[int, ...]

    def apply(self, scenario: Scenario, *, pinned: bool) -> Scenario:
        duration_s, warmup_s = (2.0, 0.5) if self.quick else (8.0, 2.0)
        if scenario.kind == "idle":
            duration_s = 1.0 if self.quick else 5.0
        return replace(
            scenario,
            duration_s=duration_s,
            warmup_s=warmup_s,
            processes=self.processes,
            cores=self.load_cores if pinned else (),
        )

    def contender(self, name: str, case: Case) -> Contender:
        cores = self.server_cores if case.pinned else ()
        if name == OURS:
            return OurServer(cores, workers=case.workers or self.workers)
        if name == BARE:
            return BareUvloop(cores)
        return CLoop(cores, coalesce=name == COALESCING)


def measure(case: Case, settings: Settings, console: Console) -> dict[str, Result]:
    """The median result of each contender. Raises RunError when one could not be run: a target needs all of them."""
    scenario = settings.apply(case.scenario, pinned=case.pinned)
    entries = [Entry(name, partial(settings.contender, name, case), scenario) for name in (OURS, *case.peers)]
    with report.LiveBar(console, enabled=console.is_terminal) as bar:
        Rounds(entries, runs=settings.runs, watch=bar.labelled, once=run_once).run()
    for entry in entries:
        if entry.failed:
            raise RunError(f"{entry.name}: {entry.failed}")
    return {entry.name: median(entry.results, case.metric) for entry in entries}


def results_table(measured: dict[str, dict[str, Result]]) -> Table:
    table = Table(
        title="Results: the server's CPU, and ours divided by this (of rates more is better, of CPU less)",
        title_justify="left",
    )
    left = ("case", "server", "note")
    columns = ("case", "server", "each s", "CPU each", "÷ rate", "÷ CPU", "p50", "p99", "cores", "client", "note")
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name != "note")
    for case, results in measured.items():
        for name, result in results.items():
            table.add_row(case, name, *_row(result, results[OURS]))
        table.add_section()
    return table


def _row(result: Result, ours: Result) -> Iterator[str]:
    idle = result.scenario["kind"] == "idle"
    rate, our_rate = (each.handshakes_per_s if idle else each.deliveries_per_s for each in (result, ours))
    cost, our_cost = (
        each.server_cpu_us_per_handshake if idle else each.server_cpu_us_per_delivery for each in (result, ours)
    )
    yield "-" if rate is None else f"{rate:,.0f}"
    yield "-" if cost is None else f"{cost:.3f} µs"
    for ratio in (_ratio(our_rate, rate), _ratio(our_cost, cost)):
        yield "-" if ratio is None else f"{ratio:.2f}"
    for name in ("p50", "p99"):
        yield report.time_text(result.latency_us[name]) if result.latency_us else "-"
    yield "-" if result.server_cores is None else f"{result.server_cores:.2f}"
    yield f"{100 * max(result.harness_share):.0f} %" if result.harness_share else "-"
    notes = [*result.problems]
    if idle and result.pss_bytes_per_connection is not None:
        notes.append(f"{result.pss_bytes_per_connection:,.0f} B a connection; each: a handshake")
    if result.load_client_was_the_bottleneck:
        notes.append("load client saturated")
    if result.foreign_cores > FOREIGN_LOAD_MAX:
        notes.append(f"others used {result.foreign_cores:.2f} cores")
    yield "; ".join(notes)


def targets_table(chosen: list[Case], measured: dict[str, dict[str, Result]]) -> tuple[Table, bool]:
    """The targets with their verdicts, and whether all were met."""
    table = Table(title="Targets", title_justify="left")
    for name in ("case", "target", "measured", "verdict"):
        table.add_column(name)
    met = True
    for case in chosen:
        for target in case.targets:
            text, verdict = target.verdict(measured[case.name])
            met = met and verdict == PASS
            table.add_row(case.name, target.text, text, verdict, style=None if verdict == PASS else "bold red")
    return table, met


@click.command()
@click.option("--quick", is_flag=True, help="Short runs, one round: a look, not evidence.")
@click.option("--runs", default=0, help="Rounds; the median counts.  [default: 3, with --quick 1]")
@click.option("--only", default="", help="Comma separated names of cases.")
@click.option("--workers", default=1, show_default=True, help=f"Workers of our server (idle: always {IDLE_WORKERS}).")
@click.option("--processes", default=1, show_default=True, help="Load processes.")
@click.option("--pin/--no-pin", default=True, show_default=True, help="Server on the first core, load on the second.")
@click.option("--save", is_flag=True, help="Write the figures to bench/baselines/DATE.json.")
def suite(*, quick: bool, runs: int, only: str, workers: int, processes: int, pin: bool, save: bool) -> None:
    """The cases that have targets. Our server and its limits in turn, ratios, verdicts."""
    console = report.open_console()
    server_cores, load_cores = default_cores() if pin else ((), ())
    settings = Settings(quick, runs or (1 if quick else 3), workers, processes, server_cores, load_cores)
    wanted = set(only.split(",")) - {""}
    chosen = [case for case in cases() if not wanted or case.name in wanted]
    if wanted - {case.name for case in chosen}:
        raise click.UsageError(f"--only: the cases are {', '.join(case.name for case in cases())}")
    measured = {}
    for case in chosen:
        console.print(f"[dim]{case.name} …[/]")
        try:
            measured[case.name] = measure(case, settings, console)
        except RunError as error:
            raise click.ClickException(f"{case.name}: {error}") from error
    console.print(results_table(measured))
    table, met = targets_table(chosen, measured)
    console.print(table)
    if save:
        BASELINES.mkdir(exist_ok=True)
        target = BASELINES / f"{time.strftime('%Y-%m-%d')}.json"
        cases_json = {case: {name: each.as_json() for name, each in found.items()} for case, found in measured.items()}
        target.write_text(json.dumps({"machine": machine(), "cases": cases_json}, indent=2) + "\n")
        console.print(f"written to {target}")
    raise SystemExit(0 if met else 1)
