"""Members that do not read: what they get later is right, they are cut off at the bound, nobody else is harmed.

Over plain sockets, where the server writes past its transport, and over TLS, where it cannot.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.certificates import make_pair, trusting
from helpers.raw import RawClient
from helpers.server import RunningServer, started_server

QUEUE_BYTES = 256 * 1024
# Above 8 KiB a transport of uvloop under picows' own `send` tears frames (docs/decisions/0001).
PAYLOAD = 12_000


@pytest.fixture(scope="module", params=["plain", "tls"])
def transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What makes a server speak it, and clients."""
    if request.param == "plain":
        return {}
    pair = make_pair(tmp_path_factory.mktemp("tls"), "server")
    return {"tls": trusting(pair.certificate), "ssl_cert": pair.certificate, "ssl_key": pair.key}


@pytest.fixture(scope="module")
def server(transport: dict[str, Any]) -> Iterator[RunningServer]:
    with started_server(
        workers=1, disable_rate_limiting=True, queue_bytes_max=QUEUE_BYTES, history_bytes=0, **transport
    ) as running:
        yield running


def member(server: RunningServer, room: str, receive_buffer: int | None = None) -> RawClient:
    client = RawClient(server.port, receive_buffer=receive_buffer, tls=server.tls)
    client.send({"type": "join_room", "room": room})
    client.expect("room_joined")
    return client


def text(n: int) -> str:
    return f"{n:08d}" * (PAYLOAD // 8)


def publish(client: RawClient, room: str, n: int) -> None:
    client.send({"type": "broadcast", "room": room, "message": text(n), "id": n})
    ack = client.expect("ack")
    assert ack["id"] == n


def test_every_byte_is_right_after_a_burst_that_the_socket_did_not_take(server: RunningServer) -> None:
    with member(server, "burst", receive_buffer=4096) as slow, member(server, "burst") as publisher:
        # More than the socket buffers take, less than the queue's bound on top of them.
        for n in range(40):
            publish(publisher, "burst", n)
        offsets = []
        for n in range(40):
            push = slow.expect("room_message")
            assert push["message"] == text(n)
            offsets.append(push["offset"])
        assert offsets == list(range(1, 41))


def test_who_does_not_read_is_closed_4008_and_the_others_miss_nothing(server: RunningServer) -> None:
    with (
        member(server, "flood", receive_buffer=4096) as slow,
        member(server, "flood") as healthy,
        member(server, "flood") as publisher,
    ):
        for n in range(600):
            publish(publisher, "flood", n)
            push = healthy.expect("room_message")
            assert (push["offset"], push["message"]) == (n + 1, text(n))
        # What was under way arrives whole, then the reason.
        offset = 0
        while True:
            opcode, payload = slow.frame()
            if opcode == 8:
                assert payload[:2] == (4008).to_bytes(2, "big")
                break
            offset += 1
        assert 0 < offset < 600


def test_a_reader_that_makes_no_progress_is_cut_off_by_age(transport: dict[str, Any]) -> None:
    with (
        started_server(
            workers=1, disable_rate_limiting=True, queue_bytes_max="64MiB", queue_age_max="1s", **transport
        ) as server,
        member(server, "age", receive_buffer=4096) as slow,
        member(server, "age") as publisher,
    ):
        # More than the kernel buffers for one socket, far below the bounds in bytes and messages.
        for n in range(700):
            publish(publisher, "age", n)
        # Nothing more is published, and it never reads: first the bound in age, then 5 s for the Close, then the end.
        ended = select.poll()
        ended.register(slow.socket, select.POLLHUP | select.POLLERR)
        assert ended.poll(15_000), "the server never gave up on a reader that made no progress"
        publisher.send({"type": "ping"})
        publisher.expect("pong")
