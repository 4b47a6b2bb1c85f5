"""What a room's message costs once, and what it costs a member."""

from __future__ import annotations

import pytest
from tuskws_fast_ext.connection import Connection, FlushPoint
from tuskws_fast_ext.deflate import CompressionPool
from tuskws_fast_ext.fanout import fan_out
from tuskws_fast_ext.frame import Frame

BODY = b'{"type":"room_message","message":"' + b"abcdefgh" * 128 + b'"}'


def members(count: int, pool: CompressionPool | None, **agreed: bool) -> dict[Connection, None]:
    point = FlushPoint(lambda callback: None, 1 << 30, 1 << 30)
    return {
        Connection(point, None, 65536, 1024, False, pool.open(**agreed) if pool is not None else None): None  # type: ignore[arg-type]
        for _ in range(count)
    }


@pytest.mark.parametrize("count", [1, 1_000])
@pytest.mark.parametrize("batch", [False, True])
def test_a_message_is_compressed_once_whatever_the_number_of_members(count: int, batch: bool) -> None:
    pool = CompressionPool(1, 256, 5, 1e9, 1e9)
    room = members(count, pool)
    for member in room:
        member.set_batch(batch)
    frame = Frame([BODY, BODY, b"short"], 1.0)
    assert fan_out(room, frame) == count
    assert pool.scratch.deflated_messages == (1 if batch else 2)
    assert len({member.waiting() for member in room}) == 1
    assert pool.scratch.deflated_messages == (1 if batch else 2), "looking at it does not compress it again"


def test_each_member_gets_the_form_it_agreed_to() -> None:
    pool = CompressionPool(1, 256, 5, 1e9, 1e9)
    frame = Frame([BODY])
    plain, shared, dedicated = members(1, None), members(1, pool), members(1, pool, server_takeover=True)
    for room in (plain, shared, dedicated):
        fan_out(room, frame)
    [[wire], [small], [own]] = [[member.waiting() for member in room] for room in (plain, shared, dedicated)]
    assert wire == frame.encoded()
    assert small[0] == own[0] == 0xC1
    assert len(small) < len(wire) / 4
    assert [next(iter(room)).queued_bytes for room in (plain, shared, dedicated)] == [len(wire), len(small), len(own)]


def test_a_context_of_its_own_sees_each_message_once_in_order() -> None:
    pool = CompressionPool(1, 256, 5, 1e9, 1e9)
    room = members(3, pool, server_takeover=True)
    for _ in range(3):
        fan_out(room, Frame([BODY]))
    assert pool.scratch.deflated_messages == 9
    # The second and third refer to the first, so they are a few bytes each.
    alone = len(Frame([BODY]).encoded(False, pool.deflater))
    assert [member.queued_bytes < alone + 60 for member in room] == [True] * 3
