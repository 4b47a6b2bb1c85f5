"""The edge of a worker without a network: acceptor, picows and `Connection` on a loop and a transport of our own.

    edge = Edge(frame_max=1024)
    line = edge.connect(head)          what the acceptor makes of this request; `line.session` once it is upgraded
    line.receive(segment)              as if the socket had read it; then the loop turn ends, and output is written
    line.wire                          every byte the server has written to the socket so far

The path `/echo` (`ECHO`) needs no session: there `line.wire` shows all that the inbound path made of its input.

Time stands still: callbacks for later run when the test says so (`edge.loop.pass_time()`), so a run is repeated exactly
by repeating its input. The socket is one end of a real pair, because `Connection` writes to the descriptor itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any

from helpers.rfc6455 import Message
from tuskws_fast_ext.connection import Connection, FlushPoint
from tuskws_fast_ext.deflate import CompressionPool
from tuskws_fast_ext.frame import Frame
from tuskws_fast_ext.gate import Inlet
from tuskws_fast_ext.head import Head
from tuskws_fast_ext.pace import Pace

from tuskws_fast.auth.forwarded import TrustedProxies
from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.protocol.extensions import Policy
from tuskws_fast.worker.acceptor import Acceptor, AcceptorSettings, Handshake
from tuskws_fast.worker.echo import Echo
from tuskws_fast.worker.lane import Lane

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEAD = Head(
    "GET",
    b"/ws",
    "1.1",
    (
        (b"host", b"test"),
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", KEY),
    ),
)
ECHO = Head(HEAD.method, b"/echo", HEAD.version, HEAD.headers)
# Where all pairs are read. A new one for each read costs more than reading, under AddressSanitizer most of all.
SOCKET_BYTES = memoryview(bytearray(1 << 16))
BUFFER_BYTES = 4096
ECHOES_MAX = 1000


class StillLoop:
    """As much of an event loop as picows and the flush point ask for. Nothing runs until it is told to."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.later: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> None:
        self.soon.append((callback, args))

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        self.later.append((callback, args))

    def run_soon(self) -> None:
        """To the end of the turn, and on while one callback asks for another."""
        while self.soon:
            ready, self.soon = self.soon, []
            for callback, args in ready:
                callback(*args)

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for callback, args in due:
            callback(*args)
        self.run_soon()


