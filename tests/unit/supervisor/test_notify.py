"""What a service manager hears: real datagrams on a real socket."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuskws_fast.supervisor.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def environ_of(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_ready_names_the_process_and_the_variables_are_gone(manager: socket.socket) -> None:
    environ = environ_of(manager, WATCHDOG_USEC="1000000", WATCHDOG_PID=str(os.getpid()), OTHER="x")
    notifier = Notifier(environ)
    notifier.ready("serving")
    assert manager.recv(4096).decode().split("\n") == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=serving"]
    assert environ == {"OTHER": "x"}
    notifier.close()


def test_a_reload_has_the_time_at_which_it_began(manager: socket.socket) -> None:
    notifier = Notifier(environ_of(manager))
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    fields = dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))
    assert fields["RELOADING"] == "1"
    assert before <= int(fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    notifier.close()


def test_stopping_says_how_long_it_may_take(manager: socket.socket) -> None:
    notifier = Notifier(environ_of(manager))
    notifier.stopping(12.5)
    assert manager.recv(4096).decode().split("\n") == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=12500000", "STATUS=draining"]
    notifier.close()


def test_the_watchdog_is_petted_twice_in_its_time(manager: socket.socket) -> None:
    notifier = Notifier(environ_of(manager, WATCHDOG_USEC="10000000"))
    assert notifier.watchdog_s == 10.0
    manager.setblocking(False)
    petted = 0
    for tenth in range(100):
        notifier.pet(tenth / 10)
        try:
            assert manager.recv(100) == b"WATCHDOG=1"
            petted += 1
        except BlockingIOError:
            continue
    assert petted == 2
    notifier.close()


@pytest.mark.parametrize("more", [{"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {}])
def test_a_watchdog_of_another_process_or_of_no_time_is_none(manager: socket.socket, more: dict[str, str]) -> None:
    notifier = Notifier(environ_of(manager, **more))
    assert notifier.watchdog_s is None
    notifier.pet(1.0)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    notifier.close()


def test_an_abstract_name_begins_with_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"tuskws-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.status("well\nSTOPPING=1")
        assert listening.recv(100) == b"STATUS=well STOPPING=1"
        notifier.close()


def test_without_a_manager_nothing_is_sent_and_a_dead_one_does_no_harm(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")})
    notifier.ready("serving")
    notifier.close()
