"""The ring of ext/tuskws_fast_ext/ring.h, atomic step by atomic step, over memory that C11 allows (see `memory`).

A producer sends `records` records, 0, 1, 2 …, through a ring of `slots`; a consumer takes them, at most `batch` a turn.
Each line of `_producer` and `_consumer` is one access to shared memory, in the order in which ring.h, `Link.flush` and
the processes' loops make them. Either process sleeps on its bell only, may once be woken for nothing (the bell is also
rung for other rings), and may die before any step: then the supervisor reaps it and tells the other one.

    never      a record read that is not whole, is another one, or is being overwritten; one overwritten before it is
               read
    at rest    all records have arrived; after the producer's death all that it had published have; nobody waits

The kernel is taken to pass on nothing with a bell, which is less than it does: what holds, does not lean on it.

`broken` leaves out or turns round one thing that ring.h or its callers do, to show that the explorer would see it.
`strong`: every load finds the newest, as if all accesses were in one order; and nothing comes between the steps of one
function of the side called `whole`. Both are for replays against the real ring, which runs in one process there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from model import memory
from model.explore import Broken
from model.memory import Memory

TAIL, HEAD, SLEEPING, WAITING, FIRST_SLOT = 0, 1, 2, 3, 4
PRODUCER, CONSUMER = 0, 1

Fault = Literal[
    "tail before record",
    "tail relaxed",
    "tail read relaxed",
    "head relaxed",
    "head read relaxed",
    "publish without fence",
    "sleep without fence",
    "sleep without another look",
    "release without fence",
    "want_space without fence",
    "want_space without another look",
    "bell cleared before sleep",
    "death not told",
]


class Producer(NamedTuple):
    """`at`: the step it takes next. `head`: as it knew it last. `seen`: what the step before read."""

    at: str = "push"
    written: int = 0
    published: int = 0
    head: int = 0
    told: bool = False


class Consumer(NamedTuple):
    """`left`: records of this turn."""

    at: str = "asleep"
    position: int = 0
    released: int = 0
    tail: int = 0
    left: int = 0
    told: bool = False


class State(NamedTuple):
    memory: Memory
    producer: Producer = Producer()
    consumer: Consumer = Consumer()
    # Rung or not, of the consumer's process and of the producer's.
    data_bell: bool = False
    space_bell: bool = False
    # What may still happen.
    spurious: int = 1
    mortal: bool = False

    def inside(self, side: str) -> bool:
        """That side is in the middle of one of its functions: `push`, `flush`, `want_space`, `drain`, `begin_sleep`."""
        if side == "producer":
            return self.producer.at not in ("push", "publish", "published", "asleep", "done")
        return side == "consumer" and self.consumer.at not in ("awake", "look", "raise", "asleep")


Steps = Iterator[tuple[str, State]]


@dataclass(frozen=True)
class Ring:
    records: int = 3
    slots: int = 2
    batch: int = 2
    mortal: tuple[str, ...] = ()
    spurious: int = 1
    broken: Fault | None = None
    strong: bool = False
    whole: Literal["producer", "consumer", ""] = ""

    def initial(self) -> State:
        cells = FIRST_SLOT + 2 * self.slots
        # The consumer is asleep from the start: flag up, and known to all, as `begin_sleep` left it.
        start = memory.fresh(cells, 2)
        (start,) = memory.store(start, CONSUMER, SLEEPING, 1, False)
        start = memory.fence(memory.fence(start, CONSUMER), PRODUCER)
        return State(start, spurious=self.spurious, mortal=bool(self.mortal))

    def steps(self, state: State) -> Steps:
        for each in (self._producer, self._consumer, self._deaths):
            if state.inside(self.whole) and each.__name__ != f"_{self.whole}":
                continue
            for label, after in each(state):
                yield label, self._settled(after)

    def wrong(self, state: State) -> str | None:
        return None  # what may never be is seen while it is done: `Broken`

    def unfinished(self, state: State) -> str | None:
        producer, consumer = state.producer, state.consumer
        if consumer.at == "dead":
            return None if producer.at in ("done", "end") else "the producer waits for a dead consumer"
        published = memory.newest(state.memory, TAIL)
        if consumer.position != published:
            return f"{published} records were published, {consumer.position} have arrived, and nobody goes on"
        if producer.at not in ("done", "dead"):
            return "the producer waits for room that is there"
        return None

    # -- accesses ----------------------------------------------------------------------------------------------------

    def _load(self, state: State, who: int, cell: int, acquire: bool) -> Iterator[tuple[int, State]]:
        for value, after in memory.load(state.memory, who, cell, acquire):
            yield value, state._replace(memory=after)

    def _store(self, state: State, who: int, cell: int, value: int, release: bool) -> Iterator[State]:
        for after in memory.store(state.memory, who, cell, value, release):
            yield state._replace(memory=after)

    def _lower(self, state: State, who: int, cell: int) -> Iterator[tuple[int, State]]:
        for old, after in memory.exchange(state.memory, who, cell, 0):
            yield old, state._replace(memory=after)

    def _fence(self, state: State, who: int) -> State:
        return state._replace(memory=memory.fence(state.memory, who))

    def _slot(self, position: int) -> int:
        return FIRST_SLOT + position % self.slots

    def _mark(self, position: int) -> int:
        """Moves on with each plain read of a slot, so that overwriting it without knowing of the read is a race."""
        return FIRST_SLOT + self.slots + position % self.slots

    def _settled(self, state: State) -> State:
        """Past the decisions of one process alone: nobody can come between."""
        producer, consumer = state.producer, state.consumer
        while (at := self._producer_decides(producer)) != producer.at:
            producer = producer._replace(at=at)
        while (at := self._consumer_decides(consumer)) != consumer.at:
            consumer = consumer._replace(at=at, left=self.batch if at == "awake" else consumer.left)
        seen = memory.agreed(state.memory) if self.strong else state.memory
        return state._replace(producer=producer, consumer=consumer, memory=seen)

    def _producer_decides(self, me: Producer) -> str:
        room = me.written - me.head < self.slots
        match me.at:
            case "push" if me.written == self.records:
                return "publish"
            case "push" if room and me.written == me.published:
                return "write"
            case "publish" if me.published == me.written:
                return "published"
            case "published" if me.written == self.records:
                return "done"
            case "published" if room:
                return "push"
        return me.at

    def _consumer_decides(self, me: Consumer) -> str:
        match me.at:
            case "read" if me.position == me.tail or not me.left:
                return "release"
            case "release" if me.released == me.position:
                return "drained"
            case "drained":
                return "raise" if me.left else "awake"
        return me.at

    # -- the producer ------------------------------------------------------------------------------------------------

    def _producer(self, state: State) -> Steps:
        me = state.producer

        def to(after: State, at: str, **changed: int) -> State:
            return after._replace(producer=me._replace(at=at, **changed))

        match me.at:
            case "push" if me.written - me.head < self.slots:
                yield "producer: goes on", to(state, "write")
                yield "producer: ends its turn", to(state, "publish")
            case "push":
                for head, after in self._load(state, PRODUCER, HEAD, self.broken != "head read relaxed"):
                    full = me.written - head >= self.slots
                    yield f"producer: head is {head}", to(after, "publish" if full else "write", head=head)
            case "write" if self.broken == "tail before record":
                for after in self._store(state, PRODUCER, TAIL, me.written + 1, True):
                    yield f"producer: tail = {me.written + 1}", to(after, "fill", published=me.written + 1)
            case "write" | "fill":
                slot = self._slot(me.written)
                memory.touch(state.memory, PRODUCER, self._mark(me.written), f"record {me.written} over one being read")
                filled = state._replace(memory=memory.plain_store(state.memory, PRODUCER, slot, me.written + 1))
                at = "push" if me.at == "write" else "fence"
                yield f"producer: writes record {me.written}", to(filled, at, written=me.written + 1)
            case "publish":
                for after in self._store(state, PRODUCER, TAIL, me.written, self.broken != "tail relaxed"):
                    yield f"producer: tail = {me.written}", to(after, "fence", published=me.written)
            case "fence":
                after = state if self.broken == "publish without fence" else self._fence(state, PRODUCER)
                yield "producer: fence", to(after, "sleeps?")
            case "sleeps?":
                for flag, after in self._load(state, PRODUCER, SLEEPING, False):
                    yield f"producer: sleeping is {flag}", to(after, "lower" if flag else "published")
            case "lower":
                for flag, after in self._lower(state, PRODUCER, SLEEPING):
                    yield f"producer: lowers sleeping, which was {flag}", to(after, "ring" if flag else "published")
            case "ring":
                yield "producer: rings", to(state._replace(data_bell=True), "published")
            case "published":
                for after in self._store(state, PRODUCER, WAITING, 1, False):
                    yield "producer: waiting = 1", to(after, "wait fence")
            case "wait fence":
                after = state if self.broken == "want_space without fence" else self._fence(state, PRODUCER)
                blind = self.broken == "want_space without another look"
                yield "producer: fence", to(after, "asleep" if blind else "room?")
            case "room?":
                for head, after in self._load(state, PRODUCER, HEAD, self.broken != "head read relaxed"):
                    full = me.written - head >= self.slots
                    yield f"producer: head is {head}", to(after, "asleep" if full else "stop waiting", head=head)
            case "stop waiting":
                for after in self._store(state, PRODUCER, WAITING, 0, False):
                    yield "producer: waiting = 0", to(after, "push")
            case "asleep" if state.space_bell:
                yield "producer: wakes", to(state._replace(space_bell=False), "end" if me.told else "push")

    # -- the consumer ------------------------------------------------------------------------------------------------

    def _consumer(self, state: State) -> Steps:
        me = state.consumer

        def to(after: State, at: str, **changed: int) -> State:
            return after._replace(consumer=me._replace(at=at, **changed))

        late = self.broken == "bell cleared before sleep"
        match me.at:
            case "asleep" if state.data_bell:
                yield "consumer: wakes", to(state._replace(data_bell=False), "awake")
            case "asleep" if state.spurious:
                yield "consumer: wakes for nothing", to(state._replace(spurious=state.spurious - 1), "awake")
            case "awake":
                for after in self._store(state, CONSUMER, SLEEPING, 0, False):
                    yield "consumer: sleeping = 0", to(after, "look", left=self.batch)
            case "look":
                for tail, after in self._load(state, CONSUMER, TAIL, self.broken != "tail read relaxed"):
                    yield f"consumer: tail is {tail}", to(after, "read", tail=tail)
            case "read":
                slot = self._slot(me.position)
                memory.touch(state.memory, CONSUMER, slot, f"record {me.position} read while it is written")
                if memory.newest(state.memory, slot) != me.position + 1:
                    raise Broken(f"record {me.position} was to be read, and another one is there")
                after = state._replace(
                    memory=memory.plain_store(state.memory, CONSUMER, self._mark(me.position), me.position + 1)
                )
                yield (
                    f"consumer: reads record {me.position}",
                    to(after, "read", position=me.position + 1, left=me.left - 1),
                )
            case "release":
                for after in self._store(state, CONSUMER, HEAD, me.position, self.broken != "head relaxed"):
                    yield f"consumer: head = {me.position}", to(after, "release fence", released=me.position)
            case "release fence":
                after = state if self.broken == "release without fence" else self._fence(state, CONSUMER)
                yield "consumer: fence", to(after, "waits?")
            case "waits?":
                for flag, after in self._load(state, CONSUMER, WAITING, False):
                    yield f"consumer: waiting is {flag}", to(after, "lower" if flag else "drained")
            case "lower":
                for flag, after in self._lower(state, CONSUMER, WAITING):
                    yield f"consumer: lowers waiting, which was {flag}", to(after, "ring" if flag else "drained")
            case "ring":
                yield "consumer: rings", to(state._replace(space_bell=True), "drained")
            case "raise":
                for after in self._store(state, CONSUMER, SLEEPING, 1, False):
                    yield "consumer: sleeping = 1", to(after, "sleep fence")
            case "sleep fence":
                after = state if self.broken == "sleep without fence" else self._fence(state, CONSUMER)
                blind = self.broken == "sleep without another look"
                yield "consumer: fence", to(after, "asleep" if blind else "more?")
            case "more?":
                for tail, after in self._load(state, CONSUMER, TAIL, self.broken != "tail read relaxed"):
                    more = tail != me.position
                    yield f"consumer: tail is {tail}", to(after, "stay" if more else "clear" if late else "asleep")
            case "clear":
                yield "consumer: clears its bell", to(state._replace(data_bell=False), "asleep")
            case "stay":
                for after in self._store(state, CONSUMER, SLEEPING, 0, False):
                    yield "consumer: sleeping = 0", to(after, "awake")

    # -- deaths ------------------------------------------------------------------------------------------------------

    def _deaths(self, state: State) -> Steps:
        producer, consumer = state.producer, state.consumer
        tells = self.broken != "death not told"
        if state.mortal and "producer" in self.mortal and producer.at not in ("done", "end"):
            yield "producer: dies", state._replace(producer=producer._replace(at="dead"), mortal=False)
        if state.mortal and "consumer" in self.mortal:
            yield "consumer: dies", state._replace(consumer=consumer._replace(at="dead"), mortal=False)
        # The supervisor tells after it has reaped: everything that the dead one did has happened by then.
        if tells and producer.at == "dead" and not consumer.told:
            told = memory.learn(state.memory, CONSUMER, state.memory.threads[PRODUCER].now)
            yield (
                "supervisor: the producer is dead",
                state._replace(memory=told, consumer=consumer._replace(told=True), data_bell=True),
            )
        if tells and consumer.at == "dead" and not producer.told:
            told = memory.learn(state.memory, PRODUCER, state.memory.threads[CONSUMER].now)
            yield (
                "supervisor: the consumer is dead",
                state._replace(memory=told, producer=producer._replace(told=True), space_bell=True),
            )
