"""A worker whose clients make it hold more than it may: first nobody comes in, then those who do not read go."""

from __future__ import annotations

import contextlib
import socket

from helpers.bystander import anonymous_memory
from helpers.raw import RawClient, masked
from helpers.server import RunningServer, started_server, wait_until

MIB = 1 << 20
LIMIT = 96 * MIB
# Above malloc's threshold for memory that goes back to the system as soon as it is free.
PIECE = masked(bytes(MIB), opcode=2)


def fill(client: RawClient, pieces: int) -> None:
    """Have so many MiB echoed, and read nothing."""
    with contextlib.suppress(ConnectionError):
        for _ in range(pieces):
            client.socket.sendall(PIECE)


def status(server: RunningServer) -> bytes:
    with RawClient(server.port) as client:
        return client.response[9:12]


def test_a_worker_short_of_memory_lets_nobody_in_and_then_those_go_who_do_not_read() -> None:
    flags = {
        "echo": True,
        "disable_rate_limiting": True,
        "max_frame_size": "1MiB",
        # More than there is: a queue's own bounds must not come first.
        "queue_bytes_max": 2 * LIMIT,
        "queue_age_max": "5m",
        "worker_memory_max": LIMIT,
    }
    with started_server(workers=1, **flags) as server, contextlib.ExitStack() as stack:
        (pid,) = server.worker_pids()
        light, heavy = (stack.enter_context(RawClient(server.port, "/echo", receive_buffer=4096)) for _ in range(2))
        healthy = stack.enter_context(RawClient(server.port))
        healthy.expect("welcome")
        fill(light, 8)
        step = 0
        while anonymous_memory(pid) < 0.82 * LIMIT:
            fill(heavy, 1)
            step += 1
            assert step < 80, "the worker holds nothing of what is echoed"
        wait_until(lambda: status(server) == b"503", "nobody is let in")
        assert server.get("/health")[0] == 200
        wait_until(lambda: server.figure("refused_memory") >= 1, "the figure")

        def is_shed() -> bool:
            if anonymous_memory(pid) < 0.93 * LIMIT:
                fill(heavy, 1)
            return server.figure("memory_shed") == 1

        wait_until(is_shed, "the heaviest is let go")
        wait_until(lambda: anonymous_memory(pid) < 0.8 * LIMIT, "its memory is free")
        wait_until(lambda: status(server) == b"101", "others are let in again")
        # Who waits with less was left alone, and so was who reads.
        light.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        for _ in range(8):
            assert light.frame() == (2, bytes(MIB))
        healthy.send({"type": "ping"})
        assert healthy.expect("pong")
        assert server.figure("too_slow_closed") == 1


def test_without_a_limit_nobody_is_let_go() -> None:
    flags = {"echo": True, "disable_rate_limiting": True, "max_frame_size": "1MiB", "queue_bytes_max": "64MiB"}
    with started_server(workers=1, **flags) as server, RawClient(server.port, "/echo", receive_buffer=4096) as heavy:
        (pid,) = server.worker_pids()
        before = anonymous_memory(pid)
        fill(heavy, 50)
        wait_until(lambda: server.figure("memory_bytes") > before + 40 * MIB, "the figure tells")
        assert server.figure("memory_shed") == server.figure("too_slow_closed") == 0
        assert status(server) == b"101"
