"""How sessions get into rooms and out again, and what the others there are told.

Joining is one atomic step: the replay ends at the offset at which the session becomes a member, so the first
publication after `Joined` on its worker's ring is the next one. Every way in goes through `_admit`, every way out of
one session through `_exit`: there alone the two directions of membership (`Session.rooms`, `Room.members`) change.

Members are users. Only the first and the last session of a user are told to the others, and in rooms above
`presence_full_max` members not even these: `room_stats`, at most once a `stats_interval_s`, takes their place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.replays import Replays
from tuskws_fast.broker.state import Core, Out, Person, Room, Session
from tuskws_fast.broker.timers import Timer
from tuskws_fast.broker.views import Views
from tuskws_fast.ipc.records import Evict, Gap, Gone, Join, Joined, Leave, Left, Push, Recover, Recovered, Restore
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.history import paged
from tuskws_fast.rooms.permissions import EVERYTHING, HISTORY, JOIN, MODERATE
from tuskws_fast.rooms.presence import MARKS, mark
from tuskws_fast.rooms.recovery import Replay, replay_since

# How many users' wrong passwords a room remembers; more push out the oldest.
_TRIES_USERS_MAX = 1_000


def checked_room_name(name: object) -> str:
    try:
        return names.room_name(name)
    except ValueError:
        raise Refused(ErrorCode.BAD_ROOM_NAME) from None


def checked_since(value: object) -> tuple[str, int] | None:
    """A client's position, or None where it gave none."""
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 2:
        epoch, offset = value
        if isinstance(epoch, str) and isinstance(offset, int) and not isinstance(offset, bool):
            return epoch, offset
    raise Refused(ErrorCode.BAD_MESSAGE, "`since` must be a position")


class Admission(NamedTuple):
    """A session is in a room from here on. `first`: it is its user's first there."""

    tag: int
    epoch: str
    offset: int
    body: bytes
    pages: list[bytes]
    first: bool
    slow: str
    told: int


