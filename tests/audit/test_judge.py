"""A judge that has never found anybody guilty is not to be believed: each kind of fault, in a history made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from audit.judge import Judge
from audit.verdict import Verdict

ROOM = "room"


class Tale:
    """A history in which all is well, unless it is told otherwise: ann publishes, bob listens, both from the start."""

    def __init__(self, keep: int = 100) -> None:
        self.lines: list[list[Any]] = []
        self._t = 0
        self.add("run", {"keep": keep})
        self.add("phase", "faults")
        self.enter(1, "ann")
        self.enter(2, "bob")

    def add(self, kind: str, *fields: Any) -> Tale:
        self._t += 1000
        self.lines.append([kind, self._t, *fields])
        return self

    def enter(self, conn: int, user: str, since: list[Any] | None = None, at: int = 0, epoch: str = "e") -> Tale:
        self.add("open", conn, user, 0)
        return self.add("join", conn, ROOM, since, epoch, at, None if since is None else True)

    def said(self, offset: int, level: str = "stored", epoch: str = "e", key: str = "", conn: int = 1) -> Tale:
        key = key or f"m{offset}"
        self.add("say", conn, ROOM, key, None)
        return self.add("ack", conn, ROOM, key, epoch, offset, level)

    def heard(self, *offsets: int, conn: int = 2, epoch: str = "e", key: str = "") -> Tale:
        for offset in offsets:
            self.add("hear", conn, ROOM, epoch, offset, key or f"m{offset}")
        return self

    def published(self, *offsets: int, level: str = "stored", epoch: str = "e") -> Tale:
        """Said, acknowledged, and heard by both."""
        for offset in offsets:
            self.said(offset, level, epoch).heard(offset, conn=1, epoch=epoch).heard(offset, epoch=epoch)
        return self

    def kept(self, *offsets: int, epoch: str = "e", top: int | None = None) -> Tale:
        messages = [[epoch, offset, f"m{offset}"] for offset in offsets]
        return self.add("kept", ROOM, epoch, top if top is not None else max(offsets, default=0), messages)

    def verdict(self) -> Verdict:
        return Judge().take_all(self.lines)

    def faults(self) -> dict[str, int]:
        return dict(self.verdict().faults)


def test_a_history_in_which_all_is_well() -> None:
    tale = Tale().published(1, 2, 3).kept(1, 2, 3)
    tale.add("members", ROOM, [["ann", "online"], ["bob", "online"]])
    tale.add("view", 1, ROOM, [["ann", "away"], ["bob", None]])
    assert tale.faults() == {}
    assert tale.verdict().figures["heard"] == 6


def test_a_stored_message_that_is_not_kept_is_lost() -> None:
    # Nobody heard it, so only its acknowledgement speaks for it.
    tale = Tale().published(1).said(2).kept(1)
    assert tale.faults() == {"lost": 1}


def test_a_message_that_was_heard_and_is_not_kept_is_lost_without_any_acknowledgement() -> None:
    tale = Tale().published(1).add("say", 1, ROOM, "m2", None).heard(2).heard(2, conn=1).kept(1, top=2)
    assert tale.faults() == {"history": 1, "lost": 1, "unanswered": 1}


def test_an_accepted_message_may_be_lost_and_the_epoch_it_was_in_as_well() -> None:
    tale = Tale().published(1).published(2, level="accepted", epoch="e")
    assert tale.kept(1, top=1).faults() == {"tail": 2}


def test_what_is_too_old_for_the_history_is_not_lost() -> None:
    assert Tale(keep=2).published(1, 2, 3).kept(2, 3).faults() == {}
    assert Tale(keep=3).published(1, 2, 3).kept(2, 3).faults() == {"lost": 1}


@pytest.mark.parametrize(("level", "faults"), [("stored", {}), ("synced", {"lost": 1})])
def test_a_loss_of_power_may_cost_what_was_stored_and_nothing_that_was_synced(
    level: str, faults: dict[str, int]
) -> None:
    tale = Tale().published(1).published(2, level=level).add("dark", True).add("cut")
    tale.add("close", 1, 1006).add("close", 2, 1006)
    tale.add("open", 3, "ann", 0).add("join", 3, ROOM, ["e", 2], "f", 1, False)
    tale.add("open", 4, "bob", 0).add("join", 4, ROOM, ["e", 2], "f", 1, False)
    assert tale.add("kept", ROOM, "f", 1, [["e", 1, "m1"]]).faults() == faults


def test_heard_before_a_loss_of_power_and_published_again_after_it_is_no_duplicate() -> None:
    tale = Tale().published(1).add("say", 1, ROOM, "m2", "synced").heard(2, conn=1).heard(2)
    tale.add("dark", True).add("close", 1, 1006).add("close", 2, 1006).add("cut")
    for conn, user in ((3, "ann"), (4, "bob")):
        tale.add("open", conn, user, 0).add("join", conn, ROOM, ["e", 2], "f", 1, False)
    tale.said(2, "synced", "f", conn=3).heard(2, conn=3, epoch="f").heard(2, conn=4, epoch="f")
    assert tale.add("kept", ROOM, "f", 2, [["e", 1, "m1"], ["f", 2, "m2"]]).faults() == {}


def lost_in_damage(*signs: tuple[str, ...]) -> Tale:
    """The second message was there before a file was damaged, and is not kept; the room has another epoch."""
    tale = Tale().published(1).published(2, level="synced").add("dark", False)
    for sign in signs:
        tale.add(*sign)
    tale.add("close", 1, 1006).add("close", 2, 1006)
    for conn, user in ((3, "ann"), (4, "bob")):
        tale.add("open", conn, user, 0).add("join", conn, ROOM, ["e", 2], "f", 2, False)
    return tale


def test_damage_that_is_told_may_cost_what_was_there_before_it() -> None:
    kept = "kept", ROOM, "f", 2, []
    signs = ("damage", "1.seg flip 7"), ("alarm",)
    assert lost_in_damage(*signs).add(*kept).faults() == {}
    assert lost_in_damage(signs[0]).add(*kept).faults() == {"lost": 2}
    tale = lost_in_damage(*signs).said(3, epoch="f", conn=3).heard(3, conn=3, epoch="f").heard(3, conn=4, epoch="f")
    assert tale.add("kept", ROOM, "f", 3, []).faults() == {"lost": 1}


def test_damage_excuses_nothing_in_a_room_that_keeps_its_epoch() -> None:
    tale = Tale().published(1, 2).add("damage", "1.seg flip 7").add("alarm")
    assert tale.add("kept", ROOM, "e", 2, [["e", 2, "m2"]]).faults() == {"lost": 1}


def test_a_ban_holds_over_everything_but_a_loss_of_power_at_once() -> None:
    assert Tale().add("ban", ROOM, "eve").add("door", ROOM, "eve", "forbidden").faults() == {}
    assert Tale().add("ban", ROOM, "eve").add("dark", False).add("door", ROOM, "eve", "").faults() == {"door": 1}
    assert Tale().add("ban", ROOM, "eve").add("cut").add("door", ROOM, "eve", "").faults() == {}
    tale = Tale().add("ban", ROOM, "eve")
    for _ in range(1000):
        tale.add("status", 1, "online")
    assert tale.add("cut").add("door", ROOM, "eve", "").faults() == {"door": 1}


def test_a_ban_that_nobody_tries_in_the_end() -> None:
    assert Tale().add("ban", ROOM, "eve").kept().faults() == {"odd": 1}


# -- private messages: ann writes to bob -----------------------------------------------------------------------------


class Letters(Tale):
    def wrote(self, *offsets: int, level: str = "stored", heard: bool = True) -> Letters:
        for offset in offsets:
            self.add("write", 1, "bob", f"m{offset}", None).add("posted", 1, "bob", f"m{offset}", offset, level)
            if heard:
                self.sent(offset)
        return self

    def sent(self, *offsets: int, conn: int = 2, epoch: str = "i", key: str = "") -> Letters:
        for offset in offsets:
            self.add("post", conn, epoch, offset, key or f"m{offset}")
        return self

    def waits(self, *offsets: int) -> Letters:
        self.add("inbox", "bob", [["i", offset, f"m{offset}"] for offset in offsets])
        return self


def test_letters_that_come_and_are_kept_until_they_are_confirmed() -> None:
    tale = Letters().wrote(1, 2, 3)
    tale.add("confirm", 2, "i", 2)
    assert tale.waits(3).faults() == {}
    assert tale.verdict().figures["private_said"] == 3


@pytest.mark.parametrize(
    ("tale", "faults"),
    [
        (Letters().wrote(1).wrote(2, heard=False).waits(1), {"lost": 1}),
        (Letters().wrote(1, 2).waits(2), {"lost": 1}),
        (Letters().wrote(1).wrote(2, heard=False).wrote(3).waits(1, 2, 3), {"silent gap": 1}),
        (Letters().wrote(1, 2).sent(1).waits(1, 2), {"order": 1}),
        (Letters().wrote(1).sent(2, key="m1").waits(1), {"duplicate": 1, "lost": 1}),
        (Letters().wrote(1).wrote(2, heard=False).sent(1, conn=1), {"odd": 1, "lost": 1}),
        (Letters().wrote(1, 2).sent(3, key="m2").waits(1, 2, 3), {"duplicate": 1, "odd": 1, "position": 1}),
        (Letters().add("write", 1, "bob", "m1", None), {"unanswered": 1}),
        (
            Letters().add("write", 1, "bob", "m1", None).add("returned", 1, "bob", "m1", "queue_full"),
            {"refused": 1, "unanswered": 1},
        ),
        (Letters().wrote(1, 2, 3).waits(1, 3), {"history": 1, "lost": 1}),
    ],
)
def test_letters_that_are_not_well(tale: Letters, faults: dict[str, int]) -> None:
    assert tale.faults() == faults


@pytest.mark.parametrize("confirmed", [0, 1])
def test_a_connection_that_begins_behind_what_was_confirmed(confirmed: int) -> None:
    tale = Letters().wrote(1, 2, 3)
    if confirmed:
        tale.add("confirm", 2, "i", confirmed)
    tale.add("close", 2, 1000).enter(3, "bob")
    assert tale.sent(3, conn=3).faults() == {"silent gap": 1}


def test_a_connection_that_is_not_sent_what_waits() -> None:
    assert Letters().wrote(1).wrote(2, heard=False).waits(1, 2).faults() == {"tail": 1}
    tale = Letters().wrote(1)
    tale.add("close", 2, 1000).enter(3, "bob")
    assert tale.waits(1).faults() == {"tail": 1}


def test_a_synced_letter_that_is_lost_with_its_epoch() -> None:
    tale = Letters().wrote(1, 2, level="synced")
    tale.add("cut").add("close", 2, 1006).enter(3, "bob")
    tale.sent(1, conn=3).wrote(3, heard=False).sent(3, conn=3, epoch="j")
    tale.add("inbox", "bob", [["i", 1, "m1"], ["j", 3, "m3"]])
    assert tale.faults() == {"lost": 1}
    # Who confirms what came later in the new epoch has the old one's, too.
    tale = Letters().wrote(1, 2, level="synced")
    tale.add("cut").add("close", 2, 1006).enter(3, "bob")
    tale.sent(1, 2, conn=3).wrote(3, heard=False).sent(3, conn=3, epoch="j")
    tale.add("confirm", 3, "j", 3)
    assert tale.waits().faults() == {}


def test_letters_may_be_sent_again_on_a_connection_that_outlived_a_broker() -> None:
    tale = Letters().wrote(1, 2)
    tale.add("fault", "kill", "broker 0")
    assert tale.sent(1, 2).wrote(3).waits(1, 2, 3).faults() == {}


def test_a_connection_that_outlived_a_broker_and_is_not_sent_what_others_were() -> None:
    tale = Letters().wrote(1).wrote(2, 3, heard=False).enter(3, "bob")
    assert isinstance(tale, Letters)
    tale.sent(1, 2, 3, conn=3).add("fault", "kill", "broker 0")
    assert tale.sent(3).faults() == {"silent gap": 1}


def test_a_letter_that_is_acknowledged_when_it_is_written_again_after_a_loss_of_power() -> None:
    tale = Letters().add("write", 1, "bob", "m1", "synced")
    tale.add("post", 2, "i", 1, "m1").add("cut").add("write", 1, "bob", "m1", "synced")
    tale.add("posted", 1, "bob", "m1", 1, "synced").add("close", 2, 1000).enter(3, "bob")
    assert tale.add("post", 3, "j", 1, "m1").add("inbox", "bob", [["j", 1, "m1"]]).faults() == {}


@pytest.mark.parametrize(("level", "faults"), [("stored", {}), ("synced", {"lost": 1})])
def test_a_loss_of_power_may_cost_letters_that_were_not_synced(level: str, faults: dict[str, int]) -> None:
    tale = Letters().wrote(1).wrote(2, level=level)
    tale.add("cut")
    assert tale.waits(1).faults() == faults


def test_death_of_all_processes_excuses_nothing() -> None:
    tale = Tale().published(1, 2).add("dark", False)
    assert tale.kept(1, top=2).faults() == {"history": 1, "lost": 1}


def test_one_message_at_two_positions_is_a_duplicate() -> None:
    tale = Tale().published(1).heard(2, conn=1, key="m1").heard(2, key="m1")
    tale.add("kept", ROOM, "e", 2, [["e", 1, "m1"], ["e", 2, "m1"]])
    assert tale.faults() == {"duplicate": 1}


def test_published_again_after_the_disk_refused_is_no_duplicate() -> None:
    tale = Tale().published(1).said(2, "accepted", "volatile")
    for conn in (1, 2):
        tale.add("gap", conn, ROOM, "volatile", 2, 1).heard(2, conn=conn, epoch="volatile")
        tale.add("gap", conn, ROOM, "f", 3, 2).add("hear", conn, ROOM, "f", 3, "m2")
    tale.add("kept", ROOM, "f", 3, [["e", 1, "m1"], ["volatile", 2, "m2"], ["f", 3, "m2"]])
    assert tale.faults() == {}


def test_two_messages_at_one_position() -> None:
    tale = Tale().published(1, 2).said(2, key="other").kept(1, 2)
    assert tale.faults()["position"] == 1


def test_a_hole_in_what_a_connection_hears_is_a_silent_gap() -> None:
    tale = Tale().published(1).said(2).heard(2, conn=1).published(3).kept(1, 2, 3)
    assert tale.faults() == {"silent gap": 1}


def test_a_gap_that_is_told_is_none() -> None:
    tale = Tale().published(1).said(2).heard(2, conn=1).add("gap", 2, ROOM, "e", 2, 2).published(3).kept(1, 2, 3)
    assert tale.faults() == {}
    assert tale.verdict().figures["gap_messages"] == 1


def test_a_gap_that_tells_half_of_it_is_a_silent_one() -> None:
    tale = Tale().published(1).said(2).said(3).heard(2, 3, conn=1).add("gap", 2, ROOM, "e", 3, 3)
    assert tale.published(4).kept(1, 2, 3, 4).faults() == {"silent gap": 1}


def test_a_new_epoch_without_a_word() -> None:
    tale = Tale().published(1).said(2, epoch="f").add("gap", 1, ROOM, "f", 2, 1).heard(2, conn=1, epoch="f")
    tale.heard(2, epoch="f").add("kept", ROOM, "f", 2, [["e", 1, "m1"], ["f", 2, "m2"]])
    assert tale.faults() == {"silent gap": 1}


def test_hearing_backwards_or_twice_is_out_of_order() -> None:
    tale = Tale().published(1).said(2).heard(2, 1, conn=1).heard(2, conn=2)
    assert tale.kept(1, 2).faults()["order"] == 1
    assert Tale().published(1).heard(1).kept(1).faults() == {"order": 1}


def test_two_messages_of_a_connection_that_changed_places() -> None:
    tale = Tale().add("say", 1, ROOM, "m2", None).add("say", 1, ROOM, "m1", None)
    tale.add("ack", 1, ROOM, "m1", "e", 1, "stored").add("ack", 1, ROOM, "m2", "e", 2, "stored")
    for conn in (1, 2):
        tale.heard(1, 2, conn=conn)
    assert tale.kept(1, 2).faults() == {"order": 1}


def test_a_replay_that_is_cut_short() -> None:
    tale = Tale().published(1).add("close", 2, 1006).said(2).said(3).heard(2, 3, conn=1)
    tale.enter(3, "bob", since=["e", 1], at=3).add("old", 3, ROOM, "e", 2, "m2")
    tale.said(4).heard(4, conn=1).heard(4, conn=3)
    assert tale.kept(1, 2, 3, 4).faults() == {"silent gap": 1}


def test_a_replay_that_is_whole() -> None:
    tale = Tale().published(1).add("close", 2, 1006).said(2).heard(2, conn=1)
    tale.enter(3, "bob", since=["e", 1], at=2).add("old", 3, ROOM, "e", 2, "m2").said(3)
    assert tale.heard(3, conn=1).heard(3, conn=3).kept(1, 2, 3).faults() == {}


def test_a_replay_with_a_hole() -> None:
    tale = Tale().published(1).add("close", 2, 1006).said(2).said(3).heard(2, 3, conn=1)
    tale.enter(3, "bob", since=["e", 1], at=3).add("old", 3, ROOM, "e", 3, "m3")
    assert tale.kept(1, 2, 3).faults() == {"stream": 1}


def test_a_replay_that_is_refused_though_the_epoch_lasts() -> None:
    tale = Tale().published(1).add("close", 2, 1006).add("open", 3, "bob", 0)
    assert tale.add("join", 3, ROOM, ["e", 1], "e", 1, False).kept(1).faults() == {"stream": 1}


def test_a_recovery_that_was_promised_for_another_epoch() -> None:
    tale = Tale().published(1).add("close", 2, 1006)
    tale.enter(3, "bob", since=["e", 1], at=1, epoch="f")
    assert tale.faults() == {"stream": 1}


def test_who_has_not_heard_the_last_message() -> None:
    assert Tale().published(1).said(2).heard(2, conn=1).kept(1, 2).faults() == {"tail": 1}


def test_who_never_came_back() -> None:
    tale = Tale().published(1).add("close", 2, 1006)
    assert tale.kept(1).faults() == {"tail": 1}
    assert Tale().published(1).add("close", 2, 1000).kept(1).faults() == {}


def test_an_answer_that_never_came() -> None:
    assert Tale().add("say", 1, ROOM, "m1", None).faults() == {"unanswered": 1}


def test_a_message_that_nobody_said() -> None:
    assert Tale().add("hear", 2, ROOM, "e", 1, "forged").heard(1, conn=1, key="forged").faults()["odd"] >= 1


def test_a_refusal_that_does_not_pass() -> None:
    tale = Tale().add("say", 1, ROOM, "m1", None).add("refuse", 1, ROOM, "m1", "not_in_room")
    assert tale.faults() == {"refused": 1, "unanswered": 1}


def test_a_history_with_a_hole() -> None:
    # Which of the two it is depends on whether anybody knows of the second message.
    assert Tale().published(1, 2, 3).kept(1, 3).faults() == {"history": 1, "lost": 1}


@pytest.mark.parametrize(
    "members",
    [
        [["ann", "online"]],
        [["ann", "online"], ["bob", "online"], ["carl", "online"]],
        [["ann", "online"], ["bob", "busy"]],
    ],
)
def test_presence_that_is_not_who_is_there(members: list[list[str]]) -> None:
    assert Tale().add("members", ROOM, members).faults() == {"presence": 1}


def test_presence_as_a_member_was_told_it() -> None:
    assert Tale().add("view", 2, ROOM, [["bob", "online"]]).faults() == {"presence": 1}
    assert Tale().add("view", 2, ROOM, [["ann", "busy"], ["bob", "online"]]).faults() == {"presence": 1}


def test_nobody_is_asked_while_somebody_comes_by() -> None:
    tale, members = Tale().add("pass", "carl", ROOM), [["ann", "online"], ["bob", "online"]]
    assert tale.add("members", ROOM, members).faults() == {"auditor": 1}
    tale = Tale().add("pass", "carl", ROOM).add("gone", "carl").add("members", ROOM, members)
    assert tale.faults() == {}
    assert tale.add("members", ROOM, [*members, ["carl", "online"]]).faults() == {"presence": 1}


def test_a_status_that_was_granted_is_shown() -> None:
    tale = Tale().add("status", 2, "busy").add("members", ROOM, [["ann", "online"], ["bob", "busy"]])
    assert tale.faults() == {}


def test_how_long_the_clients_of_a_killed_worker_were_away() -> None:
    tale = Tale().published(1).add("fault", "kill", "worker 0").add("close", 2, 1006)
    tale.enter(3, "bob", since=["e", 1], at=1)
    # Killed, lost, opened, joined: three lines of a millisecond.
    assert tale.kept(1).verdict().figures["return max s"] == pytest.approx(0.003)


def test_how_long_nothing_could_be_published() -> None:
    tale = Tale().published(1).add("fault", "kill", "broker 0").add("say", 1, ROOM, "m2", None)
    tale.add("refuse", 1, ROOM, "m2", "unavailable").said(2).heard(2, conn=1).heard(2)
    figures = tale.kept(1, 2).verdict().figures
    assert figures["outage of kill broker: max s"] == pytest.approx(0.004)
