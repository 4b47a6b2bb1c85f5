"""`tuskws-bench scale AXIS`: how rate and cost change as one thing grows, step by step, a fresh server at each.

    members       of one room
    rooms         each with 10 members; over 1,000 connections, and each is in as many rooms as it takes. `--rate` is
                  that of all rooms together
    publishers    in one room
    payload       bytes of a message
    workers       of our server, not pinned
    slow          per cent of the members that do not read: what the others notice

All else stays as the flags say. Where a step cannot be run (more connections than descriptors, say), the table has the
reason and the picture a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from tuskws_bench import compare, flags, pictures, report
from tuskws_bench.contenders import OURS, Setting
from tuskws_bench.machine import machine
from tuskws_bench.plan import Kind, PlanError, Scenario
from tuskws_bench.result import Result
from tuskws_bench.rounds import Rounds, median, run_once
from tuskws_bench.run import OnProgress

ROOM_CONNECTIONS = 1000
ROOMS_ALLOWED = ("--max-rooms-per-user", "0", "--max-rooms", "0")


@dataclass(frozen=True, slots=True)
class Axis:
    kind: Kind
    steps: tuple[int, ...]
    help: str
    wanted: str = f"{OURS},c-coalescing"


AXES = {
    "members": Axis("fanout", (10, 30, 100, 300, 1000, 3000, 10_000, 18_000), "Members of one room."),
    "rooms": Axis("rooms", (1, 10, 100, 1000, 10_000, 100_000), "Rooms, with 10 members each.", OURS),
    "publishers": Axis("fanout", (1, 2, 5, 10, 20, 50, 100, 200), "Publishers in one room."),
    "payload": Axis("fanout", (16, 64, 256, 1024, 4096, 16_384, 65_536), "Bytes of a message."),
    "workers": Axis("fanout", (1, 2, 3, 4), "Workers of our server.", OURS),
    "slow": Axis("slow", (0, 5, 10, 25, 50), "Per cent of the members that do not read.", OURS),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def scale() -> None:
    """Rate and cost as one thing grows."""


def scale_flags(axis: Axis) -> list[click.Option]:
    return [
        flags.flag("--steps", default=",".join(map(str, axis.steps)), help="The values to go through."),
        flags.flag("--with", "wanted", default=axis.wanted, help="Who takes part (see compare)."),
        flags.flag("--runs", default=1, help="Runs of each; the median counts."),
        flags.flag("--repeats", default=1, help="Runs more, at most, of one that other programs disturbed."),
        *(option for option in compare.setting_flags() if option.name != "tls"),
    ]


def execute(name: str, **given: Any) -> None:
    axis = AXES[name]
    json_file, folder, progress = given.pop("json_file"), given.pop("pictures"), given.pop("progress")
    names = [each for each in given.pop("wanted").split(",") if each]
    runs, repeats = given.pop("runs"), given.pop("repeats")
    console = report.open_console(stderr=json_file == Path("-"))
    errors = report.open_console(stderr=True)
    try:
        if folder:
            pictures.require()
        steps = list(flags.numbers("--steps", given.pop("steps")))
        if name == "workers":
            given["no_pin"] = True
        setting, given = compare.setting_of({**given, "tls": False})
        base = flags.scenario_of(axis.kind, given)
        compare.check(names, names[0] if names else OURS, runs, repeats)
        planned = [(step, *at(name, step, base, setting)) for step in steps]
        for _, scenario, _ in planned:
            replace(scenario, wire=0).validate()
    except (PlanError, ValueError, pictures.PictureError) as error:
        raise click.UsageError(str(error)) from error
    found: dict[str, dict[int, Result]] = {each: {} for each in names}
    not_run: dict[str, dict[int, str]] = {each: {} for each in names}
    with report.LiveBar(errors, enabled=errors.is_terminal if progress is None else progress) as bar:
        for step, scenario, setting_here in planned:
            entries, left_out = compare.lists(names, setting_here, scenario)
            watch = partial(_watch, bar, f"{name} {step}")
            Rounds(entries, runs=runs, repeats=repeats, watch=watch, once=run_once).run()
            for each, why in left_out.items():
                not_run[each][step] = why
            for entry in entries:
                if entry.results:
                    found[entry.name][step] = median(entry.results, compare.metric_of(scenario))
                if entry.failed:
                    not_run[entry.name][step] = entry.failed
    console.print(table_of(name, steps, found, not_run))
    if folder:
        report.say_written(console, draw(name, steps, found, folder))
    results = {each: {step: result.as_json() for step, result in by.items()} for each, by in found.items()}
    report.write_json(json_file, {"machine": machine(), "axis": name, "results": results, "not_run": not_run})
    bad = any(not result.valid for by in found.values() for result in by.values())
    raise SystemExit(1 if bad or any(not_run.values()) else 0)


def _watch(bar: report.LiveBar, step: str, label: str) -> OnProgress:
    return bar.labelled(f"{step}, {label}")


def at(name: str, step: int, base: Scenario, setting: Setting) -> tuple[Scenario, Setting]:
    """The scenario and the servers at one step of the axis."""
    if name == "workers":
        return base, replace(setting, workers=step)
    if name == "rooms":
        each = max(1, step * base.members // ROOM_CONNECTIONS)
        shared = replace(base, rooms=step, rooms_each=each, rate=base.rate / step)
        return shared, replace(setting, flags=(*setting.flags, *ROOMS_ALLOWED))
    if name == "payload":
        # The default limits stop at 16 KiB of message.
        big = ("--max-message-size", str(step + 1024), "--max-frame-size", str(step + 8192))
        return replace(base, payload=step), replace(setting, flags=(*setting.flags, *big))
    if name == "publishers":
        return replace(base, publishers=step), setting
    if name == "slow":
        return replace(base, slow=step), setting
    return replace(base, members=step), setting


def table_of(
    name: str, steps: list[int], found: dict[str, dict[int, Result]], not_run: dict[str, dict[int, str]]
) -> Table:
    table = Table(title=f"as {name} grow" + ("s" if name == "payload" else ""), title_justify="left")
    columns = (name, "server", "each s", "CPU each", "p50", "p99", "B PSS", "client", "note")
    for column in columns:
        table.add_column(column, justify="left" if column in compare.LEFT else "right", no_wrap=column != "note")
    for step in steps:
        for each, results in found.items():
            result = results.get(step)
            if result is None:
                table.add_row(f"{step:,}", each, *["-"] * 6, compare.reason(not_run[each][step]), style="dim")
                continue
            times = result.latency_us
            table.add_row(
                f"{step:,}",
                each,
                f"{result.deliveries_per_s:,.0f}",
                compare.shown(result.server_cpu_us_per_delivery, "{:.3f} µs"),
                report.time_text(times["p50"]) if times else "-",
                report.time_text(times["p99"]) if times else "-",
                compare.shown(result.pss_bytes_per_connection, "{:,.0f}"),
                f"{100 * max(result.harness_share):.0f} %",
                "; ".join(compare.notes(result, 1)),
            )
        table.add_section()
    return table


def draw(name: str, steps: list[int], found: dict[str, dict[int, Result]], folder: Path) -> list[Path]:
    def lines(figure: str) -> dict[str, list[float | None]]:
        return {each: [getattr(by.get(step), figure, None) for step in steps] for each, by in found.items()}

    costs, rates = lines("server_cpu_us_per_delivery"), lines("deliveries_per_s")
    slowest = {
        each: [by[step].latency_us.get("p99", 0) / 1000 if step in by else None for step in steps]
        for each, by in found.items()
    }
    return [
        pictures.draw_growth(folder / f"{name}-cpu.svg", "CPU of the server, µs a delivery", name, steps, costs),
        pictures.draw_growth(folder / f"{name}-rate.svg", "deliveries a second", name, steps, rates),
        pictures.draw_growth(folder / f"{name}-p99.svg", "p99 of the latency, ms", name, steps, slowest),
    ]


for each_name, each_axis in AXES.items():
    described = flags.SCENARIOS[each_axis.kind]
    scale.add_command(
        click.Command(
            each_name,
            params=[
                *scale_flags(each_axis),
                *(
                    option
                    for option in described.own()
                    if option.name not in (each_name, "rooms_each") or each_name == "members"
                ),
                *flags.run_flags(),
                *flags.output_flags(),
            ],
            callback=partial(execute, each_name),
            help=each_axis.help,
        )
    )
