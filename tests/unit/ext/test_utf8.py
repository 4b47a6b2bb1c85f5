"""Text in pieces: the verdict of Python's strict decoder, wherever the text is cut, and at the first bad byte."""

from __future__ import annotations

from itertools import product

import pytest
from helpers.rfc6455 import could_become_utf8
from tuskws_fast_ext.utf8 import Utf8Validator

# Both sides of every border in the table of RFC 3629 §4.
BORDERS = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")
SEQUENCES = [bytes(some) for n in (1, 2, 3) for some in product(BORDERS, repeat=n)]
LONG = [bytes(some) for some in product(b"\xf0\xf1\xf3\xf4", b"\x80\x8f\x90\xbf", BORDERS, BORDERS)]


def is_utf8(*pieces: bytes) -> bool:
    validator = Utf8Validator()
    return all(validator.feed(piece) for piece in pieces) and validator.complete


@pytest.mark.parametrize("sequences", [SEQUENCES, LONG], ids=["up to 3 bytes", "4 bytes"])
@pytest.mark.parametrize("ascii_before", [b"", b"12345678" * 2], ids=["alone", "behind whole words of ASCII"])
def test_every_border_of_the_table_is_where_the_decoder_has_it(sequences: list[bytes], ascii_before: bytes) -> None:
    wrong = [data for data in sequences if is_utf8(ascii_before + data) != could_become_utf8(data, complete=True)]
    assert not wrong


def test_a_text_may_be_cut_anywhere() -> None:
    text = "aß€😀".encode() + b"x" * 17 + "\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff".encode()
    for i in range(len(text) + 1):
        for j in range(i, len(text) + 1):
            assert is_utf8(text[:i], text[i:j], text[j:])


def test_cutting_does_not_change_the_verdict_on_any_sequence() -> None:
    wrong = [
        data
        for data in SEQUENCES + LONG[::7]
        if is_utf8(*(data[i : i + 1] for i in range(len(data)))) != could_become_utf8(data, complete=True)
    ]
    assert not wrong


def test_the_first_byte_that_no_text_can_have_is_refused_at_once() -> None:
    for data in SEQUENCES:
        validator = Utf8Validator()
        for n in range(1, len(data) + 1):
            is_possible = could_become_utf8(data[:n], complete=False)
            assert validator.feed(data[n - 1 : n]) == is_possible, data[:n]
            if not is_possible:
                break


def test_nothing_is_a_text_and_a_cut_character_is_none() -> None:
    assert is_utf8()
    assert is_utf8(b"", b"")
    assert not is_utf8(b"\xe2\x82")
