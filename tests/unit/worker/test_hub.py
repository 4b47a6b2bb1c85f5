"""The hub's promises: one order for all members, nothing twice, nothing after a silent hole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.footprint import bytes_left_by
from tuskws_fast_ext.connection import Connection, FlushPoint

from tuskws_fast.protocol import codec
from tuskws_fast.worker.hub import TICK_MEMBERS_MIN, Hub


class Owner:
    """A session as the connection sees it; nothing here ever calls it."""


class Node:
    """A hub with connections that queue but are never flushed: what waits is what each would be sent."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.now = 100.0
        self.ticks: list[tuple[float, Callable[[], None]]] = []
        self.hub = Hub(
            lambda: 1.0,
            lambda *position: self.asked.append(position),
            tick_s,
            lambda delay, callback: self.ticks.append((self.now + delay, callback)),
            lambda: self.now,
        )
        self.point = FlushPoint(lambda callback: None, 1 << 20, 1000)

    def member(self, room: str = "r", offset: int = 0) -> Connection:
        connection = Connection(self.point, Owner(), 65536, 1024)  # type: ignore[arg-type]
        self.hub.join(connection, room, "e", offset)
        return connection

    def publish(self, *offsets: int, exclude: Connection | None = None) -> None:
        for offset in offsets:
            self.hub.publish("r", offset, b"<%d>" % offset, exclude)
        self.hub.flush()


def got(connection: Connection) -> list[str]:
    """The payloads that wait for a connection (all are shorter than 126 bytes here)."""
    wire, payloads = connection.waiting(), []
    while wire:
        size = wire[1]
        payloads.append(wire[2 : 2 + size].decode())
        wire = wire[2 + size :]
    return payloads


@pytest.fixture
def node() -> Node:
    return Node()


def test_all_members_get_a_batch_in_order(node: Node) -> None:
    one, two = node.member(), node.member()
    node.publish(1, 2, 3)
    assert got(one) == got(two) == ["<1>", "<2>", "<3>"]
    assert node.hub.deliveries == 6


def test_publisher_without_echo_is_left_out_of_its_own_message_only(node: Node) -> None:
    publisher, other = node.member(), node.member()
    node.hub.publish("r", 1, b"<1>", None)
    node.hub.publish("r", 2, b"<2>", publisher)
    node.publish(3)
    assert got(publisher) == ["<1>", "<3>"]
    assert got(other) == ["<1>", "<2>", "<3>"]


def test_who_joins_between_two_publications_of_one_batch_gets_only_the_later(node: Node) -> None:
    early = node.member()
    node.hub.publish("r", 1, b"<1>", None)
    late = node.member(offset=1)
    node.hub.publish("r", 2, b"<2>", None)
    node.hub.flush()
    assert got(early) == ["<1>", "<2>"]
    assert got(late) == ["<2>"]


def test_who_leaves_has_got_everything_before_its_leave_and_nothing_after(node: Node) -> None:
    stays, leaves = node.member(), node.member()
    node.hub.publish("r", 1, b"<1>", None)
    node.hub.leave(leaves, "r")
    node.publish(2)
    assert got(leaves) == ["<1>"]
    assert got(stays) == ["<1>", "<2>"]


def test_an_offset_seen_before_is_not_delivered_again(node: Node) -> None:
    one = node.member()
    node.publish(1, 2)
    node.publish(2, 3)
    assert got(one) == ["<1>", "<2>", "<3>"]


def test_a_hole_stops_the_room_until_history_has_filled_it(node: Node) -> None:
    one = node.member()
    node.publish(1)
    node.publish(4, 5)
    assert node.asked == [("r", "e", 1)]
    assert got(one) == ["<1>"]
    node.hub.recovered("r", "e", [(n, b"<%d>" % n) for n in range(2, 6)])
    node.publish(6)
    assert got(one) == ["<1>", "<2>", "<3>", "<4>", "<5>", "<6>"]
    assert node.asked == [("r", "e", 1)]


