"""The gate in front of every command, and the commands that a worker answers alone."""

from __future__ import annotations

import time

import pytest
from helpers.worker import Desk, Wire

from tuskws_fast.auth.tokens import Verifier, make_token
from tuskws_fast.ipc import records
from tuskws_fast.metrics import Metric
from tuskws_fast.protocol import codec
from tuskws_fast.worker.commands import FAULTS_MAX
from tuskws_fast.worker.identities import AUTH_FAILURES_MAX, GUEST_WAIT_S
from tuskws_fast.worker.session import RATE_REFUSALS_MAX, Session

SECRET = "s" * 32


def say(session: Session, **command: object) -> None:
    session.on_message(codec.encode(command), True)


def greeted(desk: Desk, number: int = 1) -> tuple[Session, Wire]:
    session, wire = desk.connect(number)
    wire.sent.clear()
    desk.wait(2 * GUEST_WAIT_S)
    desk.line.take()
    return session, wire


def test_a_guest_is_greeted_at_once_and_announced_when_it_stays() -> None:
    desk = Desk()
    _session, wire = desk.connect()
    welcome = wire.pop()
    assert welcome["type"] == "welcome"
    assert welcome["authenticated"] is True
    assert welcome["user"]["id"].startswith("guest-")
    assert desk.line.take() == []
    guest = welcome["user"]["id"]
    attach = records.Attach(1, guest, guest, [], records.PresenceMode.ROOMS, "online", told_at=desk.now)
    for announced in ([attach], []):
        desk.wait(2 * GUEST_WAIT_S)
        assert desk.line.take() == announced


def test_a_guest_who_asks_the_broker_for_something_is_announced_before_it() -> None:
    desk = Desk()
    session, _ = desk.connect()
    say(session, type="join_room", room="r")
    attach, join = desk.line.take()
    assert (type(attach), type(join)) == (records.Attach, records.Join)
    desk.wait(2 * GUEST_WAIT_S)
    assert desk.line.take() == []


def test_a_guest_who_is_gone_before_that_was_never_there() -> None:
    desk = Desk()
    session, _ = desk.connect()
    session.on_closed(1000)
    desk.wait(2 * GUEST_WAIT_S)
    assert desk.line.take() == []


def test_where_authentication_is_required_nobody_is_announced_before_it() -> None:
    desk = Desk(require_auth=True)
    session, wire = desk.connect()
    assert wire.pop()["authenticated"] is False
    assert desk.line.take() == []
    say(session, type="join_room", room="r", id=7)
    assert wire.pop() == {
        "type": "error", "code": "not_authenticated", "message": "Authenticate first", "id": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"null", b"1", b'"x"', b'{"type":"ping"} x', b"NaN", b'"\\ud800"']
)
def test_what_is_no_json_object_is_answered_and_the_connection_stays(payload: bytes) -> None:
    session, wire = greeted(Desk())
    session.on_message(payload, True)
    assert wire.pop()["code"] == "bad_json"
    assert wire.closed is None


def test_the_tenth_fault_in_a_row_closes_and_a_valid_command_resets_the_row() -> None:
    session, wire = greeted(Desk())
    for _ in range(FAULTS_MAX - 1):
        say(session, type=5)
    say(session, type="ping")
    for _ in range(FAULTS_MAX - 1):
        say(session, type="join_room")
    assert wire.closed is None
    session.on_message(b"{", True)
    assert wire.closed == 1008


def test_what_costs_too_much_to_decode_is_refused_undecoded() -> None:
    desk = Desk(message_max=1 << 16, items_max=100)
    session, wire = greeted(desk)
    session.on_message(b'{"type":"ping","x":[%b]}' % b",".join([b"0"] * 98), True)
    assert wire.sent[-1]["type"] == "pong"
    session.on_message(b'{"type":"ping","id":"a","x":[%b]}' % b",".join([b"0"] * 99), True)
    assert (wire.sent[-1]["code"], "id" in wire.sent[-1]) == ("bad_json", False)
    assert desk.counters[Metric.ITEMS_REFUSED] == 1
    for _ in range(FAULTS_MAX - 1):
        session.on_message(b"[" * 200, True)
    assert wire.closed == 1008


