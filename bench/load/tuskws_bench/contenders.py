"""The servers that are measured in turn: ours, and the bare C loop of bench/peers. Each is started fresh, ended by pid.

A contender is a context manager; inside it, `port` and `pid` are known and it accepts connections. Pinning is done by
taskset in front of the command, so that all children inherit it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tuskws_bench.plan import Protocol

PEERS = Path(__file__).resolve().parents[2] / "peers"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 2000


class ContenderError(RuntimeError):
    """A server could not be built, started or ended; the text has the end of its log."""


class Contender:
    """A server process with a log file. Subclasses say what to run and when it is ready."""

    name = ""
    protocol: Protocol = "raw"

    def __init__(self, cores: tuple[int, ...] = ()) -> None:
        self._cores = cores
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

    def ready(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Contender:
        self._folder = Path(tempfile.mkdtemp(prefix="tuskws-bench-"))
        self.port = free_port()
        pinned = ["taskset", "-c", ",".join(map(str, self._cores))] if self._cores else []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*pinned, *self.command()], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self.log_tail()
                self.__exit__(None, None, None)
                raise ContenderError(f"{self.name} did not start:\n{text}")
            time.sleep(0.02)
        return self

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

    def __init__(self, cores: tuple[int, ...] = (), *, coalesce: bool = False) -> None:
        super().__init__(cores)
        self._coalesce = coalesce
        self.name = "C loop, coalescing" if coalesce else "C loop, plain"

    def command(self) -> list[str]:
        return [str(build_peer("c_loop")), "--port", str(self.port), *(["--coalesce"] if self._coalesce else [])]

    def ready(self) -> bool:
        return b"ready" in self._log.read_bytes()


class OurServer(Contender):
    """tuskws-fast with its defaults, but for the limit on message rates: a load test would measure nothing else."""

    protocol: Protocol = "tusk"

    def __init__(self, cores: tuple[int, ...] = (), *, workers: int = 1, flags: tuple[str, ...] = ()) -> None:
        super().__init__(cores)
        self.name = f"tuskws-fast, {workers} worker{'s' if workers > 1 else ''}"
        self._workers = workers
        self._flags = flags

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "tuskws_fast"),
            *("--workers", str(self._workers), "--port", str(self.port)),
            *("--data-dir", "none", "--control-socket", str(self._folder / "control.sock")),
            *("--disable-rate-limiting", "--no-demo", "--shutdown-timeout", "2s"),
            *self._flags,
        ]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False  # not listening yet, or answering 503 until all its processes are up


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_peer(name: str) -> Path:
    """The peer's program, built if it is out of date."""
    if not (PEERS / "Makefile").exists():
        raise ContenderError(f"the peers are built in a checkout of the repository; there is none at {PEERS}")
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
