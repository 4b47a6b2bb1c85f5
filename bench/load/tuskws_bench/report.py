"""Show a Result to people: one table a run, and one bar while it runs. Machines read `--json`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tuskws_bench.loadproc import Counters
from tuskws_bench.plan import PLURALS, RESTING_KINDS, ROOM_KINDS, SILENT_KINDS
from tuskws_bench.result import FOREIGN_LOAD_MAX, Result
from tuskws_bench.run import OnProgress

PLAIN_WIDTH = 140


def open_console(*, stderr: bool = False) -> Console:
    """A terminal's own width; in a pipe or a log, wide enough that no table is broken."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH)


def show(console: Console, result: Result) -> None:
    table = Table(title=headline(result), title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name, value, note in _rows(result):
        table.add_row(name, value, note)
    console.print(table)
    for problem in result.problems:
        console.print(f"[bold red]! {problem}[/]")
    if result.first_error:
        console.print(f"[red]  first: {result.first_error}[/]", highlight=False)
    if result.load_client_was_the_bottleneck:
        console.print("[yellow]! the load client was the bottleneck: the server may be faster than this figure[/]")
    if result.foreign_cores > FOREIGN_LOAD_MAX:
        console.print(f"[yellow]! other programs used {result.foreign_cores:.2f} cores meanwhile: do not compare[/]")


def headline(result: Result) -> str:
    scenario = result.scenario
    kind = scenario["kind"]
    if kind in ROOM_KINDS:
        size = f"{scenario['rooms']:,} x {scenario['members']:,} members"
    else:
        size = f"{scenario['members']:,} connections"
    if kind in SILENT_KINDS:
        return f"{kind} ({scenario['protocol']}): {size}"
    if kind in ROOM_KINDS:
        size += f", {scenario['publishers']} publishing"
    pace = f"{scenario['rate']:g} messages/s" if scenario["rate"] else f"window {scenario['window']}"
    return f"{kind} ({scenario['protocol']}): {size}, {pace}, {scenario['payload']} B, {result.seconds:g} s"


def _rows(result: Result) -> list[tuple[str, str, str]]:
    rows = []
    plural = PLURALS[result.unit]
    if result.scenario["kind"] not in RESTING_KINDS:
        rows += _flow(result, plural)
        rows.append(("server CPU", _us(result.server_cpu_us_per_delivery), f"a {result.unit}, whole process tree"))
    rows.append(("server cores", _number(result.server_cores, "{:.2f}"), _by_process(result)))
    rows += [
        (
            "opening",
            _number(result.handshakes_per_s, "{:,.0f}/s"),
            _us(result.server_cpu_us_per_handshake) + " server CPU each, with joining where it joins",
        ),
        ("time to be ready", latency_text(result.opening_us), "p50 / p90 / p99 / p99.9 / max"),
        (
            "PSS",
            f"{result.pss_bytes / 1e6:,.1f} MB",
            f"{_number(result.pss_bytes_per_connection, '{:,.0f} B')} a connection",
        ),
        (
            "kernel memory",
            _number(result.kernel_bytes_per_connection, "{:,.0f} B"),
            "a connection: both ends of it, whole machine",
        ),
    ]
    while_opening = f"of a core, each process; while opening {_per_cent(result.opening_share)}"
    others = f"others used {result.foreign_cores:.2f} cores"
    rows.append(("load client", _per_cent(result.harness_share) or "at rest", f"{while_opening}; {others}"))
    if result.wire_bytes_per_delivery:
        per_read = _number(result.deliveries_per_read, "{:.1f}")
        rows.append(("wire", f"{result.wire_bytes_per_delivery:.0f} B", f"a delivery; {per_read} deliveries a read"))
    return rows


def _flow(result: Result, plural: str) -> list[tuple[str, str, str]]:
    """What went round, and what went wrong with it."""
    rows = [
        (f"{plural}/s", f"{result.deliveries_per_s:,.0f}", f"{result.deliveries:,} in the interval"),
        ("messages/s", f"{result.messages_per_s:,.0f}", "published"),
        (
            "accepted / broker records",
            f"{result.accepted:,} / {_number(result.broker_records, '{:,}')}",
            f"of {result.published:,} published, whole run",
        ),
        ("lost / twice / out of order", f"{result.lost} / {result.duplicates} / {result.out_of_order}", "whole run"),
        ("latency", latency_text(result.latency_us), "p50 / p90 / p99 / p99.9 / max"),
    ]
    if result.lateness_us:
        rows.append(("harness lateness", latency_text(result.lateness_us), "how late it sent; part of the latency"))
    if result.pushes_per_s:
        rows.append(("other pushes/s", f"{result.pushes_per_s:,.0f}", "presence, members, room statistics"))
    if result.side_commands:
        rows.append(
            ("side commands", latency_text(result.side_replies_us), f"{result.side_commands:,} sent; to the reply")
        )
    if slow := result.slow_members:
        text = f"{slow['delivered_late']:,} / {slow['gaps']:,} / {slow['closed']:,}"
        rows.append(("slow members", text, f"late deliveries / gaps told / closed, of {slow['members']} members"))
    if result.compressed:
        rows.append(("compressed", f"{result.compressed:,}", "frames that came compressed, whole run"))
    return rows


def _per_cent(shares: list[float]) -> str:
    return " ".join(f"{100 * share:.0f} %" for share in shares)


def latency_text(figures: dict[str, int]) -> str:
    if not figures:
        return "-"
    return " / ".join(time_text(figures[name]) for name in ("p50", "p90", "p99", "p99_9", "max"))


def time_text(us: int) -> str:
    return f"{us} µs" if us < 1000 else f"{us / 1000:.1f} ms" if us < 1_000_000 else f"{us / 1e6:.2f} s"


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} µs"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _by_process(result: Result) -> str:
    busy = sorted(result.server_cpu_s_by_process.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name.rsplit(' ', 1)[0]} {spent / result.seconds:.2f}" for name, spent in busy)


