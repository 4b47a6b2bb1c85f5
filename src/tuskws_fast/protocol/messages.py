"""Every command a client may send, once, as a table: its fields, their types, and when its success is told.

    COMMANDS["broadcast"] = room (a room name), message (any value but null), echo? ack? receipt?

`check(command)` is the only gate: what passes it has the documented shape at every depth, so nothing behind it tests
types again, and nothing a client writes raises there. It changes one thing: room names and user ids are replaced by
their normal form. Unknown extra fields stay, unread.

The answer to a fault: a field that is missing or of the wrong type (null too) is `bad_message`; a string in the place
of a room name or a status that is none is `bad_room_name`, `bad_status`. Texts name the field, never quote the value.

The table is compiled when the module is loaded: a field becomes one closure over its name and its text. A `broadcast`
costs about 0.8 us, a `ping` 0.2 us (2 vCPU x86-64, CPython 3.11).

Pure: knows neither connections nor limits that are configured (message size, rates); those are the session's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names

MAX_ID_CHARS = 64
MAX_BATCH = 100
MAX_USERS_ASKED = 1_000
MAX_EPOCH_CHARS = 64
MAX_PASSWORD_CHARS = 128
MAX_CLIENT_CHARS = 128
MAX_COUNT = 2**31 - 1
MAX_OFFSET = 2**53 - 1  # what JavaScript counts exactly
MAX_SECONDS = 10 * 365 * 86_400
# What JSON here can carry in both directions: signed or unsigned 64 bits.
MIN_INTEGER_ID, MAX_INTEGER_ID = -(2**63), 2**64 - 1

STATUSES = ("online", "away", "busy", "offline")
LEVELS = ("accepted", "stored", "synced")
PRESENCE_MODES = ("rooms", "all", "none")
SLOW_CONSUMER_POLICIES = ("disconnect", "drop", "conflate")

Object = dict[str, Any]
Check = Callable[[Object, str], None]


class MessageFault(Exception):
    """The command is refused. `code` and `text` make the `error` reply."""

    def __init__(self, code: ErrorCode, text: str | None = None) -> None:
        self.code = code
        self.text = text or code.text
        super().__init__(self.text)


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: its JSON Schema, and `build(label)`, which makes the check of a field called `label`."""

    schema: Mapping[str, Any]
    build: Callable[[str], Check]


class Field(NamedTuple):
    name: str
    kind: Kind
    required: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """`reply`: the type of the success reply, None where there is none; `always`: it is sent without an id too.

    `one_of`: names of fields of which exactly one must be there.
    """

    fields: tuple[Field, ...] = ()
    reply: str | None = "ack"
    always: bool = False
    one_of: tuple[str, ...] = ()


# -- kinds -----------------------------------------------------------------------------------------------------------


def _plain(wants: str, schema: Mapping[str, Any], accepts: Callable[[Any], bool]) -> Kind:
    def build(label: str) -> Check:
        text = f"`{label}` must be {wants}"

        def check(holder: Object, name: str) -> None:
            if not accepts(holder[name]):
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)

        return check

    return Kind(schema, build)


def _text(chars_max: int, chars_min: int = 0) -> Kind:
    return _plain(
        f"a string of {chars_min} to {chars_max} characters",
        {"type": "string", "minLength": chars_min, "maxLength": chars_max},
        lambda value: type(value) is str and chars_min <= len(value) <= chars_max,
    )


def _integer(low: int, high: int) -> Kind:
    # `type` and not `isinstance`: JSON's true is an int to Python.
    return _plain(
        f"an integer from {low} to {high}",
        {"type": "integer", "minimum": low, "maximum": high},
        lambda value: type(value) is int and low <= value <= high,
    )


def _seconds(schema: Mapping[str, Any], accepts: Callable[[float], bool]) -> Kind:
    """`accepts` bounds it on both sides, which also excludes NaN and infinity."""
    return _plain(
        "a number of seconds",
        {"type": "number", **schema},
        lambda value: type(value) in (int, float) and accepts(value),
    )


