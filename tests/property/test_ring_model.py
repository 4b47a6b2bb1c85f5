"""The real ring against a model of deques, through pushes, flushes, drains, sleeps and deaths in any order.

The model knows what was pushed, what was published and what was handed out, and computes from the picture in ring.h
whether a record must fit. Processes die by being forgotten: a dead producer's unflushed records never happened, and
its successor goes on; a dead consumer's successor goes on behind the last record that was handed out.
"""

from __future__ import annotations

from collections import deque

from helpers.rings import ring_memory
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer

from tuskws_fast.ipc.bell import Bell

CAPACITY = 4096
RESERVED = CAPACITY // 10
SIZES = st.one_of(st.integers(0, 60), st.integers(0, ring.payload_max(CAPACITY)), st.just(ring.payload_max(CAPACITY)))


class RingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = ring_memory(CAPACITY, 1)
        self.buffer = self.memory.__enter__().buffer
        self.data_bell, self.space_bell = Bell.create(), Bell.create()
        self.producer = Producer(self.buffer, 0, self.data_bell.fd)
        self.consumer = Consumer(self.buffer, 0, self.space_bell.fd)
        self.unflushed: deque[tuple[int, bytes, int]] = deque()  # type, payload, where it ends
        self.published: deque[tuple[int, bytes, int]] = deque()
        self.written = self.flushed = self.handed_out = self.pushes = 0
        self.sleeping = self.data_rung = False
        self.waiting = self.space_rung = False
        self.refused_needs = 0

    def needs(self, size: int, control: bool) -> tuple[int, int]:
        """Free bytes that the record needs, and how far it moves the position."""
        record = (24 + size + 7) & ~7
        to_end = CAPACITY - self.written % CAPACITY
        moves = record + (to_end if record > to_end else 0)
        return moves + (0 if control else RESERVED), moves

    @rule(size=SIZES, control=st.booleans())
    def push(self, size: int, control: bool) -> None:
        self.push_one(size, control)

    def push_one(self, size: int, control: bool) -> None:
        needed, moves = self.needs(size, control)
        fits = needed <= CAPACITY - (self.written - self.handed_out)
        payload = self.pushes.to_bytes(4, "little")[:size].ljust(size, b"p")
        kind = self.pushes % 65536
        self.pushes += 1
        assert self.producer.push(kind, payload, control) == fits
        if fits:
            self.written += moves
            self.unflushed.append((kind, payload, self.written))
        else:
            self.refused_needs = needed

    @rule(size=SIZES, control=st.booleans())
    def fill(self, size: int, control: bool) -> None:
        """Up to the last record that fits: where padding and the reserve decide."""
        before = -1
        while before != self.written:
            before = self.written
            self.push_one(size, control)

    @rule()
    def flush(self) -> None:
        self.producer.flush()
        if self.unflushed and self.sleeping:
            self.data_rung, self.sleeping = True, False
        self.published.extend(self.unflushed)
        self.unflushed.clear()
        self.flushed = self.written

    @rule(limit=st.integers(0, 20))
    def drain(self, limit: int) -> None:
        expected = [self.published.popleft() for _ in range(min(limit, len(self.published)))]
        assert self.consumer.drain(limit) == [(kind, payload) for kind, payload, _ in expected]
        if expected:
            self.handed_out = expected[-1][2]
            if self.waiting:
                self.space_rung, self.waiting = True, False

    @rule()
    def begin_sleep(self) -> None:
        self.sleeping = not self.published
        assert self.consumer.begin_sleep() == self.sleeping

    @rule()
    def wake(self) -> None:
        assert self.data_bell.clear() == self.data_rung
        self.consumer.end_sleep()
        self.sleeping = self.data_rung = False

    @precondition(lambda self: self.refused_needs and not self.unflushed)
    @rule()
    def want_space(self) -> None:
        self.waiting = self.refused_needs > CAPACITY - (self.written - self.handed_out)
        assert self.producer.want_space() == self.waiting

    @rule()
    def space_bell_is_answered(self) -> None:
        assert self.space_bell.clear() == self.space_rung
        self.space_rung = False

    @rule()
    def producer_dies(self) -> None:
        self.producer = Producer(self.buffer, 0, self.data_bell.fd, 1)
        self.unflushed.clear()
        self.written = self.flushed
        self.refused_needs = 0

    @rule()
    def consumer_dies(self) -> None:
        self.consumer = Consumer(self.buffer, 0, self.space_bell.fd, 1)

    @invariant()
    def no_byte_is_lost(self) -> None:
        assert self.producer.free == CAPACITY - (self.written - self.handed_out)
        assert self.consumer.pending == self.flushed - self.handed_out

    def teardown(self) -> None:
        # Whatever happened, nothing published may be left behind.
        self.producer.flush()
        rest = [*self.published, *self.unflushed]
        assert self.consumer.drain(10_000) == [(kind, payload) for kind, payload, _ in rest]
        self.data_bell.close()
        self.space_bell.close()
        self.memory.__exit__(None, None, None)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=150, stateful_step_count=60)
