"""The table of commands: each example passes, each single fault has its documented answer, nothing ever raises else."""

from __future__ import annotations

import copy
import json
import timeit
from typing import Any

import pytest
from helpers.commands import EXAMPLES, Path, faults
from helpers.waiting import PATIENCE

from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.protocol.messages import (
    COMMANDS,
    MAX_BATCH,
    MAX_USERS_ASKED,
    REPLIES_WITHOUT_ID,
    MessageFault,
    check,
    check_envelope,
    id_of,
)


def fault_of(command: dict[str, Any]) -> ErrorCode | None:
    try:
        check(command)
    except MessageFault as fault:
        return fault.code
    return None


def test_there_is_an_example_of_every_command_with_every_field() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        shown = EXAMPLES[name].keys()
        assert all(field.name in shown or field.name in command.one_of for field in command.fields), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_passes(name: str) -> None:
    assert fault_of(copy.deepcopy(EXAMPLES[name])) is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_only_the_required_fields_are_needed(name: str) -> None:
    command, example = COMMANDS[name], EXAMPLES[name]
    required = {field.name for field in command.fields if field.required} | set(command.one_of) | {"type"}
    assert fault_of({key: copy.deepcopy(value) for key, value in example.items() if key in required}) is None
    for field in command.fields:
        if field.required:
            rest = {key: copy.deepcopy(value) for key, value in example.items() if key != field.name}
            assert fault_of(rest) is ErrorCode.BAD_MESSAGE, field.name


def test_unknown_extra_fields_are_ignored() -> None:
    for example in EXAMPLES.values():
        assert fault_of({**copy.deepcopy(example), "from": "admin", "timestamp": None, "__proto__": []}) is None


# (command, position, intruder as JSON): every intruder that is no fault there, and every code but bad_message.
HARMLESS = {
    # A string is a fine client name, token, session, epoch, password, user, id, message, room.
    *{(name, ("id",), '"x"') for name in EXAMPLES if "id" in EXAMPLES[name]},
    *{(name, ("id",), "0") for name in EXAMPLES if "id" in EXAMPLES[name]},
    *{(name, ("room",), '"x"') for name in EXAMPLES if "room" in EXAMPLES[name]},
    *{(name, ("user",), '"x"') for name in ("kick", "ban", "mute")},
    *{(name, ("seconds",), "0") for name in ("kick", "ban", "mute")},  # lifts it
    *{(name, ("since", "epoch"), '"x"') for name in ("join_room", "history")},
    *{(name, ("since", "offset"), "0") for name in ("join_room", "history")},
    ("hello", ("client",), '"x"'),
    ("auth", ("token",), '"x"'),
    ("resume", ("session",), '"x"'),
    ("resume", ("rooms", "general", "epoch"), '"x"'),
    ("resume", ("rooms", "general", "offset"), "0"),
    ("join_room", ("password",), '"x"'),
    ("join_room", ("history",), "0"),
    ("history", ("limit",), "0"),
    ("private_message", ("to",), '"x"'),
    ("get_presence", ("users",), "[]"),
    ("get_presence", ("users", 0), '"x"'),
    ("get_presence", ("users", 1), '"x"'),
    ("create_room", ("settings", "max_members"), "0"),
    ("create_room", ("settings", "history_size"), "0"),
    ("create_room", ("settings", "history_ttl"), "0"),
    ("create_room", ("settings", "password"), "null"),
    ("create_room", ("settings", "password"), '"x"'),
    ("update_room", ("settings", "max_members"), "0"),
    ("ack", ("offset",), "0"),
    ("ack", ("epoch",), '"x"'),
    # A message is any value but null; so is what stands in it.
    *{
        (name, ("message",), value)
        for name in ("broadcast", "private_message")
        for value in ("[]", "[null]", "0", '"x"')
    },
    *{("broadcast", ("message", "text"), value) for value in ("null", "[]", "[null]", "0", '"x"')},
    # The commands inside a batch are checked when their turn comes.
    ("batch", ("messages",), "[]"),
    *{
        ("batch", ("messages", i, key), v)
        for i, key in ((0, "type"), (0, "id"), (1, "type"), (1, "status"))
        for v in ("null", "[]", "[null]", "0", '"x"')
    },
}
OTHER_CODES = {
    **{(name, ("type",), '"x"'): ErrorCode.UNKNOWN_TYPE for name in EXAMPLES},
    ("presence", ("status",), '"x"'): ErrorCode.BAD_STATUS,
}


