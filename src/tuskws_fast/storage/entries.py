"""What the journal says, as values: an entry is one fact about one scope, and the order of entries is the history.

    scope      a room's name, or "\\n" and a user's id for that user's inbox (as in `rooms.dedupe`)
    entry      Opened → Published …            a sequence begins or takes a new epoch, and goes on from `base`
               Confirmed                       the inbox's owner has what came up to here
               Snapshot, Published …, Remembered …, SnapshotEnd
                                               the scope as it stands: all that was said of it before is replaced
               Ended                           the scope is gone
               Closed                          the node ended in order and everything before this is on the disk

`Published` is written for every message, so it has a layout of its own with the body at its end, untouched; all others
are a JSON array. `conn` and `tag` say which command of which connection it was: a worker that has had no answer from a
dead broker asks its successor again, and is told this position instead of being published twice.

Pure: bytes and values, no files (see `segments`).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

from tuskws_fast.protocol import codec


class Kind(IntEnum):
    PUBLISHED = 1
    OPENED = 2
    ENDED = 3
    CONFIRMED = 4
    SNAPSHOT = 5
    REMEMBERED = 6
    SNAPSHOT_END = 7
    CLOSED = 8


class Published(NamedTuple):
    """`prefix` bytes of `body` are what the client's command said: a retry is told from another message by them.

    `wall` is Unix time. `delivered` is what the sender of a private message was told, -1 for nothing.
    """

    scope: str
    epoch: str
    offset: int
    wall: float
    conn: int
    tag: int
    user: str
    key: str
    prefix: int
    delivered: int
    body: bytes


class Opened(NamedTuple):
    """The next publication has offset `base` + 1, in this epoch."""

    scope: str
    epoch: str
    base: int


class Ended(NamedTuple):
    scope: str


class Confirmed(NamedTuple):
    scope: str
    offset: int


class Snapshot(NamedTuple):
    """`kept` publications and `ids` follow; the first publication has offset `first`. `base` as in `Opened`."""

    scope: str
    epoch: str
    base: int
    first: int
    confirmed: int
    kept: int
    ids: int


class Remembered(NamedTuple):
    """An idempotency key whose message is no longer kept, and the epoch and offset that the message got."""

    scope: str
    user: str
    key: str
    digest: int
    epoch: str
    offset: int
    wall: float
    delivered: int


class SnapshotEnd(NamedTuple):
    scope: str


class Closed(NamedTuple):
    wall: float


Entry = Published | Opened | Ended | Confirmed | Snapshot | Remembered | SnapshotEnd | Closed

_CLASSES: dict[int, type[Any]] = {
    Kind.OPENED: Opened,
    Kind.ENDED: Ended,
    Kind.CONFIRMED: Confirmed,
    Kind.SNAPSHOT: Snapshot,
    Kind.REMEMBERED: Remembered,
    Kind.SNAPSHOT_END: SnapshotEnd,
    Kind.CLOSED: Closed,
}
_KINDS = {cls: int(kind) for kind, cls in _CLASSES.items()}
_TYPES: dict[type[Any], tuple[type[Any], ...]] = {
    Opened: (str, str, int),
    Ended: (str,),
    Confirmed: (str, int),
    Snapshot: (str, str, int, int, int, int, int),
    Remembered: (str, str, str, int, str, int, float, int),
    SnapshotEnd: (str,),
    Closed: (float,),
}

# length of all after it, number, kind; then for `Published` offset, wall, conn, tag, prefix, delivered and the lengths
# of scope, user, key and epoch, whose bytes follow, and the body.
HEAD = struct.Struct("<IQB3x")
_PUBLISHED = struct.Struct("<IQB3xQdQIIiHHHB")
_PUBLISHED_TAIL = struct.Struct("<QdQIIiHHHB")
_FIXED = _PUBLISHED.size - HEAD.size


def pack_entry(entry: Entry, number: int) -> bytes:
    """The entry with its number, as `unpack_entry` takes it: `HEAD` and what it measures."""
    if type(entry) is Published:
        scope, epoch, offset, wall, conn, tag, user, key, prefix, delivered, body = entry
        s, e, u, k = scope.encode(), epoch.encode(), user.encode(), key.encode()
        ns, ne, nu, nk = len(s), len(e), len(u), len(k)
        length = _FIXED + ns + ne + nu + nk + len(body)
        head = _PUBLISHED.pack(
            length, number, 1, offset, wall, conn, tag, prefix, delivered, ns, nu, nk, ne
        )  # 1: Kind.PUBLISHED, spelled out because an enum's attribute costs more than the rest of this line
        return b"".join((head, s, e, u, k, body))
    payload = codec.encode(tuple(entry))
    return HEAD.pack(len(payload), number, _KINDS[type(entry)]) + payload


def unpack_entry(kind: int, payload: bytes) -> Entry:
    """The entry of this kind. Raises `ValueError` for anything `pack_entry` does not make."""
    try:
        if kind == Kind.PUBLISHED:
            return _unpack_published(payload)
        cls = _CLASSES[kind]
        fields = codec.decode(payload)
        types = _TYPES[cls]
        if not isinstance(fields, list) or [type(field) for field in fields] != list(types):
            raise ValueError("other fields")
        entry: Entry = cls(*fields)
        return entry
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"entry kind {kind} is malformed: {error}") from error


def _unpack_published(payload: bytes) -> Published:
    offset, wall, conn, tag, prefix, delivered, ns, nu, nk, ne = _PUBLISHED_TAIL.unpack_from(payload)
    epoch_at = _FIXED + ns
    user_at = epoch_at + ne
    key_at = user_at + nu
    body_at = key_at + nk
    if body_at + prefix > len(payload):
        raise ValueError("a publication is cut short")
    return Published(
        payload[_FIXED:epoch_at].decode(),
        payload[epoch_at:user_at].decode(),
        offset,
        wall,
        conn,
        tag,
        payload[user_at:key_at].decode(),
        payload[key_at:body_at].decode(),
        prefix,
        delivered,
        payload[body_at:],
    )
