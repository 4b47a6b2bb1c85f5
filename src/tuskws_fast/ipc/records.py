"""What workers and the broker say to each other: one class a record type, the only vocabulary the two share.

    worker ──Up──▶ ring ──▶ broker        ATTACH JOIN PUBLISH CALL …      (what a session wants, or became)
    worker ◀─Down── ring ◀── broker       REPLY JOINED PUBLICATION …      (what was decided, and what to push)

A record is a tuple of plain values. On the ring it is a type number (in the ring's own header) and a payload: the
three records of the hot path, `Publish`, `Publication` and `Reply`, have a binary payload with the client's bytes at
the end, untouched (`ext/records`); all others are a JSON array, so that a segment can be read by eye
(`scripts/ringcat`).

Names used throughout
    conn    int, unique for the life of the node: worker slot << 52 | generation << 36 | running number. 0 = the server
    tag     int, chosen by the worker, comes back in the answer; 0 = no answer wanted unless it is an error
    rights  int, the actions that *claims* grant for this room (`rooms.permissions`); the broker adds the room's own
    body    bytes, one encoded JSON object. `Publish.body` and stored publications lack the closing brace: the broker
            appends `,"timestamp":…,"epoch":…,"offset":…}` to it, so no one decodes it again.

The generation in `conn` fences a worker's successor: it never speaks for connections of the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from tuskws_fast_ext.records import (
    pack_publication,
    pack_publish,
    pack_reply,
    unpack_publication,
    unpack_publish,
    unpack_reply,
)

from tuskws_fast.protocol import codec

WORKER_SHIFT = 52
GENERATION_SHIFT = 36
CONN_SERVER = 0


def first_conn(worker: int, generation: int) -> int:
    """The base of a worker's connection numbers; the n-th connection is this plus n (n from 1)."""
    return worker << WORKER_SHIFT | (generation & 0xFFFF) << GENERATION_SHIFT


def worker_of(conn: int) -> int:
    return conn >> WORKER_SHIFT


class UpType(IntEnum):
    ATTACH = 1
    DETACH = 2
    JOIN = 3
    LEAVE = 4
    PUBLISH = 5
    PRIVATE = 6
    CALL = 7
    ALL = 8
    RECOVER = 9
    RESTORE = 10
    KEPT = 11
    ANNOUNCED = 12
    CONFIRM = 13
    RESUME = 14
    SEEN = 15


class DownType(IntEnum):
    REPLY = 32
    JOINED = 33
    LEFT = 34
    PUBLICATION = 35
    PUSH = 36
    PRESENCE = 37
    DELIVER = 38
    EVICT = 39
    GONE = 40
    POSITION = 41
    RECOVERED = 42
    GAP = 43
    KEEP = 44
    ALL = 45
    RESUMED = 46
    SUPERSEDE = 47
    SLOW_CONSUMER = 48
    WATCH = 49
    TELL = 50
    UNWATCH = 51
    REVOKED = 52


class Level(IntEnum):
    """How safe a publication is when it is acknowledged (protocol §4). DEFAULT asks for the best the room has."""

    DEFAULT = 0
    ACCEPTED = 1
    STORED = 2
    SYNCED = 3


class PresenceMode(IntEnum):
    """Whose presence pushes a session wants (`hello`)."""

    NONE = 0
    ROOMS = 1
    ALL = 2


# What a token said: [until when (Unix time, or None), rights everywhere, [[room pattern, rights]…], `jti`, `iat`].
Claims = list[Any]

# -- up: worker → broker -----------------------------------------------------------------------------------------


class Attach(NamedTuple):
    """A session has an identity now (guest at open, user after auth), or changed `username`, `roles`, `mode`.

    Idempotent. `status` is this connection's presence; it is also how a worker re-announces its leases to a new broker:
    then `inbox` (of `inbox_epoch`) is the offset up to which the connection was sent its user's private messages.

    `claims`: None for a guest, else what a token said. `ticket`: the session, under the number of its first
    connection; 0 = it has had no other. `told_at`: when the client was told that it is this user, on the monotonic
    clock that all processes share: what is ordered for the user from then on is for this connection.
    """

    conn: int
    user: str
    username: str
    roles: list[str]
    mode: int
    status: str
    inbox: int = 0
    claims: Claims | None = None
    ticket: int = 0
    told_at: float = 0.0
    inbox_epoch: str = ""


class Detach(NamedTuple):
    """The connection is gone. `clean` (close 1000) ends lease and memberships now, else after the grace."""

    conn: int
    clean: bool


class Join(NamedTuple):
    """Answered by `Joined`, or by an error `Reply`. `since` is (epoch, offset) or None; `history` a count or None."""

    conn: int
    tag: int
    rights: int
    room: str
    password: str | None
    since: tuple[str, int] | None
    history: int | None


