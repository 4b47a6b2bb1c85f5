"""The tables stay bounded and true to each other; what is too old goes by itself."""

from __future__ import annotations

import zlib

from helpers.engine import Node
from helpers.footprint import bytes_left_by

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
    private.invite("guest")
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


def test_a_room_with_one_member_is_small() -> None:
    node = Node()
    clients = [node.connect(f"user {number}") for number in range(50)]
    clients[0].join("before")

    def join_rooms() -> None:
        for number in range(1_000):
            clients[number % 50].join(f"room-of-an-ordinary-name-{number}")
            clients[number % 50].pushes.clear()

    # About 800 in CPython 3.11, and 500 that the node of the test remembers of each. A deque, a set and a dict more in
    # each room would be 900.
    assert bytes_left_by(join_rooms) / 1_000 < 1_500


def test_a_history_that_has_run_dry_weighs_as_little_as_a_new_one() -> None:
    def use(rooms: list[History]) -> None:
        for history in rooms:
            history.append(b"x", 0.0)
            history.trim(2.0)

    tally = Tally(1_000_000)
    histories = [History(tally, 10, 1.0, 1_000) for _ in range(1_000)]
    assert bytes_left_by(lambda: use(histories)) / 1_000 < 50
    histories[0].append(b"y", 3.0)
    assert (len(histories[0]), len(histories[1]), histories[0].replay(1, 3.0)) == (1, 0, [b"y"])


def test_what_is_decided_about_one_room_is_not_of_another() -> None:
    here, there = room(), room()
    here.ban("mallory", None)
    here.mute("eve", None)
    here.invite("alice")
    here.note_try("oscar", 1, 0.0)
    assert (dict(there.bans), dict(there.mutes), set(there.invited), dict(there.tries)) == ({}, {}, set(), {})
    assert here.is_banned("mallory", 1.0)
    assert here.is_muted("eve", 1.0)
    assert not there.is_banned("mallory", 1.0)


def test_a_room_that_is_closed_and_opened_again_is_found_and_listed_once() -> None:
    core = Core(EngineLimits(), 0.0, lambda: "e")
    made = core.new_room("chat")
    for public in (False, False, True, True):
        core.apply_settings(made, RoomSettings(public=public))
        assert core.room("chat") is made
        assert list(core.shard_of("chat").rooms()) == [made]
        assert ("chat" in core.shard_of("chat").public) is public
    core.remove_room(made)
    assert core.room("chat") is None
