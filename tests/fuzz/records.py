"""Fuzz target `records`: what a broken worker may put on its ring, unpacked and given to the broker's engine.

    byte 0     odd: the rest is a type and the payload of one record, as bytes; even: a program of records, whose fields
               are values of fuzz/structure, on an engine with two workers, a room and people in it

Checked: `unpack_record` gives a record or raises `ValueError`; the engine never raises, whatever the record says, and
neither does time passing afterwards; whatever it answers can be packed, and unpacks to the same; an error's answer is
JSON with a known code. (threats: a compromised worker must not be able to end the broker, and the node with it.)
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import random
from collections.abc import Hashable
from functools import cache, lru_cache
from typing import Any

from fuzz.structure import Source, nested
from helpers.engine import WALL_OFFSET

from tuskws_fast.broker import state
from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import DownType, UpType
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import history

CODES = frozenset(code.value for code in ErrorCode)
KINDS = (*UpType, *DownType, 0, 255, 65535)
CONNS = (
    0,
    1,
    *(records.first_conn(worker, 1) + n for worker in (0, 1) for n in (1, 2, 3)),
    records.first_conn(7, 1) + 1,
)
OPERATIONS = (
    *("presence", "get_presence", "history", "create_room", "update_room", "delete_room", "room_info", "list_rooms"),
    *("kick", "ban", "mute", "invite", "server_join", "server_leave", "room_count", "nonsense"),
)
STEPS_MAX = 24
DELAYS_S = (0.05, 1.0, 11.0, 400.0, 4000.0)
BODY = '{"type":"room_message","room":"general","message":1,"from":"ann"'
# Fields of a well-meant record of each type; `None` is a connection, the others are as they stand.
EXAMPLES: dict[int, list[Any]] = {
    UpType.ATTACH: [None, "ann", "Ann", ["admin"], 1, "online", 0, [None, 0, [["g*", 3]], "t-1", 1.0], 0, 0.0, ""],
    UpType.DETACH: [None, True],
    UpType.JOIN: [None, 1, 63, "general", None, ["e1", 0], 10],
    UpType.LEAVE: [None, 1, "general"],
    UpType.PRIVATE: [None, 1, 0, 0, False, "bob", "k", BODY],
    UpType.CALL: [None, 1, 63, "history", {"room": "general", "user": "bob", "limit": 5}],
    UpType.ALL: [None, BODY + "}"],
    UpType.RECOVER: ["general", "e1", 0],
    UpType.RESTORE: [None, "general", "e0", 3, 0],
    UpType.KEPT: ["room\nlobby", 1, {}],
    UpType.ANNOUNCED: [0, 7],
    UpType.CONFIRM: [None, "e1", 1],
    UpType.RESUME: [None, 1, CONNS[0], CONNS[1], 1, None, {"general": ["e1", 0]}],
    UpType.SEEN: ["general", "e1", 1, CONNS[0], "k", 1, 1],
}
KEPT_KEYS = ("room\ngeneral", "ban\ngeneral\nbob", "mute\ngeneral\nbob", "invite\ngeneral\nbob", "\n", "x\ny\nz\nw")


class Epochs:
    """e1, e2, and so on."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"e{next(self._numbers)}"


# Whatever happens, the same few records come of it again and again.
@lru_cache(1 << 14)
def unpacked(kind: int, payload: bytes) -> Any:
    return records.unpack_record(kind, payload)


@lru_cache(1 << 14)
def decoded(body: bytes) -> Any:
    return codec.decode(body)


class Broker:
    def __init__(self, announcing: bool) -> None:
        self.now = 1000.0
        limits = EngineLimits(shards=2, history_size=5, rooms_max=4, sanctions_max=3, dedupe_ids_max=4)
        self.engine = Engine(limits, self.now, Epochs(), workers=range(2 if announcing else 0))
        self.told: set[Hashable] = set()
        for worker in (0, 1):
            self.look_at(self.engine.worker_up(worker, 1))

    def receive(self, worker: int, kind: int, payload: bytes) -> None:
        try:
            record = records.unpack_record(kind, payload)
        except ValueError:
            self.told.add(("malformed", kind))
            return
        self.look_at(self.engine.handle(worker, record, self.now, self.now + WALL_OFFSET))  # type: ignore[arg-type]
        self.told.add(("handled", kind))

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.engine.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.look_at(self.engine.tick(self.now, self.now + WALL_OFFSET))
        self.now = until

    def look_at(self, decided: list[tuple[int, Any]]) -> None:
        for worker, record in decided:
            assert type(worker) is int
            received = unpacked(records.type_of(record), records.pack_record(record))
            assert received == record, f"{record} becomes {received}"
            if isinstance(record, records.Reply):
                self._look_at_reply(record)

    def _look_at_reply(self, reply: records.Reply) -> None:
        body = decoded(reply.body)
        if reply.ok:
            self.told.add(body["type"])
        else:
            assert body["code"] in CODES, body
            self.told.add(body["code"])


# What all brokers of a process share, and know by its identity.
SHARED = {"nobody": state._NOBODY, "nothing": history._NOTHING}


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> str | None:
        return next((name for name, shared in SHARED.items() if value is shared), None)


class Unpickler(pickle.Unpickler):
    def persistent_load(self, name: str) -> object:
        return SHARED[name]


