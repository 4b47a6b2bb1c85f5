"""SIGKILL for the process at one end of a ring, over and over; run as a program of its own by test_ring_hammer.

In a process of its own because forking pytest, with all it has imported, costs four times as much as the rest.
Everything is told by a record's number alone, so a torn, lost or doubled record has no place to hide.
"""

from __future__ import annotations

import random
import struct
import sys
import time

from helpers.forked import fork_to, kill
from helpers.rings import ring_memory
from helpers.waiting import PATIENCE
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer

CAPACITY = 65536
STUCK_S = 10.0 * PATIENCE


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


def kill_producers(kills: int) -> None:
    """The survivor drains while victims push: records must be exactly 1, 2, 3 … through all deaths."""
    rng = random.Random(3)
    last = 0

    def check(records: list[tuple[int, bytes]]) -> None:
        nonlocal last
        for kind, payload in records:
            last += 1
            assert (kind, payload) == (last % 65536, content(last)), f"instead of record {last}"

    with ring_memory(CAPACITY) as segment:
        consumer = Consumer(segment.buffer, 0, -1)
        for round_number in range(kills):
            start, enough = last, rng.randrange(1, 12)
            pid = fork_to(lambda: push_for_ever(segment.buffer, last + 1))
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


def kill_consumers(kills: int) -> None:
    """A successor sees every record that was not released before the kill: none lost, all in order from there."""
    rng = random.Random(4)

    def drain_for_ever(buffer: memoryview) -> None:
        consumer = Consumer(buffer, 0, -1)
        while True:
            for kind, payload in consumer.drain(5):
                assert struct.unpack_from("<Q", payload)[0] % 65536 == kind

    with ring_memory(CAPACITY) as segment:
        producer, number = Producer(segment.buffer, 0, -1), 1
        for _ in range(kills):
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


if __name__ == "__main__":
    {"producers": kill_producers, "consumers": kill_consumers}[sys.argv[1]](int(sys.argv[2]))
