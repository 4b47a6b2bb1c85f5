"""Every kind of upgrade request, and the status it gets."""

from http import HTTPStatus

import pytest
from tuskws_fast_ext.head import Head
from tuskws_fast_ext.upgrade import Upgrade

from tuskws_fast.protocol import handshake
from tuskws_fast.protocol.handshake import Refusal

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = (
    (b"host", b"example.com"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
)


def head(*changes: tuple[bytes, bytes | None], method: str = "GET", version: str = "1.1") -> Head:
    """A good request with these headers replaced (None: left out)."""
    changed = dict(changes)
    headers = tuple((name, changed.get(name, value)) for name, value in GOOD if changed.get(name, value) is not None)
    extra = tuple((name, value) for name, value in changes if value is not None and name not in dict(GOOD))
    return Head(method, b"/", version, headers + extra)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_head",
    [
        head(),
        head((b"connection", b"keep-alive, Upgrade")),
        head((b"connection", b"Upgrade, keep-alive")),
        head((b"upgrade", b"h2c, WebSocket")),
        head((b"sec-websocket-protocol", b"chat, tusk.v1")),
        Head("GET", b"/", "1.1", (*GOOD, (b"connection", b"keep-alive"))),
        head((b"content-length", b"0")),
    ],
)
def test_good_requests_give_their_key(request_head: Head) -> None:
    upgrade = handshake.check_upgrade(request_head)
    assert isinstance(upgrade, Upgrade)
    assert upgrade.key == KEY


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(method="POST"), 405),
        (head(version="1.0"), 400),
        (head((b"host", None)), 400),
        (head((b"host", b"")), 400),
        (Head("GET", b"/", "1.1", (*GOOD, (b"host", b"other"))), 400),
        (head((b"upgrade", None)), 426),
        (head((b"upgrade", b"h2c")), 426),
        (head((b"connection", b"keep-alive")), 400),
        (head((b"connection", None)), 400),
        (head((b"sec-websocket-version", None)), 426),
        (head((b"sec-websocket-version", b"8")), 426),
        (Head("GET", b"/", "1.1", (*GOOD, (b"sec-websocket-version", b"13"))), 426),
        (head((b"sec-websocket-key", None)), 400),
        (head((b"sec-websocket-key", b"")), 400),
        (head((b"sec-websocket-key", b"dG9vIHNob3J0")), 400),
        (head((b"sec-websocket-key", b"!" * 24)), 400),
        (Head("GET", b"/", "1.1", (*GOOD, (b"sec-websocket-key", KEY))), 400),
        (head((b"sec-websocket-protocol", b"chat, superchat")), 400),
        (head((b"transfer-encoding", b"chunked")), 400),
        (head((b"content-length", b"10")), 400),
        (Head("GET", b"/", "1.1", (*GOOD, (b"origin", b"https://a"), (b"origin", b"https://b"))), 400),
    ],
)
def test_refusals_say_why_by_their_status(request_head: Head, status: int) -> None:
    refusal = handshake.check_upgrade(request_head)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    if status == 426:
        assert refusal.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/ws", "/ws", ""),
        (b"/ws?token=a&b=c", "/ws", "token=a&b=c"),
        (b"http://host:80/ws?x=1", "/ws", "x=1"),
        (b"ws://host", "/", ""),
        (b"//evil", "//evil", ""),
        (b"/a://b", "/a://b", ""),
    ],
)
def test_target_forms(target: bytes, path: str, query: str) -> None:
    assert handshake.split_target(target) == (path, query)


def test_bearer_token_comes_from_the_header_and_from_the_query_only_where_allowed() -> None:
    assert handshake.bearer_token(head((b"authorization", b"Bearer a.b.c")), "", False) == "a.b.c"
    assert handshake.bearer_token(head((b"authorization", b"Basic abc")), "", False) is None
    assert handshake.bearer_token(head(), "token=q", False) is None
    assert handshake.bearer_token(head(), "token=q", True) == "q"


def test_response_to_head_has_the_length_and_no_body() -> None:
    whole = handshake.encode_response(HTTPStatus.OK, b"{}", "application/json")
    head_only = handshake.encode_response(HTTPStatus.OK, b"{}", "application/json", head_only=True)
    assert whole == head_only + b"{}"
    assert b"Content-Length: 2\r\n" in head_only


@pytest.mark.parametrize(
    ("offered", "selected"), [((), False), ((b"",), False), ((b" , ",), False), ((b"chat, tusk.v1",), True)]
)
def test_only_a_subprotocol_that_was_offered_is_selected(offered: tuple[bytes, ...], selected: bool) -> None:
    request_head = head(*((b"sec-websocket-protocol", value) for value in offered))
    upgrade = handshake.check_upgrade(request_head)
    assert isinstance(upgrade, Upgrade)
    response = handshake.switching_protocols(upgrade)
    assert (b"Sec-WebSocket-Protocol: tusk.v1\r\n" in response) is selected
    # The answer to the key of RFC 6455 §1.3.
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