class PlainSocket:
    """What the transport's `socket` is asked; options of TCP mean nothing to the pair below."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def setsockopt(self, *args: object) -> None: ...

    def getsockopt(self, *args: object) -> int:
        return 0


class Pair:
    """The descriptor the server writes to, and the end where the test reads what came."""

    def __init__(self) -> None:
        self.server, self.client = socket.socketpair()
        self.server.setblocking(False)
        self.client.setblocking(False)
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.plain = PlainSocket(self.server.fileno())

    def read(self) -> bytes:
        data = b""
        # On a socket pair, less than there was room for is all there was.
        size = len(SOCKET_BYTES)
        while size == len(SOCKET_BYTES):
            try:
                size = self.client.recv_into(SOCKET_BYTES)
            except BlockingIOError:
                break
            data += SOCKET_BYTES[:size]
        return data

    def close(self) -> None:
        self.server.close()
        self.client.close()


class Line:
    """The transport of one connection. `slow`: nobody reads the socket before `read_on`."""

    def __init__(self, loop: StillLoop, pair: Pair, point: FlushPoint, slow: bool = False) -> None:
        self.protocol: Any = None
        self.session: Any = None
        self.address = "192.0.2.1"
        self.is_crowded = False
        self.wire = b""
        self.slow = slow
        self.lost = False
        self._loop = loop
        self._pair = pair
        self._point = point
        self._has_output = True
        self._seen_writes = 0
        self._closing = False
        self._buffer = b""
        self._unread = b""
        self._paused = False
        self.is_reading = True
        self.is_half_closed = False

    # -- what asyncio's transports offer -----------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return {"socket": self._pair.plain, "peername": (self.address, 1), "sockname": ("192.0.2.2", 2)}.get(
            name, default
        )

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert not high, "the connection has to hear of every byte that waits"

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        assert not self.is_half_closed, "a write behind write_eof"
        if self.lost or self._closing:
            return
        self._buffer += data
        self._pump()
        if self._buffer and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._buffer:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        if not self.lost:
            self._closing = True
            self._buffer = b""
            self._loop.call_soon(self._lose, None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_half_closed = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        if not self.is_reading:
            self.is_reading = True
            self._loop.call_soon(self._read)

    # -- what the network does -----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        self.deliver(data)
        self._end_turn()

    def deliver(self, data: bytes) -> None:
        """`data` comes in, in a turn that is not over with it. What is not read waits in the socket."""
        self._unread += data
        self._read()

    def _read(self) -> None:
        while self._unread and self.is_reading and not self._closing:
            buffer = self.protocol.get_buffer(len(self._unread))
            n = min(len(buffer), len(self._unread))
            buffer[:n] = self._unread[:n]
            self._unread = self._unread[n:]
            self.protocol.buffer_updated(n)

    def read_on(self) -> None:
        """The peer reads all there is, and what that makes room for, until nothing more comes."""
        self.slow = False
        self._end_turn()

    def end_input(self) -> None:
        """The peer sends nothing more."""
        if not self.protocol.eof_received():
            self.close()
        self._end_turn()

    def hang_up(self) -> None:
        """The peer is gone."""
        self._closing = True
        self._lose(None)
        self._loop.run_soon()

    def _end_turn(self) -> None:
        self._loop.run_soon()
        # A look at the socket costs more than most turns do: only when there may be something.
        while not self.slow and (self._has_output or self._buffer or self._seen_writes != self._point.writes):
            self._has_output = False
            self._seen_writes = self._point.writes
            self.wire += self._pair.read()
            self._pump()
            self._loop.run_soon()

    def _pump(self) -> None:
        if self._buffer:
            try:
                sent = self._pair.server.send(self._buffer)
            except BlockingIOError:
                return
            self._has_output = True
            self._buffer = self._buffer[sent:]
        if self._buffer:
            return
        if self._paused:
            self._paused = False
            self.protocol.resume_writing()
        if self._closing and not self._buffer:
            self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._buffer = b""
            # A plain socket that the quick reader saw refused never had one.
            if self.protocol is not None:
                self.protocol.connection_lost(error)


class EchoAll:
    """A session that leaves text to itself, as the JSON sessions do: what it is given comes back."""

    connection: Connection
    address_admitted = False
    token_identity: Any = None

    def __init__(self) -> None:
        self.closed: list[int] = []

    def on_open(self) -> None: ...

    def on_message(self, payload: bytes, text: bool) -> None:
        self.connection.send(Frame.message(1 if text else 2, payload))

    def on_pong(self) -> None: ...

    def on_closed(self, code: int) -> None:
        self.closed.append(code)

    def on_failure(self, error: Exception) -> None:
        raise AssertionError("the connection swallowed an exception") from error


class Talker:
    """A session that notes what it is told and judges UTF-8 as worker/session does. It fails at a message that begins
    with `poison`."""

    connection: Connection
    address_admitted = False
    token_identity: Any = None

    def __init__(self, echoes: bool = False, poison: bytes = b"") -> None:
        self.echoes = echoes
        self.poison = poison
        self.heard: list[Message] = []
        self.pongs = 0
        self.closed: list[int] = []

    def on_open(self) -> None: ...

    def on_message(self, payload: bytes, text: bool) -> None:
        if text:
            try:
                payload.decode()
            except UnicodeDecodeError:
                self.connection.fail(1007, b"invalid UTF-8")
                return
        self.heard.append(Message(text, payload))
        if self.poison and payload.startswith(self.poison):
            raise ZeroDivisionError
        if self.echoes:
            self.connection.send(Frame.message(1 if text else 2, payload))

    def on_pong(self) -> None:
        self.pongs += 1

    def on_closed(self, code: int) -> None:
        self.closed.append(code)

    def on_failure(self, error: Exception) -> None:
        if not isinstance(error, ZeroDivisionError):
            raise AssertionError("the connection swallowed an exception") from error
        if not self.connection.is_lost:
            self.connection.close(1011, b"internal error")


class Room:
    """Stands where `Limits` does for the acceptor: admits everybody, and knows who has not been given back."""

    def __init__(self) -> None:
        self.connections = 0
        self.addresses = 0
        self.full = False

    def admit_connection(self) -> bool:
        self.connections += 1
        return True

    def release_connection(self) -> None:
        self.connections -= 1

    def take_handshake(self, address: str, now: float) -> float:
        return 0.0

    def wait_for_token(self, address: str, now: float) -> float:
        return 0.0

    def count_refused_token(self, address: str, now: float) -> None: ...

    def admit_address(self, address: str) -> bool:
        self.addresses += not self.full
        return not self.full

    def release_address(self, address: str) -> None:
        self.addresses -= 1


class Figures:
    def add(self, column: int, n: int = 1) -> None: ...


class Complaints(logging.Handler):
    """What our code logs with a traceback is a defect that it survived: here nothing is survived."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(self.format(record))


