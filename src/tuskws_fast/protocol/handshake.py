"""The HTTP phase of a connection, decided: may this request become a WebSocket, and if not, what is the answer.

What RFC 6455 §4.2.1 asks for is judged in ext/upgrade. What differs gets the status that tells why, and never a word of
what went wrong inside.

Pure: a request head in, a decision out. Bytes to head is the acceptor's parser, who may connect is its policy.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs

from tuskws_fast_ext.head import Head
from tuskws_fast_ext.upgrade import Fault, Upgrade, judge

from tuskws_fast.protocol import codec

SUBPROTOCOL = b"tusk.v1"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Copied for each handshake: that spares asking OpenSSL for the algorithm by name.
_SHA1 = hashlib.sha1(usedforsecurity=False)
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that does not become a WebSocket; the connection closes behind it."""

    status: HTTPStatus
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, head_only: bool = False) -> bytes:
        body = codec.encode({"error": self.text or self.status.phrase})
        return encode_response(self.status, body, "application/json", self.headers, head_only)


def encode_response(
    status: HTTPStatus,
    body: bytes,
    content_type: str,
    headers: Mapping[str, str] | None = None,
    head_only: bool = False,
) -> bytes:
    """A complete response that ends the connection. Header values are ours, never a client's."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + (b"" if head_only else body)


METHOD_NOT_ALLOWED = Refusal(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
# RFC 9110 §15.5.22 wants Upgrade in the answer, RFC 6455 §4.4 the version.
UPGRADE_REQUIRED = Refusal(
    HTTPStatus.UPGRADE_REQUIRED,
    "A WebSocket of version 13 is needed here",
    {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
)
_REFUSALS: Mapping[int, Refusal] = {
    Fault.METHOD: METHOD_NOT_ALLOWED,
    Fault.VERSION: Refusal(HTTPStatus.BAD_REQUEST, "A WebSocket needs HTTP/1.1"),
    Fault.HOST: Refusal(HTTPStatus.BAD_REQUEST, "Exactly one Host is needed"),
    Fault.UPGRADE: UPGRADE_REQUIRED,
    Fault.CONNECTION: Refusal(HTTPStatus.BAD_REQUEST, "Connection: Upgrade is missing"),
    Fault.WEBSOCKET_VERSION: UPGRADE_REQUIRED,
    Fault.KEY: Refusal(HTTPStatus.BAD_REQUEST, "Exactly one Sec-WebSocket-Key of 16 bytes is needed"),
    Fault.ORIGIN: Refusal(HTTPStatus.BAD_REQUEST, "At most one Origin"),
    Fault.BODY: Refusal(HTTPStatus.BAD_REQUEST, "A handshake has no body"),
    Fault.SUBPROTOCOL: Refusal(HTTPStatus.BAD_REQUEST, f"Only the subprotocol {SUBPROTOCOL.decode()} is spoken here"),
}


def split_target(target: bytes) -> tuple[str, str]:
    """(path, query) of a request target; the absolute form (RFC 9112 §3.2.2) loses scheme and authority."""
    text = target.decode("latin-1")
    if not text.startswith("/"):
        scheme, found, rest = text.partition("://")
        if found and scheme.isalpha():
            slash = rest.find("/")
            text = rest[slash:] if slash >= 0 else "/"
    path, _, query = text.partition("?")
    return path, query


def wants_upgrade(head: Head) -> bool:
    """The request names a protocol to switch to: it is answered as a WebSocket handshake, good or bad."""
    return head.has(b"upgrade") or head.has(b"sec-websocket-key")


def check_upgrade(head: Head) -> Refusal | Upgrade:
    """An acceptable handshake, else why it is not."""
    upgrade = judge(head, SUBPROTOCOL)
    return _REFUSALS[upgrade.fault] if upgrade.fault else upgrade


def switching_protocols(upgrade: Upgrade, extensions: str | None = None) -> bytes:
    """The 101 for an acceptable handshake (RFC 6455 §4.2.2); `extensions` is what was agreed, in our own words."""
    digest = _SHA1.copy()
    digest.update(upgrade.key + _GUID)
    accept = binascii.b2a_base64(digest.digest(), newline=False)
    # Only what was offered may be chosen.
    chosen = b"\r\nSec-WebSocket-Protocol: " + SUBPROTOCOL if upgrade.offers_subprotocol else b""
    if extensions is not None:
        chosen += f"\r\nSec-WebSocket-Extensions: {extensions}".encode("ascii")
    return b"".join((_SWITCHING, accept, chosen, b"\r\n\r\n"))


def bearer_token(head: Head, query: str, allow_query: bool) -> str | None:
    """The token of the handshake, if it carries one: `Authorization: Bearer T`, or `?token=T` where that is allowed."""
    value = head.first(b"authorization")
    if value is not None:
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    if allow_query:
        found = parse_qs(query).get("token")
        if found:
            return found[0]
    return None
