"""Presence as others see it, and messages to one user."""

from __future__ import annotations

import pytest
from helpers.engine import WALL_OFFSET, Client, Node

from tuskws_fast.ipc.records import PresenceMode
from tuskws_fast.rooms.permissions import PRESENCE


@pytest.fixture
def node() -> Node:
    return Node(workers=2)


def room_of(node: Node, *users: str, room: str = "chat") -> list[Client]:
    clients = [node.connect(user, worker=n % 2) for n, user in enumerate(users)]
    for client in clients:
        client.join(room)
    node.advance(1.0)
    for client in clients:
        client.take()
    return clients


def statuses(client: Client) -> list[tuple[str, str]]:
    return [(push["userId"], push["status"]) for push in client.take("presence_update")]


# -- presence --------------------------------------------------------------------------------------------------------


def test_a_change_reaches_those_who_share_a_room_once_and_not_the_user(node: Node) -> None:
    alice, bob, carol = room_of(node, "alice", "bob", "carol")
    bob.join("second")
    alice.join("second")
    stranger = node.connect("stranger")
    node.advance(1.0)
    assert bob.call("presence", status="busy") == {"type": "ack"}
    node.advance(0.1)
    assert statuses(alice) == statuses(carol) == [("bob", "busy")]
    assert statuses(bob) == statuses(stranger) == []


