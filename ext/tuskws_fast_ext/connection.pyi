from collections.abc import Callable
from typing import Any, Protocol

from picows import WSListener, WSTransport

from tuskws_fast_ext.frame import Frame

class ConnectionOwner(Protocol):
    def on_open(self) -> None: ...
    def on_message(self, payload: bytes, text: bool) -> None: ...
    def on_pong(self) -> None: ...
    def on_closed(self, code: int) -> None: ...
    def on_failure(self, error: Exception) -> None: ...

class FlushPoint:
    blocked: set[Connection]
    closing: set[Connection]
    queue_bytes_max: int
    queue_messages_max: int
    messages_out: int
    bytes_out: int
    writes: int
    messages_in: int
    bytes_in: int
    too_slow: int
    protocol_errors: int
    def __init__(self, call_soon: Callable[..., Any], queue_bytes_max: int, queue_messages_max: int) -> None: ...
    def flush(self) -> None: ...
    def expire(self, now: float, age_max_s: float) -> None: ...

class Connection(WSListener):
    transport: WSTransport
    session: ConnectionOwner | None
    queued_bytes: int
    queued_messages: int
    batch: bool
    is_closing: bool
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
    ) -> None: ...
    def set_batch(self, batch: bool) -> None: ...
    def send(self, frame: Frame) -> None: ...
    def close(self, code: int, reason: bytes = b"") -> None: ...
    def fail(self, code: int, reason: bytes) -> None: ...
    def abort(self) -> None: ...
    def waiting(self) -> bytes: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
