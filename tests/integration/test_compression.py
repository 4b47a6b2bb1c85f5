"""permessage-deflate on real sockets: what is agreed, what comes out right, and what a compressed attack costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.clients import SpeakingClient, on_loop, people
from helpers.raw import RawClient, deflated, inflated, masked
from helpers.server import SECRET, RunningServer, running_server, started_server, wait_until
from helpers.sockets import Browser

OFFER = "permessage-deflate; client_max_window_bits"
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
FRAME_MAX = 64 * 1024
MIB = 1024**2
PING = b'{"type":"ping"}'


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One worker, no tokens; the budgets are tripped in tests with servers of their own."""
    with started_server(
        workers=1,
        disable_rate_limiting=True,
        history_size=0,
        inflate_rate_limit="64MiB",
        inflate_rate_limit_worker="1GiB",
    ) as running:
        yield running
        assert "Traceback" not in running.log_text()


def ping_of(size: int) -> bytes:
    """A command of exactly so many bytes."""
    head, tail = b'{"type":"ping","id":"here","x":"', b'"}'
    return head + b"a" * (size - len(head) - len(tail)) + tail


def memory(pid: int) -> int:
    """Bytes that are this process's own."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Private_Dirty in smaps_rollup")


def extensions_of(client: RawClient) -> str | None:
    for line in client.response.decode().split("\r\n"):
        name, _, value = line.partition(": ")
        if name.lower() == "sec-websocket-extensions":
            return value
    return None


# -- the handshake -------------------------------------------------------------------------------------------------

OFFERS = {
    OFFER: ANSWER,
    "permessage-deflate": ANSWER,
    "permessage-deflate; server_max_window_bits=15": f"{ANSWER}; server_max_window_bits=15",
    "permessage-deflate; server_max_window_bits=10": None,
    "permessage-deflate; server_max_window_bits=10, permessage-deflate": ANSWER,
    "permessage-deflate; nonsense": None,
    "permessage-deflate; client_max_window_bits=16": None,
    "permessage-bzip2": None,
    ", ".join(["permessage-deflate"] * 5): None,
    "permessage-deflate; x=" + "y" * 2000: None,
}


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer[:60])
def test_an_offer_is_answered_as_agreed_or_not_at_all(server: RunningServer, offer: str) -> None:
    with RawClient(server.port, extensions=offer) as client:
        assert extensions_of(client) == OFFERS[offer]
        client.expect("welcome")
        assert client.frame_size > 200


@pytest.mark.parametrize("offer", ["permessage-deflate; =", 'permessage-deflate; x="', ";"])
def test_a_malformed_header_ends_the_handshake(server: RunningServer, offer: str) -> None:
    refused = RawClient(server.port, extensions=offer)
    with refused:
        assert refused.response.startswith(b"HTTP/1.1 400 ")


def test_turned_off_the_header_is_as_good_as_absent() -> None:
    with started_server(workers=1, enable_compression="off") as plain:
        for offer in (OFFER, "permessage-deflate; ="):
            with RawClient(plain.port, extensions=offer) as client:
                assert extensions_of(client) is None
                client.expect("welcome")
                client.send_frame(PING, rsv=4)
                assert client.close_code() == 1002


# -- real clients ----------------------------------------------------------------------------------------------------


async def talk(member: SpeakingClient, publisher: SpeakingClient, room: str) -> None:
    for client in (member, publisher):
        assert (await client.request("join_room", room=room))["type"] == "room_joined"
    for n, size in enumerate((1, 200, 255, 256, 257, 1000, 5000, 12_000)):
        text = (f"{n}: häßlich, schön 🦈 " * size)[:size]
        reply = await publisher.request("broadcast", room=room, message=text)
        assert reply["type"] == "ack"
        await member.expect("room_message", room=room, message=text)


@pytest.mark.parametrize("kind", ["websockets", "aiohttp", "node", "chromium"])
@pytest.mark.parametrize("mode", ["shared", "dedicated"])
@on_loop
async def test_real_clients_talk_compressed(kind: str, mode: str, browser: Browser, name: Callable[[str], str]) -> None:
    async with running_server(workers=1, enable_compression=mode) as running:
        async with people(running, kind, browser) as crowd:
            member, publisher = await crowd.connect(), await crowd.connect()
            await talk(member, publisher, name("room"))
        # Both directions; aiohttp and ws leave short messages alone, as we do.
        wait_until(lambda: running.figure("deflated_messages") >= 6, "the server has compressed")
        wait_until(lambda: running.figure("inflated_messages") >= 3, "the clients have compressed")
        assert running.figure("protocol_errors") == 0
        assert "Traceback" not in running.log_text()


@on_loop
async def test_with_and_without_compression_everybody_reads_the_same(
    server: RunningServer, browser: Browser, name: Callable[[str], str]
) -> None:
    room = name("mixed")
    async with people(server, "websockets") as some, people(server, "node") as others:
        compressed, publisher = await some.connect(), await others.connect()
        with RawClient(server.port) as plain, RawClient(server.port, extensions=OFFER) as raw:
            for client in (plain, raw):
                client.send({"type": "join_room", "room": room})
                client.expect("room_joined")
            await talk(compressed, publisher, room)
            for client in (plain, raw):
                for size in (1, 200, 255, 256, 257, 1000, 5000, 12_000):
                    assert len(client.expect("room_message")["message"]) == size
                    assert client.rsv1 == (client is raw and size >= 200)
            assert raw.frame_size < 1000 < plain.frame_size


def test_one_compression_serves_every_member_of_a_room(server: RunningServer, name: Callable[[str], str]) -> None:
    """The work for a message does not grow with the members: 10 messages of 1 KB, first for 2 members, then for 200."""
    room = name("many")
    message = json.dumps({f"key{n}": n * 7919 for n in range(70)})
    assert 1000 < len(message) < 1200

    with ExitStack() as stack:

        def member() -> RawClient:
            client = stack.enter_context(RawClient(server.port, extensions=OFFER))
            client.send({"type": "hello", "presence": "none"})
            client.send({"type": "join_room", "room": room, "history": 0})
            client.expect("room_joined")
            return client

        def compressions(members: list[RawClient]) -> int:
            publisher = members[0]
            publisher.send({"type": "ping", "id": "before"})
            publisher.expect("pong")
            before = settled_figure(server, "deflated_messages")
            for n in range(10):
                publisher.send({"type": "broadcast", "room": room, "message": message, "id": n})
                assert publisher.expect("ack")["id"] == n
            for client in members[1:]:
                for _ in range(10):
                    assert client.expect("room_message")["message"] == message
                    assert client.rsv1
            return settled_figure(server, "deflated_messages") - before

        members = [member(), member()]
        assert compressions(members) == 10
        members += [member() for _ in range(198)]
        assert compressions(members) == 10


def settled_figure(server: RunningServer, figure: str) -> int:
    """Its value once the worker has published its figures again (it does so with every beat)."""
    beat = server.figure("bytes_in")
    with RawClient(server.port) as client:
        client.send({"type": "ping", "x": "something to count"})
        client.expect("pong")
        wait_until(lambda: server.figure("bytes_in") > beat, "the worker's figures are new")
    return server.figure(figure)


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "passes"), [(FRAME_MAX - 1, True), (FRAME_MAX, True), (FRAME_MAX + 1, False)])
@pytest.mark.parametrize("fragments", [1, 7])
def test_the_limit_of_a_message_holds_for_what_it_is_inflated_to(
    server: RunningServer, size: int, passes: bool, fragments: int
) -> None:
    payload = deflated(ping_of(size))
    assert len(payload) < 200
    with RawClient(server.port, extensions=OFFER) as client:
        client.expect("welcome")
        step = -(-len(payload) // fragments)
        for n in range(fragments):
            piece = payload[n * step : (n + 1) * step]
            client.send_frame(piece, 1 if n == 0 else 0, n == fragments - 1, 4 if n == 0 else 0)
        if passes:
            assert client.expect("pong")["id"] == "here"
        else:
            assert client.close_code() == 1009


def test_a_bomb_costs_its_sender_the_connection_and_the_worker_no_memory(server: RunningServer) -> None:
    bomb = deflated(b"\0" * (60 * MIB))
    assert len(bomb) < FRAME_MAX
    [worker] = server.worker_pids()
    with RawClient(server.port) as bystander:
        bystander.expect("welcome")
        before = memory(worker)
        for _ in range(50):
            with RawClient(server.port, extensions=OFFER) as client:
                client.expect("welcome")
                client.send_frame(bomb, opcode=2, rsv=4)
                assert client.close_code() == 1009
            bystander.send({"type": "ping"})
            bystander.expect("pong")
        assert memory(worker) - before < 16 * MIB


MISUSES = {
    "rsv1 on a ping": (masked(b"", opcode=9, rsv=4), 1002),
    "rsv1 on a pong": (masked(b"", opcode=10, rsv=4), 1002),
    "rsv1 on a continuation": (masked(b"{", fin=False) + masked(b"}", opcode=0, rsv=4), 1002),
    "rsv1 on every fragment": (
        masked(deflated(PING)[:4], fin=False, rsv=4) + masked(deflated(PING)[4:], opcode=0, rsv=4),
        1002,
    ),
    "rsv1 and rsv2": (masked(deflated(PING), rsv=6), 1002),
    "rsv1 and rsv3": (masked(deflated(PING), rsv=5), 1002),
    "rsv1 on what is not compressed": (masked(PING, rsv=4), 1007),
    "a compressed message cut short": (masked(deflated(ping_of(300))[:-2], rsv=4), 1007),
    "bad utf-8, compressed": (masked(deflated(b'{"type":"\xff"}'), rsv=4), 1007),
    "a context that was not kept": (masked(deflated(PING), rsv=4) + masked(b"\xaa\x46\x12\x00", rsv=4), 1007),
}


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_is_closed_with_its_code(server: RunningServer, name: str) -> None:
    wire, code = MISUSES[name]
    with RawClient(server.port, extensions=OFFER) as client:
        client.expect("welcome")
        client.socket.sendall(wire)
        assert client.close_code() == code


def test_plain_and_compressed_messages_and_control_frames_may_follow_each_other(server: RunningServer) -> None:
    with RawClient(server.port, extensions=OFFER) as client:
        client.expect("welcome")
        payload = deflated(PING)
        client.socket.sendall(
            masked(PING)
            + masked(payload, rsv=4)
            + masked(payload[:3], fin=False, rsv=4)
            + masked(b"still there?", opcode=9)
            + masked(payload[3:], opcode=0)
            + masked(payload, opcode=2, rsv=4)
        )
        opcodes = [client.frame()[0] for _ in range(5)]
        assert sorted(opcodes) == [1, 1, 1, 1, 10]


# -- budgets ---------------------------------------------------------------------------------------------------------


def send_until_closed(client: RawClient, payload: bytes, at_most: int) -> int:
    """Messages that were answered before the connection was closed; its code must be 1008."""
    for n in range(at_most):
        client.send_frame(payload, rsv=4)
        opcode, answer = client.frame()
        if opcode == 8:
            assert int.from_bytes(answer[:2], "big") == 1008
            return n
    raise AssertionError(f"{at_most} messages did not trip the limit")


def test_a_connection_is_closed_at_its_budget_and_no_other() -> None:
    flags = {"disable_rate_limiting": True, "inflate_rate_limit": "256KiB", "inflate_rate_limit_worker": "64MiB"}
    with started_server(workers=1, **flags) as running:
        payload = deflated(ping_of(60_000))
        with RawClient(running.port, extensions=OFFER) as other, RawClient(running.port, extensions=OFFER) as client:
            other.expect("welcome")
            client.expect("welcome")
            # Four at once, and what the refill of a slow test machine adds.
            assert 3 <= send_until_closed(client, payload, 60) < 60
            other.send_frame(payload, rsv=4)
            assert other.expect("pong")["id"] == "here"
        wait_until(lambda: running.figure("inflate_budget_closed") == 1, "the close is counted")


def test_the_worker_is_bounded_whatever_the_number_of_connections() -> None:
    flags = {"disable_rate_limiting": True, "inflate_rate_limit": "512KiB", "inflate_rate_limit_worker": "1MiB"}
    with started_server(workers=1, **flags) as running, ExitStack() as stack:
        payload = deflated(ping_of(60_000))
        clients = [stack.enter_context(RawClient(running.port, extensions=OFFER)) for _ in range(50)]
        for client in clients:
            client.expect("welcome")
        # One message each is far below what a connection may send, and all together are three times the worker's.
        for client in clients:
            client.send_frame(payload, rsv=4)
        closed = 0
        for client in clients:
            opcode, answer = client.frame()
            if opcode == 8:
                assert int.from_bytes(answer[:2], "big") == 1008
                closed += 1
        assert 20 <= closed <= 45
        wait_until(lambda: running.figure("inflate_budget_closed") == closed, "the closes are counted")


def test_before_authentication_a_compressed_message_is_small_and_few() -> None:
    with started_server(workers=1, jwt_secret=SECRET) as running:

        def stranger() -> RawClient:
            client = RawClient(running.port, extensions=OFFER)
            client.expect("welcome")
            return client

        with stranger() as client:
            client.send_frame(deflated(ping_of(8192)), rsv=4)
            assert client.expect("pong")["id"] == "here"
            client.send_frame(deflated(ping_of(8193)), rsv=4)
            assert client.close_code() == 1009
        with stranger() as client:
            assert send_until_closed(client, deflated(ping_of(8000)), 20) == 8
        with stranger() as client:
            client.send_frame(deflated(json.dumps({"type": "auth", "token": running.token("ann")}).encode()), rsv=4)
            client.expect("auth_success")
            for _ in range(5):
                client.send_frame(deflated(ping_of(60_000)), rsv=4)
                assert client.expect("pong")["id"] == "here"


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_shared_connection_grows_by_less_than_a_kibibyte(name: Callable[[str], str]) -> None:
    """Against plain connections of a worker as young as this one; each has said and heard something."""
    text = "something to compress " * 20

    def open_one(stack: ExitStack, port: int, offer: str | None) -> RawClient:
        client = stack.enter_context(RawClient(port, extensions=offer))
        client.send_frame(deflated(PING) if offer else PING, rsv=4 if offer else 0)
        client.expect("pong")
        return client

    def bytes_each(offer: str | None) -> float:
        count = 600
        with started_server(workers=1, disable_rate_limiting=True) as running, ExitStack() as stack:
            [worker] = running.worker_pids()
            first = open_one(stack, running.port, offer)
            first.send({"type": "join_room", "room": name("room")})
            first.send({"type": "broadcast", "room": name("room"), "message": text})
            assert first.expect("room_message")["message"] == text
            before = memory(worker)
            for _ in range(count):
                open_one(stack, running.port, offer)
            return (memory(worker) - before) / count

    plain, compressed = bytes_each(None), bytes_each(OFFER)
    assert compressed - plain <= 1024, f"{plain:.0f} and {compressed:.0f} bytes a connection"


def test_what_a_member_gets_inflates_with_nothing_before_it(server: RunningServer, name: Callable[[str], str]) -> None:
    """The bytes on the wire, not only what a lenient client makes of them."""
    with RawClient(server.port, extensions=OFFER) as client:
        client.expect("welcome")
        client.send({"type": "join_room", "room": name("bytes")})
        client.expect("room_joined")
        for n in range(3):
            client.send({"type": "broadcast", "room": name("bytes"), "message": "z" * 1000, "id": n})
            frames = [(*client.frame(), client.rsv1) for _ in range(2)]
            [payload] = [payload for _, payload, rsv1 in frames if rsv1]
            assert b"z" * 1000 in inflated(payload)
            assert not payload.endswith(b"\0\0\xff\xff")
