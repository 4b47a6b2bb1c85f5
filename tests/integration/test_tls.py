"""TLS on real sockets: clients of every kind, who gets in and who does not, and that an end leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.certificates import Pair, make_pair, trusting, unverifying
from helpers.clients import on_loop, people
from helpers.raw import RawClient, masked
from helpers.server import RunningServer, started_server, wait_until
from helpers.sockets import KINDS, Browser, started_browser

LONG = "x" * 15_000
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="module")
def server(pair: Pair) -> Iterator[RunningServer]:
    with started_server(
        workers=2,
        tls=trusting(pair.certificate),
        ssl_cert=pair.certificate,
        ssl_key=pair.key,
        disable_rate_limiting=True,
    ) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


@pytest.fixture(scope="module")
def trusting_browser(pair: Pair) -> Iterator[Browser]:
    with started_browser(pair.certificate) as running:
        yield running


# -- clients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_clients_talk_across_workers_and_a_long_message_arrives_whole(
    kind: str, server: RunningServer, pair: Pair, request: pytest.FixtureRequest
) -> None:
    browser = request.getfixturevalue("trusting_browser") if kind == "chromium" else None

    @on_loop
    async def talk() -> None:
        async with people(server, kind, browser, pair.certificate) as them:
            clients = [await them.connect() for _ in range(6)]
            for client in clients:
                assert (await client.request("join_room", room=kind))["type"] == "room_joined"
            for n in range(20):
                reply = await clients[0].request("broadcast", room=kind, message=f"{n} {LONG}")
                assert reply["type"] == "ack", reply
            for client in clients:
                for n in range(20):
                    push = await client.expect("room_message", room=kind)
                    assert (push["offset"], push["message"]) == (n + 1, f"{n} {LONG}")

    talk()


def s_client(port: int, *arguments: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """OpenSSL's own client; it types `typed` and reads until the server ends the connection."""
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *arguments],
        input=typed,
        capture_output=True,
        timeout=15,
        check=False,
    )


@pytest.mark.parametrize(("flag", "version"), [("-tls1_2", b"TLSv1.2"), ("-tls1_3", b"TLSv1.3")])
def test_s_client_is_shown_the_certificate_and_may_speak_websocket(
    flag: str, version: bytes, server: RunningServer, pair: Pair
) -> None:
    done = s_client(
        *(server.port, flag, "-CAfile", str(pair.certificate), "-verify_return_error"),
        *("-alpn", "h2,http/1.1", "-ign_eof", "-nocommands"),
        typed=UPGRADE + masked(struct.pack("!H", 1000), opcode=8),
    )
    assert b"Verification: OK" in done.stdout, done.stdout + done.stderr
    assert pair.certificate.read_bytes().strip() in done.stdout
    assert b"ALPN protocol: http/1.1" in done.stdout
    assert version in done.stdout
    assert b"HTTP/1.1 101 Switching Protocols" in done.stdout
    assert b'"type":"welcome"' in done.stdout
    assert b"\x88\x02\x03\xe8" in done.stdout, "the Close was not answered"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], id="TLS 1.1"),
        pytest.param(["-tls1_2", "-cipher", "AES128-SHA"], id="neither forward secrecy nor authenticated encryption"),
    ],
)
def test_s_client_is_refused(arguments: list[str], server: RunningServer) -> None:
    done = s_client(server.port, *arguments)
    assert done.returncode != 0
    assert b"Cipher is (NONE)" in done.stdout


def test_no_session_is_renegotiated(server: RunningServer) -> None:
    done = s_client(server.port, "-tls1_2", typed=b"R\n")  # how s_client is told to ask for it
    assert b"Cipher is ECDHE" in done.stdout
    assert b"no renegotiation" in done.stderr


def test_a_client_without_http_1_1_gets_no_alpn(server: RunningServer) -> None:
    assert b"No ALPN negotiated" in s_client(server.port, "-alpn", "h2").stdout


def test_plain_http_is_no_tls_and_costs_itself(server: RunningServer) -> None:
    failed = server.figure("tls_failed")
    with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP" not in raw.recv(1000)
    wait_until(lambda: server.figure("tls_failed") > failed, "the failure in the figures")
    assert server.get("/livez")[0] == 200


