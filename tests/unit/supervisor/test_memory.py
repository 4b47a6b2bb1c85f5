"""The node's shared memory: what is freed after a death, and what stays."""

from collections.abc import Iterator

import pytest

from tuskws_fast.ipc.link import Link
from tuskws_fast.metrics import COLUMN_COUNT, Metric, worker_row
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory


@pytest.fixture
def memory() -> Iterator[NodeMemory]:
    made = NodeMemory(2, MemorySizes(limit_keys=64, ring_up_bytes=65536, ring_down_bytes=131072))
    yield made
    made.close()


def test_there_is_a_row_for_every_process(memory: NodeMemory) -> None:
    counters = memory.counters(worker_row(1))
    counters.add(Metric.DELIVERIES, 5)
    rows = memory.rows()
    assert [len(row) for row in rows] == [COLUMN_COUNT] * 4
    assert [row[Metric.DELIVERIES] for row in rows] == [0, 0, 0, 5]
    counters.close()


def test_a_dead_process_has_no_gauges_but_keeps_what_it_counted(memory: NodeMemory) -> None:
    counters = memory.counters(worker_row(0))
    counters.set(Metric.CONNECTIONS_CURRENT, 7)
    counters.set(Metric.RESTARTS, 2)
    counters.add(Metric.CONNECTIONS_OPENED, 9)
    memory.forget_process(worker_row(0))
    row = memory.rows()[worker_row(0)]
    assert (row[Metric.CONNECTIONS_CURRENT], row[Metric.RESTARTS], row[Metric.CONNECTIONS_OPENED]) == (0, 2, 9)
    counters.close()


def test_a_dead_worker_gives_back_its_admissions_and_no_one_elses(memory: NodeMemory) -> None:
    tables = [memory.admission_table(worker) for worker in (0, 1)]
    assert tables[0].admit(1, 2)
    assert tables[1].admit(1, 2)
    assert not tables[1].admit(1, 2)
    memory.release_admissions(0)
    assert tables[1].count(1) == 1
    assert tables[1].admit(1, 2)
    for table in tables:
        table.close()


def test_a_new_link_is_formatted_for_its_generation(memory: NodeMemory) -> None:
    segment = memory.new_link(7)
    link = Link(segment, "worker", -1, -1, generation=7)
    assert link.generation == 7
    del link


def test_every_node_has_a_secret_of_its_own(memory: NodeMemory) -> None:
    other = NodeMemory(1, memory.sizes)
    assert len(memory.secret) == 32
    assert other.secret != memory.secret
    other.close()
