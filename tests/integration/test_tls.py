"""TLS on real sockets: who gets in, what a reload changes, and how what is no TLS ends. Certificates are made here."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.raw import RawClient
from helpers.server import RunningServer, wait_until
from helpers.server import started_server as started
from websockets.asyncio.client import connect


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "30", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def shown_by(port: int) -> bytes:
    """The certificate the server shows to a new connection."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as raw, anyone.wrap_socket(raw) as secured:
        found = secured.getpeercert(binary_form=True)
        assert found is not None
        return found


class Secured:
    def __init__(self, server: RunningServer, certificate: Path, key: Path) -> None:
        self.server, self.certificate, self.key = server, certificate, key

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.server.port}/ws"


@pytest.fixture
def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secured]:
    certificate, key = make_pair(tmp_path, "first")
    # The helper asks for readiness over plain HTTP, which this server does not speak.
    monkeypatch.setattr(RunningServer, "wait_until_ready", wait_until_it_serves)
    with started(workers=2, ssl_cert=str(certificate), ssl_key=str(key), disable_rate_limiting=True) as server:
        yield Secured(server, certificate, key)


def wait_until_it_serves(server: RunningServer) -> None:
    def is_serving() -> bool:
        if "serving wss://" not in server.log_text():
            return False
        server.port = int(server.log_text().split("serving wss://127.0.0.1:")[1].split()[0])
        return True

    wait_until(is_serving, "a line that says where it serves")


def test_clients_talk_across_workers_and_a_long_message_arrives_whole(secured: Secured) -> None:
    async def talk() -> None:
        context = trusting(secured.certificate)
        clients = [await connect(secured.url, ssl=context, max_size=None) for _ in range(6)]
        for client in clients:
            await client.send('{"type":"join_room","room":"r"}')
            while '"type":"room_joined"' not in str(await client.recv()):
                pass
        text = "x" * 15_000
        for n in range(20):
            await clients[0].send(f'{{"type":"broadcast","room":"r","message":"{n} {text}"}}')
        for client in clients:
            seen = []
            while len(seen) < 20:
                message = str(await asyncio.wait_for(client.recv(), 10))
                if '"type":"room_message"' in message:
                    seen.append(message)
            assert all(f'"message":"{n} {text}"' in message for n, message in enumerate(seen))
            await client.close()

    asyncio.run(talk())


def test_a_reload_serves_the_new_pair_and_a_bad_one_changes_nothing(secured: Secured, tmp_path: Path) -> None:
    first = shown_by(secured.server.port)
    second, second_key = make_pair(tmp_path, "second")
    secured.certificate.write_bytes(second.read_bytes())
    os.kill(secured.server.pid, signal.SIGHUP)
    wait_until(
        lambda: "certificate is left as it was" in secured.server.log_text(), "a word about the pair that does not fit"
    )
    assert shown_by(secured.server.port) == first
    secured.key.write_bytes(second_key.read_bytes())
    os.kill(secured.server.pid, signal.SIGHUP)
    wait_until(lambda: shown_by(secured.server.port) != first, "the new certificate")
    assert "Traceback" not in secured.server.log_text()


def test_no_handshake_fails_while_certificates_are_swapped(secured: Secured, tmp_path: Path) -> None:
    pairs = [(secured.certificate.read_bytes(), secured.key.read_bytes())]
    pairs.append(tuple(path.read_bytes() for path in make_pair(tmp_path, "other")))  # type: ignore[arg-type]
    seen = set()
    for n in range(200):
        if n % 20 == 0:
            certificate, key = pairs[n // 20 % 2]
            secured.key.write_bytes(key)
            secured.certificate.write_bytes(certificate)
            os.kill(secured.server.pid, signal.SIGHUP)
        seen.add(shown_by(secured.server.port))
    assert len(seen) == 2


def test_an_old_version_and_plain_http_are_refused_without_a_traceback(secured: Secured) -> None:
    with socket.create_connection(("127.0.0.1", secured.server.port), 10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP/1.1 200" not in raw.recv(1000)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", secured.server.port), 10) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw)
    assert shown_by(secured.server.port)
    assert "Traceback" not in secured.server.log_text()


def test_only_a_trusted_proxy_is_believed() -> None:
    def statuses(server: RunningServer) -> list[bytes]:
        """Two connections that claim to be for different clients, held open together."""
        first = RawClient(server.port, headers="X-Forwarded-For: 192.0.2.1\r\n")
        second = RawClient(server.port, headers="X-Forwarded-For: 192.0.2.2\r\n")
        found = [first.response.split()[1], second.response.split()[1]]
        first.close()
        second.close()
        return found

    with started(workers=1, max_connections_per_ip=1) as server:
        assert statuses(server) == [b"101", b"429"]
    with started(workers=1, max_connections_per_ip=1, forwarded_allow_ips="127.0.0.1") as server:
        assert statuses(server) == [b"101", b"101"]
