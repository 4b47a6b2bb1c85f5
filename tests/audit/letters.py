"""Private messages, judged: pure, a part of `judge`.

position    (user, epoch, offset) means one message; a message has one position, however often it was sent
stream      what a connection is sent begins with the first that its user has not confirmed, or before, and goes on by
            one
storage     what was acknowledged as `stored` has been handed to its user in the end; after a loss of power what was
            acknowledged as `synced` has
kept        what a user was sent, and has not confirmed, a new connection is sent again
end         who is connected was sent everything; who asked has been answered
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
        # Up to where each connection was sent its user's inbox.
        self._at: dict[int, Place] = {}
        # (user, epoch) → the first that anybody was sent of it, and when.
        self._first: dict[tuple[str, str], tuple[int, int]] = {}
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
        what = f"connection {conn} of {user}"
        if at is None:
            confirmed, when = self._confirmed.get((user, epoch), (0, 0))
            first, when = (confirmed + 1, when) if confirmed else self._first.get((user, epoch), (offset, t))
            if offset > first:
                text = f"{what} begins at {epoch} {offset}, and nobody has confirmed {first}"
                self._unless.append(("silent gap", text, when, t, SYNCED))
        elif epoch == at[0] and offset <= at[1]:
            if not (outlived and self._places[user].get((epoch, offset)) == key):
                self._verdict.fault("order", t, f"{what} at {at} was sent {epoch} {offset}")
        elif epoch == at[0] and offset != at[1] + 1:
            self._verdict.fault("silent gap", t, f"{what} at {at} was sent {epoch} {offset}")
        self._at[conn] = max(at, (epoch, offset)) if at is not None and at[0] == epoch else (epoch, offset)
        self._place(t, user, (epoch, offset), key)

    def _place(self, t: int, user: str, place: Place, key: str) -> None:
        known = self._places[user].setdefault(place, key)
        if (user, place[0]) not in self._first or place[1] < self._first[user, place[0]][0]:
            self._first[user, place[0]] = place[1], t
        if known != key:
            self._verdict.fault("position", t, f"inbox of {user} {place} is {known} and {key}")
        letter = self.letters.get(key)
        if letter is None or letter.to != user:
            self._verdict.fault("odd", t, f"{user} was sent {key}, which nobody wrote to them")
        elif letter.place is None:
            letter.place, letter.placed = place, t
        elif letter.place != place and user not in self._volatile:
            text = f"{key} to {user} is {letter.place} and {place}"
            self._unless.append(("duplicate", text, letter.placed, t, self._promised(letter)))

    def confirm(self, t: int, user: str, epoch: str, offset: int) -> None:
        if offset > self._confirmed.get((user, epoch), (0, 0))[0]:
            self._confirmed[user, epoch] = offset, t

    def waiting(self, t: int, user: str, messages: list[Any], conns: list[int]) -> None:
        """What a new connection of the user is sent in the end, when all is quiet; `conns` are there already."""
        last: Place | None = None
        for epoch, offset, key in messages:
            if last is not None and epoch == last[0] and offset != last[1] + 1:
                self._verdict.fault("history", t, f"inbox of {user}: {epoch} {offset} follows {last}")
            last = (epoch, offset)
            self._place(t, user, last, key)
        for conn in conns:
            at = self._at.get(conn)
            if last is not None and (at is None or at[0] != last[0] or at[1] < last[1]):
                self._verdict.fault("tail", t, f"connection {conn} of {user} is at {at}, {last} waits")
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
        if user in self._volatile:
            return
        for place, key in self._places[user].items():
            known = self.letters.get(key)
            if known is None or place in places or self._is_confirmed(user, place):
                continue
            if not self._deprived(known.placed, t, self._promised(known)):
                self._verdict.fault("lost", t, f"{key} to {user} {place} was not confirmed, and is not kept")

    def _is_confirmed(self, user: str, place: Place) -> bool:
        """Numbering goes on over epochs: who confirms something of a later one has what came before that began."""
        epoch, offset = place
        if offset <= self._confirmed.get((user, epoch), (0, 0))[0]:
            return True
        began = self._first[user, epoch][1]
        firsts = (
            self._first[user, later] for of, later in self._confirmed if (of, later) in self._first and of == user
        )
        return any(first > offset and at > began for first, at in firsts)

    def _promised(self, letter: Letter) -> str:
        """Of its first place. Acknowledged only when it was written again: nothing."""
        return "" if self._deprived(letter.placed, letter.acked, "") else letter.level
