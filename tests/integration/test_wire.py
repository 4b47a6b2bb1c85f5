"""Frames and requests that RFC 6455 forbids: the close code or status each gets, and that nobody else notices."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from helpers.raw import RawClient, masked
from helpers.server import RunningServer, started_server

PING = b'{"type":"ping"}'


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with started_server(workers=1, disable_rate_limiting=True, connection_timeout="1s") as running:
        yield running
        assert "Traceback" not in running.log_text()


@pytest.fixture
def bystander(server: RunningServer) -> Iterator[RawClient]:
    """Another connection of the same worker, which must not notice anything."""
    with RawClient(server.port) as client:
        yield client
        client.send({"type": "ping", "id": "still here"})
        assert client.expect("pong")["id"] == "still here"


def unmasked(payload: bytes) -> bytes:
    return bytes([0x81, len(payload)]) + payload


FORBIDDEN = {
    "unmasked": (unmasked(PING), 1002),
    "reserved opcode 3": (masked(b"", opcode=3), 1002),
    "reserved opcode 11": (masked(b"", opcode=11), 1002),
    "rsv1 without compression": (masked(PING, rsv=4), 1002),
    "rsv2": (masked(PING, rsv=2), 1002),
    "rsv3 on a ping": (masked(b"", opcode=9, rsv=1), 1002),
    "fragmented control frame": (masked(b"", opcode=9, fin=False), 1002),
    "control frame of 126 bytes": (masked(b"x" * 126, opcode=9), 1002),
    "length not minimal": (b"\x81\xfe\x00\x05" + b"\0" * 9, 1002),
    "length of 2^63": (b"\x81\xff\x80" + b"\0" * 11, 1002),
    "announced over the limit": (b"\x81\xff" + (1 << 30).to_bytes(8, "big") + b"\0" * 4, 1009),
    "continuation of nothing": (masked(PING, opcode=0), 1002),
    "message inside a message": (masked(b"{", fin=False) + masked(PING), 1002),
    "fragments over the limit together": (masked(b"x" * 60_000, fin=False) + masked(b"x" * 6_000, opcode=0), 1009),
    "1,025 empty fragments": (masked(b"", fin=False) + masked(b"", opcode=0, fin=False) * 1_024, 1008),
    "bad utf-8": (masked(b"\xff"), 1007),
    "surrogate in utf-8": (masked(b'{"type":"\xed\xa0\x80"}'), 1007),
    "close code 0": (masked(b"\x00\x00", opcode=8), 1002),
    "close code 1005": (masked((1005).to_bytes(2, "big"), opcode=8), 1002),
    "close code 1006": (masked((1006).to_bytes(2, "big"), opcode=8), 1002),
    "close code 5000": (masked((5000).to_bytes(2, "big"), opcode=8), 1002),
    "close payload of one byte": (masked(b"x", opcode=8), 1002),
    "close reason not utf-8": (masked(b"\x03\xe8\xff", opcode=8), 1007),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_frame_is_closed_with_its_code(server: RunningServer, bystander: RawClient, name: str) -> None:
    wire, code = FORBIDDEN[name]
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.socket.sendall(wire)
        assert client.close_code() == code
        # Whoever answers, or just hangs up, is let go at once.
        client.send_frame(code.to_bytes(2, "big"), opcode=8)
        with pytest.raises((EOFError, ConnectionResetError)):
            client.frame()


def test_fragments_with_control_frames_between_them_are_one_message(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.socket.sendall(
            masked(PING[:5], fin=False) + masked(b"are you there", opcode=9) + masked(PING[5:], opcode=0)
        )
        assert client.frame() == (10, b"are you there")
        assert client.message()["type"] == "pong"


def test_an_unasked_pong_is_ignored_and_binary_json_accepted(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.send_frame(b"unasked", opcode=10)
        client.send_frame(PING, opcode=2)
        assert client.message()["type"] == "pong"


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0"])
def test_a_close_is_answered_with_its_own_code_and_the_socket_ends(server: RunningServer, payload: bytes) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.send_frame(payload, opcode=8)
        assert client.frame() == (8, payload[:2])
        with pytest.raises(EOFError):
            client.frame()


def test_what_comes_behind_a_close_is_not_looked_at(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.socket.sendall(masked(b"\x03\xe8", opcode=8) + masked(PING))
        assert client.frame() == (8, b"\x03\xe8")
        with pytest.raises(EOFError):
            client.frame()


def test_many_commands_in_one_segment_are_answered_in_order(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.socket.sendall(b"".join(masked(b'{"type":"ping","id":%d}' % n) for n in range(200)))
        assert [client.message()["id"] for _ in range(200)] == list(range(200))


def test_a_frame_may_come_byte_by_byte_and_behind_the_handshake(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        request = (
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        wire = masked(b'{"type":"ping","id":"early"}')
        raw.sendall(request + wire[:3])
        for n in range(3, len(wire)):
            raw.sendall(wire[n : n + 1])
        seen = b""
        while b"early" not in seen:
            seen += raw.recv(65536)
        # The answer to the key of RFC 6455 §1.3.
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in seen


def exchange(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(request)
        answer = b""
        while data := raw.recv(65536):
            answer += data
        return answer


UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
REQUESTS = {
    b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n": 426,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"GET /readyz?x=1 HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n": 404,
    b"GET /other HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n": 404,
    b"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n": 405,
    b"GET /ws HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n": 426,
    b"GET /ws HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"Sec-WebSocket-Version: 12\r\n\r\n": 426,
    b"GET /ws HTTP/1.1\r\n" + UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n": 400,
    b"GET /ws HTTP/1.1\r\nHost: a\r\n"
    + UPGRADE
    + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: x\r\n\r\n": 400,
    b"nonsense\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": 400,
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 150 + b"\r\n": 431,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n": 431,
}


@pytest.mark.parametrize("request_bytes", REQUESTS, ids=lambda request: repr(request[:60]))
def test_a_request_that_is_no_handshake_gets_its_status(server: RunningServer, request_bytes: bytes) -> None:
    answer = exchange(server.port, request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == REQUESTS[request_bytes]
    assert (b"Sec-WebSocket-Version: 13" in head) == (REQUESTS[request_bytes] == 426)
    if request_bytes.startswith(b"HEAD"):
        assert body == b""
        assert b"Content-Length: 0" not in head


def test_a_dripping_handshake_ends_at_the_deadline_whatever_progress_it_makes(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        started = time.monotonic()
        raw.sendall(b"GET /ws HTTP/1.1\r\n")
        raw.settimeout(0.2)
        answer = b""
        while not answer:
            try:
                raw.sendall(b"X: y\r\n")
                answer = raw.recv(65536)
            except TimeoutError:
                assert time.monotonic() - started < 8.0, "progress moved the deadline"
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_peer_that_never_ends_the_closing_handshake_is_cut_off(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        for _ in range(10):
            client.send_frame(b"{")
        assert client.close_code() == 1008
        with pytest.raises((EOFError, ConnectionResetError)):
            client.frame()
