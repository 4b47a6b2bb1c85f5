"""What a room's slow reader is sent in the end, by hub and connection together: each offset once, as a message or in a
`gap`, and none behind a later one.

The reader's socket takes a few messages and no more until the test has it read.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.edge import Edge, Pair, Talker
from helpers.rfc6455 import CLOSE, TEXT, server_frames
from tuskws_fast_ext.connection import Connection, FlushPoint

from tuskws_fast.protocol import codec
from tuskws_fast.worker.hub import Hub

QUEUE_MAX = 10
PAD = "x" * 1500
TOO_SLOW = (4008).to_bytes(2, "big") + b"too slow"

# A message is its offset, a gap (epoch, from, to); of rooms that are not "r", the room's name is before it.
Heard = int | str | tuple[object, ...]


class Reader:
    """One connection in room "r", whose epoch is "e"; `publish` gives the offsets."""

    def __init__(self, pair: Pair) -> None:
        self.talker = Talker()
        self.edge = Edge(lambda address: self.talker, 4096, queue_messages_max=QUEUE_MAX)
        self.line = self.edge.connect(pair, slow=True)
        self.point = self.edge.point
        self.hub = Hub(lambda: 1.0, lambda *position: None, 0.0, lambda *_: None, lambda: 100.0)
        self.offsets: dict[str, int] = {}

    @property
    def connection(self) -> Connection:
        return self.talker.connection

    def join(self, slow: str, room: str = "r") -> None:
        self.offsets.setdefault(room, 0)
        self.hub.join(self.connection, room, "e", self.offsets[room], slow)

    def publish(self, count: int = 1, room: str = "r", exclude: Connection | None = None) -> int:
        for _ in range(count):
            self.offsets[room] += 1
            body = codec.encode({"type": "room_message", "room": room, "offset": self.offsets[room], "message": PAD})
            self.hub.publish(room, self.offsets[room], body, exclude)
            self.hub.flush()
            self.edge.loop.run_soon()
        return self.offsets[room]

    def publish_together(self, count: int) -> int:
        """In one wake-up of the worker."""
        for _ in range(count):
            self.offsets["r"] += 1
            body = codec.encode({"type": "room_message", "room": "r", "offset": self.offsets["r"]})
            self.hub.publish("r", self.offsets["r"], body, None)
        self.hub.flush()
        self.edge.loop.run_soon()
        return self.offsets["r"]

    def move(self, epoch: str, last: int, room: str = "r") -> None:
        first = self.offsets[room] + 1
        self.hub.gap(room, epoch, first, last)
        self.hub.flush()
        self.offsets[room] = last

    def block(self, room: str = "r") -> int:
        """Its socket is full, and nothing waits for it here. Returns the offset of the last message that it gets."""
        while self.connection not in self.point.blocked:
            self.publish(room=room)
        assert self.connection.queued_messages == 0
        return self.offsets[room]

    def overflow(self, room: str = "r") -> None:
        """More is published than may wait."""
        before = self.point.left_out
        self.publish(QUEUE_MAX + 1 - self.connection.queued_messages, room)
        assert self.point.left_out > before

    def reads(self) -> list[Heard]:
        """Everything it has been sent since the last time; it reads on from here."""
        self.line.read_on()
        frames = server_frames(self.line.wire)
        self.line.wire = b""
        assert all(payload == TOO_SLOW for opcode, payload in frames if opcode == CLOSE)
        return [self._heard(payload) for opcode, payload in frames if opcode == TEXT]

    @staticmethod
    def _heard(payload: bytes) -> Heard:
        push = codec.decode(payload)
        if push["type"] not in ("gap", "room_message"):
            return str(push["type"])
        at = (push["epoch"], push["from"], push["to"]) if push["type"] == "gap" else (push["offset"],)
        if push["room"] != "r":
            return (push["room"], *at)
        return at if len(at) > 1 else push["offset"]


@pytest.fixture
def reader() -> Iterator[Reader]:
    pair = Pair()
    made = Reader(pair)
    with made.edge:
        yield made
        made.line.hang_up()
    pair.close()


def a_reader() -> Connection:
    """Another connection, which takes what comes."""
    return Connection(FlushPoint(lambda callback: None, 1 << 20, 1000), Talker(), 4096, 16)


def to(last: int) -> list[Heard]:
    return list(range(1, last + 1))


def test_what_waits_is_left_out_and_then_all_that_follows_until_it_has_caught_up(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    last = reader.publish(QUEUE_MAX)
    assert reader.connection.queued_messages == QUEUE_MAX, "as many may wait"
    assert reader.point.left_out == 0
    last = reader.publish(3)
    assert (reader.connection.queued_messages, reader.connection.queued_bytes) == (0, 0)
    assert reader.point.left_out == QUEUE_MAX + 3
    assert reader.point.gaps == 0
    assert reader.reads() == [*to(got), ("e", got + 1, last)]
    assert (reader.point.gaps, reader.point.too_slow) == (1, 0)
    assert reader.publish() == last + 1
    assert reader.reads() == [last + 1]


def test_the_newest_follows_the_gap_where_the_room_conflates(reader: Reader) -> None:
    reader.join("conflate")
    got = reader.block()
    reader.overflow()
    last = reader.publish(2)
    assert reader.reads() == [*to(got), ("e", got + 1, last - 1), last]
    assert reader.point.left_out == last - got - 1
    assert reader.point.gaps == 1
    assert reader.publish() == last + 1
    assert reader.reads() == [last + 1]


def test_of_messages_that_came_together_the_last_is_the_newest(reader: Reader) -> None:
    reader.join("conflate")
    got = reader.block()
    reader.publish_together(3)
    reader.overflow()
    last = reader.publish_together(3)
    assert reader.point.left_out == last - got
    assert reader.reads() == [*to(got), ("e", got + 1, last - 1), last]
    assert reader.point.left_out == last - got - 1


def test_where_only_the_newest_was_left_out_there_is_no_gap(reader: Reader) -> None:
    reader.join("conflate")
    got = reader.block()
    last = reader.publish()
    reader.point.expire(reader.connection.blocked_since + 0.11, 0.1)
    assert reader.point.left_out == 1
    assert reader.reads() == [*to(got), last]
    assert (reader.point.left_out, reader.point.gaps) == (0, 0)


def test_a_second_time_is_told_by_itself(reader: Reader) -> None:
    reader.join("drop")
    first = reader.block()
    reader.overflow()
    again = reader.offsets["r"]
    reader.reads()
    reader.line.slow = True
    got = reader.block()
    reader.overflow()
    assert again > first
    assert reader.reads() == [*range(again + 1, got + 1), ("e", got + 1, reader.offsets["r"])]


def test_each_room_is_told_by_itself(reader: Reader) -> None:
    reader.join("drop")
    reader.join("conflate", "other")
    got = reader.block()
    reader.publish(3, "other")
    reader.overflow()
    reader.publish(2, "other")
    last = reader.publish(2)
    heard = reader.reads()
    assert heard[:got] == to(got)
    # In which order the rooms are told is nobody's business; within each it is.
    assert sorted(map(str, heard[got:])) == sorted(map(str, [("other", "e", 1, 4), ("other", 5), ("e", got + 1, last)]))
    assert heard.index(("other", "e", 1, 4)) < heard.index(("other", 5))


def test_what_a_room_does_not_allow_to_miss_is_not_left_out_and_counts(reader: Reader) -> None:
    reader.join("drop")
    reader.join("disconnect", "strict")
    got = reader.block()
    reader.publish(4, "strict")
    last = reader.publish(QUEUE_MAX - 3)
    assert reader.connection.queued_messages == 4
    reader.hub.push("r", b'{"type":"member_joined"}', None)
    assert reader.connection.queued_messages == 5, "a push of the room itself waits too"
    assert reader.reads() == [
        *to(got),
        *[("strict", n) for n in range(1, 5)],
        "member_joined",
        ("e", got + 1, last),
    ]


def test_who_has_too_much_of_what_may_not_be_missed_is_cut_off(reader: Reader) -> None:
    reader.join("drop")
    reader.join("disconnect", "strict")
    got = reader.block()
    reader.publish(3)
    reader.publish(QUEUE_MAX, "strict")
    assert reader.point.too_slow == 0
    reader.publish(1, "strict")
    assert reader.point.too_slow == 1
    assert reader.reads() == to(got)
    assert reader.point.gaps == 0


def test_a_publisher_without_echo_is_not_told_of_its_own_message_in_front_of_a_gap(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.publish(1, exclude=reader.connection)
    reader.overflow()
    assert reader.reads() == [*to(got), ("e", got + 2, reader.offsets["r"])]


def test_a_push_of_the_room_does_not_overtake_what_was_published(reader: Reader) -> None:
    reader.join("drop")
    reader.hub.publish("r", 1, codec.encode({"type": "room_message", "room": "r", "offset": 1}), None)
    reader.hub.push("r", b'{"type":"member_joined"}', None)
    reader.edge.loop.run_soon()
    assert reader.reads() == [1, "member_joined"]


def test_what_one_member_is_spared_is_left_out_for_the_others_too(reader: Reader) -> None:
    reader.join("conflate")
    publisher = a_reader()
    reader.hub.join(publisher, "r", "e", 0)
    got = reader.block()
    for _ in range(QUEUE_MAX + 2):
        last = reader.publish(exclude=publisher)
    assert reader.reads() == [*to(got), ("e", got + 1, last - 1), last]


def test_after_a_change_to_drop_no_older_message_stands_for_the_newest(reader: Reader) -> None:
    reader.join("conflate")
    got = reader.block()
    reader.overflow()
    reader.hub.treat_slow("r", "drop")
    last = reader.publish(2)
    assert reader.reads() == [*to(got), ("e", got + 1, last)]
    assert reader.point.left_out == last - got


def test_after_a_change_to_conflate_the_newest_follows(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.overflow()
    reader.hub.treat_slow("r", "conflate")
    last = reader.publish(2)
    assert reader.reads() == [*to(got), ("e", got + 1, last - 1), last]


def test_after_a_change_to_disconnect_nothing_is_left_out_any_more(reader: Reader) -> None:
    reader.join("conflate")
    got = reader.block()
    reader.overflow()
    last = reader.offsets["r"]
    reader.hub.treat_slow("r", "disconnect")
    # The gap and the newest wait already, and are not left out again.
    reader.publish(QUEUE_MAX - 2)
    assert reader.point.too_slow == 0
    assert reader.reads() == [*to(got), ("e", got + 1, last - 1), *range(last, reader.offsets["r"] + 1)]


def test_what_was_published_before_a_change_to_drop_is_not_left_out(reader: Reader) -> None:
    reader.join("disconnect")
    got = reader.block()
    reader.hub.push("r", b'{"type":"room_stats"}', None)
    reader.offsets["r"] += 1
    reader.hub.publish("r", got + 1, codec.encode({"type": "room_message", "room": "r", "offset": got + 1}), None)
    reader.hub.treat_slow("r", "drop")
    reader.overflow()
    assert reader.reads() == [*to(got), "room_stats", got + 1, ("e", got + 2, reader.offsets["r"])]


def test_a_room_may_change_its_mind_twice(reader: Reader) -> None:
    reader.join("drop")
    reader.hub.treat_slow("r", "disconnect")
    reader.hub.treat_slow("r", "conflate")
    got = reader.block()
    reader.overflow()
    last = reader.offsets["r"]
    assert reader.reads() == [*to(got), ("e", got + 1, last - 1), last]


def test_what_waits_when_the_room_begins_to_disconnect_waits_on(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.publish(QUEUE_MAX)
    reader.hub.treat_slow("r", "disconnect")
    assert reader.point.left_out == 0
    reader.publish()
    assert reader.point.too_slow == 1
    assert reader.reads() == to(got)


def test_the_newest_that_is_told_early_is_not_left_out_again(reader: Reader) -> None:
    reader.join("conflate")
    reader.join("disconnect", "strict")
    got = reader.block()
    reader.overflow()
    reader.publish(QUEUE_MAX - 1, "strict")
    reader.hub.treat_slow("r", "disconnect")
    assert reader.point.too_slow == 1, "gap and newest are one message too many"
    assert reader.reads() == to(got)


def test_what_is_left_out_of_two_epochs_is_told_of_each(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.overflow()
    old = reader.offsets["r"]
    reader.move("f", 3)
    reader.overflow()
    assert reader.reads() == [*to(got), ("e", got + 1, old), ("f", old + 1, 3), ("f", 4, reader.offsets["r"])]


def test_what_waits_of_an_epoch_that_is_over_is_not_told_as_one_gap_with_the_next(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    old = reader.publish(2) + 1
    reader.hub.publish("r", old, codec.encode({"type": "room_message", "room": "r", "offset": old}), None)
    reader.offsets["r"] = old
    reader.move("f", 2)
    # Three of the old epoch and the gap stay; the rest is left out of the new one.
    last = reader.publish(QUEUE_MAX - 3)
    assert reader.reads() == [*to(got), *range(got + 1, old + 1), ("f", old + 1, 2), ("f", 3, last)]


def test_a_hole_in_the_same_epoch_is_told_in_its_place(reader: Reader) -> None:
    reader.join("conflate")
    got = reader.block()
    reader.publish(2)
    reader.move("e", got + 5)
    last = reader.publish(QUEUE_MAX)
    assert reader.reads() == [
        *to(got + 2),
        ("e", got + 3, got + 5),
        ("e", got + 6, last - 1),
        last,
    ]


def test_who_leaves_hears_nothing_more_of_the_room(reader: Reader) -> None:
    reader.join("drop")
    reader.join("drop", "other")
    got = reader.block()
    reader.publish(1, "other")
    reader.overflow()
    reader.hub.leave(reader.connection, "r")
    assert reader.reads() == [*to(got), ("other", "e", 1, 1)]


def test_who_comes_back_hears_nothing_of_what_it_missed_before_it_left(reader: Reader) -> None:
    reader.join("drop")
    reader.hub.join(a_reader(), "r", "e", 0)
    got = reader.block()
    reader.overflow()
    reader.hub.leave(reader.connection, "r")
    reader.publish()
    reader.join("drop")
    last = reader.publish()
    assert reader.reads() == [*to(got), last]


def test_who_was_in_a_room_that_is_gone_hears_nothing_more_of_it(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.overflow()
    assert reader.hub.drop_room("r") == {reader.connection: None}
    assert reader.reads() == to(got)


@pytest.mark.parametrize("end", ["leave", "gone"])
def test_what_waits_of_a_room_that_it_left_is_sent_and_never_told_as_missing(reader: Reader, end: str) -> None:
    reader.join("drop")
    reader.join("drop", "other")
    got = reader.block()
    last = reader.publish(2)
    if end == "leave":
        reader.hub.leave(reader.connection, "r")
    else:
        reader.hub.drop_room("r")
    reader.publish(QUEUE_MAX, "other")
    assert reader.reads() == [*to(got), *range(got + 1, last + 1), ("other", "e", 1, QUEUE_MAX)]


def test_nothing_is_left_out_behind_a_close(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.publish(3)
    reader.connection.close(1001, b"going away")
    reader.publish(QUEUE_MAX)
    assert reader.point.left_out == 0
    reader.line.read_on()
    frames = server_frames(reader.line.wire)
    assert [opcode for opcode, _ in frames] == [TEXT] * (got + 3) + [CLOSE]


def test_who_is_closed_is_told_of_no_gap_behind_which_it_would_come_back(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    reader.overflow()
    reader.connection.close(1001, b"going away")
    reader.line.read_on()
    assert [opcode for opcode, _ in server_frames(reader.line.wire)] == [TEXT] * got + [CLOSE]
    assert reader.point.gaps == 0


def test_who_is_closed_and_does_not_take_even_that_is_ended_without_a_count(reader: Reader) -> None:
    reader.join("drop")
    reader.block()
    reader.publish(3)
    reader.connection.close(1001, b"going away")
    reader.point.expire(reader.connection.blocked_since + 0.11, 0.1)
    reader.edge.loop.run_soon()
    assert reader.line.lost
    assert (reader.point.left_out, reader.point.too_slow) == (0, 0)


def test_age_alone_leaves_out_what_it_may_and_keeps_the_connection(reader: Reader) -> None:
    reader.join("drop")
    got = reader.block()
    last = reader.publish(2)
    since = reader.connection.blocked_since
    reader.point.expire(since + 0.09, 0.1)
    assert reader.point.left_out == 0, "it has that long"
    reader.point.expire(since + 0.11, 0.1)
    reader.point.expire(since + 1.11, 0.1)
    assert (reader.point.left_out, reader.point.too_slow) == (2, 0)
    assert reader.reads() == [*to(got), ("e", got + 1, last)]


def test_age_cuts_off_who_has_left_the_room_of_which_something_was_left_out(reader: Reader) -> None:
    reader.join("drop")
    reader.block()
    reader.overflow()
    reader.hub.leave(reader.connection, "r")
    reader.point.expire(reader.connection.blocked_since + 0.11, 0.1)
    assert reader.point.too_slow == 1


@pytest.mark.parametrize("waits", ["nothing", "a reply"])
def test_age_cuts_off_who_has_nothing_to_miss(reader: Reader, waits: str) -> None:
    reader.join("drop")
    got = reader.block()
    if waits == "a reply":
        reader.publish(2)
        reader.hub.push("r", b'{"type":"room_stats"}', None)
        reader.hub.flush()
    reader.point.expire(reader.connection.blocked_since + 0.11, 0.1)
    assert reader.point.too_slow == 1
    assert reader.reads() == to(got)