def test_unknown_types_are_no_faults() -> None:
    session, wire = greeted(Desk())
    for _ in range(FAULTS_MAX + 1):
        say(session, type="from_the_future", id="a")
    assert wire.closed is None
    assert {message["code"] for message in wire.sent} == {"unknown_type"}


def test_bad_utf8_closes_a_text_message_and_is_bad_json_in_a_binary_one() -> None:
    session, wire = greeted(Desk())
    session.on_message(b'{"type":"ping","x":"\xff"}', False)
    assert wire.pop()["code"] == "bad_json"
    session.on_message(b'{"type":"ping","x":"\xff"}', True)
    assert wire.closed == 1007


def test_the_rate_is_charged_before_anything_else_and_a_client_that_never_slows_down_is_closed() -> None:
    desk = Desk()
    session, wire = greeted(desk)
    desk.allowance.wait = 0.25
    say(session, type="ping", id=1)
    assert wire.pop() == {
        "type": "error", "code": "rate_limited", "message": "Rate limit exceeded", "retry_after": 0.25, "id": 1,
    }  # fmt: skip
    for _ in range(RATE_REFUSALS_MAX - 1):
        session.on_message(b"{", True)
    assert wire.closed == 4009


def test_each_command_of_a_batch_is_charged_and_answered_by_itself() -> None:
    session, wire = greeted(Desk())
    say(
        session,
        type="batch",
        messages=[{"type": "ping", "id": 1}, {"type": "nope", "id": 2}, {"type": "ping", "id": 3}],
    )
    assert [(message["type"], message["id"]) for message in wire.sent] == [("pong", 1), ("error", 2), ("pong", 3)]


@pytest.mark.parametrize("inner", [[{"type": "batch", "messages": []}], [{"type": "ping"}] * 101, [None], "x", None])
def test_a_bad_batch_is_refused_whole(inner: object) -> None:
    session, wire = greeted(Desk())
    say(session, type="batch", messages=inner, id=1)
    assert [message["code"] for message in wire.sent] == ["bad_message"]


def test_a_broadcast_is_encoded_once_and_the_servers_fields_are_the_sessions() -> None:
    desk = Desk()
    session, _ = greeted(desk)
    say(session, type="broadcast", room="r", message={"a": 1}, id="k1", **{"from": "someone else"})
    [publish] = desk.line.take()
    assert isinstance(publish, records.Publish)
    assert codec.decode(publish.body + b"}") == {
        "type": "room_message", "room": "r", "message": {"a": 1}, "from": session.user, "ref": "k1",
    }  # fmt: skip
    assert (publish.key, publish.quiet, publish.echo) == ("k1", False, True)


def test_an_integer_id_correlates_only() -> None:
    desk = Desk()
    session, _ = greeted(desk)
    say(session, type="broadcast", room="r", message="m", id=5)
    [publish] = desk.line.take()
    assert isinstance(publish, records.Publish)
    assert publish.key == ""
    assert b"ref" not in publish.body


def test_without_an_id_nothing_is_expected_back() -> None:
    desk = Desk()
    session, _ = greeted(desk)
    say(session, type="broadcast", room="r", message="m")
    [publish] = desk.line.take()
    assert isinstance(publish, records.Publish)
    assert (publish.tag, publish.quiet) == (0, True)


def test_a_message_over_the_limit_is_refused_by_its_encoded_size() -> None:
    desk = Desk(message_max=10)
    session, wire = greeted(desk)
    say(session, type="broadcast", room="r", message="12345678", id=1)
    say(session, type="broadcast", room="r", message="123456789", id=2)
    assert [(message["code"], message["id"]) for message in wire.sent] == [("message_too_large", 2)]
    assert len(desk.line.take()) == 1


def test_while_there_is_no_broker_what_needs_it_is_unavailable_and_the_rest_works() -> None:
    desk = Desk()
    session, wire = greeted(desk)
    desk.outbox.disconnect()
    for command in ("join_room", "room_info", "leave_room"):
        say(session, type=command, room="r", id=1)
    say(session, type="ping", id=2)
    assert [message.get("code", message["type"]) for message in wire.sent] == ["unavailable"] * 3 + ["pong"]