def test_a_dropped_last_message_is_found_by_the_position(node: Node) -> None:
    one = node.member()
    node.publish(1)
    node.hub.check("r", "e", 2)
    assert node.asked == [("r", "e", 1)]
    node.hub.recovered("r", "e", [(2, b"<2>")])
    node.hub.flush()
    assert got(one) == ["<1>", "<2>"]


def test_a_position_that_tells_nothing_new_is_answered_too_or_the_next_loss_would_not_be_told(node: Node) -> None:
    one = node.member()
    node.publish(1)
    node.hub.check("r", "e", 1)
    assert node.asked == [("r", "e", 1)]
    node.publish(2)
    assert got(one) == ["<1>", "<2>"], "nothing is missing, so nothing has to wait for the answer"
    node.hub.recovered("r", "e", [(2, b"<2>")])
    node.publish(3)
    assert got(one) == ["<1>", "<2>", "<3>"]
    node.hub.leave(one, "r")
    node.hub.check("r", "e", 7)
    assert node.asked[1:] == [("r", "e", 7)]


def test_a_position_is_not_answered_twice_while_the_room_recovers(node: Node) -> None:
    node.member()
    node.publish(2)
    node.hub.check("r", "e", 2)
    node.hub.check("r", "e", 0)
    assert node.asked == [("r", "e", 0)]


def test_who_joins_while_the_room_recovers_does_not_get_its_own_replay_twice(node: Node) -> None:
    behind = node.member()
    node.publish(2)
    joiner = node.member(offset=2)
    node.publish(3)
    node.hub.recovered("r", "e", [(1, b"<1>"), (2, b"<2>"), (3, b"<3>")])
    node.hub.flush()
    assert got(behind) == ["<1>", "<2>", "<3>"]
    assert got(joiner) == ["<3>"]


def test_a_replay_that_a_joiner_has_already_may_come_in_pages(node: Node) -> None:
    behind = node.member()
    node.publish(2)
    joiner = node.member(offset=4)
    node.hub.push("r", b"<stats>", None)
    for page in ((1, 2), (3, 4, 5)):
        node.hub.recovered("r", "e", [(n, b"<%d>" % n) for n in page])
    node.publish(6)
    assert got(behind) == ["<stats>", "<1>", "<2>", "<3>", "<4>", "<5>", "<6>"]
    assert got(joiner) == ["<stats>", "<5>", "<6>"]
    assert not node.hub.rooms["r"].late


def test_what_a_joiner_had_of_an_epoch_that_is_over_is_none_of_the_next(node: Node) -> None:
    node.member()
    node.publish(3)
    joiner = node.member(offset=3)
    node.hub.gap("r", "f", 4, 0)
    node.publish(2)
    node.hub.recovered("r", "f", [(1, b"<1>"), (2, b"<2>")])
    node.hub.flush()
    assert got(joiner)[1:] == ["<1>", "<2>"]


def test_a_gap_is_told_and_the_room_goes_on_behind_it(node: Node) -> None:
    one = node.member()
    node.publish(5)
    node.hub.gap("r", "f", 1, 7)
    node.hub.publish("r", 8, b"<8>", None)
    node.hub.flush()
    gap, push = got(one)
    assert codec.decode(gap) == {"type": "gap", "room": "r", "epoch": "f", "from": 1, "to": 7}
    assert push == "<8>"


def test_a_gap_comes_behind_what_was_published_before_it(node: Node) -> None:
    one = node.member()
    node.hub.publish("r", 1, b"<1>", None)
    node.hub.gap("r", "e", 2, 4)
    node.publish(5)
    assert [each[0:2] for each in got(one)] == ["<1", '{"', "<5"]
    assert (node.hub.gaps, node.hub.holes) == (1, 0)


