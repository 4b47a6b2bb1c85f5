"""What the kernel says about the server's processes and the machine: CPU time, PSS, its own memory, who has a port.

CPU of a tree = utime + stime of every live process in it, plus cutime + cstime (children that were reaped), so a worker
that was killed and replaced within the interval is counted. PSS is the sum of smaps_rollup: shared pages are divided
among those who share them, and memory of dead processes is not memory.

What the kernel itself holds for connections belongs to no process: it is read for the whole machine, as the objects of
the slab caches that a connection uses plus the pages of TCP's buffers. On a loopback that is both ends of each one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")
# A descriptor, its inode, the socket, its place in an epoll. What is queued is in sockstat. Left out: the directory
# entry (192 bytes), since that cache holds the files of the whole machine too and swings by more than sockets weigh.
CONNECTION_CACHES = {
    *("TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq", "tcp_bind_bucket"),
    "tcp_bind2_bucket",
}


class NoServerError(RuntimeError):
    """No process of this machine was found behind the port; the text says what to do."""


@dataclass(frozen=True, slots=True)
class ProcessCpu:
    pid: int
    parent: int
    name: str
    own_s: float
    reaped_s: float


@dataclass(frozen=True, slots=True)
class TreeCpu:
    """CPU seconds of a process tree at one moment."""

    processes: dict[int, ProcessCpu]

    @property
    def total_s(self) -> float:
        return sum(process.own_s + process.reaped_s for process in self.processes.values())

    def since(self, earlier: TreeCpu) -> float:
        return self.total_s - earlier.total_s

    def by_process(self, earlier: TreeCpu) -> dict[str, float]:
        """{"name pid": CPU seconds since `earlier`} of each live process; a new one counts from its birth."""
        used = {}
        for pid, now in self.processes.items():
            before = earlier.processes.get(pid)
            used[f"{now.name} {pid}"] = now.own_s - (before.own_s if before else 0.0)
        return used


def read_process(pid: int) -> ProcessCpu | None:
    """None when the process is gone: it may end at any time while we look."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    utime, stime, cutime, cstime = (int(field) / TICKS_PER_S for field in fields[11:15])
    return ProcessCpu(pid, int(fields[1]), name, utime + stime, cutime + cstime)


def _all_processes() -> dict[int, ProcessCpu]:
    found = (read_process(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return {process.pid: process for process in found if process}


def tree_pids(root: int, processes: dict[int, ProcessCpu]) -> list[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    pids, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        pids.append(pid)
        waiting += children.get(pid, [])
    return pids


def tree_cpu(root: int) -> TreeCpu:
    processes = _all_processes()
    return TreeCpu({pid: processes[pid] for pid in tree_pids(root, processes) if pid in processes})


def tree_pss_bytes(root: int) -> int:
    return sum(_pss_bytes(pid) for pid in tree_cpu(root).processes)


def _pss_bytes(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def kernel_memory_bytes() -> int | None:
    """What the kernel holds for all sockets and their descriptors; None where it does not say (slabinfo is root's)."""
    try:
        slabs = (PROC / "slabinfo").read_text().splitlines()
        sockets = (PROC / "net" / "sockstat").read_text().splitlines()
    except (FileNotFoundError, PermissionError):
        return None
    objects = (line.split() for line in slabs if line.split(None, 1)[0] in CONNECTION_CACHES)
    held = sum(int(fields[1]) * int(fields[3]) for fields in objects)
    tcp = next(line.split() for line in sockets if line.startswith("TCP:"))
    return held + int(tcp[tcp.index("mem") + 1]) * PAGE_BYTES


def machine_busy_s() -> float:
    """CPU seconds that all cores together have spent on anything but idling, since boot."""
    fields = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def server_of_port(port: int) -> int:
    """The process whose tree serves `port`: the topmost of those that hold the listening socket."""
    holders = _holders(_listening_inodes(port))
    if not holders:
        raise NoServerError(
            f"no process of this machine (that we may look into) listens on port {port}: give --server-pid, "
            "or --server-pid -1 to go without the server's CPU and memory"
        )
    return topmost(holders, _all_processes())


def topmost(holders: Iterable[int], processes: dict[int, ProcessCpu]) -> int:
    """Climb while the parent holds the socket too, and from a worker of ours to its supervisor, who may not be looked
    into."""
    holders = set(holders)
    pid = min(holders)
    while True:
        process = processes.get(pid)
        parent = processes.get(process.parent) if process else None
        if process is None or parent is None:
            return pid
        is_ours = parent.name.startswith("tuskws-fast") and process.name.startswith("worker-")
        if not (parent.pid in holders or is_ours):
            return pid
        pid = parent.pid


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        path = PROC / "net" / table
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            listening = fields[3] == "0A"
            if listening and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _holders(inodes: set[str]) -> list[int]:
    return [
        int(entry.name)
        for entry in PROC.iterdir()
        if entry.name.isdigit() and not inodes.isdisjoint(_open_links(entry))
    ]


def _open_links(process: Path) -> set[str]:
    links = set()
    try:
        for descriptor in (process / "fd").iterdir():
            links.add(os.readlink(descriptor))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return links  # it ended while we looked, or belongs to another user: then it is not a server we can measure
    return links
