"""What others see of a user: the best of its leases, and when it was last there.

    leases     laptop: away     phone: busy     (lost, in grace) tablet: online
    status     busy             = the most present of them: busy > online > away > offline

A lease is a connection's status. `offline` set by the client means invisible: a user all of whose leases are offline
looks in every view like one that has none. A view also remembers what was pushed last, because many changes within
one tick, or a second tab, are no news to anyone.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

OFFLINE = "offline"
_RANK = {OFFLINE: 0, "away": 1, "online": 2, "busy": 3}
STATUSES = frozenset(_RANK)
_MARK_BYTES = 7
MARKS = 2 ** (8 * _MARK_BYTES) - 1


def merged(leases: Iterable[str]) -> str:
    """The most present status; `offline` for none."""
    return max(leases, key=_RANK.__getitem__, default=OFFLINE)


def mark(user: str, status: str) -> int:
    """The sum (& `MARKS`) over a room's members stands for the whole list: equal sums are equal lists, and one change
    costs no look at the others. The same in every process."""
    return int.from_bytes(blake2b(f"{status} {user}".encode(), digest_size=_MARK_BYTES).digest())


class View:
    """One user as others see it. `last_seen` (Unix time) is None for one that was never visible."""

    __slots__ = ("asked", "last_seen", "pushed", "status")

    def __init__(self) -> None:
        self.status = OFFLINE
        self.pushed = OFFLINE
        # Somebody was shown a status before it was pushed: going back to what was pushed is news to them.
        self.asked = False
        self.last_seen: float | None = None

    def merge(self, leases: Iterable[str], wall: float) -> bool:
        """Take the user's leases of now. True: others see something else than they were last told."""
        status = merged(leases)
        if status == OFFLINE and self.status != OFFLINE:
            self.last_seen = wall
        self.status = status
        return status != self.pushed

    def show(self) -> str:
        """The status, to who asks for it."""
        self.asked = self.asked or self.status != self.pushed
        return self.status

    def seen_at(self, wall: float) -> float | None:
        """The `last_seen` to show at `wall`: that moment itself while the user is visible."""
        return self.last_seen if self.status == OFFLINE else wall
