"""What ring.h does is enough, and nothing of it can be left out: see `model.ring`.

The real ring is then led along every step of the same model. One side is the real one, the other is played with single
accesses to the memory, at the places that ring.h's picture gives, so that it comes between the real one's calls
at every point. After each call all shared words, both bells and what was returned must be what the model says.
"""

from __future__ import annotations

import functools
import os
import select
import struct
from typing import get_args

import pytest
from helpers.rings import AT_BUF, AT_HEAD, AT_SLEEPING, AT_TAIL, AT_WAITING, forge, get_u64, put_u64, ring_memory
from model.explore import Walk, explore, walks
from model.memory import newest
from model.ring import HEAD, SLEEPING, TAIL, WAITING, Fault, Ring, State
from tuskws_fast_ext.ring import Consumer, Producer

from tuskws_fast.ipc.bell import Bell

# Records that a ring of four takes exactly.
CAPACITY, RECORD = 4096, 1024
SLOTS = CAPACITY // RECORD
BOTH = ("producer", "consumer")
UNREAD, UNSEEN = "were published, 0 have arrived, and nobody goes on", "the producer waits for room that is there"
SHOWS: dict[Fault, str] = {
    "tail before record": "another one is there",
    "tail relaxed": "read while it is written",
    "tail read relaxed": "read while it is written",
    "head relaxed": "over one being read",
    "head read relaxed": "over one being read",
    "publish without fence": UNREAD,
    "sleep without fence": UNREAD,
    "sleep without another look": UNREAD,
    "bell cleared before sleep": UNREAD,
    "release without fence": UNSEEN,
    "want_space without fence": UNSEEN,
    "want_space without another look": UNSEEN,
}


@pytest.mark.parametrize(
    "ring",
    [Ring(), Ring(records=3, slots=1, batch=1), Ring(records=3, slots=1, batch=1, mortal=BOTH)],
    ids=["two slots", "one slot", "deaths"],
)
def test_all_that_was_published_arrives_whole_and_nobody_waits_for_ever(ring: Ring) -> None:
    found = explore(ring)
    assert found.fault is None, str(found.fault)
    assert found.states > 10_000


@pytest.mark.parametrize("broken", [fault for fault in get_args(Fault) if fault != "death not told"])
def test_each_order_and_each_second_look_is_needed(broken: Fault) -> None:
    fault = explore(Ring(broken=broken)).fault
    assert fault is not None
    assert SHOWS[broken] in fault.text, str(fault)


@pytest.mark.parametrize("dies", BOTH)
def test_who_survives_must_be_told(dies: str) -> None:
    fault = explore(Ring(broken="death not told", mortal=(dies,))).fault
    assert fault is not None
    assert f"{dies}: dies" in fault.trace


