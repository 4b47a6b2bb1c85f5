"""The published schema is the table's: current, valid, and of one mind with `check` on every example and fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import EXAMPLES, faults
from jsonschema import Draft202012Validator

from tuskws_fast.protocol.codes import CloseCode, ErrorCode, error_body
from tuskws_fast.protocol.messages import COMMANDS, MessageFault, check
from tuskws_fast.protocol.schema import build_schema, render_schema, write_schema

PUBLISHED = Path(__file__).parents[3] / "docs" / "protocol.schema.json"
DOCUMENT = build_schema()


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": DOCUMENT["$defs"]})


def test_published_schema_is_current() -> None:
    assert PUBLISHED.read_text() == render_schema(), f"run: python -m tuskws_fast.protocol.schema {PUBLISHED}"


def test_schema_is_itself_valid_and_every_reference_leads_somewhere() -> None:
    Draft202012Validator.check_schema(DOCUMENT)
    text = render_schema()
    assert json.loads(text) == DOCUMENT
    for reference in {part.partition('"')[0] for part in text.split("#/$defs/")[1:]}:
        assert reference in DOCUMENT["$defs"]


def test_writing_it_makes_the_file(tmp_path: Path) -> None:
    write_schema(tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text()) == DOCUMENT


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_a_command_is_valid(name: str) -> None:
    validator(f"command.{name}").validate(EXAMPLES[name])
    validator("from_client").validate(EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_schema_and_check_agree_on_every_single_fault(name: str) -> None:
    judge = validator(f"command.{name}")
    for command_name, path, intruder, command in faults():
        if command_name == name and path:
            valid = judge.is_valid(command)  # before `check`, which normalises names
            assert passes(command) is valid, (path, intruder)


def passes(command: dict[str, Any]) -> bool:
    try:
        check(command)
    except MessageFault:
        return False
    return True


MEMBER = {"userId": "ann", "username": "Ann", "status": "online"}
ROOM_MESSAGE = {
    "type": "room_message",
    "room": "a",
    "message": 1,
    "from": "ann",
    "timestamp": 1.5,
    "offset": 1,
    "epoch": "e",
}
ROOM_JOINED = {
    "type": "room_joined",
    "room": "a",
    "member_count": 1,
    "members": [MEMBER],
    "epoch": "e",
    "offset": 1,
    "recovered": None,
    "messages": [ROOM_MESSAGE],
}

FROM_SERVER: list[dict[str, Any]] = [
    {
        "type": "welcome",
        "connection_id": "c-1",
        "protocol": 1,
        "server": "tuskws-fast/0.1.0",
        "heartbeat_interval": 30,
        "max_message_size": 16384,
        "authenticated": False,
        "session": None,
    },
    {"type": "ack", "id": 1},
    {"type": "ack", "id": "x", "room": "a", "epoch": "e", "offset": 1, "level": "accepted", "duplicate": True},
    {
        "type": "auth_success",
        "user": {"id": "ann", "username": "Ann", "roles": []},
        "expires_at": None,
        "session": None,
    },
    {"type": "auth_failed", "code": "bad_token", "message": "Invalid token"},
    ROOM_JOINED,
    {**ROOM_JOINED, "id": 4, "recovered": True, "more": True},
    {
        "type": "resumed",
        "id": 4,
        "user": {"id": "ann", "username": "Ann", "roles": []},
        "session": "t",
        "rooms": {"a": ROOM_JOINED},
    },
    {"type": "room_left", "room": "a"},
    {"type": "presence_state", "id": 1, "users": [{"userId": "ann", "status": "away", "last_seen": 1.5}]},
    {"type": "history", "id": 1, "room": "a", "epoch": "e", "offset": 1, "recovered": True, "messages": [ROOM_MESSAGE]},
    {"type": "room_created", "id": 1, "room": "a", "settings": {"public": True}},
    {"type": "room_updated", "id": 1, "room": "a", "settings": {}},
    {"type": "room_deleted", "id": 1, "room": "a"},
    {"type": "room_deleted", "room": "a"},
    {"type": "room_info", "id": 1, "room": "a", "member_count": 0},
    {"type": "rooms", "id": 1, "rooms": [{"room": "a", "member_count": 0}]},
    {"type": "pong", "timestamp": 1.5},
    ROOM_MESSAGE,
    {"type": "private_message", "from": "ann", "message": {}, "timestamp": 1.5, "epoch": "e", "offset": 1, "ref": "p1"},
    {"type": "presence_update", "userId": "ann", "status": "offline", "last_seen": 1.5, "timestamp": 1.5},
    {"type": "presence_reset"},
    {"type": "member_joined", "room": "a", "user": {"id": "ann", "username": "Ann"}, "member_count": 2},
    {"type": "member_left", "room": "a", "user": {"id": "ann", "username": "Ann"}, "member_count": 1},
    {
        "type": "room_members",
        "room": "a",
        "member_count": 1,
        "members": [{"userId": "ann", "username": "Ann", "status": "away"}],
    },
    {"type": "room_stats", "room": "a", "member_count": 900},
    {"type": "kicked", "room": "a", "reason": "kicked"},
    {"type": "receipt", "ref": "b1", "room": "a", "offset": 1, "delivered": 2, "acked": 1, "final": False},
    {"type": "gap", "room": "a", "epoch": "e", "from": 1, "to": 3},
    {"type": "reconnect", "after_ms": 1200, "reason": "drain"},
    {"type": "batch", "messages": [ROOM_MESSAGE, {"type": "ack", "id": 1}], "timestamp": 1.5},
]


@pytest.mark.parametrize("message", FROM_SERVER, ids=lambda message: str(message["type"]))
def test_example_from_the_server_is_valid(message: dict[str, Any]) -> None:
    validator("from_server").validate(message)
    Draft202012Validator(DOCUMENT).validate(message)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_is_valid(code: ErrorCode) -> None:
    validator("reply.error").validate(json.loads(error_body(code, retry_after=0.25)))


def test_every_message_of_the_server_has_an_example_or_is_an_error() -> None:
    shown = {message["type"] for message in FROM_SERVER} | {"error"}
    defined = {name.partition(".")[2] for name in DOCUMENT["$defs"] if name.startswith(("reply.", "push."))}
    assert shown == defined


def test_every_reply_that_a_command_names_is_defined() -> None:
    for command in COMMANDS.values():
        assert command.reply is None or f"reply.{command.reply}" in DOCUMENT["$defs"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "ack", "id": True},
        {"type": "nonsense"},
        {**ROOM_MESSAGE, "offset": -1},
        {key: value for key, value in ROOM_MESSAGE.items() if key != "from"},
        {**ROOM_MESSAGE, "id": "b1"},
        {"type": "error", "code": "made_up", "message": "x"},
        {**ROOM_JOINED, "messages": [{"type": "pong", "timestamp": 1}]},
        {"type": "batch", "messages": [{"type": "nonsense"}], "timestamp": 1.5},
    ],
)
def test_wrong_message_from_the_server_is_not_valid(message: dict[str, Any]) -> None:
    assert not validator("from_server").is_valid(message)


def test_close_codes_keep_to_their_ranges() -> None:
    assert all(1000 <= code <= 1015 or 4000 <= code <= 4999 for code in CloseCode)
