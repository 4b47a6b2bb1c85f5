"""The log: one line an event whatever clients put in, and never a wait for its reader."""

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator

import pytest

from tuskws_fast import logs

log = logging.getLogger("test.logs")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    reader, writer = os.pipe()
    yield reader, writer
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    os.close(reader)
    os.close(writer)


def read(fd: int) -> str:
    return os.read(fd, 1 << 20).decode()


def test_a_console_line_has_time_level_process_message_and_context(pipe: tuple[int, int]) -> None:
    logs.configure("console", "info", pipe[1])
    logs.set_process("worker 3")
    log.warning("full", extra={"room": "general", "who": "a b"})
    time, level, rest = read(pipe[0]).split(maxsplit=2)
    assert time.endswith("Z")
    assert level == "WARNING"
    assert rest == 'worker 3     full  room=general who="a b"\n'


def test_a_json_line_has_the_same_as_fields(pipe: tuple[int, int]) -> None:
    logs.configure("json", "info", pipe[1])
    logs.set_process("broker 0")
    log.info("joined", extra={"room": "a\nb", "members": 3})
    fields = json.loads(read(pipe[0]))
    assert fields.pop("time")
    assert fields == {
        "level": "INFO",
        "process": "broker 0",
        "logger": "test.logs",
        "message": "joined",
        "room": "a\\nb",
        "members": 3,
    }


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_a_client_sends_cannot_forge_a_line_or_paint_the_terminal(pipe: tuple[int, int], log_format: str) -> None:
    logs.configure(log_format, "info", pipe[1])
    evil = '\n{"level":"admin"}\r\x1b[31m\u202e\u2028\0'
    log.info(evil, extra={"user": evil})
    text = read(pipe[0])
    assert text.count("\n") == 1
    assert not set(text[:-1]) & set("\r\x1b\u202e\u2028\0")


def test_a_field_is_cut_at_its_length(pipe: tuple[int, int]) -> None:
    logs.configure("console", "info", pipe[1])
    log.info("long", extra={"value": "x" * 1000})
    assert read(pipe[0]).count("x") == logs.FIELD_CHARS_MAX


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_line_never_exceeds_what_a_pipe_takes_whole(pipe: tuple[int, int], log_format: str) -> None:
    logs.configure(log_format, "info", pipe[1])
    log.info("\U0001f600" * 5000, extra={f"field{n}": "\U0001f600" * 300 for n in range(10)})
    line = os.read(pipe[0], 1 << 20)
    assert len(line) <= logs.LINE_BYTES_MAX
    assert line.endswith(b"\n")
    if log_format == "json":
        assert json.loads(line)["cut"] is True


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_is_part_of_its_line(pipe: tuple[int, int], log_format: str) -> None:
    logs.configure(log_format, "info", pipe[1])
    try:
        raise ValueError("what went wrong")
    except ValueError:
        log.exception("failed")
    text = read(pipe[0])
    assert text.count("\n") == 1
    assert "what went wrong" in text
    assert "test_logs.py" in text


def test_lines_below_the_level_are_not_written_and_the_level_can_change(pipe: tuple[int, int]) -> None:
    logs.configure("console", "warning", pipe[1])
    log.info("unseen")
    logs.set_level("info")
    log.info("seen")
    assert "unseen" not in (text := read(pipe[0]))
    assert "seen" in text


def test_a_full_pipe_costs_lines_and_no_time_and_is_reported_when_it_is_read_again(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    logs.configure("console", "info", writer)
    written = 0
    while not logs.dropped():
        log.info("filling", extra={"value": "x" * 200})
        written += 1
        assert written < 100_000
    assert written > 100
    read(reader)
    log.info("again")
    assert "supervisor: 1 log lines were dropped\n" in (text := read(reader))
    assert "again" in text
    log.info("once only")
    assert "dropped" not in read(reader)
    assert logs.dropped() == 1


def test_the_descriptor_that_others_share_stays_blocking(pipe: tuple[int, int]) -> None:
    logs.configure("console", "info", pipe[1])
    log.info("x")
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_reader_that_is_gone_costs_lines_only(pipe: tuple[int, int]) -> None:
    reader, writer = os.pipe()
    logs.configure("console", "info", writer)
    os.close(reader)
    log.info("nobody")
    assert logs.dropped() == 1
    os.close(writer)


def test_a_stream_socket_is_a_log_too(pipe: tuple[int, int]) -> None:
    """A service manager's journal is one, and a socket cannot be opened again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        logs.configure("console", "info", theirs.fileno())
        log.info("to the journal")
        assert b"to the journal" in ours.recv(4096)
        while not logs.dropped():
            log.info("filling", extra={"value": "x" * 200})
        assert theirs.getblocking()
