"""One bit flipped in one file, or one file cut short, and a node started on what is left: a thousand times.

What was in the directory is known. Of what the node then serves nothing may be wrong, and nothing may be missing
without a word: an alarm in its log (level CRITICAL), another epoch, `recovered: false`, or a refusal to start that says
why. Doors that were closed stay closed: who was banned, muted or not invited gets in nowhere.

A node is a fork of this process, which has imported everything: it is up in a tenth of the time.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.raw import RawClient

from audit.build import Switches, install
from audit.node import Node

Message = dict[str, Any]
ROOMS = ("room-0", "room-1", "room-2")
VAULT, PASSWORD = "vault", "open sesame"
MESSAGES = 25
BANNED, MUTED, STRANGER, OWNER = "banned", "muted", "stranger", "owner"
# What was there at the beginning is there for as long as the whole run takes.
KEEP = {"history_size": 1000, "history_ttl": "12h", "journal_size": "2MiB", "leave_grace": "1s"}
CLOSED = frozenset({"forbidden", "bad_password", "moderated"})


class Fork(Node):
    """A node that is a child of this process by fork."""

    def start(self) -> None:
        self._ended: int | None = None
        self._pid = os.fork()
        if self._pid:
            return
        try:
            sink = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            sys.argv = ["tuskws-fast", *self.arguments()]
            install(Switches(self.build))
            from tuskws_fast.__main__ import main

            main()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        finally:
            os._exit(70)

    @property
    def supervisor(self) -> int:
        return self._pid

    def poll(self) -> int | None:
        if self._ended is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._ended = os.waitstatus_to_exitcode(status) if pid else None
        return self._ended


@dataclass
class Truth:
    """What a directory holds: each room's (and inbox's) messages by position, as they were first served."""

    rooms: dict[str, dict[tuple[str, int], Message]] = field(default_factory=dict)
    inbox: dict[tuple[str, int], Message] = field(default_factory=dict)

    def top(self, room: str) -> tuple[str, int]:
        return list(self.rooms[room])[-1]


@dataclass
class Findings:
    """`outcomes`: what became of each damage. `faults`: what no damage may lead to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def client(node: Node, user: str, **claims: Any) -> RawClient:
    raw = RawClient(node.port, headers=f"Authorization: Bearer {node.token(user, **claims)}\r\n")
    raw.expect("welcome")
    return raw


def ask(raw: RawClient, kind: str, **fields: Any) -> Message:
    raw.send({"type": kind, "id": 1, **fields})
    while (message := raw.message()).get("id") != 1:
        pass
    return message


def pages(raw: RawClient, kind: str, **fields: Any) -> list[Message]:
    found = [ask(raw, kind, **fields)]
    while found[-1].get("more"):
        if (message := raw.message()).get("id") == 1:
            found.append(message)
    return found


def by_position(messages: list[Message]) -> dict[tuple[str, int], Message]:
    return {(each["epoch"], each["offset"]): each for each in messages}


def history(node: Node, room: str) -> list[Message]:
    with client(node, "observer", roles=["admin"]) as raw:
        found = pages(raw, "history", room=room)
    return [each for page in found for each in page.get("messages", ())]


def inbox(node: Node) -> list[Message]:
    """Everything that waits for `ann`, up to the answer of a question that was asked behind it."""
    with client(node, "ann") as raw:
        raw.send({"type": "list_rooms", "id": 1})
        found = []
        while (message := raw.message()).get("id") != 1:
            if message["type"] == "private_message":
                found.append(message)
        return found


def furnish(node: Node) -> Truth:
    """Something of everything that is kept."""
    truth = Truth()
    with client(node, OWNER, permissions=["create", "moderate"]) as owner:
        ask(owner, "create_room", room=VAULT, settings={"public": False, "password": PASSWORD})
        ask(owner, "create_room", room=ROOMS[0], settings={"max_members": 40})
        for room in (*ROOMS, VAULT):
            assert ask(owner, "join_room", room=room, password=PASSWORD)["type"] == "room_joined"
            for n in range(MESSAGES):
                ack = ask(owner, "broadcast", room=room, message={"n": n, "in": room, "pad": "x" * (n * 7 % 90)})
                assert ack["level"] == "stored"
        for n in range(MESSAGES):
            assert ask(owner, "private_message", to="ann", message=f"psst {n}")["level"] == "stored"
        assert ask(owner, "ban", room=ROOMS[0], user=BANNED)["type"] == "ack"
        assert ask(owner, "mute", room=ROOMS[1], user=MUTED, seconds=86_400)["type"] == "ack"
    for room in (*ROOMS, VAULT):
        truth.rooms[room] = by_position(history(node, room))
        assert len(truth.rooms[room]) == MESSAGES
    truth.inbox = by_position(inbox(node))
    assert len(truth.inbox) == MESSAGES
    return truth


def damages(base: Path, rng: random.Random, truncations: float) -> Iterator[tuple[Path, int, bool]]:
    """(file, bit or length, is a truncation), endless; most of them in what is used of the segments."""
    files = [
        path for path in sorted(base.rglob("*")) if path.is_file() and path.stat().st_size and "spare" not in path.name
    ]
    used = {path: used_bytes(path) for path in files}
    while True:
        (path,) = rng.choices(files, [6 if each.suffix == ".seg" else 1 for each in files])
        if rng.random() < truncations:
            yield path, rng.randrange(used[path]), True
        else:
            yield path, rng.randrange(used[path] * 8), False


