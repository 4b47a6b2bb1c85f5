"""Compression with Python's zlib as the oracle, and every bound on what a compressed message may cost."""

from __future__ import annotations

import json
import sys
import zlib

import pytest
from helpers.raw import deflated, inflated
from tuskws_fast_ext.deflate import Compression, CompressionPool, Deflater, Inflater, Scratch

TEXT = json.dumps({"type": "room_message", "room": "lobby", "message": "the quick brown fox " * 40}).encode()
TOO_LONG, TOO_MUCH_WORK, CORRUPT = -2, -3, -4
MIB = 1024**2
# What a block beyond the second counts beside its output (ext/deflate, BLOCK_COST).
BLOCK = 2048


def pool(rate: float = 4 * MIB, worker_rate: float = 64 * MIB, min_size: int = 1) -> CompressionPool:
    return CompressionPool(1, min_size, 5, rate, worker_rate)


def empty_tables(count: int) -> bytes:
    """Deflate blocks of 11 bytes that define Huffman tables and hold nothing: 64 KB of them cost 5 ms."""
    bits = (
        "0" + "01"  # not the last; dynamic (least significant bit first)
        + "00000" + "00000" + "0111"  # 257 literals, 1 distance, 18 code lengths
        + "000" * 2 + "100" + "000" * 14 + "100"  # of the lengths 18 and 1, one bit each
        + "1" + "1111111" + "1" + "1101011"  # 138 zeros, 118 zeros: all literals
        + "0" + "0"  # the end of a block and one distance have one bit
        + "0"  # the end of the block
    )  # fmt: skip
    stream = bits * count + "000"
    stream += "0" * (-len(stream) % 8)
    return bytes(int(stream[n : n + 8][::-1], 2) for n in range(0, len(stream), 8))


# -- out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("message", [b"x", TEXT, bytes(range(256)) * 300, b"\0" * MIB])
def test_a_message_is_inflated_by_anybody(level: int, message: bytes) -> None:
    payload = Deflater(Scratch(), level, 1).encode(message)
    assert not payload.endswith(b"\0\0\xff\xff")
    assert inflated(payload) == message


def test_without_takeover_a_message_has_one_form_whatever_came_before() -> None:
    deflater = Deflater(Scratch(), 1, 1)
    first = deflater.encode(TEXT)
    deflater.encode(TEXT[::-1])
    assert deflater.encode(TEXT) == first


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_with_takeover_a_message_refers_to_those_before_it_within_the_window(window_bits: int) -> None:
    deflater = Deflater(Scratch(), 6, 1, True, window_bits, 5)
    receiver = zlib.decompressobj(-window_bits)
    message = bytes(range(150))  # nothing in it repeats, and zlib looks back 250 bytes in a window of 512
    sizes = []
    for _ in range(3):
        payload = deflater.encode(message)
        assert receiver.decompress(payload + b"\0\0\xff\xff") == message
        sizes.append(len(payload))
    assert sizes[1] < sizes[0] / 4


def test_random_bytes_become_hardly_longer() -> None:
    message = zlib.compress(bytes(range(256)) * 4) * 100
    assert len(Deflater(Scratch(), 1, 1).encode(message)) <= len(message) + 5 * (len(message) // 16_000 + 2)


# -- in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", b"x", TEXT, bytes(range(256)) * 300, b"\0" * MIB])
def test_what_anybody_deflated_is_made_whole(message: bytes) -> None:
    inflater = Inflater(Scratch())
    assert inflater.decode(deflated(message), len(message)) == message
    assert inflater.decode(deflated(message), len(message)) == message


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        # RFC 7692 §7.2.3: one block, the same without compression, with a last block, two blocks, an empty message.
        ("f248cdc9c90700", b"Hello"),
        ("000500faff48656c6c6f00", b"Hello"),
        ("f348cdc9c9070000", b"Hello"),
        ("f24805000000ffffcac9c90700", b"Hello"),
        ("00", b""),
        # A sender that ends the stream and forgets the empty block behind it.
        ("f348cdc9c90700", b"Hello"),
        ("", b""),
    ],
)
def test_the_examples_of_the_rfc(payload: str, message: bytes) -> None:
    inflater = Inflater(Scratch())
    for _ in range(2):
        assert inflater.decode(bytes.fromhex(payload), 5) == message


def test_the_window_is_kept_over_messages_and_over_last_blocks() -> None:
    inflater = Inflater(Scratch(), True)
    assert inflater.decode(bytes.fromhex("f248cdc9c90700"), 100) == b"Hello"
    assert inflater.decode(bytes.fromhex("f200110000"), 100) == b"Hello"  # §7.2.3.2, the second message
    assert inflater.decode(bytes.fromhex("f348cdc9c9070000"), 100) == b"Hello"
    assert inflater.decode(bytes.fromhex("f200110000"), 100) == b"Hello"


def test_without_takeover_nothing_before_a_message_can_be_referred_to() -> None:
    inflater = Inflater(Scratch())
    assert inflater.decode(bytes.fromhex("f248cdc9c90700"), 100) == b"Hello"
    assert inflater.decode(bytes.fromhex("f200110000"), 100) == CORRUPT


@pytest.mark.parametrize("limit", [1, 1000, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 100_000])
def test_the_limit_is_exact_and_the_buffer_never_larger(limit: int) -> None:
    for size, expected in ((limit - 1, True), (limit, True), (limit + 1, False), (1000 * limit, False)):
        scratch = Scratch()
        got = Inflater(scratch).decode(deflated(b"\0" * size), limit)
        assert got == (b"\0" * size if expected else TOO_LONG)
        assert scratch.size <= limit + 1


