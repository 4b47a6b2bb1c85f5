"""What do JSON and the records cost a publication, step by step of its way from one client to all others?

    pytest bench/micro/test_codec.py --benchmark-enable

The point of the design shows in the figures: decoding and encoding happen once, in the worker that publishes; the
broker splices, and the records of the hot path are packed without JSON.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from tuskws_fast.ipc.records import Call, Publication, Publish, pack_record, type_of, unpack_record
from tuskws_fast.protocol import codec

COMMAND = b'{"type":"broadcast","id":"c-1","room":"general","message":{"text":"%b"}}' % (b"x" * 128)
PUSH = {
    "type": "room_message",
    "room": "general",
    "message": {"text": "x" * 128},
    "from": {"id": "u-123", "username": "ann"},
    "ref": "c-1",
}
PREFIX = codec.encode(PUSH)[:-1]
BODY = codec.close_body(PREFIX, 1732312345.123, "k3x9", 123456)
PUBLISH = Publish(5 << 36, 77, 3, 0, True, False, "general", "c-1", PREFIX, False)
PUBLICATION = Publication(0, 123456, "general", BODY)
CALL = Call(5 << 36, 77, 3, "room_info", {"room": "general"})


def test_decode_a_command(benchmark: BenchmarkFixture) -> None:
    assert benchmark(codec.decode, COMMAND)["type"] == "broadcast"


def test_encode_a_push(benchmark: BenchmarkFixture) -> None:
    assert benchmark(codec.encode, PUSH)[:-1] == PREFIX


def test_splice_the_position_into_a_push(benchmark: BenchmarkFixture) -> None:
    body = benchmark(codec.close_body, PREFIX, 1732312345.123, "k3x9", 123456)
    assert codec.decode(body)["offset"] == 123456


def test_encode_again_instead_of_splicing(benchmark: BenchmarkFixture) -> None:
    """What the splice saves the broker."""

    def decode_and_encode() -> bytes:
        push = codec.decode(PREFIX + b"}")
        push.update(timestamp=1732312345.123, epoch="k3x9", offset=123456)
        return codec.encode(push)

    assert codec.decode(benchmark(decode_and_encode)) == codec.decode(BODY)


def test_splice_an_id_into_a_reply(benchmark: BenchmarkFixture) -> None:
    assert benchmark(codec.with_id, b'{"type":"ack","offset":123456}', "c-1").endswith(b'"id":"c-1"}')


def test_pack_a_publish(benchmark: BenchmarkFixture) -> None:
    assert benchmark(pack_record, PUBLISH).endswith(PREFIX)


def test_unpack_a_publish(benchmark: BenchmarkFixture) -> None:
    assert benchmark(unpack_record, type_of(PUBLISH), pack_record(PUBLISH)) == PUBLISH


def test_pack_a_publication(benchmark: BenchmarkFixture) -> None:
    assert benchmark(pack_record, PUBLICATION).endswith(BODY)


def test_unpack_a_publication(benchmark: BenchmarkFixture) -> None:
    assert benchmark(unpack_record, type_of(PUBLICATION), pack_record(PUBLICATION)) == PUBLICATION


def test_pack_and_unpack_a_call(benchmark: BenchmarkFixture) -> None:
    """The readable kind, for comparison."""

    def there_and_back() -> object:
        return unpack_record(type_of(CALL), pack_record(CALL))

    assert benchmark(there_and_back) == CALL
