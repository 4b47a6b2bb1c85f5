"""`scripts/faults SCENARIO --seed N`: run it, print the verdict, leave the chronicle where something was wrong."""

from __future__ import annotations

import gc
import secrets
import shlex
import sys
import tempfile
from pathlib import Path

import click
import uvloop

from audit import damage, scenarios
from audit.scenarios import Outcome, Plan


def show(outcome: Outcome, figures: bool = True) -> None:
    verdict = outcome.verdict
    if figures:
        width = max(map(len, verdict.figures))
        for name, value in verdict.figures.items():
            click.echo(f"  {name:{width}}  {value:g}" if value < 1e6 else f"  {name:{width}}  {value:.0f}")
    for demand in outcome.demands:
        met = demand not in outcome.unmet
        click.echo(
            f"{'ok ' if met else 'NOT'}  {demand.figure}: {verdict.figures.get(demand.figure, 0):g}, demanded {demand}"
        )
    click.echo(str(verdict), nl=False)
    click.echo(
        "nothing was lost, doubled, out of order or untold" if verdict.clean else f"FAULTS: {verdict.faults.total()}"
    )


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


def carry_out(plan: Plan, directory: Path) -> Outcome:
    gc.disable()  # everything the auditor makes is kept, and looking for garbage in it shows up as latency
    uvloop.run(scenarios.run(plan, directory, " ".join(sys.argv)))
    return scenarios.judge(directory / "chronicle", plan.demands)


def _options(command: click.Command) -> click.Command:
    for option in (
        click.option("--keep", is_flag=True, help="Keep the directory of a good run too."),
        click.option("--only", default=None, help="Kinds of blows of a mixed run, comma-separated."),
        click.option("--rate", type=float, help="Messages a second in each room."),
        click.option("--members", type=int, help="Speakers in each room."),
        click.option("--rooms", type=int),
        click.option("--workers", type=int, help="Worker processes."),
        click.option("--minutes", type=float, default=3.0, show_default=True),
        click.option("--seed", type=int, help="Drawn where it is not given."),
    ):
        command = option(command)
    return command


def _run(name: str, seed: int | None, minutes: float, keep: bool, **changes: object) -> None:
    seed = secrets.randbelow(10**6) if seed is None else seed
    plan = scenarios.plan_for(name, seed, minutes * 60, **changes)
    directory = Path(tempfile.mkdtemp(prefix=f"tuskws-faults-{name}-"))
    click.echo(f"{name}, seed {seed}, {minutes:g} minutes, in {directory}")
    outcome = carry_out(plan, directory)
    show(outcome)
    if outcome.good and not keep:
        scenarios.clear(directory)
        return
    click.echo(f"chronicle: {directory}/chronicle (read it again: scripts/faults judge {directory}/chronicle)")
    if not outcome.good:
        click.echo(f"again: {again(name, seed, minutes, changes)}")
        sys.exit(1)


def again(name: str, seed: int, minutes: float, changes: dict[str, object]) -> str:
    given = "".join(f" --{option} {shlex.quote(str(value))}" for option, value in changes.items() if value is not None)
    return f"scripts/faults {name} --seed {seed} --minutes {minutes:g}{given}"


def _add(name: str) -> None:
    @_options
    @main.command(name, help=(scenarios.ACTS[name].__doc__ or "").strip() or None)
    def command(seed: int | None, minutes: float, keep: bool, **changes: object) -> None:
        _run(name, seed, minutes, keep, **changes)


for _name in scenarios.ACTS:
    _add(_name)


@main.command("flips")
@click.option("--seed", type=int, help="Drawn where it is not given.")
@click.option("--count", type=int, default=1000, show_default=True, help="Damages, one at a time.")
@click.option("--truncations", type=float, default=0.0, show_default=True, help="Share of files cut short instead.")
def flips(seed: int | None, count: int, truncations: float) -> None:
    """Single bits flipped in the files, and a node started on each."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix="tuskws-faults-flips-"))
    click.echo(f"flips, seed {seed}, {count} of them, in {directory}")

    def progress(done: int) -> None:
        if done % 100 == 0:
            click.echo(f"  {done} done")

    findings = damage.run(directory, seed, count, truncations, progress)
    for outcome, times in sorted(findings.outcomes.items()):
        click.echo(f"  {outcome:32}  {times}")
    for fault in findings.faults[:50]:
        click.echo(f"FAULT {fault}")
    if findings.faults:
        click.echo(f"again: scripts/faults flips --seed {seed} --count {count} --truncations {truncations:g}")
        sys.exit(1)
    scenarios.clear(directory)
    click.echo("no wrong record was served, and nothing was missing without a word")


@main.command("judge", help="Read the chronicle of an earlier run again.")
@click.argument("chronicle", type=click.Path(exists=True, path_type=Path))
def judge_again(chronicle: Path) -> None:
    outcome = scenarios.judge(chronicle, [])
    show(outcome)
    sys.exit(0 if outcome.good else 1)


if __name__ == "__main__":
    main()
