"""Every error code, close code and refusal before the upgrade, once. Texts are for people; programs read the code."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from tuskws_fast.protocol import codec


class ErrorCode(StrEnum):
    """`code` of an `error` (or `auth_failed`) message. The member's `text` is the default `message`."""

    text: str

    def __new__(cls, code: str, text: str) -> ErrorCode:
        member = str.__new__(cls, code)
        member._value_ = code
        member.text = text
        return member

    BAD_JSON = "bad_json", "Not one JSON object in UTF-8"
    BAD_MESSAGE = "bad_message", "The command lacks a field or has a field of the wrong type"
    UNKNOWN_TYPE = "unknown_type", "Unknown command"
    NOT_AUTHENTICATED = "not_authenticated", "Authenticate first"
    FORBIDDEN = "forbidden", "Not permitted"
    NOT_IN_ROOM = "not_in_room", "Join the room first"
    ALREADY_IN_ROOM = "already_in_room", "This connection is in the room already"
    NO_SUCH_ROOM = "no_such_room", "No such room"
    ROOM_EXISTS = "room_exists", "The room exists already"
    ROOM_FULL = "room_full", "The room is full"
    BAD_PASSWORD = "bad_password", "Wrong room password"
    TOO_MANY_ROOMS = "too_many_rooms", "Too many rooms for this user"
    MESSAGE_TOO_LARGE = "message_too_large", "The message is too large"
    RATE_LIMITED = "rate_limited", "Rate limit exceeded"
    QUEUE_FULL = "queue_full", "Too many messages are waiting"
    MODERATED = "moderated", "Only moderators may speak here"
    BAD_TOKEN = "bad_token", "Invalid token"
    TOKEN_EXPIRED = "token_expired", "The token has expired"
    BAD_ROOM_NAME = "bad_room_name", "Not a room name"
    BAD_STATUS = "bad_status", "The status is online, away, busy or offline"
    OVERLOADED = "overloaded", "The server is overloaded"
    UNAVAILABLE = "unavailable", "Temporarily unavailable"
    INTERNAL = "internal", "Internal error"


class CloseCode(IntEnum):
    """4000-4499: the client may reconnect; 4500-4999: it must not by itself (protocol §5)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    BAD_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4001
    IDLE = 4002
    HEARTBEAT_MISSED = 4003
    TOO_SLOW = 4008
    RATE_ABUSE = 4009
    DRAINED = 4010
    AUTH_FAILED = 4500
    DISCONNECTED = 4503
    TOO_MANY_CONNECTIONS = 4509
    TOKEN_REVOKED = 4510
    RESUMED_ELSEWHERE = 4511


def may_reconnect(close_code: int) -> bool:
    return not 4500 <= close_code <= 4999


def error_body(code: ErrorCode, text: str | None = None, retry_after: float | None = None) -> bytes:
    """The encoded `error` message, without an id (`codec.with_id` adds one)."""
    fields: dict[str, object] = {"type": "error", "code": code.value, "message": text or code.text}
    if retry_after is not None:
        fields["retry_after"] = round(retry_after, 3)
    return codec.encode(fields)
