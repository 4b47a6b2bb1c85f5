"""The table of figures: columns that never collide, and what makes a node healthy."""

import pytest

from tuskws_fast.metrics import (
    BEAT_STALE_MS,
    COLUMN_COUNT,
    ERROR_COLUMN,
    GAUGES,
    LIMIT_COLUMN,
    Kind,
    Metric,
    State,
    column_names,
    health_of,
    row_count,
    total,
    worker_row,
)
from tuskws_fast.protocol.codes import ErrorCode

NOW_MS = 1_000_000


def make_rows(*states: State, beat_ms: int = NOW_MS) -> list[list[int]]:
    rows = [[0] * COLUMN_COUNT for _ in states]
    for row, state in zip(rows, states, strict=True):
        row[Metric.STATE] = state
        row[Metric.BEAT] = beat_ms
    rows[0][Metric.WORKERS] = sum(state != State.SPARE for state in states[2:])
    return rows


def test_every_figure_has_a_column_of_its_own() -> None:
    columns = [*Metric, *ERROR_COLUMN.values(), *LIMIT_COLUMN.values()]
    assert sorted(columns) == list(range(COLUMN_COUNT))
    assert len(set(column_names())) == COLUMN_COUNT
    assert column_names()[Metric.DELIVERIES] == "deliveries"
    assert column_names()[ERROR_COLUMN[ErrorCode.ROOM_FULL]] == "errors_room_full"


def test_every_figure_says_what_it_is() -> None:
    assert all(metric.text for metric in Metric)
    assert Metric.CONNECTIONS_CURRENT in GAUGES
    assert Metric.DELIVERIES.kind is Kind.COUNTER
    # The supervisor's facts about a process survive the zeroing of its gauges.
    assert Metric.RESTARTS not in GAUGES


def test_rows_are_the_supervisors_the_brokers_then_one_a_worker() -> None:
    assert row_count(4) == 6
    assert worker_row(3) == 5


def test_a_node_is_healthy_only_if_every_process_is_ready_and_beats() -> None:
    assert health_of(make_rows(State.READY, State.READY, State.READY), NOW_MS) == "healthy"


@pytest.mark.parametrize("row", [1, 2])
def test_a_process_that_does_not_beat_degrades_the_node(row: int) -> None:
    rows = make_rows(State.READY, State.READY, State.READY)
    rows[row][Metric.BEAT] = NOW_MS - BEAT_STALE_MS
    assert health_of(rows, NOW_MS) == "degraded"


@pytest.mark.parametrize("state", [State.DOWN, State.STARTING])
def test_a_process_that_is_away_degrades_a_node_that_was_ready(state: State) -> None:
    assert health_of(make_rows(State.READY, State.READY, state), NOW_MS) == "degraded"


def test_a_node_is_starting_until_all_were_ready_once() -> None:
    assert health_of(make_rows(State.STARTING, State.READY, State.STARTING), NOW_MS) == "starting"


def test_a_draining_node_says_so_even_when_processes_are_gone() -> None:
    assert health_of(make_rows(State.DRAINING, State.READY, State.DOWN), NOW_MS) == "draining"


def test_a_spare_slot_is_missed_by_nobody() -> None:
    assert health_of(make_rows(State.READY, State.READY, State.READY, State.SPARE), NOW_MS) == "healthy"


@pytest.mark.parametrize("beside", [State.STARTING, State.DRAINING])
def test_a_node_is_well_while_one_worker_takes_the_place_of_another(beside: State) -> None:
    rows = make_rows(State.READY, State.READY, State.READY, State.READY, beside)
    rows[0][Metric.WORKERS] = 2
    assert health_of(rows, NOW_MS) == "healthy"
    rows[2][Metric.STATE] = State.DOWN
    assert health_of(rows, NOW_MS) == "degraded"


def test_a_total_is_the_sum_of_a_column() -> None:
    rows = make_rows(State.READY, State.READY, State.READY)
    rows[1][Metric.RESTARTS] = 2
    rows[2][Metric.RESTARTS] = 3
    assert total(rows, Metric.RESTARTS) == 5
