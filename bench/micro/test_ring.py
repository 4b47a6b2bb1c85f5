"""What does a record cost on its way through a ring, and a user's turn at the shared limits?

    pytest bench/micro/test_ring.py --benchmark-enable

A figure is the time of one round; `extra_info` says what a round holds. Payloads of 300 bytes are a short chat message
with its envelope, 64 records a typical batch of a loop turn under load.
"""

from __future__ import annotations

import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tuskws_fast_ext import ring, tables
from tuskws_fast_ext.ring import Consumer, Producer
from tuskws_fast_ext.tables import AdmissionTable, Counters, RateTable

from tuskws_fast.ipc.bell import Bell
from tuskws_fast.ipc.link import Link, format_link, link_bytes
from tuskws_fast.ipc.records import Publication
from tuskws_fast.ipc.segment import Segment

CAPACITY = 1024 * 1024
BATCH = 64
PAYLOAD = b"x" * 300


@pytest.fixture
def segment() -> Segment:
    made = Segment.create("bench", link_bytes(CAPACITY, CAPACITY))
    format_link(made, 1, CAPACITY, CAPACITY)
    return made


@pytest.mark.parametrize("size", [300, 16 * 1024])
def test_push_flush_and_drain_a_batch(benchmark: BenchmarkFixture, segment: Segment, size: int) -> None:
    producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, -1)
    count = BATCH if size == 300 else 16
    payload = b"x" * size

    def batch() -> int:
        for _ in range(count):
            producer.push(35, payload)
        producer.flush()
        return len(consumer.drain(count))

    assert benchmark(batch) == count
    benchmark.extra_info["records"] = count


def test_push_flush_and_drain_one_record(benchmark: BenchmarkFixture, segment: Segment) -> None:
    """What a batch saves: here every record pays for its own fence, drain and list."""
    producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, -1)

    def one() -> int:
        producer.push(35, PAYLOAD)
        producer.flush()
        return len(consumer.drain(1))

    assert benchmark(one) == 1


def test_wake_a_sleeping_consumer(benchmark: BenchmarkFixture, segment: Segment) -> None:
    """As above with the bell: one system call to ring it, one to clear it."""
    bell = Bell.create()
    producer, consumer = Producer(segment.buffer, 0, bell.fd), Consumer(segment.buffer, 0, -1)

    def one() -> int:
        consumer.begin_sleep()
        producer.push(35, PAYLOAD)
        producer.flush()
        bell.clear()
        consumer.end_sleep()
        return len(consumer.drain(1))

    assert benchmark(one) == 1


def test_send_and_drain_publications_by_a_link(benchmark: BenchmarkFixture, segment: Segment) -> None:
    """The same batch as records: packing and unpacking on top of the ring."""
    broker, worker = Link(segment, "broker", -1, -1), Link(segment, "worker", -1, -1)
    publication = Publication(0, 123456, "general", PAYLOAD)

    def batch() -> int:
        for _ in range(BATCH):
            broker.send(publication)
        broker.flush()
        return len(worker.drain(BATCH))

    assert benchmark(batch) == BATCH
    benchmark.extra_info["records"] = BATCH


@pytest.mark.parametrize("portable", [False, True], ids=["cpu", "table"])
def test_checksum_of_a_record(benchmark: BenchmarkFixture, portable: bool) -> None:
    assert benchmark(ring.crc32c, PAYLOAD, portable=portable)


def test_count_an_event(benchmark: BenchmarkFixture, segment: Segment) -> None:
    counters = Counters(Segment.create("bench", tables.counters_bytes(8, 64)).buffer, 3, 64)
    benchmark(counters.add, 17)
    assert counters.get(17) > 0


def test_take_from_a_rate(benchmark: BenchmarkFixture) -> None:
    """Users in turn, so that each take finds its bucket in memory and not in the nearest cache."""
    users = 20_000
    rates = RateTable(Segment.create("bench", tables.rates_bytes(users)).buffer)
    rng, now = random.Random(1), iter(range(10**9))
    hashes = [rng.getrandbits(64) for _ in range(users)]

    def take() -> float:
        moment = next(now)
        return rates.take(hashes[moment % users], moment, 1, 10_000.0, 200)

    benchmark(take)
    assert rates.evicted < users // 1000


def test_admit_and_release(benchmark: BenchmarkFixture) -> None:
    users = 20_000
    table = AdmissionTable(Segment.create("bench", tables.admission_bytes(users, 4)).buffer, 1, 4)
    rng, turn = random.Random(2), iter(range(10**9))
    hashes = [rng.getrandbits(64) for _ in range(users)]
    for key in hashes:
        table.admit(key, 9)

    def come_and_go() -> None:
        key = hashes[next(turn) % users]
        table.admit(key, 9)
        table.release(key)

    benchmark(come_and_go)
    assert table.refused == 0
