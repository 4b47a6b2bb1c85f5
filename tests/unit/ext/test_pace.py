"""Frames, bytes and pings a second of one connection: what passes, what closes, and which pong answers many pings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from helpers.edge import ECHO, EchoAll, Edge, Line, Pair
from helpers.rfc6455 import BINARY, CLOSE, CONTINUATION, PING, PONG, client_frame, server_frames
from tuskws_fast_ext.pace import Pace

MASK = b"\x01\x02\x03\x04"
POLICY = (1008).to_bytes(2, "big")

Open = Callable[..., tuple[Edge, Line]]


@pytest.fixture
def opened() -> Iterator[Open]:
    """`opened(pace)`: an echo behind these limits."""
    pair = Pair()
    edges: list[Edge] = []

    def make(pace: Pace, slow: bool = False) -> tuple[Edge, Line]:
        edge = Edge(lambda address: EchoAll(), 70_000, pace=pace)
        edges.append(edge)
        edge.__enter__()
        return edge, edge.connect(pair, slow, head=ECHO)

    yield make
    for edge in edges:
        edge.__exit__(None, None, None)
    pair.close()


def frame(payload: bytes = b"", opcode: int = BINARY, fin: bool = True) -> bytes:
    return client_frame(opcode, payload, fin=fin, mask=MASK)


def test_a_seconds_worth_of_frames_passes_and_one_more_closes(opened: Open) -> None:
    pace = Pace(frames=50)
    _, line = opened(pace)
    line.receive(frame(b"x") * 50)
    assert server_frames(line.wire) == [(BINARY, b"x")] * 50
    line.receive(frame(b"y") * 3)
    assert server_frames(line.wire)[50:] == [(CLOSE, POLICY + b"too many frames")]
    assert line.is_half_closed
    assert pace.frames_closed == 1


def test_frames_of_one_read_are_counted_before_the_first_is_looked_at(opened: Open) -> None:
    _, line = opened(Pace(frames=50))
    line.receive(frame(b"x") * 51)
    assert server_frames(line.wire) == [(CLOSE, POLICY + b"too many frames")]


@pytest.mark.parametrize("kind", ["empty fragments", "large", "pings"])
def test_every_kind_of_frame_counts(opened: Open, kind: str) -> None:
    pace = Pace(frames=20)
    _, line = opened(pace)
    line.receive(frame(b"start", fin=False))
    one = {"empty fragments": frame(b"", CONTINUATION, False), "large": frame(bytes(2_000), CONTINUATION, False)}
    for _ in range(20):
        line.receive(one.get(kind, frame(b"", PING)))
    assert server_frames(line.wire)[-1] == (CLOSE, POLICY + b"too many frames")


def test_frames_that_are_cut_anywhere_count_once(opened: Open) -> None:
    _, line = opened(Pace(frames=30))
    for _ in range(30):
        for byte in frame(b"ab"):
            line.receive(bytes([byte]))
    assert len(server_frames(line.wire)) == 30


def test_what_is_earned_with_time_may_be_used_again(opened: Open) -> None:
    _, line = opened(Pace(frames=200))
    line.receive(frame() * 200)
    earned = time.monotonic() + 0.1
    while time.monotonic() < earned:
        pass
    line.receive(frame() * 15)
    assert len(server_frames(line.wire)) == 215


def test_bytes_of_unfinished_frames_count_too(opened: Open) -> None:
    pace = Pace(size=40_000)
    _, line = opened(pace)
    line.receive(frame(bytes(60_000))[:39_000])
    assert not line.wire
    line.receive(bytes(2_000))
    assert server_frames(line.wire) == [(CLOSE, POLICY + b"too many bytes")]
    assert pace.bytes_closed == 1


def test_pings_are_answered_one_by_one_then_the_newest_then_not_at_all(opened: Open) -> None:
    pace = Pace(pings=10)
    edge, line = opened(pace)
    line.receive(b"".join(frame(b"%d" % n, PING) for n in range(70)))
    assert server_frames(line.wire) == [(PONG, b"%d" % n) for n in range(10)]
    edge.point.expire(time.monotonic(), 10.0)
    line.read_on()
    assert server_frames(line.wire)[10:] == [(PONG, b"69")]
    assert pace.pongs_spared == 59
    line.receive(frame(b"!", PING) * 11)
    assert server_frames(line.wire)[11:] == [(CLOSE, POLICY + b"too many pings")]
    assert pace.pings_closed == 1


def test_of_pings_that_a_peer_sends_without_reading_the_newest_is_answered(opened: Open) -> None:
    edge, line = opened(Pace(pings=1_000), slow=True)
    line.receive(frame(bytes(60_000)))
    assert edge.point.blocked
    line.receive(b"".join(frame(b"%d" % n, PING) for n in range(100)))
    edge.point.expire(time.monotonic(), 10.0)
    line.read_on()
    assert server_frames(line.wire) == [(BINARY, bytes(60_000)), (PONG, b"99")]


def test_without_limits_nothing_is_counted(opened: Open) -> None:
    _, line = opened(Pace())
    line.receive(frame(b"x") * 5_000)
    for _ in range(500):
        line.receive(frame(b"y", PING))
    assert len(server_frames(line.wire)) == 5_500
