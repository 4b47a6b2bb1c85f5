"""aiofastnet's TLS transport or uvloop's: what does each cost a handshake, a round trip, a write, and in memory?

The clients are another process, and time is the CPU that this one used (`process_time`): a busy machine lengthens the
run and hardly changes the figures. Compare them within one run. The answer is in docs/decisions/0006.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import resource
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tuskws_fast.auth.certificates import CertificateFiles, make_context
from tuskws_fast.worker.tls import INCOMING_BYTES, OUTGOING_BYTES, SHUTDOWN_TIMEOUT_S, Transport

HANDSHAKES = 50
ROUND_TRIPS = 200
MEMBERS = 50
WRITES = 20
ROUNDS = 20

cpu_time = pytest.mark.benchmark(timer=time.process_time)


class Served(asyncio.BufferedProtocol):
    """Sends back what it gets, and can be written to."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=0)
        self.server.open.append(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.server.buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.open.remove(self)


class Server:
    """One of the two behind a listener, made as a worker makes it, and its clients."""

    def __init__(self, kind: str, context: ssl.SSLContext) -> None:
        self.open: list[Served] = []
        self.buffer = memoryview(bytearray(64 * 1024))
        self.loop = uvloop.new_event_loop()
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=HANDSHAKES)
        self.orders, theirs = multiprocessing.Pipe()
        self.clients = multiprocessing.get_context("fork").Process(
            target=obey, args=(theirs, self.listener.getsockname()), daemon=True
        )
        self.clients.start()
        self.listener.setblocking(False)
        if kind == "uvloop":
            serving = self.loop.create_server(lambda: Served(self), sock=self.listener, ssl=context)
            self.loop.run_until_complete(serving)
        else:
            self.loop.add_reader(self.listener.fileno(), self.accept)

    def accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = self.listener.accept()
                accepted.setblocking(False)
                bounds = (5.0, SHUTDOWN_TIMEOUT_S, INCOMING_BYTES, OUTGOING_BYTES)
                Transport(*(self.loop, Served(self), self.context, True, *bounds, accepted, self.loop.create_future()))

    def order(self, what: str, count: int) -> None:
        """Serve until the clients have done it."""
        done = self.loop.create_future()
        self.loop.add_reader(self.orders.fileno(), lambda: done.done() or done.set_result(None))
        self.orders.send((what, count))
        self.loop.run_until_complete(done)
        self.loop.remove_reader(self.orders.fileno())
        assert self.orders.recv() == what

    def write(self, data: bytes) -> None:
        """To everybody, until nothing waits."""
        for served in self.open:
            served.transport.write(data)
        while any(served.transport.get_write_buffer_size() for served in self.open):
            self.loop.run_until_complete(asyncio.sleep(0.001))

    def close(self) -> None:
        self.orders.send(("end", 0))
        self.clients.join()
        for served in list(self.open):
            served.transport.abort()
        while self.open:
            self.loop.run_until_complete(asyncio.sleep(0.001))
        self.loop.close()
        self.listener.close()


def obey(orders: Connection, address: tuple[str, int]) -> None:
    """The clients: "connect" so many more, "ask" so often on the first, "take" what comes until the next, "end"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sockets: list[ssl.SSLSocket] = []
    readable = select.epoll()
    while True:
        what, count = orders.recv()
        if what == "end":
            return
        if what == "connect":
            for _ in range(count):
                sockets.append(context.wrap_socket(socket.create_connection(address)))
                readable.register(sockets[-1].fileno(), select.EPOLLIN)
                # Its answer shows that the server is through with the handshake too.
                ask(sockets[-1])
        elif what == "ask":
            for _ in range(count):
                ask(sockets[0])
        orders.send(what)
        while what == "take" and not orders.poll():
            for fd, _ in readable.poll(0.01):
                # As it came: deciphering is not what is measured.
                os.read(fd, 1 << 18)


def ask(sock: ssl.SSLSocket) -> None:
    sock.sendall(b"x" * 128)
    assert len(sock.recv(1000)) == 128


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(params=["aiofastnet", "uvloop"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost"),
        ],
        check=True,
        capture_output=True,
    )
    running = Server(request.param, make_context(CertificateFiles(str(certificate), str(key))))
    yield running
    running.close()


def measure(benchmark: Any, work: Callable[[], None], times: int) -> None:
    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=2)
    if benchmark.stats is not None:
        benchmark.extra_info["us_each"] = round(1e6 * benchmark.stats.stats.median / times, 2)


@cpu_time
def test_handshakes(benchmark: Any, server: Server) -> None:
    """And what memory a connection keeps that has said one thing."""
    server.order("connect", HANDSHAKES)
    before, memory = len(server.open), resident_bytes()
    measure(benchmark, lambda: server.order("connect", HANDSHAKES), HANDSHAKES)
    made = len(server.open) - before
    assert made % HANDSHAKES == 0
    benchmark.extra_info["kb_a_connection"] = round((resident_bytes() - memory) / made / 1000, 1)


@cpu_time
def test_round_trips(benchmark: Any, server: Server) -> None:
    server.order("connect", 1)
    measure(benchmark, lambda: server.order("ask", ROUND_TRIPS), ROUND_TRIPS)


@cpu_time
@pytest.mark.parametrize("size", [200, 4_000, 32_000])
def test_writes(benchmark: Any, server: Server, size: int) -> None:
    """A push to each member: one alone, a long one, and what is coalesced for one write."""
    server.order("connect", MEMBERS)
    server.order("take", 0)

    def write() -> None:
        for _ in range(WRITES):
            server.write(b"x" * size)

    measure(benchmark, write, WRITES * MEMBERS)
