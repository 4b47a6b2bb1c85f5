"""The node from outside: its processes, found below its supervisor; started, hurt, ended, started where it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from audit.build import VARIABLE, Switches
from tuskws_fast.auth.tokens import make_token
from tuskws_fast.supervisor.stats import read_stats

SECRET = "a-secret-of-the-auditor-of-more-than-32-bytes"
LOOK_AGAIN_S = 0.01
READY_S = 60.0
STOP_S = 15.0
TOKEN_S = 16 * 3600.0


class Node:
    """`directory` holds its data, its log, and what `build` reads. The port stays the same over restarts."""

    def __init__(self, directory: Path, workers: int, remembers: bool = False, **flags: Any) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "log"
        self.control = directory / "control.sock"
        self.build = directory / "build"
        self.build.mkdir(parents=True)
        if remembers:
            (self.build / "disk").mkdir()
        self.switches = Switches(self.build)
        self.workers = workers
        self.port = free_port()
        self._flags: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "workers": workers,
            "data_dir": self.data,
            "control_socket": self.control,
            "jwt_secret": SECRET,
            "disable_rate_limiting": True,
            "shutdown_timeout": "2s",
            "log_format": "json",
            **flags,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def token(self, user: str, **claims: Any) -> str:
        """Good at any time that the node's clock is made to show, too."""
        return make_token(SECRET, user, ttl_s=TOKEN_S, now=time.time() - TOKEN_S / 2, **claims)

    # -- life ----------------------------------------------------------------------------------------------------------

    def arguments(self) -> list[str]:
        found = []
        for name, value in self._flags.items():
            found += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
        return found

    def start(self) -> None:
        """Begin; `ready` tells when it serves."""
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "audit.build", *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, VARIABLE: str(self.build), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def ready(self) -> bool:
        """Does `/readyz` say so? Raises `RuntimeError` where it has ended instead."""
        ended = self.poll()
        if ended is not None:
            raise RuntimeError(f"the node ended with {ended}:\n{self.log.read_text()[-3000:]}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2.0) as probe:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: audit\r\n\r\n")
                return b" 200 " in probe.recv(64)
        except OSError:
            return False

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not self.ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the node is not ready after {READY_S:g} s:\n{self.log.read_text()[-3000:]}")
            time.sleep(LOOK_AGAIN_S)

    def stop(self) -> None:
        """As an operator does; the processes that do not end by themselves are killed."""
        if self.poll() is not None:
            return
        self.resume_all()
        send(self.supervisor, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill_all()
                return
            time.sleep(LOOK_AGAIN_S)

    def kill_all(self) -> None:
        """SIGKILL for every process at once; returns when none is left."""
        pids = [self.supervisor, *self.children().values()]
        for pid in pids:
            send(pid, signal.SIGKILL)
        self._wait_gone(pids)

    def kill_supervisor(self) -> None:
        """SIGKILL for the supervisor alone: the kernel ends the others."""
        pids = [self.supervisor, *self.children().values()]
        send(self.supervisor, signal.SIGKILL)
        self._wait_gone(pids)

    def _wait_gone(self, pids: list[int]) -> None:
        deadline = time.monotonic() + STOP_S
        while self.poll() is None or any(lives(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise RuntimeError("processes of a killed node live on")
            time.sleep(LOOK_AGAIN_S)

    def poll(self) -> int | None:
        """How it ended; None: it has not."""
        return 0 if self._process is None else self._process.poll()

    # -- its processes -------------------------------------------------------------------------------------------------

    @property
    def supervisor(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> dict[str, int]:
        """`worker 0` … and `broker 0` to their pids. Of two with one name (a successor in a spare slot) the newest."""
        found = {}
        listed = Path(f"/proc/{self.supervisor}/task/{self.supervisor}/children")
        for pid in map(int, listed.read_text().split() if listed.exists() else ()):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:
                continue  # it has just ended
            if "-" in name and lives(pid):
                found[name.replace("-", " ")] = pid
        return dict(sorted(found.items()))

    def worker_names(self) -> list[str]:
        return [name for name in self.children() if name.startswith("worker")]

    def signal(self, name: str, number: int) -> int | None:
        """The pid it was sent to; None: there is no such process now."""
        pid = self.supervisor if name == "supervisor" else self.children().get(name)
        return pid if pid is not None and send(pid, number) else None

    def resume_all(self) -> None:
        for pid in (self.supervisor, *self.children().values()):
            send(pid, signal.SIGCONT)

    def totals(self) -> dict[str, int]:
        found: dict[str, int] = read_stats(self.control)["totals"]
        return found


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
