"""`tuskws-bench`: flags in, runs, a table, JSON or pictures out.

Exit status: 0 a clean run, 1 it ran but something went wrong (loss, refusals, closed connections), 2 wrong flags,
3 it could not be run.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from tuskws_bench import flags, pictures, report
from tuskws_bench.compare import compare
from tuskws_bench.plan import Kind, PlanError
from tuskws_bench.procfs import NoServerError
from tuskws_bench.run import RunError, run
from tuskws_bench.scale import scale
from tuskws_bench.soak import command as soak
from tuskws_bench.spread import spread
from tuskws_bench.suite import suite


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure a WebSocket server: rate, loss, latency, and what each delivery costs it."""
    # As by Ctrl-C, so that the servers that were started end as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def execute(kind: Kind, **given: Any) -> None:
    json_file, folder, progress = given.pop("json_file"), given.pop("pictures"), given.pop("progress")
    control_socket = given.pop("control_socket")
    console = report.open_console(stderr=json_file == Path("-"))
    errors = report.open_console(stderr=True)
    try:
        if folder:
            pictures.require()
        scenario = flags.scenario_of(kind, given)
        with report.LiveBar(errors, enabled=errors.is_terminal if progress is None else progress) as bar:
            result = run(scenario, bar.update, control_socket)
    except (PlanError, ValueError, pictures.PictureError) as error:
        raise click.UsageError(str(error)) from error
    except (RunError, NoServerError) as error:
        errors.print(f"[bold red]! {error}[/]", highlight=False)
        sys.exit(3)
    report.show(console, result)
    if folder:
        report.say_written(console, pictures.draw({kind: result}, folder, report.headline(result)))
    report.write_json(json_file, result.as_json())
    sys.exit(0 if result.valid else 1)


for each_kind, described in flags.SCENARIOS.items():
    main.add_command(
        click.Command(
            each_kind,
            params=[*flags.target_flags(), *described.own(), *flags.run_flags(), *flags.output_flags()],
            callback=partial(execute, each_kind),
            help=described.help,
            epilog=flags.EPILOG,
        )
    )
main.add_command(suite)
main.add_command(compare)
main.add_command(scale)
main.add_command(soak)
main.add_command(spread)


if __name__ == "__main__":
    main()