def _choice(options: Collection[str], other: ErrorCode = ErrorCode.BAD_MESSAGE) -> Kind:
    """One of `options`; another *string* is answered with the code `other`."""
    allowed = frozenset(options)

    def build(label: str) -> Check:
        text = f"`{label}` must be one of {', '.join(options)}"

        def check(holder: Object, name: str) -> None:
            value = holder[name]
            if type(value) is not str:
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)
            if value not in allowed:
                raise MessageFault(other, text)

        return check

    return Kind({"enum": list(options)}, build)


def _named(wants: str, schema: Mapping[str, Any], normal_form: Callable[[object], str], malformed: ErrorCode) -> Kind:
    """A string with a normal form, which replaces it."""

    def build(label: str) -> Check:
        text = f"`{label}` must be {wants}"

        def check(holder: Object, name: str) -> None:
            value = holder[name]
            if type(value) is not str:
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)
            try:
                holder[name] = normal_form(value)
            except ValueError:
                raise MessageFault(malformed, text) from None

        return check

    return Kind(schema, build)


def _nullable(kind: Kind) -> Kind:
    def build(label: str) -> Check:
        check_value = kind.build(label)

        def check(holder: Object, name: str) -> None:
            if holder[name] is not None:
                check_value(holder, name)

        return check

    return Kind({"anyOf": [kind.schema, {"type": "null"}]}, build)


def _object(*fields: Field) -> Kind:
    """An object with these fields (and any others, unread)."""

    def build(label: str) -> Check:
        text = f"`{label}` must be an object"
        check_fields = _compile_fields(fields, f"{label}.")

        def check(holder: Object, name: str) -> None:
            value = holder[name]
            if type(value) is not dict:
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)
            check_fields(value)

        return check

    return Kind(object_schema(fields), build)


def _list_of_users(entries_max: int) -> Kind:
    def build(label: str) -> Check:
        text = f"`{label}` must be a list of at most {entries_max} user ids"

        def check(holder: Object, name: str) -> None:
            value = holder[name]
            if type(value) is not list or len(value) > entries_max or not all(type(user) is str for user in value):
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)
            try:
                holder[name] = [names.user_id(user) for user in value]
            except ValueError:
                raise MessageFault(ErrorCode.BAD_MESSAGE, text) from None

        return check

    return Kind({"type": "array", "maxItems": entries_max, "items": USER.schema}, build)


def _by_room(entry: Kind) -> Kind:
    """An object whose keys are room names, in any spelling: two spellings of one room are refused."""

    def build(label: str) -> Check:
        text = f"`{label}` must be an object of room names"
        check_entry = entry.build(f"{label}.*")

        def check(holder: Object, name: str) -> None:
            value = holder[name]
            if type(value) is not dict:
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)
            normal: Object = {}
            for room in value:
                check_entry(value, room)
                try:
                    normal[names.room_name(room)] = value[room]
                except ValueError:
                    raise MessageFault(ErrorCode.BAD_ROOM_NAME, text) from None
            if len(normal) != len(value):
                raise MessageFault(ErrorCode.BAD_MESSAGE, f"`{label}` names a room twice")
            holder[name] = normal

        return check

    schema = {"type": "object", "propertyNames": ROOM.schema, "additionalProperties": entry.schema}
    return Kind(schema, build)


def _commands() -> Kind:
    """The commands of a `batch`: objects, each checked (and answered) by itself later, but none a batch."""

    def build(label: str) -> Check:
        text = f"`{label}` must be a list of at most {MAX_BATCH} commands, none of them a batch"

        def check(holder: Object, name: str) -> None:
            value = holder[name]
            if type(value) is not list or len(value) > MAX_BATCH:
                raise MessageFault(ErrorCode.BAD_MESSAGE, text)
            for entry in value:
                if type(entry) is not dict or entry.get("type") == "batch":
                    raise MessageFault(ErrorCode.BAD_MESSAGE, text)

        return check

    return Kind({"type": "array", "maxItems": MAX_BATCH, "items": {"$ref": "#/$defs/command_in_batch"}}, build)