class Leave(NamedTuple):
    """Answered by `Left`, or by an error `Reply`."""

    conn: int
    tag: int
    room: str


class Publish(NamedTuple):
    """A `broadcast`. Answered by `Reply`.

    `key` is the client's string id (the idempotency key and `ref`), "" = none. `echo` false leaves `conn` out of the
    fan-out. `quiet`: no reply on success. `server`: published by the application, which needs no membership; `conn` is
    then only who is left out (0 = nobody), and the reply goes to the worker that sent this. `receipt`: see `Watch`.
    `body` is the push without its closing brace: `{"type":"room_message","room":…,"message":…,"from":…[,"ref":…]`.
    """

    conn: int
    tag: int
    rights: int
    level: int
    echo: bool
    quiet: bool
    room: str
    key: str
    body: bytes
    server: bool = False
    receipt: bool = False


class Private(NamedTuple):
    """A `private_message`. `body` as in `Publish`: `{"type":"private_message","from":…,"message":…[,"ref":…]`."""

    conn: int
    tag: int
    rights: int
    level: int
    quiet: bool
    to: str
    key: str
    body: bytes


class Call(NamedTuple):
    """Every other command: `op` is the command's name, `args` its checked fields. Answered by one `Reply`."""

    conn: int
    tag: int
    rights: int
    op: str
    args: dict[str, Any]


class All(NamedTuple):
    """Push `body` to every connection of the node (`broadcast_to_all`); the same record goes down to each worker."""

    exclude: int
    body: bytes


class Recover(NamedTuple):
    """The worker missed publications of `room` after `offset` (its ring overran). Answered by `Recovered`."""

    room: str
    epoch: str
    offset: int


class Restore(NamedTuple):
    """Re-announced to a new broker: this connection is in `room`, and had seen up to (epoch, offset). `told`: the last
    that this worker was given for the room."""

    conn: int
    room: str
    epoch: str
    offset: int
    told: int = 0


class Kept(NamedTuple):
    """A fact that the dead broker gave every worker to keep (see `Keep`), handed to its successor."""

    key: str
    version: int
    value: Any


class Confirm(NamedTuple):
    """The user of `conn` has everything in its inbox up to `offset` (of `epoch`, where it says so). No answer."""

    conn: int
    epoch: str
    offset: int


class Resume(NamedTuple):
    """The session `ticket` goes on as `conn`, a new number. Answered by `Resumed`, or by an error `Reply` for `via`:
    the number that the asking connection still has.

    `known`: None, or the identity this connection has shown a token for: [user, username, roles, claims], which then
    counts instead of the session's. `rooms`: name → [epoch, offset].
    """

    conn: int
    tag: int
    via: int
    ticket: int
    mode: int
    known: list[Any] | None
    rooms: dict[str, list[Any]]


class Seen(NamedTuple):
    """Of this worker's members `delivered` were handed the publication of a `Watch`, whose fields come first, and
    `acked` have confirmed it. Sent at once, then when it has changed, once a second at most, and when all have.
    """

    room: str
    epoch: str
    offset: int
    conn: int
    ref: str
    delivered: int
    acked: int


class Announced(NamedTuple):
    """The worker has told the new broker all it knows. `told`: of its last `Presence`."""

    worker: int
    told: int


