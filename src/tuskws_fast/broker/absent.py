"""Who has no session (any more, or yet): how long the broker knows them, and what for.

    offline    the user of a token    `last_seen` and inbox     for `offline_ttl_s`; the longest away go first
    parted     a guest                inbox                     while a ticket can bring them back
    waiting    anybody                messages wait for them    until these are too old; a guest: as `parted`

A guest's name is made for one session. When that is over, and its ticket too, nobody can be that user any more: what is
kept under the name is of no use to anyone, and is forgotten at once. A node of guests would otherwise always remember
as many as it may, and what lies between them in memory never becomes whole again: a broker that 100,000 guests had
visited had 55 MiB more, and grew by 20 more while a million came and went.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from tuskws_fast.broker.timers import Timer
from tuskws_fast.broker.waiting import Waiting
from tuskws_fast.rooms.dedupe import inbox_scope

if TYPE_CHECKING:
    from tuskws_fast.broker.state import Core, Person


class Absent:
    """Part of `Core`; each of its people is in exactly one of the three."""

    def __init__(self, core: Core) -> None:
        self._core = core
        # Longest away first: user → when to forget them.
        self.offline: OrderedDict[str, float] = OrderedDict()
        self.parted: dict[str, None] = {}
        self.waiting = Waiting()
        self._armed = False

    def __len__(self) -> int:
        return self.remembered + len(self.waiting)

    @property
    def remembered(self) -> int:
        return len(self.offline) + len(self.parted)

    def stay(self, person: Person, sender: str = "") -> None:
        """Remember a person without a session, or not: see above. Messages may wait for them, the first of which
        `sender` has just left ("": it was there before)."""
        if person.is_guest and not person.ticket:
            self.forget(person)
            return
        if person.inbox is not None and person.inbox.history:
            self.offline.pop(person.id, None)
            self.parted.pop(person.id, None)
            self.waiting.add(person.id, sender)
            return
        self.waiting.discard(person.id)
        # A dict keeps the table it once needed: two of them are a third of what a remembered user takes.
        person.sessions, person.rooms = {}, {}
        if person.is_guest:
            self.parted[person.id] = None
        else:
            self._stay_offline(person)

    def _stay_offline(self, person: Person) -> None:
        core, limits = self._core, self._core.limits
        self.offline[person.id] = core.now + max(limits.offline_ttl_s, limits.history_ttl_s)
        self.offline.move_to_end(person.id)
        self._arm()
        if len(self.offline) > limits.offline_users_max:
            core.counters["offline_users_max"] += 1
            self._forget_longest()

    def came_back(self, person: Person) -> None:
        """They have a session."""
        self.offline.pop(person.id, None)
        self.parted.pop(person.id, None)
        self.waiting.discard(person.id)

    def ticket_over(self, user: str, ticket: int) -> None:
        """Nobody can go on with this session."""
        person = self._core.person(user)
        if person is not None and person.ticket == ticket:
            person.ticket = 0
            if not person.sessions:
                self.forget(person)

    def forget(self, person: Person) -> None:
        self.came_back(person)
        del self._core.shard_of(person.id).people[person.id]
        if person.inbox is not None:
            person.inbox.history.clear()
            if person.inbox.sweep_at is not None:
                self._core.timers.lapse()
            self._core.dedupe.forget(inbox_scope(person.id))
            self._core.ledger.end(person.inbox)

    def _forget_longest(self) -> None:
        person = self._core.person(next(iter(self.offline)))
        assert person is not None, "who is offline is known"
        self.forget(person)

    def expire(self) -> None:
        """Forget who stayed away for too long."""
        self._armed = False
        while self.offline and next(iter(self.offline.values())) <= self._core.now:
            self._forget_longest()
        self._arm()

    def _arm(self) -> None:
        if self.offline and not self._armed:
            self._armed = True
            self._core.timers.add(next(iter(self.offline.values())), Timer.OFFLINE)
