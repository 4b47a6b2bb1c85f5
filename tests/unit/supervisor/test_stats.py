"""The node's figures: what the document says."""

import os

from tuskws_fast.metrics import COLUMN_COUNT, ERROR_COLUMN, Metric, State
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.supervisor.stats import make_document

NOW_MS = 100_000


def make_rows() -> list[list[int]]:
    """A supervisor, a broker and two workers, all this very process."""
    rows = [[0] * COLUMN_COUNT for _ in range(4)]
    for row in rows:
        row[Metric.STATE] = State.READY
        row[Metric.PID] = os.getpid()
        row[Metric.STARTED] = NOW_MS - 60_000
        row[Metric.BEAT] = NOW_MS - 10
    rows[0][Metric.WORKERS] = 2
    return rows


def test_the_document_has_the_fields_of_the_seed() -> None:
    rows = make_rows()
    rows[1][Metric.ROOMS_CURRENT] = 4
    rows[1][Metric.ONLINE_USERS] = 3
    rows[2][Metric.CONNECTIONS_CURRENT] = 5
    rows[3][Metric.CONNECTIONS_CURRENT] = 6
    document = make_document(rows, NOW_MS, 1234.5678)
    node, health = document["node"], document["health"]
    assert (node["total_connections"], node["total_rooms"], node["online_users"], node["uptime"]) == (11, 4, 3, 60)
    assert node["peak_memory"] >= node["memory_usage"] > 0
    assert health == {
        "status": "healthy",
        "connections": 11,
        "memory_usage_mb": round(node["memory_usage"] / 1024**2, 2),
        "uptime_seconds": 60,
        "last_check": 1234.568,
    }


def test_totals_sum_every_counter_over_the_processes() -> None:
    rows = make_rows()
    rows[2][Metric.DELIVERIES], rows[3][Metric.DELIVERIES] = 10, 20
    rows[2][ERROR_COLUMN[ErrorCode.FORBIDDEN]] = 2
    totals = make_document(rows, NOW_MS, 0.0)["totals"]
    assert totals["deliveries"] == 30
    assert totals["errors_forbidden"] == 2
    # Facts and heartbeats have no sum.
    assert not {"pid", "state", "started", "beat"} & set(totals)


def test_every_process_has_a_row() -> None:
    rows = make_rows()
    rows[2][Metric.RESTARTS] = 2
    rows[3][Metric.PID], rows[3][Metric.STATE] = 0, State.DOWN
    document = make_document(rows, NOW_MS, 0.0)
    supervisor, broker, worker, down = document["processes"]
    assert [row["name"] for row in document["processes"]] == ["supervisor", "broker 0", "worker 0", "worker 1"]
    assert (worker["restarts"], worker["state"], worker["beat_age_ms"], worker["uptime"]) == (2, "ready", 10, 60)
    assert broker["rss"] >= broker["pss"] > 0
    assert supervisor["cpu_seconds"] > 0
    assert (down["state"], down["pss"], down["cpu_seconds"], down["beat_age_ms"]) == ("down", 0, 0.0, None)
    assert document["health"]["status"] == "degraded"


def test_a_process_that_has_just_ended_has_no_figures_and_does_no_harm() -> None:
    rows = make_rows()
    rows[2][Metric.PID] = 2**22 - 1
    assert make_document(rows, NOW_MS, 0.0)["processes"][2]["pss"] == 0