def expected(name: str, path: Path, intruder: Any) -> ErrorCode | None:
    key = (name, path, json.dumps(intruder))
    return None if key in HARMLESS else OTHER_CODES.get(key, ErrorCode.BAD_MESSAGE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_null_list_list_of_null_zero_and_x_at_every_position(name: str) -> None:
    tried = 0
    for command_name, path, intruder, command in faults():
        if command_name == name and path:  # the command itself is the codec's and the session's to judge
            assert fault_of(command) is expected(name, path, intruder), (path, intruder)
            tried += 1
    assert tried >= 5


@pytest.mark.parametrize("command_id", ["", "x" * 65, True, False, None, 1.0, [], {}, 2**64, -(2**63) - 1])
def test_id_that_is_none_is_refused(command_id: object) -> None:
    assert fault_of({"type": "ping", "id": command_id}) is ErrorCode.BAD_MESSAGE
    assert id_of({"type": "ping", "id": command_id}) is None


@pytest.mark.parametrize("command_id", ["x", "x" * 64, "é" * 64, 0, -1, 2**64 - 1, -(2**63)])
def test_id_is_a_short_string_or_a_64_bit_integer(command_id: str | int) -> None:
    assert fault_of({"type": "ping", "id": command_id}) is None
    assert id_of({"type": "ping", "id": command_id}) == command_id


def test_envelope_of_an_unknown_command_is_checked_alone() -> None:
    check_envelope({"type": "custom_action", "id": 1})
    with pytest.raises(MessageFault):
        check_envelope({"type": "custom_action", "id": None})
    with pytest.raises(MessageFault):
        check_envelope({"id": 1})
    assert fault_of({"type": "custom_action"}) is ErrorCode.UNKNOWN_TYPE


@pytest.mark.parametrize(
    "room",
    ["", " ", "a b", "a\n", "a\0", "ü", "a" * 129, "*", "{a}", "a>b", "\u202ea", "\ud800", "а"],  # noqa: RUF001
)
def test_malformed_room_name(room: str) -> None:
    for name in ("join_room", "leave_room", "broadcast", "history", "create_room", "kick", "ack"):
        assert fault_of({**copy.deepcopy(EXAMPLES[name]), "room": room}) is ErrorCode.BAD_ROOM_NAME
    assert fault_of({"type": "get_presence", "room": room}) is ErrorCode.BAD_ROOM_NAME
    command = {"type": "resume", "session": "s", "rooms": {room: {"epoch": "e", "offset": 1}}}
    assert fault_of(command) is ErrorCode.BAD_ROOM_NAME


def test_room_names_are_replaced_by_their_normal_form() -> None:
    command = {"type": "join_room", "room": "lobby-\u212a"}  # the Kelvin sign, whose normal form is K
    check(command)
    assert command["room"] == "lobby-K"
    resume: dict[str, Any] = {"type": "resume", "session": "s", "rooms": {"\u212a": {"epoch": "e", "offset": 1}}}
    check(resume)
    assert list(resume["rooms"]) == ["K"]
    resume["rooms"] = {"\u212a": {"epoch": "e", "offset": 1}, "K": {"epoch": "e", "offset": 2}}
    assert fault_of(resume) is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("status", ["", "Online", "invisible", "online "])
def test_status_that_is_none(status: str) -> None:
    assert fault_of({"type": "presence", "status": status}) is ErrorCode.BAD_STATUS


@pytest.mark.parametrize(
    "command",
    [
        {"type": "get_presence"},
        {"type": "get_presence", "users": ["ann"], "room": "general"},
        {"type": "get_presence", "users": ["a"] * (MAX_USERS_ASKED + 1)},
        {"type": "get_presence", "users": ["ann", ""]},
        {"type": "ack", "offset": 1},
        {"type": "ack", "room": "a", "inbox": True, "offset": 1},
        {"type": "ack", "inbox": False, "offset": 1},
        {"type": "ack", "room": "a", "offset": -1},
        {"type": "ack", "room": "a", "offset": 2**53},
        {"type": "ack", "room": "a", "offset": 1.0},
        {"type": "join_room", "room": "a", "history": -1},
        {"type": "join_room", "room": "a", "history": True},
        {"type": "join_room", "room": "a", "since": {}},
        {"type": "join_room", "room": "a", "since": {"epoch": "e"}},
        {"type": "join_room", "room": "a", "since": {"epoch": "e" * 65, "offset": 1}},
        {"type": "ban", "room": "a", "user": "b", "seconds": -1},
        {"type": "ban", "room": "a", "user": "b", "seconds": float("inf")},
        {"type": "ban", "room": "a", "user": "b", "seconds": float("nan")},
        {"type": "ban", "room": "a", "user": "b", "seconds": True},
        {"type": "ban", "room": "a", "user": "b", "seconds": 10**400},
        {"type": "private_message", "to": "", "message": "hi"},
        {"type": "private_message", "to": "a\nb", "message": "hi"},
        {"type": "create_room", "room": "a", "settings": {"public": 1}},
        {"type": "create_room", "room": "a", "settings": {"slow_consumer": "explode"}},
        {"type": "batch", "messages": [{"type": "ping"}] * (MAX_BATCH + 1)},
        {"type": "batch", "messages": [{"type": "ping"}, {"type": "batch", "messages": []}]},
        {"type": "batch", "messages": [None]},
    ],
)
def test_value_outside_the_documented_range(command: dict[str, Any]) -> None:
    assert fault_of(command) is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("key", ["inbox", "room"])
def test_ack_is_for_a_room_or_for_the_inbox(key: str) -> None:
    assert fault_of({"type": "ack", key: True if key == "inbox" else "general", "offset": 1}) is None


def test_full_batch_passes() -> None:
    assert fault_of({"type": "batch", "messages": [{"type": "ping"}] * MAX_BATCH}) is None


def test_which_successes_are_told_without_an_id() -> None:
    assert {"auth", "join_room", "leave_room", "ping"} == REPLIES_WITHOUT_ID


def test_text_of_a_fault_names_the_field_and_never_quotes_the_value() -> None:
    with pytest.raises(MessageFault, match=r"`since\.offset` must be") as fault:
        check({"type": "join_room", "room": "a", "since": {"epoch": "canary", "offset": "canary"}})
    assert "canary" not in fault.value.text


def test_hot_commands_are_cheap() -> None:
    """The aim is under 1 us; the bound leaves room for a busy machine and still catches a change of kind."""
    broadcast = {"type": "broadcast", "room": "general", "message": "x" * 128, "id": "abc"}
    ping = {"type": "ping"}
    for command in (broadcast, ping):
        best = min(timeit.repeat(lambda command=command: check(command), number=2_000, repeat=10)) / 2_000
        assert best < 4e-6 * PATIENCE
