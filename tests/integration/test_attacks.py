"""Each named attack against a running worker, with an honest client beside it who notices nothing.

The attackers come from other loopback addresses and know the wire: raw sockets, bytes made beforehand. What each one
gets (close code, status, figure) is in docs/threat-model.md; what the bystander must not feel is in `Siege`.

The machine is the attackers' as well, and what they take of it nobody else has: caches, the host's attention. So a
second node, which is left alone, has a bystander too: what that one feels at the same time is told beside the verdict,
and is no part of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from helpers.bystander import Bystander, Span, bystander
from helpers.raw import RawClient, deflated
from helpers.server import SECRET, RunningServer, started_server, wait_until

pytestmark = pytest.mark.alone

QUIET_S = 2.0
ATTACK_S = 2.0
AFTERMATH_S = 0.3
# Quiet times and attacks in turn. One pair is enough for a verdict; for a figure, whose p99 is the median over all
# seconds of a kind, it takes eight or so.
ROUNDS = int(os.environ.get("ATTACKS", "1"))
MEMORY_GROWTH_MAX = 16 * 1024 * 1024
# Below this a round trip is as good as any: the largest message that a client may send takes a millisecond or two.
FLOOR_S = 0.003
# An attack is tried again, for longer, when the machine was busy with something else, and has to pass then.
TRIES = 3

MASK = b"\0\0\0\0"
ATTACKER = "127.0.0.66"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with a_node() as running:
        yield running


@pytest.fixture(scope="module")
def left_alone(server: RunningServer) -> Iterator[RunningServer]:
    with a_node() as running, behind(server, running):
        yield running


@contextlib.contextmanager
def a_node() -> Iterator[RunningServer]:
    """One worker; guests may come, and the bystander may talk more than most."""
    flags = {
        "message_rate_limit": 400,
        "message_rate_burst": 400,
        "message_rate_limit_per_ip": 1_000,
        # A siege that is laid again, for longer, meets the same server.
        "handshake_rate_burst": 200_000,
    }
    with started_server(workers=1, jwt_secret=SECRET, no_require_auth=True, **flags) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


@contextlib.contextmanager
def behind(*servers: RunningServer) -> Iterator[None]:
    """Attackers run behind these on the processor, as if on machines of their own (where the system allows it)."""
    if os.geteuid() != 0:
        yield
        return
    for server in servers:
        for pid, _ in server.descendants():
            os.setpriority(os.PRIO_PROCESS, pid, -10)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, 10)
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)


class Siege:
    """A quiet time, the attack, and the judgement: round trips, memory, and what the figures grew by."""

    def __init__(self, server: RunningServer, left_alone: RunningServer) -> None:
        self.server = server
        self.left_alone = left_alone

    def lay(self, attack: Callable[[], None]) -> None:
        for tried in range(1, TRIES + 1):
            with bystander(self.server) as watcher, bystander(self.left_alone) as elsewhere:
                verdict = self._once(attack, tried * ROUNDS, watcher, elsewhere)
            if not verdict:
                return
            assert tried < TRIES, verdict

    def _once(self, attack: Callable[[], None], rounds: int, watcher: Bystander, elsewhere: Bystander) -> str:
        quiet: list[Span] = []
        loud: list[Span] = []
        for _ in range(rounds):
            began = time.monotonic()
            self._wait(QUIET_S, "a quiet time to compare with")
            attacked = time.monotonic()
            attack()
            ended = time.monotonic()
            self._wait(AFTERMATH_S, "what is left of the attack has passed")
            quiet.append((began, attacked))
            loud.append((attacked, ended))
        report = watcher.finish()
        calm, stressed = report.p99(quiet), report.p99(loud)
        other = elsewhere.finish().p99(loud)
        before = report.memory_between(*quiet[0])
        after = report.memory_between(quiet[0][1], time.monotonic())
        print(
            f"\np99 {1000 * calm:.2f} ms, under attack {1000 * stressed:.2f} ms, elsewhere {1000 * other:.2f} ms; "
            f"memory {before[-1] / 2**20:.1f} MiB, at most {max(after) / 2**20:.1f}; {loud[-1][1] - loud[-1][0]:.1f} s"
        )
        if max(after) > before[-1] + MEMORY_GROWTH_MAX:
            return f"the worker grew from {before[-1]} to {max(after)} bytes"
        if stressed > max(2 * calm, FLOOR_S):
            return (
                f"the bystander's p99 went from {1000 * calm:.1f} to {1000 * stressed:.1f} ms, "
                f"beside a node that was left alone to {1000 * other:.1f} ms"
            )
        return ""

    def _wait(self, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > until, what)

    def grows(self, figure: str, by: int = 1) -> contextlib.AbstractContextManager[None]:
        return self._grows(figure, by)

    @contextlib.contextmanager
    def _grows(self, figure: str, by: int) -> Iterator[None]:
        before = self.server.figure(figure)
        yield
        wait_until(lambda: self.server.figure(figure) >= before + by, f"{figure} grows by {by}")


@pytest.fixture
def siege(server: RunningServer, left_alone: RunningServer) -> Siege:
    return Siege(server, left_alone)


def again_and_again(once: Callable[[], None], for_s: float = ATTACK_S) -> Callable[[], None]:
    def attack() -> None:
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            once()

    return attack


def write_all(client: RawClient, data: bytes) -> None:
    """As much as the server takes: it may have hung up on us."""
    with contextlib.suppress(ConnectionError):
        client.socket.sendall(data)


def attacker(server: RunningServer, **options: str) -> RawClient:
    client = RawClient(server.port, source=ATTACKER, **options)  # type: ignore[arg-type]
    assert client.response.startswith(b"HTTP/1.1 101 "), client.response
    client.expect("welcome")
    return client


def frame(payload: bytes, opcode: int = 1, fin: bool = True, rsv1: bool = False) -> bytes:
    head = bytes([fin << 7 | rsv1 << 6 | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack("!BH", 0x80 | 126, len(payload))
    else:
        head += struct.pack("!BQ", 0x80 | 127, len(payload))
    return head + MASK + payload


# -- frames ------------------------------------------------------------------------------------------------------------


def test_a_million_empty_fragments(server: RunningServer, siege: Siege) -> None:
    flood = frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * 1_000_000

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert client.close_code() == 1008

    with siege.grows("frame_rate_closed"):
        siege.lay(again_and_again(once))


def test_fragments_below_the_rate_without_an_end(server: RunningServer, siege: Siege) -> None:
    flood = frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * 1_100

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert client.close_code() == 1008

    with siege.grows("protocol_errors"):
        siege.lay(again_and_again(once))


def test_a_bomb_of_a_thousand_to_one(server: RunningServer, siege: Siege) -> None:
    payload = deflated(bytes(60 << 20))
    assert len(payload) < 64 * 1024
    bomb = frame(payload, rsv1=True)

    def once() -> None:
        with attacker(server, extensions="permessage-deflate") as client:
            write_all(client, bomb)
            codes.append(client.close_code())

    codes: list[int] = []
    siege.lay(again_and_again(once))
    # So many that the worker's own budget is used up in between: then they are not even begun.
    assert codes[0] == 1009
    assert set(codes) <= {1009, 1008}


def test_pings_of_peers_that_never_read(server: RunningServer, siege: Siege) -> None:
    flood = frame(b"x" * 125, opcode=9) * 10_000

    def attack() -> None:
        with contextlib.ExitStack() as stack:
            until = time.monotonic() + ATTACK_S
            while time.monotonic() < until:
                peers = [stack.enter_context(attacker(server)) for _ in range(10)]
                for peer in peers:
                    write_all(peer, flood)
                for peer in peers:
                    assert peer.close_code() == 1008

    with siege.grows("ping_rate_closed", 10):
        siege.lay(attack)


def test_a_flood_of_small_frames(server: RunningServer, siege: Siege) -> None:
    flood = frame(b"{}") * 100_000

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert client.close_code() == 1008

    with siege.grows("frame_rate_closed"):
        siege.lay(again_and_again(once))


def test_a_second_of_commands_in_one_write(server: RunningServer, siege: Siege) -> None:
    """As many frames as the rate lets through at once, most of them refused one by one."""
    flood = b"".join(frame(b'{"type":"room_info","room":"r","id":%d}' % n) for n in range(950))

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert {client.message()["id"] for _ in range(950)} == set(range(950))

    with siege.grows("reads_cut"), siege.grows("rate_limited"):
        siege.lay(again_and_again(once))


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_keys(server: RunningServer, siege: Siege) -> None:
    keys = b",".join(b'"k%d":0' % n for n in range(100_000))
    flood = frame(b'{"type":"ping",%b}' % keys)

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert client.close_code() == 1009

    siege.lay(again_and_again(once))


def test_as_many_keys_as_a_frame_has_room_for(server: RunningServer, siege: Siege) -> None:
    keys = b",".join(b'"%04x":0' % n for n in range(6_500))
    # Ten are faults enough; who has used up the rate of its address meanwhile is closed for its bytes.
    flood = frame(b'{"type":"ping",%b}' % keys) * 300

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert client.close_code() == 1008

    with siege.grows("items_refused"):
        siege.lay(again_and_again(once))


def test_as_many_keys_as_a_message_may_have_as_fast_as_they_go(server: RunningServer, siege: Siege) -> None:
    keys = b",".join(b'"%04x":0' % n for n in range(4_090))
    message = frame(b'{"type":"ping",%b}' % keys)
    flood = message * 1_000

    def once() -> None:
        with attacker(server) as client:
            write_all(client, flood)
            assert client.close_code() == 1008

    with siege.grows("byte_rate_closed"):
        siege.lay(again_and_again(once))


def test_tokens_of_a_megabyte_and_of_all_that_fits(server: RunningServer, siege: Siege) -> None:
    huge = frame(b'{"type":"auth","token":"%b"}' % (b"A" * (1 << 20)))
    large = frame(b'{"type":"auth","token":"%b.%b.%b"}' % (b"A" * 20_000, b"B" * 20_000, b"C" * 20_000))
    head = "Authorization: Bearer " + "A" * (1 << 20) + "\r\n"

    def once() -> None:
        with attacker(server) as client:
            write_all(client, huge)
            assert client.close_code() == 1009
        with attacker(server) as client:
            write_all(client, large * 6)
            # Five are refused, and that is the end; after a hundred from this address not even that is said.
            answers = [client.frame() for _ in range(6)]
            refused = [payload for opcode, payload in answers if opcode == 1]
            assert all(b"auth_failed" in payload or b"rate_limited" in payload for payload in refused), answers
            held_back = any(b"rate_limited" in payload for payload in refused)
            assert held_back or answers[-1][1].startswith(b"\x11\x94"), answers  # 4500
        with socket.socket() as raw:
            raw.bind((ATTACKER, 0))
            raw.connect(("127.0.0.1", server.port))
            with contextlib.suppress(ConnectionError):
                raw.sendall(b"GET /ws HTTP/1.1\r\nHost: test\r\n" + head.encode())
            with contextlib.suppress(ConnectionError):
                assert raw.recv(64).startswith(b"HTTP/1.1 431 ")

    with siege.grows("auth_failed", 5), siege.grows("refused_token_rate"):
        siege.lay(again_and_again(once))


# -- handshakes --------------------------------------------------------------------------------------------------------


def test_ten_thousand_dripping_handshakes(server: RunningServer, siege: Siege) -> None:
    """Half of them from one address, the others from 250; honest clients come all the while, and all get in."""

    def attack() -> None:
        with contextlib.ExitStack() as stack:
            sockets = []
            for n in range(10_000):
                drip = stack.enter_context(socket.socket())
                drip.setblocking(False)
                drip.bind(("127.0.0.66" if n % 2 else f"127.0.1.{n // 2 % 250 + 1}", 0))
                drip.connect_ex(("127.0.0.1", server.port))
                sockets.append(drip)
                if n % 100 == 99:
                    _wait_for_connection(drip)
                    _drip(sockets)
                    with RawClient(server.port, source="127.0.0.2") as honest:
                        assert honest.response.startswith(b"HTTP/1.1 101 ")
            assert server.figure("half_open") <= 2_000

    with siege.grows("refused_half_open", 4_000):
        siege.lay(attack)


def _wait_for_connection(last: socket.socket) -> None:
    """So that the listener's queue never overflows: the kernel would have us try again after a second."""
    poll = select.poll()
    poll.register(last, select.POLLOUT)
    poll.poll(1_000)


