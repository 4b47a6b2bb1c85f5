"""Levels: what a publication is promised, what is written for it, and when that is refused."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import Node

from tuskws_fast.ipc.records import Level
from tuskws_fast.storage.entries import Ended, Opened, Published


@pytest.fixture
def node() -> Node:
    return Node(durable=True)


def kinds(node: Node) -> list[str]:
    return [type(entry).__name__ for entry in node.written]


def test_publication_is_stored_unless_less_is_asked_for(node: Node) -> None:
    alice = node.connect("alice")
    alice.join("chat")
    levels = [alice.say("chat", "m", level=level)["level"] for level in (Level.DEFAULT, Level.ACCEPTED, Level.STORED)]
    assert levels == ["stored", "accepted", "stored"]
    assert kinds(node) == ["Opened", "Published", "Published", "Published"]
    published = node.written[1]
    assert isinstance(published, Published)
    assert published.body[: published.prefix].endswith(b'"from":"alice"')
    assert (published.scope, published.offset, published.user) == ("chat", 1, "alice")


@pytest.mark.parametrize("level", [-5, -1, 4, 255])
def test_level_that_there_is_not_is_refused(node: Node, level: int) -> None:
    alice = node.connect("alice")
    alice.join("chat")
    assert alice.say("chat", "m", level=level & 0xFF)["code"] == "bad_message"
    assert alice.tell("bob", "m", level=level)["code"] == "bad_message"


def test_synced_answer_waits_for_the_disk_and_the_message_does_not(node: Node) -> None:
    alice, bob = node.connect("alice"), node.connect("bob", worker=1)
    for client in (alice, bob):
        client.join("chat")
    tag = node.publish_waiting(alice, "chat", "hi", Level.SYNCED)
    assert bob.heard("chat") == ["hi"]
    assert tag not in node.answers
    node.sync()
    assert node.answers[tag][0]["level"] == "synced"


def test_answer_says_stored_where_the_disk_fails_meanwhile(node: Node) -> None:
    alice = node.connect("alice")
    alice.join("chat")
    tag = node.publish_waiting(alice, "chat", "hi", Level.SYNCED)
    node.sync(works=False)
    assert node.answers[tag][0]["level"] == "stored"


def test_retry_that_asks_for_synced_waits_too(node: Node) -> None:
    alice = node.connect("alice")
    alice.join("chat")
    alice.say("chat", "hi", key="k")
    tag = node.publish_waiting(alice, "chat", "hi", Level.SYNCED, key="k")
    assert tag not in node.answers
    node.sync()
    assert (node.answers[tag][0]["level"], node.answers[tag][0]["duplicate"]) == ("synced", True)


@pytest.mark.parametrize("level", [Level.STORED, Level.SYNCED])
def test_without_a_journal_storing_is_unavailable_and_nothing_is_published(level: Level) -> None:
    node = Node()
    alice = node.connect("alice")
    alice.join("chat")
    assert alice.say("chat", "hi", level=level)["code"] == "unavailable"
    assert alice.tell("bob", "hi", level=level)["code"] == "unavailable"
    assert alice.say("chat", "hi")["offset"] == 1
    assert node.engine.counters["level_unavailable"] == 2
    assert node.written == []


def test_room_that_keeps_nothing_is_not_written(node: Node) -> None:
    alice = node.connect("alice")
    node.server.call("create_room", room="fleeting", settings={"history_size": 0})
    alice.join("fleeting")
    assert alice.say("fleeting", "hi")["level"] == "accepted"
    assert alice.say("fleeting", "hi", level=Level.STORED)["code"] == "unavailable"
    assert kinds(node) == ["Opened", "Ended"]
    node.server.call("update_room", room="fleeting", settings={"history_size": 5})
    assert alice.say("fleeting", "hi")["level"] == "stored"
    opened = node.written[2]
    assert isinstance(opened, Opened)
    assert opened.base == 1


def test_room_that_goes_is_forgotten(node: Node) -> None:
    alice = node.connect("alice")
    alice.join("chat")
    alice.leave("chat")
    assert node.written[-1] == Ended("chat")
    assert node.journal().scopes == {}


def gap_of(client: Any) -> dict[str, Any]:
    (gap,) = client.take("gap")
    return dict(gap)


def test_first_publication_that_is_not_written_begins_an_epoch_that_no_journal_knows(node: Node) -> None:
    alice, bob = node.connect("alice"), node.connect("bob", worker=1)
    for client in (alice, bob):
        client.join("chat")
    first = alice.say("chat", "one")
    node.disk(False)
    assert alice.say("chat", "refused", level=Level.STORED)["code"] == "unavailable"
    assert bob.take("gap") == []
    second = alice.say("chat", "two")
    assert (second["level"], second["offset"]) == ("accepted", 2)
    assert second["epoch"] != first["epoch"]
    gap = gap_of(bob)
    assert (gap["epoch"], gap["from"], gap["to"]) == (second["epoch"], 2, 1)
    assert bob.heard("chat") == ["one", "two"]
    alice.say("chat", "three")
    assert bob.take("gap") == []
    state = node.journal().scopes["chat"]
    assert (state.epoch, state.top) == (first["epoch"], 1)


def test_what_was_only_accepted_is_written_when_the_disk_works_again(node: Node) -> None:
    alice = node.connect("alice")
    for room in ("chat", "quiet", "gone"):
        alice.join(room)
        alice.say(room, "one")
    node.disk(False)
    two = alice.say("chat", "two")
    node.server.call("delete_room", room="gone")
    alice.join("new")
    node.disk(True)
    assert alice.say("chat", "three")["level"] == "stored"
    found = node.journal().scopes
    assert found.keys() == {"chat", "quiet", "new"}
    assert (found["chat"].epoch, found["chat"].top, len(found["chat"].kept)) == (two["epoch"], 3, 3)
    assert found["chat"].base == 1
