"""One timer wheel for all connections of a worker: heartbeats, idle, authentication and expiry deadlines.

A connection is in exactly one slot, the one of its nearest deadline. Input does not move it: when the slot comes up,
the connection says when it is really due, and is filed again if that is later. So 10,000 chatty connections cost one
list append each per heartbeat interval, and no task, no handle, no heap.

    slot   0   1   2   3  …  SLOTS-1        one second each; deadlines further away wait in the last slot and move on
               ▲ now

Pure: time is an argument.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

SLOTS = 64


class Wheel(Generic[T]):
    def __init__(self, now: float) -> None:
        self._slots: list[list[T]] = [[] for _ in range(SLOTS)]
        self._tick = int(now)

    def add(self, item: T, due: float) -> None:
        """File `item` for the second after `due` (never early, up to a second late)."""
        ahead = int(due) + 1 - self._tick
        if not 1 <= ahead < SLOTS:
            ahead = min(max(ahead, 1), SLOTS - 1)
        self._slots[(self._tick + ahead) % SLOTS].append(item)

    def advance(self, now: float) -> list[T]:
        """All that came up since the last call; the caller files again what is still to come."""
        came_up: list[T] = []
        # A loop that was stuck for more than a turn of the wheel finds everything due, once.
        for tick in range(max(self._tick + 1, int(now) - SLOTS + 1), int(now) + 1):
            slot = tick % SLOTS
            came_up += self._slots[slot]
            self._slots[slot] = []
        self._tick = max(self._tick, int(now))
        return came_up
