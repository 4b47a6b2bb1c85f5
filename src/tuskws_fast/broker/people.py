"""Users: their leases, what others see of them, and the messages sent to them alone.

    Attach ─▶ lease ──merge──▶ View ──changed──▶ (one tick) ──▶ Presence to the workers that have someone to tell
    Detach ─▶ clean: the lease ends now       lost: it ends after the grace (who comes back has a new lease by then)

`offline` does not wait for the tick: the rooms it has to be told in are those the user is just leaving.

What a sender learns about a recipient is the same for one who is offline, invisible or never existed, unless they
share a room (or the sender has the right `presence`): an offset, and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.members import Members
from tuskws_fast.broker.state import Core, Inbox, Out, Person, Room, Session
from tuskws_fast.broker.timers import Timer
from tuskws_fast.broker.views import Views
from tuskws_fast.ipc.records import (
    CONN_SERVER,
    Attach,
    Confirm,
    Deliver,
    Detach,
    Level,
    Presence,
    PresenceMode,
    Private,
    worker_of,
)
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.dedupe import First, digest_of, inbox_scope
from tuskws_fast.rooms.permissions import PRESENCE
from tuskws_fast.rooms.presence import OFFLINE, STATUSES
from tuskws_fast.storage.entries import Confirmed, Published

# The loops' clocks stand still during a turn: what is handled late in one is dated back to its beginning.
_TOLD_SLACK_S = 0.005
_MODES = frozenset(int(mode) for mode in PresenceMode)


def _nothing(*_: object) -> None: ...


class People:
    def __init__(self, core: Core, members: Members, views: Views) -> None:
        self._core = core
        self._members = members
        self._views = views
        # People of whom others may have to be told something at the next tick, in the order of the changes.
        self._changed: dict[str, Person] = {}
        self._tick_armed = False
        # Told of each session that begins, and of each that ends, before it leaves its rooms.
        self.on_attached: Callable[[Session, Attach], None] = _nothing
        self.on_ended: Callable[[Session], None] = _nothing

    # -- leases ----------------------------------------------------------------------------------------------------

    def attach(self, record: Attach, silent: bool, out: Out) -> None:
        """`silent`: it is re-announced to a new broker, and no news to anyone."""
        try:
            names.user_id(record.user)
        except ValueError:
            raise Refused(ErrorCode.BAD_MESSAGE, "Not a user id") from None
        if record.status not in STATUSES or record.mode not in _MODES:
            raise Refused(ErrorCode.BAD_MESSAGE, "Not a status or not a mode")
        core = self._core
        session = core.sessions.get(record.conn)
        if session is not None and (session.lost or session.person.id != record.user):
            raise Refused(ErrorCode.BAD_MESSAGE, "The connection is gone, or another user's until its Detach")
        person = core.known_person(record.user)
        person.username = record.username
        is_new = session is None
        if session is None:
            session = Session(record.conn, worker_of(record.conn), person, record.status)
            # An offset of an epoch that died with the broker before this one says nothing of this one's.
            if person.inbox is not None and person.inbox.epoch == record.inbox_epoch:
                session.inbox_at = record.inbox
            core.sessions[record.conn] = session
        self.on_attached(session, record)
        self._set_mode(session, record.mode)
        session.status = record.status
        person.sessions[record.conn] = session
        if record.claims is not None:
            person.is_guest = False
        elif person.is_guest is None:
            person.is_guest = True
        core.absent.came_back(person)
        if silent:
            person.view.merge(person.leases(), core.wall)
            core.show(person)
        else:
            self._refresh(person)
        if is_new:
            self._deliver_recent(session, record.told_at, out)
        self._deliver_waiting(session, out)

    def _set_mode(self, session: Session, mode: int) -> None:
        watchers, watched = self._core.watchers, session.mode == PresenceMode.ALL
        session.mode = mode
        if watched != (mode == PresenceMode.ALL):
            count = watchers.get(session.worker, 0) + (-1 if watched else 1)
            if count:
                watchers[session.worker] = count
            else:
                del watchers[session.worker]

    def detach(self, record: Detach, out: Out) -> None:
        session = self._core.sessions.get(record.conn)
        if session is None or session.lost:
            return
        if record.clean:
            self.end(session, out)
        else:
            self.lose(session)

    def lose(self, session: Session) -> None:
        """The socket is gone without a goodbye: nobody is told anything before the grace is over."""
        core = self._core
        self._members.lose(session)
        self._set_mode(session, PresenceMode.NONE)
        session.lost = True
        core.timers.add(core.now + core.limits.grace_s, Timer.GRACE, session.conn)

    def end_grace(self, conn: int, out: Out) -> None:
        session = self._core.sessions.get(conn)
        if session is not None and session.lost:
            self.end(session, out)

    def end(self, session: Session, out: Out) -> None:
        core, person = self._core, session.person
        self.on_ended(session)
        self._set_mode(session, PresenceMode.NONE)
        del core.sessions[session.conn]
        del person.sessions[session.conn]
        rooms = list(person.rooms.values())
        self._members.leave_all(session, out)
        self._after_lease_end(person, rooms, out)

    def _after_lease_end(self, person: Person, rooms: Iterable[Room], out: Out) -> None:
        """`rooms`: those in which others could see the person until now."""
        self._refresh(person)
        if person.view.status == OFFLINE:
            self._push(person, rooms, out)
        if not person.sessions:
            self._core.absent.stay(person)

    def set_status(self, session: Session, status: object) -> bytes:
        if not isinstance(status, str) or status not in STATUSES:
            raise Refused(ErrorCode.BAD_STATUS)
        session.status = status
        self._refresh(session.person)
        return answers.presence_ack()

    # -- telling the others ----------------------------------------------------------------------------------------

    def _refresh(self, person: Person) -> None:
        if person.view.merge(person.leases(), self._core.wall):
            self._changed[person.id] = person
            if not self._tick_armed:
                self._tick_armed = True
                self._core.timers.add(self._core.now + self._core.limits.presence_tick_s, Timer.PRESENCE)

    def tick(self, out: Out) -> None:
        """Push what has changed since the last tick, once a person; what changed back is no news."""
        self._tick_armed = False
        for person in list(self._changed.values()):
            self._push(person, person.rooms.values(), out)

    def _push(self, person: Person, rooms: Iterable[Room], out: Out) -> None:
        self._changed.pop(person.id, None)
        core, view = self._core, person.view
        if view.status == view.pushed and not view.asked:
            return
        view.asked = False
        core.show(person)
        workers = dict.fromkeys(core.watchers)
        told: dict[str, int] = {}
        for room in rooms:
            if len(room.members) <= core.limits.presence_full_max and room.members.workers:
                told[room.name] = self._views.told(room)
                workers.update(dict.fromkeys(room.members.workers))
        if not workers:
            return
        body = answers.presence_update(person.id, view.status, view.seen_at(core.wall), core.wall)
        record = Presence(person.id, told, self._views.told_watchers, body)
        for worker in workers:
            out.append((worker, record))

    def correct_watchers(self, out: Out) -> None:
        """Who watches everybody, and was told something wrong, has to ask again."""
        for worker in self._views.wrong_watchers():
            out.append((worker, Presence("", {}, self._core.told, answers.presence_reset())))

    # -- private messages ------------------------------------------------------------------------------------------

    def send(self, record: Private, out: Out) -> tuple[Level, Callable[[Level], bytes]]:
        """Order a private message and hand it to all connections of its recipient. Returns the sender's `ack`: the
        level that was reached, and how to say so."""
        core = self._core
        sender = core.session(record.conn).person if record.conn != CONN_SERVER else None
        sender_id = sender.id if sender is not None else ""
        try:
            to = names.user_id(record.to)
        except ValueError:
            raise Refused(ErrorCode.BAD_MESSAGE, "Not a user id") from None
        recipient = core.person(to)
        level = self._level(recipient, record.level)
        origin = core.ledger.origins.get((record.conn, record.tag)) if record.tag else None
        if origin is not None:
            return level, partial(answers.private_ack, origin.offset, origin.delivered, False)
        scope, digest = inbox_scope(to), digest_of(record.body)
        if record.key:
            first = core.dedupe.find(scope, sender_id, record.key, core.now)
            if first is not None:
                if first.digest != digest:
                    raise Refused(ErrorCode.BAD_MESSAGE, "This id was used for another message")
                core.counters["duplicates"] += 1
                return level, partial(answers.private_ack, first.offset, first.delivered, True)
        self._check_room_in_inbox(recipient, len(record.body), sender_id)
        recipient = core.known_person(to)
        told = sender is None or record.rights & PRESENCE or sender.shares_room_with(recipient)
        live = [session for session in recipient.sessions.values() if not session.lost]
        delivered = -1 if not told else len(live)
        if told and recipient.view.status == OFFLINE:
            # Invisible looks as offline does: the message waits for them.
            delivered = 0
        offset = self._deliver(recipient, live, record, sender_id, delivered, out)
        if not recipient.sessions:
            core.absent.stay(recipient, sender_id)
        if record.key:
            epoch = core.inbox_of(recipient).epoch
            core.dedupe.add(scope, sender_id, record.key, First(core.now, epoch, offset, digest, delivered))
            core.arm_dedupe()
        core.counters["private_messages"] += 1
        return level, partial(answers.private_ack, offset, delivered, False)

    def _level(self, recipient: Person | None, wanted: int) -> Level:
        ledger = self._core.ledger
        if recipient is not None and recipient.inbox is not None:
            return ledger.level(recipient.inbox, wanted)
        # The inbox does not exist yet, and will be stored if anything can be.
        return ledger.granted(wanted, ledger.writing)

    def _check_room_in_inbox(self, recipient: Person | None, length: int, sender: str) -> None:
        """What nobody was sent yet is never dropped for something newer: rather the sender is told."""
        core, limits = self._core, self._core.limits
        if core.tally.bytes + length > core.tally.bytes_max and not (recipient is not None and recipient.sessions):
            core.tally.trimmed += 1
            raise Refused(ErrorCode.QUEUE_FULL, "Too many messages are kept")
        if recipient is None or not (recipient.sessions or recipient.id in core.absent.waiting):
            if len(core.absent.waiting) >= limits.inboxes_max:
                core.counters["inboxes_max"] += 1
                raise Refused(ErrorCode.QUEUE_FULL, "Messages wait for too many users")
            if sender and core.absent.waiting.places_of(sender) >= limits.inboxes_per_sender_max:
                core.counters["inboxes_per_sender_max"] += 1
                raise Refused(ErrorCode.QUEUE_FULL, "Your messages wait for too many users")
            return
        inbox = recipient.inbox
        if inbox is None or not inbox.history:
            return
        history = inbox.history
        if history.oldest_offset > inbox.delivered and (
            len(history) >= limits.inbox_size or history.bytes_kept >= limits.inbox_bytes
        ):
            core.counters["inbox_size"] += 1
            raise Refused(ErrorCode.QUEUE_FULL, "Too many messages wait for this user")

    def _deliver(
        self, recipient: Person, live: list[Session], record: Private, sender: str, delivered: int, out: Out
    ) -> int:
        """Returns the message's offset."""
        core = self._core
        inbox = core.inbox_of(recipient)
        ledger, history = core.ledger, inbox.history
        if inbox.stored and not ledger.writing:
            core.renew(inbox)
            inbox.stored = False
        offset = history.top + 1
        body = codec.close_body(record.body, core.wall, inbox.epoch, offset)
        history.append(body, core.now)
        core.arm_inbox_sweep(recipient, inbox)
        if inbox.stored:
            ledger.entries.append(
                Published(
                    inbox.scope,
                    inbox.epoch,
                    offset,
                    core.wall,
                    record.conn,
                    record.tag,
                    sender,
                    record.key,
                    len(record.body),
                    delivered,
                    body,
                )
            )
        by_worker: dict[int, list[int]] = {}
        for session in live:
            session.inbox_at = offset
            by_worker.setdefault(session.worker, []).append(session.conn)
        for slot, conns in by_worker.items():
            out.append((slot, Deliver(conns, body, offset, inbox.epoch)))
        if live:
            inbox.delivered = offset
        return offset

    def _deliver_waiting(self, session: Session, out: Out) -> None:
        """Whatever nobody confirmed goes to a connection that has not been sent it."""
        inbox: Inbox | None = session.person.inbox
        if inbox is None:
            return
        history = inbox.history
        bodies = history.last(history.top - max(inbox.confirmed, session.inbox_at), self._core.now)
        first = history.top - len(bodies) + 1
        for offset, body in enumerate(bodies, start=first):
            out.append((session.worker, Deliver([session.conn], body, offset, inbox.epoch)))
        session.inbox_at = inbox.delivered = history.top

    def _deliver_recent(self, session: Session, told_at: float, out: Out) -> None:
        """What another connection of the user has confirmed already, and this one was not sent, though it had been told
        by then whose it is: its `Attach` was still on the way."""
        inbox: Inbox | None = session.person.inbox
        if inbox is None or inbox.recent is None:
            return
        for offset, at, body in inbox.recent:
            if at >= told_at - _TOLD_SLACK_S and offset > session.inbox_at:
                out.append((session.worker, Deliver([session.conn], body, offset, inbox.epoch)))
                session.inbox_at = offset

    def _keep_recent(self, person: Person, inbox: Inbox, confirmed: list[tuple[int, float, bytes]]) -> None:
        core, limits = self._core, self._core.limits
        if inbox.recent is None:
            inbox.recent = deque()
            core.timers.add(core.now + limits.recent_s, Timer.RECENT, person.id)
        recent = inbox.recent
        recent.extend(confirmed)
        held = sum(len(body) for _, _, body in recent)
        while recent and (held > limits.recent_bytes_max or recent[0][1] <= core.now - limits.recent_s):
            held -= len(recent.popleft()[2])

    def forget_recent(self, user: str) -> None:
        person = self._core.person(user)
        if person is not None and person.inbox is not None:
            person.inbox.recent = None

    def confirm(self, session: Session, record: Confirm) -> None:
        """The user has everything up to an offset: it is not kept any more. Silent, also where it says nothing new."""
        inbox, offset = session.person.inbox, record.offset
        if inbox is None or (record.epoch and record.epoch != inbox.epoch):
            return
        offset = min(offset, inbox.history.top)
        if offset > inbox.confirmed:
            inbox.confirmed = offset
            self._keep_recent(session.person, inbox, inbox.history.confirm(offset))
            if inbox.stored and self._core.ledger.writing:
                self._core.ledger.entries.append(Confirmed(inbox.scope, offset))
