"""Accept over TLS: a listening socket in, for each client a `Handshake` on an encrypted transport out.

aiofastnet's transport (picows brings it along) is made here socket by socket, not by its `create_server`, because three
things must be ours: the context is taken anew for every connection, so a reload is one assignment and no handshake
meets a changing one; a socket counts as half-open from accept on; and a handshake that fails is told to whoever counts.
Why this transport and not uvloop's: docs/decisions/0006.

Its deadline, `connection_timeout`, runs from accept and is the same that ends a slow request: encryption gains nobody
time. A client that does not speak TLS, breaks off or shows no certificate ends here, with a figure and without a line.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiofastnet.ssl_transport import SSLTransport_Socket
from tuskws_fast_ext.tables import Counters

from tuskws_fast.errors import OUT_OF_FILES, OUT_OF_FILES_PAUSE_S
from tuskws_fast.metrics import Metric
from tuskws_fast.worker.acceptor import Acceptor, Handshake

# Sockets accepted in one turn of the loop: each costs a third of a millisecond of handshake, and clients who are in
# already are served between the turns.
ACCEPTS_MAX = 4
# A peer's time to answer the end of its TLS session; a WebSocket has had its own closing handshake before.
SHUTDOWN_TIMEOUT_S = 5.0
# What one recv may bring (a whole record), and what one send may take (the buffers that ext/connection writes, with
# the overhead of their records). Memory is only used as far as it was ever filled.
INCOMING_BYTES = 16 * 1024 + 64
OUTGOING_BYTES = 2 * (16 * 1024 + 64)


class Transport(SSLTransport_Socket):  # type: ignore[misc]  # compiled, without types
    """aiofastnet's, which also sees a reset that comes right behind data.

    It reads until a read is not filled and leaves the rest to the loop's next call. But of a socket in error uvloop
    tells once and never again (libuv stops polling it), so the connection stayed until somebody wrote to it: a
    heartbeat later, or never. Reading once more finds the error. It costs a system call each time data comes.
    """

    __slots__ = ()

    def _read_ready(self) -> None:
        super()._read_ready()
        super()._read_ready()


class TlsListener:
    """Serves `sock` until `close`. `context()` is what the next connection begins with."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        acceptor: Acceptor,
        context: Callable[[], ssl.SSLContext],
        counters: Counters,
        sock: socket.socket,
    ) -> None:
        self._loop = loop
        self._acceptor = acceptor
        self._context = context
        self._counters = counters
        self._sock = sock
        self._timeout_s = acceptor.settings.connection_timeout_s
        loop.add_reader(sock.fileno(), self._on_readable)

    def close(self) -> None:
        """Accept no more. Connections stay, handshakes under way go on."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _on_readable(self) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, peer = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    raise
                self._acceptor.on_shortage(error.errno)
                self._pause()
                return
            self._begin(accepted, peer[0])

    def _pause(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_later(OUT_OF_FILES_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _begin(self, accepted: socket.socket, address: str) -> None:
        accepted.setblocking(False)
        attempt = self._acceptor.protocol()
        attempt.address = address
        if not self._acceptor.began(attempt):
            self._counters.add(Metric.REFUSED_TOTAL)
            self._acceptor.door.leave(attempt)
            accepted.close()
            return
        done = self._loop.create_future()
        done.add_done_callback(lambda done: self._on_handshake_done(attempt, done))
        try:
            attempt.transport = Transport(
                self._loop,
                attempt,
                self._context(),
                True,
                self._timeout_s,
                SHUTDOWN_TIMEOUT_S,
                INCOMING_BYTES,
                OUTGOING_BYTES,
                accepted,
                done,
            )
        except OSError:
            # The peer was gone before we looked; the transport does not own a socket that it could not set up.
            self._counters.add(Metric.TLS_FAILED)
            self._acceptor.door.leave(attempt)
            accepted.close()

    def _on_handshake_done(self, attempt: Handshake, done: asyncio.Future[None]) -> None:
        error = done.exception()
        if error is not None:
            # ConnectionAbortedError is how the transport says that the time was up.
            late = isinstance(error, ConnectionAbortedError)
            self._counters.add(Metric.REFUSED_TIMEOUT if late else Metric.TLS_FAILED)
            attempt.drop()


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: as ever, but for one report that is none.

    When a peer breaks off its TLS handshake aiofastnet 1.2 reports the class ConnectionResetError where an instance
    belongs, which its own test for everyday network errors does not recognise. `TlsListener` has counted it.
    """
    if context.get("exception") is not ConnectionResetError:
        loop.default_exception_handler(context)
