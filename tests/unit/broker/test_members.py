"""Into rooms and out again: the replay on joining, what others are told, bounds, the grace, and faults."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import Client, Node

from tuskws_fast.ipc import records
from tuskws_fast.protocol import codec
from tuskws_fast.rooms.permissions import CREATE, JOIN, MODERATE


@pytest.fixture
def node() -> Node:
    return Node(workers=2)


def room_of(node: Node, *users: str, room: str = "chat") -> list[Client]:
    """Clients of these users, in turn on worker 0 and 1, all in `room`, with nothing left to take."""
    clients = [node.connect(user, worker=n % 2) for n, user in enumerate(users)]
    for client in clients:
        client.join(room)
    node.advance(1.0)
    for client in clients:
        client.take()
    return clients


# -- joining ---------------------------------------------------------------------------------------------------------


def test_joining_tells_where_the_room_stands_and_who_is_there(node: Node) -> None:
    alice, _ = room_of(node, "alice", "bob")
    alice.say("chat", "hi")
    reply = node.connect("carol", status="away").join("chat")
    assert reply == {
        "type": "room_joined",
        "room": "chat",
        "member_count": 3,
        "members": [
            {"userId": "alice", "username": "Alice", "status": "online"},
            {"userId": "bob", "username": "Bob", "status": "online"},
            {"userId": "carol", "username": "Carol", "status": "away"},
        ],
        "epoch": reply["epoch"],
        "offset": 1,
        "recovered": None,
        "messages": [],
    }


def test_the_others_are_told_of_a_users_first_session_and_last_only(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    second_tab = node.connect("bob")
    assert second_tab.join("chat")["member_count"] == 2
    assert alice.take() == []
    bob.leave("chat")
    assert alice.take() == []
    second_tab.leave("chat")
    assert alice.take() == [
        {"type": "member_left", "room": "chat", "user": {"id": "bob", "username": "Bob"}, "member_count": 1}
    ]
    bob.join("chat")
    assert alice.take() == [
        {"type": "member_joined", "room": "chat", "user": {"id": "bob", "username": "Bob"}, "member_count": 2}
    ]
    assert bob.take("member_joined") == []


def test_a_connection_joins_a_room_once(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    assert alice.join("chat")["code"] == "already_in_room"
    assert alice.leave("chat") == {"type": "room_left", "room": "chat"}
    assert alice.leave("chat")["code"] == "not_in_room"
    assert alice.join("chat")["type"] == "room_joined"


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "caf\u00e9"])
def test_a_bad_name_is_told_so(node: Node, name: str) -> None:
    assert node.connect("alice").join(name)["code"] == "bad_room_name"


def test_members_are_left_out_of_large_rooms_but_counted() -> None:
    node = Node(presence_full_max=2)
    room_of(node, "alice", "bob")
    reply = node.connect("carol").join("chat")
    assert reply["member_count"] == 3
    assert "members" not in reply


def test_large_rooms_hear_of_members_at_most_once_a_second() -> None:
    node = Node(presence_full_max=2)
    alice, _ = room_of(node, "alice", "bob")
    for n in range(5):
        node.connect(f"u{n}").join("chat")
    assert alice.take() == []
    node.advance(0.0)
    assert alice.take() == [{"type": "room_stats", "room": "chat", "member_count": 7}]
    node.connect("late").join("chat")
    node.connect("later").join("chat")
    node.advance(0.9)
    assert alice.take("room_stats") == []
    node.advance(0.2)
    assert [push["member_count"] for push in alice.take("room_stats")] == [9]
    node.advance(10.0)
    assert alice.take("room_stats") == []


# -- replay ----------------------------------------------------------------------------------------------------------


def test_a_newcomer_gets_as_many_messages_as_it_asks_for(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    for n in range(5):
        alice.say("chat", n)
    reply = node.connect("bob").join("chat", history=2)
    assert [push["message"] for push in reply["messages"]] == [3, 4]
    assert reply["messages"][0] == {**reply["messages"][0], "type": "room_message", "offset": 4, "room": "chat"}
    assert reply["recovered"] is None


def test_a_member_that_comes_back_gets_exactly_what_it_missed(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    position = alice.say("chat", 1)
    bob.leave("chat")
    for n in (2, 3):
        alice.say("chat", n)
    reply = bob.join("chat", since=(position["epoch"], position["offset"]))
    assert reply["recovered"] is True
    assert [push["message"] for push in reply["messages"]] == [2, 3]
    alice.say("chat", 4)
    assert bob.heard("chat") == [1, 4]


@pytest.mark.parametrize("since", [("another", 1), ("e1", 0), ("e1", 99)])
def test_what_cannot_be_proven_is_not_replayed(since: tuple[str, int]) -> None:
    node = Node(history_size=2)
    (alice,) = room_of(node, "alice")
    for n in range(4):
        alice.say("chat", n)
    reply = node.connect("bob").join("chat", since=since)
    assert (reply["recovered"], reply["messages"], reply["offset"]) == (False, [], 4)


@pytest.mark.parametrize("since", [("e1", "x"), ("e1",), (1, 1), ("e1", True)])
def test_a_position_that_is_none_is_refused(node: Node, since: Any) -> None:
    (alice,) = room_of(node, "alice")
    assert alice.say("chat", "hi")["epoch"] == "e1"
    assert node.connect("bob").join("chat", since=since)["code"] == "bad_message"


def test_a_long_replay_comes_in_pages_and_live_messages_after_the_last() -> None:
    node = Node(page_bytes=2_000)
    (alice,) = room_of(node, "alice")
    epoch = alice.say("chat", "first")["epoch"]
    for n in range(20):
        alice.say("chat", f"{n}" + "x" * 200)
    bob = node.connect("bob", worker=1)
    pages = bob.join_paged("chat", since=(epoch, 1))
    assert [page["type"] for page in pages] == ["room_joined"] + ["history"] * (len(pages) - 1)
    assert [page["more"] for page in pages] == [True] * (len(pages) - 1) + [False]
    assert all(page["recovered"] is True and page["offset"] == 21 for page in pages)
    assert all(len(codec.encode(page)) <= 2_000 for page in pages)
    assert [push["offset"] for page in pages for push in page["messages"]] == list(range(2, 22))
    alice.say("chat", "live")
    assert bob.heard("chat") == ["live"]


def test_a_right_to_join_alone_does_not_read_what_was_said_before(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    epoch = alice.say("chat", "secret")["epoch"]
    node.server.call("update_room", room="chat", settings={"public": False})
    bob = node.connect("bob", rights=JOIN)
    reply = bob.join("chat", since=(epoch, 0), history=9)
    assert (reply["recovered"], reply["messages"]) == (False, [])
    assert bob.call("history", room="chat")["code"] == "forbidden"


# -- who may, and how many -------------------------------------------------------------------------------------------


def test_a_private_room_needs_a_claim_or_an_invitation(node: Node) -> None:
    node.server.call("create_room", room="private", settings={"public": False})
    assert node.connect("alice").join("private")["code"] == "forbidden"
    assert node.connect("bob", rights=JOIN).join("private")["type"] == "room_joined"
    node.server.call("invite", room="private", user="carol")
    assert node.connect("carol").join("private")["type"] == "room_joined"


def test_a_creator_may_enter_its_own_private_room(node: Node) -> None:
    alice = node.connect("alice", rights=CREATE)
    alice.call("create_room", room="mine", settings={"public": False, "password": "sesame"})
    assert alice.join("mine")["type"] == "room_joined"


def test_a_password_is_asked_of_all_but_moderators(node: Node) -> None:
    node.server.call("create_room", room="locked", settings={"password": "sesame"})
    bob = node.connect("bob")
    assert bob.join("locked")["code"] == "bad_password"
    assert bob.join("locked", password="wrong")["code"] == "bad_password"
    assert bob.join("locked", password="sesame")["type"] == "room_joined"
    assert node.connect("mod", rights=MODERATE).join("locked")["type"] == "room_joined"


def test_guessing_passwords_is_slowed_down_for_the_guesser_alone(node: Node) -> None:
    node.server.call("create_room", room="locked", settings={"password": "sesame"})
    bob, carol = node.connect("bob"), node.connect("carol")
    for _ in range(5):
        assert bob.join("locked", password="wrong")["code"] == "bad_password"
    refusal = bob.join("locked", password="sesame")
    assert refusal["code"] == "rate_limited"
    assert refusal["retry_after"] == 60.0
    assert carol.join("locked", password="sesame")["type"] == "room_joined"
    node.advance(60.0)
    assert bob.join("locked", password="sesame")["type"] == "room_joined"


def test_the_right_password_wipes_the_slate(node: Node) -> None:
    node.server.call("create_room", room="locked", settings={"password": "sesame"})
    bob = node.connect("bob")
    for _ in range(3):
        for _ in range(4):
            assert bob.join("locked", password="wrong")["code"] == "bad_password"
        assert bob.join("locked", password="sesame")["type"] == "room_joined"
        bob.leave("locked")


def test_a_full_room_counts_users_and_lets_a_second_tab_in(node: Node) -> None:
    node.server.call("create_room", room="pair", settings={"max_members": 2})
    room_of(node, "alice", "bob", room="pair")
    assert node.connect("carol").join("pair")["code"] == "room_full"
    assert node.connect("alice").join("pair")["member_count"] == 2


def test_a_rooms_own_bound_goes_before_the_nodes() -> None:
    node = Node(max_room_members=1)
    room_of(node, "alice")
    assert node.connect("bob").join("chat")["code"] == "room_full"
    node.server.call("create_room", room="wide", settings={"max_members": 2})
    room_of(node, "alice", "bob", room="wide")
    assert node.engine.counters["max_room_members"] == 1


def test_a_user_may_be_in_so_many_rooms_over_all_connections() -> None:
    node = Node(max_rooms_per_user=2)
    alice, tab = node.connect("alice"), node.connect("alice", worker=1)
    alice.join("one")
    tab.join("two")
    assert alice.join("three")["code"] == "too_many_rooms"
    assert node.server.call("room_count")["count"] == 2, "a refused join creates no room"
    assert alice.join("two")["type"] == "room_joined", "a room the user is in already"
    tab.leave("two")
    alice.leave("two")
    assert alice.join("three")["type"] == "room_joined"


def test_a_node_has_so_many_rooms() -> None:
    node = Node(rooms_max=1)
    alice = node.connect("alice", rights=CREATE)
    alice.join("one")
    assert alice.join("two")["code"] == "overloaded"
    assert alice.call("create_room", room="two")["code"] == "overloaded"


# -- ends ------------------------------------------------------------------------------------------------------------


def test_a_clean_end_is_told_at_once(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob.close()
    assert [push["type"] for push in alice.take()] == ["member_left", "presence_update"]


def test_a_lost_connection_stays_a_member_for_the_grace(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob.drop()
    node.advance(9.9)
    assert alice.take() == []
    assert node.connect("carol").join("chat")["member_count"] == 3
    alice.take()
    node.advance(0.2)
    assert alice.take("member_left")[0]["user"]["id"] == "bob"


def test_who_comes_back_in_the_grace_never_left(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob.drop()
    node.advance(5.0)
    back = node.connect("bob")
    back.join("chat")
    node.advance(20.0)
    assert alice.take() == []
    assert alice.call("room_info", room="chat")["member_count"] == 2


def test_a_lost_connection_is_sent_nothing_more(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    bob.drop()
    record = records.Publish(alice.conn, 0, 0, 0, True, True, "chat", "", b'{"type":"room_message","message":1')
    assert [slot for slot, _ in node.engine.handle(0, record, node.now, node.wall)] == [0]


def test_a_dead_workers_members_leave_together_after_the_grace(node: Node) -> None:
    alice, *_ = room_of(node, "alice", "bob", "carol", "dora")
    node.kill_worker(1)
    alice.say("chat", "anyone?")
    assert alice.heard("chat") == ["anyone?"]
    node.advance(9.9)
    assert alice.take() == []
    node.advance(0.2)
    left = [push["user"]["id"] for push in alice.take("member_left")]
    assert left == ["bob", "dora"]


def test_an_empty_room_lives_as_long_as_its_history_and_returns_with_a_new_epoch(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    epoch = alice.say("chat", "hi")["epoch"]
    alice.leave("chat")
    node.advance(200.0)
    assert alice.join("chat", since=(epoch, 0))["recovered"] is True
    alice.leave("chat")
    node.advance(150.0)
    assert node.server.call("room_count")["count"] == 0
    reply = alice.join("chat", since=(epoch, 1))
    assert (reply["recovered"], reply["offset"]) == (False, 0)
    assert reply["epoch"] != epoch


def test_a_room_without_history_goes_with_its_last_member() -> None:
    node = Node(history_size=0)
    (alice,) = room_of(node, "alice")
    alice.say("chat", "hi")
    alice.leave("chat")
    assert node.server.call("room_count")["count"] == 0


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_lost_records_is_given_them_again_in_pages() -> None:
    node = Node(page_bytes=1_000)
    (alice,) = room_of(node, "alice")
    epoch = alice.say("chat", 0)["epoch"]
    for n in range(1, 10):
        alice.say("chat", f"{n}" + "x" * 200)
    node.send(0, records.Recover("chat", epoch, 3))
    assert len(node.recovered) > 1
    offsets = [offset for record in node.recovered for offset, _ in record.publications]
    assert offsets == [4, 5, 6, 7, 8, 9, 10]
    bodies = [codec.decode(body) for record in node.recovered for _, body in record.publications]
    assert [body["offset"] for body in bodies] == offsets


def test_a_worker_that_missed_nothing_is_told_so(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    epoch = alice.say("chat", 0)["epoch"]
    node.send(0, records.Recover("chat", epoch, 1))
    assert node.recovered == [records.Recovered("chat", epoch, [])]


def test_what_is_no_longer_kept_becomes_a_gap() -> None:
    node = Node(history_size=2)
    (alice,) = room_of(node, "alice")
    for n in range(5):
        epoch = alice.say("chat", n)["epoch"]
    alice.take()
    node.send(0, records.Recover("chat", epoch, 1))
    assert alice.take() == [{"type": "gap", "room": "chat", "epoch": epoch, "from": 2, "to": 5}]
    node.send(0, records.Recover("chat", "older", 3))
    assert alice.take() == [{"type": "gap", "room": "chat", "epoch": epoch, "from": 1, "to": 5}]


def test_recovery_of_a_room_that_is_gone_ends_it_there_too(node: Node) -> None:
    room_of(node, "alice")
    out = node.engine.handle(0, records.Recover("other", "e", 3), node.now, node.wall)
    assert [type(record) for _, record in out] == [records.Gone]


def test_the_position_of_a_room_is_epoch_and_offset(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    epoch = alice.say("chat", "hi")["epoch"]
    assert node.engine.position("chat") == (epoch, 1)
    assert node.engine.position("other") is None
