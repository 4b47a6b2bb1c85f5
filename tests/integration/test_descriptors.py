"""Out of file descriptors (threat T17): nobody is left waiting, nobody who is in notices, and it ends by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.raw import RawClient
from helpers.server import RunningServer, started_server, wait_until

REQUEST = b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n"
LOOK_S = 2.0
# Of one processor, while there is nothing to do but to have no descriptor. What stands still takes 0.01.
IDLE_SHARE_MAX = 0.05
FILES = 128
HANG_S = 2


def pass_time(seconds: float) -> None:
    """What happens meanwhile is the subject."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, "time passes", seconds + 1.0)


def cpu_share(pid: int) -> float:
    """Of one processor, over a time in which the caller does nothing."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, since = used(), time.monotonic()
    pass_time(LOOK_S)
    return (used() - before) / (time.monotonic() - since)


def descriptors(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


@contextlib.contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """The process keeps what it has, and gets no more."""
    _, hard = before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = descriptors(pid)
    free = next(fd for fd in range(len(taken) + 1) if fd not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def ask(server: RunningServer, path: bytes) -> bytes:
    """The status line of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(REQUEST % path)
        return client.makefile("rb").readline()


def test_a_limit_that_is_lowered_while_the_node_runs_costs_only_who_comes_new() -> None:
    with started_server(workers=1, hang_timeout=f"{HANG_S}s") as server, contextlib.ExitStack() as stack:
        [worker] = server.worker_pids()
        members = [stack.enter_context(RawClient(server.port)) for _ in range(20)]
        for member in members:
            member.send({"type": "join_room", "room": "general"})
            member.expect("room_joined")
        with no_descriptor_left(worker):
            refused = [RawClient(server.port).response.split(b"\r\n")[0] for _ in range(5)]
            assert refused == [b"HTTP/1.1 503 Service Unavailable"] * 5
            silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(30)]
            for client in silent:
                assert client.recv(100).startswith(b"HTTP/1.1 503"), "who says nothing is told too"
            answers = {ask(server, path) for path in (b"/health", b"/livez", b"/readyz") * 5}
            assert answers <= {b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 Service Unavailable\r\n"}
            assert cpu_share(worker) < IDLE_SHARE_MAX
            # Longer than the supervisor waits for a sign of life.
            pass_time(HANG_S + 1.0)
            assert server.worker_pids() == [worker]
            members[0].send({"type": "broadcast", "room": "general", "message": "still here"})
            for member in members:
                assert member.expect("room_message")["message"] == "still here"
            assert server.figure("connections_current") == 20, "the operators' socket answers"
            wait_until(lambda: server.figure("out_of_files") >= 35, "the figure is up to date")
        wait_until(lambda: "descriptors for clients again" in server.log_text(), "its end is told")
        with RawClient(server.port) as late:
            assert late.response.startswith(b"HTTP/1.1 101")
        assert server.log_text().count("no descriptor is left") == 1, "an episode is one line"
        assert "Traceback" not in server.log_text()


def test_a_node_with_few_descriptors_refuses_before_it_has_none() -> None:
    with started_server(workers=1, files=FILES, connection_timeout="30s") as server:
        [worker] = server.worker_pids()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(RawClient(server.port)) for _ in range(57)]
            assert {client.response.split(b" ")[1] for client in clients} == {b"101"}
            assert RawClient(server.port).response.startswith(b"HTTP/1.1 503")
            silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(60)]
            assert all(client.recv(100).startswith(b"HTTP/1.1 503") for client in silent[20:50])
            assert ask(server, b"/livez") == b"HTTP/1.1 200 OK\r\n", "also when silent clients have come before"
            assert cpu_share(worker) < IDLE_SHARE_MAX
            assert len(descriptors(worker)) < FILES
        wait_until(lambda: server.figure("connections_current") == 0, "all have gone")
        with RawClient(server.port) as late:
            assert late.response.startswith(b"HTTP/1.1 101")
        assert server.figure("out_of_files") == 0
