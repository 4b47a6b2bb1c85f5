"""What a client holds on one connection: identity, rooms, deadlines, and how often it has erred.

A connection has exactly one session and a session one connection. One that is resumed goes on as another object here:
what both have in common is the broker's (`broker.tickets`). It decides nothing about rooms: it turns input into calls
of `Commands` and time into closes.

Slots, not a dict, and containers only when needed: 10,000 idle sessions are the common case.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.frame import Frame
from tuskws_fast_ext.items import has_more_items
from tuskws_fast_ext.pings import Caller

from tuskws_fast.ipc.records import PresenceMode
from tuskws_fast.metrics import Metric
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode, ErrorCode, error_body
from tuskws_fast.rooms.permissions import NO_GRANTS, Grants
from tuskws_fast.worker.outbox import BROKER_AWAY_S

if TYPE_CHECKING:
    from tuskws_fast.auth.tokens import Identity
    from tuskws_fast.worker.commands import Commands

log = logging.getLogger(__name__)

Command = dict[str, Any]
CommandId = str | int | None

RATE_REFUSALS_MAX = 1_000  # commands refused in a row before a client that never slows down is closed (4009)
OP_PING = 9
PING = Frame.control(OP_PING, b"")


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """Every deadline of a session, in seconds; 0 = off for `idle_s`."""

    auth_s: float
    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What is demanded of who comes, and told in `welcome`."""

    require_auth: bool
    message_max: int
    items_max: int
    heartbeat_interval_s: float
    server: str


