"""What the broker holds: shards with their rooms and people, and the directory of sessions that leads to both.

    Core ── shards[crc32(name) % 64] ── rooms   name → Room      members, history, settings, sanctions
      │                              └─ people  user → Person    leases, inbox, rooms it is in
      └──── sessions   conn → Session ── person, rooms           what a record from a worker starts with

A room belongs to the shard of its name; a user's leases and inbox to the shard of the user's id. Ranges of shards can
move to brokers of their own: the directory is then a copy in each, because every `Attach` goes to all. `Session.rooms`
and `Person.rooms` are the same membership seen from the other side, kept equal by `broker.members` alone.

`now` and `wall` are those of the record or tick being handled: `Engine` sets them, nothing here reads a clock.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain
from types import MappingProxyType
from typing import Any, cast

from tuskws_fast.auth.revocation import Revocation
from tuskws_fast.broker.absent import Absent
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.ledger import Ledger, Sequence
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.broker.timers import Timer, Timers
from tuskws_fast.ipc.records import Claims, DownRecord, Gap, PresenceMode
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms.dedupe import Dedupe, inbox_scope
from tuskws_fast.rooms.history import History, Tally
from tuskws_fast.rooms.membership import Membership
from tuskws_fast.rooms.permissions import HISTORY, JOIN, MODERATE, PRESENCE, PUBLISH
from tuskws_fast.rooms.presence import MARKS, View, mark
from tuskws_fast.rooms.settings import DEFAULT_SETTINGS, RoomSettings, SettingBounds
from tuskws_fast.rooms.shelf import Stacks

# What the engine returns: (worker slot, record), in the order in which each worker must see its own.
Out = list[tuple[int, DownRecord]]

# What everyone may do in a public room, and who is invited (or made it) in a private one.
BASIC_RIGHTS = JOIN | PUBLISH | HISTORY | PRESENCE

# A history is swept at most eight times within its age, and once a second: reads trim exactly, memory may wait.
_SWEEPS_A_TTL = 8
_SWEEP_MIN_S = 1.0


# What most rooms never have, shared by all until they do; whoever writes to it by mistake gets an error.
_NOBODY = cast(dict[str, Any], MappingProxyType({}))
_UNINVITED: frozenset[str] = frozenset()
_NEVER = float("-inf")


class Room:
    """`base`: the offset after which the epoch began, 0 but after a fault. `stored`: see `ledger`. `told`: what members
    have been told of who is here, as one number (`rooms.presence.mark`)."""

    __slots__ = (
        "bans",
        "base",
        "created",
        "creator",
        "epoch",
        "history",
        "invited",
        "members",
        "mutes",
        "name",
        "plain",
        "previous",
        "settings",
        "stats_at",
        "stats_due",
        "stored",
        "sweep_at",
        "told",
        "tries",
    )

    def __init__(self, name: str, epoch: str, history: History) -> None:
        self.name = name
        self.epoch = epoch
        self.base = 0
        # The epoch that this one followed in this process: its position at `base` is the beginning of this.
        self.previous = ""
        self.stored = False
        self.history = history
        self.members = Membership()
        self.told = 0
        self.settings = DEFAULT_SETTINGS
        # True once someone decided about it (`create_room`, `update_room`): then it outlives its last member.
        self.created = False
        self.creator = ""
        self.invited: frozenset[str] | set[str] = _UNINVITED
        # Until when, on the clock of `now`; None = until it is lifted.
        self.bans: dict[str, float | None] = _NOBODY
        self.mutes: dict[str, float | None] = _NOBODY
        # Any member may publish: spares the hot path every other question.
        self.plain = True
        self.sweep_at: float | None = None
        self.stats_at = _NEVER
        self.stats_due = False
        # Wrong passwords: user → (how many, since when).
        self.tries: dict[str, tuple[int, float]] = _NOBODY

    @property
    def scope(self) -> str:
        return self.name

    def invite(self, user: str) -> None:
        if not isinstance(self.invited, set):
            self.invited = set()
        self.invited.add(user)

    def ban(self, user: str, until: float | None) -> None:
        self.bans = self.bans or {}
        self.bans[user] = until

    def mute(self, user: str, until: float | None) -> None:
        self.mutes = self.mutes or {}
        self.mutes[user] = until
        self.settle()

    def note_try(self, user: str, count: int, since: float) -> None:
        self.tries = self.tries or {}
        self.tries[user] = (count, since)

    def settle(self) -> None:
        """Call after any change of settings or mutes."""
        self.plain = self.settings.public and not self.settings.moderated and not self.mutes

    def rights(self, user: str, claimed: int) -> int:
        """What `user` may do here, whose token grants `claimed` for this room."""
        if user and user == self.creator:
            return claimed | BASIC_RIGHTS | MODERATE
        if self.settings.public or user in self.invited:
            return claimed | BASIC_RIGHTS
        return claimed

    def is_banned(self, user: str, now: float) -> bool:
        return user in self.bans and _runs(self.bans[user], now)

    def is_muted(self, user: str, now: float) -> bool:
        return user in self.mutes and _runs(self.mutes[user], now)


def _runs(until: float | None, now: float) -> bool:
    return until is None or until > now


class Inbox:
    """A user's private messages: a sequence like a room's, of which every entry is kept until the user has it.

    `confirmed`: up to here a client of theirs said so. `delivered`: up to here some connection was sent them. `recent`:
    what was confirmed a moment ago, as (offset, when it was published, body); None most of the time.
    """

    __slots__ = ("base", "confirmed", "delivered", "epoch", "history", "recent", "scope", "stored", "sweep_at")

    def __init__(self, user: str, epoch: str, history: History) -> None:
        self.scope = inbox_scope(user)
        self.epoch = epoch
        self.base = 0
        self.stored = False
        self.history = history
        self.confirmed = 0
        self.delivered = 0
        self.recent: deque[tuple[int, float, bytes]] | None = None
        self.sweep_at: float | None = None


class Person:
    """A user the broker knows: connected, in grace, or `absent`.

    `is_guest`: no token ever said that somebody is this user; None: it had no session yet. `ticket`: by which a guest
    who has none can come back, 0 is none.
    """

    __slots__ = ("id", "inbox", "is_guest", "rooms", "sessions", "ticket", "username", "view")

    def __init__(self, user: str) -> None:
        self.id = user
        self.username = user
        self.sessions: dict[int, Session] = {}
        self.rooms: dict[str, Room] = {}
        self.view = View()
        self.inbox: Inbox | None = None
        self.is_guest: bool | None = None
        self.ticket = 0

    def leases(self) -> Iterator[str]:
        return (session.status for session in self.sessions.values())

    def shares_room_with(self, other: Person) -> bool:
        if self is other:
            return True
        few, many = (self.rooms, other.rooms) if len(self.rooms) <= len(other.rooms) else (other.rooms, self.rooms)
        return any(name in many for name in few)


class Session:
    """One connection's identity. `lost`: its socket is gone, its memberships and lease last for the grace.

    `inbox_at`: up to this offset the connection was sent its user's inbox. `ticket`, `roles`, `claims`: see `tickets`.
    `passwords`: the rooms it showed a password for, and that password's hash.
    """

    __slots__ = (
        "claims",
        "conn",
        "inbox_at",
        "lost",
        "mode",
        "passwords",
        "person",
        "roles",
        "rooms",
        "status",
        "ticket",
        "worker",
    )

    def __init__(self, conn: int, worker: int, person: Person, status: str) -> None:
        self.conn = conn
        self.worker = worker
        self.person = person
        self.mode = int(PresenceMode.NONE)
        self.status = status
        self.rooms: dict[str, Room] = {}
        self.inbox_at = 0
        self.lost = False
        self.ticket = conn
        self.roles: list[str] = []
        self.claims: Claims | None = None
        self.passwords: dict[str, str] | None = None


class Shard:
    """A room is in one of two tables: in `public` if anyone may list it."""

    __slots__ = ("closed", "people", "public")

    def __init__(self) -> None:
        self.public: dict[str, Room] = {}
        self.closed: dict[str, Room] = {}
        self.people: dict[str, Person] = {}

    def rooms(self) -> Iterator[Room]:
        return chain(self.public.values(), self.closed.values())


class Core:
    """The tables, and the few operations on them that keep each table true to the others."""

    def __init__(
        self, limits: EngineLimits, now: float, epoch_source: Callable[[], str], durable: bool = False
    ) -> None:
        self.limits = limits
        self.ledger = Ledger(durable)
        self.now = now
        self.wall = 0.0
        self.epoch_source = epoch_source
        self.bounds = SettingBounds(
            limits.max_room_members,
            limits.history_size,
            limits.history_size_max,
            limits.history_ttl_s,
            limits.history_ttl_max_s,
        )
        self.shards = [Shard() for _ in range(limits.shards)]
        self.sessions: dict[int, Session] = {}
        # Live workers: slot → the upper bits of its connections' numbers, None until the first connection.
        self.workers: dict[int, int | None] = {}
        # Live sessions that want everyone's presence, by worker.
        self.watchers: dict[int, int] = {}
        # What they have been told of everybody, as a room's `told`.
        self.told = 0
        self.timers = Timers(self._is_awaited)
        self.tally = Tally(limits.history_bytes_total_max)
        # What is revoked, and of which tokens: (`auth.revocation`'s kind, name) → since when and until when.
        self.revocations: dict[tuple[str, str], Revocation] = {}
        self.stacks: Stacks[History] = Stacks(limits.history_memory)
        self.dedupe = Dedupe(limits.dedupe_window_s, limits.dedupe_ids_max, limits.dedupe_bytes_max)
        self.dedupe_armed = False
        # People without a session.
        self.absent = Absent(self)
        self.room_count = 0
        self.member_count = 0
        # How often each limit was hit, and each kind of record refused.
        self.counters: Counter[str] = Counter()

    # -- rooms -----------------------------------------------------------------------------------------------------

    def shard_of(self, name: str) -> Shard:
        return self.shards[zlib.crc32(name.encode()) % len(self.shards)]

    def room(self, name: str) -> Room | None:
        shard = self.shard_of(name)
        return shard.public.get(name) or shard.closed.get(name)

    def new_room(self, name: str) -> Room:
        """An empty public room; it does not exist yet, and `check_room_count` was asked."""
        room = self.add_room(name, self.epoch_source())
        self.ledger.begin(room)
        return room

    def add_room(self, name: str, epoch: str) -> Room:
        room = Room(name, epoch, self._history(name))
        self.shard_of(name).public[name] = room
        self.room_count += 1
        return room

    def renew(self, sequence: Sequence) -> None:
        """Another epoch from the next publication on: what a client remembers of this one proves nothing any more."""
        sequence.epoch = self.epoch_source()
        sequence.base = sequence.history.top

    def forsake(self, room: Room, out: Out) -> None:
        """The next publication will not be written: it begins an epoch of its own (see `ledger`), and who is in the
        room hears of it. Nothing is missing: the gap is empty."""
        room.previous = room.epoch
        self.renew(room)
        room.stored = room.history.written = False
        for worker in room.members.workers:
            out.append((worker, Gap(room.name, room.epoch, room.base + 1, room.base)))

    def check_room_count(self) -> None:
        if self.room_count >= self.limits.rooms_max:
            self.counters["rooms_max"] += 1
            raise Refused(ErrorCode.OVERLOADED, "The node has too many rooms")

    def apply_settings(self, room: Room, settings: RoomSettings) -> None:
        room.settings = settings
        room.created = True
        room.settle()
        shard = self.shard_of(room.name)
        here, there = (shard.public, shard.closed) if settings.public else (shard.closed, shard.public)
        there.pop(room.name, None)
        here[room.name] = room
        limits = self.limits
        size = limits.history_size if settings.history_size is None else settings.history_size
        ttl_s = limits.history_ttl_s if settings.history_ttl is None else settings.history_ttl
        kept = room.history.keeps
        room.history.configure(size, ttl_s, limits.history_bytes, self.now)
        if kept and not room.history.keeps:
            # Offsets given from now on are written nowhere.
            self.ledger.end(room)
        elif room.history.keeps and not kept:
            self.ledger.begin(room)
        if room.sweep_at is not None:
            room.sweep_at = None
            self.timers.lapse()
        self.arm_room_sweep(room)

    def remove_room(self, room: Room) -> None:
        """Nobody is in it any more. A room of this name would start over, with a new epoch."""
        shard = self.shard_of(room.name)
        del (shard.public if room.settings.public else shard.closed)[room.name]
        room.history.clear()
        self.dedupe.forget(room.name)
        self.ledger.end(room)
        if room.sweep_at is not None:
            self.timers.lapse()
        self.room_count -= 1

    def retire(self, room: Room) -> None:
        """Evict the room if nothing holds it: no member, no history, no decision about it."""
        if not (room.members or room.created or room.bans or room.mutes or room.invited):
            room.history.trim(self.now)
            if not room.history:
                self.remove_room(room)

    # -- people ----------------------------------------------------------------------------------------------------

    def person(self, user: str) -> Person | None:
        return self.shard_of(user).people.get(user)

    def known_person(self, user: str) -> Person:
        """The user's record. Who has no session (yet) has to `stay` absent, or nobody would ever forget them."""
        people = self.shard_of(user).people
        person = people.get(user)
        if person is None:
            person = people[user] = Person(user)
        return person

    def show(self, person: Person) -> None:
        """Others are told the person's status of now."""
        view = person.view
        if view.pushed != view.status:
            change = mark(person.id, view.status) - mark(person.id, view.pushed)
            for room in person.rooms.values():
                room.told = (room.told + change) & MARKS
            # Everybody begins offline, so who is counts nothing here.
            self.told = (self.told + change) & MARKS
            view.pushed = view.status

    def inbox_of(self, person: Person) -> Inbox:
        if person.inbox is None:
            person.inbox = self.add_inbox(person, self.epoch_source())
            self.ledger.begin(person.inbox)
        return person.inbox

    def add_inbox(self, person: Person, epoch: str) -> Inbox:
        limits = self.limits
        history = History(self.tally, limits.inbox_size, limits.inbox_ttl_s, limits.inbox_bytes)
        person.inbox = Inbox(person.id, epoch, history)
        return person.inbox

    def session(self, conn: int) -> Session:
        """The live session of a connection."""
        session = self.sessions.get(conn)
        if session is None or session.lost:
            raise Refused(ErrorCode.NOT_AUTHENTICATED)
        return session

    # -- histories -------------------------------------------------------------------------------------------------

    def _history(self, name: str) -> History:
        limits = self.limits
        stacks = self.stacks if self.ledger.durable else None
        return History(self.tally, limits.history_size, limits.history_ttl_s, limits.history_bytes, stacks, name)

    def arm_room_sweep(self, room: Room) -> None:
        """Make sure that what the room's history holds will be dropped when it is too old."""
        if room.sweep_at is None and room.history:
            room.sweep_at = self._sweep_time(room.history)
            self.timers.add(room.sweep_at, Timer.SWEEP_ROOM, room.name)

    def arm_inbox_sweep(self, person: Person, inbox: Inbox) -> None:
        if inbox.sweep_at is None and inbox.history:
            inbox.sweep_at = self._sweep_time(inbox.history)
            self.timers.add(inbox.sweep_at, Timer.SWEEP_INBOX, person.id)

    def _sweep_time(self, history: History) -> float:
        oldest_at = history.oldest_at
        assert oldest_at is not None, "only a history that holds something is swept"
        return max(oldest_at + history.ttl_s, self.now + max(history.ttl_s / _SWEEPS_A_TTL, _SWEEP_MIN_S))

    def sweep_room(self, name: str, deadline: float) -> None:
        room = self.room(name)
        if room is not None and room.sweep_at == deadline:
            room.sweep_at = None
            room.history.trim(self.now)
            self.arm_room_sweep(room)
            self.retire(room)

    def sweep_inbox(self, user: str, deadline: float) -> None:
        person = self.person(user)
        inbox = person.inbox if person is not None else None
        if person is not None and inbox is not None and inbox.sweep_at == deadline:
            inbox.sweep_at = None
            inbox.history.trim(self.now)
            self.arm_inbox_sweep(person, inbox)
            if person.id in self.absent.waiting and not inbox.history:
                self.absent.stay(person)

    def _is_awaited(self, deadline: float, kind: Timer, key: int | str) -> bool:
        """False only where a timer's owner has said that it lapsed: the other kinds are all over soon."""
        if not isinstance(key, str):
            return True
        if kind is Timer.SWEEP_ROOM:
            room = self.room(key)
            return room is not None and room.sweep_at == deadline
        if kind is Timer.SWEEP_INBOX:
            person = self.person(key)
            return person is not None and person.inbox is not None and person.inbox.sweep_at == deadline
        return kind is not Timer.SANCTION or self.sanction_ends(key) == deadline

    def sanction_ends(self, fact: str) -> float | None:
        """When the ban or mute that `keeping` knows by this key is over; None: never, or there is none."""
        kind, name, user = fact.split("\n")
        room = self.room(name)
        return None if room is None else (room.bans if kind == "ban" else room.mutes).get(user)

    def arm_dedupe(self) -> None:
        """Make sure that idempotency entries go when their window is over (a second late: one timer for many)."""
        expiry = self.dedupe.next_expiry()
        if not self.dedupe_armed and expiry is not None:
            self.dedupe_armed = True
            self.timers.add(max(expiry, self.now + 1.0), Timer.DEDUPE)

    def expire_dedupe(self) -> None:
        self.dedupe_armed = False
        self.dedupe.expire(self.now)
        self.arm_dedupe()
