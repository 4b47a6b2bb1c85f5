"""History, rooms and presence as they are told; and that what one may not see is told like what is not there."""

from __future__ import annotations

import pytest
from helpers.engine import Client, Node

from tuskws_fast.protocol import codec
from tuskws_fast.rooms.permissions import HISTORY, JOIN, PRESENCE


@pytest.fixture
def node() -> Node:
    return Node(workers=2)


@pytest.fixture
def alice(node: Node) -> Client:
    client = node.connect("alice")
    client.join("chat")
    for n in range(1, 6):
        client.say("chat", n)
    return client


def spoken(reply: dict[str, object]) -> list[object]:
    return [push["message"] for push in reply["messages"]]  # type: ignore[attr-defined]


# -- history ---------------------------------------------------------------------------------------------------------


def test_history_without_a_position_gives_the_newest(alice: Client) -> None:
    everything = alice.call("history", room="chat")
    assert spoken(everything) == [1, 2, 3, 4, 5]
    assert everything["recovered"] is None
    assert everything["offset"] == 5
    assert "more" not in everything
    assert spoken(alice.call("history", room="chat", limit=2)) == [4, 5]
    assert spoken(alice.call("history", room="chat", limit=0)) == []


def test_history_since_a_position_can_be_walked_by_its_limit(alice: Client) -> None:
    epoch = alice.call("history", room="chat")["epoch"]
    heard, offset = [], 0
    while offset < 5:
        reply = alice.call("history", room="chat", since=[epoch, offset], limit=2)
        assert reply["recovered"] is True
        heard += spoken(reply)
        offset = reply["offset"]
    assert heard == [1, 2, 3, 4, 5]


def test_history_since_an_unknown_position_is_not_recovered(alice: Client) -> None:
    reply = alice.call("history", room="chat", since=["other", 1])
    assert (reply["recovered"], spoken(reply)) == (False, [])


def test_a_long_history_is_answered_in_pages() -> None:
    node = Node(page_bytes=1_500)
    alice = node.connect("alice")
    alice.join("chat")
    for n in range(10):
        alice.say("chat", f"{n}" * 200)
    pages = alice.call_paged("history", room="chat")
    assert [page["more"] for page in pages] == [True] * (len(pages) - 1) + [False]
    assert [push["offset"] for page in pages for push in page["messages"]] == list(range(1, 11))
    assert all(len(codec.encode(page)) <= 1_500 for page in pages)


def test_history_is_for_members_and_for_those_with_a_claim(node: Node, alice: Client) -> None:
    assert node.connect("bob").call("history", room="chat")["code"] == "not_in_room"
    assert spoken(node.connect("auditor", rights=HISTORY).call("history", room="chat", limit=1)) == [5]
    assert spoken(node.server.call("history", room="chat", limit=1)) == [5]


def test_a_password_protects_history_too(node: Node, alice: Client) -> None:
    node.server.call("update_room", room="chat", settings={"password": "sesame"})
    assert node.connect("bob").call("history", room="chat")["code"] == "not_in_room"


@pytest.mark.parametrize("since", [[], ["e"], ["e", "1"], [1, 1], ["e", True], "e1", 7])
def test_a_position_that_is_none_is_refused(alice: Client, since: object) -> None:
    assert alice.call("history", room="chat", since=since)["code"] == "bad_message"


@pytest.mark.parametrize("question", ["history", "room_info", "get_presence"])
def test_a_private_room_looks_like_no_room(node: Node, alice: Client, question: str) -> None:
    node.server.call("update_room", room="chat", settings={"public": False})
    stranger = node.connect("stranger")
    hidden, missing = stranger.call(question, room="chat"), stranger.call(question, room="nowhere")
    assert hidden == missing
    assert hidden["code"] == "no_such_room"


# -- rooms -----------------------------------------------------------------------------------------------------------


