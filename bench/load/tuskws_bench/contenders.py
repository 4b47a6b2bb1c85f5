"""The servers that are measured in turn: ours, and the peers of bench/peers. Each is started fresh and ended by pid.

A peer is a page of code on its library: the simplest topic broadcast that is fast on it, without authentication, order,
history or JSON, except where the peer is a product that has a protocol of its own (Socket.IO, NATS, nchan).
`missing()` says what is not installed; `scripts/setup-peers` installs what can be.

A contender is a context manager; inside it, `port` and `pid` are known and it accepts connections. Pinning is done by
taskset in front of the command, so that all children inherit it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tuskws_bench.plan import LOOSE_KINDS, TUSK_KINDS, Kind, Protocol

PEERS = Path(__file__).resolve().parents[2] / "peers"
NODE = PEERS / "node"
INSTALLED = PEERS.parents[1] / "build" / "peers"
NO_CHECKOUT = "a checkout of the repository, with bench/peers"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 2000
CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Where the kernel gives clients nearly all ports, these have to do.
PORTS_FROM, PORTS_UNTIL = 10_000, 20_000
PORTS_TRIED = 100


class ContenderError(RuntimeError):
    """A server could not be built, started or ended; the text has the end of its log."""


class Contender:
    """A server process with a log file. Subclasses say what to run and when it is ready."""

    name = ""
    protocol: Protocol = "raw"

    def __init__(self, cores: tuple[int, ...] = ()) -> None:
        self._cores = cores
        self.control_socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def missing(self) -> str | None:
        """What would have to be installed; None when it can be started."""
        return None

    def cannot(self, kind: Kind) -> str | None:
        """Why this server has no part in such a scenario; None when it has."""
        return f"{kind} is of our protocol alone" if kind in TUSK_KINDS else None

    def ready(self) -> bool:
        return b"ready" in self._log.read_bytes()

    def __enter__(self) -> Contender:
        self._folder = Path(tempfile.mkdtemp(prefix="tuskws-bench-"))
        self.port = free_port()
        pinned = ["taskset", "-c", ",".join(map(str, self._cores))] if self._cores else []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*pinned, *self.command()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment()},
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self) -> None:
        assert self._process is not None, "not started"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ContenderError(f"{self.name} did not start:\n{self.log_tail()}")
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None, "not started"
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder)

    def log_tail(self) -> str:
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")

    @property
    def _log(self) -> Path:
        return self._folder / "log"


class CLoop(Contender):
    """bench/peers/c_loop.c: the machine's limit, without a protocol."""

    def __init__(self, cores: tuple[int, ...] = (), *, coalesce: bool = False, processes: int = 1) -> None:
        super().__init__(cores)
        self._coalesce = coalesce
        self._processes = processes
        self.name = "C loop, coalescing" if coalesce else "C loop, plain"
        if processes > 1:
            self.name += f", {processes} processes"

    def command(self) -> list[str]:
        flags = ["--coalesce"] if self._coalesce else []
        return [str(build_peer("c_loop")), "--port", str(self.port), "--processes", str(self._processes), *flags]

    def missing(self) -> str | None:
        if not (PEERS / "Makefile").exists():
            return NO_CHECKOUT
        return None if shutil.which("gcc") and shutil.which("make") else "a C compiler and make"


class OurServer(Contender):
    """tuskws-fast with its defaults, but for the limit on message rates: a load test would measure nothing else."""

    protocol: Protocol = "tusk"

    def __init__(
        self,
        cores: tuple[int, ...] = (),
        *,
        workers: int = 1,
        flags: tuple[str, ...] = (),
        tls: bool = False,
        data_dir: str | Path = "none",
    ) -> None:
        """`data_dir`, also among the flags: where it does not begin with a slash, below a folder that is removed in the
        end, so that no run begins with what another left."""
        super().__init__(cores)
        if "--data-dir" in flags:
            at = flags.index("--data-dir")
            data_dir, flags = flags[at + 1], (*flags[:at], *flags[at + 2 :])
        self.name = f"tuskws-fast, {workers} worker{'s' if workers > 1 else ''}"
        self._workers = workers
        self._flags = flags
        self._tls = tls
        self._data_dir = data_dir

    @property
    def url(self) -> str:
        return super().url.replace("ws:", "wss:") if self._tls else super().url

    def cannot(self, kind: Kind) -> str | None:
        return None

    def command(self) -> list[str]:
        self.control_socket = self._folder / "control.sock"
        secured = self._certificate() if self._tls else []
        return [
            *(sys.executable, "-m", "tuskws_fast"),
            *("--workers", str(self._workers), "--port", str(self.port)),
            *("--data-dir", self._data_place(), "--control-socket", str(self.control_socket)),
            *("--disable-rate-limiting", "--no-demo", "--shutdown-timeout", "2s"),
            *secured,
            *self._flags,
        ]

    def _data_place(self) -> str:
        return "none" if self._data_dir == "none" else str(self._folder / self._data_dir)

    def _certificate(self) -> list[str]:
        """A key and a certificate that it signs itself: the load client verifies nothing."""
        key, certificate = self._folder / "key.pem", self._folder / "certificate.pem"
        made = subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise ContenderError(f"openssl made no certificate:\n{made.stderr}")
        return ["--ssl-enabled", "--ssl-cert", str(certificate), "--ssl-key", str(key)]

    def ready(self) -> bool:
        scheme = "https" if self._tls else "http"
        trusting = ssl._create_unverified_context() if self._tls else None
        try:
            with urllib.request.urlopen(
                f"{scheme}://127.0.0.1:{self.port}/readyz", timeout=1, context=trusting
            ) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False  # not listening yet, or answering 503 until all its processes are up