# -- down: broker → worker ---------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """The answer to `tag` for `conn`. `ok` False: `body` is an `error` object, sent even where no id was given.

    `last` False: further pages of the same answer follow under the same tag (a long `history`).
    """

    conn: int
    tag: int
    ok: bool
    body: bytes
    last: bool = True


class Joined(NamedTuple):
    """`conn` is a member from here on: every later `Publication` of `room` on this ring is also for it.

    `slow` is the room's policy for slow readers. `body` is the first `room_joined`; `pages` are further `history`
    bodies (replay longer than a page), in order. `told`: see `Push`.
    """

    conn: int
    tag: int
    room: str
    epoch: str
    offset: int
    body: bytes
    pages: list[bytes]
    slow: str = "disconnect"
    told: int = 0


class Resumed(NamedTuple):
    """`conn` is a session from here on, and a member of `rooms`: [(name, epoch, offset, policy, `room_joined` body,
    `told`)…].

    `refused` has the `error` bodies of the other rooms. `last` False: `history` pages follow as `Reply` under the same
    tag.
    """

    conn: int
    tag: int
    via: int
    ticket: int
    user: str
    username: str
    roles: list[str]
    claims: Claims | None
    status: str
    rooms: list[tuple[str, str, int, str, bytes, int]]
    refused: dict[str, bytes]
    last: bool


class Supersede(NamedTuple):
    """The session of `conn` goes on elsewhere: let go of it now, answer with `Detach`, and close the connection."""

    conn: int


class Revoked(NamedTuple):
    """Of `what` (see `auth.revocation`) the one called `name` is not good any more: refuse it, and close what is
    connected by it. Also told a worker that comes up, as long as it holds."""

    what: str
    name: str
    before: float
    until: float | None


class SlowConsumer(NamedTuple):
    """The policy of `room` for slow readers is `slow` from here on: "disconnect", "drop" or "conflate"."""

    room: str
    slow: str


class Watch(NamedTuple):
    """Count who gets the publication that follows (`offset` of `epoch`), and who confirms it, and say so (`Seen`).

    `conn` published it and is not counted; `ref` is its name for it.
    """

    room: str
    epoch: str
    offset: int
    conn: int
    ref: str


class Unwatch(NamedTuple):
    """Nobody waits for this count any more."""

    room: str
    epoch: str
    offset: int


class Tell(NamedTuple):
    """`body` for exactly this connection."""

    conn: int
    body: bytes


class Left(NamedTuple):
    conn: int
    tag: int
    room: str
    body: bytes


class Publication(NamedTuple):
    """`body` (complete) has position `offset` in `room`; for every member here but `exclude` (0 = none)."""

    exclude: int
    offset: int
    room: str
    body: bytes


class Push(NamedTuple):
    """An unsequenced push to the members of `room` here but `exclude` (member_joined, member_left, room_stats …).

    `told`: what they have been told of who is there when they have this, as one number; 0 = that is not known. The
    worker keeps it for the next broker, which sees by it whether that is still true.
    """

    exclude: int
    room: str
    body: bytes
    told: int = 0


class Presence(NamedTuple):
    """A `presence_update` of `user`: once to each connection here that shares one of `rooms` with it and wants
    `rooms` presence, and to each that wants `all`; not to `user`'s own connections. `rooms`: name → `told`. `told`: the
    same of all users, for those who want `all`."""

    user: str
    rooms: dict[str, int]
    told: int
    body: bytes


class Deliver(NamedTuple):
    """`body` for exactly these connections: a private message, which has this offset in their user's inbox, whose epoch
    is `epoch` now."""

    conns: list[int]
    body: bytes
    offset: int
    epoch: str = ""


class Evict(NamedTuple):
    """These connections are no longer in `room` (kick, ban); each is pushed `body`."""

    room: str
    conns: list[int]
    body: bytes


class Gone(NamedTuple):
    """`room` was deleted: nobody here is in it any more; each former member is pushed `body`."""

    room: str
    body: bytes


class Position(NamedTuple):
    """`room` stands at (epoch, offset): a worker that is behind asks `Recover`. Sent after records were dropped."""

    room: str
    epoch: str
    offset: int


class Recovered(NamedTuple):
    """Answer to `Recover`: publications [(offset, body)…] after it. Too old for history: a `Gap` instead."""

    room: str
    epoch: str
    publications: list[tuple[int, bytes]]


class Gap(NamedTuple):
    """Members of `room` here missed the offsets `first`..`last` of `epoch`; the room stands at `last` now.

    After a broker's death the epoch is new and `first`, `last` are 1, 0 when nothing was published in it yet.
    """

    room: str
    epoch: str
    first: int
    last: int


class Keep(NamedTuple):
    """A fact for the worker to hold until the broker's next death (settings, bans, mutes). `value` None: forget it."""

    key: str
    version: int
    value: Any


class AllPush(NamedTuple):
    exclude: int
    body: bytes


UpRecord = (
    Attach
    | Detach
    | Join
    | Leave
    | Publish
    | Private
    | Call
    | All
    | Recover
    | Restore
    | Kept
    | Announced
    | Confirm
    | Resume
    | Seen
)
DownRecord = (
    Reply
    | Joined
    | Left
    | Publication
    | Push
    | Presence
    | Deliver
    | Evict
    | Gone
    | Position
    | Recovered
    | Gap
    | Keep
    | AllPush
    | Resumed
    | Supersede
    | Revoked
    | SlowConsumer
    | Watch
    | Unwatch
    | Tell
)

# Dropped first when a worker's down ring is full: the offset tells that they are missing, and history replays them.
# Everything else has reserved room in the ring and waits in the broker's overflow queue rather than being lost.
DROPPABLE = frozenset({DownType.PUBLICATION})

# -- the ring's payloads -----------------------------------------------------------------------------------------

