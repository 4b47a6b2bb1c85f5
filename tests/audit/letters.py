"""Private messages, judged: pure, a part of `judge`.

position    (user, epoch, offset) means one message; a message has one position, however often it was sent
stream      what a connection is sent begins behind what its user has confirmed, at most, and goes on by one
storage     what was acknowledged as `stored` has been handed to its user in the end; after a loss of power what was
            acknowledged as `synced` has
kept        what a user was sent in an epoch, and has not confirmed, a new connection is sent again
end         who asked has been answered
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from audit.verdict import Verdict

STORED, SYNCED = ("stored", "synced"), "synced"
Place = tuple[str, int]


@dataclass(slots=True)
class Letter:
    """`place`, `placed`: where and when some connection was sent it first."""

    to: str
    said_last: int
    place: Place | None = None
    placed: int = 0
    level: str = ""
    offset: int = 0
    acked: int = 0


class Letters:
    """`deprived(first, last, level)`: was the node deprived of what it had at this level, between these moments?"""

    def __init__(self, verdict: Verdict, deprived: Callable[[int, int, str], bool]) -> None:
        self.letters: dict[str, Letter] = {}
        self._verdict = verdict
        self._deprived = deprived
        self._places: dict[str, dict[Place, str]] = defaultdict(dict)
        self._at: dict[int, Place] = {}
        self._last: dict[str, Place] = {}
        # (user, epoch) → up to where, and when that was said.
        self._confirmed: dict[tuple[str, str], tuple[int, int]] = {}
        # Faults unless the node was deprived between two moments, which is told a moment late: (kind, text, …).
        self._unless: list[tuple[str, str, int, int, str]] = []
        # Users an acknowledgement to whom said `accepted`: the disk refused, and the epoch may be lost.
        self._volatile: set[str] = set()
        self._waiting: dict[str, tuple[int, set[Place]]] = {}

    def write(self, t: int, to: str, key: str) -> None:
        self.letters.setdefault(key, Letter(to, t)).said_last = t

    def posted(self, t: int, key: str, offset: int, level: str) -> None:
        letter = self.letters[key]
        letter.acked, letter.offset, letter.level = t, offset, level
        if level == "accepted":
            self._volatile.add(letter.to)

    def post(self, t: int, conn: int, user: str, epoch: str, offset: int, key: str, outlived: bool) -> None:
        """`outlived`: the connection did so with a broker, whose successor may send again what is not confirmed."""
        at = self._at.get(conn)
        confirmed, when = self._confirmed.get((user, epoch), (0, 0))
        what = f"connection {conn} of {user}"
        if at is None:
            if confirmed and offset > confirmed + 1:
                text = f"{what} begins at {epoch} {offset}, confirmed was {confirmed}"
                self._unless.append(("silent gap", text, when, t, SYNCED))
        elif outlived and self._places[user].get((epoch, offset)) == key:
            pass
        elif epoch == at[0] and offset <= at[1]:
            self._verdict.fault("order", t, f"{what} at {at} was sent {epoch} {offset}")
        elif epoch == at[0] and offset != at[1] + 1:
            self._verdict.fault("silent gap", t, f"{what} at {at} was sent {epoch} {offset}")
        self._at[conn] = self._last[user] = (epoch, offset)
        self._place(t, user, (epoch, offset), key)

    def _place(self, t: int, user: str, place: Place, key: str) -> None:
        known = self._places[user].setdefault(place, key)
        if known != key:
            self._verdict.fault("position", t, f"inbox of {user} {place} is {known} and {key}")
        letter = self.letters.get(key)
        if letter is None or letter.to != user:
            self._verdict.fault("odd", t, f"{user} was sent {key}, which nobody wrote to them")
        elif letter.place is None:
            letter.place, letter.placed = place, t
        elif letter.place != place and user not in self._volatile:
            text = f"{key} to {user} is {letter.place} and {place}"
            # Acknowledged only when it was written again: nothing had been promised of the first.
            level = "" if self._deprived(letter.placed, letter.acked, "") else letter.level
            self._unless.append(("duplicate", text, letter.placed, t, level))

    def confirm(self, t: int, user: str, epoch: str, offset: int) -> None:
        if offset > self._confirmed.get((user, epoch), (0, 0))[0]:
            self._confirmed[user, epoch] = offset, t

    def waiting(self, t: int, user: str, messages: list[Any]) -> None:
        """What a new connection of the user is sent in the end."""
        last = None
        for epoch, offset, key in messages:
            if last is not None and epoch == last[0] and offset != last[1] + 1:
                self._verdict.fault("history", t, f"inbox of {user}: {epoch} {offset} follows {last}")
            last = (epoch, offset)
            self._place(t, user, last, key)
        self._waiting[user] = t, {(epoch, offset) for epoch, offset, _ in messages}

    def judge(self) -> None:
        for kind, text, first, last, level in self._unless:
            if not self._deprived(first, last, level):
                self._verdict.fault(kind, last, text)
        for key, letter in self.letters.items():
            if not letter.acked:
                self._verdict.fault("unanswered", letter.said_last, f"{key} to {letter.to}")
            elif letter.place is None:
                end = self._waiting.get(letter.to, (0, ()))[0]
                if letter.level in STORED and not self._deprived(letter.acked, end, letter.level):
                    self._verdict.fault("lost", letter.acked, f"{key} to {letter.to}, acknowledged as {letter.level}")
        for user, (t, places) in self._waiting.items():
            self._judge_kept(t, user, places)

    def _judge_kept(self, t: int, user: str, places: set[Place]) -> None:
        if user not in self._last or user in self._volatile:
            return
        epoch = self._last[user][0]
        confirmed, _ = self._confirmed.get((user, epoch), (0, 0))
        for place, key in self._places[user].items():
            known = self.letters.get(key)
            if place[0] != epoch or place[1] <= confirmed or place in places:
                continue
            if known is not None and not self._deprived(known.placed, t, known.level):
                self._verdict.fault("lost", t, f"{key} to {user} {place} was not confirmed, and is not kept")
