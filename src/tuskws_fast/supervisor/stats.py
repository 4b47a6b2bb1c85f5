"""The node's figures for operators: one JSON document (`operators`, command `stats`).

The supervisor answers, so it can while workers are down, and knows every process. The document holds the
fields of the seed's `getStats` and `getHealthStatus` for the node, all counters summed, and a row for each process.

    {"node": {total_connections, total_rooms, online_users, memory_usage, peak_memory, uptime,  address, version, …},
     "health": {status, connections, memory_usage_mb, uptime_seconds, last_check},
     "totals": {column: figure}, "processes": [{name, state, pid, …}]}
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuskws_fast.metrics import ROW_BROKER, ROW_FIRST_WORKER, ROW_SUPERVISOR, Metric, State, column_names, health_of
from tuskws_fast.supervisor.operators import ask

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def read_stats(path: Path) -> dict[str, Any]:
    """The document of the node that listens at `path`. Raises `OSError` when none does."""
    for document in ask(path, "stats"):
        return document
    raise ConnectionResetError(errno.ECONNRESET, "the node hung up")


# -- the document -----------------------------------------------------------------------------------------------------


def make_document(rows: Sequence[Sequence[int]], now_ms: int, wall_s: float) -> dict[str, Any]:
    """All figures, from the rows of the counters and what /proc says about their processes."""
    names = column_names()
    totals = {name: sum(row[n] for row in rows) for n, name in enumerate(names) if n > Metric.BEAT}
    processes = [_process(rows, n, now_ms) for n in range(len(rows))]
    uptime_s = max(0, now_ms - rows[ROW_SUPERVISOR][Metric.STARTED]) // 1000
    memory = sum(process["pss"] for process in processes)
    return {
        "node": {
            "total_connections": totals["connections_current"],
            "total_rooms": totals["rooms_current"],
            "online_users": totals["online_users"],
            "memory_usage": memory,
            "peak_memory": sum(process["peak_rss"] for process in processes),
            "uptime": uptime_s,
        },
        "health": {
            "status": health_of(rows, now_ms),
            "connections": totals["connections_current"],
            "memory_usage_mb": round(memory / 1024**2, 2),
            "uptime_seconds": uptime_s,
            "last_check": round(wall_s, 3),
        },
        "totals": totals,
        "processes": processes,
    }


def _name_of(row: int) -> str:
    if row == ROW_SUPERVISOR:
        return "supervisor"
    return "broker 0" if row == ROW_BROKER else f"worker {row - ROW_FIRST_WORKER}"


def _process(rows: Sequence[Sequence[int]], number: int, now_ms: int) -> dict[str, Any]:
    row = rows[number]
    pid = row[Metric.PID]
    memory = _memory_of(pid)
    return {
        "name": _name_of(number),
        "state": State(row[Metric.STATE]).name.lower(),
        "pid": pid,
        "restarts": row[Metric.RESTARTS],
        "uptime": (now_ms - row[Metric.STARTED]) // 1000 if pid else 0,
        "beat_age_ms": max(0, now_ms - row[Metric.BEAT]) if pid else None,
        "connections": row[Metric.CONNECTIONS_CURRENT],
        "messages": row[Metric.MESSAGES_RECEIVED],
        "deliveries": row[Metric.DELIVERIES],
        "publications": row[Metric.PUBLICATIONS],
        "rss": memory.get("Rss", 0),
        "pss": memory.get("Pss", 0),
        "peak_rss": memory.get("VmHWM", 0),
        "blocks": row[Metric.MEMORY_BLOCKS],
        "cpu_seconds": _cpu_seconds(pid),
    }


def _memory_of(pid: int) -> dict[str, int]:
    """Rss, Pss and VmHWM of a process in bytes; empty when it has just ended."""
    found: dict[str, int] = {}
    if not pid:
        return found
    for name in ("smaps_rollup", "status"):
        try:
            text = Path(f"/proc/{pid}/{name}").read_text(errors="replace")
        except OSError:
            continue  # It has just ended, or is not ours to look into: the figure is 0.
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key in ("Rss", "Pss", "VmHWM"):
                found[key] = int(value.split()[0]) * 1024
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0.0
    # The second field is the name in parentheses, which may hold spaces: count from the last one.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def now_document(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    return make_document(rows, time.monotonic_ns() // 1_000_000, time.time())
