"""From an accepted socket to a session: the HTTP phase of every connection, and the hand-over to picows.

    plain socket (ext/sockets) ─▶ read_head ──┐ what it leaves to others: HeadReader
    encrypted one (worker/tls) ─▶ HeadReader ─┴▶ Head ─▶ protocol.handshake decides ─▶ refusal, small page
                                                                                     └▶ connection, gate in front of it

The acceptor owns the HTTP phase because picows answers every fault with 400, knows no HEAD and no 426, and refuses
`Connection: keep-alive, Upgrade` (measured; docs/decisions/0001). Frames are picows' again: one parser for the worker,
behind a gate a connection (ext/parser, docs/decisions/0004).

Reads before the upgrade share one buffer per worker: half-open connections cost a parser at most, no memory of their
own. Who may wait there, and how often an address may try: doorkeeper.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from tuskws_fast_ext.connection import Connection
from tuskws_fast_ext.deflate import Compression, CompressionPool
from tuskws_fast_ext.gate import Gate, Inlet
from tuskws_fast_ext.head import Head, read_head
from tuskws_fast_ext.parser import FrameParser
from tuskws_fast_ext.sockets import Socket
from tuskws_fast_ext.tables import Counters
from tuskws_fast_ext.upgrade import Upgrade

from tuskws_fast.auth.forwarded import TrustedProxies, came_by_tls
from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.auth.tokens import Identity, TokenError, Verifier
from tuskws_fast.metrics import Metric
from tuskws_fast.protocol import extensions, handshake
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.protocol.extensions import Agreement, MalformedHeaderError, Policy
from tuskws_fast.protocol.handshake import Refusal
from tuskws_fast.protocol.head_reader import HEAD_BYTES_MAX, HeadError, HeadReader
from tuskws_fast.worker.doorkeeper import Doorkeeper
from tuskws_fast.worker.echo import ECHO_PATH, Echo, EchoSession
from tuskws_fast.worker.frames import picows_protocol
from tuskws_fast.worker.lane import Lane
from tuskws_fast.worker.limits import Limits
from tuskws_fast.worker.session import Session
from tuskws_fast.worker.shortage import Shortage

log = logging.getLogger(__name__)

# Of the sockets that a worker has descriptors for: above the first share upgrades are refused with 503, above the
# second a few clients at a time may still ask how the node is.
SOCKETS_SHARE, SOCKETS_HARD_SHARE = 0.90, 0.97
RETRY_AFTER_S = "5"
AGREEMENTS_MAX = 64
# Late handshakes ended before sockets get their turn: each takes 60 us.
EXPIRED_A_TURN = 16

PATHS = frozenset({"/", "/ws"})


@dataclass(frozen=True, slots=True)
class AcceptorSettings:
    connection_timeout_s: float
    allow_query_token: bool
    require_auth: bool
    demo_page: bytes | None
    sockets_max: int  # of this process
    compression: Policy | None  # None: off, the header is not looked at
    proxies: TrustedProxies
    half_open_max: int
    half_open_per_ip_max: int


@dataclass(slots=True)
class Page:
    status: HTTPStatus
    body: bytes
    content_type: str


class Acceptor:
    """`lane` bounds upgraded connections, `new_session(address)` makes their sessions; `echo` is served where there is
    one; `page(path)` serves what is no WebSocket (health), or None."""

    def __init__(
        self,
        settings: AcceptorSettings,
        inlet: Inlet,
        lane: Lane,
        echo: Echo | None,
        limits: Limits,
        origins: OriginPolicy | None,
        verifier: Callable[[], Verifier | None],
        counters: Counters,
        new_session: Callable[[str], Session],
        session_count: Callable[[], int],
        is_short_of_memory: Callable[[], bool],
        page: Callable[[str], Page | None],
    ) -> None:
        self.settings = settings
        self.counters = counters
        self._lane = lane
        self._echo = echo
        # Nearly all clients send one of a few headers; negotiating anew costs 7 to 22 us.
        self._agreements: dict[tuple[bytes, ...], Agreement | None] = {}
        self._limits = limits
        self.origins = origins
        self._verifier = verifier
        self._new_session = new_session
        self._session_count = session_count
        self._is_short_of_memory = is_short_of_memory
        self._page = page
        self.door: Doorkeeper[Handshake | Socket] = Doorkeeper(
            limits,
            settings.proxies,
            settings.connection_timeout_s,
            settings.half_open_max,
            settings.half_open_per_ip_max,
        )
        self._inlet = inlet
        self._parser = FrameParser(picows_protocol)
        self._shortage = Shortage(counters)

    @property
    def buffer(self) -> memoryview:
        """What is read goes here first, of half-open and of upgraded connections alike."""
        return self._inlet.view

    def on_first_bytes(self, sock: Socket, data: bytes) -> None:
        """The poller has accepted a socket, and this is what it said."""
        Handshake(self).begin(sock, data)

    def on_waiting(self, attempt: Handshake | Socket) -> None:
        """It is accepted and its request is not here yet: for most plain sockets that is never so."""
        oldest = self.door.enter(attempt, attempt.address, time.monotonic())
        if oldest is not None:
            self.counters.add(Metric.REFUSED_HALF_OPEN)
            text = "Too many unfinished handshakes of this address"
            self._send_away(oldest, Refusal(HTTPStatus.TOO_MANY_REQUESTS, text, _retry_after()))

    def on_settled(self, sock: Socket) -> None:
        """It is upgraded, or gone."""
        self.door.leave(sock)

    def on_crowded(self, sock: Socket) -> None:
        """A socket more than this process may have, and there is no time to hear what it wants."""
        self.counters.add(Metric.REFUSED_TOTAL)
        sock.write(_no_room().encode())
        sock.close()

    def on_shortage(self, error: int) -> None:
        """There was no descriptor for a client."""
        self._shortage.met(error)

    def protocol(self) -> Handshake:
        """What a transport of its own (TLS) gives its reads to."""
        return Handshake(self)

    def began(self, attempt: Handshake) -> bool:
        """Count a new socket; False when there is no room even to refuse it politely."""
        self.on_waiting(attempt)
        return self.door.half_open + self._session_count() < self.settings.sockets_max * SOCKETS_HARD_SHARE

    def expire(self, now: float) -> None:
        """Once a second: end the handshakes whose time is up, some of them in each turn of the loop."""
        overdue = self.door.overdue(now, EXPIRED_A_TURN)
        for attempt in overdue:
            self.counters.add(Metric.REFUSED_TIMEOUT)
            self._send_away(attempt, Refusal(HTTPStatus.REQUEST_TIMEOUT))
        self._shortage.look()
        if len(overdue) == EXPIRED_A_TURN:
            asyncio.get_running_loop().call_soon(self.expire, now)

    def _send_away(self, attempt: Handshake | Socket, refusal: Refusal) -> None:
        """End what has not said yet what it wants, or has not taken its answer."""
        self.door.leave(attempt)
        if isinstance(attempt, Handshake):
            attempt.give_up(refusal)
        elif attempt.is_closing():
            attempt.abort()
        else:
            attempt.write(refusal.encode())
            attempt.close()

    def decide(self, attempt: Handshake, head: Head) -> None:
        """Answer a complete request: upgrade, page or refusal."""
        path, query = handshake.split_target(head.target)
        if head.method not in ("GET", "HEAD"):
            self._refuse(attempt, handshake.METHOD_NOT_ALLOWED)
            return
        if not handshake.wants_upgrade(head):
            attempt.respond(self._plain_answer(path, head.method == "HEAD"))
            return
        if attempt.is_crowded:
            self.counters.add(Metric.REFUSED_TOTAL)
            attempt.refuse(_no_room())
            return
        echo = self._echo if path == ECHO_PATH else None
        if path not in PATHS and echo is None:
            self.counters.add(Metric.REFUSED_PATH)
            attempt.refuse(Refusal(HTTPStatus.NOT_FOUND))
            return
        upgrade = handshake.check_upgrade(head)
        if isinstance(upgrade, Refusal):
            self._refuse(attempt, upgrade)
            return
        try:
            agreement = self._agree(upgrade.extensions)
        except MalformedHeaderError:
            self._refuse(attempt, Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Extensions is malformed"))
            return
        secure = attempt.is_secure
        if attempt.address in self.settings.proxies:
            attempt.address = self.settings.proxies.client_of(attempt.address, head.all(b"x-forwarded-for"))
            secure = secure or came_by_tls(head.all(b"x-forwarded-proto"))
        if echo is not None and echo.is_full:
            self.counters.add(Metric.REFUSED_TOTAL)
            text = "This worker has all the echoes it may have"
            attempt.refuse(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, _retry_after()))
            return
        admitted = self._admit(head, query, attempt.address, secure)
        if isinstance(admitted, Refusal):
            attempt.refuse(admitted)
            return
        if echo is not None:
            self._upgrade(attempt, upgrade, echo.new_session(attempt.address), agreement, echo.lane)
            return
        session = self._new_session(attempt.address)
        session.address_admitted = True
        session.token_identity = admitted
        self._upgrade(attempt, upgrade, session, agreement, self._lane)

    def _agree(self, offered: tuple[bytes, ...]) -> Agreement | None:
        """What is agreed on the client's extensions. Raises `MalformedHeaderError`."""
        policy = self.settings.compression
        if policy is None or not offered:
            return None
        if offered in self._agreements:
            return self._agreements[offered]
        agreement = extensions.negotiate(offered, policy)
        if len(self._agreements) < AGREEMENTS_MAX:
            self._agreements[offered] = agreement
        return agreement

    def _plain_answer(self, path: str, head_only: bool) -> bytes:
        page = self._page(path)
        if page is None and path == "/" and self.settings.demo_page is not None:
            page = Page(HTTPStatus.OK, self.settings.demo_page, "text/html; charset=utf-8")
        if page is not None:
            return handshake.encode_response(page.status, page.body, page.content_type, head_only=head_only)
        self.counters.add(Metric.REFUSED_PATH)
        refusal = handshake.UPGRADE_REQUIRED if path in PATHS else Refusal(HTTPStatus.NOT_FOUND)
        return refusal.encode(head_only)

    def _refuse(self, attempt: Handshake, refusal: Refusal) -> None:
        self.counters.add(Metric.REFUSED_BAD_REQUEST)
        attempt.refuse(refusal)

    def _admit(self, head: Head, query: str, address: str, secure: bool) -> Refusal | Identity | None:
        """Pace, origin, token, then the limits. The identity that a token proved; who is admitted is counted, and must
        be released by its session."""
        too_fast = self.door.check_pace(address, time.monotonic())
        if too_fast is not None:
            self.counters.add(Metric.REFUSED_HANDSHAKE_RATE)
            return too_fast
        if self.origins is not None and not self.origins.allows(head.first(b"origin"), head.first(b"host"), secure):
            self.counters.add(Metric.REFUSED_ORIGIN)
            return Refusal(HTTPStatus.FORBIDDEN, "This origin is not allowed")
        identity = None
        token = handshake.bearer_token(head, query, self.settings.allow_query_token)
        if token is not None:
            proved = self._prove(token, address)
            if isinstance(proved, Refusal):
                return proved
            identity = proved
        if self._is_short_of_memory():
            self.counters.add(Metric.REFUSED_MEMORY)
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The server is short of memory", _retry_after())
        full = self._session_count() >= self.settings.sockets_max * SOCKETS_SHARE
        if full or not self._limits.admit_connection():
            self.counters.add(Metric.REFUSED_TOTAL)
            return Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "The server has all the connections it may have", _retry_after()
            )
        if not self._limits.admit_address(address):
            self._limits.release_connection()
            self.counters.add(Metric.REFUSED_PER_IP)
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, "Too many connections of this address", _retry_after())
        return identity

    def _prove(self, token: str, address: str) -> Refusal | Identity:
        verifier = self._verifier()
        too_many = self.door.check_token(verifier, token, address, time.monotonic())
        if too_many is not None:
            self.counters.add(Metric.REFUSED_TOKEN_RATE)
            return too_many
        try:
            if verifier is None:
                raise TokenError(ErrorCode.BAD_TOKEN, "This server has no key to check tokens with")
            return verifier.verify(token, time.time())
        except TokenError as error:
            self._limits.count_refused_token(address, time.monotonic())
            self.counters.add(Metric.REFUSED_AUTH)
            return Refusal(HTTPStatus.UNAUTHORIZED, error.code.text, {"WWW-Authenticate": "Bearer"})

    def _upgrade(
        self,
        attempt: Handshake,
        upgrade: Upgrade,
        session: Session | EchoSession,
        agreement: Agreement | None,
        lane: Lane,
    ) -> None:
        """Answer 101 and give the socket to a connection, with the gate in front of it and `session` behind."""
        # JSON's decoder refuses bad UTF-8 by itself; an echo has none.
        check_text = isinstance(session, EchoSession)
        session.connection = Connection(
            lane.point,
            session,
            lane.frame_max,
            lane.fragments_max,
            check_text,
            self._compression(lane.pool, agreement, session) if agreement is not None else None,
        )
        transport, behind = attempt.detach()
        gate = Gate(self._parser, session.connection, self._inlet, lane.frame_max)
        if isinstance(transport, Socket):
            transport.set_protocol(gate)
            fd = transport.fileno()
        else:
            transport.set_protocol(cast(asyncio.BaseProtocol, gate))
            fd = transport.get_extra_info("socket").fileno()
        response = handshake.switching_protocols(upgrade, agreement.header if agreement is not None else None)
        session.connection.open(transport, fd, response, attempt.is_secure)
        if behind:
            gate.feed(behind)

    def _compression(self, pool: CompressionPool, agreement: Agreement, session: Session | EchoSession) -> Compression:
        stranger = isinstance(session, Session) and self.settings.require_auth and session.token_identity is None
        return pool.open(
            agreement.server_takeover,
            agreement.client_takeover,
            agreement.server_window_bits,
            agreement.client_window_bits,
            stranger,
        )


