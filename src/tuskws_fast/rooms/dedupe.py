"""The same command sent twice is published once: (scope, user, key) → the first result.

    scope    a room's name, or "\\n" and the recipient's id for an inbox (no room name holds a line break)
    key      the client's string `id`; an integer id only correlates and never comes here
    digest   of the message, so that one key with two messages is told from a retry

Three bounds: an entry lives `window_s`; a scope holds `ids_max`; all of it holds `bytes_max` (estimated: what CPython
takes for an entry, measured, plus the text). What is over a bound goes oldest first: of its own scope for the second,
of all for the third. Both orders are the order of insertion, so the oldest of all is also the oldest of its scope.

The digest is the message's CRC32C and its length: the same in every process, so that a retry is known after a restart,
0.1 us against 0.7 us for BLAKE2b, and enough here, because whoever makes a collision deceives only their own retry.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from tuskws_fast_ext.ring import crc32c

# An OrderedDict entry (232), the key tuple (64), the result (88), a deque slot (8), key string header (49) and digest.
_ENTRY_BYTES = 480


class First(NamedTuple):
    """The first result for a key. `epoch` is the sequence's of that time: a room may have begun a new one since.
    `delivered` is -1 where it was not told (every room, and most inboxes)."""

    at: float
    epoch: str
    offset: int
    digest: int
    delivered: int


_Key = tuple[str, str, str]


def inbox_scope(user: str) -> str:
    return "\n" + user


def digest_of(message: bytes) -> int:
    return crc32c(message) << 32 | len(message)


class Dedupe:
    __slots__ = ("_by_scope", "_bytes_max", "_first", "_ids_max", "_window_s", "bytes", "overflowed")

    def __init__(self, window_s: float, ids_max: int, bytes_max: int) -> None:
        self._window_s = window_s
        self._ids_max = ids_max
        self._bytes_max = bytes_max
        self._first: OrderedDict[_Key, First] = OrderedDict()
        self._by_scope: dict[str, deque[_Key]] = {}
        self.bytes = 0
        # Entries that went before their window was over: a retry of theirs would be published again.
        self.overflowed = 0

    def __len__(self) -> int:
        return len(self._first)

    def find(self, scope: str, user: str, key: str, now: float) -> First | None:
        """The first result for this key, if its window is still open."""
        first = self._first.get((scope, user, key))
        return first if first is not None and first.at > now - self._window_s else None

    def add(self, scope: str, user: str, key: str, first: First) -> None:
        """Remember a result, made at `first.at`. The caller has asked `find` before: there is no open entry under this
        key."""
        entry = (scope, user, key)
        if entry in self._first:
            # Its window is over, so every entry before it can go as well.
            self.expire(first.at)
        keys = self._by_scope.get(scope)
        if keys is None:
            keys = self._by_scope[scope] = deque()
        elif len(keys) >= self._ids_max:
            self._drop(keys.popleft())
            self.overflowed += 1
        self._first[entry] = first
        keys.append(entry)
        self.bytes += _size(entry)
        while self.bytes > self._bytes_max and self._first:
            self._drop_oldest()
            self.overflowed += 1

    def expire(self, now: float) -> None:
        """Drop every entry whose window is over."""
        closed = now - self._window_s
        while self._first and next(iter(self._first.values())).at <= closed:
            self._drop_oldest()

    def next_expiry(self) -> float | None:
        return next(iter(self._first.values())).at + self._window_s if self._first else None

    def of_scope(self, scope: str) -> list[tuple[str, str, First]]:
        """What is remembered of a scope, oldest first, as (user, key, result): for a journal."""
        return [(user, key, self._first[scope, user, key]) for _, user, key in self._by_scope.get(scope, ())]

    def forget(self, scope: str) -> None:
        """The sequence is gone (room deleted or evicted): a new one of the same name starts over."""
        for entry in self._by_scope.pop(scope, ()):
            self._drop(entry)

    def _drop_oldest(self) -> None:
        entry = next(iter(self._first))
        keys = self._by_scope[entry[0]]
        oldest = keys.popleft()
        assert oldest == entry, "both orders are the order of insertion"
        if not keys:
            del self._by_scope[entry[0]]
        self._drop(entry)

    def _drop(self, entry: _Key) -> None:
        del self._first[entry]
        self.bytes -= _size(entry)


def _size(entry: _Key) -> int:
    return _ENTRY_BYTES + len(entry[2])
