"""`--pin`: where the kernel says that the processes may run, also after a death and a rolling restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from helpers.server import RunningServer, started_server, wait_until

ALLOWED = sorted(os.sched_getaffinity(0))


def where(server: RunningServer) -> tuple[list[set[int]], set[int]]:
    workers = [os.sched_getaffinity(pid) for pid in server.worker_pids()]
    return workers, os.sched_getaffinity(server.broker_pid())


@contextmanager
def only_on(cores: set[int]) -> Iterator[None]:
    """What is started here inherits it."""
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(ALLOWED))


def test_without_the_flag_nothing_is_pinned() -> None:
    with started_server(workers=1) as server:
        assert where(server) == ([set(ALLOWED)], set(ALLOWED))


@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two cores")
def test_one_worker_leaves_the_other_cores_to_the_broker() -> None:
    with started_server(workers=1, pin=True) as server:
        assert where(server) == ([{ALLOWED[0]}], set(ALLOWED[1:]))
        assert os.sched_getaffinity(server.pid) == set(ALLOWED)


def test_a_node_that_may_use_one_core_is_pinned_to_it() -> None:
    with only_on({ALLOWED[-1]}), started_server(workers=2, pin=True) as server:
        assert where(server) == ([{ALLOWED[-1]}] * 2, {ALLOWED[-1]})


@pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two cores")
def test_a_successor_has_the_core_of_the_one_it_replaces() -> None:
    cores = len(ALLOWED)
    with started_server(workers=cores, pin=True, drain_window="0.1s") as server:
        expected = sorted([core] for core in ALLOWED)
        first = server.worker_pids()
        assert sorted(sorted(each) for each in where(server)[0]) == expected
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: len(set(server.worker_pids()) - set(first)) == 1 and server.get("/readyz")[0] == 200, "back")
        assert sorted(sorted(each) for each in where(server)[0]) == expected
        command = [sys.executable, "-m", "tuskws_fast", "restart", "--control-socket", str(server.control_socket)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=60)
        wait_until(lambda: len(server.worker_pids()) == cores, "all workers")
        assert set(server.worker_pids()).isdisjoint(first)
        assert sorted(sorted(each) for each in where(server)[0]) == expected