def object_schema(fields: tuple[Field, ...]) -> dict[str, Any]:
    """The JSON Schema of an object with these fields."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: field.kind.schema for field in fields},
    }
    required = [field.name for field in fields if field.required]
    if required:
        schema["required"] = required
    return schema


# -- the table -------------------------------------------------------------------------------------------------------

BOOLEAN = _plain("true or false", {"type": "boolean"}, lambda value: type(value) is bool)
ANY_BUT_NULL = _plain("any value but null", {"not": {"type": "null"}}, lambda value: value is not None)
TRUE = _plain("true", {"const": True}, lambda value: value is True)
COUNT = _integer(0, MAX_COUNT)
OFFSET = _integer(0, MAX_OFFSET)
EPOCH = _text(MAX_EPOCH_CHARS)
POSITION = _object(Field("epoch", EPOCH), Field("offset", OFFSET))
# Names are compared in Unicode NFC, which a schema cannot say: the pattern is that of the normal form.
ROOM = _named(
    "a room name: 1 to 128 of A-Z a-z 0-9 _ . : @ / -",
    {"type": "string", "pattern": "^[A-Za-z0-9_.:@/-]{1,128}$"},
    names.room_name,
    ErrorCode.BAD_ROOM_NAME,
)
USER = _named(
    "a user id: 1 to 128 printable characters",
    {"type": "string", "minLength": 1, "maxLength": 128},
    names.user_id,
    ErrorCode.BAD_MESSAGE,
)
LEVEL = _choice(LEVELS)
STATUS = _choice(STATUSES, ErrorCode.BAD_STATUS)
TTL = _seconds({"minimum": 0, "maximum": MAX_SECONDS}, lambda value: 0 <= value <= MAX_SECONDS)
_SETTINGS = (
    Field("max_members", COUNT, False),
    Field("public", BOOLEAN, False),
    Field("moderated", BOOLEAN, False),
    Field("password", _nullable(_text(MAX_PASSWORD_CHARS, 1)), False),
    Field("history_size", COUNT, False),
    Field("history_ttl", TTL, False),
    Field("persistent", BOOLEAN, False),
    Field("slow_consumer", _choice(SLOW_CONSUMER_POLICIES), False),
)
SETTINGS = _object(*_SETTINGS)
SETTING_NAMES = tuple(field.name for field in _SETTINGS)

_ROOM = Field("room", ROOM)
_MODERATION = (_ROOM, Field("user", USER), Field("seconds", TTL, False))

COMMANDS: Mapping[str, Command] = {
    "hello": Command(
        (
            Field("batch", BOOLEAN, False),
            Field("presence", _choice(PRESENCE_MODES), False),
            Field("client", _text(MAX_CLIENT_CHARS), False),
        )
    ),
    # The token's own limits are auth/tokens.py's: its faults are `auth_failed`, and count.
    "auth": Command(
        (Field("token", _plain("a string", {"type": "string"}, lambda v: type(v) is str)),), "auth_success", always=True
    ),
    "resume": Command((Field("session", _text(1024, 1)), Field("rooms", _by_room(POSITION))), "resumed"),
    "join_room": Command(
        (
            _ROOM,
            Field("password", _text(MAX_PASSWORD_CHARS), False),
            Field("since", POSITION, False),
            Field("history", COUNT, False),
        ),
        "room_joined",
        always=True,
    ),
    "leave_room": Command((_ROOM,), "room_left", always=True),
    "broadcast": Command(
        (
            _ROOM,
            Field("message", ANY_BUT_NULL),
            Field("echo", BOOLEAN, False),
            Field("ack", LEVEL, False),
            Field("receipt", BOOLEAN, False),
        )
    ),
    "private_message": Command(
        (
            Field("to", USER),
            Field("message", ANY_BUT_NULL),
            Field("ack", LEVEL, False),
            Field("receipt", BOOLEAN, False),
        )
    ),
    "presence": Command((Field("status", STATUS),)),
    "get_presence": Command(
        (Field("users", _list_of_users(MAX_USERS_ASKED), False), Field("room", ROOM, False)),
        "presence_state",
        one_of=("users", "room"),
    ),
    "history": Command((_ROOM, Field("since", POSITION, False), Field("limit", COUNT, False)), "history"),
    "create_room": Command((_ROOM, Field("settings", SETTINGS, False)), "room_created"),
    "update_room": Command((_ROOM, Field("settings", SETTINGS)), "room_updated"),
    "delete_room": Command((_ROOM,), "room_deleted"),
    "room_info": Command((_ROOM,), "room_info"),
    "list_rooms": Command((), "rooms"),
    "kick": Command(_MODERATION),
    "ban": Command(_MODERATION),
    "mute": Command(_MODERATION),
    "ack": Command(
        (
            Field("room", ROOM, False),
            Field("inbox", TRUE, False),
            Field("epoch", EPOCH, False),
            Field("offset", OFFSET),
        ),
        None,
        one_of=("room", "inbox"),
    ),
    "ping": Command((), "pong", always=True),
    "batch": Command((Field("messages", _commands()),), None),
}

REPLIES_WITHOUT_ID = frozenset(name for name, command in COMMANDS.items() if command.always)
BEFORE_AUTHENTICATION = frozenset({"hello", "auth", "resume", "ping"})

_ID_TEXT = f"`id` must be a string of 1 to {MAX_ID_CHARS} characters or an integer of 64 bits"


# -- checking --------------------------------------------------------------------------------------------------------


def check(command: Object) -> None:
    """Raises `MessageFault` unless `command` is one of the table's. `command` is a decoded JSON object."""
    check_envelope(command)
    check_fields(command)


