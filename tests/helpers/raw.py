"""A client that is nothing but a socket: it reads when the test says so, and sees every byte that the server wrote."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
import zlib
from typing import Any

from helpers.rfc6455 import client_frame

from tuskws_fast.protocol import codec

TIMEOUT_S = 10.0


def masked(payload: bytes, opcode: int = 1, fin: bool = True, rsv: int = 0) -> bytes:
    """A client frame (RFC 6455 §5.2)."""
    return client_frame(opcode, payload, fin, rsv, os.urandom(4))


def deflated(payload: bytes) -> bytes:
    """A message as RFC 7692 §7.2.1 compresses it, without takeover."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


class RawClient:
    """`receive_buffer` bounds what the kernel takes for us while we do not read. `extensions` is a header's value,
    `headers` are whole lines, `source` one of the loopback's many addresses, `tls` is for a server that speaks it.
    Messages that come compressed are inflated, as if no context were taken over."""

    def __init__(
        self,
        port: int,
        path: str = "/ws",
        receive_buffer: int | None = None,
        extensions: str | None = None,
        headers: str = "",
        tls: ssl.SSLContext | None = None,
        source: str | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT_S)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._buffer = b""
        self._headers = headers
        self._extensions = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions is not None else ""
        # Whether the last frame had RSV1, and how long its payload was.
        self.rsv1 = False
        self.frame_size = 0
        self.response = self.handshake(path)

    def handshake(self, path: str) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"{self._extensions}{self._headers}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def send(self, command: object) -> None:
        self.socket.sendall(masked(codec.encode(command)))

    def send_frame(self, payload: bytes, opcode: int = 1, fin: bool = True, rsv: int = 0) -> None:
        self.socket.sendall(masked(payload, opcode, fin, rsv))

    def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next server frame. Raises `EOFError` at the end of the stream."""
        first, second = self._take(2)
        assert not second & 0x80, "a server frame is never masked"
        n = second & 0x7F
        if n == 126:
            (n,) = struct.unpack("!H", self._take(2))
        elif n == 127:
            (n,) = struct.unpack("!Q", self._take(8))
        self.rsv1, self.frame_size = bool(first & 0x40), n
        return first & 0x0F, self._take(n)

    def message(self) -> Any:
        """The next text message, decoded."""
        opcode, payload = self.frame()
        assert opcode == 1, f"a text frame was due, opcode {opcode} came: {payload!r}"
        return codec.decode(inflated(payload) if self.rsv1 else payload)

    def expect(self, kind: str) -> Any:
        """The next message of this type; others before it are passed over."""
        while (message := self.message())["type"] != kind:
            pass
        return message

    def close_code(self) -> int:
        """Read to the server's Close frame; its code."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take(self, n: int) -> bytes:
        while len(self._buffer) < n:
            self._fill()
        taken, self._buffer = self._buffer[:n], self._buffer[n:]
        return taken

    def _fill(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the server ended the connection")
        self._buffer += data
