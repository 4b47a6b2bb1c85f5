"""However a connection under TLS ends before it is upgraded, the worker has none half-open afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from helpers.certificates import make_pair, unverifying
from helpers.edge import Edge
from helpers.server import wait_until
from helpers.waiting import eventually

from tuskws_fast.auth.certificates import CertificateFiles, make_context
from tuskws_fast.metrics import Metric
from tuskws_fast.worker.acceptor import Handshake
from tuskws_fast.worker.tls import TlsListener, on_loop_error

Client = Callable[["Served"], None]


class Served:
    """A listener on a loop of its own, which runs in `clients`' stead while they work in a thread."""

    def __init__(self, context: ssl.SSLContext) -> None:
        with Edge(lambda address: None, 65536) as edge:
            self.acceptor = edge.acceptor
        self.figures: Counter[Metric] = Counter()
        self.accepted = 0
        self.acceptor.protocol = self.accept  # type: ignore[method-assign]
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(on_loop_error)
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.address: tuple[str, int] = sock.getsockname()
        self.listener = TlsListener(self.loop, self.acceptor, lambda: context, self, sock)  # type: ignore[arg-type]

    def accept(self) -> Handshake:
        self.accepted += 1
        return Handshake(self.acceptor)

    def add(self, metric: Metric, n: int = 1) -> None:
        self.figures[metric] += n

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """What a client does meanwhile the server sees all at once."""
        still, over = threading.Event(), threading.Event()

        def stand() -> None:
            still.set()
            over.wait(10)

        self.loop.call_soon_threadsafe(stand)
        still.wait(10)
        yield
        over.set()

    def serve(self, client: Client) -> None:
        """Until the client has come, is through, and nothing of it is left."""
        before = self.accepted

        async def is_gone() -> bool:
            return self.accepted > before and self.acceptor.door.half_open == 0

        async def come_and_go() -> None:
            await asyncio.to_thread(client, self)
            await eventually(is_gone, "nothing of it is left")

        self.loop.run_until_complete(come_and_go())


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    pair = make_pair(Path(tmp_path_factory.mktemp("tls")), "server")
    return make_context(CertificateFiles(str(pair.certificate), str(pair.key)))


@pytest.fixture
def served(context: ssl.SSLContext) -> Iterator[Served]:
    served = Served(context)
    yield served
    served.listener.close()
    served.loop.run_until_complete(served.loop.shutdown_default_executor())
    served.loop.close()


def secured(served: Served) -> ssl.SSLSocket:
    return unverifying().wrap_socket(socket.create_connection(served.address))


def says_nothing_and_leaves(served: Served) -> None:
    socket.create_connection(served.address).close()


def leaves_in_its_hello(served: Served) -> None:
    with socket.create_connection(served.address) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def resets_in_its_hello(served: Served) -> None:
    before = served.accepted
    sock = socket.create_connection(served.address)
    wait_until(lambda: served.accepted > before, "accepted, and read from when there is something")
    with served.standing_still():
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        reset(sock)


def resets_before_it_is_accepted(served: Served) -> None:
    with served.standing_still():
        sock = socket.create_connection(served.address)
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        reset(sock)


def speaks_no_tls(served: Served) -> None:
    with socket.create_connection(served.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while sock.recv(100):
            pass


def leaves_after_its_handshake(served: Served) -> None:
    secured(served).close()


def says_farewell_after_its_handshake(served: Served) -> None:
    secured(served).unwrap().close()


def resets_in_its_request(served: Served) -> None:
    sock = secured(served)
    with served.standing_still():
        sock.sendall(b"GET /ws HT")
        reset(sock)


def asks_for_what_is_not_there(served: Served) -> None:
    with secured(served) as sock:
        sock.sendall(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    ("client", "failures"),
    [
        (says_nothing_and_leaves, 1),
        (leaves_in_its_hello, 1),
        (resets_in_its_hello, 1),
        (resets_before_it_is_accepted, 1),
        (speaks_no_tls, 1),
        (leaves_after_its_handshake, 0),
        (says_farewell_after_its_handshake, 0),
        (resets_in_its_request, 0),
        (asks_for_what_is_not_there, 0),
    ],
)
def test_no_end_leaves_a_connection_half_open(
    client: Client, failures: int, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        served.serve(client)
    assert served.figures[Metric.TLS_FAILED] == 3 * failures
    assert not caplog.records


def test_without_room_for_a_socket_it_is_closed_and_counted(served: Served) -> None:
    served.acceptor.began = refuse(served.acceptor.began)  # type: ignore[method-assign]

    def is_closed(served: Served) -> None:
        with socket.create_connection(served.address) as sock:
            assert sock.recv(1) == b""

    served.serve(is_closed)
    assert served.figures[Metric.REFUSED_TOTAL] == 1


def refuse(began: Callable[..., bool]) -> Callable[..., bool]:
    return lambda attempt: began(attempt) and False
