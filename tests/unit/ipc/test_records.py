"""Every record comes back from its payload as it was, and no payload whatever does more than raise `ValueError`."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import (
    DROPPABLE,
    DownRecord,
    DownType,
    Join,
    Publication,
    Publish,
    Reply,
    UpRecord,
    UpType,
    first_conn,
    pack_record,
    type_of,
    unpack_record,
    worker_of,
)
from tuskws_fast.protocol import codec

UP_CLASSES: tuple[type[Any], ...] = typing.get_args(UpRecord)
DOWN_CLASSES: tuple[type[Any], ...] = typing.get_args(DownRecord)
ALL_CLASSES = UP_CLASSES + DOWN_CLASSES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
BODY = TEXT.map(str.encode)
U64 = st.integers(0, 2**64 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)

# What a field of this annotation may hold, for every record class at once.
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(0, 1e9),
    float | None: st.none() | st.floats(0, 1e9),
    int: U64,
    bool: st.booleans(),
    str: TEXT,
    bytes: BODY,
    Any: JSON,
    str | None: st.none() | TEXT,
    int | None: st.none() | U64,
    list[str]: st.lists(TEXT, max_size=4),
    list[int]: st.lists(U64, max_size=4),
    list[bytes]: st.lists(BODY, max_size=4),
    list[Any] | None: st.none() | st.lists(JSON, max_size=4),
    dict[str, list[Any]]: st.dictionaries(TEXT, st.lists(JSON, max_size=4), max_size=4),
    dict[str, bytes]: st.dictionaries(TEXT, BODY, max_size=4),
    list[tuple[str, str, int, str, bytes, int]]: st.lists(st.tuples(TEXT, TEXT, U64, TEXT, BODY, U64), max_size=4),
    dict[str, int]: st.dictionaries(TEXT, U64, max_size=4),
    dict[str, Any]: st.dictionaries(TEXT, JSON, max_size=4),
    tuple[str, int] | None: st.none() | st.tuples(TEXT, U64),
    list[tuple[int, bytes]]: st.lists(st.tuples(U64, BODY), max_size=4),
}
# Narrower in their binary payloads than the type says.
NARROW: dict[tuple[type[Any], str], st.SearchStrategy[Any]] = {
    (Publish, "tag"): st.integers(0, 2**32 - 1),
    (Publish, "rights"): st.integers(0, 2**16 - 1),
    (Publish, "level"): st.integers(0, 255),
    (Publish, "body"): st.binary(max_size=60),
    (Publication, "body"): st.binary(max_size=60),
    (Reply, "tag"): st.integers(0, 2**32 - 1),
    (Reply, "body"): st.binary(max_size=60),
}


def any_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{name: NARROW.get((cls, name), FIELDS[hints[name]]) for name in cls._fields})


ANY_RECORD = st.one_of([any_of(cls) for cls in ALL_CLASSES])


def with_own_types(value: Any) -> Any:
    """Tuples equal lists nowhere in Python, but named tuples equal tuples: compare types as well."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, [with_own_types(item) for item in value])
    return (type(value).__name__, value)


@pytest.mark.parametrize("cls", ALL_CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=30)
def test_a_record_comes_back_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    record = data.draw(any_of(cls))
    again = unpack_record(type_of(record), pack_record(record))
    assert with_own_types(again) == with_own_types(record)


@pytest.mark.parametrize("cls", ALL_CLASSES, ids=lambda cls: cls.__name__)
def test_every_record_class_has_a_type_of_its_own_and_of_its_direction(cls: type[Any]) -> None:
    record = cls(*[None] * len(cls._fields))
    direction = UpType if cls in UP_CLASSES else DownType
    assert type_of(record) in list(direction)
    assert [type_of(other(*[None] * len(other._fields))) for other in ALL_CLASSES].count(type_of(record)) == 1


def test_every_type_number_has_a_record_class() -> None:
    used = {type_of(cls(*[None] * len(cls._fields))) for cls in ALL_CLASSES}
    assert used == {*UpType, *DownType}
    assert not {*UpType} & {*DownType}, "a record in the wrong ring would be taken for another"


def test_only_publications_may_be_dropped() -> None:
    assert {DownType.PUBLICATION} == DROPPABLE


def test_a_publication_and_its_answer_carry_their_body_untouched_at_the_end() -> None:
    body = b'{"type":"room_message","message":"\xc3\xa9"'
    publish = Publish(1, 2, 3, 0, True, False, "r\xe9", "key", body, False)
    assert pack_record(publish).endswith(body)
    assert pack_record(Publication(0, 1, "r\xe9", body)).endswith(body)
    assert pack_record(Reply(0, 1, True, body)).endswith(body)


def test_all_other_payloads_can_be_read_by_eye() -> None:
    payload = pack_record(Join(5, 6, 7, "room", None, ("e", 3), None))
    assert payload == b'[5,6,7,"room",null,["e",3],null]'


@given(kind=st.integers(0, 65535) | st.sampled_from([*UpType, *DownType]), payload=st.binary(max_size=80))
def test_random_bytes_are_a_record_or_a_value_error(kind: int, payload: bytes) -> None:
    unpack_or_refuse(kind, payload)


@given(kind=st.sampled_from([*UpType, *DownType]), fields=st.lists(JSON, max_size=11))
@example(kind=DownType.JOINED, fields=[1, 1, "r", "e", 1, "b", 5, "disconnect", 0])
@example(kind=DownType.JOINED, fields=[1, 1, "r", "e", 1, "b", [None], "disconnect", 0])
@example(kind=DownType.RECOVERED, fields=["r", "e", [[1]]])
@example(kind=DownType.RECOVERED, fields=["r", "e", [None]])
@example(kind=UpType.JOIN, fields=[1, 1, 1, "r", None, 5, None])
@example(kind=DownType.REPLY, fields=[1, 1, True, None])
def test_json_of_the_wrong_shape_is_a_record_or_a_value_error(kind: int, fields: list[Any]) -> None:
    unpack_or_refuse(kind, codec.encode(fields))


@given(record=ANY_RECORD, data=st.data())
def test_a_truncated_or_altered_payload_is_a_record_or_a_value_error(record: Any, data: st.DataObject) -> None:
    payload = bytearray(pack_record(record))
    cut = data.draw(st.integers(0, len(payload)))
    if cut < len(payload):
        payload[cut] ^= data.draw(st.integers(1, 255))
    unpack_or_refuse(type_of(record), bytes(payload))
    unpack_or_refuse(type_of(record), bytes(payload[:cut]))


def unpack_or_refuse(kind: int, payload: bytes) -> None:
    try:
        record = unpack_record(kind, payload)
    except ValueError:
        return
    assert type_of(record) == kind


@given(worker=st.integers(0, 4095), generation=st.integers(0, 2**20), n=st.integers(1, 2**36 - 1))
def test_a_connection_number_names_its_worker_and_no_two_generations_share_one(
    worker: int, generation: int, n: int
) -> None:
    conn = first_conn(worker, generation) + n
    assert worker_of(conn) == worker
    assert 0 < conn < 2**64
    assert first_conn(worker, generation + 1) != first_conn(worker, generation)
    assert conn != records.CONN_SERVER
