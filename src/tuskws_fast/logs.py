"""One log for the whole node, on standard error: a line an event, with the name of the process that says it.

    2025-03-01T12:00:00.123Z INFO     worker 0     listening  slot=0 fd=7          console
    {"time": "…", "level": "INFO", "process": "worker 0", "message": "listening", …}     json

Context goes in as `log.info("text", extra={"key": value})`: the text stays the same for the same event, so that a log
can be searched. Clients choose some of the values, so control characters are escaped, each value is cut at 256
characters, and one event is always one line.

Writing never waits. All processes share one pipe; when its reader stops, lines are dropped and counted, and clients go
on being served. The standard error is opened once more with `O_NONBLOCK` for that (the flag belongs to the open file
description, so setting it on the inherited one would change it for the shell and every other process too). A line has
at most PIPE_BUF bytes, which a pipe takes whole or not at all: lines of several processes never mix.
"""

from __future__ import annotations

import codecs
import logging
import os
import select
import socket
import stat
import time
from typing import Any

from pythonjsonlogger.json import JsonFormatter

FIELD_CHARS_MAX = 256
MESSAGE_CHARS_MAX = 1024
TRACEBACK_CHARS_MAX = 2_800
LINE_BYTES_MAX = select.PIPE_BUF

# Python reads a codec from its file when it is first asked for: now, not when there is no descriptor left for it.
_escape = codecs.getencoder("unicode_escape")
# What every LogRecord has: everything else on it came in through `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(log_format: str, level: str, fd: int = 2) -> None:
    """Start logging in this process (and, by fork, in its children). Call once, before the first line."""
    handler = _Handler(fd)
    handler.setFormatter(_Json() if log_format == "json" else _Console())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())


def set_process(name: str) -> None:
    """The name that this process's lines carry from now on. A fork starts with no dropped lines of its own."""
    handler = _handler()
    if handler is not None:
        handler.process = name
        handler.dropped = 0


def dropped() -> int:
    """How many lines this process has lost because nobody read them."""
    handler = _handler()
    return handler.dropped if handler is not None else 0


def _handler() -> _Handler | None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            return handler
    return None


class _Handler(logging.Handler):
    """Writes whole lines without ever waiting."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.process = "supervisor"
        self.dropped = 0
        self._reported = 0
        self._socket: socket.socket | None = None
        self._fd = fd
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            # A journal's stream socket: it cannot be opened again, but a socket can be told not to wait for each call.
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            try:
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                # Another user's terminal (after `su`): writing with the inherited descriptor is all that is left.
                self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        record.processName = self.process
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        try:
            if self.dropped > self._reported:
                self._write(f"{self.process}: {self.dropped - self._reported} log lines were dropped\n".encode())
                self._reported = self.dropped
            self._write(_fit(line))
        except OSError:
            # EAGAIN: the reader does not keep up. EPIPE: it is gone. There is nobody to tell but the counter.
            self.dropped += 1

    def _write(self, line: bytes) -> None:
        if self._socket is not None:
            self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        else:
            os.write(self._fd, line)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        elif self._fd > 2:
            os.close(self._fd)
        super().close()


def _fit(line: str) -> bytes:
    encoded = line.encode(errors="backslashreplace")
    if len(encoded) >= LINE_BYTES_MAX:
        encoded = encoded[: LINE_BYTES_MAX - 4].decode(errors="ignore").encode() + b"..."
    return encoded + b"\n"


def printable(value: object, chars_max: int = FIELD_CHARS_MAX) -> str:
    """`value` as one line of at most `chars_max` characters; invisible ones escaped."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > chars_max:
        text = text[:chars_max] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c)[0].decode("ascii") for c in text)


def _context(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _traceback(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    """The end of the traceback (where it went wrong), as one line; "" when the record has none."""
    if not record.exc_info:
        return ""
    text = formatter.formatException(record.exc_info)
    return text[-TRACEBACK_CHARS_MAX:]


def _time_of(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = printable(record.getMessage(), MESSAGE_CHARS_MAX)
        line = f"{_time_of(record)} {record.levelname:<8} {record.processName:<12} {message}"
        fields = [f"{key}={_quoted(value)}" for key, value in _context(record).items()]
        if fields:
            line += "  " + " ".join(fields)
        traceback = _traceback(record, self)
        if traceback:
            line += "  | " + printable(traceback.replace("\n", " | "), TRACEBACK_CHARS_MAX + 512)
        return line


def _quoted(value: object) -> str:
    text = printable(value)
    return f'"{text}"' if " " in text else text


class _Json(JsonFormatter):
    """JSON escapes control characters by itself; what is left is to cut the values and to name the process."""

    def __init__(self) -> None:
        super().__init__(json_ensure_ascii=False)

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname,
            "process": record.processName,
            "logger": record.name,
            "message": printable(record.getMessage(), MESSAGE_CHARS_MAX),
        }
        brief = dict(fields, message=printable(record.getMessage(), FIELD_CHARS_MAX), cut=True)
        for key, value in _context(record).items():
            fields[key] = value if isinstance(value, int | float) or value is None else printable(value)
        traceback = _traceback(record, self)
        if traceback:
            fields["traceback"] = traceback
        line = str(self.serialize_log_record(fields))
        # A line that is cut is no longer JSON: when it does not fit whole, say less.
        return line if len(line.encode(errors="replace")) < LINE_BYTES_MAX else str(self.serialize_log_record(brief))
