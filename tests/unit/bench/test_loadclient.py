"""The compiled client's parts against slow Python oracles: histogram, frames in any split, stamps, masking."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuskws_bench.loadclient import Histogram, make_stamp, parse_frames, read_stamp, seal_frame

FRAME_BYTES_MAX = 16 * 1024 * 1024

payloads = st.one_of(st.binary(max_size=300), st.integers(60_000, 70_000).map(lambda size: b"x" * size))
data_frames = st.tuples(st.sampled_from([0, 1, 2]), st.booleans(), payloads)
control_frames = st.tuples(st.sampled_from([8, 9, 10]), st.just(True), st.binary(max_size=125))


def server_frame(opcode: int, fin: bool, payload: bytes) -> bytes:
    head = bytes([fin << 7 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + b"\x7e" + len(payload).to_bytes(2, "big") + payload
    return head + b"\x7f" + len(payload).to_bytes(8, "big") + payload


@given(st.lists(st.one_of(data_frames, control_frames), max_size=8), st.lists(st.integers(1, 70_000), max_size=20))
def test_frames_come_out_whole_and_in_order_however_the_stream_is_split(frames, cuts):
    stream = b"".join(server_frame(*frame) for frame in frames)
    found, waiting, at = [], b"", 0
    for size in [*cuts, len(stream)]:
        waiting += stream[at : at + size]
        at += size
        parsed, used = parse_frames(waiting)
        found += parsed
        waiting = waiting[used:]
    assert found == frames
    assert waiting == b""


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_consumed_within_their_length(data):
    try:
        frames, used = parse_frames(data)
    except ValueError:
        return
    assert 0 <= used <= len(data)
    assert sum(len(payload) for _, _, payload in frames) <= used


@pytest.mark.parametrize(
    "head",
    [b"\x81\x80abcd", b"\xc1\x00", b"\x89\x7e\x00\x80", b"\x09\x00", b"\x81\x7f" + FRAME_BYTES_MAX.to_bytes(8, "big")],
    ids=["masked", "reserved bit", "long control frame", "control frame in pieces", "over 16 MiB"],
)
def test_a_frame_that_no_server_may_send_is_refused(head):
    with pytest.raises(ValueError, match="no server may send"):
        parse_frames(head)


@given(st.sampled_from([1, 2, 9, 10]), payloads, st.integers(1, 2**32 - 1))
def test_a_sealed_frame_is_masked_as_rfc_6455_says(opcode, payload, key):
    frame = seal_frame(opcode, payload, key)
    assert frame[0] == 0x80 | opcode
    assert frame[1] & 0x80
    extra = {126: 2, 127: 8}.get(frame[1] & 0x7F, 0)
    length = int.from_bytes(frame[2 : 2 + extra], "big") if extra else frame[1] & 0x7F
    mask, masked = frame[2 + extra : 6 + extra], frame[6 + extra :]
    assert length == len(payload) == len(masked)
    assert bytes(byte ^ mask[i % 4] for i, byte in enumerate(masked)) == payload


@given(st.integers(0, 63), st.integers(0, 2**18 - 1), st.integers(0, 2**30 - 1), st.integers(0, 2**36 - 1))
def test_a_stamp_reads_back_and_needs_no_escape_in_json(run, publisher, seq, time_us):
    stamp = make_stamp(run, publisher, seq, time_us)
    assert len(stamp) == 16
    assert read_stamp(stamp + b"filler") == (run, publisher, seq, time_us)
    assert stamp.isascii()
    assert not set(stamp) & set(b'"\\')


@given(st.integers(0, 15), st.sampled_from(list(b'"\\ {}\x00\xff=')))
def test_a_damaged_stamp_is_none(position, byte):
    stamp = bytearray(make_stamp(5, 77, 123_456, 9_876_543))
    stamp[position] = byte
    assert read_stamp(bytes(stamp)) is None


def test_a_short_text_holds_no_stamp():
    assert read_stamp(make_stamp(1, 1, 1, 1)[:15]) is None


values = st.one_of(st.integers(0, 300), st.integers(0, 2**36 - 1))


@given(st.lists(values, min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_percentiles_are_within_a_bucket_above_the_exact_ones(numbers, fraction):
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    rank = max(1, math.ceil(fraction * len(numbers)))
    exact = sorted(numbers)[rank - 1]
    found = histogram.percentile(fraction)
    assert exact <= found <= exact * (1 + 1 / 64)
    assert histogram.max == max(numbers)
    assert histogram.count == len(numbers)


@given(st.lists(values, max_size=50), st.lists(values, max_size=50))
def test_merging_equals_adding_all_to_one(left, right):
    parts = [Histogram(), Histogram()]
    whole = Histogram()
    for part, numbers in zip(parts, (left, right), strict=True):
        for number in numbers:
            part.add(number)
            whole.add(number)
    parts[0].merge(parts[1].to_bytes())
    assert parts[0].to_bytes() == whole.to_bytes()


def test_values_beyond_the_range_count_as_the_largest():
    histogram = Histogram()
    histogram.add(2**50)
    assert histogram.max == 2**36 - 1
    assert histogram.percentile(1.0) == 2**36 - 1


def test_an_empty_histogram_has_no_percentile():
    assert Histogram().percentile(0.99) == 0


def test_a_histogram_of_another_layout_is_refused():
    with pytest.raises(ValueError, match="layout"):
        Histogram(b"short")


def test_a_uniform_spread_has_its_quantiles():
    histogram = Histogram()
    rng = random.Random(7)
    for _ in range(100_000):
        histogram.add(rng.randrange(1_000_000))
    assert histogram.percentile(0.5) == pytest.approx(500_000, rel=0.03)
    assert histogram.percentile(0.99) == pytest.approx(990_000, rel=0.03)
