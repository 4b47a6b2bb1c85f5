"""A worker process: builds its parts after fork, and turns the loop's three kinds of events into calls.

    socket readable     poller ─▶ gate ─▶ picows ─▶ connection ─▶ session ─▶ commands ─▶ outbox ─▶ ring
    doorbell            ring ─▶ inbox ─▶ hub ─▶ queues ─▶ flush point ─▶ sockets
    one tick a second   deadlines, counters, heartbeat to the supervisor

    control socket      a new link (first start, or the broker died), a neighbour's listener, drain, reload

When the broker dies, clients stay: commands that wait are answered `unavailable`, and when the supervisor hands over
the link to its successor the worker tells that one everything it knows: identities, memberships with the position
each room had reached here, and the facts it was given to keep.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import socket
import time
from http import HTTPStatus
from importlib import resources
from typing import cast

import uvloop
from tuskws_fast_ext.connection import FlushPoint
from tuskws_fast_ext.deflate import CompressionPool
from tuskws_fast_ext.gate import ReadBuffer
from tuskws_fast_ext.pace import Pace
from tuskws_fast_ext.sockets import Poller

from tuskws_fast import __version__, logs
from tuskws_fast.auth.certificates import Certificates
from tuskws_fast.auth.forwarded import TrustedProxies
from tuskws_fast.auth.origin import OriginPolicy
from tuskws_fast.auth.tokens import Verifier
from tuskws_fast.config import Config, read_jwt_secret
from tuskws_fast.errors import BootError, ConfigError
from tuskws_fast.ipc import records
from tuskws_fast.ipc.link import Link, LinkPoisoned
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.metrics import ROW_SUPERVISOR, Metric, health_of
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode
from tuskws_fast.protocol.extensions import Policy
from tuskws_fast.supervisor.child import ChildContext
from tuskws_fast.supervisor.control import Message
from tuskws_fast.worker.acceptor import SOCKETS_HARD_SHARE, Acceptor, AcceptorSettings, Page
from tuskws_fast.worker.commands import Commands, CommandSettings
from tuskws_fast.worker.echo import Echo
from tuskws_fast.worker.handlers import Application, Handlers
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.inbox import Inbox
from tuskws_fast.worker.lane import Lane
from tuskws_fast.worker.limits import Limits, Rate, SharedLimits
from tuskws_fast.worker.memory_guard import MemoryGuard
from tuskws_fast.worker.outbox import Outbox
from tuskws_fast.worker.session import Session, SessionTimes
from tuskws_fast.worker.timers import Wheel
from tuskws_fast.worker.tls import TlsListener, on_loop_error

log = logging.getLogger(__name__)

TICK_S = 1.0
# Looks for records whose doorbell was lost; `lost_wakeup_rescued` counts them and must stay 0.
SAFETY_TICK_S = 0.05
# Records applied before sockets get their turn: 2 ms of work. A busy worker finds several of each room among them, and
# writes them in one go.
DRAIN_MAX = 1024
# The part of the drain time over which clients are sent away, each at a moment of its own.
DRAIN_SPREAD = 0.5

HEALTH_PATHS = frozenset({"/health", "/livez", "/readyz"})


def main(context: ChildContext, config: Config, app: object | None, certificates: Certificates | None = None) -> None:
    """Run a worker until it is drained. Called in the child, right after fork. `certificates`: serve TLS."""
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(on_loop_error)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(context, config, loop, app, certificates))
    finally:
        loop.close()


async def _serve(
    context: ChildContext,
    config: Config,
    loop: asyncio.AbstractEventLoop,
    app: object | None,
    certificates: Certificates | None,
) -> None:
    # Made inside the running loop: picows' parser asks for it.
    await Worker(context, config, loop, app, certificates).run()


def make_verifier(config: Config) -> Verifier | None:
    """The verifier of the configured key, read (again) from its file; None without one. Raises `BootError`."""
    security = config.security
    try:
        secret = read_jwt_secret(security)
        if secret is None:
            return None
        return Verifier(
            [secret],
            algorithms=security.jwt_algorithms,
            issuer=security.jwt_issuer or None,
            audience=security.jwt_audience or None,
            allow_no_exp=security.allow_no_exp,
            max_token_ttl_s=security.max_token_ttl,
        )
    except (ConfigError, ValueError) as error:
        raise BootError(f"the token secret: {error}") from error


def _rates(config: Config) -> tuple[Rate, Rate, Rate, Rate, Rate]:
    """The rates of `SharedLimits`, in its order."""
    limits = config.limits
    if not limits.enable_rate_limiting:
        return (Rate(0, 1),) * 5
    return (
        Rate(limits.message_rate_limit, limits.message_rate_burst),
        Rate(limits.message_rate_limit_per_ip, limits.message_rate_burst_per_ip),
        Rate(limits.handshake_rate_limit, limits.handshake_rate_burst),
        Rate(limits.auth_failures_per_ip / 60, max(1, limits.auth_failures_per_ip)),
        Rate(limits.password_tries_per_ip / 60, max(1, limits.password_tries_per_ip)),
    )


class PlainListener:
    """Serves `sock` until `close`, which closes only this process's copy: the socket is the supervisor's."""

    def __init__(self, poller: Poller, sock: socket.socket) -> None:
        self._poller = poller
        self._sock = sock
        poller.listen(sock)

    def close(self) -> None:
        self._poller.silence(self._sock)
        self._sock.close()


class Worker:
    def __init__(
        self,
        context: ChildContext,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        app: object | None,
        certificates: Certificates | None = None,
    ) -> None:
        self._context = context
        self._config = config
        self._loop = loop
        self._link: Link | None = None
        self._asleep = False
        self._ready = False
        self._draining = False
        self._done = loop.create_future()
        self._certificates = certificates
        self._listeners: dict[int, PlainListener | TlsListener] = {}
        self._next_number = records.first_conn(context.slot, context.generation)
        self._sessions: dict[int, Session] = {}
        self._watchers: set[Session] = set()
        self._wheel: Wheel[Session] = Wheel(loop.time())
        self._verifier = make_verifier(config)
        self._flushed: dict[Metric, int] = {}
        self._build(app)

    def _build(self, app: object | None) -> None:
        config, context = self._config, self._context
        limits, timeouts, performance = config.limits, config.timeouts, config.performance
        self._times = SessionTimes(
            timeouts.auth_timeout, timeouts.heartbeat_interval, timeouts.heartbeat_timeout, timeouts.idle_timeout
        )
        self._limits = Limits(
            SharedLimits(
                limits.max_connections,
                limits.max_connections_per_ip,
                limits.max_connections_per_user,
                *_rates(config),
            ),
            context.memory.secret,
            context.memory.admission_table(context.slot),
            context.memory.rate_table(),
            context.counters.read_row(ROW_SUPERVISOR)[Metric.STARTED] * 1_000,
        )
        self._files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._buffer = ReadBuffer(performance.buffer_size)
        self._poller = Poller(self._loop, self._buffer, int(self._files_max * SOCKETS_HARD_SHARE))
        pace = Pace(limits.frame_rate_limit, limits.byte_rate_limit, limits.ping_rate_limit)
        lane = self._lane(
            limits.max_frame_size,
            limits.max_fragments,
            performance.queue_bytes_max,
            1.0,
            pace if limits.enable_rate_limiting else None,
        )
        self._point = lane.point
        if performance.enable_io_uring and (error := self._point.send_together()):
            log.info("sends go one by one: there is no io_uring here", extra={"reason": os.strerror(error)})
        self._lanes = [lane]
        echo = None
        if config.server.echo:
            size = limits.echo_max_message_size
            # One whole message may wait beside what may wait for anybody.
            waiting, share = performance.queue_bytes_max + size, size / limits.max_frame_size
            echo_lane = self._lane(size, limits.echo_max_fragments, waiting, max(share, 1.0))
            self._lanes.append(echo_lane)
            echo = Echo(echo_lane, self._limits, limits.echo_max_connections)
        # An echo is there to measure with: those go first.
        self._guard = MemoryGuard(limits.worker_memory_max, [each.point for each in reversed(self._lanes)])
        self._outbox = Outbox(self._poller.call_soon, self._give_up)
        self._hub = Hub(time.time, self._ask_recovery, performance.room_tick, self._loop.call_later, time.monotonic)
        self._inbox = Inbox(
            self._hub, self._outbox, self._sessions, self._watchers, time.time, config.security.escape_html
        )
        self._commands = Commands(
            CommandSettings(
                config.security.require_auth,
                limits.max_message_size,
                timeouts.heartbeat_interval,
                f"tuskws-fast/{__version__}",
            ),
            self._outbox,
            self._hub,
            self._limits,
            self._verifier,
            context.counters,
            self._sessions,
            self._watchers,
            time.time,
            self._loop.time,
            self._file,
            self._new_number,
        )
        if app is not None:
            if not isinstance(app, Application):
                raise BootError(f"the application {config.server.app} is a {type(app).__name__}, no WebSocketServer")
            self._commands.handlers = Handlers(app, self._commands, self._loop)
        self._acceptor = self._poller.owner = self._build_acceptor(lane, echo)

    def _lane(
        self,
        frame_max: int,
        fragments_max: int,
        queue_bytes_max: int,
        inflate_share: float,
        pace: Pace | None = None,
    ) -> Lane:
        """`inflate_share`: how many times the budgets for inflating that are configured."""
        limits, performance = self._config.limits, self._config.performance
        return Lane(
            frame_max,
            fragments_max,
            FlushPoint(self._poller.call_soon, queue_bytes_max, performance.queue_messages_max, pace),
            CompressionPool(
                performance.compression_level,
                performance.compression_min_size,
                performance.compression_memory_level,
                inflate_share * limits.inflate_rate_limit,
                inflate_share * limits.inflate_rate_limit_worker,
            ),
        )

    def _build_acceptor(self, lane: Lane, echo: Echo | None) -> Acceptor:
        config = self._config
        security, performance = config.security, config.performance
        policy = Policy(performance.enable_compression == "dedicated", performance.compression_window_bits)
        origins = OriginPolicy(security.allowed_origins) if security.enable_origin_check else None
        demo = None if config.server.no_demo else resources.files("tuskws_fast").joinpath("static/index.html")
        return Acceptor(
            AcceptorSettings(
                config.timeouts.connection_timeout,
                security.allow_query_token,
                security.require_auth,
                demo.read_bytes() if demo is not None else None,
                self._files_max,
                policy if performance.enable_compression != "off" else None,
                TrustedProxies(security.forwarded_allow_ips),
                config.limits.max_half_open,
                config.limits.max_half_open_per_ip,
            ),
            self._buffer,
            lane,
            echo,
            self._limits,
            origins,
            lambda: self._commands.verifier,
            self._context.counters,
            self._new_session,
            lambda: len(self._sessions),
            lambda: self._guard.is_tight,
            self._page,
        )

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until drained. `ready` is said once the link to the broker and the listener are there."""
        self._context.connect(self._loop, self._on_control)
        self._loop.add_reader(self._context.bell, self._on_bell)
        self._loop.call_later(TICK_S, self._tick)
        self._loop.call_later(SAFETY_TICK_S, self._look)
        await self._done
        if self._commands.handlers is not None:
            await self._commands.handlers.stop()
        self._context.send("drained")

    def _on_control(self, message: Message) -> None:
        fields = message.fields
        if message.op == "link":
            self._connect(message)
        elif message.op == "link_gone":
            self._disconnect()
        elif message.op == "adopt":
            self._serve(int(fields["slot"]), socket.socket(fileno=message.fds[0]))
        elif message.op == "release":
            listener = self._listeners.pop(int(fields["slot"]), None)
            if listener is not None:
                listener.close()
        elif message.op == "drain":
            self._drain_clients(float(fields["deadline_s"]))
        elif message.op == "reload":
            self._reload(fields.get("log_level"), bool(fields.get("certificates")))
        elif message.op == "stop":
            self._finish()

    def _serve(self, slot: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        # Accepted sockets inherit it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        certificates = self._certificates
        if certificates is None:
            self._listeners[slot] = PlainListener(self._poller, sock)
        else:
            self._listeners[slot] = TlsListener(
                self._loop, self._acceptor, lambda: certificates.context, self._context.counters, sock
            )
        if not self._ready and slot == self._context.slot:
            self._ready = True
            self._context.send("ready")

    def _reload(self, log_level: str | None, certificates: bool) -> None:
        if log_level is not None:
            logs.set_level(log_level)
        try:
            self._commands.verifier = make_verifier(self._config)
        except BootError as error:
            log.error("reload: the old token secret stays in use", extra={"reason": str(error)})
        if certificates and self._certificates is not None:
            try:
                self._certificates.reload()
            except ConfigError as error:
                log.error("reload: the old certificate stays in use", extra={"reason": str(error)})

    def _drain_clients(self, deadline_s: float) -> None:
        """Stop accepting, tell every client when to come back, and send each away at its own moment."""
        self._draining = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        spread = deadline_s * DRAIN_SPREAD
        for session in list(self._sessions.values()):
            delay = random.uniform(0.0, spread)
            notice = {"type": "reconnect", "after_ms": int(1000 * random.uniform(0.1, 1.0) * max(spread, 1.0))}
            session.reply(codec.encode({**notice, "reason": "shutdown"}))
            self._loop.call_later(delay, session.connection.close, CloseCode.GOING_AWAY, b"server going away")
        self._loop.call_later(deadline_s * 0.9, self._finish)
        self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        """Looked at every 20 ms of a drain; what remains at its end is cut off by `_finish`."""
        if self._sessions:
            self._loop.call_later(0.02, self._finish_if_empty)
        else:
            self._finish()

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    # -- the link to the broker --------------------------------------------------------------------------------------

    def _connect(self, message: Message) -> None:
        self._drain_rest()
        self._disconnect()
        segment_fd, own_bell, peer_bell = message.fds
        os.close(own_bell)
        self._segment = Segment.from_fd(segment_fd)
        self._peer_bell = peer_bell
        self._link = Link(self._segment, "worker", self._context.bell, peer_bell)
        self._outbox.link = self._link
        self._announce()
        self._drain()
        listener = self._context.listener
        if listener is not None and self._context.slot not in self._listeners and not self._draining:
            self._serve(self._context.slot, listener)

    def _drain_rest(self) -> None:
        """What a dead broker had committed to the ring was decided: it is carried out before its successor is told."""
        try:
            while self._link is not None and self._link.pending:
                self._inbox.apply(cast(list[records.DownRecord], self._link.drain(DRAIN_MAX)))
        except LinkPoisoned as error:
            log.warning("the dead broker's ring ends in damage", extra={"reason": str(error)})

    def _give_up(self, reason: str) -> None:
        """The link is unusable: have the broker replaced, and tell who waits."""
        self._context.counters.add(Metric.RING_POISONED)
        log.error("the link to the broker is given up", extra={"reason": reason})
        self._context.send("poisoned", worker=self._context.slot, reason=reason)
        self._disconnect()

    def _disconnect(self) -> None:
        self._outbox.disconnect()
        if self._link is not None:
            self._link = None
            self._segment.close()
            os.close(self._peer_bell)

    def _announce(self) -> None:
        """Tell a broker that knows nothing yet who is here; what it already knew of us died with its predecessor."""
        outbox = self._outbox
        for key, (version, value) in self._inbox.kept.items():
            outbox.send(records.Kept(key, version, value))
        for session in self._sessions.values():
            if session.user is not None:
                self._commands.attach(session)
                for name in session.rooms:
                    room = self._hub.rooms[name]
                    outbox.send(records.Restore(session.number, name, room.epoch, room.offset))
        outbox.send(records.Announced(self._context.slot))
        outbox.flush()

    def _ask_recovery(self, room: str, epoch: str, offset: int) -> None:
        self._outbox.send(records.Recover(room, epoch, offset))

    def _on_bell(self) -> None:
        try:
            os.eventfd_read(self._context.bell)
        except BlockingIOError:
            # Rung once for two reasons, and read by the first.
            pass
        self._drain()

    def _drain(self) -> None:
        """Apply a bounded batch of what the broker sent, write it out, then sleep on the bell or go on next turn."""
        link = self._link
        if link is None:
            return
        link.end_sleep()
        self._asleep = False
        try:
            batch = cast(list[records.DownRecord], link.drain(DRAIN_MAX))
        except LinkPoisoned as error:
            self._give_up(str(error))
            return
        try:
            if batch:
                self._inbox.apply(batch)
                self._point.flush()
            self._outbox.flush()
        finally:
            # Whatever went wrong above, the ring is looked at again: a worker that stops draining is deaf.
            self._asleep = len(batch) < DRAIN_MAX and link.begin_sleep()
            if not self._asleep:
                self._loop.call_soon(self._drain)

    def _look(self) -> None:
        """The safety net under the doorbell; and what may wait for so long."""
        self._commands.announce()
        if self._link is not None and self._asleep and self._link.pending:
            self._context.counters.add(Metric.LOST_WAKEUP_RESCUED)
            self._drain()
        self._loop.call_later(SAFETY_TICK_S, self._look)

    # -- sessions and time ---------------------------------------------------------------------------------------------

    def _new_session(self, address: str) -> Session:
        return Session(self._commands, self._new_number(), address, self._loop.time())

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _file(self, session: Session) -> None:
        session.look_at = session.next_deadline(self._loop.time(), time.time(), self._times)
        self._wheel.add(session, session.look_at)

    def _tick(self) -> None:
        now, wall = self._loop.time(), time.time()
        for session in self._wheel.advance(now):
            if session.look_at <= now and session.on_timer(now, wall, self._times):
                self._file(session)
        for lane in self._lanes:
            lane.point.expire(now, self._config.performance.queue_age_max)
        self._acceptor.expire(now)
        self._guard.look()
        self._publish_figures()
        self._context.beat()
        self._loop.call_later(TICK_S, self._tick)

    def _publish_figures(self) -> None:
        """What compiled code counted, brought into the shared counters (at most a second old there)."""
        counters = self._context.counters
        points, pools = [lane.point for lane in self._lanes], [lane.pool for lane in self._lanes]
        grown = {
            Metric.BYTES_IN: sum(point.bytes_in for point in points),
            Metric.BYTES_OUT: sum(point.bytes_out for point in points),
            Metric.TOO_SLOW_CLOSED: sum(point.too_slow for point in points),
            Metric.DELIVERIES: self._hub.deliveries,
            Metric.GAPS_SENT: self._hub.gaps,
            Metric.RING_OVERRUN: self._hub.holes,
            Metric.MESSAGES_RECEIVED: self._commands.received,
            Metric.REPLIES_SENT: self._commands.replies,
            Metric.MEMORY_SHED: self._guard.shed,
            Metric.PROTOCOL_ERRORS: sum(point.protocol_errors for point in points),
            Metric.FRAME_RATE_CLOSED: self._point.pace.frames_closed,
            Metric.BYTE_RATE_CLOSED: self._point.pace.bytes_closed,
            Metric.PING_RATE_CLOSED: self._point.pace.pings_closed,
            Metric.PONGS_SPARED: self._point.pace.pongs_spared,
            Metric.INFLATED_MESSAGES: sum(pool.inflated_messages for pool in pools),
            Metric.INFLATED_BYTES: sum(pool.inflated_bytes for pool in pools),
            Metric.INFLATE_BUDGET_CLOSED: sum(pool.budget_closed for pool in pools),
            Metric.DEFLATED_MESSAGES: sum(pool.scratch.deflated_messages for pool in pools),
            Metric.DEFLATED_BYTES: sum(pool.scratch.deflated_bytes for pool in pools),
            Metric.RECORDS_FAILED: self._inbox.failed,
        }
        for metric, value in grown.items():
            counters.add(metric, value - self._flushed.get(metric, 0))
        self._flushed = grown
        counters.set(Metric.CONNECTIONS_CURRENT, len(self._sessions))
        counters.set(Metric.MEMORY_BYTES, self._guard.used)
        counters.set(Metric.HALF_OPEN, self._acceptor.door.half_open)
        counters.set(Metric.SESSIONS, sum(1 for s in self._sessions.values() if s.user is not None))
        counters.set(Metric.LIMIT_SLOTS_LOST, self._limits.slots_lost if self._context.slot == 0 else 0)
        if self._certificates is not None and self._context.slot == 0:
            counters.set(Metric.TLS_NOT_AFTER, int(self._certificates.not_after.timestamp()))
        blocked = [connection for point in points for connection in point.blocked]
        counters.set(Metric.QUEUED_BYTES, sum(c.queued_bytes + c.held_bytes for c in blocked))

    # -- health --------------------------------------------------------------------------------------------------------

    def _page(self, path: str) -> Page | None:
        """`/livez`: this process answers. `/readyz`: and may be sent clients. `/health`: the node's status."""
        if path not in HEALTH_PATHS:
            return None
        rows = self._context.memory.rows()
        now_ms = time.monotonic_ns() // 1_000_000
        status = health_of(rows, now_ms)
        if path == "/livez":
            return _json_page(HTTPStatus.OK, {"status": "alive"})
        ready = self._outbox.connected and not self._draining and status not in ("draining", "starting")
        if path == "/readyz":
            code = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return _json_page(code, {"status": "ready" if ready else status})
        code = HTTPStatus.OK if status == "healthy" else HTTPStatus.SERVICE_UNAVAILABLE
        fields = {
            "status": status,
            "connections": sum(row[Metric.CONNECTIONS_CURRENT] for row in rows),
            "uptime_seconds": (now_ms - rows[ROW_SUPERVISOR][Metric.STARTED]) // 1_000,
            "last_check": round(time.time(), 3),
        }
        return _json_page(code, fields)


def _json_page(status: HTTPStatus, fields: dict[str, object]) -> Page:
    return Page(status, codec.encode(fields), "application/json")
