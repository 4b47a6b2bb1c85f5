"""One WebSocket connection of the auditor: bytes to messages, as cheaply as Python can, and nothing in between.

No extension is offered, so a text frame is a message (the server never fragments). Frames are masked with a key of
zeros, which RFC 6455 allows and which costs nothing.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Protocol, cast

import orjson


class Owner(Protocol):
    def on_open(self, wire: Wire) -> None: ...
    def on_message(self, message: dict[str, Any]) -> None: ...
    def on_lost(self, code: int) -> None: ...
    def on_odd(self, text: str) -> None: ...


class Wire(asyncio.Protocol):
    """`owner` hears of the beginning, each message, and once of the end: the code of the Close, or 1006 without one."""

    def __init__(self, owner: Owner, token: str | None) -> None:
        self._owner = owner
        self._token = token
        self._transport: asyncio.Transport
        self._rest = b""
        self._shaken = False
        self._code = 1006
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.on_open(self)
        token = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{token}"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def send(self, *commands: dict[str, Any]) -> None:
        if not self._over:
            self._transport.write(b"".join(_frame(orjson.dumps(command), 1) for command in commands))

    def close(self, code: int = 1000) -> None:
        if not self._over:
            self._transport.write(_frame(struct.pack("!H", code), 8))

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        if not self._shaken:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._transport.abort()
                return
            self._shaken = True
        at, n = 0, len(data)
        while n - at >= 2:
            size = data[at + 1]
            start = at + 2
            if size >= 126:
                start = at + (4 if size == 126 else 10)
                if start > n:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            end_at = start + size
            if end_at > n:
                break
            self._on_frame(data[at], data[start:end_at])
            at = end_at
        self._rest = data[at:]

    def _on_frame(self, first: int, payload: bytes) -> None:
        if first == 0x81:
            try:
                message = orjson.loads(payload)
            except orjson.JSONDecodeError:
                self._owner.on_odd(f"no JSON: {payload[:100]!r}")
                return
            self._owner.on_message(message)
        elif first == 0x89:
            self._transport.write(_frame(payload, 10))
        elif first == 0x88:
            self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._transport.write(_frame(payload[:2], 8))
            self._transport.close()
        elif first != 0x8A:
            self._owner.on_odd(f"a frame that begins with {first:#x}")

    def connection_lost(self, error: Exception | None) -> None:
        self._over = True
        self._owner.on_lost(self._code)


def _frame(payload: bytes, opcode: int) -> bytes:
    n = len(payload)
    if n < 126:
        return bytes((0x80 | opcode, 0x80 | n, 0, 0, 0, 0)) + payload
    if n < 65536:
        return bytes((0x80 | opcode, 0x80 | 126)) + n.to_bytes(2, "big") + b"\0\0\0\0" + payload
    return bytes((0x80 | opcode, 0x80 | 127)) + n.to_bytes(8, "big") + b"\0\0\0\0" + payload