def check_fields(command: Object) -> None:
    """As `check`, for a command whose envelope has been checked."""
    checker = _CHECKERS.get(command["type"])
    if checker is None:
        raise MessageFault(ErrorCode.UNKNOWN_TYPE)
    checker(command)


def check_envelope(command: Object) -> None:
    """Only what every command has, an application's own too: `type` is a string, `id` (if any) is one."""
    if type(command.get("type")) is not str:
        raise MessageFault(ErrorCode.BAD_MESSAGE, "`type` must be a string")
    if "id" in command and not _is_id(command["id"]):
        raise MessageFault(ErrorCode.BAD_MESSAGE, _ID_TEXT)


def id_of(command: Object) -> str | int | None:
    """The id to answer with: None where there is none, or none that can be repeated."""
    value = command.get("id")
    return value if _is_id(value) else None


def _is_id(value: Any) -> bool:
    if type(value) is str:
        return 1 <= len(value) <= MAX_ID_CHARS
    return type(value) is int and MIN_INTEGER_ID <= value <= MAX_INTEGER_ID


def _compile_fields(fields: tuple[Field, ...], prefix: str = "") -> Callable[[Object], None]:
    required = tuple((field.name, field.kind.build(prefix + field.name)) for field in fields if field.required)
    optional = tuple((field.name, field.kind.build(prefix + field.name)) for field in fields if not field.required)

    def check_fields(holder: Object) -> None:
        for name, check_field in required:
            if name not in holder:
                raise MessageFault(ErrorCode.BAD_MESSAGE, f"`{prefix}{name}` is missing")
            check_field(holder, name)
        for name, check_field in optional:
            if name in holder:
                check_field(holder, name)

    return check_fields


def _compile(command: Command) -> Callable[[Object], None]:
    check_fields = _compile_fields(command.fields)
    if not command.one_of:
        return check_fields
    alternatives = command.one_of
    text = f"exactly one of {', '.join(f'`{name}`' for name in alternatives)} is needed"

    def check_alternatives(holder: Object) -> None:
        check_fields(holder)
        if sum(name in holder for name in alternatives) != 1:
            raise MessageFault(ErrorCode.BAD_MESSAGE, text)

    return check_alternatives


_CHECKERS: Mapping[str, Callable[[Object], None]] = {name: _compile(command) for name, command in COMMANDS.items()}
