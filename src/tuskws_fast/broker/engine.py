"""The broker's pure core: records and the time in, records out. It decides everything about rooms and people.

    handle(worker, record, now, wall) ─▶ [(worker, record), …]     what to put on which worker's ring, in this order
    tick(now, wall)                   ─▶ [(worker, record), …]     what became due; call at `next_deadline()`

No clock, no socket, no ring, no randomness of its own, so a run is repeated exactly by repeating its inputs. Records
are handled one at a time and completely; that is what makes the order of a room the same for all, a join one atomic
step, and an idempotency key good for one publication.

The engine never raises on a record that `unpack_record` can give, whatever it says: a command that cannot be carried
out is answered by an error `Reply` and has changed nothing, a malformed record without an answer is counted.

    state        the tables                        members      in and out of rooms
    keeping      facts that survive the broker     people       leases, presence, private messages
    views        members' lists, after a death     fetching     who waits, and for what
    moderation   settings, kick, ban, mute         queries      history, lists, presence_state

`now` is monotonic and the same clock for every broker of one boot (bans end by it), `wall` is Unix time and only shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.fetching import Fetch, Fetching, Key
from tuskws_fast.broker.keeping import Keeping
from tuskws_fast.broker.ledger import Awaiting, Ledger
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.broker.members import Members, checked_room_name
from tuskws_fast.broker.moderation import Args, Caller, Moderation
from tuskws_fast.broker.people import People
from tuskws_fast.broker.queries import Queries
from tuskws_fast.broker.receipts import Receipts
from tuskws_fast.broker.restoring import restore, scopes, snapshot, unwritten
from tuskws_fast.broker.revoking import Revoking
from tuskws_fast.broker.shapes import asker_of, is_well_formed
from tuskws_fast.broker.state import Core, Out, Person, Room
from tuskws_fast.broker.tickets import Tickets, check_identity
from tuskws_fast.broker.timers import Timer
from tuskws_fast.broker.views import Views
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import (
    CONN_SERVER,
    GENERATION_SHIFT,
    AllPush,
    Level,
    Publication,
    Publish,
    Reply,
    UpRecord,
    worker_of,
)
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms.dedupe import First, digest_of
from tuskws_fast.rooms.permissions import MODERATE, PUBLISH
from tuskws_fast.rooms.recovery import Position
from tuskws_fast.rooms.shelf import OnShelf, Window
from tuskws_fast.storage.entries import Entry, Published
from tuskws_fast.storage.recovery import Recovered

# What depends on who is where, or changes it. It waits while workers announce themselves: half of the members would be
# shown for all of them, and a change would be told to half of those who have to hear of it.
_HELD = frozenset({records.Join, records.Leave, records.Detach, records.Resume, records.Call})

# So much of what is due, before records have their turn. When 50,000 members of three rooms each did not come back in
# the grace, all at once took 4.7 s and made 200,000 pushes.
DUE_MAX = 256


class Engine:
    """`epoch_source` gives a text that is never given twice, of letters, digits, `-` and `_`.

    `workers`: the slots that will announce what they know of the broker before this one; none for a node's first.
    `durable`: there is a journal, and `ledger` has to be written before anything that was decided is told.
    """

    def __init__(
        self,
        limits: EngineLimits,
        now: float,
        epoch_source: Callable[[], str],
        workers: Iterable[int] = (),
        durable: bool = False,
    ) -> None:
        self._core = core = Core(limits, now, epoch_source, durable)
        self._keeping = Keeping(core)
        self._views = Views(core)
        self._members = Members(core, self._views)
        self._people = People(core, self._members, self._views)
        self._tickets = Tickets(core, self._members, self._people)
        self._people.on_attached, self._people.on_ended = self._tickets.attached, self._tickets.ended
        self._receipts = Receipts(core)
        self._fetching = Fetching(core)
        self._tickets.on_shelf = self._fetching.park
        # Empty nearly always, and asked with every record.
        self._parked = self._fetching.parked
        self._moderation = Moderation(core, self._members, self._keeping)
        self._revoking = Revoking(core, self._people, self._tickets, self._keeping)
        self._queries = Queries(core)
        self._publications = 0
        # The generation of each live worker's rings.
        self._generations: dict[int, int] = {}
        # Workers of which a `Restore` or `Attach` is old news, until they say `Announced`.
        self._unannounced = set(workers)
        # When one of them said something last. None: nobody was asked yet, while the journal is read for however long.
        self._heard_at: float | None = None
        self._handlers: dict[type[Any], Callable[[int, Any, Out], None]] = {
            records.Publish: self._publish,
            records.Private: self._private,
            records.Join: self._members.join,
            records.Leave: self._members.leave,
            records.Call: self._call,
            records.Attach: self._attach,
            records.Detach: self._detach,
            records.All: self._all,
            records.Recover: self._members.recover,
            records.Restore: self._restore,
            records.Kept: self._kept,
            records.Announced: self._announced,
            records.Confirm: self._confirm,
            records.Resume: self._resume,
            records.Seen: self._seen,
        }
        moderation, queries = self._moderation, self._queries
        self._questions: dict[str, Callable[[Caller, Args], list[bytes]]] = {
            "get_presence": queries.get_presence,
            "history": queries.history,
            "room_info": queries.room_info,
            "list_rooms": queries.list_rooms,
        }
        self._decisions: dict[str, Callable[[Caller, Args, Out], bytes]] = {
            "create_room": moderation.create_room,
            "update_room": moderation.update_room,
            "delete_room": moderation.delete_room,
            "kick": moderation.kick,
            "ban": moderation.ban,
            "mute": moderation.mute,
        }
        self._server_decisions: dict[str, Callable[[Caller, Args, Out], bytes]] = {
            "invite": moderation.invite,
            "server_join": self._server_join,
            "server_leave": self._server_leave,
            "revoke": self._revoke,
        }

    # -- what the process calls ------------------------------------------------------------------------------------

    def handle(self, worker: int, record: UpRecord, now: float, wall: float) -> Out:
        core = self._core
        core.now, core.wall = now, wall
        out: Out = []
        try:
            kind = type(record)
            if kind is not Publish and not is_well_formed(record):
                raise Refused(ErrorCode.BAD_MESSAGE)
            if self._parked and self._fetching.follows_parked(worker, record):
                return out
            if self._unannounced:
                if self._heard_at is None or worker in self._unannounced:
                    self._hear()
                if kind in _HELD or (kind is Publish and self._is_for_unknown_room(record)):
                    self._fetching.hold(worker, record)
                    return out
            self._handlers[kind](worker, record, out)
        except Refused as refused:
            self._refuse(worker, record, refused, out)
        except OnShelf as wish:
            self._park(worker, record, wish, 0, out)
        return out

    def take_fetches(self) -> list[Fetch]:
        """What has to be read from the journal: `fetched` is the answer to each."""
        wanted, self._fetching.wanted = self._fetching.wanted, []
        return wanted

    def fetched(self, window: Window, entries: list[tuple[float, bytes]] | None, now: float, wall: float) -> Out:
        """The messages (when, body) of a `Fetch`, or None: who waited for them goes on."""
        core = self._core
        core.now, core.wall = now, wall
        out: Out = []
        self._go_on(self._fetching.fetched(window, entries), out)
        return out

    def _go_on(self, keys: Iterable[Key], out: Out) -> None:
        for key in keys:
            waiting = self._fetching.take(key)
            while waiting and key not in self._parked:
                self._run_again(*waiting.popleft(), out)
            if waiting:
                self._parked[key].extend(waiting)

    def _run_again(self, worker: int, record: UpRecord, rounds: int, out: Out) -> None:
        own: Out = []
        try:
            self._handlers[type(record)](worker, record, own)
        except Refused as refused:
            self._refuse(worker, record, refused, own)
        except OnShelf as wish:
            self._park(worker, record, wish, rounds, own)
        out += own

    def _park(self, worker: int, record: UpRecord, wish: OnShelf, rounds: int, out: Out) -> None:
        """It has changed nothing yet; what it had to say already, it will say again."""
        out.clear()
        try:
            self._fetching.park(worker, record, wish, rounds)
        except Refused as refused:
            self._refuse(worker, record, refused, out)

    def tick(self, now: float, wall: float) -> Out:
        """What is due at `now`; of more than `DUE_MAX` the rest the next time, which is at once (`next_deadline`)."""
        core = self._core
        core.now, core.wall = now, wall
        out: Out = []
        for _ in range(DUE_MAX):
            due = core.timers.pop_due(now)
            if due is None:
                break
            deadline, kind, key = due
            if isinstance(key, int) and self._unannounced:
                # Not everybody could be told.
                core.timers.add(now + core.limits.presence_tick_s, kind, key)
            elif isinstance(key, int):
                self._people.end_grace(key, out)
            else:
                self._on_timer(kind, key, deadline, out)
        return out

    def next_deadline(self) -> float | None:
        """When to call `tick`; None: nothing will become due by itself."""
        return self._core.timers.next_deadline()

    def worker_up(self, worker: int, generation: int) -> Out:
        """Rings of a new generation lead to a worker. Returns the facts it has to keep.

        Sessions that the slot still has under another generation are those of a predecessor, and lost.
        """
        core = self._core
        out: Out = []
        if self._generations.get(worker) != generation:
            if worker in core.workers:
                out += self.worker_lost(worker, core.now)
            self._generations[worker] = generation
            core.workers[worker] = None
        return out + self._keeping.everything(worker) + self._revoking.everything(worker)

    def worker_lost(self, worker: int, now: float) -> Out:
        """A worker has died: its sessions are lost, as if each had reported so. They end after the grace."""
        core = self._core
        core.now = now
        core.workers.pop(worker, None)
        self._generations.pop(worker, None)
        for session in core.sessions.values():
            if session.worker == worker and not session.lost:
                self._people.lose(session)
        out: Out = []
        self._fetching.drop(worker)
        self._tickets.go_on(out)
        self._receipts.lost(worker, out)
        self._announced(worker, None, out)
        return out

    def revoke(self, args: Args, now: float, wall: float) -> tuple[Out, int]:
        """As an operator asks: what to tell, and how many sessions ended. Raises `Refused`."""
        self._core.now, self._core.wall = now, wall
        out: Out = []
        return out, self._revoking.revoke(args, out)

    def position(self, room: str) -> Position | None:
        """Where a room stands, for `records.Position`."""
        found = self._core.room(room)
        return Position(found.epoch, found.history.top) if found is not None else None

    # -- what is written -------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return self._core.ledger

    def restore(
        self, recovered: Recovered, facts: Mapping[str, Any], doors_closed: bool, now: float, wall: float
    ) -> None:
        """Take over what the journal and the settings say. Before the first record."""
        self._core.now, self._core.wall = now, wall
        restore(self._core, self._keeping, recovered, facts, doors_closed)

    def snapshot(self, scope: str, shelved: Collection[tuple[float, bytes]] = ()) -> list[Entry]:
        """The scope as it stands; for one that is not to be kept, its end. `shelved`: as in `restoring`."""
        return snapshot(self._core, scope, shelved)

    def shelf(self, scope: str) -> Fetch | None:
        """Everything that is on the scope's shelf, where it has one."""
        return self._fetching.everything(scope)

    def lose_shelf(self, scope: str) -> None:
        """It cannot be read."""
        self._fetching.lose(scope)

    def scopes(self) -> list[str]:
        """Everything that is to be kept."""
        return scopes(self._core)

    def unwritten(self, known: Iterable[str]) -> list[str]:
        """The scopes of which a journal that knows `known` does not know all, and those it should forget."""
        return unwritten(self._core, known)

    @property
    def needed_bytes(self) -> int:
        """What snapshots of everything would take, nearly."""
        return self._core.tally.bytes + self._core.dedupe.bytes

    def write_to(self, segment: int, homes: Mapping[str, int]) -> None:
        """What is written from here on is in this segment of the journal, or a later one; `homes` as in `Stacks`."""
        stacks = self._core.stacks
        stacks.segment, stacks.homes = segment, homes
        for history in stacks.shelved:
            assert history.shelf is not None, "who is listed has one"
            history.shelf.mark(history.top + 1, segment)

    @property
    def oldest_shelved(self) -> int | None:
        """The first segment that is needed for what is in no memory."""
        shelved = self._core.stacks.shelved
        for history in list(shelved):
            history.trim(self._core.now)
        return min((each.shelf.oldest_segment for each in shelved if each.shelf is not None), default=None)

    def retire(self, upto: int) -> None:
        """The segments up to this one are about to go, with what is nowhere else."""
        for history in list(self._core.stacks.shelved):
            before = len(history)
            history.lose(upto)
            self._core.counters["history_forgone"] += before - len(history)

    @property
    def announcing(self) -> bool:
        return bool(self._unannounced)

    @property
    def counters(self) -> Counter[str]:
        """How often each limit was hit, under its name in `EngineLimits`, and a few events."""
        counters = self._core.counters
        counters["history_bytes_total_max"] = self._core.tally.trimmed
        counters["dedupe_overflowed"] = self._core.dedupe.overflowed
        counters["publications"] = self._publications
        counters["level_unavailable"] = self._core.ledger.refused
        return counters

    def gauges(self) -> dict[str, int]:
        """What is now, under the names of `metrics.Metric`."""
        core = self._core
        return {
            "rooms_current": core.room_count,
            "members_current": core.member_count,
            "users_remembered": core.absent.remembered,
            "online_users": self._people_count() - len(core.absent),
            "inboxes_waiting": len(core.absent.waiting),
            "sessions_resumable": len(self._tickets),
            "revocations": len(core.revocations),
            "history_bytes": core.tally.bytes,
            "history_shelved_bytes": sum(each.shelf.bytes for each in core.stacks.shelved if each.shelf is not None),
            "dedupe_entries": len(core.dedupe),
        }

    def census(self) -> dict[str, int]:
        """How much every table holds: nothing may be left when everybody has gone."""
        core = self._core
        return {
            "rooms": core.room_count,
            "members": core.member_count,
            "sessions": len(core.sessions),
            "people": self._people_count(),
            "offline": len(core.absent.offline),
            "parted": len(core.absent.parted),
            "waiting": len(core.absent.waiting),
            "resumable": len(self._tickets),
            "receipts": len(self._receipts),
            "watchers": sum(core.watchers.values()),
            "workers": len(core.workers),
            "history_bytes": core.tally.bytes,
            "dedupe_entries": len(core.dedupe),
            "dedupe_bytes": core.dedupe.bytes,
            "timers": len(core.timers),
        }

    def _people_count(self) -> int:
        return sum(len(shard.people) for shard in self._core.shards)

    # -- publications ----------------------------------------------------------------------------------------------

    def _publish(self, worker: int, record: Publish, out: Out) -> None:
        # The hot path. A member's room is found through its session, so a publication in a plain room costs two
        # look-ups before it is ordered, and no question of rights (bench/micro/test_engine.py).
        conn, tag, rights, level, echo, quiet, name, key, prefix, server, receipt = record
        core = self._core
        session = core.sessions.get(conn)
        if session is not None and not server:
            found = session.rooms.get(name)
            if found is None:
                raise Refused(ErrorCode.NOT_IN_ROOM)
            room, user = found, session.person.id
            if not room.plain:
                self._check_speaker(room, user, rights)
        else:
            room, user, echo = self._room_for_server(conn, name, server), "", False
        ledger = core.ledger
        if ledger.origins and (origin := ledger.origins.get((conn, tag))) is not None and tag:
            # The broker before this one did it, and died before its answer was read.
            self._acknowledge(worker, record, room, origin.epoch, origin.offset, False, out)
            return
        given = ledger.level(room, level)
        if receipt:
            self._receipts.check_capacity(room)
        if key:
            first = core.dedupe.find(name, user, key, core.now)
            if first is not None:
                if first.digest != digest_of(prefix):
                    raise Refused(ErrorCode.BAD_MESSAGE, "This id was used for another message")
                core.counters["duplicates"] += 1
                if receipt:
                    self._receipts.follow(room, first.offset, conn)
                self._acknowledge(worker, record, room, first.epoch, first.offset, True, out)
                return
        if room.stored and not ledger.writing:
            core.forsake(room, out)
        history, epoch = room.history, room.epoch
        offset = history.top + 1
        body = codec.close_body(prefix, core.wall, epoch, offset)
        history.append(body, core.now)
        if room.sweep_at is None:
            core.arm_room_sweep(room)
        if room.stored:
            # `tuple.__new__`: a named tuple's constructor is a Python function (0.3 us).
            fields = (name, epoch, offset, core.wall, conn, tag, user, key, len(prefix), -1, body)
            ledger.entries.append(tuple.__new__(Published, fields))
        if key:
            core.dedupe.add(name, user, key, First(core.now, epoch, offset, digest_of(prefix), -1))
            if not core.dedupe_armed:
                core.arm_dedupe()
        self._publications += 1
        if receipt:
            self._receipts.open(room, offset, conn, key, out)
        publication = tuple.__new__(Publication, (0 if echo else conn, offset, name, body))
        for slot in room.members.workers:
            out.append((slot, publication))
        if tag and not quiet:
            ack = Reply(conn, tag, True, answers.publication_ack(name, epoch, offset, False, given))
            if given is Level.SYNCED:
                lower = answers.publication_ack(name, epoch, offset, False, Level.STORED)
                ledger.awaiting.append(Awaiting(worker, ack, Reply(conn, tag, True, lower)))
            else:
                out.append((worker, ack))

    def _acknowledge(
        self, worker: int, record: Publish, room: Room, epoch: str, offset: int, duplicate: bool, out: Out
    ) -> None:
        """Answer for a publication that was made before."""
        if not record.tag or record.quiet:
            return
        level = self._core.ledger.level(room, record.level)
        self._answer(
            worker,
            record,
            level,
            lambda at: answers.publication_ack(room.name, epoch, offset, duplicate, at),
            out,
        )

    def _answer(
        self,
        worker: int,
        record: Publish | records.Private,
        level: Level,
        ack: Callable[[Level], bytes],
        out: Out,
    ) -> None:
        """Send `ack(level)`; one that has to wait for the disk says less if the disk fails meanwhile."""
        reply = Reply(record.conn, record.tag, True, ack(level))
        if level is Level.SYNCED:
            lower = Reply(record.conn, record.tag, True, ack(Level.STORED))
            self._core.ledger.awaiting.append(Awaiting(worker, reply, lower))
        else:
            out.append((worker, reply))

    def _is_for_unknown_room(self, record: UpRecord) -> bool:
        """What the application says, which is no member: a worker that has not spoken yet may know the room."""
        assert isinstance(record, Publish)
        return (record.server or record.conn == CONN_SERVER) and self._core.room(record.room) is None

    def _check_speaker(self, room: Room, user: str, rights: int) -> None:
        granted = room.rights(user, rights)
        if room.is_muted(user, self._core.now):
            raise Refused(ErrorCode.MODERATED, "You are muted in this room")
        if room.settings.moderated and not granted & MODERATE:
            raise Refused(ErrorCode.MODERATED)
        if not granted & PUBLISH:
            raise Refused(ErrorCode.FORBIDDEN)

    def _room_for_server(self, conn: int, name: str, server: bool) -> Room:
        if conn != CONN_SERVER and not server:
            raise Refused(ErrorCode.NOT_AUTHENTICATED)
        room = self._core.room(name)
        if room is None:
            raise Refused(ErrorCode.NO_SUCH_ROOM)
        return room

    def _private(self, worker: int, record: records.Private, out: Out) -> None:
        level, ack = self._people.send(record, out)
        if record.tag and not record.quiet:
            self._answer(worker, record, level, ack, out)

    def _confirm(self, worker: int, record: records.Confirm, out: Out) -> None:
        self._people.confirm(self._core.session(record.conn), record)

    def _seen(self, worker: int, record: records.Seen, out: Out) -> None:
        self._receipts.seen(worker, record, self.announcing, out)

    # -- calls -----------------------------------------------------------------------------------------------------

    def _call(self, worker: int, record: records.Call, out: Out) -> None:
        conn, tag, rights, op, args = record
        person: Person | None = None
        if conn != CONN_SERVER:
            person = self._core.session(conn).person
        caller = Caller(person, rights)
        question = self._questions.get(op)
        bodies = question(caller, args) if question is not None else [self._decide(conn, caller, op, args, out)]
        if tag:
            for body in bodies:
                out.append((worker, Reply(conn, tag, True, body, body is bodies[-1])))

    def _decide(self, conn: int, caller: Caller, op: str, args: Args, out: Out) -> bytes:
        decision = self._decisions.get(op)
        if decision is not None:
            return decision(caller, args, out)
        if conn != CONN_SERVER:
            if op == "presence":
                return self._people.set_status(self._core.session(conn), args.get("status"))
            raise Refused(ErrorCode.UNKNOWN_TYPE)
        if op == "room_count":
            return self._queries.room_count(caller, args)[0]
        decision = self._server_decisions.get(op)
        if decision is None:
            raise Refused(ErrorCode.UNKNOWN_TYPE)
        return decision(caller, args, out)

    def _server_join(self, caller: Caller, args: Args, out: Out) -> bytes:
        name = checked_room_name(args.get("room"))
        self._members.join_by_server(_checked_conn(args), name, out)
        return answers.ack(name)

    def _server_leave(self, caller: Caller, args: Args, out: Out) -> bytes:
        name = checked_room_name(args.get("room"))
        self._members.leave_room(self._core.session(_checked_conn(args)), name, 0, out)
        return answers.ack(name)

    def _revoke(self, caller: Caller, args: Args, out: Out) -> bytes:
        return codec.encode({"type": "revoked", "sessions": self._revoking.revoke(args, out)})

    # -- sessions and workers --------------------------------------------------------------------------------------

    def _attach(self, worker: int, record: records.Attach, out: Out) -> None:
        self._check_fence(worker, record.conn)
        check_identity(record.roles, record.claims)
        self._people.attach(record, worker in self._unannounced, out)

    def _detach(self, worker: int, record: records.Detach, out: Out) -> None:
        if worker_of(record.conn) == worker:
            self._people.detach(record, out)
            self._tickets.go_on(out)

    def _resume(self, worker: int, record: records.Resume, out: Out) -> None:
        self._check_fence(worker, record.conn)
        self._tickets.resume(worker, record, out)

    def _check_fence(self, worker: int, conn: int) -> None:
        """A worker speaks for its own connections, and never for those of the one before it in its slot."""
        workers, numbers = self._core.workers, conn >> GENERATION_SHIFT
        if conn > 0 and worker_of(conn) == worker and workers.get(worker, 0) in (None, numbers):
            workers[worker] = numbers
            return
        self._core.counters["fenced"] += 1
        raise Refused(ErrorCode.BAD_MESSAGE, "Not a connection of this worker")

    def _all(self, worker: int, record: records.All, out: Out) -> None:
        push = AllPush(record.exclude, record.body)
        for slot in self._core.workers:
            out.append((slot, push))

    def _restore(self, worker: int, record: records.Restore, out: Out) -> None:
        self._check_fence(worker, record.conn)
        self._members.restore(worker, record, not self._unannounced, out)

    def _kept(self, worker: int, record: records.Kept, out: Out) -> None:
        self._keeping.hear(worker, record, self.announcing, out)

    def _hear(self) -> None:
        """Wait on: for who has not said anything, and for the rest of what comes in (100,000 members take seconds)."""
        core = self._core
        if self._heard_at is None:
            core.timers.add(core.now + core.limits.announce_s, Timer.ANNOUNCE)
        self._heard_at = core.now

    def _announced(self, worker: int, record: records.Announced | None, out: Out) -> None:
        if record is not None:
            self._views.claim_watchers(worker, record.told)
        if worker in self._unannounced:
            self._unannounced.discard(worker)
            if not self._unannounced:
                self._end_announcing(out)
        elif not self._unannounced:
            # One that was waited for in vain.
            self._views.compare()

    def _end_announcing(self, out: Out) -> None:
        self._unannounced.clear()
        self._views.compare()
        self._keeping.share(out)
        self._receipts.all_announced(out)
        self._go_on(self._fetching.take_held(), out)
        self._people.tick(out)

    # -- timers and refusals ---------------------------------------------------------------------------------------

    def _on_timer(self, kind: Timer, key: str, deadline: float, out: Out) -> None:
        core = self._core
        if kind is Timer.PRESENCE:
            # While workers announce themselves a change may be half of the truth: `_end_announcing` tells.
            if not self._unannounced:
                self._people.tick(out)
        elif kind is Timer.STATS:
            self._members.push_stats(key, out)
        elif kind is Timer.VIEWS:
            self._members.correct_views(out)
            self._people.correct_watchers(out)
        elif kind is Timer.SWEEP_ROOM:
            core.sweep_room(key, deadline)
        elif kind is Timer.SWEEP_INBOX:
            core.sweep_inbox(key, deadline)
        elif kind is Timer.DEDUPE:
            core.expire_dedupe()
        elif kind is Timer.SANCTION:
            self._keeping.end_sanction(key, deadline, out)
        elif kind is Timer.OFFLINE:
            core.absent.expire()
        elif kind is Timer.ANNOUNCE and self._unannounced and self._heard_at is not None:
            until = self._heard_at + core.limits.announce_s
            if until > core.now:
                core.timers.add(until, Timer.ANNOUNCE)
            else:
                self._end_announcing(out)
        elif kind is Timer.RESUMABLE:
            self._tickets.forget()
        elif kind is Timer.TAKEOVER:
            self._tickets.give_up(int(key), out)
        elif kind is Timer.RECEIPT:
            self._receipts.on_timer(key, out)
        elif kind is Timer.REPLAYS:
            self._members.replays.expire()
        elif kind is Timer.REVOKED:
            self._keeping.end_revocation(key, out)
        elif kind is Timer.RECENT:
            self._people.forget_recent(key)
        elif kind is Timer.WINDOW:
            self._fetching.expire()
        elif kind is Timer.ORIGINS:
            core.ledger.origins.clear()

    def _refuse(self, worker: int, record: UpRecord, refused: Refused, out: Out) -> None:
        self._core.counters[f"refused_{refused.code.value}"] += 1
        asker = asker_of(record)
        if asker is not None:
            out.append((worker, Reply(*asker, False, answers.error(refused))))


def _checked_conn(args: Args) -> int:
    conn = args.get("conn")
    if not isinstance(conn, int):
        raise Refused(ErrorCode.BAD_MESSAGE, "`conn` must be a connection's number")
    return conn
