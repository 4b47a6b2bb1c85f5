"""What has to happen later, by deadline. Nothing runs when nothing is due.

A timer is (deadline, kind, key) and is not cancelled: whoever handles a kind looks up the key and checks that the
deadline it finds there is still this one. That costs a stale entry in the heap and saves a handle in every object.

Most deadlines are seconds away, but an inbox is swept after a week, and a mute may end in a year. Who changes or drops
what such a timer is for says so (`lapse`): when half of the heap may be stale, it is sifted. Else who mutes somebody
again and again, or makes rooms and deletes them, would fill it for as long.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import IntEnum

# So many stale entries are not worth a look at all of them.
LAPSED_MIN = 1_024


class Timer(IntEnum):
    GRACE = 1  # key: conn            a lost session's membership and lease end
    PRESENCE = 2  # key: ""           push the presence that changed
    STATS = 3  # key: room            push room_stats of a large room
    SWEEP_ROOM = 4  # key: room       drop expired history; evict the room if nothing holds it
    SWEEP_INBOX = 5  # key: user
    DEDUPE = 6  # key: ""
    SANCTION = 7  # key: fact         a ban or mute is over
    OFFLINE = 8  # key: ""            forget users that stayed away
    ANNOUNCE = 9  # key: ""           stop waiting for workers to announce themselves
    RESUMABLE = 11  # key: ""         forget sessions that nobody resumed
    TAKEOVER = 12  # key: ""          stop waiting for workers to let go of sessions that are resumed elsewhere
    RECEIPT = 13  # key: publication   tell how many have confirmed it
    WINDOW = 14  # key: ""            old messages that were fetched leave memory again
    RECENT = 15  # key: user          forget what was confirmed a moment ago
    REVOKED = 16  # key: fact         no token is left that a revocation concerns
    REPLAYS = 17  # key: ""           forget pages that were made for who came back
    VIEWS = 18  # key: ""             tell members whose lists are wrong who is there
    ORIGINS = 10  # key: ""           forget which commands the broker before this one carried out


class Timers:
    """`is_live(deadline, kind, key)`: somebody still waits for this timer."""

    __slots__ = ("_heap", "_is_live", "_lapsed", "_number")

    def __init__(self, is_live: Callable[[float, Timer, int | str], bool]) -> None:
        self._heap: list[tuple[float, int, Timer, int | str]] = []
        self._is_live = is_live
        # How many entries have become stale since the heap was sifted; some of them may have come up since.
        self._lapsed = 0
        # Breaks ties in the order of `add`, so that a run can be repeated exactly.
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline: float, kind: Timer, key: int | str = "") -> None:
        self._number += 1
        heapq.heappush(self._heap, (deadline, self._number, kind, key))

    def lapse(self) -> None:
        """Nobody waits any more for one that was added."""
        self._lapsed += 1
        if self._lapsed > max(LAPSED_MIN, len(self._heap) // 2):
            self._lapsed = 0
            is_live = self._is_live
            self._heap = [entry for entry in self._heap if is_live(entry[0], entry[2], entry[3])]
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> tuple[float, Timer, int | str] | None:
        """The earliest timer that is due, or None."""
        if not self._heap or self._heap[0][0] > now:
            return None
        deadline, _, kind, key = heapq.heappop(self._heap)
        return deadline, kind, key
