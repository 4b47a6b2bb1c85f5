"""Every option of the server, once: name, default, unit, range and help. All else about options is made from this page.

    flags  >  TUSKWS_* environment  >  file (TOML)  >  default

A section is a frozen dataclass and is handed as it is to the process that needs it; only the composition root and the
`process` modules see the whole `Config`. Use `load`: it reads, checks, and works out what depends on the machine
(`auto`) or on another option. An unknown name is an error wherever it stands: an option that silently does nothing is
worse than one that is refused.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import resource
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuskws_fast.errors import ConfigError
from tuskws_fast.options import ENV_PREFIX, Applied, Kind, Option, option, options_of, parse

NO_API = "the HTTP API is not in this build yet"
NO_OTHER_ALGORITHM = "only HS256 is in this build yet"

# Variables of ours that are not options: the file's name, two that the build reads, and faults for tests.
ENV_OTHERS = frozenset({"TUSKWS_CONFIG", "TUSKWS_DEBUG", "TUSKWS_EXT"})

JWT_SECRET_BYTES_MIN = 32
# Descriptors a process needs beside its clients: listeners, rings, log, files of the interpreter.
NOFILE_RESERVE = 64
RATES = (
    ("message_rate_limit", "message_rate_burst"),
    ("message_rate_limit_per_ip", "message_rate_burst_per_ip"),
    ("handshake_rate_limit", "handshake_rate_burst"),
)
# How long a burst may take to be saved up: the tables look 12 days ahead.
BURST_EARNED_MAX_S = 10 * 86_400


@dataclass(frozen=True, slots=True)
class Server:
    """Where clients connect, and what is served."""

    host: str = option("127.0.0.1", Kind.TEXT, "Address or name to listen on; `0.0.0.0` or `::` for every interface.")
    port: int = option(8080, Kind.COUNT, "Port to listen on; 0 takes a free one.", least=0, most=65535)
    backlog: int = option(
        4096, Kind.COUNT, "Connections that may wait to be accepted, a worker.", least=1, most=1_000_000
    )
    app: str = option("", Kind.TEXT, "Application to run in the workers, as `module:server`.")
    data_dir: str = option(
        "./tuskws-data", Kind.TEXT, "Where the journal and the settings are kept; `none` for memory only."
    )
    journal_size: int = option(
        32 * 1024**2,
        Kind.SIZE,
        "Disk space of the journal; it takes more only for what rooms and inboxes still keep.",
        least=2 * 1024**2,
        most=64 * 1024**3,
    )
    journal_age: float = option(
        3600.0, Kind.DURATION, "What no room and no inbox keeps is gone from the disk after about twice that.", least=1
    )
    no_demo: bool = option(False, Kind.SWITCH, "Do not serve the demo page on `/`.")
    echo: bool = option(False, Kind.SWITCH, "Echo every message on `/echo`: for conformance suites and measuring.")
    profile: str = option(
        "default",
        Kind.CHOICE,
        "Defaults of other options: `conformance` serves the echo as a conformance suite wants it.",
        choices=("default", "conformance"),
    )


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of the node, and how they are watched."""

    workers: int = option(
        0, Kind.COUNT, "Worker processes; `auto` is one a core.", least=1, most=512, auto=True, shown="auto"
    )
    pin: bool = option(
        False, Kind.SWITCH, "Keep each worker on a core of its own, and the broker on those that are left."
    )
    shutdown_timeout: float = option(
        10.0, Kind.DURATION, "How long clients are drained after SIGTERM before the processes are killed.", least=0
    )
    drain_delay: float = option(
        0.0,
        Kind.DURATION,
        "How long clients are still accepted after SIGTERM, while `/readyz` says 503 already; part of the timeout.",
        least=0,
    )
    drain_window: float = option(
        5.0,
        Kind.DURATION,
        "Over how long a worker that drains sends its clients away, each at a moment of its own.",
        least=0,
        most=3600,
    )
    drain_rate: int = option(
        1000,
        Kind.COUNT,
        "Clients a drain sends away at most; for more of them the window is longer.",
        unit="a second",
        least=1,
        most=1_000_000,
    )
    hang_timeout: float = option(
        5.0, Kind.DURATION, "A process whose event loop stands still for that long is killed and replaced.", least=2
    )
    boot_timeout: float = option(30.0, Kind.DURATION, "How long a process may take to start.", least=0.1)
    user: str = option("", Kind.TEXT, "Account to become once the port is bound, by name or number; only root can.")
    group: str = option("", Kind.TEXT, "Its group.", shown="that of the user")
    control_socket: str = option(
        "",
        Kind.TEXT,
        "Unix socket that takes `tuskws-fast stats`, `reload` and `restart`.",
        shown="$XDG_RUNTIME_DIR/tuskws-fast-UID/PORT.sock, else in /tmp",
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much anybody may have; 0 is off, where it is allowed."""

    max_connections: int = option(
        0,
        Kind.COUNT,
        "Connections of the node; `auto` is 90 % of what the open-file limits allow. Over it: 503.",
        least=1,
        auto=True,
        shown="auto",
    )
    max_connections_per_ip: int = option(0, Kind.COUNT, "Connections of one address; 0 is off. Over it: 429.", least=0)
    max_connections_per_user: int = option(
        0, Kind.COUNT, "Connections of one user; 0 is off. Over it: close 4509.", least=0
    )
    max_half_open: int = option(
        2000,
        Kind.COUNT,
        "Sockets of a worker whose handshake is not done; one more, and the oldest gives way.",
        least=1,
    )
    max_half_open_per_ip: int = option(200, Kind.COUNT, "The same for one address. It gets 429.", least=1)
    enable_rate_limiting: bool = option(
        True, Kind.SWITCH, "Keep the rates below: of users, addresses and connections. Off is for load tests."
    )
    message_rate_limit: int = option(
        100, Kind.COUNT, "Commands a user may send, on average.", unit="a second", least=1, most=1_000_000
    )
    message_rate_burst: int = option(
        200, Kind.COUNT, "Commands a user may send at once after a pause.", least=1, most=10_000_000
    )
    message_rate_limit_per_ip: int = option(
        1_000,
        Kind.COUNT,
        "Commands that guests and clients without authentication may send from one address, on average; 0 is off.",
        unit="a second",
        least=0,
        most=1_000_000,
        shown="10 times message_rate_limit",
    )
    message_rate_burst_per_ip: int = option(
        2_000,
        Kind.COUNT,
        "The same at once after a pause.",
        least=1,
        most=10_000_000,
        shown="10 times message_rate_burst",
    )
    handshake_rate_limit: int = option(
        500,
        Kind.COUNT,
        "WebSocket handshakes of one address, on average; 0 is off. Over it: 429.",
        unit="a second",
        least=0,
        most=1_000_000,
    )
    handshake_rate_burst: int = option(20_000, Kind.COUNT, "The same at once after a pause.", least=1, most=10_000_000)
    auth_failures_per_ip: int = option(
        100,
        Kind.COUNT,
        "Refused tokens of one address; 0 is off. Over it: 429, or `rate_limited`, and tokens are not looked at.",
        unit="a minute",
        least=0,
        most=1_000_000,
    )
    password_tries_per_ip: int = option(
        60,
        Kind.COUNT,
        "Room passwords that the guests of one address may try; 0 is off. Over it: `rate_limited`.",
        unit="a minute",
        least=0,
        most=1_000_000,
    )
    frame_rate_limit: int = option(
        2_000,
        Kind.COUNT,
        "Frames of one connection, a second's worth at once; 0 is off. Over it: close 1008.",
        unit="a second",
        least=0,
        shown="2000, more with a higher message_rate_burst or max_fragments",
    )
    byte_rate_limit: int = option(
        4 * 1024**2,
        Kind.SIZE,
        "Bytes a second of one connection, a second's worth at once; 0 is off. Over it: close 1008.",
        least=0,
        shown="4MiB, more with a larger max_frame_size",
    )
    ping_rate_limit: int = option(
        20,
        Kind.COUNT,
        "WebSocket pings of one connection that are answered one by one; of more, the newest; 0 is off. "
        "At 8 times as many at once: close 1008.",
        unit="a second",
        least=0,
    )
    max_message_size: int = option(
        16 * 1024, Kind.SIZE, "Size of the `message` value of a command.", least=1, most=8 * 1024**2
    )
    max_message_items: int = option(
        4096,
        Kind.COUNT,
        "Members, entries, lists and objects in one JSON message: what it costs to decode. Over it: an error.",
        least=64,
    )
    max_frame_size: int = option(
        64 * 1024, Kind.SIZE, "Size of a whole message on the wire.", least=1024, most=16 * 1024**2
    )
    max_fragments: int = option(
        1024, Kind.COUNT, "Fragments of one message, empty ones counted. Over it: close 1008.", least=1, most=1 << 24
    )
    echo_max_connections: int = option(
        16, Kind.COUNT, "Connections of a worker to `/echo`. Over it: 503.", least=1, most=1_000_000
    )
    echo_max_message_size: int = option(
        16 * 1024**2,
        Kind.SIZE,
        "Size of a whole message on `/echo`; what may wait and be inflated there grows with it.",
        least=1024,
        most=16 * 1024**2,
    )
    echo_max_fragments: int = option(
        8192, Kind.COUNT, "Fragments of one message on `/echo`. Over it: close 1008.", least=1, most=1 << 24
    )
    inflate_rate_limit: int = option(
        4 * 1024**2,
        Kind.SIZE,
        "Bytes a second a connection may make the server inflate. Over it: close 1008.",
        least=1024,
    )
    inflate_rate_limit_worker: int = option(
        64 * 1024**2, Kind.SIZE, "Bytes a second a worker inflates. Over it: close 1008.", least=1024
    )
    worker_memory_max: int = option(
        0,
        Kind.SIZE,
        "Memory of a worker, without its rings; 0 is off. Above 80 % nobody is let in (503), above 90 % those who do "
        "not read are closed (4008).",
        least=0,
    )
    max_room_members: int = option(0, Kind.COUNT, "Users in a room that has no `max_members`; 0 is off.", least=0)
    max_rooms_per_user: int = option(50, Kind.COUNT, "Rooms a user may be in at once; 0 is off.", least=0)
    max_rooms: int = option(100_000, Kind.COUNT, "Rooms of the node; 0 is off.", least=0)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the server waits for clients."""

    connection_timeout: float = option(
        5.0, Kind.DURATION, "From accept to the finished upgrade, absolute.", least=0.1, most=600
    )
    auth_timeout: float = option(
        10.0, Kind.DURATION, "From the upgrade to authentication, where it is required.", least=0.1, most=3600
    )
    heartbeat_interval: float = option(
        30.0, Kind.DURATION, "A WebSocket ping is sent after that long without input.", least=0.1, most=86400
    )
    heartbeat_timeout: float = option(
        10.0, Kind.DURATION, "How long a ping may stay unanswered. Then: close 4003.", least=0.1, most=3600
    )
    idle_timeout: float = option(
        0.0, Kind.DURATION, "Close 4002 after that long without a command but `ping`; 0 is off.", least=0
    )
    keep_alive_timeout: float = option(
        300.0,
        Kind.DURATION,
        "How long a session can be resumed after its connection is gone; 0 is not at all.",
        least=0,
        most=86400,
    )
    leave_grace: float = option(
        10.0, Kind.DURATION, "How long a lost connection keeps its rooms and its presence.", least=0, most=3600
    )


@dataclass(frozen=True, slots=True)
class Rooms:
    """What rooms keep; a room's own settings may differ from the history options."""

    history_size: int = option(100, Kind.COUNT, "Publications a room keeps; 0 is none.", least=0, most=1_000_000)
    history_ttl: float = option(300.0, Kind.DURATION, "How long a room keeps a publication.", least=0)
    history_bytes: int = option(1024**2, Kind.SIZE, "Bytes of publications a room keeps.", least=0)
    history_bytes_total: int = option(
        256 * 1024**2, Kind.SIZE, "Bytes of publications all rooms keep in memory together.", least=0
    )
    history_memory: int = option(
        1024**2,
        Kind.SIZE,
        "Bytes of a room's publications in memory; older ones are read from the journal, where there is one.",
        least=64 * 1024,
    )
    history_replay: int = option(
        16 * 1024**2,
        Kind.SIZE,
        "Bytes that one answer reads from the journal; `history` gives more when it is asked again.",
        least=256 * 1024,
        most=256 * 1024**2,
    )
    inbox_size: int = option(
        1000, Kind.COUNT, "Private messages kept for a user until a client confirms them.", least=1, most=1_000_000
    )
    inbox_ttl: float = option(7 * 86400.0, Kind.DURATION, "How long a private message is kept.", least=0)
    inbox_bytes: int = option(1024**2, Kind.SIZE, "Bytes of private messages kept for a user.", least=0)
    presence_full_max: int = option(
        200, Kind.COUNT, "Above so many members a room lists and pushes a count only.", least=0
    )
    dedupe_window: float = option(300.0, Kind.DURATION, "How long the id of a publication is remembered.", least=0)
    dedupe_ids_max: int = option(10_000, Kind.COUNT, "Ids remembered a room.", least=0)
    dedupe_bytes_max: int = option(64 * 1024**2, Kind.SIZE, "Memory for remembered ids in all.", least=0)


@dataclass(frozen=True, slots=True)
class Security:
    """Who may connect, and as whom."""

    require_auth: bool = option(
        False, Kind.SWITCH, "Accept commands of authenticated users only.", shown="on when there is a key"
    )
    jwt_secret: str = option(
        "", Kind.TEXT, "Secret of the tokens (HS256), at least 32 bytes; prefer the file.", secret=True
    )
    jwt_secret_file: str = option("", Kind.TEXT, "File with the secret of the tokens; read again on SIGHUP.")
    jwt_algorithms: tuple[str, ...] = option(
        ("HS256",), Kind.LIST, "Algorithms a token may be signed with.", later=NO_OTHER_ALGORITHM
    )
    jwt_issuer: str = option("", Kind.TEXT, "`iss` that a token must have.")
    jwt_audience: str = option("", Kind.TEXT, "`aud` that a token must have.")
    max_token_ttl: float = option(
        86400.0, Kind.DURATION, "How far in the future a token may expire; 0 is no limit.", least=0
    )
    allow_no_exp: bool = option(False, Kind.SWITCH, "Accept tokens that never expire.")
    allow_query_token: bool = option(False, Kind.SWITCH, "Accept a token as `?token=` in the URL.")
    enable_origin_check: bool = option(
        False, Kind.SWITCH, "Refuse browsers of other origins.", shown="on when origins are given"
    )
    allowed_origins: tuple[str, ...] = option(
        (), Kind.LIST, "Origins of browsers that may connect, as `https://example.com` or `https://*.example.com`."
    )
    escape_html: bool = option(False, Kind.SWITCH, "Escape HTML in messages when they are delivered; never stored.")
    ssl_enabled: bool = option(False, Kind.SWITCH, "Serve TLS (1.2 and later).", shown="on when there is a certificate")
    ssl_cert: str = option("", Kind.TEXT, "PEM file with the certificate and its chain; read again on SIGHUP.")
    ssl_key: str = option("", Kind.TEXT, "PEM file with its private key, not encrypted; read again on SIGHUP.")
    ssl_ca_certs: str = option(
        "", Kind.TEXT, "PEM file with authorities: only clients with a certificate of one of them may connect."
    )
    ssl_ciphers: str = option(
        "", Kind.TEXT, "Ciphers of TLS 1.2, as OpenSSL writes them.", shown="ECDHE with AES-GCM or ChaCha20"
    )
    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        Kind.LIST,
        "Addresses and networks of proxies: their `X-Forwarded-For` and `X-Forwarded-Proto` are believed.",
    )


