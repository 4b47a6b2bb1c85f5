"""Sums of the workers become receipts: once a second at most, one that is final, and none left hanging."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import Client, Node

from tuskws_fast.ipc import records


@pytest.fixture
def node() -> Node:
    return Node(workers=2)


@pytest.fixture
def room(node: Node) -> tuple[Client, Client]:
    ann, bob = node.connect("ann"), node.connect("bob", 1)
    ann.join("r")
    bob.join("r")
    ann.take()
    return ann, bob


def count(node: Node, slot: int, delivered: int, acked: int, nth: int = -1) -> None:
    """The worker says what it counted for the `nth` watch it was given."""
    watch = [watch for worker, watch in node.watched if worker == slot][nth]
    node.send(slot, records.Seen(*watch, delivered, acked))


def receipts(client: Client) -> list[tuple[int, int, bool]]:
    return [(push["delivered"], push["acked"], push["final"]) for push in client.take("receipt")]


def test_each_worker_counts_before_its_members_hear(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", key="k", receipt=True)
    assert [slot for slot, _ in node.watched] == [0, 1]
    assert node.watched[0][1] == records.Watch("r", "e1", 1, ann.conn, "k")
    again = records.Publish(ann.conn, 0, 0, 0, True, False, "r", "", b'{"type":"room_message"', False, True)
    out = node.engine.handle(0, again, node.now, node.wall)
    for slot in (0, 1):
        assert [type(each) for to, each in out if to == slot] == [records.Watch, records.Publication]


def test_final_comes_at_once_when_all_have_confirmed(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", key="k", receipt=True)
    count(node, 0, 0, 0)
    assert receipts(ann) == []  # nobody knows yet how many worker 1 has
    count(node, 1, 1, 0)
    count(node, 1, 1, 1)
    [push] = ann.take("receipt")
    assert push == {
        "type": "receipt",
        "ref": "k",
        "room": "r",
        "offset": 1,
        "delivered": 1,
        "acked": 1,
        "final": True,
    }
    assert sorted(node.unwatched) == [(0, 1), (1, 1)]
    node.advance(40.0)
    assert receipts(ann) == []
    assert node.engine.census()["receipts"] == 0


def test_at_most_one_a_second_and_the_last_after_thirty(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", key="k", receipt=True)
    count(node, 0, 0, 0)
    for acked in range(9):
        count(node, 1, 10, acked)
        node.advance(0.25)
    assert receipts(ann) == [(10, 3, False), (10, 7, False)]
    node.advance(1.0)
    assert receipts(ann) == [(10, 8, False)]
    node.advance(26.0)
    assert receipts(ann) == []  # nothing new, nothing told
    node.advance(2.0)
    assert receipts(ann) == [(10, 8, True)]


def test_nobody_else_there_is_final_at_once(node: Node) -> None:
    ann = node.connect("ann")
    ann.join("r")
    ann.say("r", "hi", receipt=True)
    count(node, 0, 0, 0)
    assert receipts(ann) == [(0, 0, True)]


def test_dead_worker_is_not_waited_for(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", receipt=True)
    count(node, 0, 2, 2)
    node.kill_worker(1)
    assert receipts(ann) == [(2, 2, True)]


def test_a_last_worker_that_has_nobody_brings_the_end_within_a_second(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", receipt=True)
    count(node, 1, 1, 1)
    node.advance(1.0)
    assert receipts(ann) == [(1, 1, False)]
    count(node, 0, 0, 0)  # the sums are as they were; but now they are all
    assert receipts(ann) == []
    node.advance(1.0)
    assert receipts(ann) == [(1, 1, True)]


def test_receipt_ends_with_who_asked(node: Node, room: tuple[Client, Client]) -> None:
    ann, bob = room
    ann.say("r", "hi", receipt=True)
    count(node, 0, 0, 0)
    ann.drop()
    count(node, 1, 1, 1)
    assert node.engine.census()["receipts"] == 0
    assert receipts(bob) == []


def test_published_again_it_goes_to_the_new_connection(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", key="k", receipt=True)
    ann.drop()
    again = node.connect("ann")
    again.join("r")
    assert again.say("r", "hi", key="k", receipt=True)["duplicate"]
    assert len(node.watched) == 2  # nothing is counted twice
    count(node, 0, 0, 0)
    count(node, 1, 1, 1)
    assert receipts(again) == [(1, 1, True)]


def test_what_was_counted_while_nobody_was_there_to_hear_is_told_to_who_publishes_again(
    node: Node, room: tuple[Client, Client]
) -> None:
    ann, _ = room
    ann.say("r", "hi", key="k", receipt=True)
    ann.drop()
    count(node, 0, 0, 0)
    count(node, 1, 2, 1)
    node.advance(2.0)
    again = node.connect("ann")
    again.join("r")
    again.say("r", "hi", key="k", receipt=True)
    count(node, 1, 2, 1)
    node.advance(1.0)
    assert receipts(again) == [(2, 1, False)]


def test_one_offset_of_two_epochs_is_two_receipts(node: Node, room: tuple[Client, Client]) -> None:
    ann, bob = room
    ann.say("r", "hi", key="old", receipt=True)
    ann.leave("r")
    bob.leave("r")
    node.server.call("delete_room", room="r")
    ann.join("r")
    assert ann.say("r", "hi", key="new", receipt=True)["offset"] == 1
    assert node.engine.census()["receipts"] == 2
    old, new = node.watched[0][1], node.watched[-1][1]
    assert (old.epoch, old.offset) != (new.epoch, new.offset)
    node.send(0, records.Seen(*new, 0, 0))
    assert [(push["ref"], push["final"]) for push in ann.take("receipt")] == [("new", True)]


def test_open_receipts_are_bounded(room: tuple[Client, Client]) -> None:
    limits: list[tuple[str, dict[str, Any]]] = [
        ("receipts_max", {"receipts_max": 1}),
        ("receipts_room_max", {"receipts_room_max": 1}),
    ]
    for name, limit in limits:
        node = Node(workers=1, **limit)
        ann = node.connect("ann")
        ann.join("r")
        assert ann.say("r", "one", receipt=True)["offset"] == 1
        refused = ann.say("r", "two", receipt=True)
        assert refused["code"] == "overloaded"
        assert node.engine.counters[name] == 1
        assert ann.say("r", "three")["offset"] == 2  # nothing was published by what was refused
        count(node, 0, 0, 0)
        assert ann.say("r", "four", receipt=True)["offset"] == 3
        count(node, 0, 0, 0)
        assert not node.engine._receipts._open
        assert not node.engine._receipts._of_room


def test_successor_of_a_dead_broker_goes_on_counting(node: Node, room: tuple[Client, Client]) -> None:
    ann, _ = room
    ann.say("r", "hi", key="k", receipt=True)
    watch = node.watched[0][1]
    node.kill_broker()
    node.send(0, ann.attachment())
    node.send(0, records.Seen(*watch, 0, 0))
    node.announce(0)
    node.advance(1.5)
    assert receipts(ann) == []  # worker 1 may know more
    node.send(1, records.Seen(*watch, 1, 1))
    assert receipts(ann) == []
    node.announce(1)
    assert receipts(ann) == [(1, 1, True)]
    node.send(1, records.Seen(*watch, 1, 1))  # too late: nobody waits
    assert node.engine.census()["receipts"] == 0


def test_successor_of_a_dead_broker_keeps_no_more_receipts_than_may_be_open() -> None:
    node = Node(workers=1, receipts_max=2)
    node.kill_broker()
    for offset in (1, 2, 3):
        node.send(0, records.Seen("r", "e1", offset, 1, "k", 1, 0))
    assert node.engine.census()["receipts"] == 2
