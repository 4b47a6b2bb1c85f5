"""One valid example of every command with every field, and what happens when any position in it holds something else.

`positions(command)` walks an example; `with_value` puts a value there. Together they make the table of all single
faults, for the checker's own test and for the one against a running server.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

# What Centrifugo's #1173 taught: each of these, at every position of every command.
INTRUDERS: tuple[Any, ...] = (None, [], [None], 0, "x")

EXAMPLES: dict[str, dict[str, Any]] = {
    "hello": {"type": "hello", "id": "h1", "batch": True, "presence": "rooms", "client": "test/1"},
    "auth": {"type": "auth", "id": "a1", "token": "a.b.c"},
    "resume": {"type": "resume", "id": 1, "session": "s-1", "rooms": {"general": {"epoch": "e1", "offset": 3}}},
    "join_room": {
        "type": "join_room",
        "id": "j1",
        "room": "general",
        "password": "secret",
        "since": {"epoch": "e1", "offset": 3},
        "history": 10,
    },
    "leave_room": {"type": "leave_room", "id": "l1", "room": "general"},
    "broadcast": {
        "type": "broadcast",
        "id": "b1",
        "room": "general",
        "message": {"text": "hi"},
        "echo": False,
        "ack": "accepted",
        "receipt": False,
    },
    "private_message": {
        "type": "private_message",
        "id": "p1",
        "to": "bob",
        "message": "hi",
        "ack": "accepted",
        "receipt": False,
    },
    "presence": {"type": "presence", "id": "s1", "status": "away"},
    "get_presence": {"type": "get_presence", "id": "g1", "users": ["ann", "bob"]},
    "history": {"type": "history", "id": 2, "room": "general", "since": {"epoch": "e1", "offset": 0}, "limit": 5},
    "create_room": {
        "type": "create_room",
        "id": "c1",
        "room": "lobby",
        "settings": {
            "max_members": 50,
            "public": True,
            "moderated": False,
            "password": None,
            "history_size": 10,
            "history_ttl": 60.5,
            "persistent": True,
            "slow_consumer": "drop",
        },
    },
    "update_room": {"type": "update_room", "id": "u1", "room": "lobby", "settings": {"max_members": 60}},
    "delete_room": {"type": "delete_room", "id": "d1", "room": "lobby"},
    "room_info": {"type": "room_info", "id": "i1", "room": "lobby"},
    "list_rooms": {"type": "list_rooms", "id": "r1"},
    "kick": {"type": "kick", "id": "k1", "room": "lobby", "user": "bob", "seconds": 5},
    "ban": {"type": "ban", "id": "k2", "room": "lobby", "user": "bob", "seconds": 60},
    "mute": {"type": "mute", "id": "k3", "room": "lobby", "user": "bob", "seconds": 0.5},
    "ack": {"type": "ack", "room": "general", "epoch": "x1", "offset": 3},
    "ping": {"type": "ping", "id": -5},
    "batch": {"type": "batch", "messages": [{"type": "ping", "id": 1}, {"type": "presence", "status": "busy"}]},
}


def positions(value: Any, here: Path = ()) -> Iterator[Path]:
    """The path of `value` itself and of everything in it, outermost first."""
    yield here
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from positions(entry, (*here, key))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from positions(entry, (*here, i))


def with_value(command: Any, path: Path, value: Any) -> Any:
    """A copy of `command` with `value` at `path`."""
    if not path:
        return value
    changed = copy.deepcopy(command)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return changed


def faults() -> Iterator[tuple[str, Path, Any, Any]]:
    """(command's name, path, intruder, the changed command) for every intruder at every position of every example."""
    for name, example in EXAMPLES.items():
        for path in positions(example):
            for intruder in INTRUDERS:
                yield name, path, intruder, with_value(example, path, intruder)
