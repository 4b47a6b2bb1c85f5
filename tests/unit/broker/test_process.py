"""What the engine lets go of is freed by counting references: the broker's collector looks at nothing twice."""

from __future__ import annotations

import gc

from helpers.engine import Node

from tuskws_fast.broker.process import spare_the_living
from tuskws_fast.rooms.permissions import EVERYTHING


def live(node: Node) -> None:
    """A bit of everything, until nobody and nothing is left."""
    people = [node.connect(f"user {number}", worker=number % 2) for number in range(6)]
    for number, client in enumerate(people):
        client.join("all")
        client.join(f"room-{number % 2}")
        client.say("all", "hello", key=f"k{number}")
        client.tell("user 0", "psst")
    people[0].rights = EVERYTHING
    people[0].call("ban", room="all", user="user 5")
    people[1].leave("all")
    people[2].drop()
    for client in people[3:]:
        client.close()
    people[0].close()
    people[1].close()
    node.advance(10_000.0)


def test_what_the_engine_lets_go_of_is_in_no_cycle() -> None:
    node = Node()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        live(node)
        gc.collect()
        ours = [each for each in gc.garbage if type(each).__module__.startswith("tuskws_fast.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert ours == []


def test_a_full_collection_is_the_last_that_looks_at_what_lives() -> None:
    kept: list[list[int]] = [[] for _ in range(10_000)]
    before = gc.get_freeze_count()
    gc.callbacks.append(spare_the_living)
    try:
        gc.collect(1)
        assert gc.get_freeze_count() == before
        gc.collect()
        assert gc.get_freeze_count() - before >= len(kept)
    finally:
        gc.callbacks.remove(spare_the_living)
        gc.unfreeze()
