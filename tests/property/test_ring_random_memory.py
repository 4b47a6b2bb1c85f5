"""A consumer (and a producer) on memory that a mad peer has filled: never outside the ring, never without end.

The memory lies between two guard pages, flush against one of them, so that a read or write one byte too far ends the
child process by SIGSEGV; a call that does not return ends it by SIGALRM. Random bytes alone die at the first check, so
most cases are built like a ring: true headers with one lie, records that are whole, padding, positions near the ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import struct

import pytest
from helpers.forked import fork_to, reap
from helpers.rings import AT_BUF, AT_HEAD, AT_TAIL, PADDING, forge, guarded
from helpers.waiting import PATIENCE
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer, RingError, RingPoisoned

CAPACITY = 4096
GENERATION = 3
ROUNDS = int(os.environ.get("TUSKWS_FUZZ_ROUNDS", "3000"))
INTERESTING = (0, 1, 7, 8, 16, 23, 24, 25, 1000, 1001, CAPACITY - 24, CAPACITY, PADDING - 1, PADDING, 2**31, 2**63)


def random_length(rng: random.Random) -> int:
    return rng.choice(INTERESTING) & 0xFFFFFFFF if rng.random() < 0.5 else rng.randrange(1100)


def lay_out(rng: random.Random, head: int) -> bytearray:
    """A buffer of records that mostly follow each other from `head`, many with something wrong."""
    buf = bytearray(rng.randbytes(CAPACITY))
    position = head
    while position < head + CAPACITY:
        at = position % CAPACITY
        fate = rng.random()
        if fate < 0.15:
            record = struct.pack("<II", PADDING, 0)
            position += CAPACITY - at if rng.random() < 0.7 else 8
        else:
            length = rng.randrange(60) if fate < 0.7 else random_length(rng)
            body = rng.randbytes(min(length, 200))
            generation = GENERATION if rng.random() < 0.95 else rng.randrange(9)
            seq = position if rng.random() < 0.95 else rng.randrange(2**64)
            record = forge(rng.randrange(65536), body, generation, seq, length=length)
            position += (24 + length + 7) & ~7
        if fate > 0.95:
            record = bytearray(record)
            record[rng.randrange(len(record))] ^= 0xFF
        fits = record[: CAPACITY - at]
        buf[at : at + len(fits)] = fits
    return buf


def fill(rng: random.Random, view: memoryview) -> None:
    ring.format_ring(view, 0, CAPACITY, GENERATION)
    head = rng.randrange(4) * CAPACITY + rng.randrange(0, CAPACITY, 8)
    tail = head + rng.randrange(0, CAPACITY + 1, 8)
    if rng.random() < 0.1:
        head = rng.choice(INTERESTING)
    if rng.random() < 0.1:
        tail = rng.choice((*INTERESTING, head + rng.choice(INTERESTING))) & 0xFFFFFFFFFFFFFFFF
    view[AT_BUF:] = bytes(lay_out(rng, head)) if rng.random() < 0.8 else rng.randbytes(CAPACITY)
    struct.pack_into("<Q", view, AT_HEAD, head)
    struct.pack_into("<Q", view, AT_TAIL, tail)
    if rng.random() < 0.1:
        view[rng.randrange(32)] = rng.randrange(256)


def use_every_way(rng: random.Random, view: memoryview, seen: dict[str, int]) -> None:
    try:
        consumer = Consumer(view, 0, -1)
        records = consumer.drain(10_000)
        seen["drained"] += len(records)
        assert sum(24 + len(payload) for _, payload in records) <= CAPACITY, "more than the ring can hold"
        consumer.begin_sleep()
        consumer.drain(10_000)
    except (RingError, RingPoisoned):
        seen["refused"] += 1
    try:
        state = ring.inspect_ring(view, 0)
        seen["peeked"] += len(ring.peek_records(view, 0, state.head, state.tail, 10_000))
    except RingError:
        seen["refused"] += 1
    try:
        producer = Producer(view, 0, -1)
        for _ in range(8):
            view[AT_HEAD + rng.randrange(8)] ^= rng.random() < 0.1
            producer.push(1, rng.randbytes(rng.randrange(1000)), rng.random() < 0.5)
            producer.flush()
        producer.want_space()
    except (RingError, RingPoisoned):
        seen["refused"] += 1


@pytest.mark.parametrize("at_end", [True, False], ids=["guard_behind", "guard_in_front"])
def test_whatever_the_memory_holds_nothing_outside_is_touched_and_every_call_returns(at_end: bool) -> None:
    def body() -> None:
        signal.alarm(int(30 * PATIENCE))  # a call that never returns ends here; all rounds take some 2 s
        rng = random.Random(20 + at_end)
        seen = {"drained": 0, "peeked": 0, "refused": 0}
        with guarded(ring.ring_bytes(CAPACITY), at_end=at_end) as array:
            view = memoryview(array).cast("B")
            for _ in range(ROUNDS):
                fill(rng, view)
                use_every_way(rng, view, seen)
        # The fuzz must get past the first check, or it shows nothing.
        assert min(seen.values()) > ROUNDS // 4, seen

    assert reap(fork_to(body), 40) == 0


@pytest.mark.parametrize("at_end", [True, False])
def test_the_guard_pages_do_guard(at_end: bool) -> None:
    def body() -> None:
        faulthandler.disable()  # the crash is wanted, its report is noise
        with guarded(8192, at_end=at_end) as array:
            ctypes.string_at(ctypes.addressof(array) + (8192 if at_end else -1), 1)

    assert reap(fork_to(body), 30) == -signal.SIGSEGV
