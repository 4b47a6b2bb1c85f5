"""The JSON Schema (2020-12) of every message: commands from the table the server checks by, replies and pushes below.

    python -m tuskws_fast.protocol.schema docs/protocol.schema.json

writes the document; a test fails when the file in docs/ is not what this module makes. `$defs` holds one entry a
message, named `command.broadcast`, `reply.ack`, `push.room_message`; the document itself accepts any of them.

What a server sends may gain fields within version 1, so nothing here forbids fields it does not know.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.protocol.messages import (
    COMMANDS,
    LEVELS,
    MAX_ID_CHARS,
    MAX_INTEGER_ID,
    MIN_INTEGER_ID,
    STATUSES,
    object_schema,
)

Schema = dict[str, Any]

SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"

_STRING: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}
_OFFSET: Schema = {"type": "integer", "minimum": 0}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_TIME: Schema = {"type": "number", "description": "Unix time in seconds, with milliseconds"}
_ANY: Schema = {}
_STATUS: Schema = {"enum": list(STATUSES)}
_LEVEL: Schema = {"enum": list(LEVELS)}
_ERROR_CODE: Schema = {"enum": [code.value for code in ErrorCode]}
_ID: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
        {"type": "integer", "minimum": MIN_INTEGER_ID, "maximum": MAX_INTEGER_ID},
    ]
}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _shape(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


_USER = _shape({"id": _STRING, "username": _STRING})
_IDENTITY = _shape({"id": _STRING, "username": _STRING, "roles": _list(_STRING)})
_MEMBER = _shape({"userId": _STRING, "username": _STRING, "status": _STATUS})
_PRESENCE = _shape({"userId": _STRING, "status": _STATUS, "last_seen": _or_null(_TIME)})
_ROOM_SIZE = _shape({"room": _STRING, "member_count": _COUNT})

# Each: the fields it always has, and those it may have. `type` and `id` are added below.
_REPLIES: Mapping[str, tuple[dict[str, Schema], dict[str, Schema]]] = {
    "error": (
        {"code": _ERROR_CODE, "message": _STRING},
        {"retry_after": _SECONDS},
    ),
    "ack": (
        {},
        {
            "room": _STRING,
            "epoch": _STRING,
            "offset": _OFFSET,
            "duplicate": {"const": True},
            "level": _LEVEL,
            "delivered": _COUNT,
            "queued": _BOOLEAN,
        },
    ),
    "auth_success": ({"user": _IDENTITY, "expires_at": _or_null(_TIME), "session": _or_null(_STRING)}, {}),
    "auth_failed": ({"code": {"enum": ["bad_token", "token_expired", "forbidden"]}, "message": _STRING}, {}),
    "resumed": (
        {
            "user": _IDENTITY,
            "session": _STRING,
            "rooms": {
                "type": "object",
                "additionalProperties": {"anyOf": [_ref("reply.room_joined"), _ref("reply.error")]},
            },
        },
        {},
    ),
    "room_joined": (
        {
            "room": _STRING,
            "member_count": _COUNT,
            "epoch": _STRING,
            "offset": _OFFSET,
            "recovered": _or_null(_BOOLEAN),
            "messages": _list(_ref("push.room_message")),
        },
        {"members": _list(_MEMBER), "more": _BOOLEAN},
    ),
    "room_left": ({"room": _STRING}, {}),
    "presence_state": ({"users": _list(_PRESENCE)}, {}),
    "history": (
        {"room": _STRING, "epoch": _STRING, "offset": _OFFSET, "messages": _list(_ref("push.room_message"))},
        {"recovered": _or_null(_BOOLEAN), "more": _BOOLEAN},
    ),
    "room_created": ({"room": _STRING, "settings": {"type": "object"}}, {}),
    "room_updated": ({"room": _STRING, "settings": {"type": "object"}}, {}),
    "room_deleted": ({"room": _STRING}, {}),
    "room_info": ({"room": _STRING, "member_count": _COUNT}, {}),
    "rooms": ({"rooms": _list(_ROOM_SIZE)}, {}),
    "pong": ({"timestamp": _TIME}, {}),
}

_PUSHES: Mapping[str, tuple[dict[str, Schema], dict[str, Schema]]] = {
    "welcome": (
        {
            "connection_id": _STRING,
            "protocol": {"const": 1},
            "server": _STRING,
            "heartbeat_interval": _SECONDS,
            "max_message_size": _COUNT,
            "authenticated": _BOOLEAN,
            "session": _or_null(_STRING),
        },
        {},
    ),
    "room_message": (
        {"room": _STRING, "message": _ANY, "from": _STRING, "timestamp": _TIME, "offset": _OFFSET},
        {"epoch": _STRING, "ref": _STRING},
    ),
    "private_message": (
        {"from": _STRING, "message": _ANY, "timestamp": _TIME, "epoch": _STRING, "offset": _OFFSET},
        {"ref": _STRING},
    ),
    "presence_update": (
        {"userId": _STRING, "status": _STATUS, "last_seen": _or_null(_TIME), "timestamp": _TIME},
        {},
    ),
    "presence_reset": ({}, {}),
    "member_joined": ({"room": _STRING, "user": _USER, "member_count": _COUNT}, {}),
    "member_left": ({"room": _STRING, "user": _USER, "member_count": _COUNT}, {}),
    "room_members": ({"room": _STRING, "member_count": _COUNT, "members": _list(_MEMBER)}, {}),
    "room_stats": ({"room": _STRING, "member_count": _COUNT}, {}),
    "room_deleted": ({"room": _STRING}, {}),
    "kicked": ({"room": _STRING, "reason": _STRING}, {}),
    "receipt": (
        {
            "ref": _STRING,
            "offset": _OFFSET,
            "delivered": _COUNT,
            "acked": _COUNT,
            "final": _BOOLEAN,
        },
        {"room": _STRING},
    ),
    "gap": ({"room": _STRING, "epoch": _STRING, "from": _OFFSET, "to": _OFFSET}, {}),
    "reconnect": ({"after_ms": _COUNT, "reason": _STRING}, {}),
    "batch": ({"messages": _list(_ref("from_server")), "timestamp": _TIME}, {}),
}


def build_schema() -> Schema:
    """The whole document."""
    definitions: Schema = {f"command.{name}": _command(name) for name in COMMANDS}
    definitions |= {f"reply.{name}": _message(name, *fields, with_id=True) for name, fields in _REPLIES.items()}
    definitions |= {f"push.{name}": _message(name, *fields, with_id=False) for name, fields in _PUSHES.items()}
    definitions["command_in_batch"] = {"type": "object", "not": {"properties": {"type": {"const": "batch"}}}}
    definitions["from_client"] = _any_of(definitions, "command.")
    definitions["from_server"] = {"anyOf": [_any_of(definitions, "reply."), _any_of(definitions, "push.")]}
    return {
        "$schema": SCHEMA_URI,
        "title": "tusk.v1",
        "description": "Every message between a tuskws-fast server and its clients. Generated; do not edit.",
        "anyOf": [_ref("from_client"), _ref("from_server")],
        "$defs": definitions,
    }


def render_schema() -> str:
    """`build_schema` as the text of docs/protocol.schema.json: one definition a line, so that a diff can be read."""
    document = build_schema()
    lines = [f"{_json(name)}: {_json(schema)}" for name, schema in document.pop("$defs").items()]
    head = ",\n".join(f"  {_json(key)}: {_json(value)}" for key, value in document.items())
    body = ",\n".join(f"    {line}" for line in lines)
    return f'{{\n{head},\n  "$defs": {{\n{body}\n  }}\n}}\n'


def _json(value: object) -> str:
    return codec.encode(value).decode()


def _command(name: str) -> Schema:
    command = COMMANDS[name]
    schema = object_schema(command.fields)
    schema["properties"] = {"type": {"const": name}, "id": _ID, **schema["properties"]}
    schema["required"] = ["type", *schema.get("required", [])]
    if command.one_of:
        schema["oneOf"] = [{"required": [field]} for field in command.one_of]
    return schema


def _message(name: str, required: dict[str, Schema], optional: dict[str, Schema], *, with_id: bool) -> Schema:
    schema = _shape({"type": {"const": name}, **required}, {**({"id": _ID} if with_id else {}), **optional})
    if not with_id:
        # A push never carries an id: it is how a client tells it from a reply of the same type.
        schema["not"] = {"required": ["id"]}
    return schema


def _any_of(definitions: Schema, prefix: str) -> Schema:
    return {"anyOf": [_ref(name) for name in definitions if name.startswith(prefix)]}


def write_schema(path: Path) -> None:
    path.write_text(render_schema(), encoding="utf-8")


if __name__ == "__main__":
    write_schema(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/protocol.schema.json"))
