"""Fuzz target `commands`: what clients say, through frames, codec, checks, worker and broker, and back to them.

    byte 0     raw: the rest is one message as it came from the wire; else the rest is a program (fuzz/structure): which
               of three connections speaks, a command; now and then time passes or one of them goes

Checked: nothing raises and nothing is logged as a failure; every record between worker and broker is the same after it
was packed and unpacked; every reply is strict JSON without a name twice, an error's code is known, and an id is one
that this client sent; and when all have gone and time has passed, nothing is left in the worker or in the broker.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Hashable
from typing import Any

from fuzz.structure import Source
from helpers.commands import EXAMPLES
from helpers.edge import Complaints, Edge, Line, Pair
from helpers.engine import WALL_OFFSET
from helpers.rfc6455 import BINARY, CLOSE, TEXT, client_frame, server_frames
from helpers.worker import Desk

from tuskws_fast.auth.tokens import Verifier, make_token
from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.ipc import records
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode, ErrorCode
from tuskws_fast.worker.session import Session

RAW, REQUIRES_AUTH, ESCAPES = 1, 2, 4
CONNECTIONS = 3
STEPS_MAX = 16
FRAME_MAX = 16_384
MESSAGE_MAX = 1024
SECRET = "0123456789abcdef" * 3
TOKENS = tuple(
    make_token(SECRET, user, now=0, ttl_s=4e9, **claims)
    for user, claims in (("ann", {"roles": ["admin"]}), ("bob", {}), ("bob", {"rooms": {"lob*": ["moderate"]}}))
)
CODES = frozenset(code.value for code in ErrorCode)
CLOSE_CODES = frozenset(int(code) for code in CloseCode)
DELAYS_S = (0.05, 0.2, 1.0, 11.0, 400.0)


class Node:
    """One worker and the broker, joined by packed records, with three clients."""

    def __init__(self, pairs: list[Pair], mode: int) -> None:
        self.desk = Desk(bool(mode & REQUIRES_AUTH), Verifier([SECRET], max_token_ttl_s=0), MESSAGE_MAX)
        epochs = iter(range(1, 1 << 30))
        self.engine = Engine(EngineLimits(shards=2, history_size=5), self.desk.now, lambda: f"e{next(epochs)}")
        self.engine.worker_up(0, 1)
        self.inbox = self.desk.inbox(bool(mode & ESCAPES))
        self.numbers = iter(range(1, 1 << 30))
        self.desk.identities._new_number = self.new_number
        self.edge = Edge(self.new_session, FRAME_MAX)
        self.pairs = pairs
        self.lines: list[Line] = []
        self.ids: list[set[Any]] = [set() for _ in pairs]
        self.told: set[Hashable] = set()

    def new_number(self) -> int:
        return records.first_conn(0, 1) + next(self.numbers)

    def new_session(self, address: str) -> Session:
        return Session(self.desk.commands, self.new_number(), address, self.desk.now)

    def connect(self) -> None:
        for pair in self.pairs:
            self.lines.append(self.edge.connect(pair))
            self.settle()

    def say(self, who: int, payload: bytes, text: bool = True) -> None:
        self.lines[who].receive(client_frame(TEXT if text else BINARY, payload))
        self.settle()

    def settle(self) -> None:
        """Records go up and decisions come down until nothing more happens; then everybody reads."""
        while True:
            up = self.desk.line.take()
            if not up:
                break
            down: list[Any] = []
            for record in up:
                down += self.engine.handle(0, same(record), self.desk.now, self.desk.wall)
            self.apply(down)
        for who, line in enumerate(self.lines):
            line.read_on()
            self.look_at(who, line)

    def apply(self, decided: list[Any]) -> None:
        self.inbox.apply([same(record) for _, record in decided])
        self.edge.loop.run_soon()

    def pass_time(self, seconds: float) -> None:
        until = self.desk.now + seconds
        while (due := self.engine.next_deadline()) is not None and due <= until:
            self.desk.now = max(self.desk.now, due)
            self.apply(self.engine.tick(self.desk.now, self.desk.wall))
        self.desk.now = until
        self.desk.wall = until + WALL_OFFSET
        self.settle()

    def look_at(self, who: int, line: Line) -> None:
        wire, line.wire = line.wire, b""
        for opcode, payload in server_frames(wire):
            if opcode == CLOSE:
                assert int.from_bytes(payload[:2], "big") in CLOSE_CODES
                self.told.add(("close", payload[:2]))
            elif opcode == TEXT:
                message = json.loads(payload, object_pairs_hook=without_repetition)
                for inner in message["messages"] if message["type"] == "batch" else [message]:
                    self.look_at_message(who, inner)

    def look_at_message(self, who: int, message: dict[str, Any]) -> None:
        kind, code = message["type"], message.get("code")
        assert type(kind) is str
        if kind == "error":
            assert code in CODES, message
        if "id" in message:
            assert message["id"] in self.ids[who], f"an id that this client did not send: {message}"
        self.told.add((kind, code))

    def go(self) -> None:
        for line in self.lines:
            line.hang_up()
        self.lines.clear()
        self.settle()
        self.pass_time(3e6)
        assert (len(self.desk.sessions), len(self.desk.watchers), len(self.desk.hub.rooms)) == (0, 0, 0)
        # Persistent rooms stay, with nobody and nothing in them.
        census = {**self.engine.census(), "rooms": 0}
        assert census == {**dict.fromkeys(census, 0), "workers": 1}, f"left behind: {census}"


class CommandsTarget:
    name = "commands"
    input_max = 4096

    def __init__(self) -> None:
        self.pairs = [Pair() for _ in range(CONNECTIONS)]
        self.complaints = Complaints()
        log = logging.getLogger("tuskws_fast")
        log.addHandler(self.complaints)
        log.propagate = False

    def run(self, data: bytes) -> Hashable:
        mode, rest = (data[0] if data else 0), data[1:]
        self.complaints.heard.clear()
        node = Node(self.pairs[:1] if mode & RAW else self.pairs, mode)
        with node.edge:
            node.connect()
            if mode & RAW:
                self._say_raw(node, rest, bool(mode & 8))
            else:
                self._play(node, Source(rest))
            node.go()
        assert not self.complaints.heard, self.complaints.heard[0]
        return (mode & RAW, frozenset(node.told))

    def _say_raw(self, node: Node, payload: bytes, text: bool) -> None:
        try:
            command = codec.decode(payload)
        except codec.JSONDecodeError:
            command = None
        note_ids(node.ids[0], command)
        node.say(0, payload[:FRAME_MAX], text)

    def _play(self, node: Node, source: Source) -> None:
        for _ in range(STEPS_MAX):
            if source.is_empty:
                return
            step = source.byte()
            who = step % CONNECTIONS
            if step >= 252:
                node.pass_time(DELAYS_S[source.byte() % len(DELAYS_S)])
            elif step >= 248:
                node.lines[who].hang_up()
                node.settle()
            elif step >= 240:
                node.say(who, codec.encode({"type": "auth", "token": TOKENS[source.byte() % len(TOKENS)]}))
            else:
                self._command(node, who, source.command())

    def _command(self, node: Node, who: int, command: Any) -> None:
        note_ids(node.ids[who], command)
        payload = deep_encode(command)
        if len(payload) <= FRAME_MAX:
            node.say(who, payload)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        raw = [b"\x09" + codec.encode(example) for example in EXAMPLES.values()]
        # Everybody signs in, joins and speaks.
        names = sorted(EXAMPLES)
        order = [
            names.index(name) for name in ("join_room", "broadcast", "history", "create_room", "kick", "leave_room")
        ]
        talk = bytes([240, 0, 241, 1]) + b"".join(bytes([who, kind, 0]) for kind in order for who in (0, 1, 2))
        return [*raw, b"\0" + talk, b"\4" + talk, b"\2" + talk]

    def fresh(self, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            example = codec.encode(EXAMPLES[rng.choice(sorted(EXAMPLES))])
            at = rng.randrange(len(example))
            return bytes([9]) + example[:at] + rng.choice(SNIPPETS) + example[at:]
        return bytes([rng.choice((0, 0, 4, 2))]) + rng.randbytes(rng.choice((12, 40, 150)))


SNIPPETS = (
    b"[" * 1030,
    b'{"a":' * 300,
    b"\xed\xa0\x80",
    b"\\ud800",
    b"1e999",
    b"-0",
    b"NaN",
    b"\0",
    b'","id":"',
    b"\xff",
)


def same(record: Any) -> Any:
    """What the other process makes of it."""
    received = records.unpack_record(records.type_of(record), records.pack_record(record))
    assert received == record, f"{record} became {received}"
    return received


def note_ids(ids: set[Any], command: Any) -> None:
    if isinstance(command, dict):
        if isinstance(command.get("id"), (str, int)):
            ids.add(command["id"])
        entries = command.get("messages")
        for entry in entries if isinstance(entries, list) else []:
            note_ids(ids, entry)


def deep_encode(value: Any) -> bytes:
    """As `codec.encode`, to the depth that a client may write (ours stops at 254)."""
    try:
        return codec.encode(value)
    except codec.JSONEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"a name stands twice in {found}"
    return found
