"""Both ends of a link in one process: order, what is lost (publications only), and what damage leads to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from helpers.rings import AT_BUF, AT_HEAD, AT_TAIL, put_u64
from tuskws_fast_ext.ring import Producer, payload_max, ring_bytes

from tuskws_fast.ipc.bell import Bell
from tuskws_fast.ipc.link import Link, LinkOverrun, LinkPoisoned, Record, format_link, link_bytes
from tuskws_fast.ipc.records import AllPush, Call, DownType, Gone, Leave, Position, Publication, Recovered, Reply
from tuskws_fast.ipc.segment import Segment

CAPACITY = 4096
GENERATION = 5
REPLY = Reply(1, 2, True, b'{"type":"ack"}')


@dataclass
class Pair:
    segment: Segment
    worker: Link
    broker: Link
    workers_bell: Bell
    brokers_bell: Bell

    def carry_all(self, source: Link, target: Link) -> list[Record]:
        """Flush and drain in turns until nothing moves any more, as two processes that wake each other would."""
        arrived: list[Record] = []
        while True:
            source.flush()
            records = target.drain()
            arrived += records
            if not records and not source.congested:
                return arrived


@pytest.fixture
def pair() -> Iterator[Pair]:
    segment = Segment.create("test-link", link_bytes(CAPACITY, 2 * CAPACITY))
    format_link(segment, GENERATION, CAPACITY, 2 * CAPACITY)
    workers_bell, brokers_bell = Bell.create(), Bell.create()
    worker = Link(segment, "worker", workers_bell.fd, brokers_bell.fd, overflow_bytes_max=100_000)
    broker = Link(segment, "broker", brokers_bell.fd, workers_bell.fd, overflow_bytes_max=100_000)
    yield Pair(segment, worker, broker, workers_bell, brokers_bell)
    worker.close()
    broker.close()
    segment.close()
    workers_bell.close()
    brokers_bell.close()


def publication(offset: int, room: str = "r") -> Publication:
    return Publication(0, offset, room, b"x" * 300)


# -- order and wake-ups ------------------------------------------------------------------------------------------


def test_records_go_both_ways_and_do_not_meet(pair: Pair) -> None:
    up: list[Record] = [Leave(1, 2, "café"), Call(1, 3, 0, "list_rooms", {"a": [1, None, "x"]})]
    down: list[Record] = [REPLY, publication(7), Gone("r", b"{}")]
    for record in up:
        assert pair.worker.send(record)
    for record in down:
        assert pair.broker.send(record)
    pair.worker.flush()
    pair.broker.flush()
    assert pair.broker.drain() == up
    assert pair.worker.drain() == down
    assert (pair.worker.sent, pair.worker.received) == (2, 3)
    assert (pair.broker.sent, pair.broker.received) == (3, 2)


def test_nothing_is_seen_before_flush(pair: Pair) -> None:
    pair.worker.send(Leave(1, 2, "r"))
    assert not pair.broker.pending
    assert pair.broker.drain() == []
    pair.worker.flush()
    assert pair.broker.pending


def test_the_one_who_sleeps_is_rung_on_its_own_bell(pair: Pair) -> None:
    assert pair.broker.begin_sleep()
    assert pair.worker.begin_sleep()
    pair.worker.send(Leave(1, 2, "r"))
    pair.worker.flush()
    assert pair.brokers_bell.clear()
    assert not pair.workers_bell.clear()
    pair.broker.end_sleep()
    assert not pair.broker.begin_sleep(), "there is a record to read"
    pair.broker.drain()
    assert pair.broker.begin_sleep()
    pair.broker.end_sleep()
    pair.worker.send(Leave(1, 2, "r"))
    pair.worker.flush()
    assert not pair.brokers_bell.clear(), "awake, so nothing is owed"


# -- a full ring -------------------------------------------------------------------------------------------------


def test_what_goes_up_is_never_lost_and_keeps_its_order(pair: Pair) -> None:
    sent: list[Record] = [Leave(1, tag, "room" * (tag % 40)) for tag in range(400)]
    for record in sent:
        assert pair.worker.send(record)
    assert pair.worker.congested
    assert pair.worker.overflow_bytes > 0
    assert pair.carry_all(pair.worker, pair.broker) == sent
    assert not pair.worker.congested
    assert (pair.worker.overflow_bytes, pair.worker.dropped) == (0, 0)


def test_a_congested_sender_is_rung_when_there_is_room_again(pair: Pair) -> None:
    for tag in range(400):
        pair.worker.send(Leave(1, tag, "room"))
    pair.worker.flush()
    assert not pair.workers_bell.clear()
    assert pair.broker.drain(3)
    assert pair.workers_bell.clear()


def test_publications_are_dropped_when_the_ring_is_full_and_their_rooms_are_named(pair: Pair) -> None:
    taken = [offset for offset in range(100) if pair.broker.send(publication(offset, f"room-{offset % 3}"))]
    assert 10 < len(taken) < 30
    assert taken == list(range(len(taken)))
    assert pair.broker.dropped == 100 - len(taken)
    assert pair.broker.sent == len(taken)
    assert pair.broker.take_dropped_rooms() == {"room-0", "room-1", "room-2"}
    assert pair.broker.take_dropped_rooms() == set()
    pair.broker.flush()
    assert [record.offset for record in pair.worker.drain() if isinstance(record, Publication)] == taken


def test_control_records_pass_where_publications_are_dropped(pair: Pair) -> None:
    while pair.broker.send(publication(1)):
        pass
    assert pair.broker.send(REPLY)
    assert not pair.broker.congested, "there is reserved room in the ring"
    assert pair.carry_all(pair.broker, pair.worker)[-1] == REPLY


def test_no_publication_overtakes_a_control_record_that_waits(pair: Pair) -> None:
    """A `Publication` before its `Joined` would be for a member that the worker does not know."""
    sent: list[Record] = []
    while not pair.broker.congested:
        sent.append(REPLY)
        pair.broker.send(REPLY)
    pair.broker.flush()
    assert pair.worker.drain(100)
    assert not pair.broker.send(publication(1)), "there is room in the ring, but a reply waits outside"
    assert pair.broker.take_dropped_rooms() == {"r"}
    sent.append(Position("r", "e", 1))
    pair.broker.send(sent[-1])
    arrived = pair.carry_all(pair.broker, pair.worker)
    assert arrived == sent[100:]
    assert pair.broker.send(publication(2)), "publications pass again"


def test_a_peer_that_never_reads_is_reported_at_the_bound(pair: Pair) -> None:
    def send_for_ever() -> None:
        for _ in range(100_000):
            pair.broker.send(REPLY)

    with pytest.raises(LinkOverrun):
        send_for_ever()
    assert pair.broker.overflow_bytes < 110_000
    assert pair.broker.full > 0


# -- records longer than a ring takes ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [-2, -1, 0, 1, 2, 3000, 20_000])
def test_a_record_of_any_length_arrives_whole(pair: Pair, length: int) -> None:
    """From just below one piece to many times the ring."""
    longest = payload_max(2 * CAPACITY)
    overhead = len(b'[0,"{\\"a\\":\\"\\"}"]')
    long = AllPush(0, b'{"a":"%b"}' % (b"y" * (longest - overhead + length)))
    sent: list[Record] = [REPLY, long, Gone("r", b"{}"), long]
    for record in sent:
        assert pair.broker.send(record)
    assert pair.carry_all(pair.broker, pair.worker) == sent


def test_a_publication_too_long_for_the_ring_is_not_dropped_for_ever(pair: Pair) -> None:
    """It could never fit, so dropping it would make the worker ask for it, and the answer be dropped again."""
    long = Publication(0, 1, "r", b"x" * 5000)
    assert pair.broker.send(long)
    assert pair.carry_all(pair.broker, pair.worker) == [long]


def test_fewer_records_than_asked_for_mean_an_empty_ring_also_with_pieces(pair: Pair) -> None:
    sent: list[Record] = []
    for offset in range(8):
        sent += [Recovered("r", "e", [(offset, b"z" * 2500)]), REPLY]
    for record in sent:
        pair.broker.send(record)
    pair.broker.flush()
    arrived: list[Record] = []
    while len(arrived) < len(sent):
        batch = pair.worker.drain(3)
        assert len(batch) == 3 or not pair.worker.pending
        arrived += batch
        pair.broker.flush()
    assert arrived == sent


def test_pieces_without_end_are_damage(pair: Pair) -> None:
    forger = Producer(pair.segment.buffer, ring_bytes(CAPACITY), -1)

    def forge_for_ever() -> None:
        for _ in range(1000):
            while forger.push(0xFFFF, bytes(2000), True):
                pass
            forger.flush()
            assert pair.worker.drain() == []

    with pytest.raises(LinkPoisoned, match="more than 100000 bytes"):
        forge_for_ever()


# -- damage ------------------------------------------------------------------------------------------------------


def test_damage_in_the_ring_ends_the_link_after_the_records_before_it(pair: Pair) -> None:
    for tag in range(3):
        pair.worker.send(Leave(1, tag, "r"))
    pair.worker.flush()
    pair.segment.buffer[AT_BUF + 40 * 2 + 30] ^= 1
    assert pair.broker.drain() == [Leave(1, 0, "r"), Leave(1, 1, "r")]
    for _ in range(2):
        assert pair.broker.pending, "the owner must come and be told"
        assert not pair.broker.begin_sleep()
        with pytest.raises(LinkPoisoned, match="checksum"):
            pair.broker.drain()


@pytest.mark.parametrize(("kind", "payload"), [(99, b"[]"), (DownType.REPLY, b"[1,2]"), (DownType.REPLY, b"{")])
def test_a_whole_record_that_says_nothing_sensible_ends_the_link_too(pair: Pair, kind: int, payload: bytes) -> None:
    pair.broker.send(REPLY)
    pair.broker.flush()
    forger = Producer(pair.segment.buffer, ring_bytes(CAPACITY), -1)
    forger.push(kind, payload)
    forger.flush()
    assert pair.worker.drain() == [REPLY]
    assert pair.worker.pending
    assert not pair.worker.begin_sleep()
    with pytest.raises(LinkPoisoned):
        pair.worker.drain()


def test_an_impossible_position_of_the_reader_ends_the_link_for_the_writer(pair: Pair) -> None:
    while not pair.worker.congested:
        pair.worker.send(Leave(1, 1, "room"))
    put_u64(pair.segment.buffer, AT_HEAD, 2**60)
    with pytest.raises(LinkPoisoned):
        pair.worker.flush()
    with pytest.raises(LinkPoisoned):
        pair.worker.flush()


# -- attaching ---------------------------------------------------------------------------------------------------


def test_a_link_knows_its_generation_and_insists_on_the_expected_one(pair: Pair) -> None:
    assert pair.worker.generation == GENERATION
    with pytest.raises(LinkPoisoned, match="generation 5, expected 6"):
        Link(pair.segment, "broker", -1, -1, generation=6)


def test_memory_without_a_link_is_refused() -> None:
    segment = Segment.create("test-none", link_bytes(CAPACITY, CAPACITY))
    with pytest.raises(LinkPoisoned, match="no link"):
        Link(segment, "worker", -1, -1)
    segment.close()


@pytest.mark.parametrize(
    ("at", "value"), [(24, 6), (0, 1), (16, 2**20), (ring_bytes(CAPACITY), 1), (AT_TAIL, 12), (AT_TAIL, 2**40)]
)
def test_a_damaged_header_is_refused_at_attach_and_lets_the_memory_go(at: int, value: int) -> None:
    segment = Segment.create("test-link", link_bytes(CAPACITY, CAPACITY))
    format_link(segment, GENERATION, CAPACITY, CAPACITY)
    struct.pack_into("<Q", segment.buffer, at, value)
    with pytest.raises(LinkPoisoned):
        Link(segment, "broker", -1, -1)
    segment.close()


def test_a_successor_starts_in_new_memory_with_nothing_pending() -> None:
    """What the dead generation left is drained by the survivor from the old segment; the new one is empty."""
    segments = []
    for generation in (1, 2):
        segment = Segment.create("test-link", link_bytes(CAPACITY, CAPACITY))
        format_link(segment, generation, CAPACITY, CAPACITY)
        segments.append(segment)
    worker, broker = Link(segments[0], "worker", -1, -1), Link(segments[0], "broker", -1, -1)
    worker.send(Leave(1, 1, "committed"))
    worker.flush()
    worker.send(Leave(1, 2, "not flushed before the kill"))
    worker.close()
    assert broker.drain() == [Leave(1, 1, "committed")]
    successor = Link(segments[1], "broker", -1, -1, generation=2)
    assert not successor.pending
    broker.close()
    successor.close()
    for segment in segments:
        segment.close()
