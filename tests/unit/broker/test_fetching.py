"""Old messages of a room, read from the journal: whole, in order, once for all who come, and nobody overtakes."""

from __future__ import annotations

from typing import Any

from helpers.engine import Client, Node

from tuskws_fast.broker.fetching import ROUNDS_MAX
from tuskws_fast.ipc import records

SIZE = 100
MEMORY = 1_000


def deep_node(**limits: Any) -> Node:
    """Of a hundred messages about seven are in memory."""
    defaults = {"history_size": SIZE, "history_memory": MEMORY, "history_bytes": 1_000_000, "history_ttl_s": 1e6}
    return Node(durable=True, **{**defaults, **limits})


def crowd(node: Node, count: int = SIZE) -> tuple[Client, str]:
    ann = node.connect("ann")
    epoch = ann.join("room")["epoch"]
    for n in range(1, count + 1):
        ann.say("room", n)
    return ann, epoch


def messages(pages: list[Any]) -> list[Any]:
    return [push["message"] for page in pages for push in page["messages"]]


def test_join_since_gives_what_only_the_journal_has() -> None:
    node = deep_node()
    _, epoch = crowd(node)
    bob = node.connect("bob", worker=1)
    for since in (0, 1, 50, 99, 100):
        joined = bob.join("room", since=(epoch, since))
        assert joined["recovered"] is True
        assert messages([joined]) == list(range(since + 1, SIZE + 1))
        bob.leave("room")
    assert node.engine.gauges()["history_bytes"] <= MEMORY


def test_history_is_read_page_by_page_from_any_place() -> None:
    node = deep_node(replay_bytes_max=2_000, history_size=2_000)
    ann, epoch = crowd(node, 1_000)
    found: list[Any] = []
    rounds = 0
    while len(found) < 1_000:
        (page,) = ann.call_paged("history", room="room", since=[epoch, len(found)])
        assert page["recovered"] is True
        assert page["messages"], "each page brings something"
        found += messages([page])
        assert page["offset"] == len(found)
        rounds += 1
    assert found == list(range(1, 1_001))
    assert rounds > 3, "no answer reaches further than it may"
    limited = ann.call("history", room="room", since=[epoch, 10], limit=5)
    assert (messages([limited]), limited["offset"]) == ([11, 12, 13, 14, 15], 15)


def test_join_that_needs_more_than_may_be_fetched_is_not_recovered() -> None:
    node = deep_node(replay_bytes_max=2_000, history_size=2_000)
    _, epoch = crowd(node, 1_000)
    joined = node.connect("bob").join("room", since=(epoch, 1))
    assert (joined["recovered"], joined["messages"]) == (False, [])
    assert node.engine.counters["replay_bytes_max"] == 1


def test_newest_come_from_memory_and_journal_together() -> None:
    node = deep_node()
    ann, _ = crowd(node)
    assert messages([ann.call("history", room="room", limit=60)]) == list(range(41, 101))
    assert messages([ann.call("history", room="room")]) == list(range(1, 101))
    assert messages([node.connect("bob").join("room", history=30)]) == list(range(71, 101))


def test_many_who_come_back_at_once_share_one_read() -> None:
    node = deep_node()
    _, epoch = crowd(node)
    node.reads = False
    returning = [node.connect(f"user{n}", worker=n % 2) for n in range(20)]
    tags = []
    for client in returning:
        tag = node.fresh_tag()
        tags.append(tag)
        node.send(client.worker, records.Join(client.conn, tag, 0, "room", None, (epoch, 3), None))
    assert not node.answers
    assert len(node.fetches) == 1
    node.read()
    late = node.connect("late")
    assert messages([late.join("room", since=(epoch, 3))]) == list(range(4, 101))
    assert [messages(node.answers[tag]) for tag in tags] == [list(range(4, 101))] * 20
    assert node.engine.counters["fetches"] == 1
    node.advance(node.limits.fetched_s + 1)
    node.reads = True
    late.leave("room")
    late.join("room", since=(epoch, 3))
    assert node.engine.counters["fetches"] == 2, "it does not stay in memory for ever"


def test_what_a_connection_says_behind_a_join_waits_for_it() -> None:
    node = deep_node(history_size=1_000)
    ann, epoch = crowd(node)
    bob = node.connect("bob")
    node.reads = False
    join, say = node.fresh_tag(), node.fresh_tag()
    node.send(0, records.Join(bob.conn, join, 0, "room", None, (epoch, 0), None))
    prefix = b'{"type":"room_message","room":"room","message":"mine","from":"bob"'
    node.send(0, records.Publish(bob.conn, say, 0, 0, True, False, "room", "", prefix))
    ann.say("room", "meanwhile")
    assert join not in node.answers
    assert say not in node.answers
    node.read()
    assert messages(node.answers[join]) == [*range(1, 101), "meanwhile"]
    assert node.answers[say][0]["offset"] == SIZE + 2
    assert bob.heard("room") == ["mine"]


def test_published_while_it_is_read_leaves_no_hole() -> None:
    node = deep_node(history_size=1_000)
    ann, epoch = crowd(node)
    node.reads = False
    bob = node.connect("bob")
    tag = node.fresh_tag()
    node.send(0, records.Join(bob.conn, tag, 0, "room", None, (epoch, 0), None))
    for n in range(SIZE + 1, SIZE + 51):
        ann.say("room", n)
    node.read()
    assert messages(node.answers[tag]) == list(range(1, SIZE + 51))


