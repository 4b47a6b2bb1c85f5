"""What our server itself counted: publications that its broker ordered, asked from the node's control socket.

Deliveries divided by these is the fan-out; accepted publishes that are more than these would be a broken promise.
"""

from __future__ import annotations

from pathlib import Path

from tuskws_fast.supervisor.operators import default_path
from tuskws_fast.supervisor.stats import read_stats

TOLD_WITHIN_S = 1.2
RECORDS = ("publications", "private_messages")


def default_socket(port: int) -> Path:
    return default_path(port)


def broker_records(control_socket: Path) -> int | None:
    """Messages that got a place in a sequence since the node started; None where no node of ours answers."""
    try:
        totals = read_stats(control_socket)["totals"]
    except OSError:
        return None  # another server, one of another user, or one whose socket lies elsewhere
    return sum(int(totals[name]) for name in RECORDS)
