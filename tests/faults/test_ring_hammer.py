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
import select
import subprocess
import sys
import time
from collections.abc import Callable

from helpers.forked import fork_to, kill, reap
from helpers.rings import ring_memory
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer

from tuskws_fast.ipc.bell import Bell

KILLS = int(os.environ.get("TUSKWS_HAMMER_KILLS", "2000"))
ROUND_TRIPS = int(os.environ.get("TUSKWS_HAMMER_ROUND_TRIPS", "400000"))
STUCK_S = 10.0


def hammer(victims: str, kills: int) -> None:
    command = [sys.executable, "-m", "helpers.hammer", victims, str(kills)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 + kills, check=False)
    assert done.returncode == 0, done.stderr


def test_killing_the_producer_leaves_no_torn_lost_double_or_stuck_record() -> None:
    hammer("producers", KILLS)


def test_killing_the_consumer_leaves_a_ring_that_its_successor_can_read() -> None:
    hammer("consumers", KILLS // 4)


# -- wake-ups ----------------------------------------------------------------------------------------------------
#
# A missing fence loses a wake-up only if publish and sleep fall within some 50 ns of each other. So one side sleeps,
# the other spins, and a short delay of `n % SWEEP` empty loops (some 10 ns each) carries the two past each other again
# and again. Without the producer's fence about 1 wake-up in 10,000 is lost here, without the sleeper's 1 in 800.

SWEEP = 16


def sleep_on(bell: Bell) -> None:
    """Blocks until rung. The other side decides when that is overdue, and has this process killed."""
    select.select([bell], [], [])
    bell.clear()


def spin_until(fact: Callable[[], object], otherwise: str) -> None:
    """Looks at the clock only now and then, to notice the fact within some 100 ns."""
    deadline = 0.0
    while True:
        for _ in range(10_000):
            if fact():
                return
        deadline = deadline or time.monotonic() + STUCK_S
        assert time.monotonic() < deadline, otherwise


def test_a_wake_up_is_never_lost_between_publish_and_sleep() -> None:
    """Each record is answered before the next goes out, so one lost wake-up stops both processes for good."""
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
                for _ in range(answered % SWEEP):
                    pass
                if answered < ROUND_TRIPS and consumer.begin_sleep():
                    sleep_on(bell)
                    consumer.end_sleep()

        pid = fork_to(answer)
        producer, consumer = Producer(there.buffer, 0, bell.fd), Consumer(back.buffer, 0, -1)
        try:
            for number in range(ROUND_TRIPS):
                producer.push(1, b"ask", True)
                producer.flush()
                spin_until(lambda: consumer.drain(1), f"the wake-up for record {number} was lost")
        except BaseException:
            kill(pid)
            raise
        assert reap(pid, STUCK_S) == 0
        bell.close()


def test_a_wake_up_is_never_lost_between_freeing_space_and_sleeping_for_it() -> None:
    """Four records fill the ring; the producer sleeps until one is taken out, and one lost wake-up leaves it so."""
    payload = bytes(1024 - ring.RECORD_HEADER_BYTES)
    with ring_memory(4096) as segment:
        bell = Bell.create()

        def produce() -> None:
            producer = Producer(segment.buffer, 0, -1)
            for number in range(ROUND_TRIPS):
                while not producer.push(1, payload, True):
                    for _ in range(number % SWEEP):
                        pass
                    if producer.want_space():
                        sleep_on(bell)
                producer.flush()

        pid = fork_to(produce)
        consumer = Consumer(segment.buffer, 0, bell.fd)
        try:
            for taken in range(ROUND_TRIPS - 4):
                spin_until(lambda: consumer.pending == 4096, f"the wake-up after record {taken} was lost")
                consumer.drain(1)
        except BaseException:
            kill(pid)
            raise
        assert reap(pid, STUCK_S) == 0
        assert len(consumer.drain(9)) == 4
        bell.close()
