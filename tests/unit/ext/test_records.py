"""The compiled records against their slow twins, and against whatever bytes there may be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from helpers.packing import pack_slowly, unpack_slowly
from hypothesis import given
from tuskws_fast_ext.records import (
    pack_publication,
    pack_publish,
    pack_reply,
    unpack_publication,
    unpack_publish,
    unpack_reply,
)

from tuskws_fast.ipc.records import Publication, Publish, Reply

Pair = tuple[Callable[[Any], bytes], Callable[[bytes, type[Any]], Any]]
HOT: dict[type[Any], Pair] = {
    Publish: (pack_publish, unpack_publish),
    Publication: (pack_publication, unpack_publication),
    Reply: (pack_reply, unpack_reply),
}
HEADS = {Publish: 20, Publication: 18, Reply: 13}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
bodies = st.binary(max_size=100)
u64, u32, u16, u8 = (st.integers(0, 2**bits - 1) for bits in (64, 32, 16, 8))
truths = st.booleans()
hot_records = st.one_of(
    st.builds(Publish, u64, u32, u16, u8, truths, truths, names, names, bodies, truths, truths),
    st.builds(Publication, u64, u64, names, bodies),
    st.builds(Reply, u64, u32, truths, bodies, truths),
)
PUBLISH = Publish(1, 2, 3, 0, True, False, "chat", "key", b"body")
PUBLICATION = Publication(1, 2, "chat", b"body")
REPLY = Reply(1, 2, True, b"body")


@given(hot_records)
def test_a_payload_is_that_of_the_slow_twin_and_comes_back(record: Any) -> None:
    pack, unpack = HOT[type(record)]
    payload = pack(record)
    assert payload == pack_slowly(record)
    again = unpack(payload, type(record))
    assert again == record
    assert type(again) is type(record)
    assert [type(field) for field in again] == [type(field) for field in record]


@given(st.sampled_from(list(HOT)), st.binary(max_size=60))
def test_any_bytes_are_what_the_slow_twin_says(cls: type[Any], payload: bytes) -> None:
    expected = unpack_slowly(cls, payload)
    try:
        found = HOT[cls][1](payload, cls)
    except ValueError:
        found = None
    assert found == expected


@pytest.mark.parametrize("record", [PUBLISH, PUBLICATION, REPLY], ids=lambda record: type(record).__name__)
def test_every_payload_that_is_cut_short_is_refused_or_has_less_body(record: Any) -> None:
    pack, unpack = HOT[type(record)]
    payload = pack(record)
    for n in range(len(payload)):
        if n < len(payload) - len(record.body):
            with pytest.raises(ValueError, match="cut short"):
                unpack(payload[:n], type(record))
        else:
            assert unpack(payload[:n], type(record)).body == record.body[: n - len(payload)]


@pytest.mark.parametrize(
    "record",
    [
        PUBLISH._replace(conn=-1),
        PUBLISH._replace(conn=2**64),
        PUBLISH._replace(tag=2**32),
        PUBLISH._replace(rights=2**16),
        PUBLISH._replace(level=256),
        PUBLISH._replace(room="x" * 2**16),
        PUBLISH._replace(key="x" * 2**16),
        PUBLISH._replace(room=None),
        PUBLISH._replace(room="\ud800"),
        PUBLISH._replace(body="text"),
        PUBLISH._replace(body=None),
        PUBLICATION._replace(offset=-1),
        PUBLICATION._replace(room="x" * 2**16),
        PUBLICATION._replace(body=None),
        REPLY._replace(tag=-1),
        REPLY._replace(tag=2**32),
        REPLY._replace(body=None),
    ],
)
def test_what_has_no_place_in_a_payload_raises(record: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        HOT[type(record)][0](record)


def test_a_record_of_another_kind_is_no_such_record() -> None:
    with pytest.raises(ValueError, match="4 fields"):
        pack_publish(PUBLICATION)
    with pytest.raises(TypeError):
        pack_reply([1, 2, True, b"", True])  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", [list, int, 5, None])
def test_only_a_class_of_tuples_can_be_made(cls: Any) -> None:
    for record, (pack, unpack) in zip((PUBLISH, PUBLICATION, REPLY), HOT.values(), strict=True):
        with pytest.raises(TypeError):
            unpack(pack(record), cls)


def test_a_name_that_is_no_utf8_leaves_nothing_behind() -> None:
    payload = pack_slowly(PUBLISH).replace(b"key", b"\xff\xff\xff")
    before = sys.getrefcount(Publish)
    for _ in range(100):
        with pytest.raises(ValueError, match="utf-8"):
            unpack_publish(payload, Publish)
    # Each instance holds one.
    assert sys.getrefcount(Publish) == before


@pytest.mark.parametrize("record", [PUBLISH, PUBLICATION, REPLY], ids=lambda record: type(record).__name__)
def test_items_are_owned_once(record: Any) -> None:
    """A record made item by item holds one reference to each, and lets go of it."""
    pack, unpack = HOT[type(record)]
    again = unpack(pack(record), type(record))
    body = again.body
    # The tuple, the name here, and the argument.
    assert sys.getrefcount(body) == 3
    del again
    assert sys.getrefcount(body) == 2
