"""What each command of protocol §3 does in a worker: check, charge, then answer here or ask the broker.

    handle ─▶ rate limit ─▶ shape (protocol.messages) ─▶ may it, before authentication? ─▶ one method a command

The worker answers alone what needs no order and no other user (`ping`, `hello`, `auth`). All else becomes one record
on its way up; the answer comes back through the inbox. A `broadcast` is encoded here, once, for everyone.

A failure of one command is answered and costs that command; the tenth malformed one in a row costs the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import Level, PresenceMode
from tuskws_fast.metrics import ERROR_COLUMN, Metric
from tuskws_fast.protocol import codec, messages
from tuskws_fast.protocol.codes import CloseCode, ErrorCode
from tuskws_fast.rooms.permissions import PRESENCE
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.identities import Identities
from tuskws_fast.worker.limits import Limits
from tuskws_fast.worker.outbox import Outbox
from tuskws_fast.worker.session import Command, CommandId, Session

if TYPE_CHECKING:
    from tuskws_fast_ext.tables import Counters

    from tuskws_fast.worker.handlers import Handlers

FAULTS_MAX = 10  # malformed messages in a row (protocol §1)

_LEVELS = {None: Level.DEFAULT, "accepted": Level.ACCEPTED, "stored": Level.STORED, "synced": Level.SYNCED}
_MODES = {"none": PresenceMode.NONE, "rooms": PresenceMode.ROOMS, "all": PresenceMode.ALL}
_ACK = codec.encode({"type": "ack"})

Method = Callable[[Session, Command, CommandId], None]


class Commands:
    """`clock` is Unix time, `monotonic` the deadlines' clock."""

    def __init__(
        self,
        identities: Identities,
        outbox: Outbox,
        hub: Hub,
        limits: Limits,
        counters: Counters,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.identities = identities
        self.outbox = outbox
        self.hub = hub
        self.limits = limits
        self.counters = counters
        self.handlers: Handlers | None = None
        self._clock = clock
        self._monotonic = monotonic
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
            "auth": identities.authenticate,
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
            "resume": identities.resume,
            "batch": self._batch,
        }
        assert self._methods.keys() == messages.COMMANDS.keys(), "a command of the protocol has no method here"

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
            session.refuse_rate(messages.id_of(command), wait)
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
            session.refuse_rate(command_id, wait)
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
            watchers = self.identities.watchers
            (watchers.add if mode is PresenceMode.ALL else watchers.discard)(session)
            if session.user is not None:
                self.identities.attach(session)
        if command_id is not None:
            session.reply(_ACK, command_id)

    def _confirm(self, session: Session, command: Command, command_id: CommandId) -> None:
        """Delivery confirmation has no reply. An inbox lets go of what was confirmed, a room counts it."""
        if "inbox" in command:
            self.outbox.send(records.Confirm(session.number, command.get("epoch", ""), command["offset"]))
        elif not self.hub.confirm(session.connection, command["room"], command.get("epoch", ""), command["offset"]):
            session.refuse(ErrorCode.NOT_IN_ROOM, command_id)

    def _batch(self, session: Session, command: Command, command_id: CommandId) -> None:
        for entry in command["messages"]:
            if session.connection.is_closing:
                return
            self.dispatch(session, entry)

    # -- asked of the broker -------------------------------------------------------------------------------------------

    def _reachable(self, session: Session, command_id: CommandId) -> bool:
        if self.outbox.connected:
            self.identities.announce_one(session)
            return True
        session.refuse_unreachable(command_id)
        return False

    def _broadcast(self, session: Session, command: Command, command_id: CommandId) -> None:
        room: str = command["room"]
        body = self._push_prefix(session, b'{"type":"room_message","room":"%b"' % room.encode(), command, command_id)
        if body is None:
            return
        quiet = command_id is None
        fields = (
            session.number,
            0 if quiet else self.outbox.expect(session, command_id),
            session.grants.for_room(room),
            _LEVELS[command.get("ack")],
            command.get("echo", True),
            quiet,
            room,
            command_id if type(command_id) is str else "",
            body,
            False,
            command.get("receipt", False),
        )
        # `tuple.__new__`: a named tuple's constructor is a Python function (0.3 us).
        self.outbox.ask(tuple.__new__(records.Publish, fields), session)
        session.connection.is_publishing = True

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
        session.connection.is_publishing = True

    def _push_prefix(self, session: Session, head: bytes, command: Command, command_id: CommandId) -> bytes | None:
        """The push all recipients will get, encoded once, up to what only the broker knows. None: refused."""
        try:
            message = codec.encode_nested(command["message"])
        except codec.JSONEncodeError:
            session.refuse(ErrorCode.BAD_MESSAGE, command_id, "`message` is nested too deeply")
            return None
        if len(message) > self.identities.terms.message_max:
            text = f"The message has {len(message)} bytes, {self.identities.terms.message_max} are allowed"
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
                session.refuse_rate(command_id, wait)
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
