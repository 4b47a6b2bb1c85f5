"""What a worker had committed when it died: all of it counts, but for what only it could have used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.engine import Node

from tuskws_fast.broker.inbox import Inbox
from tuskws_fast.broker.outbox import Outbox
from tuskws_fast.ipc import records
from tuskws_fast.ipc.bell import Bell
from tuskws_fast.ipc.link import Link, format_link, link_bytes
from tuskws_fast.ipc.records import DownRecord
from tuskws_fast.ipc.segment import Segment

CAPACITY = 65536


@pytest.fixture
def node() -> Node:
    return Node(keep_alive_s=300.0)


@pytest.fixture
def rings() -> Iterator[tuple[Link, Link]]:
    """The worker's end and the broker's."""
    segment = Segment.create("test-inbox", link_bytes(CAPACITY, CAPACITY))
    format_link(segment, 1, CAPACITY, CAPACITY)
    bells = Bell.create(), Bell.create()
    ends = Link(segment, "worker", bells[0].fd, bells[1].fd), Link(segment, "broker", bells[1].fd, bells[0].fd)
    yield ends
    for each in (*ends, segment, *bells):
        each.close()


@pytest.mark.parametrize("dead", [False, True])
def test_session_stays_where_it_is_when_a_dead_worker_had_asked_for_it(
    node: Node, rings: tuple[Link, Link], dead: bool
) -> None:
    ann = node.connect("ann", 1)
    ann.join("r")
    stranger = node.connect("guest", 0)
    at_worker, at_broker = rings
    prefix = b'{"type":"room_message","room":"r","message":1,"from":"ann"'
    for record in (
        records.Resume(node.new_number(0), 7, stranger.conn, ann.ticket, ann.mode, None, {"r": ["", 0]}),
        records.Publish(ann.conn, 8, 0, 0, True, False, "r", "", prefix),
    ):
        at_worker.send(record)
    at_worker.flush()
    outbox = Outbox(node.engine.position, lambda worker, reason: None)
    outbox.links[0] = at_broker
    decided: list[tuple[int, DownRecord]] = []
    inbox = Inbox(node.engine, outbox)
    if dead:
        inbox.drain_all(0, node.now, node.wall, decided)
    else:
        inbox.drain(0, node.now, node.wall, decided)
    kinds = {type(record) for _, record in decided}
    assert records.Publication in kinds
    assert (records.Supersede in kinds) is not dead
