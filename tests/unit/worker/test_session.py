"""Time and a session: heartbeats, idling, authentication and expiry, each at its moment and not before."""

from __future__ import annotations

from helpers.worker import Desk, Wire

from tuskws_fast.worker.session import Session, SessionTimes

TIMES = SessionTimes(auth_s=10.0, heartbeat_interval_s=30.0, heartbeat_timeout_s=5.0, idle_s=0.0)


def at(desk: Desk, session: Session, seconds: float, times: SessionTimes = TIMES) -> bool:
    """Look at the session that many seconds after it was opened."""
    return session.on_timer(desk.now + seconds, desk.wall + seconds, times)


def open_session(require_auth: bool = False) -> tuple[Desk, Session, Wire]:
    desk = Desk(require_auth=require_auth)
    session, wire = desk.connect()
    wire.frames.clear()
    return desk, session, wire


def test_a_silent_connection_is_pinged_and_closed_when_it_does_not_answer() -> None:
    desk, session, wire = open_session()
    assert at(desk, session, 29.0)
    assert wire.frames == []
    assert at(desk, session, 30.0)
    assert wire.frames == [b"\x89\x00"]
    assert at(desk, session, 34.9)
    assert not at(desk, session, 35.0)
    assert wire.closed == 4003


def test_a_pong_or_any_input_keeps_it_alive() -> None:
    for answer in ("pong", "input"):
        desk, session, wire = open_session()
        at(desk, session, 30.0)
        wire.last_input = desk.now + 31.0
        if answer == "pong":
            session.on_pong()
        assert at(desk, session, 36.0)
        assert wire.closed is None


def test_authentication_must_come_in_time_where_it_is_required() -> None:
    desk, session, wire = open_session(require_auth=True)
    assert at(desk, session, 9.9)
    assert not at(desk, session, 10.0)
    assert wire.closed == 4500


def test_an_expired_token_closes_4001() -> None:
    desk, session, wire = open_session()
    session.expires_at = desk.wall + 8.0
    assert at(desk, session, 7.9)
    assert not at(desk, session, 8.0)
    assert wire.closed == 4001


def test_idling_is_off_by_default_and_counts_commands_only() -> None:
    desk, session, wire = open_session()
    wire.last_input = desk.now + 99.0
    assert at(desk, session, 100.0)
    idle = SessionTimes(10.0, 30.0, 5.0, idle_s=60.0)
    assert not at(desk, session, 100.0, idle)
    assert wire.closed == 4002


def test_the_next_look_is_at_the_nearest_deadline() -> None:
    desk, session, _wire = open_session(require_auth=True)
    due = session.next_deadline(desk.now, desk.wall, TIMES)
    assert due == desk.now + 10.0
    session.user = "ada"
    assert session.next_deadline(desk.now, desk.wall, TIMES) == desk.now + 30.0
    session.expires_at = desk.wall + 3.0
    assert session.next_deadline(desk.now, desk.wall, TIMES) == desk.now + 3.0


def test_a_failure_of_ours_costs_this_connection_only() -> None:
    _desk, session, wire = open_session()
    session.on_failure(RuntimeError("a defect"))
    assert wire.closed == 1011
