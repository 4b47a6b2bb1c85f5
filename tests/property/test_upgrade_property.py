"""One pass over the headers says what asking for each of them, one after the other, says (RFC 6455 §4.2.1)."""

from __future__ import annotations

import base64
import binascii
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st
from tuskws_fast_ext.head import Head
from tuskws_fast_ext.upgrade import Fault, judge

OURS = b"tusk.v1"
KEY = base64.b64encode(bytes(16))
GOOD = [
    (b"host", b"a.example"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
]


def elements(values: list[bytes]) -> list[bytes]:
    found = (element.strip(b" \t") for value in values for element in value.split(b","))
    return [element for element in found if element]


def is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(binascii.a2b_base64(value, strict_mode=True)) == 16
    except binascii.Error:
        return False


def fault_of(head: Head) -> Fault:
    """By the letter, and slowly."""
    offered = elements(head.all(b"sec-websocket-protocol"))
    hosts, keys = head.all(b"host"), head.all(b"sec-websocket-key")
    is_right = {
        Fault.METHOD: head.method == "GET",
        Fault.VERSION: head.version == "1.1",
        Fault.HOST: len(hosts) == 1 and hosts[0] != b"",
        Fault.UPGRADE: b"websocket" in [element.lower() for element in elements(head.all(b"upgrade"))],
        Fault.CONNECTION: b"upgrade" in [element.lower() for element in elements(head.all(b"connection"))],
        Fault.WEBSOCKET_VERSION: head.all(b"sec-websocket-version") == [b"13"],
        Fault.KEY: len(keys) == 1 and is_key(keys[0]),
        Fault.ORIGIN: len(head.all(b"origin")) <= 1,
        Fault.BODY: not head.has(b"transfer-encoding")
        and not any(length.strip(b"0") for length in head.all(b"content-length")),
        Fault.SUBPROTOCOL: not offered or OURS in offered,
    }
    return next((fault for fault, right in is_right.items() if not right), Fault.NONE)


def check(head: Head) -> None:
    found = judge(head, OURS)
    assert found.fault == fault_of(head)
    assert found.key == (head.all(b"sec-websocket-key")[0] if not found.fault else None)
    assert found.offers_subprotocol is bool(elements(head.all(b"sec-websocket-protocol")))
    assert found.extensions == tuple(head.all(b"sec-websocket-extensions"))


NAMES = st.sampled_from(
    [
        *(name for name, _ in GOOD),
        b"sec-websocket-protocol", b"sec-websocket-extensions", b"origin", b"transfer-encoding", b"content-length",
        b"upgrad", b"upgradf", b"x",
    ]
)  # fmt: skip
# Pieces of lists: what is looked for, what looks like it, and what stands between.
PIECES = st.sampled_from(
    [
        b"websocket", b"WebSocket", b"websockets", b"upgrade", b"UPGRADE", b"[pgrade", b"keep-alive", b"tusk.v1",
        b"TUSK.V1", b"chat", b",", b" ", b"\t", b", ", b"\xff", b"\x00",
    ]
)  # fmt: skip
KEYS = st.binary(min_size=15, max_size=17).map(base64.b64encode) | st.text("Az09+/=!-", min_size=23, max_size=25).map(
    str.encode
)
VALUES = st.one_of(
    st.lists(PIECES, max_size=5).map(b"".join), KEYS, st.sampled_from([b"", b"0", b"00", b"13", b"10", b"chunked"])
)


@given(
    st.sampled_from(["GET"] * 9 + ["HEAD"]),
    st.sampled_from(["1.1"] * 9 + ["1.0"]),
    st.lists(st.sampled_from(GOOD) | st.tuples(NAMES, VALUES), max_size=4),
    st.lists(st.integers(0, 4), max_size=1),
    st.randoms(use_true_random=False),
)
@example("GET", "1.1", [], [], Random(0))
def test_the_first_fault_is_the_same(
    method: str, version: str, others: list[tuple[bytes, bytes]], left_out: list[int], dice: Random
) -> None:
    headers = [header for i, header in enumerate(GOOD) if i not in left_out] + others
    dice.shuffle(headers)
    check(Head(method, b"/", version, headers))


@given(KEYS)
def test_a_key_is_what_a_decoder_takes_for_16_bytes(key: bytes) -> None:
    check(Head("GET", b"/", "1.1", [*GOOD[:-1], (b"sec-websocket-key", key)]))
