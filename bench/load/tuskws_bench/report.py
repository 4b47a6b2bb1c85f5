"""Show a Result to people: one table a run, and one live line while it runs. Machines read `--json`."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuskws_bench.loadproc import Counters
from tuskws_bench.result import FOREIGN_LOAD_MAX, Result

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
    if kind in ("fanout", "rooms"):
        size = f"{scenario['rooms']:,} x {scenario['members']:,} members, {scenario['publishers']} publishing"
    else:
        size = f"{scenario['members']:,} connections"
    if kind == "idle":
        return f"idle: {size}"
    pace = f"{scenario['rate']:g} messages/s" if scenario["rate"] else f"window {scenario['window']}"
    return f"{kind} ({scenario['protocol']}): {size}, {pace}, {scenario['payload']} B, {result.seconds:g} s"


def _rows(result: Result) -> list[tuple[str, str, str]]:
    rows = []
    if result.scenario["kind"] != "idle":
        rows += [
            ("deliveries/s", f"{result.deliveries_per_s:,.0f}", f"{result.deliveries:,} in the interval"),
            ("messages/s", f"{result.messages_per_s:,.0f}", "published"),
            (
                "lost / twice / out of order",
                f"{result.lost} / {result.duplicates} / {result.out_of_order}",
                "whole run",
            ),
            ("latency", latency_text(result.latency_us), "p50 / p90 / p99 / p99.9 / max"),
        ]
        if result.lateness_us:
            rows.append(("harness lateness", latency_text(result.lateness_us), "how late it sent; part of the latency"))
        rows.append(("server CPU", _us(result.server_cpu_us_per_delivery), "a delivery, whole process tree"))
    rows.append(("server cores", _number(result.server_cores, "{:.2f}"), _by_process(result)))
    rows += [
        (
            "opening",
            _number(result.handshakes_per_s, "{:,.0f}/s"),
            _us(result.server_cpu_us_per_handshake) + " server CPU each",
        ),
        (
            "PSS",
            f"{result.pss_bytes / 1e6:,.1f} MB",
            f"{_number(result.pss_bytes_per_connection, '{:,.0f} B')} a connection",
        ),
    ]
    if result.harness_share:
        used = " ".join(f"{100 * share:.0f} %" for share in result.harness_share)
        rows.append(("load client", used, f"of a core, each process; others used {result.foreign_cores:.2f} cores"))
    if result.wire_bytes_per_delivery is not None:
        per_read = _number(result.deliveries_per_read, "{:.1f}")
        rows.append(("wire", f"{result.wire_bytes_per_delivery:.0f} B", f"a delivery; {per_read} deliveries a read"))
    return rows


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


class LiveLine:
    """The line under the cursor while a run goes on. Does nothing unless `enabled`."""

    def __init__(self, console: Console, *, enabled: bool) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True) if enabled else None
        self._last: tuple[float, int] = (time.monotonic(), 0)
        self._rate = 0.0

    def update(self, phase: str, counters: Counters) -> None:
        if self._live is None:
            return
        now, deliveries = time.monotonic(), counters.get("deliveries", 0)
        if now - self._last[0] >= 0.5:
            self._rate = (deliveries - self._last[1]) / (now - self._last[0])
            self._last = (now, deliveries)
        errors = counters.get("errors", 0) + counters.get("closed_early", 0) + counters.get("failed", 0)
        self._live.update(
            Text(
                f"{phase:<11} {counters.get('ready', 0):>7,} ready  {self._rate:>12,.0f} deliveries/s  "
                f"{deliveries:>14,} so far  {errors} errors"
            )
        )

    def __enter__(self) -> LiveLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
