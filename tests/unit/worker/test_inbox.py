"""What the broker decided, applied in its order, and in no more time than others can wait."""

from __future__ import annotations

import math

from helpers.worker import Desk, Wire

from tuskws_fast.ipc.records import DownRecord, Publication, Reply
from tuskws_fast.worker.inbox import LOOK_EVERY
from tuskws_fast.worker.session import Session

OVER = 0.0  # a moment that has been


def asked(desk: Desk, session: Session, count: int) -> list[DownRecord]:
    """The broker's answers to `count` commands of the session."""
    tags = [desk.outbox.expect(session, n) for n in range(count)]
    return [Reply(session.number, tag, True, b'{"type":"room_info","room":"r"}') for tag in tags]


def answered(wire: Wire) -> list[int]:
    return [message["id"] for message in wire.sent if message["type"] == "room_info"]


def test_answers_have_a_while_and_none_is_forgotten() -> None:
    desk = Desk()
    inbox = desk.inbox()
    session, wire = desk.connect()
    batch = asked(desk, session, 3 * LOOK_EVERY + 1)
    looks = 0
    while batch:
        batch = inbox.apply(batch, OVER)
        looks += 1
        assert answered(wire) == list(range(min(looks * LOOK_EVERY, 3 * LOOK_EVERY + 1)))
    assert looks == 4


def test_as_long_as_there_is_time_all_are_applied() -> None:
    desk = Desk()
    session, wire = desk.connect()
    assert desk.inbox().apply(asked(desk, session, 100), math.inf) == []
    assert answered(wire) == list(range(100))


def test_publications_stay_together() -> None:
    desk = Desk()
    session, wire = desk.connect()
    batch: list[DownRecord] = [Publication(0, n, "nobody", b"{}") for n in range(1, 200)]
    assert desk.inbox().apply([*batch, *asked(desk, session, 1)], OVER) == []
    assert answered(wire) == [0]