def used_bytes(path: Path) -> int:
    """Of a file, what is not empty, and a little behind it."""
    return min(path.stat().st_size, len(path.read_bytes().rstrip(b"\0")) + 64)


def spoil(path: Path, where: int, truncate: bool) -> None:
    if truncate:
        os.truncate(path, where)
        return
    with path.open("r+b") as file:
        file.seek(where // 8)
        (byte,) = file.read(1)
        file.seek(where // 8)
        file.write(bytes([byte ^ 1 << where % 8]))


def examine(node: Node, truth: Truth, findings: Findings, what: str) -> None:
    """Everything that was there, asked for again."""

    def fault(text: str) -> None:
        findings.faults.append(f"{what}: {text}")

    alarm = '"CRITICAL"' in node.log.read_text(errors="replace")
    told = alarm
    for room, said in truth.rooms.items():
        kept = by_position(history(node, room))
        for position, message in kept.items():
            if said.get(position) != message:
                fault(f"{room} {position} is served as {message}, and was {said.get(position)}")
        with client(node, OWNER, roles=["admin"]) as owner:
            epoch, top = truth.top(room)
            since = {"epoch": epoch, "offset": MESSAGES // 3}
            joined = pages(owner, "join_room", room=room, password=PASSWORD, since=since)
            replayed = [each["offset"] for page in joined for each in page.get("messages", ())]
            if joined[0].get("recovered") and replayed != list(range(MESSAGES // 3 + 1, top + 1)):
                fault(f"{room} recovered {replayed} after {MESSAGES // 3}, of {top}")
            renewed = joined[0].get("epoch") != epoch
            told = told or renewed
            if kept.keys() != said.keys() and not (alarm or renewed):
                fault(f"{room} keeps {sorted(kept)} without a word")
            ack = ask(owner, "broadcast", room=room, message="after")
            if (ack.get("epoch"), ack.get("offset")) in said:
                fault(f"{room}: {ack} is the position of another message")
    waiting = by_position(inbox(node))
    for position, message in waiting.items():
        if truth.inbox.get(position) != message:
            fault(f"private message {position} is served as {message}")
    if waiting.keys() != truth.inbox.keys() and not alarm:
        fault(f"{len(truth.inbox) - len(waiting)} private messages are missing without a word")
    _try_doors(node, fault)
    findings.outcomes["told" if told else "without effect"] += 1


def _try_doors(node: Node, fault: Any) -> None:
    with client(node, STRANGER) as stranger:
        if ask(stranger, "join_room", room=VAULT, password=PASSWORD).get("code") not in CLOSED:
            fault("a stranger is in the private room")
    with client(node, BANNED) as banned:
        if ask(banned, "join_room", room=ROOMS[0]).get("code") not in CLOSED:
            fault("who was banned is in the room")
    with client(node, MUTED) as muted:
        joined = ask(muted, "join_room", room=ROOMS[1])
        if (
            joined.get("code") not in CLOSED
            and ask(muted, "broadcast", room=ROOMS[1], message="x").get("code") not in CLOSED
        ):
            fault("who was muted speaks")


def run(
    directory: Path, seed: int, count: int, truncations: float = 0.0, progress: Any = lambda done: None
) -> Findings:
    """`count` damages, each to a directory that a node has left, killed or ended in order."""
    # Before the first fork, for all of them.
    for module in ("cli", "node", "broker.process", "worker.process"):
        importlib.import_module(f"tuskws_fast.{module}")
    rng = random.Random(seed)
    findings = Findings()
    bases = []
    for in_order in (False, True):
        node = Fork(directory / f"base-{in_order}", 1, **KEEP)
        node.start()
        try:
            node.wait_ready()
            truth = furnish(node)
            if in_order:
                node.stop()
        finally:
            if node.poll() is None:
                node.kill_all()
        bases.append((truth, node.data, damages(node.data, rng, truncations)))
    for number in range(count):
        truth, base, drawn = bases[number % 2]
        path, where, truncate = next(drawn)
        name = path.relative_to(base)
        what = f"{number}: {base.parent.name}/{name} {'cut to byte' if truncate else 'bit'} {where}"
        findings.outcomes[f"in {name.name.split('.')[-1] if name.suffix == '.seg' else name.name}"] += 1
        place = directory / f"node-{number}"
        node = Fork(place, 1, **KEEP)
        shutil.copytree(base, node.data)
        spoil(node.data / name, where, truncate)
        before = len(findings.faults)
        node.start()
        try:
            node.wait_ready()
            examine(node, truth, findings, what)
        except Exception as error:
            _explain(node, error, findings, what)
        finally:
            if node.poll() is None:
                node.kill_all()
        if len(findings.faults) == before:
            shutil.rmtree(place)
        progress(number + 1)
    return findings


def _explain(node: Node, error: Exception, findings: Findings, what: str) -> None:
    """It does not serve. That is an answer, where the log says which."""
    if "cannot start" in node.log.read_text(errors="replace"):
        findings.outcomes["refused to start, and said why"] += 1
    else:
        findings.faults.append(f"{what}: {type(error).__name__}: {error}")
