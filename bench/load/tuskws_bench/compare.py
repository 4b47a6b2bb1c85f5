"""`tuskws-bench compare KIND`: one scenario against several servers in turn, and how they stand to one of them.

Each run has a fresh server on its own core; see rounds.py for the order, repeats and the median, contenders.py for who
takes part. Who is not installed, cannot do the scenario, or failed stands in the table with the reason.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from tuskws_bench import flags, pictures, report
from tuskws_bench.contenders import CONTENDERS, OURS, Contender, Setting, default_cores
from tuskws_bench.machine import machine
from tuskws_bench.plan import RESTING_KINDS, Kind, PlanError, Scenario
from tuskws_bench.result import FOREIGN_LOAD_MAX, Result
from tuskws_bench.rounds import Entry, Metric, Rounds, median, run_once

LEFT = ("server", "note")


def metric_of(scenario: Scenario) -> Metric:
    """What decides which run is the median one."""
    if scenario.kind == "idle":
        return lambda result: result.pss_bytes_per_connection
    if scenario.kind == "join":
        return lambda result: result.handshakes_per_s
    if scenario.open_loop or not scenario.publishes:
        return lambda result: result.server_cpu_us_per_delivery
    return lambda result: result.deliveries_per_s


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def compare() -> None:
    """One scenario, several servers in turn, their ratios."""


def setting_flags() -> list[click.Option]:
    """How the servers are started."""
    return [
        flags.flag("--workers", default=1, help="Workers of our server."),
        flags.flag("--server-flag", "server_flags", multiple=True, help="One more flag for our server; repeatable."),
        flags.flag("--server-cores", default="", help="Cores of the servers. Default: the first, the load the second."),
        flags.flag("--no-pin", is_flag=True, help="Pin neither servers nor load to cores."),
        flags.flag("--wire", default=0, help="Length of a peer's frame. Default: as long as our server's pushes were."),
        flags.flag("--tls", is_flag=True, help="wss:// with a certificate made for the run (our server only)."),
    ]


def compare_flags() -> list[click.Option]:
    return [
        flags.flag("--with", "wanted", default=",".join(CONTENDERS), help="Who takes part, in this order."),
        flags.flag("--variant", "variants", multiple=True, help="Ours with these flags too, as '--data-dir journal'."),
        flags.flag("--baseline", default=OURS, help="Ratios are to this one."),
        flags.flag("--runs", default=3, help="Runs of each; the median counts."),
        flags.flag("--repeats", default=3, help="Runs more, at most, of one that other programs disturbed."),
        *setting_flags(),
    ]


def execute(kind: Kind, **given: Any) -> None:
    json_file, folder, progress = given.pop("json_file"), given.pop("pictures"), given.pop("progress")
    names = [name for name in given.pop("wanted").split(",") if name]
    baseline, runs, repeats = given.pop("baseline"), given.pop("runs"), given.pop("repeats")
    variants = given.pop("variants")
    console = report.open_console(stderr=json_file == Path("-"))
    errors = report.open_console(stderr=True)
    try:
        if folder:
            pictures.require()
        setting, given = setting_of(given)
        scenario = flags.scenario_of(kind, given)
        check(names, baseline, runs, repeats)
        replace(scenario, wire=0).validate()
    except (PlanError, ValueError, pictures.PictureError) as error:
        raise click.UsageError(str(error)) from error
    entries, left_out = lists(names, setting, scenario)
    entries += changed(variants, setting, scenario)
    with report.LiveBar(errors, enabled=errors.is_terminal if progress is None else progress) as bar:
        Rounds(entries, runs=runs, repeats=repeats, watch=bar.labelled, once=run_once).run()
    found = {entry.name: median(entry.results, metric_of(scenario)) for entry in entries if entry.results}
    failed = {entry.name: entry.failed for entry in entries if entry.failed}
    console.print(table_of(scenario, found, left_out | failed, baseline, {e.name: len(e.results) for e in entries}))
    if folder and found:
        report.say_written(console, pictures.draw(found, folder, report.headline(next(iter(found.values())))))
    report.write_json(
        json_file,
        {
            "machine": machine(),
            "baseline": baseline,
            "results": {name: result.as_json() for name, result in found.items()},
            "ratios": {name: ratios(scenario, result, found.get(baseline)) for name, result in found.items()},
            "runs": {entry.name: [each.as_json() for each in entry.results] for entry in entries},
            "not_run": left_out | failed,
        },
    )
    raise SystemExit(1 if failed or any(not result.valid for result in found.values()) else 0)


def check(names: list[str], baseline: str, runs: int, repeats: int) -> None:
    unknown = [name for name in [*names, baseline] if name not in CONTENDERS]
    if unknown or not names:
        raise PlanError(f"--with and --baseline: the contenders are {', '.join(CONTENDERS)}, not {', '.join(unknown)}")
    if baseline not in names:
        raise PlanError(f"--baseline {baseline} takes no part: name it in --with")
    if runs < 1 or repeats < 0:
        raise PlanError("--runs is at least 1, --repeats at least 0")


def setting_of(given: dict[str, Any]) -> tuple[Setting, dict[str, Any]]:
    """What concerns the servers, and the rest of the flags, the load's cores among them."""
    given = dict(given)
    server_cores = flags.numbers("--server-cores", given.pop("server_cores"))
    if given.pop("no_pin"):
        server_cores, given["cores"] = (), ""
    elif not server_cores and not given["cores"]:
        server_cores, load_cores = default_cores()
        given["cores"] = ",".join(map(str, load_cores))
    setting = Setting(server_cores, given.pop("workers"), given.pop("tls"), tuple(given.pop("server_flags")))
    return setting, given


