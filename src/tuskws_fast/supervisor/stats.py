"""The node's figures for operators: one JSON document for each connection to a Unix socket, then end of file.

The supervisor holds the socket, so it answers while workers are down, and knows every process. The document holds the
fields of the seed's `getStats` and `getHealthStatus` for the node, all counters summed, and a row for each process.

    {"node": {total_connections, total_rooms, online_users, memory_usage, peak_memory, uptime,  address, version, …},
     "health": {status, connections, memory_usage_mb, uptime_seconds, last_check},
     "totals": {column: figure}, "processes": [{name, state, pid, …}]}

The socket lies in a directory of mode 0700 that must be our own: in /tmp anybody could have made it first.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuskws_fast.errors import BootError
from tuskws_fast.metrics import ROW_BROKER, ROW_FIRST_WORKER, ROW_SUPERVISOR, Metric, State, column_names, health_of
from tuskws_fast.protocol import codec

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 2.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def default_path(port: int) -> Path:
    """Where a node on `port` puts its socket unless told otherwise."""
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return Path(base) / f"tuskws-fast-{os.getuid()}" / f"{port}.sock"


class StatsSocket:
    """Listens at `path`; `document` makes what is answered."""

    def __init__(self, path: Path, document: Callable[[], Mapping[str, Any]]) -> None:
        self.path = path
        self._document = document
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            _own_directory(path.parent)
            _remove_if_dead(path)
            self._listener.bind(str(path))
            path.chmod(0o600)
            self._listener.listen(16)
        except OSError as error:
            self._listener.close()
            raise BootError(f"cannot open the control socket {path}: {error.strerror or error}") from error
        except BootError:
            self._listener.close()
            raise

    @property
    def fd(self) -> int:
        return self._listener.fileno()

    def answer(self) -> None:
        """Serve one waiting connection. The answer fits into the socket's buffer, so a slow reader costs nothing."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # It went away before we came.
        with client:
            client.setblocking(False)
            try:
                client.sendall(codec.encode(self._document()))
            except OSError as error:
                log.warning("stats were not read", extra={"reason": error.strerror or str(error)})

    def abandon(self) -> None:
        """In a child: close the copy, leave the file."""
        self._listener.close()

    def close(self) -> None:
        self._listener.close()
        self.path.unlink(missing_ok=True)


def read_stats(path: Path) -> dict[str, Any]:
    """The document of the node that listens at `path`. Raises `OSError` when none does."""
    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_TIMEOUT_S)
        client.connect(str(path))
        while part := client.recv(65536):
            parts.append(part)
    document: dict[str, Any] = codec.decode(b"".join(parts))
    return document


def _own_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(directory)
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if directory.name.startswith("tuskws-fast-") and (not ours or found.st_mode & 0o077):
        raise BootError(f"{directory} is not a directory of mode 0700 that belongs to this user")


def _remove_if_dead(path: Path) -> None:
    """A node that was killed leaves its socket behind; one that lives answers."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise BootError(f"another node answers on the control socket {path}")


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
