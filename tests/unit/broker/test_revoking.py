"""What is revoked ends at once, stays revoked over a new broker and a new start, and no longer than it has to."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import WALL_OFFSET, Node

from tuskws_fast.auth.revocation import Revocation
from tuskws_fast.broker.answers import Refused
from tuskws_fast.ipc import records

TTL_S = 100.0


def revoke(node: Node, **args: Any) -> int:
    out, ended = node.engine.revoke(args, node.now, node.wall)
    node.deliver(out)
    return ended


def known(node: Node) -> dict[tuple[str, str], Revocation]:
    return node.engine._core.revocations


@pytest.fixture(params=[False, True], ids=["memory", "durable"])
def node(request: pytest.FixtureRequest) -> Node:
    return Node(durable=request.param, token_ttl_s=TTL_S)


def claims(token_id: str | None = None, issued_at: float | None = None) -> list[Any]:
    return [None, 0, [], token_id, issued_at]


def test_all_sessions_of_a_user_end_wherever_they_are(node: Node) -> None:
    here, there = node.connect("ann", claims=claims()), node.connect("ann", worker=1, claims=claims())
    lost, bob = node.connect("ann", claims=claims()), node.connect("bob")
    for client in (here, there, lost, bob):
        client.join("room")
    lost.drop()
    bob.take()
    assert revoke(node, user="ann") == 2
    assert [push["type"] for push in bob.take()] == ["member_left", "presence_update"]
    assert (node.workers[0].revoked, node.workers[1].revoked) == ([("user", "ann")], [("user", "ann")])
    back = node.connect("guest")
    for client in (here, there, lost):
        assert back.resume(client.ticket)["code"] == "token_expired"
    assert back.resume(bob.ticket)["type"] == "resumed"


def test_what_was_issued_later_is_not_meant(node: Node) -> None:
    old = node.connect("ann", claims=claims(issued_at=node.wall - 5.0))
    new = node.connect("ann", claims=claims(issued_at=node.wall + 5.0))
    assert revoke(node, user="ann") == 1
    back = node.connect("guest")
    assert back.resume(old.ticket)["code"] == "token_expired"
    assert back.resume(new.ticket)["type"] == "resumed"


def test_token_takes_its_sessions_and_no_others_of_the_user(node: Node) -> None:
    meant, other = node.connect("ann", claims=claims("t-1")), node.connect("ann", claims=claims("t-2"))
    gone = node.connect("ann", claims=claims("t-1"))
    gone.close()
    assert revoke(node, token="t-1") == 1
    back = node.connect("guest")
    assert back.resume(meant.ticket)["code"] == back.resume(gone.ticket)["code"] == "token_expired"
    assert back.resume(other.ticket)["type"] == "resumed"


def test_session_ends_alone_and_nothing_is_kept_of_it(node: Node) -> None:
    meant, other = node.connect("ann"), node.connect("ann")
    assert revoke(node, session=meant.ticket) == 1
    assert known(node) == {}
    back = node.connect("guest")
    assert back.resume(meant.ticket)["code"] == "token_expired"
    assert back.resume(other.ticket)["type"] == "resumed"


def test_new_broker_and_new_workers_know_it(node: Node) -> None:
    revoke(node, user="ann")
    revoke(node, token="t-1")
    node.restart_broker()
    assert set(known(node)) == {("user", "ann"), ("token", "t-1")}
    node.start_worker(7)
    assert sorted(node.workers[7].revoked) == [("token", "t-1"), ("user", "ann")]


def test_it_is_kept_as_long_as_a_token_can_be_good(node: Node) -> None:
    revoke(node, user="ann")
    node.advance(TTL_S / 2)
    revoke(node, user="ann")
    node.advance(TTL_S / 2 + 1.0)
    assert set(known(node)) == {("user", "ann")}, "it was renewed"
    node.advance(TTL_S / 2)
    assert known(node) == {}
    assert node.facts == {}
    assert not any(key.startswith("revoked") for worker in node.workers.values() for key in worker.kept)


def test_without_a_bound_on_tokens_it_is_for_good() -> None:
    node = Node(durable=True, token_ttl_s=0.0)
    revoke(node, user="ann")
    node.advance(1e9)
    assert known(node) == {("user", "ann"): Revocation(1_000.0 + WALL_OFFSET, None)}


def test_damaged_fact_errs_towards_refusing() -> None:
    node = Node(durable=True)
    revoke(node, user="ann")
    node.facts = dict.fromkeys(node.facts)
    node.now += 50.0
    node.restart_broker()
    assert known(node) == {("user", "ann"): Revocation(node.wall, None)}


def test_bound_refuses_and_is_counted_and_renewing_is_always_possible() -> None:
    node = Node(revocations_max=2)
    revoke(node, user="ann")
    revoke(node, token="t-1")
    with pytest.raises(Refused):
        revoke(node, user="bob")
    revoke(node, user="ann")
    assert node.engine.counters["revocations_max"] == 1


@pytest.mark.parametrize(
    "args",
    [{}, {"user": "a", "token": "b"}, {"user": ""}, {"user": 1}, {"token": "a\nb"}, {"token": 7}, {"session": "x"}],
)
def test_what_names_nothing_is_refused(args: dict[str, Any]) -> None:
    node = Node()
    with pytest.raises(Refused):
        revoke(node, **args)


def test_application_may_revoke_and_no_client() -> None:
    node = Node()
    ann = node.connect("ann", rights=records.Level.SYNCED | 255)
    assert ann.call("revoke", user="ann")["code"] == "unknown_type"
    assert node.server.call("revoke", user="ann") == {"type": "revoked", "sessions": 1}
