"""A birth and an end, with real forks."""

import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from tuskws_fast.errors import BootError, ExitCode
from tuskws_fast.metrics import Metric, worker_row
from tuskws_fast.supervisor.child import ChildContext
from tuskws_fast.supervisor.control import receive_message
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory
from tuskws_fast.supervisor.spawn import Process, spawn


@pytest.fixture
def memory() -> Iterator[NodeMemory]:
    made = NodeMemory(1, MemorySizes(64, 65536, 65536))
    yield made
    made.close()


def bear(memory: NodeMemory, main: Callable[[ChildContext], None], abandon: Callable[[], None]) -> Process:
    def make_context(control: socket.socket, bell: int) -> ChildContext:
        counters = memory.counters(worker_row(0))
        return ChildContext("worker", 0, 1, 1, control, memory, counters, bell, None)

    return spawn(make_context, main, abandon)


def wait_end(process: Process) -> int:
    with selectors.DefaultSelector() as selector:
        selector.register(process.pidfd, selectors.EVENT_READ)
        assert selector.select(10), "the child lives on"
    return process.reap()


def nothing() -> None:
    """What a child of these tests has to abandon."""


def test_a_child_that_returns_ended_well(memory: NodeMemory) -> None:
    process = bear(memory, lambda context: None, nothing)
    assert wait_end(process) == 0
    process.close()


def test_an_exception_ends_a_child_and_never_comes_back_into_the_parents_code(memory: NodeMemory) -> None:
    def main(context: ChildContext) -> None:
        raise ValueError("unexpected")

    process = bear(memory, main, nothing)
    assert wait_end(process) == ExitCode.FAILED
    process.close()


def test_a_failing_preparation_ends_a_child_too(memory: NodeMemory) -> None:
    def abandon() -> NoReturn:
        raise OSError("cannot close")

    process = bear(memory, lambda context: None, abandon)
    assert wait_end(process) == ExitCode.FAILED
    process.close()


def test_a_boot_error_is_told_with_its_reason(memory: NodeMemory) -> None:
    def main(context: ChildContext) -> None:
        raise BootError("no such application")

    process = bear(memory, main, nothing)
    assert wait_end(process) == ExitCode.BOOT
    message = receive_message(process.control)
    assert message is not None
    assert (message.op, message.fields) == ("boot_failed", {"reason": "no such application"})
    process.close()


def test_exit_codes_of_children_are_their_own(memory: NodeMemory) -> None:
    def main(context: ChildContext) -> None:
        raise SystemExit(42)

    process = bear(memory, main, nothing)
    assert wait_end(process) == 42
    process.close()


def test_a_killed_child_is_the_negative_signal_and_killing_it_again_does_no_harm(memory: NodeMemory) -> None:
    process = bear(memory, lambda context: signal.pause(), nothing)
    process.kill()
    assert wait_end(process) == -signal.SIGKILL
    process.kill()
    process.close()


def test_a_beat_is_seen_by_the_parent(memory: NodeMemory) -> None:
    process = bear(memory, lambda context: context.beat(), nothing)
    assert wait_end(process) == 0
    assert memory.rows()[worker_row(0)][Metric.BEAT] > 0
    process.close()


def test_signals_are_blocked_until_the_child_ignores_what_is_meant_for_the_node(memory: NodeMemory) -> None:
    blocked: list[bool] = []

    def note_mask() -> None:
        blocked.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    def main(context: ChildContext) -> None:
        note_mask()
        context.send("mask", blocked=blocked, ignored=signal.getsignal(signal.SIGTERM) == signal.SIG_IGN)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    process = bear(memory, main, note_mask)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    wait_end(process)
    message = receive_message(process.control)
    assert message is not None
    assert message.fields == {"blocked": [True, False], "ignored": True}
    process.close()


def test_a_fork_leaves_no_thread_and_no_descriptor_behind(memory: NodeMemory) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    process = bear(memory, lambda context: None, nothing)
    wait_end(process)
    process.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() >= 1
