"""Positions, outbox and backoff without a socket: what goes in, what comes out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tuskws_fast.client.state import HELD_MAX, Backoff, ClientState, Message, Step


def message(offset: int, *, epoch: str | None = None, room: str = "a") -> Message:
    push = {
        "type": "room_message",
        "room": room,
        "message": f"m{offset}",
        "from": "bob",
        "timestamp": 1,
        "offset": offset,
    }
    return push if epoch is None else {**push, "epoch": epoch}


def joined(command_id: int | str, offset: int, *, epoch: str = "e1", **more: Any) -> Message:
    fields = {"type": "room_joined", "id": command_id, "room": "a", "member_count": 1, "epoch": epoch, "offset": offset}
    return {**fields, "recovered": None, "messages": [], **more}


def history(command: Message, messages: list[Message], recovered: bool = True) -> Message:
    fields = {"type": "history", "id": command["id"], "room": "a", "epoch": "e1", "offset": 0}
    return {**fields, "messages": messages, "recovered": recovered}


def error(command: Message, code: str, **more: Any) -> Message:
    return {"type": "error", "id": command["id"], "code": code, "message": "no", **more}


def offsets(step: Step) -> list[Any]:
    """The offsets of room messages; other pushes as their type."""
    return [push["offset"] if push["type"] == "room_message" else push["type"] for push in step.pushes]


def member_at(offset: int) -> ClientState:
    state = ClientState("p")
    assert state.connection_ready() == []
    command_id, commands = state.join("a", None, None)
    assert commands == [{"type": "join_room", "id": command_id, "room": "a"}]
    assert state.receive(joined(command_id, offset)).answers[0][0] == command_id
    return state


def returning(state: ClientState) -> Message:
    """The join that a new connection begins with."""
    state.connection_lost()
    (command,) = state.connection_ready()
    return command


# -- backoff ---------------------------------------------------------------------------------------------------------


def test_backoff_bound_doubles_from_half_a_second_to_thirty() -> None:
    backoff = Backoff()
    bounds = []
    for _ in range(8):
        bounds.append(backoff.bound_s)
        backoff.next_delay_s()
    assert bounds == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_backoff_is_full_jitter_and_never_gives_up() -> None:
    backoff = Backoff(rng=random.Random(7))
    for _ in range(5_000):
        bound = backoff.bound_s
        assert 0.0 <= backoff.next_delay_s() <= bound <= 30.0
    delays = [backoff.next_delay_s() for _ in range(2_000)]
    assert min(delays) < 1.5
    assert max(delays) > 28.5
    assert 14.0 < sum(delays) / len(delays) < 16.0


def test_backoff_starts_over_after_a_success() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.next_delay_s()
    backoff.reset()
    assert backoff.bound_s == 0.5


# -- positions -------------------------------------------------------------------------------------------------------


def test_messages_in_order_are_pushed_once() -> None:
    state = member_at(4)
    assert offsets(state.receive(message(4))) == []
    assert offsets(state.receive(message(5))) == [5]
    assert offsets(state.receive(message(5))) == []
    assert offsets(state.receive(message(6, epoch="e1"))) == [6]


def test_missing_messages_are_fetched_and_come_before_the_newer_ones() -> None:
    state = member_at(4)
    step = state.receive(message(7))
    assert offsets(step) == []
    (fetch,) = step.commands
    assert fetch["type"] == "history"
    assert fetch["since"] == {"epoch": "e1", "offset": 4}
    assert offsets(state.receive(message(8))) == []
    assert offsets(state.receive(history(fetch, [message(n) for n in (5, 6, 7, 8)]))) == [5, 6, 7, 8]
    assert offsets(state.receive(message(9))) == [9]


def test_short_answer_to_a_fetch_asks_for_the_rest() -> None:
    state = member_at(4)
    (fetch,) = state.receive(message(9)).commands
    step = state.receive(history(fetch, [message(5), message(6)]))
    assert offsets(step) == [5, 6]
    (again,) = step.commands
    assert again["since"]["offset"] == 6
    assert offsets(state.receive(history(again, [message(7), message(8)]))) == [7, 8, 9]


@pytest.mark.parametrize("answer", ["not recovered", "error", "empty"])
def test_what_cannot_be_fetched_is_told_as_a_gap(answer: str) -> None:
    state = member_at(4)
    (fetch,) = state.receive(message(7)).commands
    state.receive(message(8))
    answers = {
        "not recovered": history(fetch, [], recovered=False),
        "error": error(fetch, "not_in_room"),
        "empty": history(fetch, []),
    }
    step = state.receive(answers[answer])
    assert offsets(step) == ["gap", 7, 8]
    assert step.pushes[0] == {"type": "gap", "room": "a", "epoch": "e1", "from": 5, "to": 6, "recovered": False}
    assert offsets(state.receive(message(9))) == [9]


def test_fetch_refused_for_now_is_tried_again() -> None:
    state = member_at(4)
    (fetch,) = state.receive(message(7)).commands
    step = state.receive(error(fetch, "rate_limited", retry_after=0.25))
    assert step.delayed == [(0.25, fetch)]
    assert offsets(state.receive(history(fetch, [message(n) for n in (5, 6)]))) == [5, 6, 7]


def test_too_many_held_messages_end_the_fetch_with_a_gap() -> None:
    state = member_at(0)
    state.receive(message(2))
    for n in range(3, HELD_MAX + 2):
        assert offsets(state.receive(message(n))) == []
    assert offsets(state.receive(message(HELD_MAX + 2)))[:2] == ["gap", 2]
    assert offsets(state.receive(message(HELD_MAX + 3))) == [HELD_MAX + 3]


def test_gap_of_the_server_is_fetched_from_where_we_stand() -> None:
    state = member_at(4)
    (fetch,) = state.receive({"type": "gap", "room": "a", "epoch": "e1", "from": 5, "to": 6}).commands
    assert fetch["since"]["offset"] == 4
    assert offsets(state.receive(history(fetch, [message(5), message(6)]))) == [5, 6]


def test_gap_of_the_server_that_cannot_be_fetched_moves_the_position() -> None:
    state = member_at(4)
    (fetch,) = state.receive({"type": "gap", "room": "a", "epoch": "e1", "from": 5, "to": 6}).commands
    step = state.receive(history(fetch, [], recovered=False))
    assert (step.pushes[0]["from"], step.pushes[0]["to"]) == (5, 6)
    assert offsets(state.receive(message(7))) == [7]


def test_gap_that_is_behind_us_changes_nothing() -> None:
    step = member_at(4).receive({"type": "gap", "room": "a", "epoch": "e1", "from": 3, "to": 4})
    assert (step.commands, step.pushes) == ([], [])


def test_new_epoch_is_told_and_followed() -> None:
    state = member_at(4)
    step = state.receive({"type": "gap", "room": "a", "epoch": "e2", "from": 1, "to": 0})
    assert step.pushes[0]["recovered"] is False
    assert offsets(state.receive(message(1, epoch="e2"))) == [1]


def test_message_of_a_new_epoch_is_preceded_by_a_gap() -> None:
    state = member_at(4)
    assert offsets(state.receive(message(3, epoch="e2"))) == ["gap", 3]
    assert offsets(state.receive(message(4))) == [4]


def test_messages_of_rooms_we_did_not_join_pass_as_they_are() -> None:
    assert offsets(member_at(0).receive(message(77, room="other"))) == [77]


def test_batch_is_taken_apart_in_order() -> None:
    state = member_at(0)
    assert offsets(state.receive({"type": "batch", "messages": [message(1), message(2)], "timestamp": 1})) == [1, 2]


# -- reconnection ----------------------------------------------------------------------------------------------------


def test_new_connection_joins_again_since_the_last_message() -> None:
    state = member_at(4)
    state.receive(message(5))
    command = returning(state)
    assert command["since"] == {"epoch": "e1", "offset": 5}
    assert offsets(state.receive(joined(command["id"], 7, recovered=True, messages=[message(6), message(7)]))) == [6, 7]
    assert offsets(state.receive(message(8))) == [8]


def test_replay_that_overlaps_what_was_seen_is_pushed_once() -> None:
    state = member_at(4)
    answer = joined(returning(state)["id"], 6, recovered=True, messages=[message(n) for n in (3, 4, 5, 6)])
    assert offsets(state.receive(answer)) == [5, 6]


def test_paged_replay_arrives_in_order_and_before_live_messages() -> None:
    state = member_at(4)
    command = returning(state)
    page = {"type": "history", "id": command["id"], "room": "a"}
    assert offsets(state.receive(joined(command["id"], 7, recovered=True, more=True, messages=[message(5)]))) == [5]
    assert not state.ready
    assert offsets(state.receive({**page, "messages": [message(6)], "more": True})) == [6]
    assert offsets(state.receive({**page, "messages": [message(7)], "more": False})) == [7]
    assert state.ready
    assert offsets(state.receive(message(8))) == [8]


def test_pages_of_a_first_join_are_one_answer() -> None:
    state = ClientState("p")
    state.connection_ready()
    command_id, _ = state.join("a", None, 3)
    assert state.receive(joined(command_id, 3, more=True, messages=[message(1)])).answers == []
    page = {"type": "history", "id": command_id, "room": "a", "messages": [message(2), message(3)], "more": False}
    ((_, answer),) = state.receive(page).answers
    assert [each["offset"] for each in answer["messages"]] == [1, 2, 3]
    assert offsets(state.receive(message(4))) == [4]


def test_unrecovered_join_is_told_as_a_gap() -> None:
    state = member_at(4)
    step = state.receive(joined(returning(state)["id"], 2, epoch="e2", recovered=False))
    assert step.pushes == [{"type": "gap", "room": "a", "epoch": "e2", "from": 5, "to": 2, "recovered": False}]
    assert offsets(state.receive(message(3, epoch="e2"))) == [3]


def test_join_that_is_refused_for_now_is_tried_again() -> None:
    state = member_at(4)
    command = returning(state)
    assert state.receive(error(command, "overloaded")).delayed == [(1.0, command)]
    assert not state.ready
    state.receive(joined(command["id"], 4, recovered=True))
    assert state.ready


def test_join_that_is_refused_for_good_is_told_and_not_tried_again() -> None:
    state = member_at(4)
    step = state.receive(error(returning(state), "forbidden"))
    assert (step.pushes[0]["type"], step.pushes[0]["room"], step.pushes[0]["code"]) == ("room_lost", "a", "forbidden")
    assert state.ready
    state.connection_lost()
    assert state.connection_ready() == []


def test_first_join_that_is_refused_answers_the_application_only() -> None:
    state = ClientState("p")
    state.connection_ready()
    command_id, (command,) = state.join("a", "wrong", None)
    step = state.receive(error(command, "bad_password"))
    assert step.answers[0][0] == command_id
    assert step.pushes == []
    assert state.rooms == {}


def test_join_asked_for_while_disconnected_goes_out_on_the_next_connection_under_its_id() -> None:
    state = ClientState("p")
    command_id, commands = state.join("a", "pw", 5)
    assert commands == []
    expected = {"type": "join_room", "id": command_id, "room": "a", "password": "pw", "history": 5}
    assert state.connection_ready() == [expected]
    state.connection_lost()
    assert state.surviving_ids() == {command_id}
    assert state.connection_ready() == [expected]


def test_left_room_is_not_joined_again_and_its_pending_join_is_answered() -> None:
    state = ClientState("p")
    command_id, _ = state.join("a", None, None)
    assert state.leave("a").answers[0][0] == command_id
    assert state.connection_ready() == []


@pytest.mark.parametrize("kind", ["kicked", "room_deleted"])
def test_room_we_were_put_out_of_is_not_joined_again(kind: str) -> None:
    state = member_at(4)
    assert offsets(state.receive({"type": kind, "room": "a"})) == [kind]
    state.connection_lost()
    assert state.connection_ready() == []


# -- outbox ----------------------------------------------------------------------------------------------------------


def test_publication_is_kept_until_answered_and_sent_again_under_the_same_id() -> None:
    state = member_at(0)
    command_id, (sent,) = state.publish({"type": "broadcast", "room": "a", "message": 1})
    state.connection_lost()
    (rejoin,) = state.connection_ready()
    step = state.receive(joined(rejoin["id"], 0, recovered=True))
    assert step.commands == [sent]
    assert sent["id"] == command_id
    state.receive({"type": "ack", "id": command_id, "offset": 1})
    state.connection_lost()
    (rejoin,) = state.connection_ready()
    assert state.receive(joined(rejoin["id"], 0, recovered=True)).commands == []


def test_publications_wait_for_the_joins_and_keep_their_order() -> None:
    state = member_at(0)
    ids = [state.publish({"type": "broadcast", "room": "a", "message": n})[0] for n in range(3)]
    command = returning(state)
    late, commands = state.publish({"type": "broadcast", "room": "a", "message": 3})
    assert commands == []
    step = state.receive(joined(command["id"], 0, recovered=True))
    assert [each["id"] for each in step.commands] == [*ids, late]


def test_error_ends_a_publication_as_an_ack_does() -> None:
    state = member_at(0)
    command_id, (command,) = state.publish({"type": "broadcast", "room": "a", "message": 1})
    step = state.receive(error(command, "moderated"))
    assert step.answers[0][0] == command_id
    assert state.surviving_ids() == set()


def test_ids_of_publications_are_the_clients_own() -> None:
    one, other = ClientState("p1"), ClientState("p2")
    ids = [state.publish({"type": "broadcast"})[0] for state in (one, one, other)]
    assert len(set(ids)) == 3
    assert all(isinstance(each, str) and 1 <= len(each) <= 64 for each in ids)


def test_outbox_is_bounded() -> None:
    state = ClientState("p", outbox_max=2)
    state.publish({"type": "broadcast"})
    state.publish({"type": "broadcast"})
    with pytest.raises(BufferError, match="2 publications"):
        state.publish({"type": "broadcast"})


def test_refusal_that_names_a_time_holds_publications_back_and_keeps_their_order() -> None:
    state = member_at(0)
    ids = [state.publish({"type": "broadcast", "room": "a", "message": n})[0] for n in range(3)]
    refusal = {"type": "error", "code": "rate_limited", "message": "slow down", "retry_after": 0.5}
    first = state.receive({**refusal, "id": ids[0]})
    assert (first.answers, first.resume_after_s) == ([], 0.5)
    second = state.receive({**refusal, "id": ids[1], "retry_after": 0.4})
    assert (second.answers, second.resume_after_s) == ([], None)
    assert state.receive({"type": "ack", "id": ids[2], "offset": 1}).answers[0][0] == ids[2]
    late, commands = state.publish({"type": "broadcast", "room": "a", "message": 3})
    assert commands == []
    assert [each["id"] for each in state.resume()] == [ids[0], ids[1], late]
    assert state.resume() == []


def test_refusal_without_a_time_is_an_answer() -> None:
    state = member_at(0)
    command_id, (command,) = state.publish({"type": "broadcast", "room": "a", "message": 1, "ack": "stored"})
    assert state.receive(error(command, "unavailable")).answers[0][0] == command_id


# -- resuming a session ----------------------------------------------------------------------------------------------


def resumed(command: Message, **rooms: Message) -> Message:
    user = {"id": "ann", "username": "Ann", "roles": []}
    return {"type": "resumed", "id": command["id"], "user": user, "session": "t", "rooms": rooms}


def body(offset: int, *messages: Message, **more: Any) -> Message:
    return joined(0, offset, messages=list(messages), recovered=True, **more)


def resuming(state: ClientState) -> Message:
    """The `resume` that a new connection begins with."""
    state.ticket = "t"
    state.connection_lost()
    command = state.resumption()
    assert command is not None
    return command


def test_without_a_ticket_nothing_is_resumed() -> None:
    assert member_at(3).resumption() is None


def test_resumption_names_every_room_and_where_one_was() -> None:
    command = resuming(member_at(3))
    rooms = {"a": {"epoch": "e1", "offset": 3}}
    assert command == {"type": "resume", "id": command["id"], "session": "t", "rooms": rooms}


def test_one_answer_gives_what_was_missed_and_opens_the_outbox() -> None:
    state = member_at(3)
    command = resuming(state)
    publish_id, _ = state.publish({"type": "broadcast", "room": "a", "message": 1})
    step = state.connection_resumed(resumed(command, a=body(5, message(4), message(5))))
    assert offsets(step) == [4, 5]
    assert [each["id"] for each in step.commands] == [publish_id]
    assert offsets(state.receive(message(6))) == [6]


def test_long_replay_comes_in_pages_under_the_id_of_the_resumption() -> None:
    state = member_at(3)
    command = resuming(state)
    step = state.connection_resumed(resumed(command, a=body(6, message(4), more=True)))
    assert offsets(step) == [4]
    assert not state.ready
    page = {"type": "history", "id": command["id"], "room": "a", "epoch": "e1", "offset": 6, "recovered": True}
    assert offsets(state.receive({**page, "messages": [message(5)], "more": True})) == [5]
    assert offsets(state.receive({**page, "messages": [message(6)], "more": False})) == [6]
    assert state.ready


def test_room_that_was_not_brought_back_is_joined() -> None:
    state = member_at(3)
    command = resuming(state)
    refusal = {"type": "error", "code": "bad_password", "message": "no"}
    step = state.connection_resumed(resumed(command, a=refusal))
    (join,) = step.commands
    assert (join["type"], join["since"]) == ("join_room", {"epoch": "e1", "offset": 3})
    assert offsets(state.receive({**body(4, message(4)), "id": join["id"]})) == [4]


def test_epoch_that_changed_meanwhile_is_told_as_a_gap() -> None:
    state = member_at(3)
    command = resuming(state)
    step = state.connection_resumed(resumed(command, a=joined(0, 2, epoch="e2", recovered=False)))
    assert offsets(step) == ["gap"]


def test_without_rooms_the_outbox_opens_at_once() -> None:
    state = ClientState("p")
    command = resuming(state)
    publish_id, _ = state.publish({"type": "private_message", "to": "bob", "message": 1})
    assert [each["id"] for each in state.connection_resumed(resumed(command)).commands] == [publish_id]