def _retry_after() -> dict[str, str]:
    return {"Retry-After": RETRY_AFTER_S}


def _no_room() -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, headers=_retry_after())


class Handshake(asyncio.BufferedProtocol):
    """One socket, from accept to a decision."""

    __slots__ = (
        "_acceptor",
        "_behind",
        "_is_plain",
        "_reader",
        "address",
        "is_connected",
        "is_crowded",
        "is_secure",
        "transport",
    )

    def __init__(self, acceptor: Acceptor) -> None:
        self.transport: asyncio.Transport | Socket | None = None
        self.address = ""
        # Under TLS the transport is here from accept on, and speaks from `connection_made` on.
        self.is_connected = False
        self.is_secure = False
        self.is_crowded = False
        # The poller keeps the time of a plain socket: the door does not know this object.
        self._is_plain = False
        self._acceptor = acceptor
        self._reader: HeadReader | None = None
        self._behind = b""

    def begin(self, sock: Socket, data: bytes) -> None:
        """A plain socket with its first bytes. Nearly always that is the request, whole and in its plain form."""
        self.transport = sock
        self.address = sock.address
        self.is_crowded = sock.is_crowded
        self.is_connected = self._is_plain = True
        head = read_head(data)
        if head is None or head.size > HEAD_BYTES_MAX:
            sock.set_protocol(self)
            self._reader = HeadReader()
            self._feed(data)
            return
        if head.size < len(data):
            self._behind = data[head.size :]
        self._conclude(head)

    # -- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Who accepts under TLS has counted this socket and set `transport` already.
        self.is_secure = self.transport is not None
        self.is_connected = True
        encrypted = self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        # It has to tell at once when it holds anything (ext/connection).
        encrypted.set_write_buffer_limits(high=0)
        if self.is_secure or self._acceptor.began(self):
            self._reader = HeadReader()
        else:
            self._acceptor.counters.add(Metric.REFUSED_TOTAL)
            self.refuse(_no_room())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self._finished()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._acceptor.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._feed(bytes(self._acceptor.buffer[:nbytes]))

    def _feed(self, data: bytes) -> None:
        if self._reader is None:
            return
        try:
            head = self._reader.feed(data)
        except HeadError as error:
            self._acceptor.counters.add(Metric.REFUSED_BAD_REQUEST)
            self.refuse(Refusal(error.status))
            return
        if head is not None:
            self._behind = self._reader.behind
            self._conclude(head)

    # -- the end of the handshake ----------------------------------------------------------------------------------

    def _conclude(self, head: Head) -> None:
        try:
            self._acceptor.decide(self, head)
        except Exception:
            log.exception("a handshake fails")
            if self.transport is not None:
                self.refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR))

    def give_up(self, refusal: Refusal) -> None:
        """End it before its request is here: there is somebody to tell, unless it is still in its TLS handshake."""
        if self.is_connected:
            self.refuse(refusal)
        else:
            self.drop()

    def drop(self) -> None:
        """End the socket without a word."""
        if self.transport is not None:
            transport = self.transport
            self._finished()
            transport.abort()

    def refuse(self, refusal: Refusal) -> None:
        self.respond(refusal.encode())

    def respond(self, response: bytes) -> None:
        """Write the answer and close behind it."""
        assert self.transport is not None, "an answer needs a connection"
        transport = self.transport
        self._finished()
        transport.write(response)
        transport.close()

    def detach(self) -> tuple[asyncio.Transport | Socket, bytes]:
        """Give the transport away, with the bytes that came behind the request."""
        assert self.transport is not None, "only an open handshake can be upgraded"
        transport, behind = self.transport, self._behind
        self._behind = b""
        self._finished()
        return transport, behind

    def _finished(self) -> None:
        # Whoever still holds this object (a callback under way) holds nothing big.
        self.transport = None
        self._reader = None
        if not self._is_plain:
            self._acceptor.door.leave(self)
