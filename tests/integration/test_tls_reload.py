"""A new certificate while the server serves: what a reload changes, and that no handshake fails because of one."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.certificates import Pair, make_pair, trusting, unverifying
from helpers.raw import RawClient
from helpers.server import RunningServer, started_server, wait_until

HANDSHAKES = 1_000
AT_ONCE = 8
SWAPS_LEAST = 5


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path, "served")


@pytest.fixture
def server(pair: Pair) -> Iterator[RunningServer]:
    with started_server(
        workers=2, tls=trusting(pair.certificate), ssl_cert=pair.certificate, ssl_key=pair.key
    ) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


def shown_by(port: int) -> bytes:
    """The certificate the server shows to a new connection, which then gets an answer to a request."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        unverifying().wrap_socket(raw) as secured,
    ):
        secured.sendall(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert secured.recv(1000).startswith(b"HTTP/1.1 200")
        found = secured.getpeercert(binary_form=True)
        assert found is not None
        return found


def replace_pair(server: RunningServer, served: Pair, other: tuple[bytes, bytes]) -> None:
    served.key.write_bytes(other[1])
    served.certificate.write_bytes(other[0])
    os.kill(server.pid, signal.SIGHUP)


def contents(pair: Pair) -> tuple[bytes, bytes]:
    return pair.certificate.read_bytes(), pair.key.read_bytes()


def test_a_reload_serves_the_new_pair_and_a_bad_one_changes_nothing(
    server: RunningServer, pair: Pair, tmp_path: Path
) -> None:
    first, other = shown_by(server.port), contents(make_pair(tmp_path, "second"))
    pair.certificate.write_bytes(other[0])
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "certificate is left as it was" in server.log_text(), "a word about the pair that does not fit")
    assert shown_by(server.port) == first
    replace_pair(server, pair, other)
    wait_until(lambda: shown_by(server.port) != first, "the new certificate")


def test_no_handshake_of_a_thousand_fails_while_certificates_are_swapped(
    server: RunningServer, pair: Pair, tmp_path: Path
) -> None:
    pairs = [contents(pair), contents(make_pair(tmp_path, "other"))]
    through = threading.Event()
    swaps = 0

    def swap() -> None:
        replace_pair(server, pair, pairs[(swaps + 1) % 2])
        shown = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
        wait_until(lambda: shown_by(server.port) == shown, "the other certificate")

    def keep_swapping() -> None:
        nonlocal swaps
        while not through.is_set():
            swap()
            swaps += 1

    with (
        RawClient(server.port, tls=server.tls) as old,
        ThreadPoolExecutor(AT_ONCE) as clients,
        ThreadPoolExecutor(1) as operator,
    ):
        swapping = operator.submit(keep_swapping)
        try:
            shown = Counter(clients.map(lambda _: shown_by(server.port), range(HANDSHAKES)))
        finally:
            through.set()
        swapping.result()
        # Who was in before all this is served as ever.
        old.expect("welcome")
        old.send({"type": "ping"})
        assert old.expect("pong")
    assert sum(shown.values()) == HANDSHAKES
    assert len(shown) == 2
    assert swaps >= SWAPS_LEAST
    assert (server.figure("tls_failed"), server.figure("refused_timeout")) == (0, 0)


def test_a_worker_that_is_replaced_serves_the_last_good_pair(server: RunningServer, pair: Pair) -> None:
    first, workers = shown_by(server.port), set(server.worker_pids())
    pair.certificate.write_text("no certificate")
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(set(server.worker_pids()) - workers) == 2, "two new workers")
    wait_until(lambda: server.get("/readyz")[0] == 200, "ready")
    assert all(shown_by(server.port) == first for _ in range(8))
