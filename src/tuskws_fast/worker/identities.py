"""Whom a connection speaks for: nobody, a guest, the user of a token, a session that is resumed here; and its end.

    opened ─▶ (guest) ─▶ authenticate ─▶ the same user again …             closed
         └──▶ token ──────┘       resume ─▶ resumed, by the broker's word     supersede: it goes on elsewhere

The broker knows a session by its number. Another identity is another session: what the connection held ends first, and
its number with it, so that what is still decided for the old one finds nobody.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tuskws_fast.auth.revocation import SESSION, TOKEN, Revocation, Revocations, concerns
from tuskws_fast.auth.tickets import Tickets
from tuskws_fast.auth.tokens import Identity, TokenError, Verifier
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import PresenceMode
from tuskws_fast.metrics import Metric
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode, ErrorCode
from tuskws_fast.rooms.permissions import NO_GRANTS, PRESENCE, Grants
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.limits import Limits
from tuskws_fast.worker.outbox import Outbox
from tuskws_fast.worker.session import Command, CommandId, Session, Terms

if TYPE_CHECKING:
    from tuskws_fast_ext.tables import Counters

AUTH_FAILURES_MAX = 5  # protocol §3
# How long a guest has to have been here before the broker is told of it, unless it asks for something.
GUEST_WAIT_S = 0.05


class Identities:
    """`clock` is Unix time, `monotonic` the deadlines' clock. `sessions` and `watchers` (who wants everyone's presence)
    are the worker's tables, kept here: a session is in them from `opened` to `closed`. `file(session)` puts it into the
    timer wheel for its next deadline: at the start, when one came nearer, and under another number. `new_number()` is
    the number of another connection, `call_later(seconds, callback)` the loop's. Without `tickets` no session can be
    resumed."""

    def __init__(
        self,
        terms: Terms,
        outbox: Outbox,
        hub: Hub,
        limits: Limits,
        verifier: Verifier | None,
        counters: Counters,
        sessions: dict[int, Session],
        watchers: set[Session],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        file: Callable[[Session], None],
        new_number: Callable[[], int],
        call_later: Callable[[float, Callable[[], None]], object],
        tickets: Tickets | None = None,
        revocations: Revocations | None = None,
    ) -> None:
        self.take_terms(terms)
        self.verifier = verifier
        self.sessions = sessions
        self.watchers = watchers
        # A guest may wait for `_announce`: nothing of ours speaks of it before.
        self.may_wait = True
        self._outbox = outbox
        self._hub = hub
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._monotonic = monotonic
        self._file = file
        self._new_number = new_number
        self._call_later = call_later
        self._tickets = tickets
        # Shared with the verifier.
        self.revocations = revocations if revocations is not None else Revocations()
        # Seeded by the system, in this process: no two guests of a node share a name. It is no secret.
        self._names = random.Random()
        # Guests whom the broker has not been told of, as they came: `_announce`.
        self._unannounced: dict[Session, None] = {}
        self._will_announce = False

    def take_terms(self, terms: Terms) -> None:
        """Go by `terms` from now on."""
        self.terms = terms
        # What every `welcome` says alike.
        self._welcome = codec.encode(
            {
                "type": "welcome",
                "protocol": 1,
                "server": terms.server,
                "heartbeat_interval": terms.heartbeat_interval_s,
                "max_message_size": terms.message_max,
            }
        )[:-1]

    # -- from the first moment to the last ---------------------------------------------------------------------------

    def opened(self, session: Session, identity: Identity | None = None) -> None:
        """The upgrade is done: greet, and make a guest of it where nobody has to authenticate."""
        self.sessions[session.number] = session
        self._counters.add(Metric.CONNECTIONS_OPENED)
        session.address_key = self._limits.address_key(session.address)
        if identity is not None:
            if not self._identify(session, identity):
                return
        elif self.terms.require_auth:
            session.rate_key = self._limits.key("connection", str(session.number))
        else:
            self._make_guest(session)
        if session.expires_at is None:
            self._file(session)
        if session.user is None:
            told = b'"session":null,"authenticated":false'
        else:
            ticket, user = codec.encode(self.ticket_of(session)), codec.encode(user_of(session))
            told = b'"session":%b,"authenticated":true,"user":%b' % (ticket, user)
        session.reply(b'%b,"connection_id":"%x",%b}' % (self._welcome, session.number, told))

    def _make_guest(self, session: Session) -> None:
        """Nobody has to say who they are: a name of the moment, which no other connection has."""
        name = f"guest-{self._names.getrandbits(48):012x}"
        session.user = session.username = name
        session.user_json = b'"%b"' % name.encode()
        session.is_guest = True
        session.told_at = session.opened_at
        session.rate_key = self._guest_key()
        session.connection.trust()
        if not self.may_wait:
            self.attach(session)
            return
        self._unannounced[session] = None
        if not self._will_announce:
            self._announce_later()

    def _guest_key(self) -> int:
        """A name of the moment is nobody's to aim at: any key will do, and a hash costs as much as a tenth of the rest.
        0 marks an empty slot."""
        return self._names.getrandbits(64) | 1

    def closed(self, session: Session, clean: bool) -> None:
        """The connection is gone: leave every room here; the broker keeps the membership for the grace, or not."""
        if session.number in self.sessions:
            self._end(session, clean)
        self._counters.add(Metric.CONNECTIONS_CLOSED)
        self._outbox.forget(session)
        if session.address_admitted:
            self._limits.release_address(session.address)
        self._limits.release_connection()

    def _end(self, session: Session, clean: bool) -> None:
        """The session is none of this worker's any more."""
        del self.sessions[session.number]
        self.watchers.discard(session)
        for room in session.rooms:
            self._hub.leave(session.connection, room)
        if session in self._unannounced:
            del self._unannounced[session]
        elif session.user is not None:
            self._outbox.send(records.Detach(session.number, clean))
        self._release_user(session)

    def _release_user(self, session: Session) -> None:
        if session.user_admitted and session.user is not None:
            self._limits.release_user(session.user)
            session.user_admitted = False

    def supersede(self, session: Session) -> None:
        """It goes on on another connection, which waits for this one to be let go of: not for its closing handshake."""
        self._end(session, False)
        session.connection.close(CloseCode.RESUMED_ELSEWHERE, b"resumed elsewhere")

    def revoke(self, record: records.Revoked) -> None:
        """Refuse it from now on, and let go of who is connected by it."""
        what, name, revocation = record.what, record.name, Revocation(record.before, record.until)
        if what != SESSION:
            self.revocations.add(what, name, revocation)
        for session in list(self.sessions.values()):
            if what == SESSION:
                is_meant = f"{session.ticket:d}" == name
            elif what == TOKEN:
                is_meant = session.token_id == name
            else:
                is_meant = session.user == name and concerns(revocation, session.issued_at)
            if is_meant and not session.connection.is_closing:
                self._counters.add(Metric.REVOKED_CLOSED)
                session.connection.close(CloseCode.TOKEN_REVOKED, b"revoked")

    def _identify(self, session: Session, identity: Identity) -> bool:
        """The session speaks for `identity` from here on. False: the user has too many connections, this one closes."""
        if session.user is not None and session.user != identity.user:
            self._drop_identity(session, self._new_number())
        if not self._take_identity(session, identity):
            return False
        self.attach(session)
        return True

    def _take_identity(self, session: Session, identity: Identity) -> bool:
        if not session.user_admitted and not session.is_guest:
            if not self._limits.admit_user(identity.user):
                self._counters.add(Metric.REFUSED_PER_USER)
                session.connection.close(CloseCode.TOO_MANY_CONNECTIONS, b"too many connections of this user")
                return False
            session.user_admitted = True
        session.connection.trust()
        if session.user != identity.user:
            session.told_at = self._monotonic()
        session.user = identity.user
        # Copied: what orjson returns has once been a kilobyte, and a hole of that stays behind a shrunk one (measured:
        # 4 KB a connection).
        session.user_json = b"%b" % codec.encode(identity.user)
        session.username = identity.username
        session.roles = identity.roles
        session.grants = identity.grants
        if session.mode == PresenceMode.ALL and not session.grants.everywhere & PRESENCE:
            # The refreshed token no longer says so.
            session.mode = int(PresenceMode.ROOMS)
            self.watchers.discard(session)
        session.expires_at = identity.expires_at
        session.token_id, session.issued_at = identity.token_id, identity.issued_at
        if session.is_guest:
            session.rate_key = self._guest_key()
        else:
            session.rate_key = self._limits.key("rate", identity.user)
            session.address_key = 0
        if identity.expires_at is not None:
            self._file(session)
        return True

    def _announce(self) -> None:
        """Attach the guests who stayed. Until a guest asks the broker for something, nobody knows its name, so that may
        wait; and who is gone by then was never there. Both processes would be woken for each otherwise: a third of what
        a handshake costs, and all of what a storm of them costs the broker.
        """
        self._will_announce = False
        since = self._monotonic() - GUEST_WAIT_S
        for session in list(self._unannounced):
            if session.told_at > since:
                self._announce_later()
                return
            self.attach(session)

    def _announce_later(self) -> None:
        self._will_announce = True
        self._call_later(GUEST_WAIT_S, self._announce)

    def _drop_identity(self, session: Session, number: int) -> None:
        """A guest signs in, or a session is resumed here: what the connection held ends first, and its number with
        it, so that what the broker still decides for it finds nobody."""
        for room in sorted(session.rooms):
            self._hub.leave(session.connection, room)
            session.reply(codec.encode({"type": "room_left", "room": room}))
        session.rooms = set()
        session.inbox_at, session.inbox_epoch = 0, ""
        session.is_guest = False
        if session in self._unannounced:
            del self._unannounced[session]
        else:
            self._outbox.send(records.Detach(session.number, True))
        self._renumber(session, number)
        self._release_user(session)

    def _renumber(self, session: Session, number: int) -> None:
        del self.sessions[session.number]
        session.number = session.ticket = number
        self.sessions[number] = session
        self._file(session)

    def attach(self, session: Session) -> None:
        """Tell the broker who is here (again): identity, presence mode and status of this connection."""
        assert session.user is not None, "only a session with an identity has a lease"
        self._unannounced.pop(session, None)
        self._outbox.send(
            records.Attach(
                session.number,
                session.user,
                session.username,
                list(session.roles),
                session.mode,
                session.status,
                session.inbox_at,
                _claims(session),
                0 if session.ticket == session.number else session.ticket,
                session.told_at,
                session.inbox_epoch,
            )
        )

    def announce_one(self, session: Session) -> None:
        """`session` is about to ask the broker for something."""
        if session in self._unannounced:
            self.attach(session)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def authenticate(self, session: Session, command: Command, command_id: CommandId) -> None:
        now = self._monotonic()
        wait = self._limits.wait_for_token(session.address, now)
        if wait > 0.0 and not (self.verifier is not None and self.verifier.remembers(command["token"])):
            self._counters.add(Metric.REFUSED_TOKEN_RATE)
            session.refuse_rate(command_id, wait)
            return
        try:
            if self.verifier is None:
                raise TokenError(ErrorCode.BAD_TOKEN, "This server has no key to check tokens with")
            identity = self.verifier.verify(command["token"], self._clock())
        except TokenError as error:
            self._limits.count_refused_token(session.address, now)
            self._auth_failed(session, command_id, error.code, error.code.text)
            return
        if session.user is not None and session.user != identity.user and not session.is_guest:
            self._auth_failed(session, command_id, ErrorCode.FORBIDDEN, "The identity of a connection cannot change")
            return
        if not self._identify(session, identity):
            return
        session.auth_failures = 0
        success = {
            "type": "auth_success",
            "user": user_of(session),
            "expires_at": session.expires_at,
            "session": self.ticket_of(session),
        }
        session.reply(codec.encode(success), command_id)

    def _auth_failed(self, session: Session, command_id: CommandId, code: ErrorCode, text: str) -> None:
        session.reply(codec.encode({"type": "auth_failed", "code": code, "message": text}), command_id)
        self._count_auth_failure(session)

    def _count_auth_failure(self, session: Session) -> None:
        self._counters.add(Metric.AUTH_FAILED)
        session.auth_failures += 1
        if session.auth_failures >= AUTH_FAILURES_MAX:
            session.connection.close(CloseCode.AUTH_FAILED, b"authentication failed")

    # -- tickets -----------------------------------------------------------------------------------------------------

    def ticket_of(self, session: Session) -> str | None:
        return self._tickets.issue(session.ticket) if self._tickets is not None else None

    def resume(self, session: Session, command: Command, command_id: CommandId) -> None:
        if self._tickets is None:
            session.refuse(ErrorCode.UNAVAILABLE, command_id, "Sessions cannot be resumed on this server; join again")
            return
        try:
            ticket = self._tickets.session_of(command["session"])
        except TokenError as error:
            session.refuse(error.code, command_id, error.text)
            if error.code is ErrorCode.BAD_TOKEN:
                self._limits.count_refused_token(session.address, self._monotonic())
                self._count_auth_failure(session)
            return
        if ticket == session.ticket:
            session.refuse(ErrorCode.BAD_MESSAGE, command_id, "This connection has that session already")
            return
        if not self._outbox.connected:
            session.refuse_unreachable(command_id)
            return
        known = None
        if session.user is not None and not session.is_guest:
            known = [session.user, session.username, list(session.roles), _claims(session)]
        tag = self._outbox.expect(session, command_id, always=True)
        rooms = {name: [since["epoch"], since["offset"]] for name, since in command["rooms"].items()}
        self._outbox.send(
            records.Resume(self._new_number(), tag, session.number, ticket, session.mode, known, rooms), session
        )

    def resumed(self, session: Session, record: records.Resumed) -> bool:
        """`session` is from here on the one that the broker says; its connection's own ends. False: it may not be."""
        if session.user is not None:
            self._drop_identity(session, record.conn)
        else:
            self._renumber(session, record.conn)
        session.ticket = record.ticket
        session.is_guest = record.claims is None
        session.status = record.status
        session.auth_failures = 0
        return self._take_identity(session, _identity(record))


def _claims(session: Session) -> records.Claims | None:
    """What the broker keeps of the token, for a session that is resumed: None for a guest."""
    if session.is_guest:
        return None
    grants = session.grants
    patterns = [list(pattern) for pattern in grants.patterns]
    return [session.expires_at, grants.everywhere, patterns, session.token_id, session.issued_at]


def _identity(record: records.Resumed) -> Identity:
    expires_at, grants, token_id, issued_at = None, NO_GRANTS, None, None
    if record.claims is not None:
        expires_at, everywhere, patterns, token_id, issued_at = record.claims
        grants = Grants(everywhere, tuple((pattern, rights) for pattern, rights in patterns))
    return Identity(record.user, record.username, tuple(record.roles), grants, expires_at, token_id, issued_at)


def user_of(session: Session) -> dict[str, Any]:
    return {"id": session.user, "username": session.username, "roles": session.roles}