def test_a_gap_answers_the_question_for_a_hole(node: Node) -> None:
    one = node.member()
    node.publish(3)
    assert node.hub.holes == 1
    joiner = node.member(offset=3)
    node.hub.gap("r", "e", 1, 3)
    node.publish(4)
    node.publish(6)
    assert node.asked == [("r", "e", 0), ("r", "e", 4)], "the next hole is asked for again"
    node.hub.recovered("r", "e", [(5, b"<5>"), (6, b"<6>")])
    node.hub.flush()
    assert got(one)[1:] == got(joiner)[1:] == ["<4>", "<5>", "<6>"]


def test_a_dead_brokers_answer_is_not_waited_for(node: Node) -> None:
    one = node.member()
    node.publish(2)
    node.hub.forget_recovery()
    node.publish(1)
    assert got(one) == ["<1>"]
    node.publish(3)
    assert node.asked == [("r", "e", 0), ("r", "e", 1)]


def test_history_of_another_epoch_is_not_this_ones(node: Node) -> None:
    one = node.member()
    node.publish(2)
    node.hub.recovered("r", "f", [(1, b"<f>")])
    node.hub.flush()
    assert got(one) == []
    node.hub.recovered("r", "e", [(1, b"<1>")])
    node.hub.flush()
    assert got(one) == ["<1>"]


def test_a_position_in_another_epoch_is_asked_about(node: Node) -> None:
    one = node.member()
    node.publish(1, 2)
    node.hub.check("r", "f", 1)
    node.publish(3)
    assert node.asked == [("r", "e", 2)]
    assert got(one) == ["<1>", "<2>"]


def test_a_join_shows_that_the_others_have_missed_something(node: Node) -> None:
    behind = node.member()
    node.publish(1)
    joiner = node.member(offset=3)
    leaver = node.member(offset=3)
    assert node.asked == [("r", "e", 1)]
    assert node.hub.holes == 1
    node.publish(4)
    node.hub.leave(leaver, "r")
    node.hub.join(leaver, "r", "e", 0)  # as one that knows nothing
    node.hub.recovered("r", "e", [(n, b"<%d>" % n) for n in (2, 3, 4)])
    node.publish(5)
    assert got(behind) == ["<1>", "<2>", "<3>", "<4>", "<5>"]
    assert got(joiner) == ["<4>", "<5>"]
    assert got(leaver) == ["<2>", "<3>", "<4>", "<5>"]


def test_who_joins_alone_begins_where_its_join_ended(node: Node) -> None:
    alone = node.member(offset=7)
    node.publish(7, 8)
    assert got(alone) == ["<8>"]
    assert node.asked == []


def test_the_first_to_hear_of_a_new_epoch_takes_the_room_there(node: Node) -> None:
    node.member()
    node.publish(1, 2, 3)
    joiner = Connection(node.point, Owner(), 65536, 1024)  # type: ignore[arg-type]
    node.hub.join(joiner, "r", "f", 1)
    node.publish(2)
    assert got(joiner) == ["<2>"]
    assert (node.hub.rooms["r"].epoch, node.asked) == ("f", [])


def test_who_is_in_a_room_that_is_gone_has_got_everything_before_that(node: Node) -> None:
    one = node.member()
    node.hub.publish("r", 1, b"<1>", None)
    assert node.hub.drop_room("r") == {one: None}
    assert node.hub.rooms == {}
    assert got(one) == ["<1>"]
    assert node.hub.drop_room("r") == {}


def test_a_push_comes_in_its_place_and_not_to_whom_it_is_about(node: Node) -> None:
    about, other = node.member(), node.member()
    node.hub.publish("r", 1, b"<1>", None)
    node.hub.push("r", b"<joined>", about)
    node.hub.publish("r", 2, b"<2>", None)
    node.hub.push("r", b"<stats>", None)
    node.publish(3)
    assert got(about) == ["<1>", "<2>", "<stats>", "<3>"]
    assert got(other) == ["<1>", "<joined>", "<2>", "<stats>", "<3>"]
    assert node.hub.deliveries == 9


def test_a_push_alone_is_sent_at_the_end_of_the_drain(node: Node) -> None:
    one = node.member()
    node.hub.push("r", b"<stats>", None)
    node.hub.flush()
    assert got(one) == ["<stats>"]


