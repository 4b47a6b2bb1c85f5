"""Fuzz target `handshake`: any bytes on a fresh socket, through httptools, the acceptor, origins, tokens and picows.

    byte 0     the limits are full (1), compression is offered (4) with contexts of one's own (2), the socket is a plain
               one (8), whose first segment is shown to the quick reader of heads before the parser
    byte 1     how the rest is cut into segments, as in `frames`
    the rest   what the client sends

Checked: no exception leaves or is logged; whoever is answered gets one whole response of ours with nothing of the
request in it, and the socket ends; whoever is upgraded sent a request that RFC 6455 §4.2.1 allows, by a second reading
of the same bytes that shares no code with the first; the quick reader makes no difference; and what was admitted is
given back.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import random
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from fuzz.frames import cut
from helpers.edge import BUFFER_BYTES, Complaints, Edge, Pair
from helpers.rfc6455 import client_frame

from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.auth.tokens import Identity, Verifier, make_token
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.extensions import Policy, parse

PLAIN = 8
SECRET = "0123456789abcdef" * 3
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STATUSES = frozenset({101, 200, 400, 401, 403, 404, 405, 408, 426, 429, 431, 503})
OUR_HEADERS = re.compile(
    rb"(Content-Type: (application/json|text/html; charset=utf-8)|Content-Length: \d+|Cache-Control: no-store"
    rb"|Connection: close|Upgrade: websocket|Sec-WebSocket-Version: 13|Retry-After: 5|Allow: GET, HEAD"
    rb"|WWW-Authenticate: Bearer)"
)
UPGRADE_HEADERS = re.compile(
    rb"(Connection: upgrade|Upgrade: websocket|Sec-WebSocket-Accept: [A-Za-z0-9+/]{27}="
    rb"|Sec-WebSocket-Protocol: tusk\.v1|Sec-WebSocket-Extensions: [a-z0-9_; =,-]+)",
    re.IGNORECASE,
)


@dataclass
class Met:
    """How a handshake went: undecided at the end of the input, over, or with a session that heard so many messages."""

    waits: bool
    is_over: bool
    wire: bytes
    heard: list[int]


class Guest:
    """The session of whoever is upgraded: what it held is given back at its end, as worker/identities does."""

    connection: Any
    address_admitted = False
    token_identity: Identity | None = None

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.heard = 0
        self.ended = 0

    def on_open(self) -> None: ...

    def on_message(self, payload: bytes, text: bool) -> None:
        self.heard += 1

    def on_pong(self) -> None: ...

    def on_closed(self, code: int) -> None:
        self.ended += 1
        self.edge.limits.release_connection()
        self.edge.limits.release_address("")

    def on_failure(self, error: Exception) -> None:
        raise AssertionError("the connection swallowed an exception") from error


class HandshakeTarget:
    name = "handshake"
    input_max = 20_000

    def __init__(self) -> None:
        self.pair = Pair()
        self.origins = OriginPolicy(["https://example.com", "https://*.example.org"])
        self.verifier = Verifier([SECRET], max_token_ttl_s=0)
        self.complaints = Complaints()
        log = logging.getLogger("tuskws_fast")
        log.addHandler(self.complaints)
        log.propagate = False

    def run(self, data: bytes) -> Hashable:
        mode, how, request = (data[0] if data else 0), (data[1] if len(data) > 1 else 0), data[2:]
        segments = [segment for segment in cut(request, how) if segment]
        found = self._meet(mode, segments, plain=False)
        if mode & PLAIN and segments:
            same = self._meet(mode, segments, plain=True)
            # What follows a request that is no upgrade is another one to the parser, and nothing to the quick reader.
            is_followed = not found.heard and not same.heard and segments[0].partition(b"\r\n\r\n")[2]
            assert is_followed or same == found, f"the quick reader makes a difference: {same} instead of {found}"
        if found.waits:
            assert (found.wire, found.heard) == (b"", [])
            return (mode & 1, "waits", min(len(request) >> 10, 17))
        status, headers = self._response(found.wire, bool(found.heard))
        if found.heard:
            check_upgradable(request, headers)
        else:
            assert found.is_over, "refused, and the socket stays"
        return (mode & 9, status, len(headers), tuple(found.heard), shape(request))

    def _meet(self, mode: int, segments: list[bytes], plain: bool) -> Met:
        guests: list[Guest] = []

        def new_session(address: str) -> Guest:
            guests.append(Guest(edge))
            return guests[-1]

        self.complaints.heard.clear()
        policy = Policy(dedicated=bool(mode & 2), window_bits=9 + mode % 7) if mode & 4 else None
        with Edge(new_session, 4096, origins=self.origins, verifier=self.verifier, compression=policy) as edge:
            edge.limits.full = bool(mode & 1)
            if plain:
                # As much as one read takes; the rest of the segment is read at the next turn.
                line, attempt = edge.open_plain(self.pair, segments[0][:BUFFER_BYTES])
                segments = [segments[0][BUFFER_BYTES:], *segments[1:]]
            else:
                line, attempt = edge.open(self.pair)
            for segment in segments:
                line.receive(segment)
            waits = attempt.transport is not None
            line.read_on()
            is_over = line.lost
            edge.loop.pass_time()
            line.read_on()
            line.hang_up()
            edge.loop.pass_time()
        assert not self.complaints.heard, self.complaints.heard[0]
        assert edge.acceptor.door.half_open == 0, "a handshake that ended is still counted"
        assert (edge.limits.connections, edge.limits.addresses) == (0, 0), "somebody admitted was not given back"
        assert all(guest.ended == 1 for guest in guests)
        return Met(waits, is_over, line.wire, [guest.heard for guest in guests])

    def _response(self, wire: bytes, upgraded: bool) -> tuple[int, list[bytes]]:
        head, found, body = wire.partition(b"\r\n\r\n")
        assert found, f"no whole response: {wire!r}"
        status_line, *headers = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+", status_line)
        assert match is not None, status_line
        status = int(match[1])
        assert status in STATUSES, status_line
        assert (status == 101) == upgraded, status_line
        for header in headers:
            assert (UPGRADE_HEADERS if upgraded else OUR_HEADERS).fullmatch(header), header
        if not upgraded:
            [length] = [int(header[16:]) for header in headers if header.startswith(b"Content-Length: ")]
            assert len(body) in (length, 0), "a response of another length than it says"
            if body and b"Content-Type: application/json" in headers:
                assert set(codec.decode(body)) == {"error"}
        return status, headers

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        plain = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"]
        rng = random.Random(0)
        return [
            bytes([mode, how]) + r
            for r in (*plain, upgrade(rng, {}))
            for mode, how in ((0, 0), (1, 1), (4, 0), (6, 9), (8, 0), (14, 9))
        ] + [bytes([PLAIN, 0]) + r for r in both_readers()]

    def fresh(self, rng: random.Random) -> bytes:
        """An upgrade request with some headers gone, changed, doubled or added, and perhaps frames behind it."""
        changes: dict[bytes, list[bytes]] = {}
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            name = rng.choice(NAMES)
            changes[name] = [rng.choice(VALUES.get(name, ODD)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        behind = client_frame(1, b"{}") * rng.choice((0, 0, 1, 3))
        mode, how = rng.choice((8, 12, 14, 6, rng.randrange(256))), rng.choice((0, 0, 1, rng.randrange(256)))
        return bytes([mode, how]) + upgrade(rng, changes) + behind


ODD = (b"", b" ", b"\t", b"a\0b", b"\xff", b"x" * 9000, b"a, b", b"a\r\n b", b"a\rb", b"a\nSet-Cookie: b", b"-1", b"0")
TOKEN = make_token(SECRET, "ann", now=0, ttl_s=4e9)
VALUES: dict[bytes, tuple[bytes, ...]] = {
    b"Host": (b"a", b"", b"example.com:443", b"[::1]:8080", *ODD),
    b"Upgrade": (b"websocket", b"WebSocket, h2c", b"h2c", *ODD),
    b"Connection": (b"keep-alive, Upgrade", b"upgrade", b"close", *ODD),
    b"Sec-WebSocket-Version": (b"13", b"8", b"13, 8", b"013", *ODD),
    b"Sec-WebSocket-Key": (b"dGhlIHNhbXBsZSBub25jZQ==", b"AAAA", b"=" * 24, b"dGhlIHNhbXBsZSBub25jZR==", *ODD),
    b"Sec-WebSocket-Protocol": (b"tusk.v1", b"chat, tusk.v1", b"chat", *ODD),
    b"Sec-WebSocket-Extensions": (
        b"permessage-deflate",
        b"permessage-deflate; client_max_window_bits, permessage-deflate; server_max_window_bits=8",
        b'permessage-deflate; server_max_window_bits="15"; client_no_context_takeover; x',
        *ODD,
    ),
    b"Origin": (b"https://example.com", b"https://a.example.org", b"null", b"http://[::1]:80", b"https://a@b", *ODD),
    b"Authorization": (f"Bearer {TOKEN}".encode(), b"Bearer a.b.c", b"Bearer ", b"Basic eA==", *ODD),
    b"Content-Length": (b"0", b"5", b"18446744073709551616", *ODD),
    b"Transfer-Encoding": (b"chunked", b"gzip, chunked", *ODD),
}
NAMES = (*VALUES, b"X", b"x" * 300, b"", b"a b", b"Sec-WebSocket-Accept", b"\xff")
BASE: dict[bytes, list[bytes]] = {
    b"Host": [b"a"],
    b"Upgrade": [b"websocket"],
    b"Connection": [b"Upgrade"],
    b"Sec-WebSocket-Version": [b"13"],
    b"Sec-WebSocket-Key": [b"dGhlIHNhbXBsZSBub25jZQ=="],
}
TARGETS = (
    b"/ws",
    b"/",
    b"/ws?token=" + TOKEN.encode(),
    b"ws://a/ws",
    b"http://a",
    b"/x",
    b"*",
    b"/ws?token=%ff&token=a",
)


def both_readers() -> list[bytes]:
    """An upgrade, and what the quick reader has to read as the parser does, or to leave to it."""
    headers = b"".join(b"%s: %s\r\n" % (name, *values) for name, values in BASE.items())
    good = b"GET /ws HTTP/1.1\r\n" + headers + b"\r\n"
    bodies = (b"Transfer-Encoding: chunked", b"Content-Length: 3")
    return [
        good,
        good.replace(b" 13\r\n", b" \t13 \t\r\n"),
        good.replace(b"/ws", b"/ws?\x7f"),
        good.replace(b"/ws", b"/ws?\x80"),
        *(good.replace(b"Host", header + b"\r\nHost") for header in bodies),
    ]


def upgrade(rng: random.Random, changes: dict[bytes, list[bytes]]) -> bytes:
    method = rng.choice((b"GET",) * 12 + (b"HEAD", b"POST", b"OPTIONS", b"PRI"))
    version = rng.choice((b"HTTP/1.1",) * 12 + (b"HTTP/1.0", b"HTTP/2.0", b""))
    lines = [b" ".join((method, rng.choice((b"/ws", *TARGETS)), version))]
    for name, values in {**BASE, **changes}.items():
        lines += [name + rng.choice((b": ",) * 6 + (b":", b":  ", b" : ")) + value for value in values]
    if rng.random() < 0.02:
        lines += [b"x: y"] * rng.randrange(90, 130)
    return rng.choice((b"\r\n",) * 15 + (b"\n",)).join(lines) + b"\r\n\r\n"


def check_upgradable(request: bytes, response: list[bytes]) -> None:
    """RFC 6455 §4.2.1, read once more from the bytes."""
    # Leading empty lines may be skipped (RFC 9112 §2.2).
    head = request.lstrip(b"\r\n").partition(b"\r\n\r\n")[0]
    request_line, *lines = head.split(b"\r\n")
    # Several spaces may stand for one (RFC 9112 §3).
    assert re.fullmatch(rb"GET +\S+ +HTTP/1\.1", request_line), request_line
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        assert (colon, name) == (b":", name.strip()), f"a line that is no header: {line!r}"
        headers.setdefault(name.lower(), []).append(value.strip(b" \t"))
    assert len(headers.get(b"host", [])) == 1
    assert b"websocket" in elements(headers, b"upgrade")
    assert b"upgrade" in elements(headers, b"connection")
    assert headers.get(b"sec-websocket-version") == [b"13"]
    assert b"transfer-encoding" not in headers, "a handshake has no body"
    assert all(int(length) == 0 for length in headers.get(b"content-length", []))
    [key] = headers.get(b"sec-websocket-key", [b""])
    assert len(base64.b64decode(key)) == 16
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    assert b"sec-websocket-accept: " + accept.lower() in [header.lower() for header in response]
    agreed = [header[26:] for header in response if header.lower().startswith(b"sec-websocket-extensions:")]
    assert not agreed or b"permessage-deflate" in b",".join(headers.get(b"sec-websocket-extensions", []))
    assert all([offer.name for offer in parse(value)] == [b"permessage-deflate"] for value in agreed)
    offered = elements(headers, b"sec-websocket-protocol")
    chosen = [header for header in response if header.lower().startswith(b"sec-websocket-protocol:")]
    assert bool(chosen) == (b"tusk.v1" in offered), "a subprotocol is chosen if, and only if, it was offered"
    assert chosen or not offered, "none of the subprotocols offered is spoken here"


def elements(headers: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    tokens = [token.strip(b" \t").lower() for value in headers.get(name, []) for token in value.split(b",")]
    return [token for token in tokens if token]


def shape(request: bytes) -> Hashable:
    """What kind of request it was, coarsely: for telling outcomes apart."""
    lower = request.lower()
    names = (b"origin", b"authorization", b"token=", b"extensions", b"protocol", b"chunked", b"content-length")
    return tuple(name in lower for name in names)