class Edge:
    """One worker's acceptor. `new_session(address)` makes what stands where `Session` does."""

    def __init__(
        self,
        new_session: Callable[[str], Any],
        frame_max: int,
        queue_bytes_max: int = 1 << 30,
        queue_messages_max: int = 1 << 30,
        pace: Pace | None = None,
        fragments_max: int = 1024,
        buffer_bytes: int = BUFFER_BYTES,
        origins: OriginPolicy | None = None,
        verifier: Any = None,
        compression: Policy | None = None,
    ) -> None:
        self.loop = StillLoop()
        # picows asks for the running loop while its parts are made.
        asyncio._set_running_loop(self.loop)  # type: ignore[arg-type]
        self.point = FlushPoint(self.loop.call_soon, queue_bytes_max, queue_messages_max, pace)
        self.limits = Room()
        lane = Lane(frame_max, fragments_max, self.point, CompressionPool(1, 256, 5, 1e6, 1e6))
        self.echo = Echo(lane, self.limits, ECHOES_MAX)  # type: ignore[arg-type]
        self.acceptor = Acceptor(
            AcceptorSettings(
                connection_timeout_s=5.0,
                allow_query_token=True,
                require_auth=False,
                demo_page=b"<!doctype html>",
                sockets_max=1000,
                compression=compression,
                proxies=TrustedProxies(()),
                half_open_max=1000,
                half_open_per_ip_max=1000,
            ),
            Inlet(buffer_bytes, self.loop.call_soon),
            lane,
            self.echo,
            self.limits,  # type: ignore[arg-type]
            origins,
            lambda: verifier,
            Figures(),  # type: ignore[arg-type]
            new_session,
            lambda: 0,
            lambda: False,
            lambda path: None,
        )

    def open(self, pair: Pair, slow: bool = False) -> tuple[Line, Handshake]:
        """A socket that has just been accepted. What an earlier connection on this pair left unread is gone."""
        pair.read()
        line = Line(self.loop, pair, self.point, slow)
        attempt = line.protocol = self.acceptor.protocol()
        attempt.connection_made(line)  # type: ignore[arg-type]
        return line, attempt

    def open_plain(self, pair: Pair, data: bytes) -> tuple[Line, Handshake]:
        """A plain socket (ext/sockets) whose first bytes are `data`: the quick reader has the first word."""
        pair.read()
        line = Line(self.loop, pair, self.point)
        attempt = Handshake(self.acceptor)
        attempt.begin(line, data)  # type: ignore[arg-type]
        line.read_on()
        return line, attempt

    def connect(self, pair: Pair, slow: bool = False, head: Head = HEAD) -> Line:
        """A connection whose handshake is done; `wire` starts behind the 101."""
        line, attempt = self.open(pair)
        self.acceptor.decide(attempt, head)
        line.read_on()
        assert line.wire.startswith(b"HTTP/1.1 101"), line.wire[:40]
        line.wire = b""
        line.slow = slow
        return line

    def __enter__(self) -> Edge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio._set_running_loop(None)
