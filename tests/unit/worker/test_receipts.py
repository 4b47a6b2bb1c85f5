"""Who has confirmed what, counted for those who asked and nobody else."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from tuskws_fast_ext.connection import Connection, FlushPoint

from tuskws_fast.ipc.records import Seen, Watch
from tuskws_fast.worker.hub import Hub


class Room:
    """A hub with one room; `seen` are (offset, delivered, acked) in the order of the reports."""

    def __init__(self) -> None:
        self.now = 100.0
        self.offset = 0
        self.seen: list[tuple[int, int, int]] = []
        self.hub = Hub(lambda: 1.0, lambda *_: None, 0.0, lambda *_: None, lambda: self.now)
        self.hub.report = self._report
        self.point = FlushPoint(lambda callback: None, 1 << 20, 1000)

    def _report(self, seen: Seen) -> None:
        self.seen.append((seen.offset, seen.delivered, seen.acked))

    def join(self) -> Connection:
        owner: Any = object()
        connection = Connection(self.point, owner, 65536, 1024)
        self.hub.join(connection, "r", "e", self.offset)
        return connection

    def publish(self, publisher: Connection | None = None, watched: bool = True) -> None:
        self.offset += 1
        if watched:
            self.hub.watch(Watch("r", "e", self.offset, 1, "k"), publisher)
        self.hub.publish("r", self.offset, b"{}", None)

    def take(self) -> list[tuple[int, int, int]]:
        seen, self.seen = self.seen, []
        return seen


@pytest.fixture
def room() -> Room:
    return Room()


def test_publisher_is_not_counted_nor_its_own_word(room: Room) -> None:
    ann, bob = room.join(), room.join()
    room.publish(ann)
    assert room.take() == [(1, 1, 0)]
    assert room.hub.confirm(ann, "r", "", 1)
    room.hub.report_changes()
    assert room.take() == []
    assert room.hub.confirm(bob, "r", "", 1)
    assert room.take() == [(1, 1, 1)]  # complete: told at once


def test_confirmation_is_cumulative_and_counts_once(room: Room) -> None:
    a, b = room.join(), room.join()
    for _ in range(3):
        room.publish()
    room.take()
    for offset in (2, 2, 1):
        room.hub.confirm(a, "r", "", offset)
    room.hub.report_changes()
    assert room.take() == [(1, 2, 1), (2, 2, 1)]
    room.hub.confirm(b, "r", "", 3)
    assert room.take() == [(1, 2, 2), (2, 2, 2)]
    room.hub.confirm(a, "r", "", 3)
    assert room.take() == [(3, 2, 2)]


def test_who_came_later_does_not_count(room: Room) -> None:
    room.join()
    room.publish()
    late = room.join()
    room.take()
    room.hub.confirm(late, "r", "", 1)
    room.hub.report_changes()
    assert room.take() == []


def test_what_was_not_published_cannot_be_confirmed(room: Room) -> None:
    a = room.join()
    room.join()
    room.publish()
    room.hub.confirm(a, "r", "", 1_000)
    room.hub.report_changes()
    room.publish()
    room.take()
    room.hub.confirm(a, "r", "", 2)
    room.hub.report_changes()
    assert room.take() == [(2, 2, 1)]


def test_word_about_another_epoch_is_none(room: Room) -> None:
    a = room.join()
    room.publish()
    room.take()
    room.hub.confirm(a, "r", "another", 1)
    room.hub.report_changes()
    assert room.take() == []


def test_new_epoch_ends_what_was_counted(room: Room) -> None:
    a, _ = room.join(), room.join()
    room.publish()
    room.hub.confirm(a, "r", "", 1)
    room.take()
    room.hub.gap("r", "f", 1, 5)
    assert room.take() == [(1, 2, 1)]
    room.hub.confirm(a, "r", "f", 5)
    room.hub.report_changes()
    assert room.take() == []


def test_offsets_begin_again_in_a_new_epoch(room: Room) -> None:
    a, _ = room.join(), room.join()
    for _ in range(3):
        room.publish()
    room.hub.confirm(a, "r", "", 3)
    room.hub.gap("r", "f", 1, 0)
    room.take()
    room.hub.watch(Watch("r", "f", 1, 1, "k"), None)
    room.hub.publish("r", 1, b"{}", None)
    room.hub.confirm(a, "r", "f", 1)
    room.hub.report_changes()
    assert room.take() == [(1, 2, 0), (1, 2, 1)]


def test_hole_in_the_same_epoch_ends_nothing(room: Room) -> None:
    a, _ = room.join(), room.join()
    room.publish()
    room.take()
    room.hub.gap("r", "e", 2, 5)
    assert room.take() == []
    room.hub.confirm(a, "r", "", 5)
    room.hub.report_changes()
    assert room.take() == [(1, 2, 1)]


def test_watch_of_an_epoch_that_is_over_has_nobody(room: Room) -> None:
    a = room.join()
    room.hub.watch(Watch("r", "another", 1, 1, "k"), None)
    room.hub.publish("r", 1, b"{}", None)
    room.hub.confirm(a, "r", "", 1)
    room.hub.report_changes()
    assert room.take() == [(1, 0, 0)]


def test_end_of_another_epochs_watch_ends_none_of_this(room: Room) -> None:
    a = room.join()
    room.publish()
    room.take()
    room.hub.unwatch("r", "another", 1)
    room.hub.confirm(a, "r", "", 1)
    assert room.take() == [(1, 1, 1)]


def test_what_was_told_once_is_not_told_again(room: Room) -> None:
    a, _ = room.join(), room.join()
    room.publish()
    room.hub.confirm(a, "r", "", 1)
    room.hub.report_changes()
    room.take()
    room.hub.report_changes()
    assert room.take() == []


def test_watch_lasts_until_the_broker_has_given_up_and_tells_its_last_word(room: Room) -> None:
    a, b = room.join(), room.join()
    room.join()
    room.publish()
    room.take()
    room.now += 30.1  # the broker waits 30 s from a moment before
    room.hub.confirm(a, "r", "", 1)
    room.hub.report_changes()
    assert room.take() == [(1, 3, 1)]
    room.now += 1.0
    room.hub.confirm(b, "r", "", 1)
    room.hub.report_changes()
    assert room.take() == [(1, 3, 2)]
    assert room.hub.rooms["r"].watches is None


def test_stranger_is_told(room: Room) -> None:
    room.join()
    stranger = Connection(room.point, object(), 65536, 1024)  # type: ignore[arg-type]
    assert not room.hub.confirm(stranger, "r", "", 1)
    assert not room.hub.confirm(stranger, "no-room", "", 1)


def test_nothing_is_kept_when_nobody_waits(room: Room) -> None:
    a = room.join()
    room.publish()
    assert room.hub.rooms["r"].watches is not None
    room.now += 31.0
    room.hub.report_changes()
    assert room.hub.rooms["r"].watches is None
    assert not room.hub._watched
    room.publish(watched=False)
    room.hub.confirm(a, "r", "", 2)
    assert room.hub.rooms["r"].watches is None


def test_what_nobody_waits_for_any_more_is_forgotten(room: Room) -> None:
    a = room.join()
    for _ in range(3):
        room.publish()
    room.take()
    room.hub.unwatch("r", "e", 2)
    room.hub.confirm(a, "r", "", 3)
    assert room.take() == [(1, 1, 1), (3, 1, 1)]
    room.hub.unwatch("r", "e", 3)
    room.hub.unwatch("r", "e", 1)
    assert room.hub.rooms["r"].watches is None


def test_room_that_is_not_here_has_nobody(room: Room) -> None:
    room.hub.watch(Watch("r", "e", 1, 1, "k"), None)
    assert room.take() == [(1, 0, 0)]


@pytest.mark.parametrize("end", ["leave", "gone"])
def test_what_was_confirmed_is_told_before_the_room_is_forgotten(room: Room, end: str) -> None:
    a, b = room.join(), room.join()
    room.publish()
    room.hub.confirm(a, "r", "", 1)
    assert room.take() == [(1, 2, 0)]
    if end == "gone":
        room.hub.drop_room("r")
    else:
        room.hub.leave(a, "r")
        assert room.take() == []
        room.hub.leave(b, "r")
    assert room.take() == [(1, 2, 1)]
    room.hub.report_changes()
    room.hub.announce_watches()
    assert room.take() == []


def test_new_broker_hears_all_of_it(room: Room) -> None:
    a = room.join()
    room.join()
    room.publish()
    room.publish()
    room.hub.confirm(a, "r", "", 1)
    room.take()
    room.hub.announce_watches()
    assert room.take() == [(1, 2, 1), (2, 2, 0)]


def test_who_has_left_is_not_held_by_a_room_that_always_has_a_receipt_open(room: Room) -> None:
    staying = room.join()
    for _ in range(20):
        room.publish()
        guest = room.join()
        room.publish()
        room.hub.confirm(guest, "r", "", room.offset)
        room.hub.leave(guest, "r")
        room.point.flush()
        held = weakref.ref(guest)
        del guest
        assert held() is None
    assert room.hub.confirm(staying, "r", "", room.offset)
