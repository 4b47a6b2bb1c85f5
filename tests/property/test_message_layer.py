"""The inbound path against its slow twin: random frames, legal and broken, cut anywhere, mean the same to both.

`MessageReader` is compared with the twin's rules of fragmentation by itself; then everything behind the handshake
(gate, picows, reader, connection) by what it puts on the wire, read by read: an echo for each message, a pong for each
ping, the right Close as soon as its reason is there, then nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.edge import ECHO, HEAD, EchoAll, Edge, Line, Pair
from helpers.rfc6455 import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Assembly,
    Bounds,
    Close,
    Event,
    Frame,
    Message,
    Ping,
    Reading,
    client_frame,
    is_close,
    server_frames,
)
from hypothesis import given
from hypothesis import strategies as st
from tuskws_fast_ext.message import MessageReader, Verdict

# The gate hands frames of up to 1,408 bytes to picows and keeps longer ones: sizes on both sides of that.
BOUNDS = (Bounds(125, 125, 3), Bounds(2_000, 2_000, 8), Bounds(70_000, 70_000))
SIZES = st.sampled_from([0, 1, 125, 126, 1_393, 1_394, 1_400, 1_401, 2_000, 2_001, 65_535, 65_536, 70_000, 70_001])

text = st.text(st.sampled_from("aß€😀"), max_size=40).map(str.encode)
bytes_of_text = text | st.sampled_from(
    [b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\x98\x80", b"\xc3", b"\xa4", b"\xc0"]
)
payloads = bytes_of_text | st.binary(max_size=40) | SIZES.map(lambda n: b"x" * n)
masks = st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04"])
codes = st.sampled_from([0, 999, 1000, 1003, 1004, 1005, 1006, 1007, 1014, 1015, 2999, 3000, 4999, 5000, 65_535])


@st.composite
def controls(draw: st.DrawFn) -> bytes:
    return client_frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), mask=draw(masks))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One message in fragments that cut it anywhere, with control frames between them."""
    opcode, payload = draw(st.tuples(st.just(TEXT), text) | st.tuples(st.sampled_from([TEXT, BINARY]), payloads))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    wire = b""
    for i, part in enumerate(parts):
        wire += draw(st.just(b"") | controls()) if i else b""
        wire += client_frame(CONTINUATION if i else opcode, part, fin=i == len(parts) - 1, mask=draw(masks))
    return wire


@st.composite
def closes(draw: st.DrawFn) -> bytes:
    reason = draw(st.just(b"") | bytes_of_text.map(lambda data: data[:123]))
    payload = draw(st.just(b"") | st.just(b"x") | codes.map(lambda code: code.to_bytes(2, "big") + reason))
    return client_frame(CLOSE, payload, mask=draw(masks))


@st.composite
def any_frames(draw: st.DrawFn) -> bytes:
    return client_frame(
        draw(st.integers(0, 15)),
        draw(payloads),
        fin=draw(st.booleans()),
        rsv=draw(st.just(0) | st.integers(0, 7)),
        mask=draw(masks | masks | st.none()),
        form=draw(st.sampled_from([0, 0, 126, 127])),
    )


@st.composite
def damaged(draw: st.DrawFn, wires: st.SearchStrategy[bytes]) -> bytes:
    """A stream with one byte changed, or a piece of it lost."""
    wire = draw(wires)
    if not wire:
        return wire
    at = draw(st.integers(0, len(wire) - 1))
    if draw(st.booleans()):
        return wire[:at] + bytes([draw(st.integers(0, 255))]) + wire[at + 1 :]
    return wire[:at] + wire[at + draw(st.integers(1, 8)) :]


legal = st.lists(messages() | messages() | controls(), max_size=6).map(b"".join)
streams = legal | st.tuples(legal, closes() | any_frames(), legal).map(b"".join)
wires = streams | damaged(streams)


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    """A stream as the network may deliver it."""
    wire = draw(wires)
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    if len(wire) < 200 and draw(st.booleans()):
        cuts = list(range(len(wire)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


# -- fragments into messages -----------------------------------------------------------------------------------------

data_frames = st.builds(
    Frame,
    fin=st.booleans(),
    rsv=st.just(0) | st.integers(0, 7),
    opcode=st.sampled_from([TEXT, BINARY, CONTINUATION, CONTINUATION]),
    payload=bytes_of_text,
)


@given(st.lists(data_frames, max_size=12), st.booleans(), st.booleans())
def test_the_reader_makes_of_any_frames_what_the_rfc_does(frames: list[Frame], check_text: bool, deflate: bool) -> None:
    bounds = Bounds(frame_max=60, message_max=60, fragments_max=4, rsv1=deflate)
    twin = Assembly(bounds, fail_fast=True, check_single=check_text)
    reader = MessageReader(bounds.message_max, bounds.fragments_max, check_text, deflate)
    for frame in frames:
        expected = twin.take(frame)
        verdict = reader.feed(frame.opcode, frame.fin, frame.payload, frame.rsv)
        if isinstance(expected, Close):
            assert verdict in expected.codes
            assert reader.reason
            return
        if expected is None:
            assert verdict == Verdict.MORE
        else:
            assert verdict == Verdict.WHOLE
            assert Message(reader.opcode == TEXT, reader.payload or b"", reader.compressed) == expected


# -- the whole path --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def replies(events: list[Event]) -> list[tuple[int, bytes]]:
    """What a server that echoes sends for them, but for a Close."""
    found = []
    for event in events:
        if isinstance(event, Message):
            found.append((TEXT if event.text else BINARY, event.payload))
        elif isinstance(event, Ping):
            found.append((PONG, event.payload))
    return found


def check_wire(line: Line, reading: Reading) -> None:
    sent = server_frames(line.wire)
    close = sent.pop()[1] if sent and sent[-1][0] == CLOSE else None
    assert sent == replies(reading.events)
    assert is_close(close, reading.closed), f"closed with {close!r}, not {reading.closed}"


def check_end(line: Line, reading: Reading) -> None:
    """Whoever ended it, the socket ends in order and at once."""
    if reading.closed is None:
        assert not line.lost
    elif reading.closed.reply is None:
        assert line.is_half_closed or line.lost
    else:
        assert line.lost
    if not line.lost:
        line.end_input()
    assert line.lost


@given(reads(), st.sampled_from(BOUNDS))
def test_an_echo_answers_any_stream_as_the_rfc_says(pair: Pair, segments: list[bytes], bounds: Bounds) -> None:
    with Edge(lambda address: None, bounds.frame_max, fragments_max=bounds.fragments_max) as edge:
        line = edge.connect(pair, head=ECHO)
        reading = Reading(bounds, fail_fast=True)
        for segment in segments:
            reading.feed(segment)
            line.receive(segment)
            check_wire(line, reading)
        check_end(line, reading)
        assert (edge.limits.connections, edge.limits.addresses) == (0, 0)


@given(reads(), st.sampled_from(BOUNDS))
def test_a_session_that_judges_text_itself_gets_every_message(
    pair: Pair, segments: list[bytes], bounds: Bounds
) -> None:
    session = EchoAll()
    with Edge(lambda address: session, bounds.frame_max, fragments_max=bounds.fragments_max) as edge:
        line = edge.connect(pair, head=HEAD)
        reading = Reading(bounds, fail_fast=True, check_single=False)
        for segment in segments:
            reading.feed(segment)
            line.receive(segment)
            check_wire(line, reading)
        check_end(line, reading)
        assert len(session.closed) == 1
        assert not edge.point.closing
