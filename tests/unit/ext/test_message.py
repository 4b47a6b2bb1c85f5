"""Fragments into messages: each rule of RFC 6455 §5.4 and its close code."""

from __future__ import annotations

import pytest
from helpers.rfc6455 import BINARY, CONTINUATION, TEXT
from tuskws_fast_ext.message import MessageReader, Verdict

RSV1, RSV2, RSV3 = 4, 2, 1


def reader(check_text: bool = True, rsv1_allowed: bool = False) -> MessageReader:
    return MessageReader(100, 4, check_text, rsv1_allowed)


def test_a_whole_frame_is_a_message() -> None:
    made = reader()
    assert made.feed(BINARY, True, b"\xff") == Verdict.WHOLE
    assert (made.opcode, made.payload, made.compressed) == (BINARY, b"\xff", False)


def test_fragments_are_joined_and_another_message_may_follow() -> None:
    made = reader()
    assert made.feed(TEXT, False, b"\xe2") == Verdict.MORE
    assert made.feed(CONTINUATION, False, b"") == Verdict.MORE
    assert made.feed(CONTINUATION, True, b"\x82\xac") == Verdict.WHOLE
    assert (made.opcode, made.payload) == (TEXT, "€".encode())
    assert made.feed(BINARY, True, b"x") == Verdict.WHOLE
    assert made.payload == b"x"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([(CONTINUATION, True, b"x")], 1002, id="continuation of nothing"),
        pytest.param([(TEXT, False, b"x"), (TEXT, True, b"y")], 1002, id="message inside a message"),
        pytest.param([(BINARY, True, b"x"), (CONTINUATION, True, b"y")], 1002, id="continuation of a whole message"),
        pytest.param([(BINARY, True, b"x" * 101)], 1009, id="one frame over the limit"),
        pytest.param(
            [(BINARY, False, b"x" * 60), (CONTINUATION, False, b"x" * 41)], 1009, id="together over the limit"
        ),
        pytest.param([(BINARY, False, b"")] + [(CONTINUATION, False, b"")] * 4, 1008, id="many empty fragments"),
        pytest.param([(TEXT, True, b"\xff")], 1007, id="bad text"),
        pytest.param([(TEXT, False, b"\xff")], 1007, id="bad text in a first fragment, at once"),
        pytest.param([(TEXT, False, b"\xe2"), (CONTINUATION, False, b"\x00")], 1007, id="bad over a border"),
        pytest.param([(TEXT, False, b"\xe2"), (CONTINUATION, True, b"\x82")], 1007, id="text ends inside a character"),
    ],
)
def test_a_broken_rule_has_its_code_at_the_frame_that_breaks_it(
    frames: list[tuple[int, bool, bytes]], code: int
) -> None:
    made = reader()
    *before, last = [made.feed(*frame) for frame in frames]
    assert set(before) <= {Verdict.MORE, Verdict.WHOLE}
    assert last == code
    assert made.reason
    assert made.payload is None


def test_a_message_may_be_exactly_as_big_and_as_fragmented_as_allowed() -> None:
    made = reader()
    assert made.feed(BINARY, True, b"x" * 100) == Verdict.WHOLE
    verdicts = [made.feed(opcode, opcode == 0 and n == 3, b"x" * 25) for n, opcode in enumerate([BINARY, 0, 0, 0])]
    assert verdicts == [Verdict.MORE] * 3 + [Verdict.WHOLE]


def test_text_in_one_frame_is_left_to_the_decoder_where_the_reader_is_told_so() -> None:
    made = reader(check_text=False)
    assert made.feed(TEXT, True, b"\xff") == Verdict.WHOLE
    assert made.feed(TEXT, False, b"\xff") == 1007


@pytest.mark.parametrize("rsv", range(1, 8))
def test_reserved_bits_without_an_extension_are_refused(rsv: int) -> None:
    assert reader().feed(TEXT, True, b"", rsv) == 1002


def test_rsv1_marks_a_compressed_message_on_its_first_frame_only() -> None:
    made = reader(rsv1_allowed=True)
    assert made.feed(TEXT, False, b"\xff", RSV1) == Verdict.MORE
    assert made.feed(CONTINUATION, True, b"\xff") == Verdict.WHOLE
    assert (made.compressed, made.payload) == (True, b"\xff\xff")
    assert made.feed(TEXT, True, b"plain") == Verdict.WHOLE
    assert not made.compressed
    assert made.feed(TEXT, False, b"", RSV1) == Verdict.MORE
    assert made.feed(CONTINUATION, True, b"", RSV1) == 1002


@pytest.mark.parametrize("rsv", [RSV2, RSV3, RSV1 | RSV2])
def test_the_other_reserved_bits_never_have_a_meaning(rsv: int) -> None:
    assert reader(rsv1_allowed=True).feed(TEXT, True, b"", rsv) == 1002