class PythonPeer(Contender):
    """One of bench/peers/*.py, run by the interpreter that has its package."""

    def __init__(
        self, cores: tuple[int, ...], name: str, file: str, package: str, *flags: str, own_environment: bool = False
    ) -> None:
        super().__init__(cores)
        self.name = name
        self._file = PEERS / file
        self._package = package
        self._flags = flags
        self._python = INSTALLED / "venv" / "bin" / "python" if own_environment else Path(sys.executable)

    def command(self) -> list[str]:
        return [str(self._python), str(self._file), "--port", str(self.port), *self._flags]

    def missing(self) -> str | None:
        if not self._file.exists():
            return NO_CHECKOUT
        if not self._python.exists():
            return f"the environment with {self._package}"
        found = subprocess.run(
            [str(self._python), "-c", f"import {self._package}"], capture_output=True, check=False
        ).returncode
        return f"the Python package {self._package}" if found else None


class BareUvloop(PythonPeer):
    """bench/peers/bare_uvloop.py: accept, answer, close. What a handshake costs on the loop that we run on."""

    def __init__(self, cores: tuple[int, ...]) -> None:
        super().__init__(cores, "bare uvloop", "bare_uvloop.py", "uvloop")

    def cannot(self, kind: Kind) -> str | None:
        return None if kind in LOOSE_KINDS else "it answers handshakes and nothing else"


class NodePeer(Contender):
    """One of bench/peers/node/*.js, run by Node or by Bun."""

    def __init__(
        self, cores: tuple[int, ...], name: str, file: str, package: str, *, protocol: Protocol = "raw"
    ) -> None:
        super().__init__(cores)
        self.name = name
        self.protocol = protocol
        self._file = NODE / file
        self._package = NODE / "node_modules" / package
        self._program = str(self._package / "bin" / "bun.exe") if package == "bun" else "node"

    def command(self) -> list[str]:
        return [self._program, str(self._file), str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"NODE_ENV": "production"}

    def missing(self) -> str | None:
        if not self._file.exists():
            return NO_CHECKOUT
        if shutil.which(self._program) is None:
            return self._program
        return None if self._package.exists() else f"the npm package {self._package.name}"


class Packaged(Contender):
    """A program of the distribution, in build/peers or installed: configured by a file, ready when its port answers."""

    program = ""

    def configuration(self) -> str:
        raise NotImplementedError

    def arguments(self, configuration: Path) -> list[str]:
        raise NotImplementedError

    def command(self) -> list[str]:
        file = self._folder / "configuration"
        file.write_text(self.configuration())
        program = self.found(f"usr/sbin/{self.program}")
        assert program is not None, "missing() was not asked"
        return [str(program), *self.arguments(file)]

    def found(self, path: str) -> Path | None:
        return next((root / path for root in (INSTALLED / "root", Path("/")) if (root / path).exists()), None)

    def missing(self) -> str | None:
        return None if self.found(f"usr/sbin/{self.program}") else self.program

    def ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Nats(Packaged):
    """nats-server: a room is a subject, a member a subscriber over WebSocket."""

    program = "nats-server"
    protocol: Protocol = "nats"
    name = "nats-server"

    def configuration(self) -> str:
        return f"""
            host: 127.0.0.1
            port: {free_port()}
            max_payload: 1MB
            max_pending: 256MB
            max_connections: 60000
            websocket {{ host: 127.0.0.1, port: {self.port}, no_tls: true, compression: false }}
        """

    def arguments(self, configuration: Path) -> list[str]:
        return ["--config", str(configuration)]

    def environment(self) -> dict[str, str]:
        # Go sees all cores of the machine that the mask allows; one core is what the other peers have.
        return {"GOMAXPROCS": str(max(1, len(self._cores)))}


