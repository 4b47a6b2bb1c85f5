"""What the broker decided, applied: one method a record type, called in ring order.

The order of the ring is the order of the room: `Joined` makes a connection a member before any later `Publication` is
looked at, and whoever is pushed something out of the room's order first flushes the room's batch (see `hub`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

from tuskws_fast_ext.connection import Connection

from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import DownRecord, PresenceMode
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.protocol.escaping import escape_body
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.identities import user_of
from tuskws_fast.worker.outbox import Outbox
from tuskws_fast.worker.session import Session, enter

log = logging.getLogger(__name__)

_HISTORY = b'{"type":"history"'
# Records that are not publications between two looks at the clock: each takes some 10 us.
LOOK_EVERY = 16


class Inbox:
    """`sessions` is the worker's table, connection number → session; `watchers` want everyone's presence.

    `kept` survives a broker's death: what it gave every worker to hold for its successor. So does `told`, of the last
    `Presence`.
    """

    def __init__(
        self,
        hub: Hub,
        outbox: Outbox,
        sessions: Mapping[int, Session],
        watchers: Set[Session],
        clock: Callable[[], float],
        revoke: Callable[[records.Revoked], None],
        escape_html: bool = False,
    ) -> None:
        self._hub = hub
        self._outbox = outbox
        self._sessions = sessions
        self._watchers = watchers
        self._clock = clock
        self._revoke = revoke
        self._shown = escape_body if escape_html else _as_it_is
        self.kept: dict[str, tuple[int, Any]] = {}
        self.told = 0
        self.failed = 0
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            records.Publication: self._publication,
            records.Reply: self._reply,
            records.Joined: self._joined,
            records.Left: self._left,
            records.Push: self._push,
            records.Presence: self._presence,
            records.Deliver: self._deliver,
            records.Evict: self._evict,
            records.Gone: self._gone,
            records.Position: self._position,
            records.Recovered: self._recovered,
            records.Gap: self._gap,
            records.Keep: self._keep,
            records.AllPush: self._all,
            records.Resumed: self._resumed,
            records.Supersede: self._supersede,
            records.Revoked: self._revoked,
            records.SlowConsumer: self._slow_consumer,
            records.Watch: self._watch,
            records.Tell: self._tell,
            records.Unwatch: self._unwatch,
        }

    def apply(self, batch: list[DownRecord], until: float = math.inf) -> list[DownRecord]:
        """Apply a drained batch and hand every room's publications to its members; returns what there was no time for
        before `until` (monotonic seconds), to be applied before anything else. Publications are cheap here, and the
        more of them there are at once, the fewer writes they take: only what lies between them makes it stop.

        A record that meets a defect of ours is logged and costs what it carried; those behind it are applied.
        """
        handlers = self._handlers
        applied = others = 0
        for record in batch:
            applied += 1
            try:
                handlers[type(record)](record)
            except Exception:
                self.failed += 1
                log.exception("a record cannot be applied", extra={"record": type(record).__name__})
            if type(record) is not records.Publication:
                others += 1
                if others % LOOK_EVERY == 0 and time.monotonic() >= until:
                    break
        self._hub.flush()
        return batch[applied:]

    def _connection(self, conn: int) -> Connection | None:
        session = self._sessions.get(conn)
        return session.connection if session is not None else None

    def _publication(self, record: records.Publication) -> None:
        exclude, offset, room, body = record
        self._hub.publish(room, offset, self._shown(body), self._connection(exclude) if exclude else None)

    def _reply(self, record: records.Reply) -> None:
        session = self._sessions.get(record.conn)
        if session is not None and not record.ok:
            session.commands.count_error(ErrorCode[codec.decode(record.body)["code"].upper()])
        if record.tag == 0:
            # A command without an id was carried out in silence; only its refusal is told.
            if session is not None and not record.ok:
                session.reply(record.body)
            return
        waiting = self._outbox.answered(record.tag, record.last)
        if waiting is None:
            return
        if waiting.future is not None:
            if not waiting.future.done():
                waiting.future.set_result(record.body)
        elif waiting.session is not None and (not record.ok or waiting.always or waiting.command_id is not None):
            body = record.body
            if body.startswith(_HISTORY):
                # Replay, however long, is no sign of a slow reader.
                waiting.session.replay(self._shown(body), waiting.command_id)
            else:
                waiting.session.reply(body, waiting.command_id)

    def _joined(self, record: records.Joined) -> None:
        waiting = self._outbox.answered(record.tag) if record.tag else None
        session = self._sessions.get(record.conn)
        if session is None or session.connection.is_closing:
            # It went, or signed in as somebody else, while the broker decided: the Detach of that number is on the
            # way up and ends the membership there.
            if waiting is not None and waiting.session is not None:
                waiting.session.refuse(ErrorCode.UNAVAILABLE, waiting.command_id, "Your identity changed; join again")
            return
        at = record.room, record.epoch, record.offset
        enter(session, self._hub.join(session.connection, *at, record.slow, record.told))
        command_id = waiting.command_id if waiting is not None else None
        for body in (record.body, *record.pages):
            session.replay(self._shown(body), command_id)

    def _resumed(self, record: records.Resumed) -> None:
        waiting = self._outbox.answered(record.tag, record.last)
        session = self._sessions.get(record.via)
        if (
            session is None
            or session.connection.is_closing
            or (session.user not in (None, record.user) and not session.is_guest)
        ):
            # It went, or became somebody else, while the broker decided. The session can still be resumed.
            self._outbox.send(records.Detach(record.conn, False))
            if waiting is not None and waiting.session is not None:
                waiting.session.refuse(ErrorCode.UNAVAILABLE, waiting.command_id, "Your identity changed; try again")
            return
        identities = session.commands.identities
        if not identities.resumed(session, record):
            return
        bodies = dict(record.refused)
        for name, epoch, offset, slow, body, told in record.rooms:
            enter(session, self._hub.join(session.connection, name, epoch, offset, slow, told))
            bodies[name] = self._shown(body)
        # Room names need no escaping in JSON.
        rooms = b",".join(b'"%b":%b' % (name.encode(), body) for name, body in bodies.items())
        head = codec.encode({"type": "resumed", "user": user_of(session), "session": identities.ticket_of(session)})
        command_id = waiting.command_id if waiting is not None else None
        session.replay(b'%b,"rooms":{%b}}' % (head[:-1], rooms), command_id)

    def _supersede(self, record: records.Supersede) -> None:
        session = self._sessions.get(record.conn)
        if session is not None:
            session.commands.identities.supersede(session)

    def _revoked(self, record: records.Revoked) -> None:
        self._revoke(record)

    def _slow_consumer(self, record: records.SlowConsumer) -> None:
        self._hub.treat_slow(record.room, record.slow)

    def _watch(self, record: records.Watch) -> None:
        self._hub.watch(record, self._connection(record.conn))

    def _unwatch(self, record: records.Unwatch) -> None:
        self._hub.unwatch(record.room, record.epoch, record.offset)

    def _tell(self, record: records.Tell) -> None:
        session = self._sessions.get(record.conn)
        if session is not None:
            session.reply(record.body)

    def _left(self, record: records.Left) -> None:
        waiting = self._outbox.answered(record.tag) if record.tag else None
        session = self._sessions.get(record.conn)
        if session is None:
            return
        self._hub.leave(session.connection, record.room)
        session.rooms.discard(record.room)
        session.reply(record.body, waiting.command_id if waiting is not None else None)

    def _push(self, record: records.Push) -> None:
        exclude = self._connection(record.exclude) if record.exclude else None
        self._hub.push(record.room, record.body, exclude, record.told)

    def _presence(self, record: records.Presence) -> None:
        user, self.told = record.user, record.told

        def in_rooms(session: Session) -> bool:
            return session.mode != PresenceMode.NONE and session.user != user

        targets = self._hub.sharing(record.rooms, in_rooms)
        for session in self._watchers:
            if session.user is not None and session.user != user:
                targets[session.connection] = None
        self._hub.send_to(targets, record.body)

    def _deliver(self, record: records.Deliver) -> None:
        targets: dict[Connection, None] = {}
        for conn in record.conns:
            session = self._sessions.get(conn)
            if session is not None:
                session.inbox_at, session.inbox_epoch = record.offset, record.epoch
                targets[session.connection] = None
        self._hub.send_to(targets, self._shown(record.body))

    def _evict(self, record: records.Evict) -> None:
        targets: dict[Connection, None] = {}
        for conn in record.conns:
            session = self._sessions.get(conn)
            if session is not None:
                self._hub.leave(session.connection, record.room)
                session.rooms.discard(record.room)
                targets[session.connection] = None
        self._hub.send_to(targets, record.body)

    def _gone(self, record: records.Gone) -> None:
        members = self._hub.drop_room(record.room)
        for connection in members:
            session = connection.session
            if isinstance(session, Session):
                session.rooms.discard(record.room)
        self._hub.send_to(members, record.body)

    def _position(self, record: records.Position) -> None:
        self._hub.check(record.room, record.epoch, record.offset)

    def _recovered(self, record: records.Recovered) -> None:
        publications = [(offset, self._shown(body)) for offset, body in record.publications]
        self._hub.recovered(record.room, record.epoch, publications)

    def _gap(self, record: records.Gap) -> None:
        self._hub.gap(record.room, record.epoch, record.first, record.last)

    def _keep(self, record: records.Keep) -> None:
        if record.value is None:
            self.kept.pop(record.key, None)
        else:
            self.kept[record.key] = (record.version, record.value)

    def _all(self, record: records.AllPush) -> None:
        exclude = self._connection(record.exclude) if record.exclude else None
        self._hub.send_to(
            {s.connection: None for s in self._sessions.values() if s.connection is not exclude}, record.body
        )


def _as_it_is(body: bytes) -> bytes:
    return body
