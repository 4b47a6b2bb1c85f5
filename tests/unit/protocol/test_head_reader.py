"""A head in pieces is the head in one piece, and one that is none, or too large, is told by its status."""

from http import HTTPStatus

import pytest

from tuskws_fast.protocol.head_reader import HEAD_BYTES_MAX, HEADERS_MAX, HeadError, HeadReader

UPGRADE = (
    b"GET /ws?a=b HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ== \r\n\r\n"
)


def test_a_head_may_be_cut_anywhere() -> None:
    for cut in range(1, len(UPGRADE)):
        reader = HeadReader()
        assert reader.feed(UPGRADE[:cut]) is None
        head = reader.feed(UPGRADE[cut:] + b"\x81\x80")
        assert head is not None
        assert (head.method, head.target, head.version) == ("GET", b"/ws?a=b", "1.1")
        assert head.all(b"sec-websocket-key") == [b"dGhlIHNhbXBsZSBub25jZQ=="]
        assert reader.behind == b"\x81\x80"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"HELLO\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (HEADERS_MAX + 1) + b"\r\n", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (b"GET /" + b"a" * HEAD_BYTES_MAX, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (UPGRADE[:-4] + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
)
def test_faults_are_told_by_their_status(request_head: bytes, status: HTTPStatus) -> None:
    with pytest.raises(HeadError) as refused:
        HeadReader().feed(request_head)
    assert refused.value.status == status


def test_what_comes_behind_a_head_does_not_count_as_its_size() -> None:
    reader = HeadReader()
    assert reader.feed(UPGRADE + b"x" * HEAD_BYTES_MAX) is not None
    assert len(reader.behind) == HEAD_BYTES_MAX