class Nchan(Packaged):
    """nginx with nchan: a room is a channel, a member a subscriber that also publishes."""

    program = "nginx"
    protocol: Protocol = "nchan"
    name = "nginx nchan"
    MODULE = "usr/lib/nginx/modules/ngx_nchan_module.so"

    def configuration(self) -> str:
        return f"""
            load_module {self.found(self.MODULE)};
            daemon off; worker_processes 1; worker_rlimit_nofile 60000;
            pid {self._folder}/pid; error_log stderr warn;
            events {{ worker_connections 30000; }}
            http {{
                access_log off;
                client_body_temp_path {self._folder}/body; proxy_temp_path {self._folder}/proxy;
                fastcgi_temp_path {self._folder}/fastcgi; uwsgi_temp_path {self._folder}/uwsgi;
                scgi_temp_path {self._folder}/scgi;
                nchan_shared_memory_size 256M;
                server {{
                    listen 127.0.0.1:{self.port} backlog=4096;
                    location ~ ^/(.+)$ {{
                        nchan_pubsub websocket;
                        nchan_channel_id $1;
                        nchan_message_buffer_length 10000;
                        nchan_subscriber_first_message newest;
                        nchan_subscribe_existing_channels_only off;
                    }}
                }}
            }}
        """

    def arguments(self, configuration: Path) -> list[str]:
        return ["-p", str(self._folder), "-e", "stderr", "-c", str(configuration)]

    def missing(self) -> str | None:
        return super().missing() or (None if self.found(self.MODULE) else "nginx's module nchan")


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contenders of a comparison have in common. `workers` and what follows are of our server alone."""

    cores: tuple[int, ...] = ()
    workers: int = 1
    tls: bool = False
    flags: tuple[str, ...] = ()


OURS = "ours"
CONTENDERS: dict[str, Callable[[Setting], Contender]] = {
    OURS: lambda s: OurServer(s.cores, workers=s.workers, flags=s.flags, tls=s.tls),
    "c-plain": lambda s: CLoop(s.cores),
    "c-coalescing": lambda s: CLoop(s.cores, coalesce=True),
    "c-processes": lambda s: CLoop(s.cores, coalesce=True, processes=2),
    "bare-uvloop": lambda s: BareUvloop(s.cores),
    "bun": lambda s: NodePeer(s.cores, "Bun", "bun_server.js", "bun"),
    "socketify": lambda s: PythonPeer(s.cores, "socketify", "socketify_server.py", "socketify", own_environment=True),
    "node-ws": lambda s: NodePeer(s.cores, "Node ws", "ws_server.js", "ws"),
    "websockets": lambda s: PythonPeer(s.cores, "websockets", "websockets_server.py", "websockets"),
    "picows": lambda s: PythonPeer(s.cores, "picows by hand, coalescing", "picows_server.py", "picows"),
    "picows-plain": lambda s: PythonPeer(s.cores, "picows, a send a member", "picows_server.py", "picows", "--plain"),
    "socketio": lambda s: NodePeer(s.cores, "Socket.IO", "socketio_server.js", "socket.io", protocol="socketio"),
    "nats": lambda s: Nats(s.cores),
    "nchan": lambda s: Nchan(s.cores),
}


def free_port() -> int:
    """A port that nobody has, below those that the kernel gives to clients: one of these could be taken by the time the
    server listens on it."""
    of_clients = int(CLIENT_PORTS.read_text().split()[0])
    for port in random.sample(range(PORTS_FROM, max(of_clients, PORTS_UNTIL)), PORTS_TRIED):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ContenderError(f"none of {PORTS_TRIED} ports is free")


def build_peer(name: str) -> Path:
    """The peer's program, built if it is out of date."""
    made = subprocess.run(
        ["make", "--silent", "-C", str(PEERS), f"bin/{name}"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ContenderError(f"cannot build {name}:\n{made.stderr}")
    return PEERS / "bin" / name


def default_cores() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the server's, the load client's): one core each where there are two or more, as peers are usually compared."""
    cores = sorted(os.sched_getaffinity(0))
    return ((cores[0],), (cores[1],)) if len(cores) >= 2 else ((), ())
