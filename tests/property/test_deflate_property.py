"""Any messages, in any sizes, through both directions: what zlib says is what we say."""

from __future__ import annotations

import zlib

from helpers.raw import inflated
from hypothesis import given
from hypothesis import strategies as st
from tuskws_fast_ext.deflate import Deflater, Inflater, Scratch
from tuskws_fast_ext.frame import Frame

TAIL = b"\0\0\xff\xff"
# Pieces that repeat and pieces that do not, so that matches of all lengths and distances come up.
MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=600),
        st.builds(lambda piece, n: piece * n, st.binary(min_size=1, max_size=40), st.integers(1, 3000)),
    ),
    max_size=4,
).map(b"".join)


@given(st.lists(MESSAGES, max_size=6), st.booleans(), st.integers(9, 15), st.integers(1, 9), st.integers(1, 9))
def test_each_message_comes_back(
    messages: list[bytes], takeover: bool, window_bits: int, level: int, memory_level: int
) -> None:
    scratch = Scratch()
    deflater = Deflater(scratch, level, 1, takeover, window_bits, memory_level)
    inflater = Inflater(scratch, takeover, window_bits)
    for message in filter(None, messages):
        payload = deflater.encode(message)
        assert inflater.decode(payload, len(message)) == message
        assert inflater.decode(payload, len(message) - 1) == -2 if not takeover else True


# What one deflate stream of a sender holds: pieces, each flushed, at a level of its own.
STREAMS = st.lists(st.tuples(st.lists(MESSAGES, max_size=4), st.integers(0, 9)), min_size=1, max_size=3)


@given(STREAMS, st.booleans())
def test_any_sequence_of_flushes_and_streams_is_one_message(
    streams: list[tuple[list[bytes], int]], is_last_ended: bool
) -> None:
    """Senders may end blocks where they like, and even end the stream and begin another (RFC 7692 §7.2.3.4)."""
    payload = b""
    for n, (pieces, level) in enumerate(streams, 1):
        stream = zlib.compressobj(level, zlib.DEFLATED, -15)
        for piece in pieces:
            payload += stream.compress(piece) + stream.flush(zlib.Z_SYNC_FLUSH)
        if n < len(streams) or is_last_ended or not pieces:
            payload += stream.flush(zlib.Z_FINISH)
    payload = payload.removesuffix(TAIL) if not is_last_ended and streams[-1][0] else payload + b"\0"
    message = b"".join(piece for pieces, _ in streams for piece in pieces)
    assert Inflater(Scratch()).decode(payload, len(message)) == message


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_any_bytes_are_a_message_within_the_limit_or_refused(payload: bytes, limit: int) -> None:
    scratch = Scratch()
    got = Inflater(scratch).decode(payload, limit, 1 << 20)
    assert scratch.size <= limit + 1
    oracle = zlib.decompressobj(-15)
    if isinstance(got, bytes):
        assert len(got) <= limit
        if payload:
            expected = oracle.decompress(payload + TAIL)
            # zlib's own object stops behind a last block, we go on as the RFC says.
            assert got == expected or (oracle.eof and got.startswith(expected))
    elif got == -2:
        try:
            assert len(oracle.decompress(payload + TAIL)) > limit or oracle.eof
        except zlib.error:
            pass  # the fault is behind what the limit lets us see


@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=8), st.integers(1, 1500))
def test_a_frame_of_many_messages_compresses_each_for_itself(bodies: list[bytes], min_size: int) -> None:
    deflater = Deflater(Scratch(), 1, min_size)
    wire = Frame(bodies).encoded(False, deflater)
    found = []
    while wire:
        first, n, at = wire[0], wire[1], 2
        if n == 126:
            n, at = int.from_bytes(wire[2:4], "big"), 4
        payload, wire = wire[at : at + n], wire[at + n :]
        assert first in (0x81, 0xC1)
        body = inflated(payload) if first == 0xC1 else payload
        assert first == 0x81 or (len(body) >= min_size and len(payload) < len(body))
        found.append(body)
    assert found == bodies
