"""The order of a rolling restart, with the clock and the fates of the processes in the test's hand. With real processes
it is in tests/faults/test_rollout.py."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tuskws_fast.metrics import State, worker_row
from tuskws_fast.supervisor.backoff import Backoff, BackoffRule
from tuskws_fast.supervisor.child import ChildContext
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory
from tuskws_fast.supervisor.rollout import SPARE_SLOTS, Phase, Rollout
from tuskws_fast.supervisor.slots import Slot

WORKERS = 2
PATIENCE_S = 30.0


def never(context: ChildContext) -> None:
    raise AssertionError("nothing is forked here")


class Somebody:
    """Stands where a process does."""

    def kill(self) -> None: ...


class Table:
    """The worker slots, a rollout over them, and what it did."""

    def __init__(self, memory: NodeMemory) -> None:
        self.slots = [
            Slot("worker", n, worker_row(n), never, Backoff(BackoffRule()), memory.counters(worker_row(n)))
            for n in range(WORKERS + SPARE_SLOTS)
        ]
        for slot in self.slots[:WORKERS]:
            slot.listener, slot.birth_due = slot.number, None
            slot.process = Somebody()  # type: ignore[assignment]
            slot.enter(State.READY)
        self.slots[WORKERS].rest()
        self.drained: list[str] = []
        self.said: list[Mapping[str, Any]] = []
        self.rollout = Rollout(self.slots, self.drain, lambda slot: None, self.said.append, PATIENCE_S, 0.0)

    def drain(self, slot: Slot) -> float:
        self.drained.append(slot.name)
        slot.enter(State.DRAINING)
        return 10.0

    @property
    def events(self) -> list[str]:
        return [step["event"] for step in self.said]

    def become_ready(self, slot: Slot, now: float = 1.0) -> None:
        slot.birth_due = None
        slot.process = Somebody()  # type: ignore[assignment]
        slot.enter(State.READY)
        self.rollout.on_ready(slot, now)

    def end(self, slot: Slot, how: str = "exit code 0", now: float = 2.0) -> bool:
        slot.process = None
        slot.enter(State.DOWN)
        return self.rollout.on_end(slot, how, now)


@pytest.fixture
def table() -> Iterator[Table]:
    memory = NodeMemory(WORKERS + SPARE_SLOTS, MemorySizes(64, 65536, 65536))
    made = Table(memory)
    yield made
    for slot in made.slots:
        slot.facts.close()
    memory.close()


def test_the_successor_gets_the_listener_and_is_born_at_once(table: Table) -> None:
    old, _, new = table.slots
    table.rollout.tick(5.0)
    assert (new.listener, new.birth_due) == (old.listener, 5.0)
    assert table.drained == []


def test_one_that_cannot_be_born_leaves_everything_as_it_was(table: Table) -> None:
    table.rollout.tick(0.0)
    new = table.slots[2]
    assert table.rollout.on_end(new, "cannot fork: Resource temporarily unavailable", 1.0)
    assert (new.state, new.birth_due, new.listener) == (State.SPARE, None, None)
    assert table.said[-1]["reason"] == "worker 2: cannot fork: Resource temporarily unavailable"
    assert table.drained == []


def test_the_next_step_waits_until_everybody_is_ready(table: Table) -> None:
    _, other, new = table.slots
    table.rollout.tick(0.0)
    table.become_ready(new)
    assert table.drained == ["worker 0"]
    other.enter(State.DOWN)
    assert table.end(table.slots[0])
    table.rollout.tick(3.0)
    assert table.rollout.phase is Phase.SETTLING
    table.become_ready(other)
    table.rollout.tick(4.0)
    assert table.events == ["starting", "draining", "replaced", "starting"]
    assert table.slots[0].listener == other.listener


def test_it_does_not_wait_for_ever_for_one_that_does_not_come_back(table: Table) -> None:
    _, other, new = table.slots
    table.rollout.tick(0.0)
    table.become_ready(new)
    other.enter(State.DOWN)
    table.end(table.slots[0], now=2.0)
    table.rollout.tick(2.0 + PATIENCE_S)
    assert table.said[-1] == {"event": "aborted", "reason": "worker 1 is not ready after 30 s"}


def test_one_that_died_just_before_its_successor_was_ready_is_not_born_again(table: Table) -> None:
    old, _, new = table.slots
    table.rollout.tick(0.0)
    table.end(old, "killed by SIGKILL")
    old.birth_due = 9.0
    table.become_ready(new)
    assert (old.state, old.birth_due) == (State.SPARE, None)
    assert table.drained == []
    assert table.events == ["starting", "replaced"]


def test_the_death_of_one_that_has_no_part_in_it_is_none_of_its_business(table: Table) -> None:
    table.rollout.tick(0.0)
    assert not table.end(table.slots[1], "killed by SIGKILL")
    assert not table.end(table.slots[0], "killed by SIGKILL"), "the old one is still needed"
    table.become_ready(table.slots[2])
    table.rollout.abort("enough")
    assert not table.end(table.slots[2], "killed by SIGKILL"), "a successor that serves is a worker like any other"
    assert table.events[-1] == "aborted"
    table.rollout.abort("again")
    assert table.events.count("aborted") == 1