def test_after_a_refusal_the_next_message_is_whole() -> None:
    inflater = Inflater(Scratch())
    assert inflater.decode(deflated(b"\0" * 5000), 4999) == TOO_LONG
    assert inflater.decode(deflated(TEXT)[:-3], 5000) == CORRUPT
    assert inflater.decode(deflated(TEXT), 5000) == TEXT


@pytest.mark.parametrize("cut", range(1, len(deflated(TEXT))))
def test_half_a_message_is_corrupt_never_a_shorter_one(cut: int) -> None:
    assert Inflater(Scratch()).decode(deflated(TEXT)[:cut], 10_000) == CORRUPT


@pytest.mark.parametrize("payload", [b"\xff" * 20, b"\x07", b"\x06", deflated(TEXT) + b"\xff\xff"])
def test_what_is_no_deflate_stream_is_corrupt(payload: bytes) -> None:
    assert Inflater(Scratch()).decode(payload, 10_000) == CORRUPT


def test_the_work_of_a_message_is_bounded_by_its_output_and_by_its_blocks() -> None:
    inflater = Inflater(Scratch())
    assert inflater.decode(deflated(b"\0" * 50_000), 100_000, 40_000) == TOO_MUCH_WORK
    assert inflater.decode(deflated(b"\0" * 50_000), 100_000, 50_000 + 2 * BLOCK) == b"\0" * 50_000
    assert inflated(empty_tables(100)) == b""
    assert inflater.decode(empty_tables(100), 100_000, 99 * BLOCK) == b""
    assert inflater.decode(empty_tables(101), 100_000, 99 * BLOCK) == TOO_MUCH_WORK


# -- budgets ---------------------------------------------------------------------------------------------------------

LARGE = deflated(b"\0" * 60_000)
SMALL = deflated(b"{}")


def test_a_connection_inflates_a_seconds_worth_at_once_and_then_its_rate() -> None:
    compression = pool(rate=200_000).open()
    assert [compression.received(LARGE, 65536, 100.0) is not None for _ in range(4)] == [True, True, True, False]
    assert compression.failure == 1008
    compression = pool(rate=200_000).open()
    for second in range(20):
        assert compression.received(LARGE, 65536, 100.0 + second / 2) is not None


def test_what_is_over_the_budget_is_charged_no_more_than_the_budget_had() -> None:
    compression = pool(rate=200_000).open()
    assert compression.received(deflated(b"\0" * MIB), 2 * MIB, 100.0) is None
    assert compression.failure == 1008
    # A second later it is nearly whole again, however large the message would have become.
    assert compression.received(LARGE, 65536, 101.1) is not None


def test_at_the_workers_bound_the_heavy_go_and_the_light_stay() -> None:
    shared = pool(rate=400_000, worker_rate=800_000)
    light = shared.open()
    for _ in range(20):
        heavy = shared.open()
        answered = 0
        while heavy.received(LARGE, 65536, 100.0) is not None:
            answered += 1
        assert answered <= 6
        assert heavy.failure == 1008
    assert light.received(SMALL, 65536, 100.0) == b"{}"
    assert shared.budget_closed == 20
    assert shared.inflated_bytes < 800_000


def test_the_workers_bound_holds_for_light_connections_too() -> None:
    shared = pool(rate=8 * MIB, worker_rate=MIB)
    refused = sum(shared.open().received(LARGE, 65536, 100.0) is None for _ in range(100))
    assert refused > 80
    assert shared.inflated_bytes <= MIB


def test_a_stranger_may_inflate_little_until_it_is_trusted() -> None:
    largest = deflated(b"x" * 8192)
    stranger = pool().open(stranger=True)
    assert stranger.received(largest, 65536, 100.0) == b"x" * 8192
    assert stranger.received(deflated(b"x" * 8193), 65536, 100.0) is None
    assert stranger.failure == 1009
    answered = 0
    stranger = pool().open(stranger=True)
    while stranger.received(largest, 65536, 100.0 + answered) is not None:
        answered += 1
    assert answered == 8
    assert stranger.failure == 1008
    stranger = pool().open(stranger=True)
    assert [stranger.received(SMALL, 65536, 100.0) for _ in range(1000)] == [b"{}"] * 1000
    stranger.trust()
    assert stranger.received(LARGE, 65536, 200.0) is not None


def test_corrupt_data_has_its_own_code() -> None:
    compression = pool().open()
    assert compression.received(b"\xff\xff", 65536, 100.0) is None
    assert compression.failure == 1007


# -- memory ----------------------------------------------------------------------------------------------------------


def test_shared_connections_hold_nothing_but_their_budget() -> None:
    shared = pool()
    connections = [shared.open() for _ in range(10)]
    assert all(connection.is_shared and connection.deflater is shared.deflater for connection in connections)
    assert all(sys.getsizeof(connection) <= 128 for connection in connections)


def test_contexts_are_a_connections_own_where_they_are_taken_over() -> None:
    dedicated = pool()

    def opened() -> Compression:
        return dedicated.open(server_takeover=True, client_takeover=True, server_window_bits=10, client_window_bits=9)

    one, other = opened(), opened()
    assert not one.is_shared
    assert one.deflater is not other.deflater
    assert (one.deflater.window_bits, one.deflater.memory_level) == (10, 5)
    narrow = [dedicated.open(server_window_bits=9) for _ in range(2)]
    assert narrow[0].deflater is narrow[1].deflater
    assert not narrow[0].is_shared


def test_the_scratch_buffer_does_not_stay_as_large_as_the_largest_message() -> None:
    shared = pool(rate=64 * MIB, worker_rate=256 * MIB)
    assert shared.open().received(deflated(b"\0" * 8 * MIB), 16 * MIB, 100.0) is not None
    assert shared.scratch.size <= 256 * 1024
