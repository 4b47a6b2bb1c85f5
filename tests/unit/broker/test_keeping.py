"""After a broker's death: what was decided still holds, who was connected still is, and nobody is told otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import Client, Node

from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import Join, PresenceMode
from tuskws_fast.rooms.permissions import CREATE


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


# -- members and leases ----------------------------------------------------------------------------------------------


def test_members_stay_members_and_are_told_of_the_gap_alone(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    epoch = alice.say("chat", "before")["epoch"]
    alice.take()
    bob.take()
    node.restart_broker()
    node.advance(5.0)
    (gap,) = alice.take()
    assert gap == {"type": "gap", "room": "chat", "epoch": gap["epoch"], "from": 1, "to": 0}
    assert gap["epoch"] != epoch
    assert bob.take() == [gap]
    assert alice.say("chat", "after")["offset"] == 1
    assert bob.heard("chat") == ["after"]
    assert bob.call("room_info", room="chat")["member_count"] == 2


def test_what_is_said_while_others_are_restored_reaches_them_after_their_gap(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    node.kill_broker()
    node.announce(0)
    alice.say("chat", "early")
    node.announce(1)
    alice.say("chat", "late")
    assert bob.take("gap")[0]["to"] == 1
    assert bob.heard("chat") == ["late"]
    assert alice.heard("chat") == ["early", "late"]


def test_a_worker_with_several_members_is_told_of_a_gap_once_a_room(node: Node) -> None:
    clients = [node.connect(user) for user in ("alice", "bob")]
    for client in clients:
        client.join("chat")
        client.join("other")
        client.take()
    node.restart_broker()
    for client in clients:
        assert sorted(push["room"] for push in client.take("gap")) == ["chat", "other"]


def test_an_old_position_is_not_recovered_after_the_death(node: Node) -> None:
    (alice,) = room_of(node, "alice")
    ack = alice.say("chat", "hi")
    node.restart_broker()
    reply = node.connect("bob").join("chat", since=(ack["epoch"], ack["offset"]))
    assert reply["recovered"] is False


def test_presence_is_known_again_and_no_news(node: Node) -> None:
    watcher = node.connect("watcher", mode=PresenceMode.ALL)
    alice, bob = room_of(node, "alice", "bob")
    bob.attach(status="busy")
    node.advance(1.0)
    for client in (watcher, alice, bob):
        client.take()
    node.restart_broker()
    node.advance(5.0)
    assert [push["type"] for push in alice.take()] == ["gap"]
    assert watcher.take() == []
    assert alice.call("get_presence", users=["bob"])["users"][0]["status"] == "busy"
    bob.close()
    assert [push["status"] for push in watcher.take()] == ["offline"]


def test_who_was_not_announced_does_not_exist(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    node.kill_broker()
    node.workers[1].forget(bob)
    node.announce(0)
    node.announce(1)
    assert alice.call("room_info", room="chat")["member_count"] == 1


def test_changes_while_workers_announce_themselves_are_told_afterwards(node: Node) -> None:
    watcher = node.connect("watcher", mode=PresenceMode.ALL)
    node.kill_broker()
    node.announce(0)
    node.connect("newcomer")
    node.advance(1.0)
    assert watcher.take() == []
    node.announce(1)
    assert [push["userId"] for push in watcher.take("presence_update")] == ["newcomer"]


def test_a_worker_that_never_announces_itself_is_waited_for_two_seconds(node: Node) -> None:
    alice = node.connect("alice")
    node.kill_broker()
    node.announce(0)
    node.send(0, Join(alice.conn, 0, 0, "anew", None, None, None))
    node.advance(1.9)
    assert alice.take() == []
    node.advance(0.1)
    assert not node.engine.announcing
    assert [push["type"] for push in alice.take()] == ["room_joined"]


def test_a_worker_that_died_too_is_not_waited_for(node: Node) -> None:
    node.kill_broker()
    node.announce(0)
    assert node.engine.announcing
    node.kill_worker(1)
    assert not node.engine.announcing


def test_a_first_broker_waits_for_nobody(node: Node) -> None:
    assert not node.engine.announcing


# -- facts -----------------------------------------------------------------------------------------------------------


def test_a_private_room_stays_private_and_its_creators(node: Node) -> None:
    creator = node.connect("creator", rights=CREATE)
    creator.call("create_room", room="mine", settings={"public": False, "password": "sesame", "max_members": 3})
    creator.rights = 0
    node.server.call("invite", room="mine", user="guest")
    node.restart_broker()
    assert node.connect("stranger").join("mine")["code"] == "forbidden"
    guest = node.connect("guest")
    assert guest.join("mine", password="wrong")["code"] == "bad_password"
    assert guest.join("mine", password="sesame")["type"] == "room_joined"
    assert creator.call("update_room", room="mine", settings={})["settings"]["max_members"] == 3


def test_bans_and_mutes_hold_and_end_when_they_should(node: Node) -> None:
    _, bob = room_of(node, "alice", "bob")
    node.server.call("ban", room="chat", user="troll", seconds=60)
    node.server.call("mute", room="chat", user="bob", seconds=60)
    node.advance(30.0)
    node.restart_broker()
    troll = node.connect("troll")
    assert troll.join("chat")["code"] == "forbidden"
    assert bob.say("chat", "hi")["code"] == "moderated"
    node.advance(31.0)
    assert troll.join("chat")["type"] == "room_joined"
    assert bob.say("chat", "hi")["type"] == "ack"
    assert all(worker.kept == {} for worker in node.workers.values())


def test_what_was_undone_stays_undone(node: Node) -> None:
    node.server.call("create_room", room="gone", settings={"public": False})
    node.server.call("ban", room="gone", user="x")
    node.server.call("invite", room="gone", user="y")
    node.server.call("delete_room", room="gone")
    assert all(worker.kept == {} for worker in node.workers.values())
    node.restart_broker()
    assert node.connect("alice").join("gone")["type"] == "room_joined"


def test_a_worker_that_starts_later_holds_every_fact(node: Node) -> None:
    node.server.call("create_room", room="private", settings={"public": False})
    node.kill_worker(1)
    node.server.call("ban", room="private", user="x")
    node.start_worker(1, generation=2)
    assert node.workers[1].kept == node.workers[0].kept
    assert len(node.workers[1].kept) == 2


def test_the_newest_version_of_a_fact_wins_and_all_get_it(node: Node) -> None:
    node.server.call("create_room", room="room", settings={"max_members": 1})
    old = dict(node.workers[1].kept)
    node.server.call("update_room", room="room", settings={"max_members": 2})
    node.workers[1].kept = old
    for order in ((0, 1), (1, 0)):
        node.kill_broker()
        for slot in order:
            node.announce(slot)
        assert node.server.call("room_info", room="room")["settings"]["max_members"] == 2
        assert node.workers[0].kept == node.workers[1].kept
        node.workers[1].kept = dict(old)


def test_versions_go_on_after_a_death(node: Node) -> None:
    node.server.call("create_room", room="room", settings={})
    node.restart_broker()
    before = node.workers[0].kept["room\nroom"][0]
    node.server.call("update_room", room="room", settings={"moderated": True})
    assert node.workers[0].kept["room\nroom"][0] > before


def test_a_fact_that_comes_late_is_still_heard_and_passed_on(node: Node) -> None:
    node.server.call("create_room", room="private", settings={"public": False})
    late = node.workers[1].kept
    node.workers[0].kept = {}
    node.kill_broker()
    node.announce(0)
    node.advance(2.0)
    node.announce(1)
    assert node.connect("stranger").join("private")["code"] == "forbidden"
    assert node.workers[0].kept == late


def test_a_member_who_was_banned_is_not_restored(node: Node) -> None:
    alice, bob = room_of(node, "alice", "bob")
    node.kill_broker()
    node.send(0, records.Kept("ban\nchat\nbob", 9, {"until": None}))
    node.announce(0)
    node.announce(1)
    assert bob.take("kicked")
    assert alice.call("room_info", room="chat")["member_count"] == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", {}),
        ("room", {}),
        ("room\nbad name", {}),
        ("room\nx", {"creator": 7, "settings": {}}),
        ("room\nx", None),
        ("ban\nx", {"until": None}),
        ("ban\nx\ny", {}),
        ("ban\nx\ny", {"until": "soon"}),
        ("ban\nx\n\x00", {"until": None}),
        ("magic\nx\ny", {"until": None}),
    ],
)
def test_what_is_no_fact_is_not_kept_and_makes_no_room(node: Node, key: str, value: Any) -> None:
    node.send(0, records.Kept(key, 5, value))
    assert node.server.call("room_count")["count"] == 0
    assert node.workers[1].kept == {}


# -- facts from a broken worker --------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("kind", ["ban", "mute", "invite"])
def test_only_what_was_understood_of_a_fact_is_handed_on(node: Node, kind: str) -> None:
    room_of(node, "alice", "carol")
    key, understood = f"{kind}\nchat\nbob", {} if kind == "invite" else {"until": None}
    # Deeper than a record can be written: handed on as it came, it would end the broker.
    value = {**understood, "more": nested(300)}
    node.deliver(node.engine.handle(0, records.Kept(key, 1, value), node.now, node.wall))
    assert node.workers[1].kept[key] == (1, understood)


@pytest.mark.parametrize("version", [0, -1, 2**53 + 1, 2**64 - 1])
def test_a_version_that_could_not_be_counted_on_is_refused(node: Node, version: int) -> None:
    alice, _ = room_of(node, "alice", "carol")
    key = "invite\nchat\nbob"
    node.deliver(node.engine.handle(0, records.Kept(key, version, {}), node.now, node.wall))
    assert key not in node.workers[1].kept
    assert node.engine.counters["refused_bad_message"] == 1
    alice.rights = CREATE
    assert alice.call("create_room", room="next", settings={})["type"] == "room_created"
