"""Entries come back as they went in, and nothing else is taken for one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tuskws_fast.storage.entries import (
    HEAD,
    Closed,
    Confirmed,
    Ended,
    Entry,
    Kind,
    Opened,
    Published,
    Remembered,
    Snapshot,
    SnapshotEnd,
    pack_entry,
    unpack_entry,
)

ENTRIES: list[Entry] = [
    Published("chat", "e1", 7, 1.5, 1 << 60, 9, "ann", "key", 3, -1, b"body"),
    Published("\n\u00e4nn\u20ac", "", 2**60, 0.0, 0, 0, "", "", 0, 2**31 - 1, b""),
    Opened("chat", "e1", 0),
    Ended("chat"),
    Confirmed("\nann", 5),
    Snapshot("chat", "e1", 0, 3, 2, 5, 7),
    Remembered("chat", "ann", "key", 2**64 - 1, "epoch", 3, 1.5, -1),
    SnapshotEnd("chat"),
    Closed(1.5),
]


def parts(entry: Entry, number: int = 5) -> tuple[int, bytes]:
    packed = pack_entry(entry, number)
    length, found, kind = HEAD.unpack_from(packed)
    assert (length, found) == (len(packed) - HEAD.size, number)
    return kind, packed[HEAD.size :]


@pytest.mark.parametrize("entry", ENTRIES)
def test_entry_comes_back(entry: Entry) -> None:
    assert unpack_entry(*parts(entry)) == entry


def test_every_kind_is_shown_here() -> None:
    assert {parts(entry)[0] for entry in ENTRIES} == set(Kind)


@pytest.mark.parametrize("entry", ENTRIES)
def test_entry_cut_short_is_refused(entry: Entry) -> None:
    kind, payload = parts(entry)
    if isinstance(entry, Published):
        payload = payload[: len(payload) - len(entry.body) + entry.prefix]
    with pytest.raises(ValueError):
        unpack_entry(kind, payload[:-1])


@given(st.integers(0, 255), st.binary(max_size=200))
def test_junk_is_an_entry_or_a_value_error(kind: int, payload: bytes) -> None:
    try:
        unpack_entry(kind, payload)
    except ValueError:
        return


@pytest.mark.parametrize("payload", [b"[]", b'["chat",1,2]', b'["chat","e",true]', b'{"scope":1}', b'["chat","e",1.0]'])
def test_fields_of_other_types_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_entry(Kind.OPENED, payload)