def lists(names: list[str], setting: Setting, scenario: Scenario) -> tuple[list[Entry], dict[str, str]]:
    """(who takes part, why the others do not)."""
    entries, left_out = [], {}
    for name in names:
        make = CONTENDERS[name]
        why = why_not(make(setting), setting, scenario)
        if why:
            left_out[name] = why
        else:
            entries.append(Entry(name, partial(make, setting), scenario))
    return entries, left_out


def changed(variants: Sequence[str], setting: Setting, scenario: Scenario) -> list[Entry]:
    """Our server again, with more flags."""
    return [
        Entry(
            f"{OURS} {text}",
            partial(CONTENDERS[OURS], replace(setting, flags=(*setting.flags, *shlex.split(text)))),
            scenario,
        )
        for text in variants
    ]


def why_not(contender: Contender, setting: Setting, scenario: Scenario) -> str:
    if why := contender.cannot(scenario.kind):
        return why
    if contender.protocol != "tusk":
        if setting.tls:
            return "runs without TLS here"
        if scenario.compression:
            return "runs without compression here"
    missing = contender.missing()
    return f"not installed: {missing} (scripts/setup-peers)" if missing else ""


def ratios(scenario: Scenario, result: Result, base: Result | None) -> dict[str, float | None]:
    """This one divided by the baseline."""
    if base is None:
        return {}
    figures = {
        "rate": (rate(scenario, result), rate(scenario, base)),
        "cpu": (cost(scenario, result), cost(scenario, base)),
        "pss": (result.pss_bytes_per_connection, base.pss_bytes_per_connection),
        "p99": (result.latency_us.get("p99"), base.latency_us.get("p99")),
    }
    return {name: round(mine / theirs, 3) if mine and theirs else None for name, (mine, theirs) in figures.items()}


def rate(scenario: Scenario, result: Result) -> float | None:
    return result.deliveries_per_s if scenario.kind not in RESTING_KINDS else result.handshakes_per_s


def cost(scenario: Scenario, result: Result) -> float | None:
    opening = scenario.kind in RESTING_KINDS
    return result.server_cpu_us_per_handshake if opening else result.server_cpu_us_per_delivery


def table_of(
    scenario: Scenario,
    found: dict[str, Result],
    not_run: dict[str, str],
    baseline: str,
    runs: dict[str, int],
) -> Table:
    unit = "handshake" if scenario.kind in RESTING_KINDS else scenario.unit
    headline = report.headline(next(iter(found.values()))) if found else scenario.kind
    table = Table(title=f"{headline}. x is this one divided by {baseline}", title_justify="left")
    columns = ("server", f"{unit}/s", "x", "CPU each", "x", "p50", "p99", "x", "B PSS", "x", "cores", "client", "note")
    for name in columns:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=name != "note")
    for name, result in found.items():
        ratio = ratios(scenario, result, found.get(baseline))
        times = result.opening_us if scenario.kind in RESTING_KINDS else result.latency_us
        table.add_row(
            name,
            shown(rate(scenario, result), "{:,.0f}"),
            shown(ratio.get("rate"), "{:.2f}"),
            shown(cost(scenario, result), "{:.3f} µs"),
            shown(ratio.get("cpu"), "{:.2f}"),
            report.time_text(times["p50"]) if times else "-",
            report.time_text(times["p99"]) if times else "-",
            shown(ratio.get("p99"), "{:.2f}"),
            shown(result.pss_bytes_per_connection, "{:,.0f}"),
            shown(ratio.get("pss"), "{:.2f}"),
            shown(result.server_cores, "{:.2f}"),
            f"{100 * max(result.harness_share or result.opening_share):.0f} %",
            "; ".join(notes(result, runs[name])),
        )
    for name, why in not_run.items():
        table.add_row(name, *["-"] * (len(columns) - 2), reason(why), style="dim")
    return table


def reason(why: str) -> str:
    """The first line, and of a server's log the last, which tells why."""
    first, _, rest = why.strip().partition("\n")
    return f"{first} {rest.rsplit(chr(10), 1)[-1]}".strip()


def notes(result: Result, runs: int) -> list[str]:
    """What keeps the median of so many runs from being evidence."""
    found = list(result.problems)
    if result.load_client_was_the_bottleneck:
        found.append("load client saturated")
    if result.foreign_cores > FOREIGN_LOAD_MAX:
        found.append(f"others used {result.foreign_cores:.2f} cores" + (f", no run of {runs} was quiet" * (runs > 1)))
    return found


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


for each_kind, described in flags.SCENARIOS.items():
    compare.add_command(
        click.Command(
            each_kind,
            params=[*compare_flags(), *described.own(), *flags.run_flags(), *flags.output_flags()],
            callback=partial(execute, each_kind),
            help=described.help,
            epilog=flags.EPILOG,
        )
    )
