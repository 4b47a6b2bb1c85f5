"""Under a service manager: sockets that it opened and hands over, and what it is told. systemd itself is played by the
test: real descriptors from 3 on, a real NOTIFY_SOCKET; and by `systemd-socket-activate` where it is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.raw import RawClient
from helpers.server import RunningServer, wait_until

WORKERS = 2
# Becomes the server with the descriptors given, as a service manager does it: 3 and up, and its own pid in LISTEN_PID.
EXEC = """
import os, sys
fds, command = [int(fd) for fd in sys.argv[1].split(",") if fd], sys.argv[2:]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(fds)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n, inheritable=True)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = str(len(fds)), str(os.getpid())
os.execv(command[0], command)
"""


class Manager:
    """Hears what the service says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)

    def expect(self, word: str) -> dict[str, str]:
        """The fields of the next message that has `word`."""
        while True:
            fields = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))
            if word in fields:
                return fields


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path / "notify")
    yield found
    found.socket.close()


@contextlib.contextmanager
def listening_sockets(count: int) -> Iterator[list[socket.socket]]:
    """As a socket unit makes them: with `count` > 1 a group that shares the port."""
    sockets = [socket.socket() for _ in range(count)]
    port = 0
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if count > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1000)
        port = sock.getsockname()[1]
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


@contextlib.contextmanager
def service(
    sockets: list[socket.socket], manager: Manager | None = None, workers: int = WORKERS, **more: str
) -> Iterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="tuskws-test-") as scratch:
        log = Path(scratch, "log")
        flags = ["--workers", str(workers), "--data-dir", "none", "--control-socket", f"{scratch}/control.sock"]
        flags += ["--drain-window", "0", "--shutdown-timeout", "5s"]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}
        if manager is not None:
            environ["NOTIFY_SOCKET"] = str(manager.path)
        fds = ",".join(str(sock.fileno()) for sock in sockets)
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-c", EXEC, fds, sys.executable, "-m", "tuskws_fast", *flags],
                stdout=sink,
                stderr=sink,
                env=environ,
                pass_fds=[sock.fileno() for sock in sockets],
            )
        server = RunningServer(process, log, None)
        server.control_socket = Path(scratch, "control.sock")
        try:
            yield server
        except BaseException:
            print(server.log_text(), file=sys.stderr)
            raise
        finally:
            server.stop()


def worker_of(port: int) -> int:
    """Which worker serves a new connection."""
    with RawClient(port) as client:
        return int(client.expect("welcome")["connection_id"], 16) >> 52


@pytest.mark.parametrize("count", [1, WORKERS])
def test_inherited_sockets_are_served_by_every_worker(count: int) -> None:
    with listening_sockets(count) as sockets, service(sockets) as server:
        server.wait_until_ready()
        assert server.port == sockets[0].getsockname()[1]
        assert "listening on what the service manager opened" in server.log_text()
        seen = set()

        def every_worker_was_met() -> bool:
            # A shared socket goes to whoever wakes first: many at once wake both.
            clients = [RawClient(server.port) for _ in range(20)]
            for client in clients:
                seen.add(int(client.expect("welcome")["connection_id"], 16) >> 52)
                client.close()
            return len(seen) == WORKERS

        wait_until(every_worker_was_met, "every worker has served somebody")


@pytest.mark.parametrize("count", [1, WORKERS])
def test_who_connects_while_the_service_restarts_waits_and_is_served(count: int) -> None:
    with listening_sockets(count) as sockets, contextlib.ExitStack() as waiting:
        with service(sockets) as server:
            server.wait_until_ready()
        clients = []
        for _ in range(20):
            client = socket.create_connection(sockets[0].getsockname(), timeout=20)
            clients.append(waiting.enter_context(client))
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        with service(sockets) as server:
            server.wait_until_ready()
            assert all(client.recv(1000).startswith(b"HTTP/1.1 200") for client in clients)


def test_more_sockets_than_workers_are_refused_with_a_reason() -> None:
    with listening_sockets(3) as sockets, service(sockets, workers=2) as server:
        assert server.process.wait(20) == 3
        assert "3 sockets were handed over for 2 workers" in server.log_text()


