"""A real server for a test: `tuskws-fast` as a subprocess on a free port, its processes found by name, its log at hand.

    with started_server(workers=4, jwt_secret=SECRET) as server:        # also: async with running_server(…)
        server.url, server.worker_pids(), server.log_text()

Keyword arguments are flags: `max_room_members=5` is `--max-room-members 5`, True is the bare flag. `tls=context` is
none: it is what the helpers connect with where flags make the server speak TLS. Everything that was started is ended by
pid, also when the test fails; then the log is printed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.waiting import PATIENCE

from tuskws_fast.auth.tokens import make_token
from tuskws_fast.supervisor.stats import read_stats

SECRET = "a-secret-for-tests-of-more-than-32-bytes"
START_TIMEOUT_S = 30.0
_ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")


def wait_until(fact: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    """Look until `fact` holds. For facts about processes and HTTP, which nobody announces."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not fact():
        assert time.monotonic() < deadline, f"not within {timeout_s * PATIENCE:g} s: {what}"
        time.sleep(0.01)


class RunningServer:
    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, secret: str | None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log
        self.port = 0
        self.control_socket = Path()
        self.tls = tls
        self._secret = secret

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/ws" if self.tls else f"ws://127.0.0.1:{self.port}/ws"

    @property
    def origin(self) -> str:
        """Of the pages it serves."""
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    def token(self, user: str, **claims: Any) -> str:
        assert self._secret is not None, "this server has no key"
        return make_token(self._secret, user, **claims)

    def figure(self, name: str) -> int:
        """A figure of the node, summed over its processes; workers bring theirs up to date once a second."""
        return int(read_stats(self.control_socket)["totals"][name])

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a plain HTTP request."""
        try:
            with urllib.request.urlopen(self.origin + path, timeout=5, context=self.tls) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def worker_pids(self) -> list[int]:
        """Of the workers alive now, in the order of their numbers."""
        found = [(comm, pid) for pid, comm in self.descendants() if comm.startswith("worker-")]
        return [pid for _, pid in sorted(found)]

    def broker_pid(self) -> int:
        (pid,) = [pid for pid, comm in self.descendants() if comm.startswith("broker-")]
        return pid

    def descendants(self) -> list[tuple[int, str]]:
        """(pid, comm) of every living process below the supervisor."""
        children: dict[int, list[tuple[int, str]]] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            comm = stat[stat.index("(") + 1 : stat.rindex(")")]
            state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append((int(entry.name), comm))
        found, waiting = [], [self.pid]
        while waiting:
            below = children.get(waiting.pop(), [])
            found += below
            waiting += [pid for pid, _ in below]
        return found

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
            if not self.port:
                match = _ADDRESS.search(self.log_text())
                self.port = int(match[1]) if match else 0
            try:
                return bool(self.port) and self.get("/readyz")[0] == 200
            except OSError:
                return False

        wait_until(is_ready, "ready", START_TIMEOUT_S)

    def stop(self) -> int:
        """End it as an operator does; the exit status. What does not end by itself is killed, process by process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15 * PATIENCE)
        except subprocess.TimeoutExpired:
            for pid in [*(pid for pid, _ in self.descendants()), self.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5)
            raise


@contextlib.contextmanager
def started_server(
    workers: int = 2,
    tls: ssl.SSLContext | None = None,
    files: int | None = None,
    build: Path | None = None,
    **flags: Any,
) -> Iterator[RunningServer]:
    """`jwt_secret=…` makes `server.token` work; `data_dir` is `none` unless given. `files`: the most that each process
    may have open (`ulimit -n`). `build`: where `audit.build` finds its switches, of a node with disks that fail and
    steps at which it dies."""
    limited = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"] if files is not None else []
    switches = {"AUDIT_BUILD": str(build)} if build else {}
    arguments = {
        "host": "127.0.0.1",
        "port": 0,
        "workers": workers,
        "data_dir": "none",
        "shutdown_timeout": "2s",
        **flags,
    }
    with tempfile.TemporaryDirectory(prefix="tuskws-test-") as scratch:
        arguments.setdefault("control_socket", f"{scratch}/control.sock")
        log = Path(scratch, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*limited, sys.executable, "-m", "audit.build" if build else "tuskws_fast", *_flags(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **switches, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        server = RunningServer(process, log, flags.get("jwt_secret"), tls)
        server.control_socket = Path(str(arguments["control_socket"]))
        try:
            server.wait_until_ready()
            yield server
        except BaseException:
            print(f"--- log of the server (pid {server.pid}) ---\n{server.log_text()}", file=sys.stderr)
            raise
        finally:
            server.stop()


@contextlib.asynccontextmanager
async def running_server(workers: int = 2, **flags: Any) -> AsyncIterator[RunningServer]:
    """`started_server` for a test that has nothing else on its loop while the server starts and stops."""
    with started_server(workers, **flags) as server:
        yield server


def _flags(arguments: dict[str, Any]) -> list[str]:
    found = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            found.append(flag)
        elif value is not None and value is not False:
            found += [flag, str(value)]
    return found
