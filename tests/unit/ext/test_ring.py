"""The ring's promises one by one: order, space, wake-ups, and what it does when the peer has gone mad."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest
from helpers.rings import (
    AT_BUF,
    AT_HEAD,
    AT_SLEEPING,
    AT_TAIL,
    PADDING,
    forge,
    get_u64,
    put_u64,
    record_bytes,
    ring_memory,
)
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer, RingError, RingPoisoned

from tuskws_fast.ipc.bell import Bell
from tuskws_fast.ipc.segment import Segment

CAPACITY = 4096
GENERATION = 7


@pytest.fixture
def segment() -> Iterator[Segment]:
    with ring_memory(CAPACITY, GENERATION) as memory:
        yield memory


@pytest.fixture
def producer(segment: Segment) -> Producer:
    return Producer(segment.buffer, 0, -1)


@pytest.fixture
def consumer(segment: Segment) -> Consumer:
    return Consumer(segment.buffer, 0, -1)


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell.create()
    yield made
    made.close()


# -- checksum ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portable", [False, True])
def test_crc32c_gives_the_published_check_value(portable: bool) -> None:
    assert ring.crc32c(b"123456789", portable=portable) == 0xE3069283  # RFC 3720 B.4 and every catalogue of CRCs


def test_crc32c_of_the_cpu_and_of_the_table_agree_at_every_length() -> None:
    data = random.Random(1).randbytes(200)
    for n in range(len(data)):
        assert ring.crc32c(data[n:]) == ring.crc32c(data[n:], portable=True)


# -- order and visibility ----------------------------------------------------------------------------------------


def test_records_come_out_as_they_went_in(producer: Producer, consumer: Consumer) -> None:
    sent = [(kind, bytes([kind % 256]) * size) for kind, size in [(0, 0), (1, 1), (65535, 7), (3, 8), (4, 900)]]
    for kind, payload in sent:
        assert producer.push(kind, payload)
    producer.flush()
    assert consumer.drain(100) == sent
    assert consumer.drain(100) == []


def test_nothing_is_visible_before_flush(producer: Producer, consumer: Consumer) -> None:
    producer.push(1, b"x")
    assert consumer.pending == 0
    assert consumer.drain(10) == []
    producer.flush()
    assert consumer.pending == record_bytes(1)
    assert consumer.drain(10) == [(1, b"x")]


def test_drain_stops_at_its_bound_and_goes_on_from_there(producer: Producer, consumer: Consumer) -> None:
    for kind in range(5):
        producer.push(kind, b"")
    producer.flush()
    assert [kind for kind, _ in consumer.drain(2)] == [0, 1]
    assert consumer.drain(0) == []
    assert [kind for kind, _ in consumer.drain(10)] == [2, 3, 4]


def test_a_drained_payload_is_a_copy(segment: Segment, producer: Producer, consumer: Consumer) -> None:
    producer.push(1, b"kept")
    producer.flush()
    ((_, payload),) = consumer.drain(1)
    segment.buffer[AT_BUF:] = b"\xee" * CAPACITY
    assert payload == b"kept"


def test_a_producer_that_dies_before_flush_published_nothing_and_its_successor_goes_on(
    segment: Segment, producer: Producer, consumer: Consumer
) -> None:
    producer.push(1, b"first")
    producer.flush()
    producer.push(2, b"never happened")
    producer.close()
    successor = Producer(segment.buffer, 0, -1)
    successor.push(3, b"second")
    successor.flush()
    assert consumer.drain(10) == [(1, b"first"), (3, b"second")]


def test_a_consumer_attaches_where_the_last_one_stopped(segment: Segment, producer: Producer) -> None:
    first = Consumer(segment.buffer, 0, -1)
    for kind in (1, 2):
        producer.push(kind, b"")
    producer.flush()
    assert first.drain(1) == [(1, b"")]
    first.close()
    assert Consumer(segment.buffer, 0, -1).drain(9) == [(2, b"")]


# -- the end of the buffer ---------------------------------------------------------------------------------------


def test_many_laps_with_records_that_do_not_divide_the_ring(producer: Producer, consumer: Consumer) -> None:
    rng = random.Random(2)
    for n in range(3000):
        payload = struct.pack("<I", n) * rng.randrange(1, 200)
        assert producer.push(n % 100, payload)
        producer.flush()
        assert consumer.drain(1) == [(n % 100, payload)]


def test_a_record_that_ends_exactly_with_the_buffer_needs_no_padding(
    segment: Segment, producer: Producer, consumer: Consumer
) -> None:
    for _ in range(CAPACITY // 512):
        producer.push(1, bytes(512 - 24))
        producer.flush()
        consumer.drain(1)
    assert get_u64(segment.buffer, AT_TAIL) == CAPACITY


@pytest.mark.parametrize("left", [8, 16, 24, 32])
def test_padding_fills_what_is_left_however_little(
    segment: Segment, producer: Producer, consumer: Consumer, left: int
) -> None:
    for size in (1000, 1000, 1000, CAPACITY - 3 * record_bytes(1000) - left - 24):
        producer.push(1, bytes(size))
        producer.flush()
        consumer.drain(1)
    assert get_u64(segment.buffer, AT_HEAD) == CAPACITY - left
    producer.push(2, b"around the corner" * 2)
    producer.flush()
    assert struct.unpack_from("<I", segment.buffer, AT_BUF + CAPACITY - left)[0] == PADDING
    assert consumer.drain(1) == [(2, b"around the corner" * 2)]
    assert get_u64(segment.buffer, AT_HEAD) == CAPACITY + record_bytes(34)


def test_padding_needs_room_as_records_do(segment: Segment) -> None:
    for at in (AT_HEAD, AT_TAIL):
        put_u64(segment.buffer, at, CAPACITY - 512)
    producer = Producer(segment.buffer, 0, -1)
    for size in (1000, 1000, 1000):  # the first skips 512 bytes
        assert producer.push(1, bytes(size), True)
    assert producer.free == CAPACITY - 512 - 3 * 1024
    assert producer.push(1, bytes(512 - 24), True)
    assert producer.free == 0
    assert not producer.push(1, b"", True)


def test_positions_beyond_32_bits_are_as_good_as_any(segment: Segment) -> None:
    for at in (AT_HEAD, AT_TAIL):
        put_u64(segment.buffer, at, 2**40 - 64)
    producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, -1)
    for kind in range(20):
        assert producer.push(kind, b"x" * 20)
    producer.flush()
    assert [kind for kind, _ in consumer.drain(99)] == list(range(20))


# -- space -------------------------------------------------------------------------------------------------------


def test_a_full_ring_refuses_and_accepts_again_when_drained(producer: Producer, consumer: Consumer) -> None:
    pushed = 0
    while producer.push(1, bytes(100), True):
        pushed += 1
    assert pushed == CAPACITY // record_bytes(100)
    assert producer.full == 1
    producer.flush()
    assert consumer.drain(1)
    assert producer.push(2, bytes(100), True)


def test_the_last_tenth_is_for_control_records(producer: Producer) -> None:
    while producer.push(1, b"12345678"):
        pass
    assert CAPACITY // 10 <= producer.free < CAPACITY // 10 + record_bytes(8)
    assert producer.push(2, b"kick", True)


def test_free_counts_every_byte(producer: Producer, consumer: Consumer) -> None:
    assert producer.free == CAPACITY
    producer.push(1, b"x" * 9)
    assert producer.free == CAPACITY - record_bytes(9)
    producer.flush()
    consumer.drain(1)
    assert producer.free == CAPACITY


def test_the_longest_record_fits_an_empty_ring_wherever_it_starts(segment: Segment) -> None:
    longest = bytes(ring.payload_max(CAPACITY))
    for start in range(0, CAPACITY, 8):
        ring.format_ring(segment.buffer, 0, CAPACITY, GENERATION)
        for at in (AT_HEAD, AT_TAIL):
            put_u64(segment.buffer, at, start)
        producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, -1)
        assert producer.push(1, longest), f"from {start}"
        producer.flush()
        assert consumer.drain(1) == [(1, longest)]


def test_a_record_longer_than_that_is_an_error_of_the_caller(producer: Producer) -> None:
    with pytest.raises(RingError, match="cannot fit"):
        producer.push(1, bytes(ring.payload_max(CAPACITY) + 1))


def test_records_given_up_are_counted_where_tools_can_see_it(segment: Segment, producer: Producer) -> None:
    producer.count_dropped()
    producer.count_dropped()
    assert producer.dropped == ring.inspect_ring(segment.buffer, 0).dropped == 2


# -- wake-ups ----------------------------------------------------------------------------------------------------


def test_a_sleeping_consumer_is_rung_once(segment: Segment, bell: Bell) -> None:
    producer, consumer = Producer(segment.buffer, 0, bell.fd), Consumer(segment.buffer, 0, -1)
    producer.push(1, b"")
    producer.flush()
    assert not bell.clear(), "nobody sleeps"
    consumer.drain(9)
    assert consumer.begin_sleep()
    producer.push(2, b"")
    assert not bell.clear(), "not published yet"
    producer.flush()
    assert bell.clear()
    producer.push(3, b"")
    producer.flush()
    assert not bell.clear(), "rung already and not back to sleep since"


def test_flush_without_records_rings_nobody(segment: Segment, bell: Bell) -> None:
    producer, consumer = Producer(segment.buffer, 0, bell.fd), Consumer(segment.buffer, 0, -1)
    assert consumer.begin_sleep()
    producer.flush()
    assert not bell.clear()


def test_a_consumer_with_records_to_read_does_not_sleep(segment: Segment, producer: Producer) -> None:
    consumer = Consumer(segment.buffer, 0, -1)
    producer.push(1, b"")
    producer.flush()
    assert not consumer.begin_sleep()
    assert not ring.inspect_ring(segment.buffer, 0).sleeping
    consumer.drain(9)
    assert consumer.begin_sleep()
    assert ring.inspect_ring(segment.buffer, 0).sleeping
    consumer.end_sleep()
    assert not ring.inspect_ring(segment.buffer, 0).sleeping


def test_a_consumer_that_frees_space_rings_the_producer_that_waits_for_it(segment: Segment, bell: Bell) -> None:
    producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, bell.fd)
    while producer.push(1, bytes(500), True):
        pass
    producer.flush()
    assert producer.want_space()
    assert not bell.clear()
    consumer.drain(1)
    assert bell.clear()
    consumer.drain(1)
    assert not bell.clear(), "asked once, rung once"


def test_wanting_space_that_is_there_already_does_not_wait(segment: Segment, bell: Bell) -> None:
    producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, bell.fd)
    while producer.push(1, bytes(500), True):
        pass
    producer.flush()
    consumer.drain(9)
    assert not producer.want_space()
    consumer.drain(9)
    assert not bell.clear()


def test_a_bell_that_rings_already_is_no_error_and_a_closed_one_is(segment: Segment, bell: Bell) -> None:
    os.eventfd_write(bell.fd, 2**64 - 2)  # the counter is full
    producer, consumer = Producer(segment.buffer, 0, bell.fd), Consumer(segment.buffer, 0, -1)
    consumer.begin_sleep()
    producer.push(1, b"")
    producer.flush()
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    silent = Producer(segment.buffer, 0, write_end)
    consumer.drain(1)
    consumer.begin_sleep()
    silent.push(1, b"")
    with pytest.raises(OSError, match="cannot ring bell"):
        silent.flush()


# -- attaching ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Producer, Consumer])
def test_memory_that_is_no_ring_is_refused(end: type[Producer] | type[Consumer]) -> None:
    empty = Segment.create("test-empty", 8192)
    with pytest.raises(RingError, match="no ring"):
        end(empty.buffer, 0, -1)
    with pytest.raises(RingError, match="128-byte line"):
        end(empty.buffer, 8, -1)
    for offset in (-128, 8192, 8192 - 128, 2**40):
        with pytest.raises(RingError, match="cannot hold"):
            end(empty.buffer, offset, -1)


@pytest.mark.parametrize("end", [Producer, Consumer])
@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 1, "no ring"),
        (8, 2, "no ring"),
        (12, 4096, "no ring"),
        (16, 5000, "impossible"),
        (16, 8192, "cannot hold"),
        (16, 2**63, "impossible"),
        (24, 2**32, "impossible"),
    ],
)
def test_every_field_of_the_header_is_checked(
    segment: Segment, end: type[Producer] | type[Consumer], at: int, value: int, reason: str
) -> None:
    width = "<I" if at in (8, 12) else "<Q"
    struct.pack_into(width, segment.buffer, at, value)
    with pytest.raises(RingError, match=reason):
        end(segment.buffer, 0, -1)


@pytest.mark.parametrize("end", [Producer, Consumer])
def test_another_generation_than_expected_is_refused(segment: Segment, end: type[Producer] | type[Consumer]) -> None:
    assert end(segment.buffer, 0, -1, GENERATION).generation == GENERATION
    with pytest.raises(RingError, match="generation 7, expected 8"):
        end(segment.buffer, 0, -1, GENERATION + 1)


@pytest.mark.parametrize("capacity", [0, 2048, 5000, 2**31])
def test_capacities_that_no_ring_can_have(segment: Segment, capacity: int) -> None:
    with pytest.raises(RingError):
        ring.ring_bytes(capacity)
    with pytest.raises(RingError):
        ring.format_ring(segment.buffer, 0, capacity, 1)


def test_an_open_end_holds_the_memory_and_a_closed_one_refuses_everything(
    segment: Segment, producer: Producer, consumer: Consumer
) -> None:
    with pytest.raises(BufferError):
        segment.close()
    producer.close()
    consumer.close()
    for call in (
        lambda: producer.push(1, b""),
        producer.flush,
        producer.want_space,
        producer.count_dropped,
        lambda: producer.free,
        lambda: producer.dropped,
        lambda: consumer.drain(1),
        consumer.begin_sleep,
        consumer.end_sleep,
        lambda: consumer.pending,
    ):
        with pytest.raises(RingError, match="closed"):
            call()
    segment.close()


# -- a peer gone mad ---------------------------------------------------------------------------------------------


def test_any_flipped_bit_poisons_the_ring_after_the_records_before_it(segment: Segment) -> None:
    first, second = record_bytes(5), record_bytes(21)
    for at in range(first, first + 24 + 21):
        ring.format_ring(segment.buffer, 0, CAPACITY, GENERATION)
        producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, -1)
        for kind, payload in ((1, b"whole"), (2, b"this one gets damaged")):
            producer.push(kind, payload)
        producer.flush()
        assert get_u64(segment.buffer, AT_TAIL) == first + second
        segment.buffer[AT_BUF + at] ^= 1 << at % 8
        assert consumer.drain(9) == [(1, b"whole")], f"byte {at}"
        for _ in range(2):
            with pytest.raises(RingPoisoned):
                consumer.drain(9)
        assert not consumer.begin_sleep(), "the owner must come back and be told"


def test_a_hand_written_record_is_read_so_the_picture_in_ring_h_is_right(segment: Segment, consumer: Consumer) -> None:
    record = forge(300, b"by hand", GENERATION, 0)
    segment.buffer[AT_BUF : AT_BUF + len(record)] = record
    put_u64(segment.buffer, AT_TAIL, len(record))
    assert consumer.drain(1) == [(300, b"by hand")]


@pytest.mark.parametrize(
    ("record", "tail", "reason"),
    [
        (forge(1, b"zombie", GENERATION - 1, 0), 32, "another generation"),
        (forge(1, b"old", GENERATION, CAPACITY), 32, "another lap"),
        (forge(1, b"", GENERATION, 0, length=2**32 - 2), 32, "length"),
        (forge(1, bytes(2000), GENERATION, 0), 2024, "length"),
        (forge(1, b"beyond the tail", GENERATION, 0), 32, "length"),
        (forge(1, b"", GENERATION, 0), 16, "length"),
        (struct.pack("<II", PADDING, 0), 8, "padding"),
        (struct.pack("<II", PADDING, 0), CAPACITY, "padding"),
        (b"", CAPACITY + 8, "position"),
        (b"", 12, "position"),
        (b"", 2**64 - 8, "position"),
    ],
    ids=[
        "of_a_zombie",
        "of_an_earlier_lap",
        "endless",
        "longer_than_a_quarter",
        "reaching_beyond_the_tail",
        "cut_inside_its_header",
        "padding_at_the_start",
        "padding_of_a_whole_lap",
        "tail_beyond_the_capacity",
        "tail_off_the_grid",
        "tail_behind_the_head",
    ],
)
def test_records_that_cannot_be(segment: Segment, consumer: Consumer, record: bytes, tail: int, reason: str) -> None:
    segment.buffer[AT_BUF : AT_BUF + len(record)] = record
    put_u64(segment.buffer, AT_TAIL, tail)
    with pytest.raises(RingPoisoned, match=reason):
        consumer.drain(9)


def test_padding_that_reaches_beyond_the_tail(segment: Segment) -> None:
    for at in (AT_HEAD, AT_TAIL):
        put_u64(segment.buffer, at, CAPACITY - 64)
    consumer = Consumer(segment.buffer, 0, -1)
    struct.pack_into("<I", segment.buffer, AT_BUF + CAPACITY - 64, PADDING)
    put_u64(segment.buffer, AT_TAIL, CAPACITY - 32)
    with pytest.raises(RingPoisoned, match="padding"):
        consumer.drain(9)


def test_a_record_that_would_run_over_the_end_of_the_buffer(segment: Segment) -> None:
    for at in (AT_HEAD, AT_TAIL):
        put_u64(segment.buffer, at, CAPACITY - 32)
    consumer = Consumer(segment.buffer, 0, -1)
    forged = forge(1, bytes(40), GENERATION, CAPACITY - 32)
    segment.buffer[AT_BUF + CAPACITY - 32 :] = forged[:32]
    segment.buffer[AT_BUF : AT_BUF + 32] = forged[32:]
    put_u64(segment.buffer, AT_TAIL, CAPACITY + 32)
    with pytest.raises(RingPoisoned, match="length"):
        consumer.drain(9)


def test_a_tail_that_goes_back_poisons(segment: Segment, producer: Producer, consumer: Consumer) -> None:
    producer.push(1, b"x")
    producer.flush()
    consumer.drain(1)
    put_u64(segment.buffer, AT_TAIL, 0)
    with pytest.raises(RingPoisoned, match="position"):
        consumer.drain(1)


def test_a_tail_one_lap_ahead_does_not_bring_old_records_back(segment: Segment) -> None:
    producer, consumer = Producer(segment.buffer, 0, -1), Consumer(segment.buffer, 0, -1)
    for _ in range(4):
        producer.push(1, bytes(1000))
        producer.flush()
        consumer.drain(1)
    put_u64(segment.buffer, AT_TAIL, 2 * CAPACITY)
    put_u64(segment.buffer, AT_HEAD, CAPACITY)
    with pytest.raises(RingPoisoned, match="another lap"):
        Consumer(segment.buffer, 0, -1).drain(9)


@pytest.mark.parametrize("head", [8, 12, CAPACITY, 2**64 - 8])
def test_an_impossible_head_poisons_the_producer(segment: Segment, producer: Producer, head: int) -> None:
    while producer.push(1, bytes(100), True):
        pass
    put_u64(segment.buffer, AT_HEAD, head)
    with pytest.raises(RingPoisoned, match="position"):
        producer.push(1, bytes(100), True)
    with pytest.raises(RingPoisoned):
        producer.want_space()


@pytest.mark.parametrize(("head", "tail"), [(0, CAPACITY + 8), (8, 0), (4, 4), (0, 4)])
@pytest.mark.parametrize("end", [Producer, Consumer])
def test_impossible_positions_are_found_when_attaching(
    segment: Segment, end: type[Producer] | type[Consumer], head: int, tail: int
) -> None:
    put_u64(segment.buffer, AT_HEAD, head)
    put_u64(segment.buffer, AT_TAIL, tail)
    with pytest.raises(RingPoisoned, match="position"):
        end(segment.buffer, 0, -1)


# -- reading by eye ----------------------------------------------------------------------------------------------


def test_peeking_shows_all_and_consumes_nothing(segment: Segment, producer: Producer, consumer: Consumer) -> None:
    for kind in range(3):
        producer.push(kind, bytes([kind]) * 30)
    producer.flush()
    state = ring.inspect_ring(bytes(segment.buffer), 0)
    assert (state.generation, state.capacity, state.head, state.tail) == (7, CAPACITY, 0, 3 * record_bytes(30))
    peeked = ring.peek_records(bytes(segment.buffer), 0, state.head, state.tail, 99)
    assert [(r.type, r.payload, r.fault) for r in peeked] == [(k, bytes([k]) * 30, None) for k in range(3)]
    assert len(consumer.drain(9)) == 3


def test_peeking_names_damage_and_goes_on_behind_it(segment: Segment, producer: Producer) -> None:
    for kind in range(3):
        producer.push(kind, bytes(30))
    producer.flush()
    struct.pack_into("<I", segment.buffer, AT_BUF + record_bytes(30), 2**31)
    state = ring.inspect_ring(segment.buffer, 0)
    peeked = ring.peek_records(segment.buffer, 0, state.head, state.tail, 99)
    assert [(r.position // record_bytes(30), r.fault is None) for r in peeked] == [(0, True), (1, False), (2, True)]


def test_peeking_steps_over_padding(segment: Segment, producer: Producer, consumer: Consumer) -> None:
    for kind in range(5):
        producer.push(kind, bytes(900))
        producer.flush()
        if kind < 4:
            consumer.drain(1)
    state = ring.inspect_ring(segment.buffer, 0)
    assert [r.type for r in ring.peek_records(segment.buffer, 0, state.head, state.tail, 99)] == [4]


def test_peeking_beyond_the_ring_is_refused(segment: Segment) -> None:
    for start, stop in ((0, CAPACITY + 8), (8, 0), (4, 8)):
        with pytest.raises(RingError):
            ring.peek_records(segment.buffer, 0, start, stop, 9)
    for offset in (-8, 8192):
        with pytest.raises(RingError):
            ring.inspect_ring(segment.buffer, offset)
    with pytest.raises(RingError, match="longer than the memory"):
        ring.inspect_ring(bytes(segment.buffer[:2000]), 0)


def test_the_sleeping_flag_lies_where_the_picture_says(segment: Segment, consumer: Consumer) -> None:
    consumer.begin_sleep()
    assert struct.unpack_from("<I", segment.buffer, AT_SLEEPING)[0] == 1