def test_room_info_counts_users_and_never_shows_a_password(node: Node, alice: Client) -> None:
    node.connect("alice").join("chat")
    node.server.call("update_room", room="chat", settings={"password": "sesame", "max_members": 7})
    info = node.connect("stranger").call("room_info", room="chat")
    assert (info["type"], info["room"], info["member_count"]) == ("room_info", "chat", 1)
    assert (info["settings"]["password"], info["settings"]["max_members"]) == (True, 7)
    assert "sesame" not in str(info)


def test_the_list_has_public_rooms_and_those_one_is_in(node: Node, alice: Client) -> None:
    node.server.call("create_room", room="secret", settings={"public": False})
    node.server.call("create_room", room="club", settings={"public": False})
    member = node.connect("member", rights=JOIN)
    member.join("club")
    assert member.call("list_rooms") == {
        "type": "rooms",
        "rooms": [{"room": "club", "member_count": 1}, {"room": "chat", "member_count": 1}],
    }
    assert [entry["room"] for entry in alice.call("list_rooms")["rooms"]] == ["chat"]
    assert len(node.server.call("list_rooms")["rooms"]) == 3
    node.server.call("update_room", room="secret", settings={"public": True})
    assert len(alice.call("list_rooms")["rooms"]) == 2


def test_a_long_list_says_that_there_is_more() -> None:
    node = Node(list_rooms_max=3)
    alice = node.connect("alice")
    for n in range(3):
        alice.join(f"room-{n}")
    assert "more" not in alice.call("list_rooms")
    alice.join("one-too-many")
    reply = node.connect("bob").call("list_rooms")
    assert (len(reply["rooms"]), reply["more"]) == (3, True)


# -- presence --------------------------------------------------------------------------------------------------------


def test_presence_is_told_to_those_who_share_a_room(node: Node, alice: Client) -> None:
    bob, stranger = node.connect("bob", worker=1, status="busy"), node.connect("stranger")
    bob.join("chat")
    assert alice.call("get_presence", users=["bob", "stranger", "nobody"]) == {
        "type": "presence_state",
        "users": [
            {"userId": "bob", "status": "busy", "last_seen": node.wall},
            {"userId": "stranger", "status": "offline", "last_seen": None},
            {"userId": "nobody", "status": "offline", "last_seen": None},
        ],
    }
    assert stranger.call("get_presence", users=["bob"])["users"][0]["status"] == "offline"
    assert stranger.call("get_presence", users=["stranger"])["users"][0]["status"] == "online"


def test_the_permission_sees_everyone_also_those_who_went(node: Node, alice: Client) -> None:
    node.connect("bob").close()
    left_at = node.wall
    node.advance(60.0)
    watcher = node.connect("watcher", rights=PRESENCE)
    assert watcher.call("get_presence", users=["alice", "bob"])["users"] == [
        {"userId": "alice", "status": "online", "last_seen": node.wall},
        {"userId": "bob", "status": "offline", "last_seen": left_at},
    ]
    assert alice.call("get_presence", users=["bob"])["users"][0]["last_seen"] is None


def test_the_presence_of_a_room_is_for_its_members(node: Node, alice: Client) -> None:
    node.connect("bob", status="away").join("chat")
    entries = alice.call("get_presence", room="chat")["users"]
    assert [(entry["userId"], entry["status"]) for entry in entries] == [("alice", "online"), ("bob", "away")]
    assert node.connect("stranger").call("get_presence", room="chat")["code"] == "not_in_room"
    assert node.connect("watcher", rights=PRESENCE).call("get_presence", room="chat")["users"] == entries


def test_presence_is_told_of_so_many_at_once() -> None:
    node = Node(presence_state_max=2)
    clients = [node.connect(f"u{n}") for n in range(3)]
    for client in clients:
        client.join("chat")
    reply = clients[0].call("get_presence", room="chat")
    assert (len(reply["users"]), reply["more"]) == (2, True)
    assert clients[0].call("get_presence", users=["a", "b", "c"])["code"] == "bad_message"
