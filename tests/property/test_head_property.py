"""The quick reader of request heads has no opinion of its own: what it accepts, the real parser reads alike."""

from __future__ import annotations

import httptools
from hypothesis import example, given
from hypothesis import strategies as st
from tuskws_fast_ext.head import read_head

PLAIN = (
    b"GET /ws?a=b HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Parsed:
    """What httptools makes of a request."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self.end = len(data)
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.end = upgrade.args[0]
        self.method, self.version = parser.get_method(), parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser leaves white space behind a value; the acceptor takes it off.
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_message_complete(self) -> None:
        self.complete = True


def check(data: bytes) -> bool:
    """Whether the quick reader accepts `data`; that it then agrees with the parser is asserted."""
    found = read_head(data)
    if found is None:
        return False
    # What comes behind is no part of it: the parser would take it for another request.
    parsed = Parsed(data[: found.size])
    assert (parsed.method, parsed.version, parsed.complete) == (b"GET", "1.1", True)
    assert (found.method, found.version) == ("GET", "1.1")
    assert parsed.target == found.target
    assert parsed.headers == found.headers
    assert parsed.end == found.size
    return True


def test_the_handshake_of_every_client_is_read() -> None:
    assert check(PLAIN)
    assert check(PLAIN + b"\x81\x80abcd")


def test_what_is_not_whole_is_left_alone() -> None:
    assert not any(check(PLAIN[:size]) for size in range(len(PLAIN)))


PIECES = st.sampled_from(
    [
        *(line + b"\r\n" for line in PLAIN.split(b"\r\n") if line),
        b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"\x7f", b"\xff", b"GET ", b"POST ", b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n", b"X: ", b"X:", b"X : y\r\n", b" fold\r\n", b"Content-Length: 3\r\n", b"Cookie: a=b; c=d\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: \r\n", b"http://a/b", b"*", b"/ws#f",
        b"Expect: 100-continue\r\n", b"Proxy-Connection: x\r\n", b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(b"".join))
@example(PLAIN.replace(b"\r\n\r\n", b"\r\nX: \t a \t\r\n\r\n"))
@example(b"GET / HTTP/1.1\r\n\r\n")
@example(b"GET s HTTP/1.1\r\n\r\n")
@example(b"GET / HTTP/1.1\r\n\r\nHost: a.example\r\n")
@example(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n")
def test_any_head_made_of_likely_pieces(data: bytes) -> None:
    check(data)


@given(st.data())
def test_the_handshake_with_any_few_bytes_changed(data: st.DataObject) -> None:
    head = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(head) - 1))
        change = data.draw(st.binary(max_size=3))
        head[at : at + data.draw(st.integers(0, 2))] = change
    check(bytes(head))