def test_who_is_slow_in_the_tls_handshake_is_ended_by_the_same_deadline_as_a_slow_request(pair: Pair) -> None:
    with (
        started_server(
            *(1, trusting(pair.certificate)), ssl_cert=pair.certificate, ssl_key=pair.key, connection_timeout="1s"
        ) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as raw,
    ):
        assert raw.recv(1) == b""
        wait_until(lambda: server.figure("refused_timeout") == 1, "the figure")


# -- client certificates -----------------------------------------------------------------------------------------------


def test_only_clients_with_a_certificate_of_the_right_authority_are_served(pair: Pair, tmp_path: Path) -> None:
    authority, stranger = make_pair(tmp_path, "authority"), make_pair(tmp_path, "stranger")
    member = make_pair(tmp_path, "member", signer=authority)
    forged = make_pair(tmp_path, "forged", signer=stranger)
    with started_server(
        *(1, trusting(pair.certificate, member)),
        ssl_cert=pair.certificate,
        ssl_key=pair.key,
        ssl_ca_certs=authority.certificate,
    ) as server:
        for shown in (None, forged):
            # Under TLS 1.3 a client is through with its handshake before the server has seen its certificate.
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                RawClient(server.port, tls=trusting(pair.certificate, shown))
        wait_until(lambda: server.figure("tls_failed") == 2, "both in the figures")
        with RawClient(server.port, tls=trusting(pair.certificate, member)) as client:
            assert client.expect("welcome")
        assert "Traceback" not in server.log_text()


# -- ends --------------------------------------------------------------------------------------------------------------


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Closing an SSLSocket sends nothing by itself.
    sock.close()


def end_in_every_way(server: RunningServer) -> None:
    """Connections that end: before, in and after the TLS handshake, in the request, and upgraded."""
    address = ("127.0.0.1", server.port)
    socket.create_connection(address).close()
    with socket.create_connection(address) as begun:
        begun.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # a hello of 512 bytes that stops here
    unverifying().wrap_socket(socket.create_connection(address)).close()
    asking = unverifying().wrap_socket(socket.create_connection(address))
    asking.sendall(UPGRADE[:50])
    reset(asking)
    upgraded = [RawClient(server.port, tls=server.tls) for _ in range(4)]
    for client in upgraded:
        client.expect("welcome")
    told, cut, aborted, polite = (client.socket for client in upgraded)
    assert isinstance(told, ssl.SSLSocket)
    # close_notify, the server's own awaited; a FIN alone; a reset right behind data; a closing handshake.
    with contextlib.suppress(ssl.SSLError):
        told.unwrap()
    told.close()
    cut.close()
    aborted.sendall(masked(b'{"type":"ping"}'))
    reset(aborted)
    polite.sendall(masked(struct.pack("!H", 1000), opcode=8))
    assert upgraded[3].close_code() == 1000
    polite.close()


def test_no_end_of_a_connection_leaves_anything_behind(pair: Pair) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.worker_pids()[0]}/fd"))

    with started_server(
        *(1, trusting(pair.certificate)),
        ssl_cert=pair.certificate,
        ssl_key=pair.key,
        # What an end did not give back would be missing in the third round.
        max_connections_per_ip=8,
        max_connections=8,
    ) as server:
        before = descriptors()
        for _ in range(4):
            end_in_every_way(server)
            wait_until(lambda: descriptors() == before, "no descriptor more than before")
        for name in ("connections_current", "sessions", "queued_bytes"):
            wait_until(lambda name=name: server.figure(name) == 0, f"no {name}")  # type: ignore[misc]
        assert (server.figure("refused_per_ip"), server.figure("refused_total")) == (0, 0)
        # The two that never finished their TLS handshake, in four rounds.
        assert server.figure("tls_failed") == 8
        assert "Traceback" not in server.log_text(), server.log_text()


# -- in front of us ----------------------------------------------------------------------------------------------------


def test_only_a_trusted_proxy_is_believed() -> None:
    def statuses(server: RunningServer) -> list[bytes]:
        """Two connections that claim to be for different clients, held open together."""
        first = RawClient(server.port, headers="X-Forwarded-For: 192.0.2.1\r\n")
        second = RawClient(server.port, headers="X-Forwarded-For: 192.0.2.2\r\n")
        found = [first.response.split()[1], second.response.split()[1]]
        first.close()
        second.close()
        return found

    with started_server(workers=1, max_connections_per_ip=1) as server:
        assert statuses(server) == [b"101", b"429"]
    with started_server(workers=1, max_connections_per_ip=1, forwarded_allow_ips="127.0.0.1") as server:
        assert statuses(server) == [b"101", b"101"]
