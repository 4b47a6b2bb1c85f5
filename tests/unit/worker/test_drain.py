"""Who is told what and closed when: the drain with clock and chance in the test's hand."""

import random
from itertools import pairwise

import pytest
from helpers.worker import Desk, Wire

from tuskws_fast.protocol.codes import CloseCode
from tuskws_fast.worker.drain import BATCH_MAX, FINISH_S, Drain, Order, spread
from tuskws_fast.worker.session import Session

NOW = 1000.0


def crowd(count: int) -> tuple[list[Session], list[Wire]]:
    desk = Desk()
    met = [desk.connect(n + 1) for n in range(count)]
    for _, wire in met:
        wire.sent.clear()
    return [session for session, _ in met], [wire for _, wire in met]


def close(sessions: list[Session], code: CloseCode, text: bytes) -> None:
    for session in sessions:
        session.connection.close(code, text)


def begin(sessions: list[Session], window_s: float = 10.0, reason: str = "shutdown") -> Drain:
    return Drain(Order(reason, 0.0, window_s, 100.0), sessions, close, NOW, random.Random(7))


def finish(drain: Drain, now: float) -> None:
    while drain.tick(now):
        pass


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_every_part_of_the_window_has_one_client_and_they_come_in_no_order(count: int) -> None:
    moments = spread(count, 20.0, random.Random(1))
    part = 20.0 / count
    assert [int(moment / part) for moment in sorted(moments)] == list(range(count))
    if count == 1000:
        rising = sum(a < b for a, b in pairwise(moments))
        assert 400 < rising < 600


def test_who_has_left_is_not_sent_away() -> None:
    sessions, wires = crowd(3)
    drain = begin(sessions)
    finish(drain, NOW)
    wires[1].close(1000)
    finish(drain, NOW + 20.0)
    assert [wire.closed for wire in wires] == [1001, 1000, 1001]
    assert (drain.told, drain.closed) == (3, 2)


def test_nobody_gets_a_moment_where_nobody_is() -> None:
    assert spread(0, 5.0, random.Random(1)) == []


def test_each_is_told_once_and_closed_after_its_moment() -> None:
    sessions, wires = crowd(50)
    drain = begin(sessions)
    finish(drain, NOW)
    delays_s = []
    for wire in wires:
        [notice] = wire.sent
        assert (notice["type"], notice["reason"]) == ("reconnect", "shutdown")
        delays_s.append(notice["after_ms"] / 1000)
    for wire, delay_s in sorted(zip(wires, delays_s, strict=True), key=lambda pair: pair[1]):
        finish(drain, NOW + delay_s + FINISH_S - 0.01)
        assert wire.closed is None
        finish(drain, NOW + delay_s + FINISH_S + 0.01)
        assert wire.closed == 1001
    assert [len(wire.sent) for wire in wires] == [1] * 50


def test_a_restart_has_a_code_of_its_own() -> None:
    sessions, wires = crowd(3)
    drain = begin(sessions, reason="restart")
    finish(drain, NOW)
    finish(drain, NOW + 10.0 + FINISH_S)
    assert {wire.closed for wire in wires} == {4010}
    assert wires[0].sent[0]["reason"] == "restart"


def test_a_turn_of_the_loop_tells_and_closes_so_many_at_most() -> None:
    sessions, wires = crowd(2 * BATCH_MAX + 1)
    drain = begin(sessions)
    for told in (BATCH_MAX, 2 * BATCH_MAX):
        assert drain.tick(NOW) is True
        assert sum(bool(wire.sent) for wire in wires) == told
    assert drain.tick(NOW) is False
    late = NOW + 20.0
    for closed in (BATCH_MAX, 2 * BATCH_MAX):
        assert drain.tick(late) is True
        assert sum(wire.closed is not None for wire in wires) == closed
    assert drain.tick(late) is False
    assert all(wire.closed for wire in wires)


def test_who_comes_in_the_middle_is_told_a_moment_in_the_rest() -> None:
    sessions, wires = crowd(20)
    drain = begin([])
    for session in sessions:
        drain.opened(session, NOW + 8.0)
    assert all(0 <= wire.sent[0]["after_ms"] <= 2000 for wire in wires)
    drain.opened(sessions[0], NOW + 99.0)
    assert wires[0].sent[-1]["after_ms"] == 0


def test_in_haste_all_moments_come_closer_and_nobody_is_told_again() -> None:
    sessions, wires = crowd(10)
    drain = begin(sessions, window_s=100.0)
    finish(drain, NOW)
    drain.hasten(Order("shutdown", 0.0, 2.0, 5.0), NOW + 10.0)
    assert drain.deadline == NOW + 15.0
    finish(drain, NOW + 10.0 + 2.0 + FINISH_S)
    assert {wire.closed for wire in wires} == {1001}
    assert [len(wire.sent) for wire in wires] == [1] * 10


def test_in_haste_who_was_not_told_yet_is_told_the_shorter_time() -> None:
    sessions, wires = crowd(BATCH_MAX + 10)
    drain = begin(sessions, window_s=100.0)
    drain.tick(NOW)
    drain.hasten(Order("shutdown", 0.0, 2.0, 5.0), NOW)
    finish(drain, NOW)
    assert all(0 <= wire.sent[0]["after_ms"] <= 2000 for wire in wires[BATCH_MAX:])


def test_at_once_is_at_once() -> None:
    sessions, wires = crowd(5)
    drain = begin(sessions, window_s=100.0)
    finish(drain, NOW)
    drain.hasten(Order("shutdown", 0.0, 0.0, 1.0), NOW + 1.0)
    finish(drain, NOW + 1.0)
    assert {wire.closed for wire in wires} == {1001}


def test_a_longer_order_lengthens_nothing() -> None:
    sessions, wires = crowd(5)
    drain = begin(sessions, window_s=1.0)
    finish(drain, NOW)
    drain.hasten(Order("shutdown", 0.0, 50.0, 500.0), NOW)
    assert drain.deadline == NOW + 100.0
    finish(drain, NOW + 1.0 + FINISH_S)
    assert {wire.closed for wire in wires} == {1001}
