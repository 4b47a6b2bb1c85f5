"""`tuskws-bench`: flags in, one run, a table or JSON out.

Exit status: 0 a clean run, 1 it ran but something went wrong (loss, refusals, closed connections), 2 wrong flags,
3 it could not be run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from tuskws_bench import report
from tuskws_bench.plan import Kind, PlanError, Scenario
from tuskws_bench.procfs import NoServerError
from tuskws_bench.run import RunError, run
from tuskws_bench.suite import suite

Command = Callable[..., None]

EPILOG = """\
\b
The window of the closed loop (no --rate) is exact: each publisher keeps WINDOW
messages outstanding. A message is complete when every member of its room that
lives in the publisher's load process has received it. With one process, or with
many rooms (which are never split), that is every member.

\b
The open loop (--rate) sends at fixed times whatever the server does. Latency
counts from the time at which a message was to leave, so waiting in line is not
hidden (no coordinated omission).

\b
The server must accept the load: start it with --disable-rate-limiting and with
--max-room-members 0, or the harness reports what was refused.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure a WebSocket server: rate, loss, latency, and what each delivery costs it."""


main.add_command(suite)


def common(command: Command) -> Command:
    """The flags that every scenario has."""
    for option in reversed(
        [
            click.option("--url", default="ws://127.0.0.1:8080/", show_default=True, help="Where the server listens."),
            click.option(
                "--protocol",
                type=click.Choice(["tusk", "raw"]),
                default="tusk",
                show_default=True,
                help="raw: connect to /ROOM, every frame goes to every member (bench/peers/README.md).",
            ),
            click.option("--duration", "duration_s", default=10.0, show_default=True, help="Measured seconds."),
            click.option("--processes", default=1, show_default=True, help="Load processes, one core each."),
            click.option("--cores", default="", help="Cores to pin the load processes to, such as 1 or 2,3."),
            click.option(
                "--server-pid",
                default=0,
                help="Root of the server's process tree. Default: found by the listening port; -1: do not look.",
            ),
            click.option("--token", default="", help="Sent as Authorization: Bearer at the handshake."),
            click.option("--connect-burst", default=64, show_default=True, help="Handshakes under way at once."),
            click.option("--connect-timeout", "connect_timeout_s", default=60.0, show_default=True, help="Seconds."),
            click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write JSON (- is stdout)."),
            click.option(
                "--progress/--no-progress", default=None, help="Live figures. Default: when stderr is a terminal."
            ),
        ]
    ):
        command = option(command)
    return command


def publishing(command: Command) -> Command:
    """The flags of the scenarios in which messages go round."""
    for option in reversed(
        [
            click.option("--payload", default=128, show_default=True, help="Bytes of a message value, at least 16."),
            click.option("--wire", default=0, help="raw only: length of the whole frame, instead of --payload."),
            click.option("--warmup", "warmup_s", default=2.0, show_default=True, help="Seconds before the interval."),
            click.option(
                "--drain-timeout", "drain_timeout_s", default=5.0, show_default=True, help="Silence that means lost."
            ),
        ]
    ):
        command = option(command)
    return command


def pacing(command: Command) -> Command:
    for option in reversed(
        [
            click.option("--publishers", default=1, show_default=True, help="Publishing members in each room."),
            click.option("--rate", default=0.0, help="Open loop: messages/s in each room, over its publishers."),
            click.option("--batch", is_flag=True, help="Ask for `batch` pushes (hello {batch: true})."),
        ]
    ):
        command = option(command)
    return command


@main.command(epilog=EPILOG)
@common
@publishing
@pacing
@click.option("--members", "--clients", default=1000, show_default=True, help="Members of the room.")
@click.option("--window", default=64, show_default=True, help="Closed loop: messages a publisher keeps outstanding.")
def fanout(**flags: Any) -> None:
    """One room; every message goes to all its members."""
    execute("fanout", flags)


@main.command(epilog=EPILOG)
@common
@publishing
@pacing
@click.option("--rooms", default=200, show_default=True, help="Number of rooms.")
@click.option("--members", "--clients", default=10, show_default=True, help="Members of each room.")
@click.option("--window", default=8, show_default=True, help="Closed loop: messages a publisher keeps outstanding.")
def rooms(**flags: Any) -> None:
    """Many small rooms, with publishers in each."""
    execute("rooms", flags)


@main.command(epilog=EPILOG)
@common
@publishing
@click.option("--clients", "members", default=64, show_default=True, help="Connections.")
@click.option("--window", default=1, show_default=True, help="Requests each connection keeps outstanding.")
def echo(**flags: Any) -> None:
    """Request and reply: `ping` commands (tusk), or one's own frame from /echo (raw)."""
    execute("echo", flags)


@main.command()
@common
@click.option("--clients", "members", default=10000, show_default=True, help="Connections.")
@click.option("--settle", "settle_s", default=2.0, show_default=True, help="Seconds after the last handshake.")
def idle(**flags: Any) -> None:
    """Open connections and rest: handshakes, PSS a connection, CPU when nothing happens (for --duration)."""
    execute("idle", flags)


def execute(kind: Kind, flags: dict[str, Any]) -> None:
    json_file, progress = flags.pop("json_file"), flags.pop("progress")
    known = {each.name for each in fields(Scenario)}
    assert set(flags) <= known, set(flags) - known
    console = report.open_console(stderr=json_file == Path("-"))
    errors = report.open_console(stderr=True)
    try:
        flags["cores"] = tuple(int(core) for core in flags["cores"].split(",") if core)
        scenario = Scenario(kind=kind, **flags)
        with report.LiveLine(errors, enabled=errors.is_terminal if progress is None else progress) as line:
            result = run(scenario, line.update)
    except (PlanError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    except (RunError, NoServerError) as error:
        errors.print(f"[bold red]! {error}[/]", highlight=False)
        sys.exit(3)
    report.show(console, result)
    if json_file:
        text = json.dumps(result.as_json(), indent=2) + "\n"
        if json_file == Path("-"):
            click.echo(text, nl=False)
        else:
            json_file.write_text(text)
    sys.exit(0 if result.valid else 1)


if __name__ == "__main__":
    main()
