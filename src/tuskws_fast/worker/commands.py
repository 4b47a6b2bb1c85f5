"""What each command of protocol §3 does in a worker: check, charge, then answer here or ask the broker.

    handle ─▶ rate limit ─▶ shape (protocol.messages) ─▶ may it, before authentication? ─▶ one method a command

The worker answers alone what needs no order and no other user (`ping`, `hello`, `auth`). All else becomes one record
on its way up; the answer comes back through the inbox. A `broadcast` is encoded here, once, for everyone.

A failure of one command is answered and costs that command; the tenth malformed one in a row costs the connection.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuskws_fast.auth.tickets import Tickets
from tuskws_fast.auth.tokens import Identity, TokenError, Verifier
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import Level, PresenceMode
from tuskws_fast.metrics import ERROR_COLUMN, Metric
from tuskws_fast.protocol import codec, messages
from tuskws_fast.protocol.codes import CloseCode, ErrorCode
from tuskws_fast.rooms.permissions import NO_GRANTS, PRESENCE, Grants
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.limits import Limits
from tuskws_fast.worker.outbox import BROKER_AWAY_S, Outbox
from tuskws_fast.worker.session import Session

if TYPE_CHECKING:
    from tuskws_fast_ext.tables import Counters

    from tuskws_fast.worker.handlers import Handlers

FAULTS_MAX = 10  # malformed messages in a row (protocol §1)
AUTH_FAILURES_MAX = 5  # protocol §3
RATE_REFUSALS_MAX = 1_000  # commands refused in a row before a client that never slows down is closed (4009)

_LEVELS = {None: Level.DEFAULT, "accepted": Level.ACCEPTED, "stored": Level.STORED, "synced": Level.SYNCED}
_MODES = {"none": PresenceMode.NONE, "rooms": PresenceMode.ROOMS, "all": PresenceMode.ALL}
_ACK = codec.encode({"type": "ack"})

Command = dict[str, Any]
CommandId = str | int | None
Method = Callable[[Session, Command, CommandId], None]


@dataclass(frozen=True, slots=True)
class CommandSettings:
    require_auth: bool
    message_max: int
    heartbeat_interval_s: float
    server: str


class Commands:
    """`clock` is Unix time, `monotonic` the deadlines' clock. `sessions` and `watchers` (who wants everyone's
    presence) are the worker's tables, kept here: a session is in them from `opened` to `closed`. `file(session)` puts
    it into the timer wheel for its next deadline: at the start, and when one came nearer. `new_number()` is the number
    of another connection. Without `tickets` no session can be resumed."""

    def __init__(
        self,
        settings: CommandSettings,
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
        tickets: Tickets | None = None,
        handlers: Handlers | None = None,
    ) -> None:
        self.take_settings(settings)
        self.outbox = outbox
        self.hub = hub
        self.limits = limits
        self.verifier = verifier
        self.counters = counters
        self.sessions = sessions
        self.watchers = watchers
        self.handlers = handlers
        self._clock = clock
        self._monotonic = monotonic
        self._file = file
        self._new_number = new_number
        self._tickets = tickets
        # Seeded by the system, in this process: no two guests of a node share a name. It is no secret.
        self._names = random.Random()
        # Guests whom the broker has not been told of: `announce`.
        self._unannounced: set[Session] = set()
        self._pong_at, self._pong = -1.0, b""
        self.received = 0
        self.replies = 0
        self._methods: dict[str, Method] = {
            "ping": self._ping,
            "broadcast": self._broadcast,
            "private_message": self._private_message,
            "join_room": self._join_room,
            "leave_room": self._leave_room,
            "hello": self._hello,
            "auth": self._auth,
            "presence": self._presence,
            "get_presence": self._ask("users", "room"),
            "history": self._history,
            "create_room": self._settle_room,
            "update_room": self._settle_room,
            "delete_room": self._ask("room"),
            "room_info": self._ask("room"),
            "list_rooms": self._ask(),
            "kick": self._ask("room", "user", "seconds"),
            "ban": self._ask("room", "user", "seconds"),
            "mute": self._ask("room", "user", "seconds"),
            "ack": self._confirm,
            "resume": self._resume,
            "batch": self._batch,
        }
        assert self._methods.keys() == messages.COMMANDS.keys(), "a command of the protocol has no method here"

    def take_settings(self, settings: CommandSettings) -> None:
        """Go by `settings` from now on."""
        self.settings = settings
        # What every `welcome` says alike.
        self._welcome = codec.encode(
            {
                "type": "welcome",
                "protocol": 1,
                "server": settings.server,
                "heartbeat_interval": settings.heartbeat_interval_s,
                "max_message_size": settings.message_max,
            }
        )[:-1]

    # -- the life of a session ---------------------------------------------------------------------------------------

    def opened(self, session: Session, identity: Identity | None = None) -> None:
        """The upgrade is done: greet, and make a guest of it where nobody has to authenticate."""
        self.sessions[session.number] = session
        self.counters.add(Metric.CONNECTIONS_OPENED)
        session.address_key = self.limits.address_key(session.address)
        self._file(session)
        if identity is None and self.settings.require_auth:
            session.rate_key = self.limits.key("connection", str(session.number))
        elif identity is None:
            name = f"guest-{self._names.getrandbits(48):012x}"
            identity = Identity(user=name, username=name, roles=(), grants=NO_GRANTS, expires_at=None)
            session.is_guest = True
        if identity is not None and not self._identify(session, identity):
            return
        who = b"false" if identity is None else b'true,"user":%b' % codec.encode(user_of(session))
        ticket = b"null" if identity is None else codec.encode(self.ticket_of(session))
        session.reply(
            b'%b,"connection_id":"%x","session":%b,"authenticated":%b}' % (self._welcome, session.number, ticket, who)
        )

    def closed(self, session: Session, clean: bool) -> None:
        """The connection is gone: leave every room here; the broker keeps the membership for the grace, or not."""
        if session.number in self.sessions:
            self._end(session, clean)
        self.counters.add(Metric.CONNECTIONS_CLOSED)
        self.outbox.forget(session)
        if session.address_admitted:
            self.limits.release_address(session.address)
        self.limits.release_connection()

    def _end(self, session: Session, clean: bool) -> None:
        """The session is none of this worker's any more."""
        del self.sessions[session.number]
        self.watchers.discard(session)
        for room in session.rooms:
            self.hub.leave(session.connection, room)
        if session in self._unannounced:
            self._unannounced.discard(session)
        elif session.user is not None:
            self.outbox.send(records.Detach(session.number, clean))
        self._release_user(session)

    def _release_user(self, session: Session) -> None:
        if session.user_admitted and session.user is not None:
            self.limits.release_user(session.user)
            session.user_admitted = False

    def supersede(self, session: Session) -> None:
        """It goes on on another connection, which waits for this one to be let go of: not for its closing handshake."""
        self._end(session, False)
        session.connection.close(CloseCode.RESUMED_ELSEWHERE, b"resumed elsewhere")

    def _identify(self, session: Session, identity: Identity) -> bool:
        """The session speaks for `identity` from here on. False: the user has too many connections, this one closes."""
        if session.user is not None and session.user != identity.user:
            self._drop_identity(session, self._new_number())
        if not self._take_identity(session, identity):
            return False
        if session.is_guest and self.handlers is None:
            self._unannounced.add(session)
        else:
            self.attach(session)
        return True

    def _take_identity(self, session: Session, identity: Identity) -> bool:
        if not session.user_admitted:
            if not self.limits.admit_user(identity.user):
                self.counters.add(Metric.REFUSED_PER_USER)
                session.connection.close(CloseCode.TOO_MANY_CONNECTIONS, b"too many connections of this user")
                return False
            session.user_admitted = True
        session.connection.trust()
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
        if session.is_guest:
            # A name of the moment is nobody's to aim at: any key will do, and a hash costs as much as a tenth of the
            # rest. 0 marks an empty slot.
            session.rate_key = self._names.getrandbits(64) | 1
        else:
            session.rate_key = self.limits.key("rate", identity.user)
            session.address_key = 0
        if identity.expires_at is not None:
            self._file(session)
        return True

    def announce(self) -> None:
        """Attach the guests who came since the last call. Until a guest asks the broker for something, nobody knows
        its name, so that may wait some milliseconds; and who is gone by then was never there. Both processes would be
        woken for each otherwise: a third of what a handshake costs, and all of what a storm of them costs the broker.
        """
        while self._unannounced:
            self.attach(next(iter(self._unannounced)))

    def _drop_identity(self, session: Session, number: int) -> None:
        """A guest signs in, or a session is resumed here: what the connection held ends first, and its number with
        it, so that what the broker still decides for it finds nobody."""
        for room in sorted(session.rooms):
            self.hub.leave(session.connection, room)
            session.reply(codec.encode({"type": "room_left", "room": room}))
        session.rooms = set()
        session.inbox_at = 0
        session.is_guest = False
        if session in self._unannounced:
            self._unannounced.discard(session)
        else:
            self.outbox.send(records.Detach(session.number, True))
        self._renumber(session, number)
        self._release_user(session)

    def _renumber(self, session: Session, number: int) -> None:
        del self.sessions[session.number]
        session.number = session.ticket = number
        self.sessions[number] = session

    def attach(self, session: Session) -> None:
        """Tell the broker who is here (again): identity, presence mode and status of this connection."""
        assert session.user is not None, "only a session with an identity has a lease"
        self._unannounced.discard(session)
        self.outbox.send(
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
            )
        )

    # -- the gate ----------------------------------------------------------------------------------------------------

    def handle(self, session: Session, command: object) -> None:
        """One decoded message of a client."""
        if type(command) is not dict:
            self.charge_fault(session, ErrorCode.BAD_JSON)
            return
        if command.get("type") != "batch":
            self.dispatch(session, command)
            return
        try:
            messages.check(command)
        except messages.MessageFault as fault:
            self.charge_fault(session, fault.code, messages.id_of(command), fault.text)
            return
        if not command["messages"]:
            self._charge(session, self._monotonic())
        self._batch(session, command, None)

    def dispatch(self, session: Session, command: Command) -> None:
        """Charge, check and carry out one command that is not a batch."""
        self.received += 1
        now = self._monotonic()
        wait = self._charge(session, now)
        if wait > 0.0:
            self._refuse_rate(session, messages.id_of(command), wait)
            return
        session.refused_in_row = 0
        try:
            messages.check_envelope(command)
            kind = command["type"]
            if kind == "ping" and self.handlers is None:
                # It has no fields, asks for no rights and is no sign of activity: the shortest way there is.
                session.faults = 0
                self._ping(session, command, command.get("id"))
                return
            if kind != "ping":
                session.last_command = now
            if session.user is None and kind not in messages.BEFORE_AUTHENTICATION:
                session.refuse(ErrorCode.NOT_AUTHENTICATED, messages.id_of(command))
                return
            if self.handlers is not None and self.handlers.wants(session, kind):
                session.faults = 0
                self.handlers.accept(session, command)
                return
        except messages.MessageFault as fault:
            self._fault(session, fault.code, messages.id_of(command), fault.text)
        else:
            self.carry_out(session, command)

    def carry_out(self, session: Session, command: Command) -> None:
        """Check and run a command of the protocol, whose envelope is checked; what is wrong with it is answered."""
        try:
            messages.check_fields(command)
        except messages.MessageFault as fault:
            if fault.code is ErrorCode.UNKNOWN_TYPE:
                # An application of a newer protocol is not malformed: neither a fault nor the end of a row of them.
                session.refuse(fault.code, messages.id_of(command))
            else:
                self._fault(session, fault.code, messages.id_of(command), fault.text)
            return
        session.faults = 0
        self._methods[command["type"]](session, command, command.get("id"))

    def charge_fault(
        self, session: Session, code: ErrorCode, command_id: CommandId = None, text: str | None = None
    ) -> None:
        """A message that is no command: it costs a token too, an error reply, and in the end the connection."""
        self.received += 1
        wait = self._charge(session, self._monotonic())
        if wait > 0.0:
            self._refuse_rate(session, command_id, wait)
        else:
            self._fault(session, code, command_id, text)

    def _charge(self, session: Session, now: float) -> float:
        """Take one command from all rates it counts against; seconds to wait, if one of them is used up."""
        wait = self.limits.take(session.rate_key, now)
        if wait == 0.0 and session.address_key:
            wait = self.limits.take_stranger(session.address_key, now)
            if wait > 0.0:
                self.counters.add(Metric.RATE_LIMITED_PER_IP)
        return wait

    def _fault(self, session: Session, code: ErrorCode, command_id: CommandId, text: str | None) -> None:
        session.refuse(code, command_id, text)
        session.faults += 1
        if session.faults >= FAULTS_MAX:
            self.counters.add(Metric.POLICY_CLOSED)
            session.connection.close(CloseCode.POLICY, b"too many malformed messages")

    def _refuse_rate(self, session: Session, command_id: CommandId, wait: float) -> None:
        self.counters.add(Metric.RATE_LIMITED)
        session.refuse(ErrorCode.RATE_LIMITED, command_id, retry_after=wait)
        session.refused_in_row += 1
        if session.refused_in_row >= RATE_REFUSALS_MAX:
            self.counters.add(Metric.POLICY_CLOSED)
            session.connection.close(CloseCode.RATE_ABUSE, b"rate limit ignored")

    def count_error(self, code: ErrorCode) -> None:
        self.counters.add(ERROR_COLUMN[code])

    # -- answered here -------------------------------------------------------------------------------------------------

    def _ping(self, session: Session, command: Command, command_id: CommandId) -> None:
        # The loop's time stands still during a turn, and what is written of it is a millisecond: one text serves all.
        now = self._monotonic()
        if now != self._pong_at:
            self._pong_at, self._pong = now, b'{"type":"pong","timestamp":%.3f}' % self._clock()
        session.reply(self._pong, command_id)

    def _hello(self, session: Session, command: Command, command_id: CommandId) -> None:
        mode = _MODES[command.get("presence", "rooms")] if "presence" in command else PresenceMode(session.mode)
        if mode is PresenceMode.ALL and not session.grants.everywhere & PRESENCE:
            session.refuse(ErrorCode.FORBIDDEN, command_id, "`presence: all` needs the permission `presence`")
            return
        if "batch" in command:
            session.connection.set_batch(command["batch"])
        if mode != session.mode:
            session.mode = int(mode)
            (self.watchers.add if mode is PresenceMode.ALL else self.watchers.discard)(session)
            if session.user is not None:
                self.attach(session)
        if command_id is not None:
            session.reply(_ACK, command_id)

    def _auth(self, session: Session, command: Command, command_id: CommandId) -> None:
        now = self._monotonic()
        wait = self.limits.wait_for_token(session.address, now)
        if wait > 0.0 and not (self.verifier is not None and self.verifier.remembers(command["token"])):
            self.counters.add(Metric.REFUSED_TOKEN_RATE)
            self._refuse_rate(session, command_id, wait)
            return
        try:
            if self.verifier is None:
                raise TokenError(ErrorCode.BAD_TOKEN, "This server has no key to check tokens with")
            identity = self.verifier.verify(command["token"], self._clock())
        except TokenError as error:
            self.limits.count_refused_token(session.address, now)
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
        self.counters.add(Metric.AUTH_FAILED)
        session.auth_failures += 1
        if session.auth_failures >= AUTH_FAILURES_MAX:
            session.connection.close(CloseCode.AUTH_FAILED, b"authentication failed")

    def _confirm(self, session: Session, command: Command, command_id: CommandId) -> None:
        """Delivery confirmation has no reply. An inbox lets go of what was confirmed, a room counts it."""
        if "inbox" in command:
            self.outbox.send(records.Confirm(session.number, command.get("epoch", ""), command["offset"]))
        elif not self.hub.confirm(session.connection, command["room"], command.get("epoch", ""), command["offset"]):
            session.refuse(ErrorCode.NOT_IN_ROOM, command_id)

    def ticket_of(self, session: Session) -> str | None:
        return self._tickets.issue(session.ticket) if self._tickets is not None else None

    def _resume(self, session: Session, command: Command, command_id: CommandId) -> None:
        if self._tickets is None:
            session.refuse(ErrorCode.UNAVAILABLE, command_id, "Sessions cannot be resumed on this server; join again")
            return
        try:
            ticket = self._tickets.session_of(command["session"])
        except TokenError as error:
            session.refuse(error.code, command_id, error.text)
            if error.code is ErrorCode.BAD_TOKEN:
                self.limits.count_refused_token(session.address, self._monotonic())
                self._count_auth_failure(session)
            return
        if ticket == session.ticket:
            session.refuse(ErrorCode.BAD_MESSAGE, command_id, "This connection has that session already")
            return
        if not self.outbox.connected:
            self._refuse_unreachable(session, command_id)
            return
        known = None
        if session.user is not None and not session.is_guest:
            known = [session.user, session.username, list(session.roles), _claims(session)]
        tag = self.outbox.expect(session, command_id, always=True)
        rooms = {name: [since["epoch"], since["offset"]] for name, since in command["rooms"].items()}
        self.outbox.send(
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

    def _batch(self, session: Session, command: Command, command_id: CommandId) -> None:
        for entry in command["messages"]:
            if session.connection.is_closing:
                return
            self.dispatch(session, entry)

    # -- asked of the broker -------------------------------------------------------------------------------------------

    def _reachable(self, session: Session, command_id: CommandId) -> bool:
        if self.outbox.connected:
            if session in self._unannounced:
                self.attach(session)
            return True
        self._refuse_unreachable(session, command_id)
        return False

    @staticmethod
    def _refuse_unreachable(session: Session, command_id: CommandId) -> None:
        session.refuse(
            ErrorCode.UNAVAILABLE,
            command_id,
            "The server is recovering from a fault; try again",
            retry_after=BROKER_AWAY_S,
        )

    def _broadcast(self, session: Session, command: Command, command_id: CommandId) -> None:
        room: str = command["room"]
        body = self._push_prefix(session, b'{"type":"room_message","room":"%b"' % room.encode(), command, command_id)
        if body is None:
            return
        quiet = command_id is None
        self.outbox.ask(
            records.Publish(
                session.number,
                0 if quiet else self.outbox.expect(session, command_id),
                session.grants.for_room(room),
                _LEVELS[command.get("ack")],
                command.get("echo", True),
                quiet,
                room,
                command_id if type(command_id) is str else "",
                body,
                receipt=command.get("receipt", False),
            ),
            session,
        )

    def _private_message(self, session: Session, command: Command, command_id: CommandId) -> None:
        if command.get("receipt"):
            text = "Only a room's messages have receipts; a private message is kept until its recipient confirms it"
            session.refuse(ErrorCode.UNAVAILABLE, command_id, text)
            return
        body = self._push_prefix(session, b'{"type":"private_message"', command, command_id)
        if body is None:
            return
        quiet = command_id is None
        self.outbox.ask(
            records.Private(
                session.number,
                0 if quiet else self.outbox.expect(session, command_id),
                session.grants.everywhere,
                _LEVELS[command.get("ack")],
                quiet,
                command["to"],
                command_id if type(command_id) is str else "",
                body,
            ),
            session,
        )

    def _push_prefix(self, session: Session, head: bytes, command: Command, command_id: CommandId) -> bytes | None:
        """The push all recipients will get, encoded once, up to what only the broker knows. None: refused."""
        try:
            message = codec.encode_nested(command["message"])
        except codec.JSONEncodeError:
            session.refuse(ErrorCode.BAD_MESSAGE, command_id, "`message` is nested too deeply")
            return None
        if len(message) > self.settings.message_max:
            text = f"The message has {len(message)} bytes, {self.settings.message_max} are allowed"
            session.refuse(ErrorCode.MESSAGE_TOO_LARGE, command_id, text)
            return None
        if not self._reachable(session, command_id):
            return None
        ref = b',"ref":%b' % codec.encode(command_id) if type(command_id) is str else b""
        return b'%b,"message":%b,"from":%b%b' % (head, message, session.user_json, ref)

    def _join_room(self, session: Session, command: Command, command_id: CommandId) -> None:
        if session.is_guest and "password" in command:
            # The broker counts a user's tries, and a guest is another user with every connection.
            wait = self.limits.take_password_try(session.address, self._monotonic())
            if wait > 0.0:
                self.counters.add(Metric.PASSWORD_TRIES_LIMITED)
                self._refuse_rate(session, command_id, wait)
                return
        if not self._reachable(session, command_id):
            return
        since = command.get("since")
        self.outbox.ask(
            records.Join(
                session.number,
                self.outbox.expect(session, command_id, always=True),
                session.grants.for_room(command["room"]),
                command["room"],
                command.get("password"),
                (since["epoch"], since["offset"]) if since is not None else None,
                command.get("history"),
            ),
            session,
        )

    def _leave_room(self, session: Session, command: Command, command_id: CommandId) -> None:
        if self._reachable(session, command_id):
            tag = self.outbox.expect(session, command_id, always=True)
            self.outbox.ask(records.Leave(session.number, tag, command["room"]), session)

    def _presence(self, session: Session, command: Command, command_id: CommandId) -> None:
        if self._call(session, command_id, "presence", {"status": command["status"]}):
            session.status = command["status"]

    def _history(self, session: Session, command: Command, command_id: CommandId) -> None:
        args = {"room": command["room"]}
        if "since" in command:
            args["since"] = [command["since"]["epoch"], command["since"]["offset"]]
        if "limit" in command:
            args["limit"] = command["limit"]
        self._call(session, command_id, "history", args)

    def _settle_room(self, session: Session, command: Command, command_id: CommandId) -> None:
        # Only the settings there are: what a client adds to them is not ours to carry.
        given = command.get("settings", {})
        settings = {name: given[name] for name in messages.SETTING_NAMES if name in given}
        self._call(session, command_id, command["type"], {"room": command["room"], "settings": settings})

    def _ask(self, *fields: str) -> Method:
        """A command that goes up as it is: its name and these of its fields."""

        def ask(session: Session, command: Command, command_id: CommandId) -> None:
            args = {name: command[name] for name in fields if name in command}
            self._call(session, command_id, command["type"], args)

        return ask

    def _call(self, session: Session, command_id: CommandId, op: str, args: dict[str, Any]) -> bool:
        """Send the command up. False: there is no broker, and the client was told so."""
        if not self._reachable(session, command_id):
            return False
        room = args.get("room")
        rights = session.grants.for_room(room) if room is not None else session.grants.everywhere
        tag = self.outbox.expect(session, command_id)
        self.outbox.send(records.Call(session.number, tag, rights, op, args), session)
        return True


def _claims(session: Session) -> records.Claims | None:
    """What the broker keeps of the token, for a session that is resumed: None for a guest."""
    if session.is_guest:
        return None
    grants = session.grants
    return [session.expires_at, grants.everywhere, [list(pattern) for pattern in grants.patterns]]


def _identity(record: records.Resumed) -> Identity:
    expires_at, grants = None, NO_GRANTS
    if record.claims is not None:
        expires_at, everywhere, patterns = record.claims
        grants = Grants(everywhere, tuple((pattern, rights) for pattern, rights in patterns))
    return Identity(record.user, record.username, tuple(record.roles), grants, expires_at)


def user_of(session: Session) -> dict[str, Any]:
    return {"id": session.user, "username": session.username, "roles": session.roles}
