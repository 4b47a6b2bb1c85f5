"""The gate before picows: frames cut anywhere, the order of faults and answers, and what it keeps of a bad peer."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from helpers.edge import ECHO, EchoAll, Edge, Line, Pair, Talker
from helpers.rfc6455 import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client_frame, server_frames

FRAME_MAX = 70_000
MASK = b"\x01\x02\x03\x04"
# What the gate reads and drops of a peer that broke the protocol.
DISCARD_MAX = 1 << 24


@pytest.fixture
def session() -> EchoAll:
    return EchoAll()


@pytest.fixture
def edge(session: EchoAll) -> Iterator[Edge]:
    with Edge(lambda address: session, FRAME_MAX) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def line(edge: Edge, pair: Pair) -> Line:
    return edge.connect(pair, head=ECHO)


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    return client_frame(opcode, payload, mask=MASK)


# Of each header form, on both sides of what picows is given and what the gate keeps (1,408 bytes with the header).
@pytest.mark.parametrize("size", [0, 1, 125, 126, 1_399, 1_400, 1_401, 65_535, 65_536, FRAME_MAX])
def test_a_frame_of_any_size_is_read_in_any_pieces(line: Line, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    wire = frame(payload)
    line.receive(wire)
    for cut in sorted({1, 2, 3, 5, 6, 9, 13, 14, len(wire) // 2, len(wire) - 1} & set(range(1, len(wire)))):
        line.receive(wire[:cut])
        line.receive(wire[cut:])
        assert server_frames(line.wire)[-1] == (BINARY, payload)
    assert {echoed for _, echoed in server_frames(line.wire)} == {payload}


@pytest.mark.parametrize("opcode", [BINARY, PING, CLOSE])
def test_an_empty_frame_is_there_with_the_last_byte_of_its_header(line: Line, opcode: int) -> None:
    for byte in frame(b"", opcode):
        assert not line.wire
        line.receive(bytes([byte]))
    assert server_frames(line.wire) == [({PING: PONG}.get(opcode, opcode), b"")]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x83\x80", id="reserved opcode"),
        pytest.param(b"\x82\x00", id="not masked"),
        pytest.param(b"\x82\xfe\x00\x7d", id="length not minimal"),
        pytest.param(b"\x82\xff\x80\0\0\0\0\0\0\0", id="length of 2^63"),
    ],
)
def test_an_illegal_header_is_told_by_its_first_bytes_however_they_come(line: Line, header: bytes) -> None:
    for byte in header:
        assert not line.wire
        line.receive(bytes([byte]))
    [(opcode, payload)] = server_frames(line.wire)
    assert (opcode, payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))


def test_a_length_over_the_limit_is_refused_before_a_byte_of_it_is_here(line: Line) -> None:
    line.receive(frame(b"x" * (FRAME_MAX + 1))[:10])
    [(opcode, payload)] = server_frames(line.wire)
    assert (opcode, payload[:2]) == (CLOSE, (1009).to_bytes(2, "big"))


def test_what_came_before_a_fault_in_one_read_is_answered_before_it(line: Line) -> None:
    line.receive(frame(b"a") + frame(b"b", PING) + client_frame(3, b""))
    *answers, (opcode, payload) = server_frames(line.wire)
    assert answers == [(BINARY, b"a"), (PONG, b"b")]
    assert (opcode, payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))


def test_the_first_of_two_closes_counts_and_nothing_behind_it(line: Line) -> None:
    line.receive(frame(b"\x03\xe8", CLOSE) + frame(b"\x03\xe9", CLOSE) + client_frame(3, b""))
    assert server_frames(line.wire) == [(CLOSE, b"\x03\xe8")]
    assert line.lost


@pytest.mark.parametrize("code", [1002, 1007, 1011, 3000])
def test_a_peer_may_close_with_any_code_that_may_be_sent(edge: Edge, line: Line, code: int) -> None:
    line.receive(frame(code.to_bytes(2, "big") + b"you did that", CLOSE))
    assert server_frames(line.wire) == [(CLOSE, code.to_bytes(2, "big"))]
    assert edge.point.protocol_errors == 0


def test_a_peer_that_broke_the_protocol_gets_the_end_of_the_stream_and_is_not_heard_any_more(line: Line) -> None:
    line.receive(client_frame(CONTINUATION, b""))
    assert line.is_half_closed
    assert not line.lost
    line.receive(frame(b"?", PING) + frame(b"", CLOSE))
    assert len(server_frames(line.wire)) == 1
    line.end_input()
    assert line.lost


def test_a_fault_after_our_own_close_ends_our_half_as_well(edge: Edge, pair: Pair, session: EchoAll) -> None:
    line = edge.connect(pair)
    session.connection.close(1001)
    line.read_on()
    assert not line.is_half_closed
    line.receive(client_frame(3, b""))
    assert line.is_half_closed
    assert server_frames(line.wire) == [(CLOSE, (1001).to_bytes(2, "big"))]


def test_a_flood_behind_a_fault_is_not_read_for_ever(line: Line) -> None:
    line.receive(client_frame(3, b""))
    flood = bytes(1 << 20)
    for _ in range(DISCARD_MAX // len(flood)):
        line.receive(flood)
    assert line.is_reading
    line.receive(flood)
    assert not line.is_reading


def test_the_bytes_given_to_feed_stay_what_they_were(line: Line) -> None:
    wire = frame(b"\x03\xe8", CLOSE)
    kept = bytes(bytearray(wire))
    line.protocol.feed(wire)
    assert wire == kept


def test_text_is_judged_over_fragments_that_cut_its_characters(line: Line) -> None:
    line.receive(client_frame(TEXT, b"\xe2\x82", fin=False) + client_frame(CONTINUATION, b"\xac", fin=True))
    assert server_frames(line.wire) == [(TEXT, "€".encode())]
    line.receive(client_frame(TEXT, b"\xe2\x28", fin=False))
    assert server_frames(line.wire)[-1][1][:2] == (1007).to_bytes(2, "big")


# -- slices ------------------------------------------------------------------------------------------------------------

SLICE_FRAMES = 64
RUN_FRAMES = 8
SLICE_S = 50e-6
SLICE_BYTES = 1 << 14


class Publisher(Talker):
    """All it says is on its way to others."""

    def on_message(self, payload: bytes, text: bool) -> None:
        super().on_message(payload, text)
        self.connection.is_publishing = True


class Turns:
    """A publisher on a worker that reads 64 KiB at once, and the turns of its loop one by one."""

    def __init__(self, edge: Edge, talkers: list[Talker], pair: Pair) -> None:
        self.line = edge.connect(pair)
        self.talker = talkers[-1]
        self._edge = edge

    def say(self, *numbers: int, size: int = 0) -> None:
        self.line.deliver(b"".join(frame(b"%d" % n + bytes(size)) for n in numbers))

    def heard(self) -> list[int]:
        return [int(message.payload.rstrip(b"\0")) for message in self.talker.heard]

    def end_all(self) -> None:
        self._edge.loop.run_soon()


@pytest.fixture
def busy_edge() -> Iterator[tuple[Edge, list[Talker]]]:
    talkers: list[Talker] = []

    def new_session(address: str) -> Talker:
        talkers.append(Publisher())
        return talkers[-1]

    with Edge(new_session, FRAME_MAX, buffer_bytes=1 << 16) as made:
        yield made, talkers


@pytest.fixture
def beside(busy_edge: tuple[Edge, list[Talker]]) -> Iterator[Turns]:
    other = Pair()
    yield Turns(*busy_edge, other)
    other.close()


@pytest.fixture
def turns(busy_edge: tuple[Edge, list[Talker]], pair: Pair) -> Turns:
    return Turns(*busy_edge, pair)


def test_who_sends_much_at_once_has_a_slice_before_others_have_their_turn(turns: Turns, beside: Turns) -> None:
    turns.say(*range(200))
    assert turns.heard() == list(range(SLICE_FRAMES))
    assert not turns.line.is_reading
    beside.say(1)
    assert beside.heard() == [1]
    turns.end_all()
    assert turns.heard() == list(range(200))
    assert turns.line.is_reading


def test_those_in_line_take_turns_and_the_line_is_called_once_a_turn(turns: Turns, beside: Turns) -> None:
    turns.say(*range(1_000))
    beside.say(*range(1_000))
    loop, rounds = turns.line._loop, 0
    while loop.soon:
        assert len(loop.soon) <= 2, "the line, and the reading of one who left it"
        ready, loop.soon = loop.soon, []
        for callback, args in ready:
            callback(*args)
        rounds += 1
        apart = abs(len(turns.heard()) - len(beside.heard()))
        assert apart <= SLICE_FRAMES or turns.line.is_reading or beside.line.is_reading
    assert rounds > 1
    assert turns.heard() == beside.heard() == list(range(1_000))


def test_a_slice_of_what_is_not_published_ends_by_the_clock(turns: Turns) -> None:
    publish = turns.talker.on_message

    def answer(payload: bytes, text: bool) -> None:
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until:
            pass
        publish(payload, text)
        turns.talker.connection.is_publishing = False

    turns.talker.on_message = answer  # type: ignore[method-assign]
    turns.say(*range(100))
    assert turns.heard() == list(range(RUN_FRAMES))
    turns.end_all()
    assert turns.heard() == list(range(100))
    turns.talker.on_message = publish  # type: ignore[method-assign]
    turns.say(*range(100, 200))
    assert turns.heard() == list(range(100 + SLICE_FRAMES)), "it is forgotten with the next read"


def test_a_window_of_messages_is_one_slice(turns: Turns) -> None:
    turns.say(*range(SLICE_FRAMES))
    assert turns.heard() == list(range(SLICE_FRAMES))
    assert turns.line.is_reading


@pytest.mark.parametrize("size", [1_000, 4_000])
def test_a_slice_has_an_end_in_bytes_as_well(turns: Turns, size: int) -> None:
    numbers = range(100, 100 + 50_000 // size)
    turns.say(*numbers, size=size)
    assert SLICE_BYTES // (size + 20) <= len(turns.heard()) <= SLICE_BYTES // size + 1
    turns.end_all()
    assert turns.heard() == list(numbers)


def test_what_rests_waits_as_long_as_its_session_wants_nothing(turns: Turns) -> None:
    turns.say(*range(100))
    turns.talker.connection.pause_reading()
    turns.end_all()
    assert turns.heard() == list(range(SLICE_FRAMES))
    turns.say(100)
    turns.talker.connection.resume_reading()
    assert turns.heard() == list(range(SLICE_FRAMES)), "in its turn, not in ours"
    turns.end_all()
    assert turns.heard() == list(range(101))
    assert turns.line.is_reading


def test_who_wants_nothing_more_when_the_rest_is_over_is_not_read(turns: Turns) -> None:
    turns.say(*range(SLICE_FRAMES + 1))
    turns.talker.on_message = lambda payload, text: turns.talker.connection.pause_reading()  # type: ignore[method-assign]
    turns.end_all()
    assert not turns.line.is_reading
    turns.talker.connection.resume_reading()
    assert turns.line.is_reading


def test_what_a_transport_had_in_hand_comes_behind_what_rests(turns: Turns) -> None:
    """TLS decrypts more than one read at a time."""
    wire = b"".join(frame(b"%d" % n) for n in range(300))
    for part in (wire[:1_001], wire[1_001:1_500], wire[1_500:]):
        turns.line.protocol.get_buffer(-1)[: len(part)] = part
        turns.line.protocol.buffer_updated(len(part))
    assert turns.heard() == list(range(SLICE_FRAMES))
    turns.end_all()
    assert turns.heard() == list(range(300))
    assert turns.line.is_reading


def test_a_fault_in_the_rest_is_answered_behind_what_came_before_it(edge: Edge, line: Line) -> None:
    good = b"".join(frame(b"%d" % n) for n in range(100))
    line.receive(good + b"\x83\x80" + frame(b"never"))
    answers = server_frames(line.wire)
    assert answers[:-1] == [(BINARY, b"%d" % n) for n in range(100)]
    assert (answers[-1][0], answers[-1][1][:2]) == (CLOSE, (1002).to_bytes(2, "big"))
    line.receive(bytes(100))
    assert line.is_reading, "what it still sends is read and dropped"


def test_a_close_in_the_rest_ends_the_connection(turns: Turns) -> None:
    turns.line.receive(b"".join(frame(b"%d" % n) for n in range(100)) + frame(b"\x03\xe8", CLOSE))
    assert turns.heard() == list(range(100))
    turns.line.read_on()
    assert turns.talker.closed == [1000]


def test_who_goes_while_something_rests_is_not_heard_any_more(turns: Turns) -> None:
    turns.say(*range(100))
    turns.line.hang_up()
    assert turns.heard() == list(range(SLICE_FRAMES))
    assert turns.talker.closed == [1006]


def test_a_session_that_fails_in_the_rest_is_closed_as_any_other(turns: Turns) -> None:
    turns.talker.poison = b"80"
    turns.say(*range(100))
    turns.end_all()
    turns.line.read_on()
    [(opcode, payload)] = server_frames(turns.line.wire)
    assert (opcode, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
    assert turns.heard() == list(range(81))