@dataclass(frozen=True, slots=True)
class Performance:
    """Memory and buffers."""

    enable_compression: str = option(
        "shared",
        Kind.CHOICE,
        "permessage-deflate: a message compressed once for all, or a context a connection.",
        choices=("shared", "dedicated", "off"),
    )
    compression_level: int = option(1, Kind.COUNT, "How hard to compress, from quick to small.", least=1, most=9)
    compression_min_size: int = option(256, Kind.SIZE, "Shorter messages are sent as they are.", least=1)
    compression_window_bits: int = option(
        12, Kind.COUNT, "Window of a dedicated context, 2 to that power bytes in each direction.", least=9, most=15
    )
    compression_memory_level: int = option(
        5, Kind.COUNT, "Memory of a dedicated compressor beside its window, 2 to that power KiB / 2.", least=1, most=9
    )
    buffer_size: int = option(
        32 * 1024,
        Kind.SIZE,
        "Read buffer that the connections of a worker share; none has one of its own.",
        unit="bytes",
        least=4096,
        most=16 * 1024**2,
    )
    receive_buffer: int = option(
        512 * 1024,
        Kind.SIZE,
        "Bytes that the kernel takes from a client ahead of the worker (SO_RCVBUF); 0 leaves it to the kernel.",
        least=0,
        most=2**30,
    )
    queue_bytes_max: int = option(1024**2, Kind.SIZE, "Bytes that may wait for one slow connection.", least=1024)
    queue_messages_max: int = option(1000, Kind.COUNT, "Messages that may wait for one slow connection.", least=1)
    queue_age_max: float = option(
        10.0, Kind.DURATION, "How long a message may wait for one slow connection.", least=0.1
    )
    room_tick: float = option(
        0.002,
        Kind.DURATION,
        "How long a busy room of 32 members and more waits for more to send with.",
        least=0,
        most=0.1,
    )
    enable_io_uring: bool = option(
        True, Kind.SWITCH, "Send a fan-out with few system calls, where the kernel and its sandbox allow it."
    )
    ring_up_size: int = option(
        4 * 1024**2, Kind.SIZE, "Ring from a worker to the broker.", least=64 * 1024, most=1024**3
    )
    ring_down_size: int = option(
        8 * 1024**2, Kind.SIZE, "Ring from the broker to a worker.", least=64 * 1024, most=1024**3
    )
    limit_table_size: int = option(
        65_536, Kind.COUNT, "Users and addresses whose limits are kept at once.", least=64, most=16 * 1024**2
    )


