"""The flags of every scenario, once: `tuskws-bench KIND` and `tuskws-bench compare KIND` are made from the same table.

What a scenario is for stands in its help; what its figures mean stands in the README and in result.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from tuskws_bench.plan import Kind, PlanError, Scenario

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

Options = list[click.Option]


@dataclass(frozen=True, slots=True)
class Described:
    """`own`: the flags besides those that every scenario has."""

    help: str
    own: Callable[[], Options]


def flag(*names: str, **settings: Any) -> click.Option:
    """Defaults are shown, but for those that mean "none"."""
    if "is_flag" not in settings and settings.get("default") not in (None, "", 0, 0.0):
        settings["show_default"] = True
    return click.Option(names, **settings)


def target_flags() -> Options:
    """Which server; not for comparisons, which start their own."""
    return [
        flag("--url", default="ws://127.0.0.1:8080/", help="Where the server listens; wss:// for TLS (not verified)."),
        flag(
            "--protocol",
            type=click.Choice(["tusk", "raw", "nats", "socketio", "nchan"]),
            default="tusk",
            help="raw: connect to /ROOM, every frame goes to every member (bench/peers/README.md).",
        ),
        flag(
            "--server-pid",
            default=0,
            help="Root of the server's process tree. Default: found by the listening port; -1: do not look.",
        ),
        flag(
            "--control-socket",
            type=click.Path(path_type=Path),
            help="Where our server tells its counters. Default: the place that its port gives it.",
        ),
        flag("--token", default="", help="Sent as Authorization: Bearer at the handshake."),
        flag("--wire", default=0, help="Not for tusk: length of the whole frame, instead of --payload."),
    ]


def run_flags() -> Options:
    return [
        flag("--duration", "duration_s", default=10.0, help="Measured seconds."),
        flag("--processes", default=1, help="Load processes, one core each."),
        flag("--cores", default="", help="Cores to pin the load processes to, such as 1 or 2,3."),
        flag("--compression", is_flag=True, help="Offer permessage-deflate (the harness itself sends uncompressed)."),
        flag("--connect-burst", default=64, help="Handshakes under way at once."),
        flag("--connect-rate", default=0.0, help="Ramp: connections opened a second. Default: as the burst allows."),
        flag("--connect-timeout", "connect_timeout_s", default=60.0, help="Seconds."),
    ]


def json_flag() -> click.Option:
    def check(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
        """Before minutes of measuring, not after them."""
        if file is not None and not file.parent.is_dir():
            raise click.BadParameter(f"there is no folder {file.parent}")
        return file

    path = click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True)
    return flag("--json", "json_file", type=path, callback=check, help="Also write JSON (- is stdout).")


def output_flags() -> Options:
    return [
        json_flag(),
        flag("--picture", "pictures", type=click.Path(path_type=Path), help="Also draw SVG files into this folder."),
        flag(
            "--progress/--no-progress",
            is_flag=True,
            default=None,
            help="A bar with live figures. Default: when stderr is a terminal.",
        ),
    ]


def warmup() -> Options:
    return [flag("--warmup", "warmup_s", default=2.0, help="Seconds before the interval.")]


def drain() -> Options:
    return [flag("--drain-timeout", "drain_timeout_s", default=5.0, help="Seconds of silence that mean lost.")]


def publishing() -> Options:
    return [flag("--payload", default=128, help="Bytes of a message value, at least 16."), *warmup(), *drain()]


def members(count: int, text: str = "Members of the room.") -> Options:
    return [flag("--members", "--clients", default=count, help=text)]


def rooms(count: int) -> Options:
    return [flag("--rooms", default=count, help="Number of rooms.")]


def rooms_each() -> Options:
    return [flag("--rooms-each", default=1, help="Rooms that each connection is in (see --max-rooms-per-user).")]


def pace(
    window: int, unit: str = "messages", rate: float = 0.0, each: str = "in each room, over its publishers"
) -> Options:
    return [
        flag("--window", default=window, help=f"Closed loop: {unit} a publisher keeps outstanding."),
        flag("--rate", default=rate, help=f"Open loop: {unit}/s {each}."),
    ]


def publishers() -> Options:
    return [flag("--publishers", default=1, help="Publishing members in each room.")]


def level() -> Options:
    text = "Ask for an acknowledgement of every message, at this level (tusk only); none: ask for none."
    return [flag("--level", type=click.Choice(["none", "accepted", "stored", "synced"]), default="none", help=text)]


def batch() -> Options:
    return [flag("--batch", is_flag=True, help="Ask for `batch` pushes (hello {batch: true}; tusk only).")]


def settle() -> Options:
    return [flag("--settle", "settle_s", default=2.0, help="Seconds after the last handshake.")]


SCENARIOS: dict[Kind, Described] = {
    "fanout": Described(
        "One room; every message goes to all its members.",
        lambda: [*members(1000), *publishers(), *pace(64), *level(), *batch(), *publishing()],
    ),
    "slow": Described(
        "One room in which some members do not read. What it does to the others, and what becomes of them.",
        lambda: [
            flag("--slow", default=10.0, help="Per cent of the members that do not read."),
            *members(1000),
            *publishers(),
            *pace(64),
            *batch(),
            *publishing(),
        ],
    ),
    "rooms": Described(
        "Many small rooms, with publishers in each.",
        lambda: [
            *rooms(200),
            *rooms_each(),
            *members(10, "Members of each room."),
            *publishers(),
            *pace(8),
            *level(),
            *batch(),
            *publishing(),
        ],
    ),
    "mixed": Described(
        "A chat of many rooms beside other commands. Side connections join, leave, ask, and change their presence.",
        lambda: [
            *rooms(100),
            *members(10, "Members of each room."),
            *publishers(),
            *pace(8, rate=2.0),
            flag("--side", default=100, help="Connections that send the other commands."),
            flag("--side-rate", default=200.0, help="Their commands a second, all together."),
            *publishing(),
        ],
    ),
    "private": Described(
        "Private messages: each user writes to the next one.",
        lambda: [*members(200, "Users."), *pace(4, each="of each user"), *publishing()],
    ),
    "presence": Described(
        "A presence storm. Members change their status; each change is answered, and pushed to the others.",
        lambda: [
            *rooms(1),
            *members(200, "Members of each room."),
            flag("--publishers", default=20, help="Members of each room that change their status."),
            *pace(1, "changes"),
            *publishing(),
        ],
    ),
    "echo": Described(
        "Request and reply. `ping` commands (tusk), one's own frame from /echo (raw), or a room of one (the others).",
        lambda: [
            flag("--clients", "members", default=64, help="Connections."),
            *pace(1, "requests", each="of each connection"),
            *publishing(),
        ],
    ),
    "join": Described(
        "A join storm. Connections open and join as fast as they can, or at --connect-rate; then they rest.",
        lambda: [*rooms(1), *rooms_each(), *members(1000, "Members of each room."), *settle()],
    ),
    "reconnect": Described(
        "A reconnect storm. Joined connections are reset, and come back at once.",
        lambda: [
            *rooms(10),
            *members(100, "Members of each room."),
            flag("--drop", default=100.0, help="Per cent of the connections that are dropped."),
            flag("--drop-rate", default=0.0, help="Dropped connections a second. Default: all at once."),
            *drain(),
        ],
    ),
    "handshake": Described(
        "Handshake after handshake. Who is let in goes (a reset) and comes again: what accept, upgrade and end cost.",
        lambda: [
            flag("--clients", "members", default=64, help="Connections that come and go at once."),
            *warmup(),
            *drain(),
        ],
    ),
    "idle": Described(
        "Open connections and rest. Handshakes, memory a connection, CPU when nothing happens (for --duration).",
        lambda: [flag("--clients", "members", default=10000, help="Connections."), *settle()],
    ),
}


def scenario_of(kind: Kind, given: dict[str, Any]) -> Scenario:
    """Raises PlanError or ValueError for flags that make none."""
    known = {each.name for each in fields(Scenario)}
    assert set(given) <= known, set(given) - known
    return Scenario(kind=kind, **{**given, "cores": numbers("--cores", given["cores"])})


def numbers(name: str, text: str) -> tuple[int, ...]:
    """The flag `name` says `text`: `1,10`, or nothing. Raises PlanError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise PlanError(f"{name} is made of numbers with commas between them, not {text!r}")
    return tuple(map(int, parts))
