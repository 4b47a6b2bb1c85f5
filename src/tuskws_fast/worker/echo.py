"""`--echo`: a plain WebSocket on `/echo` that sends back what it gets, for conformance suites and for measuring.

It speaks no protocol of ours and has no identity, but it is a connection like any other: admitted by the same limits,
bounded in the same queues, closed by the same rules.
"""

from __future__ import annotations

import logging

from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.frame import Frame

from tuskws_fast.protocol.codes import CloseCode
from tuskws_fast.worker.limits import Limits

log = logging.getLogger(__name__)

ECHO_PATH = "/echo"
OP_TEXT, OP_BINARY = 1, 2


class EchoSession:
    """Stands where a `Session` does."""

    __slots__ = ("_address", "_limits", "connection")

    connection: Connection

    def __init__(self, limits: Limits, address: str) -> None:
        self._limits = limits
        self._address = address

    def on_open(self) -> None:
        """Nothing to greet with."""

    def on_message(self, payload: bytes, text: bool) -> None:
        self.connection.send(Frame.message(OP_TEXT if text else OP_BINARY, payload))

    def on_pong(self) -> None:
        """Nobody was pinged."""

    def on_closed(self, code: int) -> None:
        self._limits.release_address(self._address)
        self._limits.release_connection()

    def on_failure(self, error: Exception) -> None:
        log.error("the echo fails", exc_info=error)
        self.connection.close(CloseCode.INTERNAL, b"internal error")
