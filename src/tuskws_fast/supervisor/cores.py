"""Which core is whose in a pinned node (`--pin`).

    16 cores, 4 workers    worker n on the n-th core, the broker on the 12 that are left
    2 cores, 1 worker      worker 0 on the first, the broker on the second
    2 cores, 2 workers     a worker each; none is left, so the broker may use both
    2 cores, 3 workers     round and round: workers 0 and 2 share the first

Cores are those this process may use (taskset, cpuset of a control group, service manager), in their order: on most
machines the first half are real cores and the second half their siblings. What counts is the listener that a worker
serves, not its slot, so the successor in a rolling restart has the core of the one it replaces.

Where a control group gives less CPU time than there are cores, these are shared with others who may have pinned
themselves to the same first ones: then nothing is pinned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


class Cores:
    def __init__(self, workers: int, allowed: Sequence[int]) -> None:
        self._allowed = sorted(allowed)
        self._left = frozenset(self._allowed[workers:] or self._allowed)

    def of_worker(self, listener: int) -> frozenset[int]:
        return frozenset({self._allowed[listener % len(self._allowed)]})

    def of_broker(self) -> frozenset[int]:
        return self._left


def allowed_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def cpu_quota(own: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> float | None:
    """How many cores' worth of time the control groups of this process leave it; None: no bound is set."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None  # a kernel without control groups
    quotas = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            folder, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            folder, read = root / "cpu", _quota_v1
        else:
            continue
        # A group is bound by those above it too.
        group = Path(path.lstrip("/"))
        quotas += [quota for each in (group, *group.parents) if (quota := read(folder / each)) is not None]
    return min(quotas, default=None)


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _quota_v1(group: Path) -> float | None:
    quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(file: Path) -> str:
    """Empty where the group has no such bound: the root group, a controller that is off, another mount."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