class Session(Caller):
    __slots__ = (
        "address",
        "address_admitted",
        "auth_failures",
        "commands",
        "connection",
        "expires_at",
        "grants",
        "inbox_at",
        "inbox_epoch",
        "is_guest",
        "issued_at",
        "last_command",
        "look_at",
        "mode",
        "number",
        "opened_at",
        "pinged_at",
        "roles",
        "rooms",
        "status",
        "ticket",
        "token_id",
        "token_identity",
        "told_at",
        "user",
        "user_admitted",
        "user_json",
        "username",
    )

    connection: Connection

    def __init__(self, commands: Commands, number: int, address: str, now: float) -> None:
        self.commands = commands
        self.number = number
        # The session's number: that of its first connection.
        self.ticket = number
        self.address = address
        self.opened_at = now
        self.last_command = now
        self.pinged_at = 0.0
        # When the timer wheel is to bring this session up; entries of the wheel for another time are stale.
        self.look_at = 0.0
        # Identity: None until authenticated (a guest is an identity too).
        self.user: str | None = None
        self.user_json = b""
        self.is_guest = False
        # What a token in the upgrade request proved; used once, by `on_open`.
        self.token_identity: Identity | None = None
        # When this connection was told whose it is.
        self.told_at = 0.0
        self.username = ""
        self.roles: tuple[str, ...] = ()
        self.grants: Grants = NO_GRANTS
        self.expires_at: float | None = None
        # Of the token: by these it can be revoked.
        self.token_id: str | None = None
        self.issued_at: float | None = None
        self.status = "online"
        self.mode = int(PresenceMode.ROOMS)
        # Up to this offset the user's private messages were handed to this connection.
        self.inbox_at = 0
        self.inbox_epoch = ""
        self.rooms: set[str] = _NO_ROOMS
        self.auth_failures = 0
        self.address_admitted = False
        self.user_admitted = False

    # -- what the connection calls ---------------------------------------------------------------------------------

    def on_open(self) -> None:
        identity, self.token_identity = self.token_identity, None
        self.commands.identities.opened(self, identity)

    def on_message(self, payload: bytes, text: bool) -> None:
        items_max = self.commands.identities.terms.items_max
        if len(payload) > items_max and has_more_items(payload, items_max):
            self.commands.counters.add(Metric.ITEMS_REFUSED)
            fault = f"A message may have {items_max} members and entries"
            self.commands.charge_fault(self, ErrorCode.BAD_JSON, None, fault)
            return
        try:
            command = codec.decode(payload)
        except codec.JSONDecodeError:
            self._refuse_payload(payload, text)
            return
        self.commands.handle(self, command)

    def _refuse_payload(self, payload: bytes, text: bool) -> None:
        # Valid JSON is valid UTF-8, so only what failed to decode is looked at twice (RFC 6455 §8.1).
        if text:
            try:
                payload.decode()
            except UnicodeDecodeError:
                self.connection.fail(CloseCode.BAD_UTF8, b"invalid UTF-8")
                return
        self.commands.charge_fault(self, ErrorCode.BAD_JSON)

    def on_pong(self) -> None:
        self.pinged_at = 0.0

    def on_closed(self, code: int) -> None:
        self.commands.identities.closed(self, clean=code == CloseCode.NORMAL)

    def on_failure(self, error: Exception) -> None:
        """Something of ours raised: this connection pays, no other."""
        self.commands.counters.add(Metric.HANDLER_FAILED)
        log.error("connection %x fails", self.number, exc_info=error)
        if not self.connection.is_lost:
            self.connection.close(CloseCode.INTERNAL, b"internal error")

    # -- replies ---------------------------------------------------------------------------------------------------

    def reply(self, body: bytes, command_id: str | int | None = None) -> None:
        """Send the encoded `body`, with the command's id when it had one."""
        self.commands.replies += 1
        if command_id is not None:
            body = codec.with_id(body, command_id)
        self.connection.send(Frame([body]))

    def replay(self, body: bytes, command_id: str | int | None = None) -> None:
        """As `reply`, for messages of the past: they do not count against the limits of a slow reader."""
        self.commands.replies += 1
        if command_id is not None:
            body = codec.with_id(body, command_id)
        self.connection.send(Frame([body], exempt=True))

    def refuse(
        self,
        code: ErrorCode,
        command_id: str | int | None = None,
        text: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.commands.count_error(code)
        self.reply(error_body(code, text, retry_after), command_id)

    def refuse_rate(self, command_id: CommandId, wait: float) -> None:
        """A rate is used up for `wait` seconds. Who never slows down is closed."""
        self.commands.counters.add(Metric.RATE_LIMITED)
        self.refuse(ErrorCode.RATE_LIMITED, command_id, retry_after=wait)
        self.refused_in_row += 1
        if self.refused_in_row >= RATE_REFUSALS_MAX:
            self.commands.counters.add(Metric.POLICY_CLOSED)
            self.connection.close(CloseCode.RATE_ABUSE, b"rate limit ignored")

    def refuse_unreachable(self, command_id: CommandId) -> None:
        """There is no broker at the moment."""
        text = "The server is recovering from a fault; try again"
        self.refuse(ErrorCode.UNAVAILABLE, command_id, text, retry_after=BROKER_AWAY_S)

    # -- time ------------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float, wall: float, times: SessionTimes) -> float:
        """When `on_timer` should look (again)."""
        if self.pinged_at:
            due = max(self.connection.last_input, self.pinged_at) + times.heartbeat_timeout_s
        else:
            due = self.connection.last_input + times.heartbeat_interval_s
        if self.user is None:
            due = min(due, self.opened_at + times.auth_s)
        if self.expires_at is not None:
            due = min(due, now + self.expires_at - wall)
        if times.idle_s:
            due = min(due, self.last_command + times.idle_s)
        return due

    def on_timer(self, now: float, wall: float, times: SessionTimes) -> bool:
        """Act on what is due. False once the connection is on its way out: no further look is needed."""
        connection = self.connection
        if connection.is_closing or connection.is_lost:
            return False
        if self.user is None and now >= self.opened_at + times.auth_s:
            return self._end(CloseCode.AUTH_FAILED, b"authentication timeout", Metric.AUTH_TIMEOUT_CLOSED)
        if self.expires_at is not None and wall >= self.expires_at:
            return self._end(CloseCode.TOKEN_EXPIRED, b"token expired", None)
        if times.idle_s and now >= self.last_command + times.idle_s:
            return self._end(CloseCode.IDLE, b"idle", Metric.IDLE_CLOSED)
        if self.pinged_at:
            if connection.last_input > self.pinged_at:
                self.pinged_at = 0.0
            elif now >= self.pinged_at + times.heartbeat_timeout_s:
                return self._end(CloseCode.HEARTBEAT_MISSED, b"heartbeat missed", Metric.HEARTBEAT_MISSED)
        if not self.pinged_at and now >= connection.last_input + times.heartbeat_interval_s:
            self.pinged_at = now
            connection.send(PING)
        return True

    def _end(self, code: CloseCode, reason: bytes, metric: Metric | None) -> bool:
        if metric is not None:
            self.commands.counters.add(metric)
        self.connection.close(code, reason)
        return False


# One empty set for all sessions that are in no room; `enter` replaces it before it writes.
_NO_ROOMS: set[str] = set()


def enter(session: Session, room: str) -> None:
    if session.rooms is _NO_ROOMS:
        session.rooms = {room}
    else:
        session.rooms.add(room)