def test_what_cannot_be_read_is_not_recovered_and_asked_for_no_more() -> None:
    node = deep_node()
    _, epoch = crowd(node)
    node.reads = False
    bob = node.connect("bob")
    tag = node.fresh_tag()
    node.send(0, records.Join(bob.conn, tag, 0, "room", None, (epoch, 0), None))
    node.read(works=False)
    (joined,) = node.answers[tag]
    assert (joined["recovered"], joined["messages"]) == (False, [])
    assert node.engine.counters["fetches_failed"] == 1
    again = node.connect("carl").join("room", since=(epoch, 0))
    assert again["recovered"] is False
    assert not node.fetches


def test_dead_worker_s_questions_are_forgotten() -> None:
    node = deep_node()
    _, epoch = crowd(node)
    node.reads = False
    bob = node.connect("bob", worker=1)
    node.send(1, records.Join(bob.conn, node.fresh_tag(), 0, "room", None, (epoch, 0), None))
    node.kill_worker(1)
    node.read()
    assert node.engine.census()["members"] == 1


def test_room_that_was_deleted_while_it_was_read_is_a_new_one() -> None:
    node = deep_node()
    _, epoch = crowd(node)
    node.reads = False
    bob = node.connect("bob")
    tag = node.fresh_tag()
    node.send(0, records.Join(bob.conn, tag, 0, "room", None, (epoch, 0), None))
    node.server.call("delete_room", room="room")
    node.read()
    (joined,) = node.answers[tag]
    assert (joined["recovered"], joined["offset"]) == (False, 0)


def test_resumed_session_gets_old_messages_of_all_its_rooms() -> None:
    node = deep_node()
    ann = node.connect("ann")
    epochs = {room: ann.join(room)["epoch"] for room in ("one", "two", "three")}
    bob = node.connect("bob")
    for room in epochs:
        bob.join(room)
    bob.drop()
    for n in range(1, SIZE + 1):
        for room in epochs:
            ann.say(room, n)
    back = node.connect("bob", worker=1)
    answer = back.resume(bob.ticket, **{room: (epoch, 0) for room, epoch in epochs.items()})
    for room in epochs:
        assert answer["rooms"][room]["recovered"] is True
        assert messages([answer["rooms"][room]]) == list(range(1, SIZE + 1))


def test_bounds_of_fetching_refuse_and_are_counted() -> None:
    node = deep_node(fetches_max=1, parked_max=2)
    ann = node.connect("ann")
    epochs = {room: ann.join(room)["epoch"] for room in ("one", "two")}
    for n in range(SIZE):
        for room in epochs:
            ann.say(room, n)
    node.reads = False
    bob, carl = node.connect("bob"), node.connect("carl")
    tags = [node.fresh_tag() for _ in range(6)]
    node.send(0, records.Join(bob.conn, tags[0], 0, "one", None, (epochs["one"], 0), None))
    node.send(0, records.Join(carl.conn, tags[1], 0, "two", None, (epochs["two"], 0), None))
    assert node.answers[tags[1]][0]["code"] == "unavailable"
    for tag in tags[2:5]:
        node.send(0, records.Leave(bob.conn, tag, "one"))
    assert node.answers[tags[4]][0]["code"] == "overloaded"
    assert (node.engine.counters["fetches_max"], node.engine.counters["parked_max"]) == (1, 2)
    node.read()
    assert node.answers[tags[2]][0]["type"] == "room_left"


def test_windows_are_let_go_of_when_they_are_too_much() -> None:
    node = deep_node(fetched_bytes_max=1)
    ann = node.connect("ann")
    for room in ("one", "two"):
        ann.join(room)
        for n in range(SIZE):
            ann.say(room, n)
    for room in ("one", "two", "one", "two"):
        assert len(messages([ann.call("history", room=room)])) == SIZE
    assert node.engine.counters["fetches"] == 4
    assert node.engine.counters["fetched_bytes_max"] == 3


def test_session_of_more_rooms_than_can_be_fetched_at_once_is_refused() -> None:
    node = deep_node(fetched_bytes_max=1)
    ann = node.connect("ann")
    bob = node.connect("bob")
    epochs = {}
    for room in ("one", "two"):
        epochs[room] = ann.join(room)["epoch"]
        bob.join(room)
    bob.drop()
    for n in range(SIZE):
        for room in epochs:
            ann.say(room, n)
    back = node.connect("bob")
    answer = back.resume(bob.ticket, **{room: (epoch, 0) for room, epoch in epochs.items()})
    assert answer["code"] == "overloaded"
    assert node.engine.counters["fetches"] == ROUNDS_MAX


def test_new_broker_goes_on_with_what_the_old_one_had_written() -> None:
    node = deep_node()
    _, epoch = crowd(node)
    node.restart_broker()
    joined = node.connect("bob").join("room", since=(epoch, 0))
    assert joined["recovered"] is True
    assert messages([joined]) == list(range(1, SIZE + 1))
    assert node.engine.counters["fetches"] == 1
    assert node.engine.gauges()["history_bytes"] <= MEMORY
