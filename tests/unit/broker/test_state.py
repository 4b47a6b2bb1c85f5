"""The tables stay bounded and true to each other; what is too old goes by itself."""

from __future__ import annotations

import zlib

from helpers.engine import Node

from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.broker.state import Core, Person, Room
from tuskws_fast.rooms.history import History, Tally
from tuskws_fast.rooms.permissions import EVERYTHING, JOIN, MODERATE, PRESENCE
from tuskws_fast.rooms.settings import RoomSettings


def test_a_name_belongs_to_the_same_shard_in_every_broker() -> None:
    core = Core(EngineLimits(), 0.0, lambda: "e")
    for name in ("chat", "caf\u00e9", "x" * 128):
        assert core.shard_of(name) is core.shards[zlib.crc32(name.encode()) % 64]


def room(**settings: object) -> Room:
    made = Room("chat", "e", History(Tally(1_000), 1, 1.0, 1_000))
    made.settings = RoomSettings(**settings)  # type: ignore[arg-type]
    return made


def test_claims_add_to_what_a_room_gives_and_nothing_takes_away() -> None:
    public, private = room(), room(public=False)
    private.invited.add("guest")
    private.creator = "owner"
    assert public.rights("anyone", 0) & JOIN
    assert not public.rights("anyone", 0) & MODERATE
    assert private.rights("anyone", 0) == 0
    assert private.rights("anyone", MODERATE) == MODERATE
    assert private.rights("guest", 0) & JOIN
    assert not private.rights("guest", 0) & MODERATE
    assert private.rights("owner", 0) & MODERATE
    assert private.rights("anyone", EVERYTHING) == EVERYTHING


def test_a_room_without_a_creator_is_not_the_servers_to_everyone() -> None:
    assert room(public=False).rights("", 0) == 0


def test_people_share_a_room_when_both_are_in_it() -> None:
    alice, bob = Person("alice"), Person("bob")
    alice.rooms = {"one": room(), "two": room()}
    bob.rooms = {"three": room()}
    assert not alice.shares_room_with(bob)
    assert not bob.shares_room_with(alice)
    bob.rooms["two"] = alice.rooms["two"]
    assert alice.shares_room_with(bob)
    assert bob.shares_room_with(alice)
    assert Person("lonely").shares_room_with(bob) is False


def test_histories_are_swept_when_nobody_reads_them() -> None:
    node = Node(history_ttl_s=80.0, inbox_ttl_s=80.0)
    alice = node.connect("alice")
    alice.join("chat")
    alice.tell("alice", "note")
    for n in range(10):
        alice.say("chat", n)
        node.advance(5.0)
    assert node.engine.gauges()["history_bytes"] > 0
    node.advance(100.0)
    assert node.engine.gauges()["history_bytes"] == 0
    assert node.engine.next_deadline() is None
    alice.say("chat", "again")
    assert node.engine.next_deadline() is not None


def test_a_sweep_of_a_room_that_returned_does_not_double() -> None:
    node = Node()
    alice = node.connect("alice")
    for _ in range(5):
        alice.join("chat")
        alice.say("chat", "hi")
        node.server.call("delete_room", room="chat")
        node.advance(10.0)
    alice.join("chat")
    alice.say("chat", "hi")
    node.advance(299.0)
    assert node.engine.census()["timers"] == 1


def test_all_histories_together_are_bounded() -> None:
    node = Node(history_bytes_total_max=5_000)
    alice = node.connect("alice", rights=PRESENCE)
    for n in range(20):
        alice.join(f"room-{n}")
        for _ in range(10):
            alice.say(f"room-{n}", "x" * 100)
    assert node.engine.gauges()["history_bytes"] <= 5_000
    assert node.engine.counters["history_bytes_total_max"] > 0


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
