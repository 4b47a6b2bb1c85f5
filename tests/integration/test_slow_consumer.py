"""`slow_consumer`: what a room does with a member that does not read fast enough, and that nobody else notices."""

from __future__ import annotations

import select
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.raw import RawClient
from helpers.server import SECRET, RunningServer, started_server

from tuskws_fast.protocol import codec

QUEUE_BYTES = 256 * 1024
PAYLOAD = 12_000
# More than the kernel buffers of one connection and the queue take.
FLOOD = 600
# What clients of a server, by its process id, ask for.
EXTENSIONS: dict[int, str] = {}


@pytest.fixture(scope="module", params=["plain", "dedicated"])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    compression = {"enable_compression": "dedicated"} if request.param == "dedicated" else {}
    with started_server(
        workers=2,
        disable_rate_limiting=True,
        queue_bytes_max=QUEUE_BYTES,
        history_bytes=0,
        jwt_secret=SECRET,
        **compression,
    ) as running:
        if compression:
            EXTENSIONS[running.pid] = "permessage-deflate"
        yield running


class Inflating(RawClient):
    """Keeps the server's compression context: a message left out of the middle of it would be noticed."""

    context: Any = None

    def message(self) -> Any:
        opcode, payload = self.frame()
        assert opcode == 1, f"a text frame was due, opcode {opcode} came: {payload!r}"
        if self.rsv1:
            self.context = self.context or zlib.decompressobj(-15)
            payload = self.context.decompress(payload + b"\x00\x00\xff\xff")
        return codec.decode(payload)


def signed_in(server: RunningServer, receive_buffer: int | None = None, **claims: Any) -> RawClient:
    client = Inflating(server.port, receive_buffer=receive_buffer, extensions=EXTENSIONS.get(server.pid))
    client.expect("welcome")
    client.send({"type": "auth", "token": server.token("user", **claims)})
    client.expect("auth_success")
    return client


def room_of(server: RunningServer, policy: str) -> str:
    with signed_in(server, roles=["admin"]) as boss:
        room = f"{policy}-{id(boss)}"
        boss.send({"type": "create_room", "room": room, "settings": {"slow_consumer": policy}, "id": 1})
        assert boss.expect("room_created")["settings"]["slow_consumer"] == policy
    return room


def member(server: RunningServer, room: str, receive_buffer: int | None = None) -> RawClient:
    client = signed_in(server, receive_buffer)
    client.send({"type": "join_room", "room": room})
    client.expect("room_joined")
    return client


def text(n: int) -> str:
    return f"{n:08d}" * (PAYLOAD // 8)


def flood(publisher: RawClient, healthy: RawClient, room: str, first: int, count: int) -> None:
    """Publish so many; one who reads gets each of them, at once and whole."""
    for n in range(first, first + count):
        publisher.send({"type": "broadcast", "room": room, "message": text(n), "id": n})
        while publisher.expect("ack")["id"] != n:
            pass
        push = healthy.expect("room_message")
        assert (push["offset"], push["message"]) == (n, text(n))


def until(client: RawClient, offset: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The offsets of the messages and gaps up to the message `offset`, each checked to follow the one before."""
    offsets: list[int] = []
    gaps: list[tuple[int, int]] = []
    at = 0
    while at < offset:
        message = client.message()
        if message["type"] == "gap":
            assert message["from"] == at + 1
            at = message["to"]
            gaps.append((message["from"], message["to"]))
        elif message["type"] == "room_message":
            assert message["offset"] == at + 1, "a hole that nobody was told of"
            assert message["message"] == text(message["offset"])
            at = message["offset"]
            offsets.append(at)
    return offsets, gaps


@pytest.mark.parametrize("policy", ["drop", "conflate"])
def test_slow_member_stays_and_is_told_of_what_it_missed(server: RunningServer, policy: str) -> None:
    room = room_of(server, policy)
    with member(server, room, 4096) as slow, member(server, room) as healthy, member(server, room) as publisher:
        flood(publisher, healthy, room, 1, FLOOD)
        # What it reads now makes room, and what is published meanwhile comes behind the gap.
        publisher.send({"type": "ping"})
        offsets, gaps = [], []
        while not gaps:
            message = slow.message()
            if message["type"] == "gap":
                gaps.append((message["from"], message["to"]))
            elif message["type"] == "room_message":
                offsets.append(message["offset"])
        assert offsets == list(range(1, len(offsets) + 1))
        newest = FLOOD if policy == "drop" else FLOOD - 1
        assert gaps == [(len(offsets) + 1, newest)]
        flood(publisher, healthy, room, FLOOD + 1, 3)
        follows = [slow.expect("room_message")["offset"] for _ in range(3 if policy == "drop" else 4)]
        assert follows == list(range(newest + 1, FLOOD + 4))
        # And a second time.
        flood(publisher, healthy, room, FLOOD + 4, FLOOD)
        offsets = []
        while (message := slow.message())["type"] != "gap":
            offsets.append(message["offset"])
        assert offsets[0] == FLOOD + 4
        assert message["from"] == offsets[-1] + 1


def test_policy_can_change_while_the_room_is_used(server: RunningServer) -> None:
    room = room_of(server, "drop")
    with member(server, room, 4096) as slow, member(server, room) as healthy, member(server, room) as publisher:
        flood(publisher, healthy, room, 1, FLOOD)
        with signed_in(server, roles=["admin"]) as boss:
            boss.send({"type": "update_room", "room": room, "settings": {"slow_consumer": "disconnect"}, "id": 1})
            boss.expect("room_updated")
        # From now on it counts: but what is told of the past comes first.
        flood(publisher, healthy, room, FLOOD + 1, 3)
        offsets, gaps = until(slow, FLOOD + 3)
        assert offsets[-3:] == [FLOOD + 1, FLOOD + 2, FLOOD + 3]
        assert [to for _, to in gaps] == [FLOOD]


def test_who_stops_reading_for_too_long_stays_as_long_as_nothing_else_waits() -> None:
    with started_server(
        workers=1,
        disable_rate_limiting=True,
        queue_bytes_max="64MiB",
        queue_age_max="1s",
        jwt_secret=SECRET,
        history_bytes=0,
    ) as server:
        room = room_of(server, "drop")
        with member(server, room, 4096) as slow, member(server, room) as healthy, member(server, room) as publisher:
            flood(publisher, healthy, room, 1, 2 * FLOOD)
            ended = select.poll()
            ended.register(slow.socket, select.POLLHUP | select.POLLERR)
            assert not ended.poll(3_000), "it was closed for what may be left out"
            assert server.figure("left_out") > 0
            assert server.figure("too_slow_closed") == 0
            # A reply may not be left out. It waits for a reader that has made no progress for too long.
            slow.send({"type": "ping"})
            assert ended.poll(15_000), "the server never gave up on a reader that made no progress"
