"""Who has no session: remembered for a while, or at once no more."""

from __future__ import annotations

import pytest
from helpers.engine import Client, Node

from tuskws_fast.broker.timers import LAPSED_MIN
from tuskws_fast.rooms.permissions import PRESENCE


def known(node: Node) -> int:
    return node.engine.census()["people"]


def test_who_stayed_away_is_forgotten_after_a_while() -> None:
    node = Node(offline_ttl_s=600.0)
    node.connect("alice").close()
    node.advance(300.0)
    node.connect("bob").close()
    node.advance(301.0)
    assert node.engine.census()["offline"] == 1
    node.advance(300.0)
    assert node.engine.census()["people"] == 0
    assert node.engine.next_deadline() is None


def test_who_is_written_to_is_remembered_longer_and_holds_up_nobody() -> None:
    node = Node(offline_ttl_s=600.0)
    watcher = node.connect("watcher", rights=PRESENCE)
    for user in ("alice", "bob"):
        node.connect(user).close()
        node.advance(100.0)
    watcher.tell("alice", "come back")
    node.advance(550.0)
    seen = watcher.call("get_presence", users=["alice", "bob"])["users"]
    assert [entry["last_seen"] is None for entry in seen] == [False, True]


def test_who_came_back_is_not_forgotten() -> None:
    node = Node(offline_ttl_s=600.0)
    node.connect("alice").close()
    node.connect("alice").join("chat")
    node.advance(10_000.0)
    assert node.engine.gauges()["online_users"] == 1
    assert node.server.call("get_presence", users=["alice"])["users"][0]["status"] == "online"


def test_coming_and_going_leaves_one_timer_not_many() -> None:
    node = Node()
    for _ in range(50):
        node.connect("alice").close()
    node.advance(1.0)
    assert node.engine.census()["timers"] <= 2


# -- guests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
def test_a_guest_is_forgotten_with_the_ticket(clean: bool) -> None:
    node = Node(keep_alive_s=300.0, grace_s=10.0)
    for n in range(50):
        guest = node.connect(f"guest-{n}")
        guest.join("chat")
        guest.close() if clean else guest.drop()
    node.advance(11.0)
    assert node.engine.gauges()["users_remembered"] == 50
    assert node.engine.gauges()["online_users"] == 0
    node.advance(300.0)
    assert known(node) == 0
    assert node.engine.counters["offline_users_max"] == 0


def test_a_guest_without_a_ticket_is_forgotten_at_once() -> None:
    node = Node(keep_alive_s=0.0)
    watcher = node.connect("watcher", rights=PRESENCE)
    watcher.join("chat")
    guest = node.connect("guest-1")
    guest.join("chat")
    watcher.take()
    guest.close()
    assert known(node) == 1
    assert [push["type"] for push in watcher.take()] == ["member_left", "presence_update"]
    assert watcher.call("get_presence", users=["guest-1"])["users"][0]["last_seen"] is None


def test_a_guest_who_comes_back_finds_the_inbox_and_is_forgotten_after_the_second_time() -> None:
    node = Node(keep_alive_s=300.0, grace_s=10.0)
    ann, guest = node.connect("ann"), node.connect("guest-1")
    guest.drop()
    node.advance(20.0)
    ann.tell("guest-1", "wait for me")
    node.advance(200.0)
    again = node.connect("guest-2", 1)
    assert again.resume(guest.ticket)["user"]["id"] == "guest-1"
    assert [push["message"] for push in again.take("private_message")] == ["wait for me"]
    again.confirm(1)
    node.advance(1_000.0)
    assert node.engine.gauges()["online_users"] == 2, "the ticket that was used is no end of anything"
    again.close()
    node.advance(299.0)
    assert known(node) == 2
    node.advance(2.0)
    assert known(node) == 1


@pytest.mark.parametrize("durable", [True, False])
def test_what_waits_for_a_guest_goes_with_the_ticket(durable: bool) -> None:
    node = Node(durable=durable, keep_alive_s=300.0, grace_s=10.0)
    ann, guest = node.connect("ann"), node.connect("guest-1")
    ann.tell("guest-1", "seen", key="k1")
    guest.close()
    ann.tell("guest-1", "missed", key="k2")
    assert node.engine.census()["waiting"] == 1
    node.advance(301.0)
    census = node.engine.census()
    assert (census["people"], census["waiting"], census["parted"]) == (1, 0, 0)
    assert (census["history_bytes"], census["dedupe_entries"]) == (0, 0)
    assert node.engine.unwritten(["\nguest-1"]) == ["\nguest-1"], "the journal is to forget it too"


def test_the_inboxes_of_guests_who_have_gone_leave_no_timers() -> None:
    """An inbox is swept after a week at the latest."""
    node = Node(keep_alive_s=0.0)
    ann = node.connect("ann")
    for n in range(3 * LAPSED_MIN):
        guest = node.connect(f"guest-{n}")
        ann.tell(f"guest-{n}", "hello")
        guest.close()
    assert node.engine.census()["timers"] <= LAPSED_MIN + 10


def test_a_guest_whose_ticket_is_pushed_out_is_forgotten() -> None:
    node = Node(resumable_max=2)
    for n in range(5):
        node.connect(f"guest-{n}").close()
    assert known(node) == 2
    assert node.engine.counters["resumable_max"] == 3


def test_a_guest_whose_session_is_revoked_is_forgotten_connected_or_not() -> None:
    node = Node(keep_alive_s=300.0)
    here, gone = node.connect("guest-1"), node.connect("guest-2")
    gone.close()
    for each in (here, gone):
        node.server.call("revoke", session=each.ticket)
    assert known(node) == 0


def test_a_name_that_a_token_gave_is_no_guests() -> None:
    """Whatever it looks like; and somebody may be a guest by the same name before."""
    node = Node(keep_alive_s=300.0, offline_ttl_s=3_600.0)
    guest = node.connect("guest-1")
    named = Client(node, node.new_number(0), 0, "guest-1", 0)
    node.workers[0].clients[named.conn] = named
    named.attach(claims=[None, 0, [], None, None])
    named.close()
    guest.close()
    node.advance(1_000.0)
    assert known(node) == 1
    node.advance(3_600.0)
    assert known(node) == 0


def test_a_made_up_name_is_no_guests_either() -> None:
    """Somebody may sign in by it and find what waits."""
    node = Node(keep_alive_s=0.0)
    node.connect("ann").tell("bob", "hello")
    node.advance(10_000.0)
    assert [push["message"] for push in node.connect("bob").take("private_message")] == ["hello"]