def test_an_update_says_when(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob.call("presence", status="away")
    node.advance(0.1)
    (push,) = alice.take()
    assert push == {
        "type": "presence_update",
        "userId": "bob",
        "status": "away",
        "last_seen": push["timestamp"],
        "timestamp": pytest.approx(node.now + WALL_OFFSET, abs=0.01),
    }


def test_changes_within_a_tick_are_one_and_a_change_back_is_none(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    for status in ("away", "busy", "away"):
        bob.call("presence", status=status)
    node.advance(0.1)
    assert statuses(alice) == [("bob", "away")]
    bob.call("presence", status="busy")
    bob.call("presence", status="away")
    node.advance(1.0)
    assert statuses(alice) == []


def test_a_bad_status_is_told_so(node: Node) -> None:
    assert node.connect("alice").call("presence", status="asleep")["code"] == "bad_status"


def test_two_tabs_are_one_presence_the_best_of_both(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    tab = node.connect("bob")
    tab.join("chat")
    bob.call("presence", status="away")
    node.advance(0.2)
    assert statuses(alice) == [], "the other tab is online"
    tab.close()
    node.advance(0.2)
    assert statuses(alice) == [("bob", "away")]
    bob.close()
    assert statuses(alice) == [("bob", "offline")], "a clean end is told at once"


def test_a_lost_connection_keeps_its_lease_for_the_grace(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    lost_at = node.wall
    bob.drop()
    node.advance(9.9)
    assert alice.call("get_presence", users=["bob"])["users"][0]["status"] == "online"
    assert statuses(alice) == []
    node.advance(0.2)
    (push,) = alice.take("presence_update")
    assert push["status"] == "offline"
    assert push["last_seen"] == pytest.approx(lost_at + 10.0)


def test_invisible_looks_like_offline_everywhere(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob.call("presence", status="offline")
    gone_at = node.wall
    node.advance(0.2)
    assert statuses(alice) == [("bob", "offline")]
    node.advance(30.0)
    assert alice.call("get_presence", users=["bob"])["users"] == [
        {"userId": "bob", "status": "offline", "last_seen": gone_at}
    ]
    members = node.connect("carol").join("chat")["members"]
    assert {entry["userId"]: entry["status"] for entry in members}["bob"] == "offline"
    assert alice.tell("bob", "psst")["queued"] is True
    assert [push["message"] for push in bob.take("private_message")] == ["psst"]
    alice.take()
    bob.close()
    assert statuses(alice) == [], "nothing changed for anyone"


def test_an_invisible_arrival_is_no_news(node: Node) -> None:
    watcher = node.connect("watcher", mode=PresenceMode.ALL)
    node.connect("ghost", status="offline")
    node.connect("guest")
    node.advance(0.2)
    assert statuses(watcher) == [("guest", "online")]


def test_who_wants_all_hears_of_everyone_on_every_worker(node: Node) -> None:
    watcher = node.connect("watcher", worker=1, mode=PresenceMode.ALL)
    node.advance(1.0)
    bob = node.connect("bob")
    node.advance(0.2)
    assert statuses(watcher) == [("bob", "online")]
    watcher.attach(mode=PresenceMode.ROOMS)
    bob.close()
    assert statuses(watcher) == []
    assert node.engine.census()["watchers"] == 0


def test_a_lost_watcher_is_no_reason_to_tell_its_worker(node: Node) -> None:
    watcher = node.connect("watcher", worker=1, mode=PresenceMode.ALL)
    node.advance(1.0)
    watcher.drop()
    assert node.engine.census()["watchers"] == 0
    node.advance(60.0)
    assert node.engine.census()["watchers"] == 0


def test_who_wants_none_hears_of_no_one(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    alice.attach(mode=PresenceMode.NONE)
    bob.close()
    assert statuses(alice) == []


def test_large_rooms_carry_no_presence() -> None:
    node = Node(presence_full_max=2)
    alice, bob, _ = room_of(node, "alice", "bob", "carol")
    bob.call("presence", status="busy")
    node.advance(1.0)
    assert statuses(alice) == []
    assert alice.call("get_presence", users=["bob"])["users"][0]["status"] == "busy"


# -- private messages ------------------------------------------------------------------------------------------------


def test_a_private_message_reaches_every_connection_of_its_recipient_alone(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob_tab, alice_tab = node.connect("bob"), node.connect("alice")
    ack = alice.tell("bob", {"text": "hi"})
    assert ack == {"type": "ack", "offset": 1, "level": "accepted", "delivered": 2, "queued": False}
    expected = {
        "type": "private_message",
        "message": {"text": "hi"},
        "from": "alice",
        "timestamp": node.wall,
        "epoch": "e2",
        "offset": 1,
    }
    assert bob.take("private_message") == bob_tab.take("private_message") == [expected]
    assert alice_tab.take("private_message") == alice.take("private_message") == []


def test_an_inbox_has_one_order_for_all_connections(node: Node) -> None:
    alice, carol, bob = node.connect("alice"), node.connect("carol", worker=1), node.connect("bob")
    bob_tab = node.connect("bob", worker=1)
    offsets = [sender.tell("bob", n)["offset"] for n, sender in enumerate((alice, carol, alice))]
    assert offsets == [1, 2, 3]
    heard = [push["message"] for push in bob.take("private_message")]
    assert heard == [push["message"] for push in bob_tab.take("private_message")] == [0, 1, 2]


def test_unknown_offline_and_unrelated_recipients_look_the_same(node: Node) -> None:
    node.connect("online-stranger")
    node.connect("gone").close()
    alice = node.connect("alice")
    replies = [alice.tell(to, "hi") for to in ("never-heard-of", "gone", "online-stranger")]
    assert replies == [{"type": "ack", "offset": 1, "level": "accepted"}] * 3


def test_the_permission_shows_what_became_of_a_message(node: Node) -> None:
    alice = node.connect("alice", rights=PRESENCE)
    node.connect("bob")
    assert alice.tell("bob", "hi")["delivered"] == 1
    assert alice.tell("nobody", "hi") == {
        "type": "ack",
        "offset": 1,
        "level": "accepted",
        "delivered": 0,
        "queued": True,
    }


def test_a_message_waits_until_it_is_confirmed(node: Node) -> None:
    alice = node.connect("alice")
    for n in range(3):
        alice.tell("bob", n)
    bob = node.connect("bob", worker=1)
    assert [push["message"] for push in bob.take("private_message")] == [0, 1, 2]
    bob.confirm(2)
    bob.attach(status="away")
    assert bob.take("private_message") == []
    bob.close()
    assert [push["message"] for push in node.connect("bob").take("private_message")] == [2]


def test_confirming_is_cumulative_and_never_goes_back(node: Node) -> None:
    alice, bob = node.connect("alice"), node.connect("bob")
    for n in range(5):
        alice.tell("bob", n)
    bob.confirm(4)
    bob.confirm(1)
    assert [push["message"] for push in node.connect("bob").take("private_message")] == [4]
    bob.confirm(99)
    alice.tell("bob", 5)
    assert [push["message"] for push in node.connect("bob").take("private_message")] == [5]


def test_confirmation_of_another_epoch_says_nothing(node: Node) -> None:
    alice, bob = node.connect("alice"), node.connect("bob")
    alice.tell("bob", "hi")
    bob.confirm(1, epoch="another")
    assert len(node.connect("bob").take("private_message")) == 1


def test_nobody_confirms_for_another_user(node: Node) -> None:
    alice = node.connect("alice")
    alice.tell("bob", "hi")
    alice.confirm(1)
    assert len(node.connect("bob").take("private_message")) == 1


def test_what_was_sent_to_nobody_yet_is_never_dropped_for_something_newer() -> None:
    node = Node(inbox_size=3)
    alice = node.connect("alice")
    for n in range(3):
        alice.tell("bob", n)
    assert alice.tell("bob", 3)["code"] == "queue_full"
    assert node.engine.counters["inbox_size"] == 1
    bob = node.connect("bob")
    assert alice.tell("bob", 3)["offset"] == 4
    assert [push["message"] for push in bob.take("private_message")] == [0, 1, 2, 3]


def test_messages_wait_for_a_bounded_number_of_users() -> None:
    node = Node(inboxes_max=2)
    alice = node.connect("alice")
    assert [alice.tell(f"user-{n}", "hi").get("code") for n in range(3)] == [None, None, "queue_full"]
    assert node.engine.counters["inboxes_max"] == 1
    assert alice.tell("user-1", "again")["offset"] == 2
    node.connect("user-0").confirm(1)
    assert alice.tell("user-2", "hi")["offset"] == 1


def test_one_sender_uses_up_his_own_share_of_the_inboxes() -> None:
    node = Node(inboxes_per_sender_max=2, inbox_ttl_s=100.0)
    alice, bob = node.connect("alice"), node.connect("bob", worker=1)
    assert [alice.tell(f"user-{n}", "hi").get("code") for n in range(4)] == [None, None, "queue_full", "queue_full"]
    assert node.engine.counters["inboxes_per_sender_max"] == 2
    assert alice.tell("user-1", "again")["offset"] == 2, "what is waited for already takes no other place"
    assert alice.tell("bob", "you are here")["offset"] == 1
    assert bob.tell("user-2", "hi")["offset"] == 1
    assert bob.tell("user-0", "hi")["offset"] == 2
    node.connect("user-0")
    assert alice.tell("user-3", "hi")["offset"] == 1, "who comes gives the place back"
    node.advance(150.0)
    assert [alice.tell(f"other-{n}", "hi").get("code") for n in range(3)] == [None, None, "queue_full"]


def test_a_message_during_the_grace_waits_for_the_return(node: Node) -> None:
    alice, bob = node.connect("alice"), node.connect("bob", worker=1)
    bob.drop()
    alice.tell("bob", "are you there?")
    node.advance(2.0)
    back = node.connect("bob")
    assert [push["message"] for push in back.take("private_message")] == ["are you there?"]


def test_a_queued_message_is_kept_no_longer_than_its_time() -> None:
    node = Node(inbox_ttl_s=300.0)
    alice = node.connect("alice")
    alice.tell("bob", "old")
    node.advance(290.0)
    alice.tell("bob", "new")
    node.advance(20.0)
    assert [push["message"] for push in node.connect("bob").take("private_message")] == ["new"]


def test_a_retried_private_message_is_delivered_once(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    first = alice.tell("bob", "hi", key="k")
    assert alice.tell("bob", "hi", key="k") == {**first, "duplicate": True}
    assert alice.tell("bob", "ho", key="k")["code"] == "bad_message"
    assert len(bob.take("private_message")) == 1
    node.advance(302.0)
    assert node.engine.census()["dedupe_entries"] == 0


def test_a_message_to_oneself_arrives(node: Node) -> None:
    alice = node.connect("alice")
    assert alice.tell("alice", "note")["delivered"] == 1
    assert len(alice.take("private_message")) == 1


@pytest.mark.parametrize("to", ["", "x" * 129, "a\nb"])
def test_a_recipient_that_cannot_exist_is_refused(node: Node, to: str) -> None:
    assert node.connect("alice").tell(to, "hi")["code"] == "bad_message"


def test_the_server_may_write_to_anyone(node: Node) -> None:
    bob = node.connect("bob", worker=1)
    assert node.server.tell("bob", "notice")["delivered"] == 1
    assert len(bob.take("private_message")) == 1


def test_made_up_recipients_cost_a_bounded_number_of_records() -> None:
    node = Node(inboxes_max=10, inbox_ttl_s=100.0, dedupe_window_s=20.0, offline_users_max=5)
    alice = node.connect("alice")
    for n in range(50):
        alice.tell(f"nobody-{n}", "hi", key="k")
    census = node.engine.census()
    assert census["waiting"] == 10
    assert census["people"] == 11
    assert census["dedupe_entries"] == 10
    node.advance(150.0)
    census = node.engine.census()
    assert (census["waiting"], census["offline"]) == (0, 5)


def test_what_is_ordered_before_the_broker_hears_of_a_connection_is_for_it_too() -> None:
    """The connection was told whose it is; its Attach is on the way while another tab gets and confirms a message."""
    node = Node()
    ann, first = node.connect("ann"), node.connect("bob")
    ann.tell("bob", "before")
    first.confirm(1)
    node.now += 1.0
    told_at = node.now
    node.now += 0.2
    ann.tell("bob", "between")
    first.confirm(2)
    node.now += 0.2
    ann.tell("bob", "waits")
    second = Client(node, node.new_number(1), 1, "bob", 0)
    second.told_at = told_at
    node.workers[1].clients[second.conn] = second
    second.attach()
    assert [push["message"] for push in second.take("private_message")] == ["between", "waits"]
    assert [push["message"] for push in first.take("private_message")] == ["before", "between", "waits"]
    second.attach(status="away")
    assert second.take("private_message") == [], "it is the same connection"
    third = node.connect("bob")
    assert [push["message"] for push in third.take("private_message")] == ["waits"], "it came later"


def test_what_was_confirmed_a_moment_ago_is_soon_forgotten_and_never_much() -> None:
    node = Node(recent_bytes_max=1_000)
    ann, bob = node.connect("ann"), node.connect("bob")
    for n in range(50):
        ann.tell("bob", [n, "x" * 50])
    bob.confirm(50)
    inbox = node.engine._core.known_person("bob").inbox
    assert inbox is not None
    assert inbox.recent is not None
    assert 0 < sum(len(body) for _, _, body in inbox.recent) <= 1_000
    node.advance(node.limits.recent_s + 0.1)
    assert inbox.recent is None


@pytest.mark.parametrize("asks", ["join", "get_presence"])
def test_who_was_shown_a_status_before_it_was_pushed_hears_that_it_is_taken_back(node: Node, asks: str) -> None:
    ann, bob = node.connect("ann"), node.connect("bob", worker=1)
    ann.join("chat")
    if asks == "get_presence":
        bob.join("chat")
        node.advance(1.0)
        ann.call("presence", status="busy")
        assert bob.call("get_presence", users=["ann"])["users"][0]["status"] == "busy"
        ann.call("presence", status="online")
    else:
        assert [each["status"] for each in bob.join("chat")["members"]] == ["online", "online"]
        ann.call("presence", status="offline")  # which others were told last
    bob.take()
    node.advance(1.0)
    told = [push["status"] for push in bob.take("presence_update")]
    assert told == ["online" if asks == "get_presence" else "offline"]