def test_the_room_keeps_what_its_members_were_told_of_each_other(node: Node) -> None:
    node.hub.join(Connection(node.point, Owner(), 65536, 1024), "r", "e", 0, told=5)  # type: ignore[arg-type]
    assert node.hub.rooms["r"].told == 5
    node.hub.join(Connection(node.point, Owner(), 65536, 1024), "r", "e", 0, told=6)  # type: ignore[arg-type]
    assert node.hub.rooms["r"].told == 5, "others who are here have yet to be told"
    node.hub.push("r", b"<joined>", None, 7)
    assert node.hub.rooms["r"].told == 7
    node.hub.sharing({"r": 8, "elsewhere": 9}, lambda session: True)
    assert node.hub.rooms["r"].told == 8


def test_who_shares_a_room_is_found_once_and_has_got_everything_before(node: Node) -> None:
    deaf, one = node.member(), node.member()
    node.hub.join(one, "s", "e", 0)
    node.hub.publish("r", 1, b"<1>", None)
    found = node.hub.sharing({"r": 0, "s": 0}, lambda session: session is not deaf.session)
    assert found == {one: None}
    node.hub.send_to(found, b"<update>")
    node.publish(2)
    assert got(one) == ["<1>", "<update>", "<2>"]
    assert got(deaf) == ["<1>", "<2>"]


def test_an_empty_room_is_forgotten(node: Node) -> None:
    one = node.member()
    node.hub.leave(one, "r")
    assert node.hub.rooms == {}
    node.publish(1)
    assert got(one) == []


def test_a_busy_room_of_many_sends_at_once_and_then_once_a_tick() -> None:
    node = Node(tick_s=0.002)
    member = [node.member() for _ in range(TICK_MEMBERS_MIN)][-1]
    node.publish(1)
    assert got(member) == ["<1>"]
    node.now += 0.001
    node.publish(2)
    node.publish(3)
    assert got(member) == ["<1>"]
    [(due, tick)] = node.ticks
    assert due == pytest.approx(node.now + 0.002)
    node.now = due
    tick()
    assert got(member) == ["<1>", "<2>", "<3>"]
    node.now += 0.003
    node.publish(4)
    assert got(member) == ["<1>", "<2>", "<3>", "<4>"]
    assert len(node.ticks) == 1
    node.publish(5)
    assert got(member)[-1] == "<4>"
    assert len(node.ticks) == 2


def test_a_small_room_never_waits() -> None:
    node = Node(tick_s=0.002)
    member = [node.member() for _ in range(TICK_MEMBERS_MIN - 1)][-1]
    node.publish(1)
    node.publish(2)
    assert got(member) == ["<1>", "<2>"]
    assert not node.ticks


def test_who_joins_a_room_that_waits_gets_nothing_from_before_and_who_leaves_gets_it_all() -> None:
    node = Node(tick_s=0.002)
    first, second = [node.member() for _ in range(TICK_MEMBERS_MIN)][:2]
    node.publish(1)
    node.publish(2)
    newcomer = node.member(offset=2)
    node.hub.leave(second, "r")
    assert got(first) == got(second) == ["<1>", "<2>"]
    assert got(newcomer) == []
    node.publish(3)
    node.now += 0.01
    [(_, tick)] = node.ticks
    tick()
    assert got(newcomer) == ["<3>"]
    assert got(second) == ["<1>", "<2>"]


def test_a_room_with_one_member_is_small() -> None:
    node = Node()
    alice = node.member("before")
    kept: set[str] = set()

    def join_rooms() -> None:
        for number in range(1_000):
            kept.add(node.hub.join(alice, f"room-of-an-ordinary-name-{number}", f"epoch-{number}", 0))

    assert bytes_left_by(join_rooms) / 1_000 < 750


def test_all_members_keep_one_copy_of_their_rooms_name() -> None:
    node = Node()
    first, second = (node.hub.join(node.member("other"), "".join(["ro", "om"]), "e", 0) for _ in range(2))
    assert first is second
