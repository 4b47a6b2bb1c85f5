"""A broker dies and its journal does not: what its successor knows, and what nobody notices."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from helpers.engine import Client, Node
from hypothesis import given, settings

from tuskws_fast.broker.restoring import EMPTY_ROOM_S
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import Level


@pytest.fixture
def node() -> Node:
    return Node(durable=True)


@pytest.fixture
def alice(node: Node) -> Client:
    alice = node.connect("alice")
    alice.join("chat")
    return alice


@pytest.fixture
def bob(node: Node, alice: Client) -> Client:
    bob = node.connect("bob", worker=1)
    bob.join("chat")
    return bob


def restart(node: Node) -> None:
    node.kill_broker()
    for slot in node.workers:
        node.announce(slot)


def compact(node: Node) -> None:
    """Old segments go: a snapshot of each sequence is all that is left of them."""
    for scope in node.engine.scopes():
        node.engine.ledger.entries += node.engine.snapshot(scope)
    node.written.clear()
    node.write()


def test_members_go_on_in_their_epoch_and_hear_no_gap(node: Node, alice: Client, bob: Client) -> None:
    first = alice.say("chat", 1)
    restart(node)
    second = alice.say("chat", 2)
    assert (second["epoch"], second["offset"]) == (first["epoch"], 2)
    assert bob.heard("chat") == [1, 2]
    assert bob.take("gap") == []
    back = node.connect("back")
    joined = back.join("chat", since=(first["epoch"], 0))
    assert joined["recovered"] is True
    assert [each["message"] for each in joined["messages"]] == [1, 2]


def test_what_was_written_and_not_told_is_told_by_the_successor(node: Node, alice: Client, bob: Client) -> None:
    alice.say("chat", 1)
    prefix = b'{"type":"room_message","room":"chat","message":2,"from":"alice"'
    lost = records.Publish(alice.conn, 77, 0, 0, True, False, "chat", "", prefix)
    node.engine.handle(0, lost, node.now, node.wall)
    node.write()  # and dies here
    restart(node)
    assert alice.heard("chat") == bob.heard("chat") == [1, 2]
    assert bob.take("gap") == []
    # The worker had no answer and asks again: it is told what came of it, and nothing is published.
    node.send(0, lost)
    assert node.answers.pop(77)[0]["offset"] == 2
    assert alice.say("chat", 3)["offset"] == 3


def test_private_message_that_was_written_is_not_sent_twice(node: Node, alice: Client, bob: Client) -> None:
    prefix = b'{"type":"private_message","message":"psst","from":"alice"'
    lost = records.Private(alice.conn, 78, 0, 0, False, "bob", "", prefix)
    node.engine.handle(0, lost, node.now, node.wall)
    node.write()
    restart(node)
    node.send(0, lost)
    assert node.answers.pop(78)[0]["offset"] == 1
    assert [push["message"] for push in bob.take("private_message")] == ["psst"]


def test_numbers_of_old_commands_are_forgotten(node: Node, alice: Client) -> None:
    alice.say("chat", 1)
    restart(node)
    assert node.engine.ledger.origins
    node.advance(61.0)
    assert not node.engine.ledger.origins


def test_ids_are_known_to_the_successor(node: Node, alice: Client) -> None:
    first = alice.say("chat", "hi", key="k")
    private = alice.tell("bob", "hi", key="k")
    restart(node)
    assert alice.say("chat", "hi", key="k") == {**first, "duplicate": True}
    assert alice.say("chat", "ho", key="k")["code"] == "bad_message"
    assert alice.tell("bob", "hi", key="k") == {**private, "duplicate": True}
    node.advance(301.0)
    assert alice.say("chat", "hi", key="k")["offset"] == 2


def test_a_repeated_id_names_the_epoch_in_which_it_was_published(node: Node, alice: Client, bob: Client) -> None:
    first = alice.say("chat", 1, key="k")
    alice.say("chat", 2)
    del node.written[-1]  # a disk that forgets: the room has to begin a new epoch
    restart(node)
    assert alice.say("chat", 3)["epoch"] != first["epoch"]
    assert alice.say("chat", 1, key="k") == {**first, "duplicate": True}
    compact(node)
    restart(node)
    assert alice.say("chat", 1, key="k") == {**first, "duplicate": True}


def test_history_is_as_old_as_it_was(alice: Client, node: Node) -> None:
    alice.say("chat", "old")
    node.advance(200.0)
    alice.say("chat", "new")
    restart(node)
    node.advance(150.0)
    assert [each["message"] for each in alice.call("history", room="chat")["messages"]] == ["new"]


def test_worker_that_saw_more_than_is_written_gets_another_epoch(node: Node, alice: Client, bob: Client) -> None:
    first = alice.say("chat", 1)
    alice.say("chat", 2)
    del node.written[-1]  # a disk that lies
    restart(node)
    third = alice.say("chat", 3)
    assert third["epoch"] != first["epoch"]
    assert [gap["epoch"] for gap in bob.take("gap")] == [third["epoch"]]
    assert bob.heard("chat") == [1, 2, 3]
    assert node.engine.counters["positions_ahead"] >= 1


def test_facts_are_restored_with_their_time(node: Node, alice: Client) -> None:
    node.server.call("create_room", room="private", settings={"public": False, "password": "p"})
    node.server.call("invite", room="private", user="bob")
    node.server.call("ban", room="chat", user="carl", seconds=100)
    node.server.call("ban", room="chat", user="dan")
    node.server.call("mute", room="chat", user="alice", seconds=50)
    restart(node)
    node.advance(60.0)
    assert node.connect("eve").join("private")["code"] == "forbidden"
    assert node.connect("bob").join("private", password="p")["type"] == "room_joined"
    assert node.connect("carl").join("chat")["code"] == "forbidden"
    assert alice.say("chat", "hi")["type"] == "ack"
    node.advance(60.0)
    assert node.connect("carl").join("chat")["type"] == "room_joined"
    assert node.connect("dan").join("chat")["code"] == "forbidden"


def test_fact_that_is_damaged_errs_towards_closed_doors(node: Node, alice: Client) -> None:
    node.server.call("create_room", room="private", settings={"public": False})
    node.server.call("ban", room="chat", user="carl", seconds=100)
    node.facts["room\nprivate"] = None
    node.facts["ban\nchat\ncarl"] = {"until": "soon"}
    restart(node)
    assert node.connect("eve").join("private")["code"] == "forbidden"
    node.advance(200.0)
    assert node.connect("carl").join("chat")["code"] == "forbidden"
    assert node.engine.counters["facts_damaged"] == 2


def test_gap_of_a_new_epoch_tells_what_was_missed_of_the_one_before(node: Node, alice: Client, bob: Client) -> None:
    alice.say("chat", 1)
    prefix = b'{"type":"room_message","room":"chat","message":2,"from":"alice"'
    node.engine.handle(0, records.Publish(alice.conn, 77, 0, 0, True, False, "chat", "", prefix), node.now, node.wall)
    node.write()  # and dies here; its successor cannot write, and somebody publishes before bob's worker has spoken
    node.kill_broker()
    node.engine.ledger.writing = False
    node.announce(0)
    assert alice.say("chat", 3)["offset"] == 3
    node.announce(1)
    (gap,) = bob.take("gap")
    assert (gap["from"], gap["to"]) == (2, 3)


def test_lost_settings_close_every_door_and_what_is_known_of_a_room_stays(node: Node, alice: Client) -> None:
    node.server.call("create_room", room="club", settings={"max_members": 7})
    node.server.call("ban", room="club", user="carl")
    # Lost, as if it had never been said; the room itself is as it was.
    del node.facts["ban\nclub\ncarl"]
    node.kill_broker(doors_closed=True)
    for slot in node.workers:
        node.announce(slot)
    for room in ("club", "chat"):
        assert node.connect("carl").join(room)["code"] == "forbidden"
    assert node.server.call("room_info", room="club")["settings"]["max_members"] == 7
    node.server.call("update_room", room="club", settings={"public": True})
    restart(node)
    assert node.connect("dan").join("club")["type"] == "room_joined"
    assert node.connect("dan").join("chat")["code"] == "forbidden"


def test_recovered_room_that_nobody_returns_to_goes(node: Node, alice: Client) -> None:
    alice.say("chat", 1)
    node.advance(299.0)
    node.kill_broker()
    for slot in list(node.workers):
        node.kill_worker(slot)
    assert node.engine.gauges()["rooms_current"] == 1
    node.advance(EMPTY_ROOM_S + 10.0)
    assert node.engine.gauges()["rooms_current"] == 0
    assert node.journal().scopes == {}


def test_inbox_waits_for_its_user_over_a_restart(node: Node, alice: Client) -> None:
    for n in range(5):
        alice.tell("zoe", n)
    zoe = node.connect("zoe")
    zoe.confirm(2)
    restart(node)
    assert [push["offset"] for push in zoe.take("private_message")] == [1, 2, 3, 4, 5]
    assert [push["offset"] for push in node.connect("zoe").take("private_message")] == [3, 4, 5]


steps = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(("one", "two")), st.booleans()),
    st.tuples(st.just("tell"), st.sampled_from(("bob", "zoe")), st.booleans()),
    st.tuples(st.sampled_from(("kill", "sync", "bad disk", "good disk", "compact")), st.just(""), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40))
def test_whatever_dies_no_position_says_two_things_and_nothing_written_is_lost(
    history: list[tuple[str, str, bool]],
) -> None:
    node = Node(durable=True)
    alice, bob = node.connect("alice"), node.connect("bob", worker=1)
    for client in (alice, bob):
        for room in ("one", "two"):
            client.join(room)
    said: dict[tuple[str, str, int], int] = {}
    stored: dict[tuple[str, str, int], int] = {}
    for number, (step, name, flag) in enumerate(history):
        if step in ("say", "tell"):
            answer = alice.say(name, number) if step == "say" else alice.tell(name, number)
            if step == "say":
                position = (name, answer["epoch"], answer["offset"])
                assert position not in said
                said[position] = number
                if answer["level"] == "stored":
                    stored[position] = number
        elif step == "kill":
            restart(node)
        elif step == "sync":
            node.sync(flag)
        elif step == "bad disk":
            node.disk(False)
        elif step == "good disk" and not node.engine.ledger.writing:
            node.disk(True)
        elif step == "compact" and node.engine.ledger.writing:
            compact(node)
    for push in bob.take("room_message"):
        assert said[push["room"], push["epoch"], push["offset"]] == push["message"]
    node.disk(True)
    restart(node)
    for room in ("one", "two"):
        kept = {
            (room, each["epoch"], each["offset"]): each["message"]
            for each in alice.call("history", room=room)["messages"]
        }
        wanted = {position: number for position, number in stored.items() if position[0] == room}
        assert wanted.items() <= kept.items()
    assert [Level.STORED.name.lower()] == [alice.say("one", "end")["level"]]


def test_private_messages_of_a_forsaken_epoch_do_not_pass_for_those_that_are_stored() -> None:
    node = Node(durable=True)
    ann, bob = node.connect("ann"), node.connect("bob", worker=1)
    ann.tell("bob", "one")
    node.disk(False)
    ann.tell("bob", "accepted")  # the second offset, in an epoch that the journal never hears of
    assert [push["message"] for push in bob.take("private_message")] == ["one", "accepted"]
    node.kill_broker()
    node.announce(0)
    ann.tell("bob", "stored")  # has the second offset too, before bob's worker has spoken
    node.announce(1)
    assert [push["message"] for push in bob.take("private_message")][-1] == "stored"
