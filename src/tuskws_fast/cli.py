"""The command line: `tuskws-fast [flags]` serves; `stats`, `reload` and `restart` speak to a node that runs.

Flags and help are made from `config.OPTIONS`; a flag's text goes unparsed to `config.load`, so that it means the same
as in a file or a variable, and its errors read the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from tuskws_fast import __version__
from tuskws_fast.config import OPTIONS, SECTIONS, load
from tuskws_fast.errors import ConfigError, ExitCode
from tuskws_fast.options import Kind, Option
from tuskws_fast.protocol import codec
from tuskws_fast.supervisor.operators import ask, default_path
from tuskws_fast.supervisor.stats import read_stats

METAVARS = {
    Kind.TEXT: "TEXT",
    Kind.COUNT: "N",
    Kind.DURATION: "DURATION",
    Kind.SIZE: "SIZE",
    Kind.LIST: "A,B",
}


class GroupedCommand(click.Group):
    """A group whose options are shown by section, as `config` has them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        for section, cls in SECTIONS.items():
            names = [known.name for known in OPTIONS.values() if known.section == section]
            title = (cls.__doc__ or section).strip().splitlines()[0].rstrip(".")
            with formatter.section(f"{section.capitalize()} ({title[0].lower()}{title[1:]})"):
                formatter.write_dl([record for name in names if (record := shown.pop(name, None))], col_max=38)
        with formatter.section("Options"):
            formatter.write_dl([record for record in shown.values() if record], col_max=38)
        self.format_commands(ctx, formatter)


def _option(known: Option) -> click.Option:
    """The flag of one option. Its default here is None, "not given": only `load` knows the true default."""
    help = f"{known.help}  [default: {known.shown_default}; {known.env}]"
    if known.later:
        help += f"  ({known.later}.)"
    if known.kind is Kind.SWITCH:
        return click.Option([f"{known.flag}/{known.off_flag}", known.name], default=None, help=help)
    metavar = f"[{'|'.join(known.choices)}]" if known.kind is Kind.CHOICE else METAVARS[known.kind]
    return click.Option([known.flag, known.name], default=None, metavar=metavar, help=help)


def _serve(ctx: click.Context, config_file: str | None, **flags: Any) -> None:
    if ctx.invoked_subcommand is not None:
        ctx.obj = flags
        return
    # Imported late: the help must not wait for it, and the node imports every role.
    from tuskws_fast.node import run_node

    given = {name: value for name, value in flags.items() if value is not None}
    file = config_file or os.environ.get("TUSKWS_CONFIG")
    try:
        config = load(given, os.environ, file)
    except ConfigError as error:
        click.echo(f"tuskws-fast: {error}", err=True)
        ctx.exit(error.exit_code)
    ctx.exit(run_node(config, reread=lambda: load(given, os.environ, file)))


cli = GroupedCommand(
    "tuskws-fast",
    callback=click.pass_context(_serve),
    invoke_without_command=True,
    params=[
        click.Option(["--config", "config_file"], metavar="FILE", help="TOML file with options.  [TUSKWS_CONFIG]"),
        *(_option(known) for known in OPTIONS.values()),
    ],
    help="Serve WebSocket clients: rooms, presence, private messages, order and recovery.\n\n"
    "Flags go before TUSKWS_* variables, those before the file. Durations are 30, 30s, 500ms, 5m; sizes 65536, 64KiB.",
    context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, prog_name="tuskws-fast")(cli)


