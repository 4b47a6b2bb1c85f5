"""Connections on socket pairs: what a broken frame and a Close do to each other, what is left behind, and what a
fan-out to many puts on each wire.

Each rule of the RFC is the fuzz target's (tests/fuzz/frames.py); here are the cases that it once found, and what a
thousand connections leave behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import time
from collections.abc import Iterator

import pytest
from helpers.edge import EchoAll, Edge, Line, Pair, Talker
from helpers.forked import fork_to, reap
from helpers.rfc6455 import BINARY, CLOSE, PING, PONG, TEXT, Message, client_frame, server_frames
from tuskws_fast_ext import connection, frame
from tuskws_fast_ext.frame import Frame

NORMAL, PROTOCOL_ERROR, INTERNAL = b"\x03\xe8", b"\x03\xea", b"\x03\xf3"
RESERVED_OPCODE = client_frame(3, b"")


class Talk:
    """One open connection and its session."""

    def __init__(self, pair: Pair) -> None:
        self.talker = Talker(poison=b"!")
        self.edge = Edge(lambda address: self.talker, 4096)
        self.pair = pair
        self.line: Line

    def __enter__(self) -> Talk:
        self.edge.__enter__()
        self.line = self.edge.connect(self.pair)
        return self

    def __exit__(self, *exc: object) -> None:
        self.line.hang_up()
        self.edge.__exit__(None, None, None)

    def closes(self) -> list[bytes]:
        """The codes of the Close frames sent so far."""
        return [payload[:2] for opcode, payload in server_frames(self.line.wire) if opcode == CLOSE]


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("fault", [client_frame(CLOSE, b"\x03\xe7"), RESERVED_OPCODE], ids=["close 999", "opcode 3"])
def test_what_comes_after_a_framing_error_is_not_processed(pair: Pair, fault: bytes) -> None:
    with Talk(pair) as talk:
        talk.line.receive(client_frame(TEXT, b"before"))
        talk.line.receive(fault)
        talk.line.receive(client_frame(TEXT, b"after") + client_frame(PING, b"?"))
        assert talk.talker.heard == [Message(True, b"before")]
        assert talk.closes() == [PROTOCOL_ERROR]
        assert (PONG, b"?") not in server_frames(talk.line.wire)


def test_a_framing_error_behind_our_own_close_brings_no_second_close(pair: Pair) -> None:
    with Talk(pair) as talk:
        talk.line.receive(client_frame(TEXT, b"!"))
        assert talk.closes() == [INTERNAL]
        talk.line.receive(RESERVED_OPCODE)
        talk.line.receive(RESERVED_OPCODE)
        assert talk.closes() == [INTERNAL]
        assert talk.line.is_half_closed, "its own Close is not waited for any more"


def test_who_is_sent_more_than_its_bound_in_one_turn_and_does_not_read_is_cut_off_in_that_turn(pair: Pair) -> None:
    talker = Talker()
    with Edge(lambda address: talker, 4096, queue_bytes_max=20_000) as edge:
        line = edge.connect(pair, slow=True)
        for _ in range(60):
            talker.connection.send(frame.Frame([b"x" * 1000]))
        edge.loop.run_soon()
        assert edge.point.too_slow == 1
        line.hang_up()


def test_nothing_of_ours_follows_the_close_that_a_framing_error_brought(pair: Pair) -> None:
    with Talk(pair) as talk:
        talk.line.receive(RESERVED_OPCODE)
        talk.talker.connection.close(1001, b"going away")
        talk.talker.connection.send(frame.Frame([b"{}"]))
        talk.line.read_on()
        assert talk.closes() == [PROTOCOL_ERROR]
        assert len(server_frames(talk.line.wire)) == 1


def test_our_close_waits_for_the_peers_and_then_the_socket_ends(pair: Pair) -> None:
    with Talk(pair) as talk:
        talk.talker.connection.close(1001, b"going away")
        talk.line.read_on()
        assert talk.closes() == [b"\x03\xe9"]
        assert not talk.line.lost
        talk.line.receive(client_frame(BINARY, b"on its way") + client_frame(CLOSE, NORMAL))
        assert talk.line.lost
        assert talk.talker.closed == [1000]
        assert talk.talker.heard == []


def test_of_a_thousand_that_owe_us_their_close_some_are_ended_a_turn() -> None:
    talkers: list[Talker] = []

    def new_session(address: str) -> Talker:
        talkers.append(Talker())
        return talkers[-1]

    with contextlib.ExitStack() as stack, Edge(new_session, 4096) as edge:
        pairs = [stack.enter_context(contextlib.closing(Pair())) for _ in range(300)]
        lines = [edge.connect(pair) for pair in pairs]
        for talker in talkers:
            talker.connection.close(1000)
        edge.loop.run_soon()
        edge.point.expire(time.monotonic() + 60.0, 10.0)
        assert 0 < sum(line.is_closing() for line in lines) < 300
        edge.loop.run_soon()
        assert all(line.lost for line in lines)
        assert not edge.point.closing


@pytest.mark.skipif(connection.live_objects() is None, reason="objects are counted in a build with TUSKWS_DEBUG=1")
def test_no_connection_and_no_frame_is_left_after_a_thousand_of_every_kind(pair: Pair) -> None:
    ways = [
        client_frame(CLOSE, NORMAL),
        client_frame(TEXT, b"!"),
        client_frame(TEXT, b"begun", fin=False),
        RESERVED_OPCODE,
        client_frame(PING, b"?") * 70 + b"\x81",
        b"",
    ]
    gc.collect()
    before = connection.live_objects(), frame.live_objects()
    for n in range(1000):
        with Talk(pair) as talk:
            talk.line.slow = bool(n & 1)
            talk.line.receive(ways[n % len(ways)])
            talk.talker.connection.send(frame.Frame([b"x" * 3000] * (n % 5)))
            talk.line.receive(client_frame(TEXT, b"more"))
        talk.edge.loop.pass_time()
    del talk
    gc.collect()
    assert (connection.live_objects(), frame.live_objects()) == before


# -- what leaves: a fan-out's sends, one by one and many in one system call ------------------------------------------

MEMBERS = 300  # more than one batch of the ring
BODY = b"x" * 900  # several of these fill a pair's socket buffer


class Members:
    """Connections of one worker, each on a socket pair of its own."""

    def __init__(self, together: bool) -> None:
        self.sessions: list[EchoAll] = []
        self.edge = Edge(self._new_session, frame_max=65_536, queue_messages_max=40)
        if together and (error := self.edge.point.send_together()):
            pytest.skip(f"this kernel, or its sandbox, allows no io_uring: {os.strerror(error)}")
        self.pairs = [Pair() for _ in range(MEMBERS)]
        self.lines = [self.edge.connect(pair) for pair in self.pairs]

    def _new_session(self, address: str) -> EchoAll:
        self.sessions.append(EchoAll())
        return self.sessions[-1]

    def say(self, number: int) -> None:
        frame = Frame([b"%d " % number + BODY])
        for session in self.sessions:
            session.connection.send(frame)
        self.edge.loop.run_soon()

    def close(self) -> None:
        self.edge.__exit__(None, None, None)
        for pair in self.pairs:
            pair.close()


@pytest.fixture(params=[False, True], ids=["one by one", "together"])
def members(request: pytest.FixtureRequest) -> Iterator[Members]:
    made = Members(request.param)
    yield made
    made.close()


def heard(line: Line) -> list[int]:
    return [int(payload.split()[0]) for opcode, payload in server_frames(line.wire) if opcode == TEXT]


def test_every_member_gets_every_message_in_order_whatever_its_socket_takes(members: Members) -> None:
    slow = members.lines[3::7]
    for line in slow:
        line.slow = True
    for number in range(30):
        members.say(number)
        for line in members.lines:
            if not line.slow:
                line.read_on()
    assert all(session.connection.queued_messages for session in members.sessions[3::7])
    for line in slow:
        line.read_on()
    assert {tuple(heard(line)) for line in members.lines} == {tuple(range(30))}


def test_who_is_gone_or_too_slow_costs_nobody_else_anything(members: Members) -> None:
    gone, slow = members.lines[5], members.lines[6]
    members.pairs[5].client.close()
    slow.slow = True
    for number in range(60):
        members.say(number)
        for line in members.lines:
            if line not in (gone, slow):
                line.read_on()
    assert gone.lost
    slow.read_on()
    assert server_frames(slow.wire)[-1] == (CLOSE, (4008).to_bytes(2, "big") + b"too slow")
    rest = [line for line in members.lines if line not in (gone, slow)]
    assert {tuple(heard(line)) for line in rest} == {tuple(range(60))}


def test_together_the_kernel_is_entered_once_for_many() -> None:
    calls = {}
    for together in (False, True):
        made = Members(together)
        before = made.edge.point.writes
        made.say(0)
        calls[together] = made.edge.point.writes - before
        made.close()
    assert calls == {False: MEMBERS, True: 2}


def test_a_ring_that_the_kernel_refuses_costs_nobody_anything() -> None:
    """Its descriptor is made to stand for something else, so that the next submission fails."""
    made = Members(True)
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]":
                os.dup2(nothing, int(name), inheritable=False)
    os.close(nothing)
    for number in range(3):
        made.say(number)
        for line in made.lines:
            line.read_on()
    assert {tuple(heard(line)) for line in made.lines} == {(0, 1, 2)}
    made.close()


def test_where_a_sandbox_forbids_io_uring_sends_go_one_by_one() -> None:
    def body() -> None:
        forbid_io_uring()
        made = Members(False)
        assert made.edge.point.send_together() == errno.EPERM
        made.say(0)
        for line in made.lines:
            line.read_on()
        assert {tuple(heard(line)) for line in made.lines} == {(0,)}

    assert reap(fork_to(body)) == 0


def forbid_io_uring() -> None:
    """As container runtimes do: seccomp(2), a filter that answers io_uring_setup with EPERM."""

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):
        _fields_ = (("size", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction)))

    load_number, is_setup, refuse, allow = (0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)
    instructions = (Instruction * 4)(load_number, is_setup, refuse, allow)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
    assert libc.prctl(22, 2, ctypes.byref(Program(4, instructions)), 0, 0) == 0, "PR_SET_SECCOMP"


def test_a_write_that_raises_costs_its_connection_and_no_other(members: Members) -> None:
    def fail(data: bytes) -> None:
        raise MemoryError("a defect")

    broken = members.lines[100]
    broken.slow = True
    broken.write = fail  # type: ignore[method-assign]
    failures: list[Exception] = []
    members.sessions[100].on_failure = failures.append  # type: ignore[method-assign]
    for number in range(60):
        members.say(number)
        for line in members.lines:
            if line is not broken:
                line.read_on()
    assert [str(error) for error in failures] == ["a defect"]
    assert broken.lost
    assert {tuple(heard(line)) for line in members.lines if line is not broken} == {tuple(range(60))}