# The class of each type, and which of its fields are bytes (JSON carries them as text: they are UTF-8 by construction).
_CLASSES: dict[int, tuple[type[Any], tuple[int, ...]]] = {
    UpType.ATTACH: (Attach, ()),
    UpType.DETACH: (Detach, ()),
    UpType.JOIN: (Join, ()),
    UpType.LEAVE: (Leave, ()),
    UpType.PUBLISH: (Publish, ()),
    UpType.PRIVATE: (Private, (7,)),
    UpType.CALL: (Call, ()),
    UpType.ALL: (All, (1,)),
    UpType.RECOVER: (Recover, ()),
    UpType.RESTORE: (Restore, ()),
    UpType.KEPT: (Kept, ()),
    UpType.ANNOUNCED: (Announced, ()),
    UpType.CONFIRM: (Confirm, ()),
    UpType.RESUME: (Resume, ()),
    UpType.SEEN: (Seen, ()),
    DownType.REPLY: (Reply, ()),
    DownType.JOINED: (Joined, (5,)),
    DownType.LEFT: (Left, (3,)),
    DownType.PUBLICATION: (Publication, ()),
    DownType.PUSH: (Push, (2,)),
    DownType.PRESENCE: (Presence, (3,)),
    DownType.DELIVER: (Deliver, (1,)),
    DownType.EVICT: (Evict, (2,)),
    DownType.GONE: (Gone, (1,)),
    DownType.POSITION: (Position, ()),
    DownType.RECOVERED: (Recovered, ()),
    DownType.GAP: (Gap, ()),
    DownType.KEEP: (Keep, ()),
    DownType.ALL: (AllPush, (1,)),
    DownType.RESUMED: (Resumed, ()),
    DownType.SUPERSEDE: (Supersede, ()),
    DownType.REVOKED: (Revoked, ()),
    DownType.SLOW_CONSUMER: (SlowConsumer, ()),
    DownType.WATCH: (Watch, ()),
    DownType.TELL: (Tell, (1,)),
    DownType.UNWATCH: (Unwatch, ()),
}
_UNPACKERS: dict[int, tuple[Callable[[bytes, type[Any]], Any], type[Any]]] = {
    int(UpType.PUBLISH): (unpack_publish, Publish),
    int(DownType.PUBLICATION): (unpack_publication, Publication),
    int(DownType.REPLY): (unpack_reply, Reply),
}


def _pack_readable(record: UpRecord | DownRecord) -> bytes:
    return codec.encode(tuple(record), default=_as_text)


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"a record cannot carry {type(value).__name__}")


class Packing(NamedTuple):
    """How the records of a class go onto a ring."""

    kind: int
    pack: Callable[[Any], bytes]
    droppable: bool


_PACKERS = {Publish: pack_publish, Publication: pack_publication, Reply: pack_reply}
# Everything that is to be known of a record, in one look-up.
PACKINGS: dict[type[Any], Packing] = {
    cls: Packing(int(kind), _PACKERS.get(cls, _pack_readable), kind in DROPPABLE) for kind, (cls, _) in _CLASSES.items()
}


def type_of(record: UpRecord | DownRecord) -> int:
    """The type number that goes into the ring's header."""
    return PACKINGS[type(record)].kind


def pack_record(record: UpRecord | DownRecord) -> bytes:
    """The payload of `record` on a ring; its type goes into the ring's own header (`type_of`)."""
    return PACKINGS[type(record)].pack(record)


def unpack_record(kind: int, payload: bytes) -> UpRecord | DownRecord:
    """The record of type `kind`. Raises `ValueError` (or a subclass) for anything `pack_record` does not make."""
    hot = _UNPACKERS.get(kind)
    if hot is not None:
        unpack, cls = hot
        record: UpRecord | DownRecord = unpack(payload, cls)
        return record
    try:
        return _unpack_readable(kind, payload)
    except (KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"record type {kind} is malformed: {error}") from error


def _unpack_readable(kind: int, payload: bytes) -> UpRecord | DownRecord:
    cls, byte_fields = _CLASSES[kind]
    fields = codec.decode(payload)
    if not isinstance(fields, list) or len(fields) != len(cls._fields):
        # The value itself is not shown: it may be nested deeper than `repr` can follow.
        raise ValueError(f"record type {kind} is not the list of its {len(cls._fields)} fields")
    for i in byte_fields:
        fields[i] = fields[i].encode()
    if kind == DownType.JOINED:
        fields[6] = [page.encode() for page in fields[6]]
    elif kind == DownType.RECOVERED:
        fields[2] = [(offset, body.encode()) for offset, body in fields[2]]
    elif kind == DownType.RESUMED:
        fields[9] = [(name, epoch, at, slow, body.encode(), told) for name, epoch, at, slow, body, told in fields[9]]
        fields[10] = {name: body.encode() for name, body in fields[10].items()}
    elif kind == UpType.JOIN and fields[5] is not None:
        fields[5] = tuple(fields[5])
    record: UpRecord | DownRecord = cls(*fields)
    return record
