"""`--echo`: a plain WebSocket on `/echo` that sends back what it gets, for conformance suites and for measuring.

It speaks no protocol of ours and has no identity, but it is a connection like any other: admitted by the same limits,
bounded in queues of the same kind, closed by the same rules. How much is its own affair (docs/decisions/0008): the
protocol promises 64 KiB to clients of `/` and `/ws`, and a suite asks for 16 MiB. Such connections are few instead.
"""

from __future__ import annotations

import logging

from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.frame import Frame

from tuskws_fast.protocol.codes import CloseCode
from tuskws_fast.worker.lane import Lane
from tuskws_fast.worker.limits import Limits

log = logging.getLogger(__name__)

ECHO_PATH = "/echo"
OP_TEXT, OP_BINARY = 1, 2


class Echo:
    """The echo of a worker: the lane of its connections, and how many there may be at once."""

    def __init__(self, lane: Lane, limits: Limits, connections_max: int) -> None:
        self.lane = lane
        self.limits = limits
        self.connections = 0
        self._connections_max = connections_max

    @property
    def is_full(self) -> bool:
        return self.connections >= self._connections_max

    def new_session(self, address: str) -> EchoSession:
        self.connections += 1
        return EchoSession(self, address)


class EchoSession:
    """Stands where a `Session` does."""

    __slots__ = ("_address", "_echo", "connection")

    connection: Connection

    def __init__(self, echo: Echo, address: str) -> None:
        self._echo = echo
        self._address = address

    def on_open(self) -> None:
        """Nothing to greet with."""

    def on_message(self, payload: bytes, text: bool) -> None:
        self.connection.send(Frame.message(OP_TEXT if text else OP_BINARY, payload))

    def on_pong(self) -> None:
        """Nobody was pinged."""

    def on_closed(self, code: int) -> None:
        self._echo.connections -= 1
        self._echo.limits.release_address(self._address)
        self._echo.limits.release_connection()

    def on_failure(self, error: Exception) -> None:
        log.error("the echo fails", exc_info=error)
        self.connection.close(CloseCode.INTERNAL, b"internal error")
