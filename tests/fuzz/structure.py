"""Bytes read as a JSON value, so that mutating bytes mutates structure and every input is valid JSON.

    kind of value (one byte), then what that kind needs. Words and numbers come from lists of what our code looks at.

Used by the targets whose input is JSON further in: random text dies at the first comma, this reaches the last check.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from helpers.commands import EXAMPLES

from tuskws_fast.protocol.messages import COMMANDS

FIELDS = sorted({field.name for command in COMMANDS.values() for field in command.fields})
WORDS = (
    *COMMANDS,
    *FIELDS,
    *("type", "id", "epoch", "offset", "public", "moderated", "max_members", "history_size", "history_ttl", "name"),
    *("general", "lobby", "ann", "bob", "online", "offline", "busy", "accepted", "stored", "synced", "rooms", "all"),
    *("", "x" * 129, "a" * 64, "a" * 65, "\0", "\n", "é", "\u212a", "\u202e", "__proto__", "../x", "😀" * 40, "e1"),
)
NUMBERS = (0, 1, -1, 2, 100, 101, 1000, 1001, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -0.0, 0.5, 1e-300, 1e308, 60.5)
DEPTH_MAX = 12
NESTINGS = (60, 237, 239, 253, 255, 500)


class Source:
    """Takes values from the front of `data`; behind its end all bytes are zero."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def is_empty(self) -> bool:
        return self.at >= len(self.data)

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def integer(self, size: int) -> int:
        return int.from_bytes(bytes(self.byte() for _ in range(size)), "little")

    def take(self, size: int) -> bytes:
        taken, self.at = self.data[self.at : self.at + size], self.at + size
        return taken

    def word(self) -> str:
        return WORDS[self.byte() % len(WORDS)]

    def text(self) -> str:
        return self.take(self.byte() % 24).decode("utf-8", "replace")

    def value(self, depth: int = 0) -> Any:
        kind = self.byte() % 12
        if kind < 3 or (depth >= DEPTH_MAX and kind >= 8):
            return self.word()
        if kind == 3:
            return self.text()
        if kind == 4:
            return NUMBERS[self.byte() % len(NUMBERS)]
        if kind == 5:
            return self.integer(2)
        if kind == 6:
            return FLOATS[self.byte() % len(FLOATS)]
        if kind == 7:
            return (None, True, False)[self.byte() % 3]
        if kind == 8:
            return nested(NESTINGS[self.byte() % len(NESTINGS)])
        if kind == 9:
            return [self.value(depth + 1) for _ in range(self.byte() % 6)]
        if kind == 10:
            return {self.word(): self.value(depth + 1) for _ in range(self.byte() % 6)}
        # One value many times: what a limit on a number of entries is for.
        return [self.value(DEPTH_MAX)] * (self.byte() * 8)

    def command(self, depth: int = 0) -> Any:
        """A valid command in which some fields are something else; rarely anything at all."""
        kind = self.byte()
        if kind >= 250:
            return self.value()
        if kind >= 240 and not depth:
            return {"type": "batch", "messages": [self.command(1) for _ in range(self.byte() % 5)]}
        names = sorted(EXAMPLES)
        command = dict(EXAMPLES[names[kind % len(names)]])
        for _ in range(self.byte() % 4):
            fields = [*command, self.word()]
            name = fields[self.byte() % len(fields)]
            if self.byte() % 5 == 0:
                command.pop(name, None)
            else:
                command[name] = self.value()
        return command


@cache
def nested(depth: int) -> Any:
    """Always the same one: nobody may change it."""
    value: Any = []
    for level in range(depth):
        value = [value] if level % 3 else {"a": value}
    return value
