"""picows' frame parser, made without a socket: it parses what the gate passes on, and does nothing else of itself.

No pings, no pongs, no timeouts, no writes: all of these are the connection's (ext/connection). One such parser serves
all connections of a worker (ext/parser, docs/decisions/0004).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from picows import WSAutoPingStrategy
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stub, but its public protocol class

log = logging.getLogger(__name__)

# What the parser refuses; the gate gives it small frames only (ext/gate.PICOWS_FRAME_MAX).
PARSED_FRAME_MAX = 64 * 1024


class _PicowsLog:
    """What picows would log. It is not a `logging.Logger`, so picows makes no child of it."""

    def isEnabledFor(self, level: int) -> bool:
        return False

    def log(self, *args: object) -> None: ...

    debug = info = warning = log

    def error(self, message: str, *args: object) -> None:
        # The gate lets nothing pass that picows objects to: this is a defect of one of the two.
        log.error("picows: " + message, *args)

    exception = error


class _Nowhere:
    """The transport and socket of a parser that has none: what picows asks for, answered; what it writes, dropped."""

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *args: object) -> None: ...

    def getsockopt(self, *args: object) -> int:
        return 0

    def get_write_buffer_size(self) -> int:
        # Never empty: picows then writes to its transport, and not to the socket by itself.
        return 1

    def write(self, data: bytes) -> None: ...

    close = abort = setsockopt


def picows_protocol(listener_factory: Callable[[Any], Any]) -> Any:
    """A picows server protocol that parses and nothing else: no pings, no pongs, no timeouts, no socket."""
    protocol = WSProtocol(
        None,
        None,
        False,
        listener_factory,
        _PicowsLog(),
        True,
        None,
        False,
        0,
        0,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,
        PARSED_FRAME_MAX,
        None,
        0,
    )
    protocol.connection_made(_Nowhere())
    return protocol