@dataclass(frozen=True, slots=True)
class Api:
    """The HTTP API of operators and back ends."""

    api_host: str = option("127.0.0.1", Kind.TEXT, "Address of the API.", later=NO_API)
    api_port: int = option(0, Kind.COUNT, "Port of the API; 0 is off.", least=0, most=65535, later=NO_API)
    api_key: str = option("", Kind.TEXT, "Key of the API.", secret=True, later=NO_API)


@dataclass(frozen=True, slots=True)
class Logging:
    """What the node says about itself, on standard error."""

    log_format: str = option("console", Kind.CHOICE, "Lines for people or for programs.", choices=("console", "json"))
    log_level: str = option(
        "info", Kind.CHOICE, "The least level that is written.", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All sections. Made by `load`."""

    server: Server = field(default_factory=Server)
    processes: Processes = field(default_factory=Processes)
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    rooms: Rooms = field(default_factory=Rooms)
    security: Security = field(default_factory=Security)
    performance: Performance = field(default_factory=Performance)
    api: Api = field(default_factory=Api)
    logging: Logging = field(default_factory=Logging)


SECTIONS: Mapping[str, type[Any]] = {
    "server": Server,
    "processes": Processes,
    "limits": Limits,
    "timeouts": Timeouts,
    "rooms": Rooms,
    "security": Security,
    "performance": Performance,
    "api": Api,
    "logging": Logging,
}
# What a node that runs can take: at SIGHUP, in every process and for every connection; or with fresh workers, which
# `tuskws-fast restart` brings one by one. All else is the supervisor's or the broker's for as long as they live.
RELOADED = """
    shutdown_timeout drain_delay drain_window drain_rate hang_timeout boot_timeout
    message_rate_limit message_rate_burst message_rate_limit_per_ip message_rate_burst_per_ip
    handshake_rate_limit handshake_rate_burst auth_failures_per_ip password_tries_per_ip
    auth_timeout heartbeat_interval heartbeat_timeout idle_timeout
    jwt_secret jwt_secret_file jwt_issuer jwt_audience max_token_ttl allow_no_exp
    enable_origin_check allowed_origins ssl_cert ssl_key ssl_ca_certs ssl_ciphers log_level
"""
RENEWED = """
    enable_rate_limiting frame_rate_limit byte_rate_limit ping_rate_limit
    max_half_open max_half_open_per_ip worker_memory_max
    backlog app no_demo echo max_connections max_connections_per_ip max_connections_per_user
    max_message_size max_message_items max_frame_size max_fragments inflate_rate_limit inflate_rate_limit_worker
    connection_timeout require_auth allow_query_token escape_html forwarded_allow_ips
    enable_compression compression_level compression_min_size compression_window_bits compression_memory_level
    buffer_size queue_bytes_max queue_messages_max queue_age_max enable_io_uring
    echo_max_connections echo_max_message_size echo_max_fragments room_tick
"""
APPLIED: Mapping[str, Applied] = {
    **dict.fromkeys(RELOADED.split(), Applied.RELOAD),
    **dict.fromkeys(RENEWED.split(), Applied.RESTART),
}
OPTIONS: Mapping[str, Option] = {
    known.name: replace(known, applied=APPLIED.get(known.name, Applied.START))
    for section, cls in SECTIONS.items()
    for known in options_of(section, cls)
}


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Config:
    """The configuration that flags, environment and file say together, checked and complete. Raises `ConfigError`."""
    given: dict[str, Any] = {}
    if file is not None:
        _take(given, _read_file(Path(file)), str(file))
    for variable, text in (environ or {}).items():
        if variable.startswith(ENV_PREFIX) and variable not in ENV_OTHERS:
            name = variable.removeprefix(ENV_PREFIX).lower()
            given[name] = parse(_known(name, f"the environment, {variable}"), text, variable)
    for name, raw in (flags or {}).items():
        known = _known(name, "the options given")
        given[name] = parse(known, raw, known.flag)
    return _resolve(given)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened:
            return tomllib.load(opened)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _take(given: dict[str, Any], table: Mapping[str, Any], source: str) -> None:
    """The keys of a file: options at the top, or in a table named as their section."""
    for key, raw in table.items():
        if isinstance(raw, dict) and key in SECTIONS:
            for name, value in raw.items():
                known = _known(name, f"{source}, [{key}]")
                if known.section != key:
                    raise ConfigError(f"{name}: belongs to [{known.section}], not to [{key}] (from {source})")
                given[name] = parse(known, value, source)
        else:
            given[key] = parse(_known(key, source), raw, source)


def _known(name: str, source: str) -> Option:
    if name in OPTIONS:
        return OPTIONS[name]
    near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{name}: no such option (from {source}){hint}")


def changes(old: Config, new: Config) -> dict[str, Any]:
    """The options that differ, with their new values."""
    found = {}
    for known in OPTIONS.values():
        before, after = (getattr(getattr(config, known.section), known.name) for config in (old, new))
        if before != after:
            found[known.name] = after
    return found


def with_options(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with some options changed (as `changes` gives them, also when JSON made lists of tuples), checked as a
    whole. Raises `ConfigError`."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        sections.setdefault(OPTIONS[name].section, {})[name] = tuple(value) if isinstance(value, list) else value
    parts = {section: replace(getattr(config, section), **found) for section, found in sections.items()}
    changed = replace(config, **parts)
    _check(changed)
    return changed


def _resolve(given: dict[str, Any]) -> Config:
    """Fill in what was not given and depends on the machine or on another option, then check the whole."""
    if not given.get("workers"):
        given["workers"] = len(os.sched_getaffinity(0))
    if not given.get("max_connections"):
        given["max_connections"] = worker_connections_max() * given["workers"]
    for name, value in PROFILES[given.get("profile", "default")].items():
        given.setdefault(name, value)
    given.setdefault("require_auth", bool(given.get("jwt_secret") or given.get("jwt_secret_file")))
    given.setdefault("ssl_enabled", bool(given.get("ssl_cert")))
    given.setdefault("enable_origin_check", bool(given.get("allowed_origins")))
    _derive_rates(given)
    sections: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        names = [known.name for known in options_of(section, cls)]
        sections[section] = cls(**{name: given[name] for name in names if name in given})
    config = Config(**sections)
    _check(config)
    return config


def _derive_rates(given: dict[str, Any]) -> None:
    """Rates that are only there against abuse lie well above what the other options allow honest clients to do."""
    rate, burst, fragments, frame_size = (
        given.get(name, OPTIONS[name].default)
        for name in ("message_rate_limit", "message_rate_burst", "max_fragments", "max_frame_size")
    )
    given.setdefault("message_rate_limit_per_ip", 10 * rate)
    given.setdefault("message_rate_burst_per_ip", 10 * burst)
    given.setdefault("frame_rate_limit", max(2_000, 4 * max(rate, burst), 2 * fragments))
    given.setdefault("byte_rate_limit", max(4 * 1024**2, 4 * frame_size))


# What a profile gives as defaults; what is set anywhere else goes before it. The conformance suite sends messages of
# up to 65,537 fragments, and asks for windows of every size, which only a context of a connection's own can give.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "conformance": {
        "echo": True,
        "echo_max_fragments": 1 << 17,
        "enable_compression": "dedicated",
        "compression_window_bits": 15,
    },
}


def sockets_max() -> int:
    """Sockets of clients that one process has descriptors for (the supervisor raises its limit to the hard one)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    usable = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    return usable - min(NOFILE_RESERVE, usable * 3 // 4)


def worker_connections_max() -> int:
    """Connections one process may hold: 90 % of its sockets."""
    return max(1, sockets_max() * 9 // 10)


def _check(config: Config) -> None:
    limits, performance, security = config.limits, config.performance, config.security
    possible = worker_connections_max() * config.processes.workers
    if limits.max_connections > possible:
        raise ConfigError(f"max_connections: the open-file limit (ulimit -n) allows {possible} at most")
    processes = config.processes
    if processes.drain_delay and processes.drain_delay >= processes.shutdown_timeout:
        raise ConfigError(f"drain_delay: {processes.drain_delay:g} s leave nothing of shutdown_timeout for the drain")
    if limits.max_message_size > limits.max_frame_size:
        raise ConfigError(
            f"max_message_size: {limits.max_message_size} bytes do not fit into max_frame_size, {limits.max_frame_size}"
        )
    for name in ("ring_up_size", "ring_down_size"):
        size = getattr(performance, name)
        if size & (size - 1):
            raise ConfigError(f"{name}: {size} is not a power of two")
        if size < 4 * limits.max_frame_size:
            raise ConfigError(f"{name}: {size} is less than four times max_frame_size, {limits.max_frame_size}")
    if performance.queue_bytes_max < limits.max_frame_size:
        raise ConfigError(f"queue_bytes_max: {performance.queue_bytes_max} is less than max_frame_size")
    for rate_name, burst_name in RATES:
        rate, burst = getattr(limits, rate_name), getattr(limits, burst_name)
        if burst > rate * BURST_EARNED_MAX_S > 0:
            raise ConfigError(f"{burst_name}: {burst} would take longer than 10 days at {rate_name}, {rate}")
    if 0 < limits.frame_rate_limit < limits.max_fragments:
        raise ConfigError(f"frame_rate_limit: {limits.frame_rate_limit} is less than max_fragments")
    if 0 < limits.byte_rate_limit < 2 * limits.max_frame_size:
        raise ConfigError(f"byte_rate_limit: {limits.byte_rate_limit} is less than twice max_frame_size")
    if performance.enable_compression != "off":
        if limits.inflate_rate_limit < 2 * limits.max_frame_size:
            raise ConfigError(f"inflate_rate_limit: {limits.inflate_rate_limit} is less than twice max_frame_size")
        if limits.inflate_rate_limit_worker < 2 * limits.inflate_rate_limit:
            raise ConfigError(
                f"inflate_rate_limit_worker: {limits.inflate_rate_limit_worker} is less than twice inflate_rate_limit"
            )
    if security.jwt_secret and security.jwt_secret_file:
        raise ConfigError("jwt_secret: give either the secret or jwt_secret_file, not both")
    secret = read_jwt_secret(security)
    if security.require_auth and secret is None:
        raise ConfigError("require_auth: without jwt_secret or jwt_secret_file nobody could authenticate")
    for name in ("ssl_cert", "ssl_key"):
        if security.ssl_enabled and not getattr(security, name):
            raise ConfigError(f"{name}: TLS needs a certificate and its key (ssl_cert, ssl_key)")
    for name in ("ssl_cert", "ssl_key", "ssl_ca_certs", "ssl_ciphers"):
        if not security.ssl_enabled and getattr(security, name):
            raise ConfigError(f"{name}: without TLS (ssl_cert, ssl_enabled) it would do nothing")
    for entry in security.forwarded_allow_ips:
        try:
            ipaddress.ip_network(entry)
        except ValueError as error:
            hint = "; for every address write 0.0.0.0/0 and ::/0" if entry == "*" else ""
            raise ConfigError(f"forwarded_allow_ips: {error}{hint}") from None
    if config.server.app and not all(config.server.app.partition(":")):
        raise ConfigError(f"app: {config.server.app!r} is not module:server")


def read_jwt_secret(security: Security) -> bytes | None:
    """The key of HS256 tokens, None when there is none. Read again after `reload`. Raises `ConfigError`."""
    if security.jwt_secret_file:
        try:
            secret = Path(security.jwt_secret_file).read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"jwt_secret_file: {security.jwt_secret_file}: {error.strerror}") from error
        name = "jwt_secret_file"
    elif security.jwt_secret:
        secret, name = security.jwt_secret.encode(), "jwt_secret"
    else:
        return None
    if len(secret) < JWT_SECRET_BYTES_MIN:
        # RFC 7518, 3.2: "A key of the same size as the hash output (for instance, 256 bits for HS256) or larger MUST
        # be used with this algorithm."
        raise ConfigError(f"{name}: the secret has {len(secret)} bytes, HS256 needs at least {JWT_SECRET_BYTES_MIN}")
    return secret