class Members:
    def __init__(self, core: Core, views: Views) -> None:
        self._core = core
        self._views = views
        self.replays = Replays(core)

    # -- in --------------------------------------------------------------------------------------------------------

    def join(self, worker: int, record: Join, out: Out) -> None:
        session = self._core.session(record.conn)
        name = checked_room_name(record.room)
        checked_since(record.since)
        if name in session.rooms:
            raise Refused(ErrorCode.ALREADY_IN_ROOM)
        room = self._core.room(name)
        rights = record.rights
        if room is not None:
            rights = room.rights(session.person.id, rights)
            self._check_entry(room, session.person, rights, record.password, None)
            password = room.settings.password
            if password is not None and not rights & MODERATE:
                session.passwords = {**(session.passwords or {}), name: password}
        self._check_capacity(room, session.person)
        if room is None:
            self.check_may_create()
            room = self._core.new_room(name)
            rights = EVERYTHING
        joined = self._admit(session, room, record, bool(rights & HISTORY), self._core.limits.page_bytes)
        self._told(session, room, joined, out)

    def rejoin(
        self,
        session: Session,
        name: str,
        rights: int,
        since: tuple[str, int] | None,
        shown: str | None,
        page_bytes: int,
        out: Out,
    ) -> Admission:
        """As `join`, for a session that is resumed: the room's password need not be shown again if it is still the one
        with the hash `shown`. `out` gets what the others are told."""
        room = self._core.room(name)
        if room is not None:
            rights = room.rights(session.person.id, rights)
            self._check_entry(room, session.person, rights, None, shown)
            if shown is not None:
                session.passwords = {**(session.passwords or {}), name: shown}
        self._check_capacity(room, session.person)
        if room is None:
            self.check_may_create()
            room = self._core.new_room(name)
            rights = EVERYTHING
        wish = Join(session.conn, 0, rights, name, None, since, None)
        joined = self._admit(session, room, wish, bool(rights & HISTORY), page_bytes)
        if joined.first:
            self._tell("member_joined", room, session.person, session.conn, out)
        return joined

    def join_by_server(self, conn: int, name: str, out: Out) -> None:
        """As `join`, but nobody is asked for a right or a password; bounds hold for the server too."""
        session = self._core.session(conn)
        if name in session.rooms:
            raise Refused(ErrorCode.ALREADY_IN_ROOM)
        room = self._core.room(name)
        self._check_capacity(room, session.person)
        if room is None:
            self.check_may_create()
            room = self._core.new_room(name)
        wish = Join(conn, 0, EVERYTHING, name, None, None, None)
        self._told(session, room, self._admit(session, room, wish, True, self._core.limits.page_bytes), out)

    def check_may_create(self) -> None:
        self._core.check_room_count()

    def _check_entry(self, room: Room, person: Person, rights: int, password: str | None, shown: str | None) -> None:
        if room.is_banned(person.id, self._core.now) or not rights & JOIN:
            raise Refused(ErrorCode.FORBIDDEN)
        if room.settings.password not in (None, shown) and not rights & MODERATE:
            self._check_password(room, person.id, password)

    def _check_password(self, room: Room, user: str, password: str | None) -> None:
        """Hashing costs the broker's time and guessing the room's secret: both are bounded by tries a window."""
        if password is None:
            raise Refused(ErrorCode.BAD_PASSWORD, "The room has a password")
        limits, now = self._core.limits, self._core.now
        count, since = room.tries.get(user, (0, now))
        if since + limits.password_window_s <= now:
            count, since = 0, now
        if count >= limits.password_tries_max:
            self._core.counters["password_tries_max"] += 1
            raise Refused(ErrorCode.RATE_LIMITED, "Too many wrong passwords", since + limits.password_window_s - now)
        if room.settings.admits(password):
            if user in room.tries:
                del room.tries[user]
            return
        room.note_try(user, count + 1, since)
        if len(room.tries) > _TRIES_USERS_MAX:
            del room.tries[next(iter(room.tries))]
        raise Refused(ErrorCode.BAD_PASSWORD)

    def _check_capacity(self, room: Room | None, person: Person) -> None:
        limits = self._core.limits
        if room is not None:
            if person.id in room.members:
                return
            own = room.settings.max_members
            most = limits.max_room_members if own is None else own
            if 0 < most <= len(room.members):
                self._core.counters["max_room_members"] += 1
                raise Refused(ErrorCode.ROOM_FULL)
        if 0 < limits.max_rooms_per_user <= len(person.rooms):
            self._core.counters["max_rooms_per_user"] += 1
            raise Refused(ErrorCode.TOO_MANY_ROOMS)

    def _admit(self, session: Session, room: Room, wish: Join, may_read: bool, page_bytes: int) -> Admission:
        core, since, bodies = self._core, wish.since, []
        # What has to be fetched is found out here, before anything has changed.
        if since is None and may_read:
            bodies = self._replay(room, None, wish.history or 0).bodies
        elif since is not None and may_read:
            self._bring(room, since)
        first = self._enter(session, room)
        missed = None
        if since is not None and may_read:
            head, following = self._heads(room, True)
            free = answers.room_on(page_bytes, head), answers.room_on(core.limits.page_bytes, following)
            missed = self.replays.since(room, since, *free)
        if missed is not None:
            cut = [[page] if page else [] for page in missed]
        else:
            head, following = self._heads(room, None if since is None else False)
            free = answers.room_on(page_bytes, head), answers.room_on(core.limits.page_bytes, following)
            cut = paged(bodies, *free)
        body, *pages = answers.headed(head, following, cut)
        slow, told = room.settings.slow_consumer, self._views.told(room)
        return Admission(wish.tag, room.epoch, room.history.top, body, pages, first, slow, told)

    def _heads(self, room: Room, recovered: bool | None) -> tuple[bytes, bytes]:
        """Of `room_joined`, and of the `history` pages behind it."""
        head: dict[str, Any] = {
            "type": "room_joined",
            "room": room.name,
            "member_count": len(room.members),
            "epoch": room.epoch,
            "offset": room.history.top,
            "recovered": recovered,
        }
        if len(room.members) <= self._core.limits.presence_full_max:
            head["members"] = self.listed(room)
        following = {
            "type": "history",
            "room": room.name,
            "epoch": room.epoch,
            "offset": room.history.top,
            "recovered": recovered,
        }
        return codec.encode(head), codec.encode(following)

    def _replay(self, room: Room, since: tuple[str, int] | None, newest: int) -> Replay:
        """Raises `OnShelf`: before anything has changed."""
        core, history = self._core, room.history
        shelf_bytes = core.limits.replay_bytes_max
        replay = replay_since(history, room.epoch, room.base, since, newest, core.now, shelf_bytes)
        if replay.recovered is False and since is not None and history.shelved_from(since[1] + 1) > shelf_bytes:
            core.counters["replay_bytes_max"] += 1
        return replay

    def check_reach(self, name: str, position: object) -> None:
        """Raises `OnShelf` if `rejoin` would, which comes too late for it."""
        room = self._core.room(name)
        match position:
            case [str(epoch), int(offset)] if room is not None:
                self._bring(room, (epoch, offset))

    def _bring(self, room: Room, since: tuple[str, int]) -> None:
        """Raises `OnShelf` if what came after `since` could be given, and not at once."""
        history, after = room.history, since[1]
        if history.shelf is None or since[0] != room.epoch or after < room.base:
            return
        history.trim(self._core.now)
        if history.kept_from - 1 <= after and history.shelved_from(after + 1) <= self._core.limits.replay_bytes_max:
            history.bring(after + 1)

    def _told(self, session: Session, room: Room, joined: Admission, out: Out) -> None:
        tag, epoch, offset, body, pages, first, slow, told = joined
        out.append((session.worker, Joined(session.conn, tag, room.name, epoch, offset, body, pages, slow, told)))
        if first:
            self._tell("member_joined", room, session.person, session.conn, out)

    def _enter(self, session: Session, room: Room) -> bool:
        """True: the user's first session in the room."""
        person = session.person
        session.rooms[room.name] = room
        first = room.members.join(person.id, session.conn, session.worker)
        if first:
            person.rooms[room.name] = room
            room.told = (room.told + mark(person.id, person.view.pushed)) & MARKS
            self._core.member_count += 1
        return first

    def listed(self, room: Room) -> list[dict[str, Any]]:
        """The entries of `members`."""
        shard_of = self._core.shard_of
        people = (shard_of(user).people[user] for user in room.members)
        return [{"userId": p.id, "username": p.username, "status": p.view.show()} for p in people]

    # -- out -------------------------------------------------------------------------------------------------------

    def leave(self, worker: int, record: Leave, out: Out) -> None:
        self.leave_room(self._core.session(record.conn), record.room, record.tag, out)

    def leave_room(self, session: Session, name: str, tag: int, out: Out) -> None:
        room = session.rooms.get(name)
        if room is None:
            raise Refused(ErrorCode.NOT_IN_ROOM)
        out.append((session.worker, Left(session.conn, tag, name, answers.room_left(name))))
        self._exit_and_tell(session, room, out)

    def leave_all(self, session: Session, out: Out) -> None:
        """The session has ended: it is in no room any more."""
        for room in list(session.rooms.values()):
            self._exit_and_tell(session, room, out)

    def lose(self, session: Session) -> None:
        """The socket is gone: still a member of everything, but no worker has to hear about it."""
        for room in session.rooms.values():
            room.members.lose(session.conn, session.worker)

    def evict(self, room: Room, user: str, reason: str, out: Out) -> bool:
        """Remove all sessions of `user` at once. False: the user was not in the room."""
        sessions = [self._core.sessions[conn] for conn in room.members.conns_of(user)]
        if not sessions:
            return False
        by_worker: dict[int, list[int]] = {}
        for session in sessions:
            if not session.lost:
                by_worker.setdefault(session.worker, []).append(session.conn)
        body = answers.kicked(room.name, reason)
        for worker, evicted in by_worker.items():
            out.append((worker, Evict(room.name, evicted, body)))
        for session in sessions:
            self._exit_and_tell(session, room, out)
        return True

    def delete(self, room: Room, out: Out) -> None:
        """Everybody out, and the room is gone. One `Gone` a worker tells all its members."""
        for user in room.members:
            for conn in room.members.conns_of(user):
                del self._core.sessions[conn].rooms[room.name]
            person = self._core.person(user)
            assert person is not None, "a member is a known person"
            del person.rooms[room.name]
        self._core.member_count -= len(room.members)
        gone = Gone(room.name, answers.room_deleted(room.name))
        for worker in room.members.workers:
            out.append((worker, gone))
        self._core.remove_room(room)

    def _exit_and_tell(self, session: Session, room: Room, out: Out) -> None:
        if self._exit(session, room):
            self._tell("member_left", room, session.person, 0, out)
            self._core.retire(room)

    def _exit(self, session: Session, room: Room) -> bool:
        """True: it was the user's last session in the room."""
        person = session.person
        del session.rooms[room.name]
        last = room.members.leave(person.id, session.conn, session.worker)
        if last:
            del person.rooms[room.name]
            room.told = (room.told - mark(person.id, person.view.pushed)) & MARKS
            self._core.member_count -= 1
        return last

    # -- telling the others ----------------------------------------------------------------------------------------

    def _tell(self, kind: str, room: Room, person: Person, exclude: int, out: Out) -> None:
        workers = room.members.workers
        if not workers:
            return
        count = len(room.members)
        if count > self._core.limits.presence_full_max:
            self._stats_due(room)
            return
        body = answers.member_push(kind, room.name, person.id, person.username, count)
        push = Push(exclude, room.name, body, self._views.told(room))
        for worker in workers:
            out.append((worker, push))

    def _stats_due(self, room: Room) -> None:
        if not room.stats_due:
            room.stats_due = True
            core = self._core
            core.timers.add(max(core.now, room.stats_at + core.limits.stats_interval_s), Timer.STATS, room.name)

    def push_stats(self, name: str, out: Out) -> None:
        room = self._core.room(name)
        if room is None or not room.stats_due:
            return
        room.stats_due = False
        room.stats_at = self._core.now
        push = Push(0, name, answers.room_stats(name, len(room.members)))
        for worker in room.members.workers:
            out.append((worker, push))

    def correct_views(self, out: Out) -> None:
        """Tell the members who were told wrong who is there, as much at once as their workers take easily."""
        limits, sent = self._core.limits, 0
        for room, workers in self._views.wrong():
            if len(room.members) > limits.presence_full_max:
                self._stats_due(room)
                continue
            push = Push(0, room.name, answers.room_members(room.name, self.listed(room)), room.told)
            for worker in workers:
                out.append((worker, push))
                sent += len(push.body)
            if sent >= limits.views_bytes:
                self._core.counters["views_bytes"] += 1
                self._views.go_on_later()
                return

    # -- after a fault ---------------------------------------------------------------------------------------------

    def restore(self, worker: int, record: Restore, late: bool, out: Out) -> None:
        """A worker tells a new broker where its members are. They are told nothing but the gap, once a worker.
        `late`: others have been shown the room without them.

        The gap comes with the worker's *first* member in the room, because from then on it hears what is published:
        its members must know of the new epoch before that.
        """
        session = self._core.session(record.conn)
        name = checked_room_name(record.room)
        if name in session.rooms:
            return
        room = self._core.room(name) or self._core.new_room(name)
        if room.is_banned(session.person.id, self._core.now):
            out.append((worker, Evict(name, [session.conn], answers.kicked(name, "banned"))))
            return
        if session.worker not in room.members.workers:
            self._catch_up(session.worker, room, record, out)
            self._views.claim(room, session.worker, record.told)
        if self._enter(session, room) and late:
            self._tell("member_joined", room, session.person, session.conn, out)

    def _catch_up(self, worker: int, room: Room, record: Restore, out: Out) -> None:
        """What the dead broker had written and not handed to this worker, or that there is a hole."""
        top = room.history.top
        if record.epoch == room.epoch and record.offset > top:
            # It was shown what the journal does not know: these offsets must not mean anything else.
            self._core.counters["positions_ahead"] += 1
            self._core.forsake(room, out)
            self._core.ledger.begin(room)
        if record.epoch == room.epoch and record.offset == top:
            return
        if record.epoch and (record.epoch, record.offset) == (room.previous, room.base):
            # The epoch began while this worker had not spoken yet: it has missed nothing of the one before.
            out.append((worker, Gap(room.name, room.epoch, room.base + 1, room.base)))
            record = record._replace(epoch=room.epoch)
        self.recover(worker, Recover(room.name, record.epoch, record.offset), out)

    def recover(self, worker: int, record: Recover, out: Out) -> None:
        """Give a worker whose ring overran what it missed, a page at a time, or tell it that there is a hole."""
        name = record.room
        room = self._core.room(name)
        if room is None:
            out.append((worker, Gone(name, answers.room_deleted(name))))
            return
        replay = self._replay(room, (record.epoch, record.offset), 0)
        if not replay.recovered:
            # Where the epoch is another one, nothing that the worker saw is part of this one; but numbering goes on, so
            # what it had not seen of the one before is missing too.
            same = record.epoch == room.epoch and 0 <= record.offset < room.history.top
            first = (record.offset if same else max(0, min(record.offset, room.base))) + 1
            out.append((worker, Gap(name, room.epoch, first, room.history.top)))
            return
        offset = record.offset
        page_bytes = self._core.limits.page_bytes
        for page in paged(replay.bodies, page_bytes, page_bytes):
            publications = list(enumerate(page, start=offset + 1))
            out.append((worker, Recovered(name, room.epoch, publications)))
            offset += len(page)
