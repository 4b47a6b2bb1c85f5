"""What many have missed is read once and is exactly what each alone would be given."""

from __future__ import annotations

from typing import Any

from helpers.engine import Node


def messages(pages: list[Any]) -> list[Any]:
    return [push["message"] for page in pages for push in page["messages"]]


def published(node: Node, count: int, body: str = "") -> tuple[Any, str]:
    ann = node.connect("ann")
    epoch = ann.join("room")["epoch"]
    for n in range(1, count + 1):
        ann.say("room", [n, body])
    return ann, epoch


def test_history_is_read_once_for_all_who_come_from_the_same_place() -> None:
    node = Node(presence_full_max=1)
    _, epoch = published(node, 20)
    for n in range(100):
        joined = node.connect(f"user{n}", worker=n % 2).join("room", since=(epoch, 5))
        assert joined["recovered"] is True
        assert [push["offset"] for push in joined["messages"]] == list(range(6, 21))
        assert joined["member_count"] == n + 2
    assert (node.engine.counters["replays_made"], node.engine.counters["replays_shared"]) == (1, 99)


def test_what_is_published_meanwhile_comes_at_the_end() -> None:
    node = Node()
    ann, epoch = published(node, 3)
    for n in range(4, 30):
        joined = node.connect(f"user{n}").join("room", since=(epoch, 1))
        assert [push["offset"] for push in joined["messages"]] == list(range(2, n))
        assert joined["offset"] == n - 1
        ann.say("room", n)
    assert node.engine.counters["replays_made"] == 1


def test_pages_are_those_of_one_who_comes_alone() -> None:
    node = Node(page_bytes=8_192, history_size=1_000)
    ann, epoch = published(node, 200, "x" * 100)
    alone = node.connect("first").join_paged("room", (epoch, 0))
    for n in range(201, 260):
        ann.say("room", [n, "y" * 100])
        pages = node.connect(f"user{n}").join_paged("room", (epoch, 0))
        assert messages(pages)[:200] == messages(alone)
        assert [push["offset"] for page in pages for push in page["messages"]] == list(range(1, n + 1))
        assert [page.get("more") for page in pages] == [True] * (len(pages) - 1) + [False]
        assert {page["type"] for page in pages[1:]} == {"history"}
    assert node.engine.counters["replays_made"] <= 2, "heads grow; steps of 4 KiB do not matter to many"


def test_nobody_is_given_what_is_over_or_of_another_epoch() -> None:
    node = Node(history_ttl_s=5.0, history_size=10)
    ann, epoch = published(node, 5)
    bob, carl, dora = node.connect("bob"), node.connect("carl"), node.connect("dora")
    assert bob.join("room", since=(epoch, 2))["recovered"] is True
    for n in range(20):
        ann.say("room", n)
    assert carl.join("room", since=(epoch, 2))["recovered"] is False, "ten are kept"
    assert carl.leave("room")["type"] == "room_left"
    assert carl.join("room", since=(epoch, 20))["recovered"] is True
    node.advance(5.5)
    assert dora.join("room", since=(epoch, 20))["recovered"] is False, "they are too old"
    for client in (ann, bob, carl, dora):
        client.leave("room")
    node.advance(10.0)
    again = ann.join("room")
    assert again["epoch"] != epoch
    ann.say("room", "new")
    assert bob.join("room", since=(epoch, 0))["recovered"] is False
    assert messages([carl.join("room", since=(again["epoch"], 0))]) == ["new"]


def test_pages_are_forgotten_and_never_many() -> None:
    node = Node(replays_bytes_max=10_000)
    _, epoch = published(node, 50, "x" * 100)
    for n in range(10):
        node.connect(f"user{n}").join("room", since=(epoch, n))
    replays = node.engine._members.replays
    assert 0 < sum(pages.bytes for pages in replays._known.values()) <= 20_000
    assert len(replays._known) < 3
    node.advance(node.limits.replays_s + 0.1)
    assert not replays._known
