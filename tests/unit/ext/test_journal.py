"""Frames of publications against their slow twin, and against whatever bytes there may be."""

from __future__ import annotations

import sys

import hypothesis.strategies as st
import pytest
from helpers.journals import frame_slowly
from hypothesis import given
from tuskws_fast_ext.journal import frame_entries, note_homes, read_published

from tuskws_fast.storage.entries import Closed, Ended, Entry, Opened, Published, pack_entry

texts = st.text(max_size=40).filter(lambda text: text.isprintable())
entries = st.builds(
    Published,
    scope=texts,
    epoch=st.text("abc-_", max_size=20),
    offset=st.integers(0, 2**64 - 1),
    wall=st.floats(allow_nan=False),
    conn=st.integers(0, 2**64 - 1),
    tag=st.integers(0, 2**32 - 1),
    user=texts,
    key=texts,
    prefix=st.just(0),
    delivered=st.integers(-(2**31), 2**31 - 1),
    body=st.binary(max_size=100),
)
SIMPLE = Published("chat", "e1", 1, 1.5, 2, 3, "ann", "key", 2, -1, b"body")


others = st.one_of(
    st.builds(Ended, texts),
    st.builds(Opened, texts, texts, st.integers(0, 2**53)),
    st.builds(Closed, st.floats(allow_nan=False, allow_infinity=False)),
)


def frame(batch: list[Entry], number: int) -> bytes:
    return frame_entries(batch, number, Published, pack_entry)


@given(st.lists(entries, max_size=5), st.integers(1, 2**60))
def test_frames_are_those_of_the_slow_twin_and_come_back(batch: list[Published], number: int) -> None:
    data = frame([*batch], number)
    assert data == b"".join(frame_slowly(entry, n) for n, entry in enumerate(batch, start=number))
    found, at = read_published(data, 0, number, Published)
    assert found == batch
    assert all(type(entry) is Published for entry in found)
    assert at == len(data)


@given(st.lists(entries | others, max_size=8), st.integers(1, 2**60))
def test_frames_of_a_mixed_batch_are_those_of_the_slow_twin(batch: list[Entry], number: int) -> None:
    assert frame(batch, number) == b"".join(frame_slowly(entry, n) for n, entry in enumerate(batch, start=number))


def test_homes_of_publications_are_noted_up_to_the_first_other_entry() -> None:
    homes = {"chat": 3}
    assert note_homes([SIMPLE, SIMPLE._replace(scope="other")], Published, homes, 7)
    assert homes == {"chat": 3, "other": 7}
    assert not note_homes([SIMPLE._replace(scope="a"), Ended("a"), SIMPLE._replace(scope="b")], Published, homes, 8)
    assert homes == {"chat": 3, "other": 7, "a": 8}
    assert note_homes([], Published, homes, 9)


def test_error_of_the_packer_is_the_batch_s_error() -> None:
    with pytest.raises(KeyError):
        frame([SIMPLE, ()], 1)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        frame_entries([Ended("chat")], 1, Published, lambda entry, number: "text")  # type: ignore[arg-type, return-value]


def test_entry_read_holds_each_of_its_fields_once() -> None:
    (entry,), _ = read_published(frame([SIMPLE], 1), 0, 1, Published)
    body = entry.body
    # The tuple, the name here, and the argument.
    assert sys.getrefcount(body) == 3
    del entry
    assert sys.getrefcount(body) == 2


@pytest.mark.parametrize(
    "entry",
    [
        SIMPLE._replace(scope="x" * 2**16),
        SIMPLE._replace(epoch="x" * 256),
        SIMPLE._replace(offset=-1),
        SIMPLE._replace(tag=2**32),
        SIMPLE._replace(body="text"),
        SIMPLE._replace(user="\ud800"),
        SIMPLE._replace(conn=None),
    ],
)
def test_what_has_no_place_in_a_frame_raises(entry: Published) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        frame([entry], 1)


def test_any_flipped_bit_ends_the_reading_before_it() -> None:
    data = frame([SIMPLE] * 3, 7)
    one = len(data) // 3
    used = one - len(data[:one]) + len(data[:one].rstrip(b"\0"))
    for bit in range(8 * used):
        damaged = bytearray(data)
        damaged[one + bit // 8] ^= 1 << bit % 8
        found, at = read_published(bytes(damaged), 0, 7, Published)
        assert (found, at) == ([SIMPLE], one)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 2**64 - 1))
def test_junk_is_read_as_nothing(data: bytes, at: int, expected: int) -> None:
    assert read_published(data, at, expected, Published) == ([], at)


@given(st.integers(0, 2**32 - 1), st.integers(0, 42))
def test_lengths_that_cannot_be_are_not_believed(value: int, at: int) -> None:
    """The checksum is made right again: what remains is the look at each length."""
    data = bytearray(frame_slowly(SIMPLE, 7))
    data[20 + at : 24 + at] = value.to_bytes(4, "little")
    del data[len(frame_slowly(SIMPLE, 7)) :]
    whole = frame_slowly(bytes(data[4:]), 7)
    found, end = read_published(whole, 0, 7, Published)
    assert end in (0, len(whole))
    assert len(found) <= 1