class Real:
    """The shared words of a real ring, and one real end of it. The other end is played by `play_*`."""

    def __init__(self, buffer: memoryview, data_bell: Bell, space_bell: Bell, batch: int) -> None:
        self.buffer, self.batch = buffer, batch
        self.data_bell, self.space_bell = data_bell, space_bell
        self.producer = Producer(buffer, 0, data_bell.fd)
        self.consumer = Consumer(buffer, 0, space_bell.fd)
        self.put(AT_SLEEPING, 1)
        self.heard: list[int] = []

    def get(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.buffer, at)[0])

    def put(self, at: int, value: int) -> None:
        struct.pack_into("<I", self.buffer, at, value)

    def compare(self, state: State) -> None:
        shared = (get_u64(self.buffer, AT_TAIL) / RECORD, get_u64(self.buffer, AT_HEAD) / RECORD)
        assert shared == (newest(state.memory, TAIL), newest(state.memory, HEAD))
        flags = (self.get(AT_SLEEPING), self.get(AT_WAITING))
        assert flags == (newest(state.memory, SLEEPING), newest(state.memory, WAITING))
        bells = tuple(bool(select.select([bell.fd], [], [], 0)[0]) for bell in (self.data_bell, self.space_bell))
        assert bells == (state.data_bell, state.space_bell)
        assert self.heard == list(range(state.consumer.position))

    # -- real ends: each function is called where its first step is -------------------------------------------------

    def real_producer(self, label: str, before: State, after: State) -> None:
        if "writes record" in label:
            n = before.producer.written
            assert self.producer.push(n, payload(n), True)
        elif "head is" in label and after.producer.at == "publish" and before.producer.at == "push":
            assert not self.producer.push(before.producer.written, payload(before.producer.written), True)
        elif "tail =" in label:
            self.producer.flush()
        elif "waiting = 1" in label:
            # What it says is compared by where the model goes from here.
            self.answer = "asleep" if self.producer.want_space() else "push"
        elif label == "producer: wakes":
            assert self.space_bell.clear()
        if before.producer.at in ("room?", "stop waiting") and not after.inside("producer"):
            assert after.producer.at == self.answer

    def real_consumer(self, label: str, before: State, after: State) -> None:
        if label == "consumer: wakes":
            assert self.data_bell.clear()
        elif before.consumer.at == "awake":
            self.consumer.end_sleep()
        elif before.consumer.at == "look":
            for kind, found in self.consumer.drain(self.batch):
                assert found == payload(kind)
                self.heard.append(kind)
        elif before.consumer.at == "raise":
            self.answer = "asleep" if self.consumer.begin_sleep() else "awake"
        if before.consumer.at in ("more?", "stay") and not after.inside("consumer"):
            assert after.consumer.at == self.answer

    # -- played ends: one access a step -------------------------------------------------------------------------------

    def play_consumer(self, label: str, before: State, after: State) -> None:
        me = after.consumer
        if label == "consumer: wakes":
            assert self.data_bell.clear()
        elif "sleeping = " in label:
            self.put(AT_SLEEPING, int(label[-1]))
        elif "tail is" in label:
            assert get_u64(self.buffer, AT_TAIL) == int(label[-1]) * RECORD
        elif "reads record" in label:
            n = before.consumer.position
            at = AT_BUF + n % SLOTS * RECORD
            assert self.buffer[at : at + RECORD] == record(n)
            self.heard.append(n)
        elif "head = " in label:
            put_u64(self.buffer, AT_HEAD, me.position * RECORD)
        elif "lowers waiting" in label:
            self.put(AT_WAITING, 0)
        elif label == "consumer: rings":
            self.space_bell.ring()

    def play_producer(self, label: str, before: State, after: State) -> None:
        if "writes record" in label:
            n = before.producer.written
            at = AT_BUF + n % SLOTS * RECORD
            self.buffer[at : at + RECORD] = record(n)
        elif "tail = " in label:
            put_u64(self.buffer, AT_TAIL, after.producer.published * RECORD)
        elif "waiting = " in label:
            self.put(AT_WAITING, int(label[-1]))
        elif "head is" in label:
            assert get_u64(self.buffer, AT_HEAD) == int(label[-1]) * RECORD
        elif "lowers sleeping" in label:
            self.put(AT_SLEEPING, 0)
        elif label == "producer: rings":
            self.data_bell.ring()
        elif label == "producer: wakes":
            assert self.space_bell.clear()


def payload(n: int) -> bytes:
    return bytes([n]) * (RECORD - 24)


@functools.cache
def record(n: int) -> bytes:
    return forge(n, payload(n), 1, n * RECORD)


def replay(model: Ring, walk: Walk[State]) -> None:
    side = model.whole
    data_bell, space_bell = Bell.create(), Bell.create()
    try:
        with ring_memory(CAPACITY) as segment:
            real = Real(segment.buffer, data_bell, space_bell, model.batch)
            state = model.initial()
            for label, after in walk:
                producers = label.startswith("producer")
                if producers:
                    (real.real_producer if side == "producer" else real.play_producer)(label, state, after)
                else:
                    (real.real_consumer if side == "consumer" else real.play_consumer)(label, state, after)
                state = after
                if not state.inside(side):
                    real.compare(state)
    finally:
        for bell in (data_bell, space_bell):
            os.close(bell.fd)


@pytest.mark.parametrize("side", BOTH)
def test_the_real_ring_takes_every_step_of_the_model(side: str) -> None:
    model = Ring(records=5, slots=SLOTS, batch=3, strong=True, whole=side)  # type: ignore[arg-type]
    walked = 0
    for walk in walks(model, seed=1, share=0.9):
        replay(model, walk)
        walked += len(walk)
    assert walked > 50_000