def test_what_is_no_listening_tcp_socket_is_refused() -> None:
    with socket.socket(socket.AF_UNIX) as odd, service([odd]) as server:
        assert server.process.wait(20) == 3
        assert "descriptor 3, handed over in LISTEN_FDS, is no listening TCP socket" in server.log_text()


def test_the_manager_hears_of_every_change(manager: Manager) -> None:
    with listening_sockets(1) as sockets, service(sockets, manager, WATCHDOG_USEC="1000000") as server:
        ready = manager.expect("READY")
        assert ready["MAINPID"] == str(server.pid)
        server.wait_until_ready()
        for _ in range(3):
            manager.expect("WATCHDOG")
        server.process.send_signal(signal.SIGHUP)
        reloading = manager.expect("RELOADING")
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert manager.expect("READY")["STATUS"] == "serving"
        server.process.send_signal(signal.SIGTERM)
        assert int(manager.expect("STOPPING")["EXTEND_TIMEOUT_USEC"]) >= 5_000_000
        assert server.process.wait(10) == 0


def test_a_supervisor_that_stands_still_does_not_pet_the_watchdog(manager: Manager) -> None:
    with listening_sockets(1) as sockets, service(sockets, manager, WATCHDOG_USEC="400000") as server:
        manager.expect("READY")
        manager.expect("WATCHDOG")
        server.process.send_signal(signal.SIGSTOP)
        manager.socket.settimeout(0.6)
        said = 0
        with contextlib.suppress(TimeoutError):
            while said < 10:
                manager.expect("WATCHDOG")
                said += 1
        server.process.send_signal(signal.SIGCONT)
        assert said <= 1, "what was on its way when it stopped"


def test_before_everybody_is_ready_the_manager_is_told_nothing(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no luck')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with (
        listening_sockets(1) as sockets,
        service(sockets, manager, TUSKWS_APP="broken:server", PYTHONPATH=path) as server,
    ):
        assert server.process.wait(20) == 3
        manager.socket.setblocking(False)
        said = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                said += manager.socket.recv(4096)
        assert b"READY" not in said
        assert b"STOPPING" in said


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed")
def test_systemds_own_activator_starts_it_at_the_first_connection() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tuskws-test-") as scratch:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        keep = [f"--setenv={name}" for name in ("PYTHONPATH", "PATH")]
        command = [sys.executable, "-m", "tuskws_fast", "--workers", "2", "--data-dir", "none"]
        command += ["--control-socket", f"{scratch}/control.sock"]
        with Path(scratch, "log").open("wb") as sink:
            process = subprocess.Popen(
                ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", *keep, *command],
                stdout=sink,
                stderr=sink,
                env=environ,
            )
        try:

            def is_listening() -> bool:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    return True
                return False

            wait_until(is_listening, "the activator listens")
            assert worker_of(port) in (0, 1)
        finally:
            process.terminate()
            assert process.wait(15) == 0, Path(scratch, "log").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_units_of_the_deployment_page_are_ones_that_systemd_takes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    service_unit, socket_unit = (block.partition("```")[0] for block in page.split("```ini\n")[1:3])
    version = int(subprocess.check_output(["systemd-analyze", "--version"], text=True).split()[1])
    if version < 253:
        assert "Type=notify-reload\n" in service_unit
        service_unit = service_unit.replace("Type=notify-reload\n", "Type=notify\nExecReload=/bin/kill -HUP $MAINPID\n")
    # The program of the page is not on this machine.
    service_unit = service_unit.replace("/opt/tuskws-fast/bin/tuskws-fast", sys.executable)
    for name, unit in (("tuskws-fast.service", service_unit), ("tuskws-fast.socket", socket_unit)):
        (tmp_path / name).write_text(unit)
    units = [str(tmp_path / "tuskws-fast.service"), str(tmp_path / "tuskws-fast.socket")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "tuskws-fast" in line]
    assert complaints == []
