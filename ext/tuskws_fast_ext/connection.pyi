import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from tuskws_fast_ext.deflate import Compression
from tuskws_fast_ext.frame import Feed, Frame
from tuskws_fast_ext.pace import Pace
from tuskws_fast_ext.pings import Pings
from tuskws_fast_ext.sockets import Socket

def live_objects() -> int | None: ...

class ConnectionOwner(Protocol):
    def on_open(self) -> None: ...
    def on_message(self, payload: bytes, text: bool) -> None: ...
    def on_pong(self) -> None: ...
    def on_closed(self, code: int) -> None: ...
    def on_failure(self, error: Exception) -> None: ...

class FlushPoint:
    blocked: set[Connection]
    closing: set[Connection]
    pace: Pace
    pings: Pings | None
    queue_bytes_max: int
    queue_messages_max: int
    messages_out: int
    bytes_out: int
    writes: int
    messages_in: int
    bytes_in: int
    too_slow: int
    left_out: int
    gaps: int
    protocol_errors: int
    def __init__(
        self, call_soon: Callable[..., Any], queue_bytes_max: int, queue_messages_max: int, pace: Pace | None = None
    ) -> None: ...
    def send_together(self) -> int: ...
    def flush(self) -> None: ...
    def expire(self, now: float, age_max_s: float) -> None: ...
    def shed(self, size: int) -> int: ...

class Connection:
    transport: asyncio.Transport | Socket | None
    compression: Compression | None
    session: ConnectionOwner | None
    queued_bytes: int
    held_bytes: int
    queued_messages: int
    batch: bool
    is_closing: bool
    is_publishing: bool
    is_failed: bool
    is_lost: bool
    peer_code: int
    blocked_since: float
    last_input: float
    deadline: float
    def __init__(
        self,
        point: FlushPoint,
        session: ConnectionOwner,
        message_max: int,
        fragments_max: int,
        check_text: bool = False,
        compression: Compression | None = None,
    ) -> None: ...
    def open(self, transport: asyncio.Transport | Socket, fd: int, response: bytes, is_tls: bool = False) -> None: ...
    def lost(self) -> None: ...
    def trust(self) -> None: ...
    def set_batch(self, batch: bool) -> None: ...
    def send(self, frame: Frame) -> None: ...
    def end_skip(self, feed: Feed, told: bool) -> None: ...
    def close(self, code: int, reason: bytes = b"") -> None: ...
    def fail(self, code: int, reason: bytes) -> None: ...
    def abort(self) -> None: ...
    def waiting(self) -> bytes: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
