"""JSON, once: the only file of the project that imports a JSON library (orjson, strict UTF-8, no NaN, no surrogates).

Also the two splices that let a body be encoded a single time: the broker closes a publication's prefix with its
position (`close_body`), and a worker gives a reply its correlation id (`with_id`). Both work on bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import orjson

JSONDecodeError = orjson.JSONDecodeError
JSONEncodeError = orjson.JSONEncodeError

# orjson reads 1,024 levels of nesting and writes 254. A message is wrapped again on its way (push, batch, history,
# record), so it must leave room for that: what was accepted once can always be sent.
_NESTING_RESERVE = 16
# A value is put inside so many lists to see that it leaves the room: always the same ones, the innermost is filled.
_CELL: list[object] = [None]
_WRAPPED: list[object] = _CELL
for _ in range(_NESTING_RESERVE - 1):
    _WRAPPED = [_WRAPPED]


def encode(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    """Raises `TypeError` for what JSON cannot say (also lone surrogates and integers beyond 64 bits)."""
    return orjson.dumps(value, default)


def encode_nested(value: object) -> bytes:
    """As `encode`, for a value that will stand inside others. Raises `JSONEncodeError` for one nested too deeply."""
    if type(value) is str:
        # Plain text has no depth, and the lists around it cost three times what it does (0.3 us).
        return orjson.dumps(value)
    _CELL[0] = value
    return orjson.dumps(_WRAPPED)[_NESTING_RESERVE:-_NESTING_RESERVE]


def decode(data: bytes | bytearray | memoryview | str) -> Any:
    """Raises `JSONDecodeError` (a `ValueError`) for anything but one complete, strictly valid JSON text."""
    return orjson.loads(data)


def with_id(body: bytes, command_id: str | int) -> bytes:
    """The encoded object `body` with `"id"` appended: the reply to a command that had one. `body` is never `{}`."""
    return b'%b,"id":%b}' % (body[:-1], orjson.dumps(command_id))


@lru_cache(maxsize=1)
def _seconds(timestamp: float) -> bytes:
    """A time as messages carry it. Writing a float's decimals is a tenth of what a publication costs, and all that are
    ordered in one turn have the same."""
    return b"%.3f" % timestamp


def close_body(prefix: bytes, timestamp: float, epoch: str, offset: int) -> bytes:
    """A publication's push, complete: `prefix` lacks the closing brace, the position and the time of ordering."""
    return b'%b,"timestamp":%b,"epoch":"%b","offset":%d}' % (prefix, _seconds(timestamp), epoch.encode(), offset)


def with_messages(head: bytes, messages: Iterable[bytes]) -> bytes:
    """The encoded object `head` with `"messages": […]` appended; the entries are encoded pushes already."""
    return b'%b,"messages":[%b]}' % (head[:-1], b",".join(messages))
