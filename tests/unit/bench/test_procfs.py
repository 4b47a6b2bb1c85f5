"""Process trees, CPU and listeners as read from /proc, with real processes."""

import os
import socket
import subprocess
import sys

import pytest
from tuskws_bench import procfs
from tuskws_bench.procfs import ProcessCpu, TreeCpu

BURN = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"


def test_the_cpu_of_a_reaped_child_stays_in_the_tree():
    before = procfs.tree_cpu(os.getpid())
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert procfs.tree_cpu(os.getpid()).since(before) >= 0.18


def test_the_cpu_of_a_live_grandchild_counts():
    script = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN + 'print(1, flush=True); input()'!r}])"
    )
    before = procfs.tree_cpu(os.getpid())
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        after = procfs.tree_cpu(os.getpid())
        child.stdin.write(b"\n")
        child.stdin.flush()
    assert after.since(before) >= 0.18
    assert len(after.processes) >= len(before.processes) + 2


def test_a_process_that_is_gone_reads_as_none():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert procfs.read_process(child.pid) is None
    assert procfs.tree_pss_bytes(child.pid) == 0


def test_a_new_process_counts_from_its_birth():
    earlier = TreeCpu({1: ProcessCpu(1, 0, "supervisor", 1.0, 0.0)})
    later = TreeCpu({1: ProcessCpu(1, 0, "supervisor", 1.5, 2.0), 2: ProcessCpu(2, 1, "worker-0", 0.25, 0.0)})
    assert later.by_process(earlier) == {"supervisor 1": 0.5, "worker-0 2": 0.25}
    assert later.since(earlier) == pytest.approx(2.75)


def test_pss_grows_with_memory_that_is_touched():
    before = procfs.tree_pss_bytes(os.getpid())
    block = bytearray(os.urandom(1 << 20)) * 32
    assert procfs.tree_pss_bytes(os.getpid()) - before > 30 << 20
    assert block


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_listener_of_a_port_is_found(family):
    with socket.socket(family) as listener:
        listener.bind(("localhost" if family == socket.AF_INET else "::1", 0))
        listener.listen()
        assert procfs.server_of_port(listener.getsockname()[1]) == os.getpid()


def test_nobody_behind_a_port_is_an_error_that_says_what_to_do():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take it meanwhile
        with pytest.raises(procfs.NoServerError, match="--server-pid"):
            procfs.server_of_port(closed.getsockname()[1])


def node(*processes: tuple[int, int, str]) -> dict[int, ProcessCpu]:
    return {pid: ProcessCpu(pid, parent, name, 0.0, 0.0) for pid, parent, name in processes}


def test_the_topmost_holder_stands_for_the_tree():
    tree = node((1, 0, "init"), (10, 1, "bash"), (20, 10, "supervisor"), (21, 20, "worker-0"), (22, 20, "worker-1"))
    assert procfs.topmost([22, 21, 20], tree) == 20


def test_a_supervisor_that_does_not_hold_the_socket_is_known_by_its_title():
    tree = node((1, 0, "init"), (20, 1, "tuskws-fast"), (21, 20, "worker-0"))
    assert procfs.topmost([21], tree) == 20


def test_who_merely_started_the_server_is_not_part_of_it_whatever_its_name():
    tree = node(
        (1, 0, "init"), (20, 1, "tuskws-fast"), (30, 20, "tuskws-fast"), (31, 30, "worker-0"), (40, 20, "c_loop")
    )
    assert procfs.topmost([30, 31], tree) == 30
    assert procfs.topmost([40], tree) == 40


SLABS = """slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>
TCP                   10     12   2000   13    8 : tunables    0    0    0
filp                   5      9    100   21    1 : tunables    0    0    0
dentry              9999   9999    192   21    1 : tunables    0    0    0
"""
SOCKETS = "sockets: used 63\nTCP: inuse 5 orphan 0 tw 9754 alloc 5 mem 3\nUDP: inuse 0 mem 7\n"


def test_kernel_memory_is_what_connections_use_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "slabinfo").write_text(SLABS)
    (tmp_path / "net" / "sockstat").write_text(SOCKETS)
    assert procfs.kernel_memory_bytes() == 10 * 2000 + 5 * 100 + 3 * procfs.PAGE_BYTES


def test_where_the_kernel_does_not_say_it_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    assert procfs.kernel_memory_bytes() is None