def _of_a_node(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say which node is meant."""
    for add in (
        click.option("--control-socket", type=click.Path(), help="Its control socket, if it is not the default."),
        click.option("--port", type=int, help="Port of the node.  [default: 8080; TUSKWS_PORT]"),
    ):
        command = add(command)
    return command


def _node_path(ctx: click.Context, port: int | None, control_socket: str | None) -> Path:
    flags: Mapping[str, Any] = ctx.obj or {}
    chosen = control_socket or flags.get("control_socket") or os.environ.get("TUSKWS_CONTROL_SOCKET")
    number = port or int(flags.get("port") or os.environ.get("TUSKWS_PORT") or OPTIONS["port"].default)
    return Path(chosen) if chosen else default_path(number)


def _no_node(ctx: click.Context, path: Path, error: OSError) -> NoReturn:
    click.echo(f"tuskws-fast: no node answers on {path}: {error.strerror or error}", err=True)
    ctx.exit(ExitCode.FAILED)


@cli.command("stats")
@_of_a_node
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
@click.pass_context
def stats_command(ctx: click.Context, port: int | None, control_socket: str | None, as_json: bool) -> None:
    """Print the figures of a running node."""
    path = _node_path(ctx, port, control_socket)
    try:
        document = read_stats(path)
    except OSError as error:
        _no_node(ctx, path, error)
    click.echo(codec.encode(document).decode() if as_json else stats_text(document))


@cli.command("reload")
@_of_a_node
@click.pass_context
def reload_command(ctx: click.Context, port: int | None, control_socket: str | None) -> None:
    """Have a running node read its configuration, keys and certificates again, as SIGHUP does.

    Exit 1 when something was bad; then everything is left as it was.
    """
    path = _node_path(ctx, port, control_socket)
    try:
        found = next(ask(path, "reload", timeout_s=None), {"problems": ["the node ended"]})
    except OSError as error:
        _no_node(ctx, path, error)
    click.echo(reload_text(found))
    if found["problems"]:
        ctx.exit(ExitCode.FAILED)


@cli.command("restart")
@_of_a_node
@click.pass_context
def restart_command(ctx: click.Context, port: int | None, control_socket: str | None) -> None:
    """Replace the workers of a running node one by one, each new one first; nobody is refused, nothing is lost.

    Exit 1 when it was given up: the worker that was to be replaced then goes on serving.
    """
    path = _node_path(ctx, port, control_socket)
    try:
        for step in ask(path, "restart", timeout_s=None):
            click.echo(restart_text(step))
            if step["event"] == "done":
                return
            if step["event"] == "aborted":
                break
        else:
            click.echo("given up: the node ended")
    except OSError as error:
        _no_node(ctx, path, error)
    ctx.exit(ExitCode.FAILED)


@cli.command("revoke")
@_of_a_node
@click.option("--user", help="Every token of this user that was issued until now.")
@click.option("--token", help="The token with this `jti`.")
@click.option("--session", help="The session that this ticket names.")
@click.pass_context
def revoke_command(
    ctx: click.Context,
    port: int | None,
    control_socket: str | None,
    user: str | None,
    token: str | None,
    session: str | None,
) -> None:
    """Take back what a user, a token or a session may do on a running node.

    Who is connected by it is closed (4510). A token is refused for as long as it would be good, also after a restart.
    """
    path = _node_path(ctx, port, control_socket)
    given = {"user": user, "token": token, "session": session}
    arguments = codec.encode({name: value for name, value in given.items() if value is not None}).decode()
    try:
        found = next(ask(path, f"revoke {arguments}"), {"problem": "the node ended"})
    except OSError as error:
        _no_node(ctx, path, error)
    if found["problem"]:
        click.echo(f"tuskws-fast: {found['problem']}", err=True)
        ctx.exit(ExitCode.FAILED)
    click.echo(f"revoked; {found['sessions']} sessions ended")


def reload_text(found: Mapping[str, Any]) -> str:
    """What came of a reload, a line for each kind of outcome."""
    kinds = {
        "changed": "in force:                  ",
        "at_restart": "with `tuskws-fast restart`:",
        "at_start": "with the next start only:  ",
        "problems": "left as it was:            ",
    }
    lines = [f"{text} {', '.join(found[kind])}" for kind, text in kinds.items() if found.get(kind)]
    return "\n".join(lines) or "nothing has changed"


def restart_text(step: Mapping[str, Any]) -> str:
    """A step of a rolling restart as an operator reads it."""
    event = step["event"]
    if event == "done":
        return f"done: {step['workers']} workers replaced"
    if event == "aborted":
        return f"given up: {step['reason']}"
    what = {
        "starting": "{new} is starting, to take the place of {old}",
        "draining": "{new} serves, {old} sends its clients away",
        "replaced": "{old} has ended",
    }
    return f"{step['step']}/{step['of']}  " + what[event].format(**step)


def stats_text(document: Mapping[str, Any]) -> str:
    """The document as an operator reads it."""
    node, health = document["node"], document["health"]
    lines = [
        f"status             {health['status']}",
        f"uptime             {health['uptime_seconds']} s",
        f"total_connections  {node['total_connections']}",
        f"total_rooms        {node['total_rooms']}",
        f"online_users       {node['online_users']}",
        f"memory_usage       {node['memory_usage'] / 1024**2:.1f} MiB",
        f"peak_memory        {node['peak_memory'] / 1024**2:.1f} MiB",
        "",
        f"{'process':<12} {'state':<9} {'pid':>7} {'restarts':>8} {'connections':>11} {'messages':>12}"
        f" {'deliveries':>14} {'PSS MiB':>8} {'CPU s':>9}",
    ]
    for row in document["processes"]:
        lines.append(
            f"{row['name']:<12} {row['state']:<9} {row['pid']:>7} {row['restarts']:>8} {row['connections']:>11}"
            f" {row['messages']:>12} {row['deliveries']:>14} {row['pss'] / 1024**2:>8.1f} {row['cpu_seconds']:>9.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    cli()