class RecordsTarget:
    name = "records"
    input_max = 4096

    def run(self, data: bytes) -> Hashable:
        mode, rest = (data[0] if data else 0), data[1:]
        broker: Broker = Unpickler(io.BytesIO(beginning(bool(mode & 2), bool(mode & 4)))).load()
        if mode & 1:
            source = Source(rest)
            kind = KINDS[source.byte() % len(KINDS)]
            broker.receive(0, kind, rest[1:])
        else:
            play(broker, Source(rest))
        broker.pass_time(100.0)
        for worker in (0, 1):
            broker.look_at(broker.engine.worker_lost(worker, broker.now))
        broker.pass_time(1e5)
        return (mode & 7, frozenset(broker.told))

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        raw = [bytes([1, KINDS.index(kind)]) + codec.encode(concrete(fields, 0)) for kind, fields in EXAMPLES.items()]
        every = b"".join(bytes([kind, worker, 0]) for kind in range(len(KINDS)) for worker in (0, 1))
        return [*raw, b"\0" + every, b"\6" + every]

    def fresh(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            kind = rng.choice(sorted(EXAMPLES))
            fields = concrete(EXAMPLES[kind], rng.randrange(len(CONNS)))
            if rng.random() < 0.7:
                fields[rng.randrange(len(fields))] = rng.choice(
                    (None, "", -1, 1 << 63, [], {}, [[]], "\0", nested(400))
                )
            return bytes([5, KINDS.index(kind)]) + as_json(fields)
        if rng.random() < 0.1:
            deep = rng.choice((b"[" * 1000 + b"]" * 1000, b'{"a":' * 900 + b"1" + b"}" * 900))
            return bytes([5, rng.randrange(len(KINDS))]) + deep
        return bytes([rng.choice((0, 2, 4, 4, 6))]) + rng.randbytes(rng.choice((12, 12, 30, 30, 60, 60, 60, 300)))


@cache
def beginning(announcing: bool, inhabited: bool) -> bytes:
    """A broker as each execution finds it, pickled: making it takes twice as long as reading it."""
    broker = Broker(announcing)
    if inhabited:
        settle_in(broker)
    held = io.BytesIO()
    Pickler(held, pickle.HIGHEST_PROTOCOL).dump(broker)
    return held.getvalue()


def settle_in(broker: Broker) -> None:
    """Four people, one room, something said."""
    for worker in (0, 1):
        for n, user in enumerate(("ann", "bob"), 1):
            conn = records.first_conn(worker, 1) + n
            for kind, fields in (
                (UpType.ATTACH, [conn, user, user, [], n % 3, "online", 0, None, 0, 0.0, ""]),
                (UpType.JOIN, [conn, n, 63, "general", None, None, 5]),
            ):
                broker.receive(worker, kind, codec.encode(fields))
            broker.receive(worker, UpType.PUBLISH, publish(conn, 63, "general", f"k{n}"))


def play(broker: Broker, source: Source) -> None:
    for _ in range(STEPS_MAX):
        if source.is_empty:
            return
        step = source.byte()
        if step >= 250:
            broker.pass_time(DELAYS_S[source.byte() % len(DELAYS_S)])
        elif step >= 246:
            worker = source.byte() & 1
            broker.look_at(broker.engine.worker_lost(worker, broker.now))
            broker.look_at(broker.engine.worker_up(worker, 1 + source.byte() % 3))
        else:
            one_record(broker, source, step)


def one_record(broker: Broker, source: Source, step: int) -> None:
    """A record of the type that `step` names, with up to three of its fields (or of a call's arguments) changed."""
    kind = (*UpType, UpType.CALL, UpType.CALL)[step % (len(UpType) + 2)]
    worker = source.byte() & 1
    if kind == UpType.PUBLISH:
        conn, flags = CONNS[source.byte() % len(CONNS)], source.byte()
        broker.receive(worker, kind, publish(conn, source.byte(), source.word(), source.word(), flags))
        return
    changes = source.byte()
    fields = concrete(EXAMPLES[kind], changes >> 2)
    if kind == UpType.CALL:
        fields[3] = OPERATIONS[source.byte() % len(OPERATIONS)]
    if kind == UpType.KEPT:
        fields[0] = KEPT_KEYS[source.byte() % len(KEPT_KEYS)]
        fields[2] = source.value()
    for _ in range(changes & 3):
        if kind == UpType.CALL and type(fields[4]) is dict and source.byte() & 3:
            fields[4] = {**fields[4], source.word(): source.value()}
        else:
            fields[source.byte() % len(fields)] = source.value()
    broker.receive(worker, kind, as_json(fields))


def as_json(fields: list[Any]) -> bytes:
    """Whatever its depth: a broken worker may nest deeper than our encoder writes, which is ten times as fast."""
    try:
        return codec.encode(fields)
    except codec.JSONEncodeError:
        return json.dumps(fields).encode()


def publish(conn: int, rights: int, room: str, key: str, flags: int = 1) -> bytes:
    """By hand from the picture in ipc/records: a broken worker need not use `pack_record`."""
    name, key_bytes = room.encode("utf-8", "replace"), key.encode("utf-8", "replace")
    head = conn.to_bytes(8, "little") + (1).to_bytes(4, "little") + rights.to_bytes(2, "little")
    sizes = len(name).to_bytes(2, "little") + len(key_bytes).to_bytes(2, "little")
    return head + bytes([flags >> 4, flags & 15]) + sizes + name + key_bytes + BODY.encode()


def concrete(fields: list[Any], choice: int) -> list[Any]:
    """`fields` with a connection where one belongs."""
    return [CONNS[choice % len(CONNS)] if field is None and at == 0 else field for at, field in enumerate(fields)]
