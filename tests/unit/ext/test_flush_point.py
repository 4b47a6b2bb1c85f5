"""A fan-out's sends, one by one and many in one system call: every wire shows the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from helpers.edge import EchoAll, Edge, Line, Pair
from helpers.rfc6455 import CLOSE, TEXT, server_frames
from tuskws_fast_ext.frame import Frame

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
