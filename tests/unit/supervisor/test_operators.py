"""The operators' socket: a word in, lines out, only for its own user, and nobody who misbehaves holds anything up."""

import contextlib
import os
import resource
import selectors
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.server import wait_until

from tuskws_fast.errors import BootError
from tuskws_fast.supervisor.operators import (
    COMMAND_TIMEOUT_S,
    OPERATORS_MAX,
    Operator,
    OperatorSocket,
    ask,
    default_path,
)
from tuskws_fast.supervisor.stats import read_stats


@contextmanager
def served(path: Path, answer: list[dict[str, Any]]) -> Iterator[OperatorSocket]:
    """A socket whose `stats` gives `answer`, turned by a thread as the supervisor turns it."""

    def tell_all(operator: Operator) -> None:
        for line in answer:
            operator.tell(line)
        operator.end()

    door, over = OperatorSocket(path), threading.Event()
    with selectors.DefaultSelector() as selector:
        door.serve(selector, {"stats": tell_all})

        def turn() -> None:
            while not over.is_set():
                for key, _ in selector.select(0.01):
                    key.data()
                door.expire(time.monotonic())

        thread = threading.Thread(target=turn, daemon=True)
        thread.start()
        try:
            yield door
        finally:
            over.set()
            thread.join()
            door.close()


def test_a_command_is_answered_in_lines_up_to_the_end(tmp_path: Path) -> None:
    lines = [{"step": n, "text": "x" * 20_000} for n in range(3)]
    with served(tmp_path / "x.sock", lines):
        assert list(ask(tmp_path / "x.sock", "stats")) == lines
        assert read_stats(tmp_path / "x.sock") == lines[0]
    assert not (tmp_path / "x.sock").exists()


def test_an_unknown_command_is_told_which_there_are(tmp_path: Path) -> None:
    with served(tmp_path / "x.sock", []):
        assert list(ask(tmp_path / "x.sock", "make tea")) == [{"error": "no such command; there are stats"}]


def test_a_node_that_hangs_up_is_no_answer(tmp_path: Path) -> None:
    with served(tmp_path / "x.sock", []), pytest.raises(ConnectionResetError):
        read_stats(tmp_path / "x.sock")


@pytest.mark.parametrize("said", [b"", b"stats", b"x" * 10_000])
def test_who_says_nothing_or_too_much_is_sent_away(tmp_path: Path, said: bytes) -> None:
    with served(tmp_path / "x.sock", [{}]), socket.socket(socket.AF_UNIX) as operator:
        operator.settimeout(COMMAND_TIMEOUT_S + 5)
        operator.connect(str(tmp_path / "x.sock"))
        operator.sendall(said)
        try:
            assert operator.recv(100) == b""
        except ConnectionResetError:
            pass  # With bytes unread the end is a reset.
        assert list(ask(tmp_path / "x.sock", "stats")) == [{}]


def test_too_many_who_say_nothing_push_out_the_oldest_of_them(tmp_path: Path) -> None:
    with served(tmp_path / "x.sock", [{}]):
        silent = [socket.socket(socket.AF_UNIX) for _ in range(OPERATORS_MAX)]
        for operator in silent:
            operator.settimeout(10)
            operator.connect(str(tmp_path / "x.sock"))
        assert list(ask(tmp_path / "x.sock", "stats")) == [{}]
        assert silent[0].recv(1) == b""
        for operator in silent:
            operator.close()


def test_who_speaks_in_the_moment_of_being_pushed_out_does_no_harm(tmp_path: Path) -> None:
    door = OperatorSocket(tmp_path / "x.sock")
    with selectors.DefaultSelector() as selector:
        door.serve(selector, {"stats": Operator.end})

        def turn() -> None:
            for key, _ in selector.select(1.0):
                key.data()

        crowd = [socket.socket(socket.AF_UNIX) for _ in range(OPERATORS_MAX + 1)]
        for operator in crowd[:-1]:
            operator.connect(str(tmp_path / "x.sock"))
            turn()
        crowd[-1].connect(str(tmp_path / "x.sock"))
        crowd[0].sendall(b"st")
        # Both are ready in this turn, the door itself first.
        turn()
        crowd[0].settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert crowd[0].recv(1) == b""
        for operator in crowd:
            operator.close()
    door.close()


def test_who_does_not_read_ends_the_own_connection_only() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        operator = Operator(ours, 0.0)
        for _ in range(100):
            operator.tell({"text": "x" * 10_000})
        assert ours.fileno() < 0


def test_only_the_own_user_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "tuskws-fast-0" / "x.sock"
    door = OperatorSocket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    door.close()


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "tuskws-fast-0"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    with pytest.raises(BootError, match="mode 0700"):
        OperatorSocket(directory / "x.sock")


def test_the_socket_of_a_dead_node_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    OperatorSocket(path).close()


def test_the_socket_of_a_living_node_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    living = OperatorSocket(path)
    with pytest.raises(BootError, match="another node answers"):
        OperatorSocket(path)
    living.close()


def test_a_place_where_no_socket_can_be_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="cannot open the control socket"):
        OperatorSocket(tmp_path / "no" / "where" / "x.sock")
    with pytest.raises(BootError, match="cannot open the control socket"):
        OperatorSocket(tmp_path / ("x" * 200))


def test_the_default_place_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_path(8080) == Path(f"/run/user/7/tuskws-fast-{os.getuid()}/8080.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_path(1) == Path(f"/tmp/tuskws-fast-{os.getuid()}/1.sock")


def test_without_a_descriptor_for_an_operator_it_rests_and_then_answers(tmp_path: Path) -> None:
    with served(tmp_path / "x.sock", [{"well": True}]) as door, socket.socket(socket.AF_UNIX) as operator:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            operator.connect(str(tmp_path / "x.sock"))
            operator.sendall(b"stats\n")
            wait_until(lambda: door.next_due is not None, "it rests")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        operator.settimeout(5.0)
        assert operator.recv(100) == b'{"well":true}\n'