class LiveBar:
    """The bar under the cursor while runs go on, with the figures of the moment. Does nothing unless `enabled`."""

    def __init__(self, console: Console, *, enabled: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
        self._bar = Progress(*columns, console=console, refresh_per_second=4, transient=True) if enabled else None
        self._task = self._bar.add_task("", figures="", total=None) if self._bar else None
        self._last: tuple[float, int] = (time.monotonic(), 0)
        self._rate = 0.0
        self._label = ""

    def labelled(self, label: str) -> OnProgress:
        """The callback of the next run; `label` says which it is."""
        self._label = f"{label}: "
        return self.update

    def update(self, phase: str, counters: Counters, done: float | None) -> None:
        if self._bar is None or self._task is None:
            return
        now, deliveries = time.monotonic(), counters.get("deliveries", 0)
        if now - self._last[0] >= 0.5 or deliveries < self._last[1]:
            self._rate = max(0, deliveries - self._last[1]) / (now - self._last[0])
            self._last = (now, deliveries)
        errors = counters.get("errors", 0) + counters.get("closed_early", 0) + counters.get("failed", 0)
        ready = counters.get("ready", 0)
        figures = f"{ready:,} ready  {self._rate:,.0f} deliveries/s  {deliveries:,} so far  {errors} errors"
        self._bar.update(
            self._task,
            description=f"{self._label}{phase}",
            completed=100 * (done or 0.0),
            total=None if done is None else 100.0,
            figures=figures,
        )

    def __enter__(self) -> LiveBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def say_written(console: Console, files: list[Path]) -> None:
    for file in files:
        console.print(f"[dim]written {file}[/]", highlight=False)


def write_json(file: Path | None, document: object) -> None:
    """`-` is stdout; None writes nothing."""
    if file is None:
        return
    text = json.dumps(document, indent=2) + "\n"
    if file == Path("-"):
        sys.stdout.write(text)
    else:
        file.write_text(text)
