"""SIGKILL for the process at one end of a ring, thousands of times; and wake-ups in their narrowest moments.

The kill hammer keeps one ring through all deaths: each victim is killed while it pushes as fast as it can, the
survivor drains what was committed, and the next victim goes on in the same ring with the next number. (A node never
re-uses a ring; here it makes the test harder and cheaper.) What is looked for, and must be 0:

    torn        a record that is not what was pushed (the ring's own crc would say so, the content too)
    gap, dup    numbers that are not exactly 1, 2, 3 …
    stuck       a successor that cannot get a record through

    TUSKWS_HAMMER_KILLS=20000 pytest tests/faults/test_ring_hammer.py     the long form
"""

from __future__ import annotations

import os
import random
import select
import struct
import time
from collections.abc import Callable

from helpers.forked import fork_to, kill, reap
from helpers.rings import ring_memory
from tuskws_fast.ipc.bell import Bell
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer

KILLS = int(os.environ.get("TUSKWS_HAMMER_KILLS", "2000"))
ROUND_TRIPS = int(os.environ.get("TUSKWS_HAMMER_ROUND_TRIPS", "200000"))
CAPACITY = 65536
STUCK_S = 10.0


def content(number: int) -> bytes:
    """From 8 bytes to the longest there can be, so that kills fall into the copying too; told by the number alone."""
    size = number * 2654435761 % (ring.payload_max(CAPACITY) // 8)
    if number % 50 == 0:
        size *= 7
    return struct.pack("<Q", number) * (size // 8 + 1)


def push_for_ever(buffer: memoryview, first: int) -> None:
    producer, number = Producer(buffer, 0, -1), first
    while True:
        for _ in range(number % 4 + 1):
            while not producer.push(number % 65536, content(number), True):
                producer.flush()
            number += 1
        producer.flush()


def test_killing_the_producer_leaves_no_torn_lost_double_or_stuck_record() -> None:
    rng = random.Random(3)
    last = 0

    def check(records: list[tuple[int, bytes]]) -> None:
        nonlocal last
        for kind, payload in records:
            last += 1
            assert (kind, payload) == (last % 65536, content(last)), f"instead of record {last}"

    with ring_memory(CAPACITY) as segment:
        consumer = Consumer(segment.buffer, 0, -1)
        for round_number in range(KILLS):
            start, enough = last, rng.randrange(1, 12)
            pid = fork_to(lambda: push_for_ever(segment.buffer, last + 1))  # noqa: B023 - the child runs at once
            try:
                deadline = time.monotonic() + STUCK_S
                while last < start + enough:
                    check(consumer.drain(rng.randrange(1, 8)))
                    assert time.monotonic() < deadline, f"stuck after {round_number} kills"
            finally:
                kill(pid)
            while records := consumer.drain(1000):
                check(records)
            assert consumer.pending == 0


def test_killing_the_consumer_leaves_a_ring_that_its_successor_can_read() -> None:
    """The successor sees every record not released before the kill: nothing lost, and in order from there."""
    rng = random.Random(4)

    def drain_for_ever(buffer: memoryview) -> None:
        consumer = Consumer(buffer, 0, -1)
        while True:
            for kind, payload in consumer.drain(5):
                assert struct.unpack_from("<Q", payload)[0] % 65536 == kind

    with ring_memory(CAPACITY) as segment:
        producer, number = Producer(segment.buffer, 0, -1), 1
        for _ in range(KILLS // 4):
            goal = number + rng.randrange(20, 200)
            pid = fork_to(lambda: drain_for_ever(segment.buffer))
            try:
                deadline = time.monotonic() + STUCK_S
                while number < goal:
                    if producer.push(number % 65536, content(number), True):
                        number += 1
                    producer.flush()
                    assert time.monotonic() < deadline, "the consumer no longer frees space"
            finally:
                kill(pid)
            left = Consumer(segment.buffer, 0, -1).drain(100_000)
            first = number - len(left)
            assert left == [(n % 65536, content(n)) for n in range(first, number)]


# -- wake-ups ----------------------------------------------------------------------------------------------------


def sleep_on(bell: Bell, is_due: Callable[[], bool], what: str) -> None:
    """Blocks until rung. A wake-up that does not come although it is due is the fault this file looks for."""
    if not select.select([bell], [], [], STUCK_S)[0]:
        raise AssertionError(f"{what} was never rung" + (" although it was due" if is_due() else ""))
    bell.clear()


def test_a_wake_up_is_never_lost_between_publish_and_sleep() -> None:
    """Each record is answered before the next goes out, so one lost wake-up stops both processes for good.

    The asker spins for the answer, so its next record falls into the moment in which the answerer goes to sleep.
    """
    with ring_memory(4096) as there, ring_memory(4096) as back:
        bell = Bell.create()

        def answer() -> None:
            consumer, producer = Consumer(there.buffer, 0, -1), Producer(back.buffer, 0, -1)
            answered = 0
            while answered < ROUND_TRIPS:
                for kind, payload in consumer.drain(8):
                    producer.push(kind, payload, True)
                    producer.flush()
                    answered += 1
                if answered < ROUND_TRIPS and consumer.begin_sleep():
                    sleep_on(bell, lambda: consumer.pending > 0, "the answerer")
                    consumer.end_sleep()

        pid = fork_to(answer)
        producer, consumer = Producer(there.buffer, 0, bell.fd), Consumer(back.buffer, 0, -1)
        rng = random.Random(5)
        for _ in range(ROUND_TRIPS):
            for _ in range(rng.randrange(12)):
                pass  # moves the next record about within the answerer's few hundred nanoseconds of going to sleep
            producer.push(1, b"ask", True)
            producer.flush()
            deadline = time.monotonic() + STUCK_S / 2
            while not consumer.drain(8):
                assert time.monotonic() < deadline, "no answer: the wake-up was lost"
        assert reap(pid, STUCK_S) == 0
        bell.close()


def test_a_wake_up_is_never_lost_between_a_full_ring_and_an_empty_one() -> None:
    """A tiny ring: the producer sleeps until there is space, the consumer until there is data; both must go on."""
    records = ROUND_TRIPS
    payload = bytes(900)
    with ring_memory(4096) as segment:
        data, space = Bell.create(), Bell.create()

        def produce() -> None:
            producer = Producer(segment.buffer, 0, data.fd)
            for number in range(records):
                while not producer.push(number % 65536, payload, True):
                    producer.flush()
                    if producer.want_space():
                        sleep_on(space, lambda: producer.free >= 1800, "the producer")
            producer.flush()

        pid = fork_to(produce)
        consumer, seen = Consumer(segment.buffer, 0, space.fd), 0
        while seen < records:
            for kind, _ in consumer.drain(2):
                assert kind == seen % 65536
                seen += 1
            if seen < records and consumer.begin_sleep():
                sleep_on(data, lambda: consumer.pending > 0, "the consumer")
                consumer.end_sleep()
        assert reap(pid, STUCK_S) == 0
        data.close()
        space.close()
