"""Settings, and keeping people out: role by action, and what happens to those concerned."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import Client, Node

from tuskws_fast.broker.timers import LAPSED_MIN
from tuskws_fast.rooms.permissions import CREATE, EVERYTHING, JOIN, MODERATE


@pytest.fixture
def node() -> Node:
    return Node(workers=2)


@pytest.fixture
def creator(node: Node) -> Client:
    client = node.connect("creator", rights=CREATE)
    client.call("create_room", room="chat", settings={})
    client.rights = 0
    return client


@pytest.fixture
def member(node: Node, creator: Client) -> Client:
    client = node.connect("member", worker=1)
    client.join("chat")
    return client


# -- rooms -----------------------------------------------------------------------------------------------------------


def test_creating_a_room_shows_its_settings_and_joins_nobody(node: Node) -> None:
    alice = node.connect("alice", rights=CREATE)
    reply = alice.call("create_room", room="lobby", settings={"max_members": 50, "password": "sesame"})
    assert reply["type"] == "room_created"
    assert reply["room"] == "lobby"
    assert reply["settings"]["max_members"] == 50
    assert reply["settings"]["password"] is True
    assert "sesame" not in str(reply)
    assert alice.call("room_info", room="lobby")["member_count"] == 0
    assert alice.call("create_room", room="lobby", settings={})["code"] == "room_exists"


def test_creating_needs_the_right_to(node: Node) -> None:
    assert node.connect("alice", rights=MODERATE).call("create_room", room="lobby")["code"] == "forbidden"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"max_members": "many"}, "bad_message"),
        ({"history_size": 10_001}, "bad_message"),
        ({"persistent": True}, "unavailable"),
        ({"slow_consumer": "explode"}, "bad_message"),
        ([], "bad_message"),
    ],
)
def test_settings_that_cannot_be_leave_no_room_behind(node: Node, settings: Any, code: str) -> None:
    alice = node.connect("alice", rights=EVERYTHING)
    assert alice.call("create_room", room="lobby", settings=settings)["code"] == code
    assert alice.call("room_info", room="lobby")["code"] == "no_such_room"


def test_a_created_room_outlives_its_members(node: Node, creator: Client, member: Client) -> None:
    member.leave("chat")
    node.advance(10_000.0)
    assert creator.call("room_info", room="chat")["member_count"] == 0


def test_a_room_that_joining_created_is_nobodys(node: Node) -> None:
    alice = node.connect("alice")
    alice.join("public")
    assert alice.call("update_room", room="public", settings={"moderated": True})["code"] == "forbidden"
    assert alice.call("delete_room", room="public")["code"] == "forbidden"


def test_an_update_changes_what_it_names_and_evicts_nobody(node: Node, creator: Client, member: Client) -> None:
    reply = creator.call("update_room", room="chat", settings={"public": False, "max_members": 1})
    assert reply["type"] == "room_updated"
    assert (reply["settings"]["public"], reply["settings"]["moderated"]) == (False, False)
    assert creator.say("chat", "x")["code"] == "not_in_room"
    assert creator.call("get_presence", room="chat")["code"] == "not_in_room"
    assert member.call("room_info", room="chat")["member_count"] == 1
    assert node.connect("other").join("chat")["code"] == "forbidden"


def test_a_shorter_history_is_shorter_at_once(node: Node, creator: Client, member: Client) -> None:
    for n in range(5):
        member.say("chat", n)
    creator.call("update_room", room="chat", settings={"history_size": 2})
    assert [push["message"] for push in member.call("history", room="chat")["messages"]] == [3, 4]
    creator.call("update_room", room="chat", settings={"history_ttl": 10})
    node.advance(12.0)
    assert node.engine.gauges()["history_bytes"] == 0


def test_deleting_a_room_tells_its_members_and_starts_over(node: Node, creator: Client, member: Client) -> None:
    tab = node.connect("member")
    tab.join("chat")
    ack = member.say("chat", "hi", key="k")
    member.take()
    assert creator.call("delete_room", room="chat") == {"type": "room_deleted", "room": "chat"}
    assert member.take() == [{"type": "room_deleted", "room": "chat"}]
    assert tab.take("room_deleted")
    assert member.say("chat", "hi")["code"] == "not_in_room"
    assert creator.call("room_info", room="chat")["code"] == "no_such_room"
    assert member.join("chat", since=(ack["epoch"], ack["offset"]))["recovered"] is False
    assert "duplicate" not in member.say("chat", "hi", key="k")
    member.close()
    tab.close()
    assert node.engine.census()["members"] == 0


# -- people ----------------------------------------------------------------------------------------------------------


def test_a_kick_removes_all_of_a_users_connections_and_tells_them_why(
    node: Node, creator: Client, member: Client
) -> None:
    tab, other = node.connect("member"), node.connect("other")
    tab.join("chat")
    other.join("chat")
    for client in (member, tab, other):
        client.take()
    assert creator.call("kick", room="chat", user="member") == {"type": "ack", "room": "chat"}
    assert member.take() == tab.take() == [{"type": "kicked", "room": "chat", "reason": "kicked"}]
    assert other.take() == [
        {"type": "member_left", "room": "chat", "user": {"id": "member", "username": "Member"}, "member_count": 1}
    ]
    other.say("chat", "gone")
    assert member.heard("chat") == []
    assert member.say("chat", "hello?")["code"] == "not_in_room"
    assert member.join("chat")["type"] == "room_joined"


def test_a_kick_with_seconds_keeps_out_for_so_long(node: Node, creator: Client, member: Client) -> None:
    creator.call("kick", room="chat", user="member", seconds=30)
    assert member.join("chat")["code"] == "forbidden"
    node.advance(30.0)
    assert member.join("chat")["type"] == "room_joined"


def test_only_a_member_can_be_kicked(creator: Client) -> None:
    assert creator.call("kick", room="chat", user="nobody")["code"] == "not_in_room"


def test_a_kick_reaches_a_member_in_its_grace(node: Node, creator: Client, member: Client) -> None:
    member.drop()
    creator.call("kick", room="chat", user="member")
    assert creator.call("room_info", room="chat")["member_count"] == 0
    node.advance(60.0)
    assert node.engine.census()["members"] == 0


def test_a_ban_evicts_and_forbids_until_it_is_lifted(node: Node, creator: Client, member: Client) -> None:
    creator.call("ban", room="chat", user="member")
    assert member.take("kicked") == [{"type": "kicked", "room": "chat", "reason": "banned"}]
    assert member.join("chat")["code"] == "forbidden"
    assert member.call("history", room="chat")["code"] == "forbidden"
    node.advance(1_000_000.0)
    assert member.join("chat")["code"] == "forbidden"
    node.server.call("ban", room="chat", user="member", seconds=0)
    assert member.join("chat")["type"] == "room_joined"


def test_a_ban_with_seconds_ends_by_itself(node: Node, creator: Client) -> None:
    creator.call("ban", room="chat", user="newcomer", seconds=60)
    newcomer = node.connect("newcomer")
    node.advance(59.0)
    assert newcomer.join("chat")["code"] == "forbidden"
    node.advance(1.0)
    assert newcomer.join("chat")["type"] == "room_joined"


def test_a_renewed_ban_does_not_end_with_the_old_one(node: Node, creator: Client) -> None:
    newcomer = node.connect("newcomer")
    creator.call("ban", room="chat", user="newcomer", seconds=60)
    creator.call("ban", room="chat", user="newcomer", seconds=600)
    node.advance(61.0)
    assert newcomer.join("chat")["code"] == "forbidden"


def test_the_muted_may_listen_but_not_speak(node: Node, creator: Client, member: Client) -> None:
    creator.call("mute", room="chat", user="member", seconds=60)
    assert member.say("chat", "hi")["code"] == "moderated"
    node.server.say("chat", "hear this")
    assert member.heard("chat") == ["hear this"]
    node.advance(60.0)
    assert member.say("chat", "hi")["offset"] == 2


def test_a_banned_from_room_nobody_created_is_kept_until_the_ban_ends(node: Node) -> None:
    node.connect("mod").join("public")
    node.server.call("ban", room="public", user="troll", seconds=600)
    node.workers[0].clients[next(iter(node.workers[0].clients))].close()
    node.advance(500.0)
    assert node.connect("troll").join("public")["code"] == "forbidden"
    node.advance(101.0)
    assert node.server.call("room_count")["count"] == 0


@pytest.mark.parametrize("seconds", [-1, "60", True, []])
def test_a_time_that_is_none_is_refused(creator: Client, seconds: Any) -> None:
    assert creator.call("ban", room="chat", user="x", seconds=seconds)["code"] == "bad_message"


def test_one_room_remembers_so_many_sanctions() -> None:
    node = Node(sanctions_max=2)
    node.server.call("create_room", room="chat")
    for user in ("a", "b"):
        assert node.server.call("ban", room="chat", user=user)["type"] == "ack"
    assert node.server.call("mute", room="chat", user="c")["code"] == "overloaded"
    assert node.server.call("ban", room="chat", user="a", seconds=9)["type"] == "ack"


ACTIONS: dict[str, dict[str, Any]] = {
    "update_room": {"settings": {}},
    "kick": {"user": "member"},
    "ban": {"user": "member"},
    "mute": {"user": "member"},
    "delete_room": {},
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("role", "public", "answer"),
    [
        ("creator", True, None),
        ("creator", False, None),
        ("moderator", True, None),
        ("moderator", False, None),
        ("server", False, None),
        ("member", True, "forbidden"),
        ("member", False, "forbidden"),
        ("stranger", True, "forbidden"),
        # A room one may not see does not exist.
        ("stranger", False, "no_such_room"),
        ("joiner", False, "forbidden"),
    ],
)
def test_who_may_moderate(
    node: Node, creator: Client, member: Client, action: str, role: str, public: bool, answer: str | None
) -> None:
    node.server.call("update_room", room="chat", settings={"public": public})
    callers = {
        "creator": creator,
        "member": member,
        "server": node.server,
        "moderator": node.connect("moderator", rights=MODERATE),
        "stranger": node.connect("stranger"),
        "joiner": node.connect("joiner", rights=JOIN),
    }
    reply = callers[role].call(action, room="chat", **ACTIONS[action])
    assert reply.get("code") == answer
    missing = callers[role].call(action, room="not-there", **ACTIONS[action])
    assert missing["code"] == "no_such_room"


def test_sanctions_that_end_in_a_year_leave_no_timers_when_they_are_changed_or_lifted() -> None:
    node = Node(sanctions_max=10)
    creator = node.connect("creator", rights=CREATE)
    year_s = 365 * 86_400
    for n in range(LAPSED_MIN):
        creator.call("create_room", room="lobby")
        for op in ("mute", "ban"):
            creator.call(op, room="lobby", user="again", seconds=year_s + n)
            creator.call(op, room="lobby", user="again", seconds=year_s - n)
            creator.call(op, room="lobby", user=f"once-{n}", seconds=year_s)
            creator.call(op, room="lobby", user=f"once-{n}", seconds=0)
        creator.call("delete_room", room="lobby")
    assert node.engine.census()["timers"] <= 2 * LAPSED_MIN
    creator.call("create_room", room="lobby")
    creator.call("ban", room="lobby", user="again", seconds=60)
    for n in range(2 * LAPSED_MIN):
        creator.call("mute", room="lobby", user="other", seconds=year_s + n)
    node.advance(61.0)
    assert node.connect("again").join("lobby")["type"] == "room_joined", "what was awaited has come up"


def test_a_room_that_is_changed_or_made_anew_again_and_again_leaves_no_timers() -> None:
    node = Node(history_ttl_s=3_600.0)
    creator = node.connect("creator", rights=CREATE)
    for n in range(LAPSED_MIN):
        creator.call("create_room", room="lobby")
        creator.join("lobby")
        creator.say("lobby", "hello")
        creator.call("update_room", room="lobby", settings={"history_ttl": 7_200 + n})
        creator.call("delete_room", room="lobby")
    assert node.engine.census()["timers"] <= LAPSED_MIN + 10