def _drip(sockets: list[socket.socket]) -> None:
    """A byte of its request on each of the youngest thousand; the others are slower."""
    request, n = b"GET /ws HTTP/1.1\r\n", len(sockets)
    for i in range(max(0, n - 1_000), n):
        with contextlib.suppress(OSError):
            sockets[i].send(request[(n - i - 1) // 100 :][:1])


def test_handshakes_with_garbage_for_a_token(server: RunningServer, siege: Siege) -> None:
    numbers = itertools.count()

    def attack() -> None:
        until = time.monotonic() + ATTACK_S
        seen = []
        while time.monotonic() < until or len(seen) < 300:
            with RawClient(server.port, source="127.0.0.67", headers=_garbage(next(numbers))) as client:
                seen.append(client.response[9:12])
        assert seen.count(b"429") >= 150
        assert set(seen) <= {b"401", b"429"}

    with siege.grows("refused_token_rate", 100):
        siege.lay(attack)
    # Who comes from there with a token that is known to be good is let in.
    known = f"Authorization: Bearer {server.token('bystander')}\r\n"
    with RawClient(server.port, headers=known) as first, RawClient(server.port, source="127.0.0.67", headers=known):
        assert first.expect("welcome")["authenticated"]


def _garbage(n: int) -> str:
    return f"Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.{n:043d}\r\n"


def test_connections_that_are_reset_as_soon_as_they_are_made(server: RunningServer, siege: Siege) -> None:
    """Some before their request, some in the middle of it, some with the answer unread."""
    request = (
        b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    numbers = itertools.count()

    def once() -> None:
        with socket.socket() as churn:
            churn.bind(("127.0.0.68", 0))
            churn.connect(("127.0.0.1", server.port))
            churn.sendall(request[: next(numbers) % 3 * 80])
            churn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with siege.grows("connections_opened", 100):
        siege.lay(again_and_again(once))
    wait_until(lambda: server.figure("connections_current") == 0, "no connection is left")
    wait_until(lambda: server.figure("half_open") == 0, "no handshake is left")