def test_what_waits_for_a_broker_that_dies_is_answered() -> None:
    desk = Desk()
    session, wire = greeted(desk)
    say(session, type="broadcast", room="r", message="m", id="k")
    desk.outbox.disconnect()
    assert (wire.sent[0]["code"], wire.sent[0]["id"]) == ("unavailable", "k")


def test_a_full_ring_stops_reading_from_who_publishes_until_it_has_drained() -> None:
    desk = Desk()
    session, wire = greeted(desk)
    _, quiet_wire = greeted(desk, 2)
    desk.line.congested = True
    say(session, type="broadcast", room="r", message="m")
    assert (wire.reading, quiet_wire.reading) == (False, True)
    desk.outbox.flush()
    assert not wire.reading
    desk.line.congested = False
    desk.outbox.flush()
    assert wire.reading


class TestAuth:
    def desk(self) -> Desk:
        desk = Desk(require_auth=True, verifier=Verifier([SECRET]))
        desk.wall = time.time()
        return desk

    def test_success_names_the_user_and_announces_it(self) -> None:
        desk = self.desk()
        session, wire = greeted(desk)
        say(session, type="auth", token=make_token(SECRET, "ada", username="Ada", roles=["staff"]))
        success = wire.pop()
        assert success["type"] == "auth_success"
        assert success["user"] == {"id": "ada", "username": "Ada", "roles": ["staff"]}
        [attach] = desk.line.take()
        until = success["expires_at"]
        proof = [until, 0, [], None, session.issued_at]
        mode = records.PresenceMode.ROOMS
        assert attach == records.Attach(1, "ada", "Ada", ["staff"], mode, "online", 0, proof, told_at=desk.now)

    def test_only_who_has_authenticated_is_trusted_with_compressed_data(self) -> None:
        session, wire = greeted(self.desk())
        assert not wire.trusted
        say(session, type="auth", token="nonsense")
        assert not wire.trusted
        say(session, type="auth", token=make_token(SECRET, "ada"))
        assert wire.trusted

    def test_another_user_on_the_same_connection_is_refused_and_the_identity_kept(self) -> None:
        session, wire = greeted(self.desk())
        say(session, type="auth", token=make_token(SECRET, "ada"))
        say(session, type="auth", token=make_token(SECRET, "eve"), id=9)
        assert (wire.sent[1]["type"], wire.sent[1]["code"], wire.sent[1]["id"]) == ("auth_failed", "forbidden", 9)
        assert session.user == "ada"

    def test_the_fifth_failure_closes_4500(self) -> None:
        session, wire = greeted(self.desk())
        for _ in range(AUTH_FAILURES_MAX - 1):
            say(session, type="auth", token="nonsense")
        assert wire.closed is None
        say(session, type="auth", token="nonsense")
        assert wire.closed == 4500
        assert {message["code"] for message in wire.sent} == {"bad_token"}

    def test_one_connection_too_many_of_a_user_closes_4509(self) -> None:
        desk = self.desk()
        session, wire = greeted(desk)
        desk.allowance.users_full = True
        say(session, type="auth", token=make_token(SECRET, "ada"))
        assert wire.closed == 4509
        assert desk.line.take() == []

    def test_all_presence_needs_the_permission(self) -> None:
        desk = self.desk()
        session, wire = greeted(desk)
        say(session, type="auth", token=make_token(SECRET, "ada"))
        say(session, type="hello", presence="all", id=1)
        assert wire.sent[-1]["code"] == "forbidden"
        say(session, type="auth", token=make_token(SECRET, "ada", permissions=["presence"]))
        say(session, type="hello", presence="all", id=2)
        assert wire.sent[-1] == {"type": "ack", "id": 2}
        assert desk.watchers == {session}


def test_the_end_of_a_session_gives_everything_back_once() -> None:
    desk = Desk(verifier=Verifier([SECRET]))
    session, _ = greeted(desk)
    say(session, type="auth", token=make_token(SECRET, "ada", now=desk.wall))
    desk.line.take()
    session.address_admitted = True
    session.on_closed(1000)
    assert desk.line.take() == [records.Detach(session.number, True)]
    assert desk.allowance.released == ["ada", "127.0.0.1", "connection"]
    assert desk.sessions == {}


def test_guests_who_come_and_go_are_waited_for_once() -> None:
    desk = Desk()
    for number in range(100):
        session, _ = desk.connect(number)
        desk.wait(0.3 * GUEST_WAIT_S)
        session.on_closed(1006)
        assert len(desk.later) == 1
    assert desk.line.take() == []
    desk.wait(2 * GUEST_WAIT_S)
    assert desk.later == []


def test_a_guest_counts_for_no_user() -> None:
    desk = Desk()
    desk.allowance.users_full = True
    session, wire = greeted(desk)
    assert wire.closed is None
    session.on_closed(1000)
    assert desk.allowance.released == ["connection"]


def test_a_guest_who_stays_is_announced_and_a_later_one_waits_its_own_time() -> None:
    desk = Desk()
    desk.connect(1)
    desk.wait(0.8 * GUEST_WAIT_S)
    desk.connect(2)
    assert desk.line.take() == []
    desk.wait(0.5 * GUEST_WAIT_S)
    assert [record.conn for record in desk.line.take()] == [1]
    desk.wait(2 * GUEST_WAIT_S)
    assert [record.conn for record in desk.line.take()] == [2]


def test_only_a_normal_close_is_a_clean_end() -> None:
    for code, clean in ((1000, True), (1001, False), (1006, False), (4002, False)):
        desk = Desk()
        session, _ = greeted(desk)
        session.on_closed(code)
        assert desk.line.take() == [records.Detach(1, clean)]


# -- what an address pays for ------------------------------------------------------------------------------------------


def test_strangers_and_guests_pay_for_their_address_and_users_do_not() -> None:
    desk = Desk(verifier=Verifier([SECRET]))
    guest, wire = greeted(desk)
    desk.allowance.address_wait = 0.5
    say(guest, type="ping", id=1)
    refused = wire.pop()
    assert (refused["code"], refused["retry_after"], refused["id"]) == ("rate_limited", 0.5, 1)
    assert desk.counters[Metric.RATE_LIMITED_PER_IP] == desk.counters[Metric.RATE_LIMITED] == 1
    desk.allowance.address_wait = 0.0
    say(guest, type="auth", token=make_token(SECRET, "ann", now=desk.wall))
    desk.allowance.address_wait = 0.5
    wire.sent.clear()
    say(guest, type="ping", id=2)
    assert wire.pop()["type"] == "pong"


def test_after_too_many_refused_tokens_of_the_address_only_known_ones_are_looked_at() -> None:
    desk = Desk(require_auth=True, verifier=Verifier([SECRET]))
    known = make_token(SECRET, "ann", now=desk.wall)
    assert desk.identities.verifier is not None
    desk.identities.verifier.verify(known, desk.wall)
    session, wire = greeted(desk)
    say(session, type="auth", token="x.y.z")
    assert wire.pop()["type"] == "auth_failed"
    assert desk.allowance.refused_tokens == 1
    desk.allowance.token_wait = 3.0
    say(session, type="auth", token=make_token(SECRET, "bob", now=desk.wall), id=1)
    refused = wire.pop()
    assert (refused["code"], refused["retry_after"]) == ("rate_limited", 3.0)
    assert desk.counters[Metric.REFUSED_TOKEN_RATE] == 1
    assert desk.allowance.refused_tokens == 1
    say(session, type="auth", token=known)
    assert wire.pop()["type"] == "auth_success"


def test_a_guests_password_tries_are_its_addresss() -> None:
    desk = Desk(verifier=Verifier([SECRET]))
    guest, wire = greeted(desk)
    desk.allowance.password_wait = 7.0
    say(guest, type="join_room", room="a", password="guess", id=1)
    refused = wire.pop()
    assert (refused["code"], refused["retry_after"]) == ("rate_limited", 7.0)
    assert desk.counters[Metric.PASSWORD_TRIES_LIMITED] == 1
    assert desk.line.take() == []
    say(guest, type="join_room", room="a", id=2)
    say(guest, type="auth", token=make_token(SECRET, "ann", now=desk.wall))
    say(guest, type="join_room", room="a", password="known", id=3)
    assert [type(record).__name__ for record in desk.line.take()].count("Join") == 2
