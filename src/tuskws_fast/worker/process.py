"""A worker process: builds its parts after fork, and turns the loop's three kinds of events into calls.

    socket readable     poller ─▶ gate ─▶ picows ─▶ connection ─▶ session ─▶ commands ─▶ outbox ─▶ ring
    doorbell            ring ─▶ inbox ─▶ hub ─▶ queues ─▶ flush point ─▶ sockets
    one tick a second   deadlines, counters, heartbeat to the supervisor

    control socket      a new link (first start, or the broker died), a neighbour's listener, drain, reload

When the broker dies, clients stay. When the supervisor hands over the link to its successor the worker tells that one
everything it knows: identities, memberships with the position each room had reached here, and the facts it was given
to keep; then it asks again what was not answered (see `outbox`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, cast

import uvloop
from tuskws_fast_ext.connection import FlushPoint
from tuskws_fast_ext.deflate import CompressionPool
from tuskws_fast_ext.gate import Inlet
from tuskws_fast_ext.pace import Pace
from tuskws_fast_ext.pings import Pings
from tuskws_fast_ext.sockets import Poller

from tuskws_fast import logs
from tuskws_fast.auth.certificates import Certificates
from tuskws_fast.auth.revocation import Revocations
from tuskws_fast.auth.tickets import Tickets
from tuskws_fast.config import Config, sockets_max, with_options
from tuskws_fast.errors import BootError, ConfigError
from tuskws_fast.ipc import records
from tuskws_fast.ipc.bell import Bell, Lookout
from tuskws_fast.ipc.link import Link, LinkPoisoned
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.metrics import ROW_SUPERVISOR, Metric, health_of
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode
from tuskws_fast.supervisor.child import ChildContext
from tuskws_fast.supervisor.control import Message
from tuskws_fast.worker import settings
from tuskws_fast.worker.acceptor import SOCKETS_HARD_SHARE, Acceptor, Page
from tuskws_fast.worker.commands import Commands
from tuskws_fast.worker.drain import Drain, Order
from tuskws_fast.worker.echo import Echo
from tuskws_fast.worker.handlers import Application, Handlers
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.identities import Identities
from tuskws_fast.worker.inbox import Inbox
from tuskws_fast.worker.lane import Lane
from tuskws_fast.worker.limits import Limits
from tuskws_fast.worker.memory_guard import MemoryGuard
from tuskws_fast.worker.outbox import Outbox
from tuskws_fast.worker.session import Session
from tuskws_fast.worker.timers import Wheel
from tuskws_fast.worker.tls import TlsListener, on_loop_error

log = logging.getLogger(__name__)

TICK_S = 1.0
# Looks for records whose doorbell was lost; `lost_wakeup_rescued` counts them and must stay 0. At 20 looks a second a
# process at rest used 0.3 % of a core.
SAFETY_TICK_S = 0.25
# Records applied before sockets get their turn: 2 ms of work. A busy worker finds several of each room among them, and
# writes them in one go.
DRAIN_MAX = 1024
# How long answers may take of that: a thousand of them, all asked for by one client, would be 10 ms for everybody else.
# The turn that the doorbell wakes has this time twice.
APPLY_S = 0.000_15
# How often a drain looks whose turn it is, and whether everybody has gone.
DRAIN_LOOK_S = 0.02
# The part of the time for a drain after which who is left is cut off: the rest is for this process to end in order.
DRAIN_SHARE = 0.9

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
        self._bell = Bell(context.bell)
        self._link: Link | None = None
        # Drained, and to be applied before anything else is (`Inbox.apply`).
        self._unapplied: list[records.DownRecord] = []
        self._asleep = False
        self._lookout = Lookout()
        self._ready = False
        self._draining = False
        self._drain_lead: asyncio.TimerHandle | None = None
        self._departure: Drain | None = None
        self._done = loop.create_future()
        self._certificates = certificates
        self._listeners: dict[int, PlainListener | TlsListener] = {}
        self._next_number = records.first_conn(context.slot, context.generation)
        self._sessions: dict[int, Session] = {}
        self._watchers: set[Session] = set()
        # Sessions by number: one that has ended is let go of at once, and not when its slot comes up.
        self._wheel: Wheel[int] = Wheel(loop.time())
        self._revocations = Revocations()
        self._verifier = settings.verifier(config, self._revocations)
        self._flushed: dict[Metric, int] = {}
        self._build(app)

    def _build(self, app: object | None) -> None:
        config, context = self._config, self._context
        limits, performance = config.limits, config.performance
        self._times = settings.times(config)
        rates = context.memory.rate_table()
        started_us = context.counters.read_row(ROW_SUPERVISOR)[Metric.STARTED] * 1_000
        self._limits = Limits(
            settings.shared_limits(config),
            context.memory.secret,
            context.memory.admission_table(context.slot),
            rates,
            started_us,
        )
        self._pings = Pings(rates, started_us)
        self._limits.bind(self._pings)
        self._inlet = Inlet(performance.buffer_size, self._loop.call_soon)
        self._poller = Poller(self._loop, self._inlet, int(sockets_max() * SOCKETS_HARD_SHARE))
        pace = Pace(limits.frame_rate_limit, limits.byte_rate_limit, limits.ping_rate_limit)
        lane = self._lane(
            limits.max_frame_size,
            limits.max_fragments,
            performance.queue_bytes_max,
            1.0,
            pace if limits.enable_rate_limiting else None,
        )
        self._point = lane.point
        # An application may want pings for itself.
        self._point.pings = self._pings if app is None else None
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
        self._outbox = Outbox(self._poller.call_soon, self._give_up, config.server.data_dir != "none")
        self._hub = Hub(time.time, self._ask_recovery, performance.room_tick, self._loop.call_later, time.monotonic)
        self._identities = Identities(
            settings.terms(config),
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
            self._loop.call_later,
            Tickets(context.memory.ticket_key, context.memory.secret) if config.timeouts.keep_alive_timeout else None,
            self._revocations,
        )
        self._commands = Commands(
            self._identities,
            self._outbox,
            self._hub,
            self._limits,
            context.counters,
            time.time,
            self._loop.time,
        )
        self._hub.report = self._outbox.send
        self._inbox = Inbox(
            self._hub,
            self._outbox,
            self._sessions,
            self._watchers,
            time.time,
            self._identities.revoke,
            config.security.escape_html,
        )
        if app is not None:
            if not isinstance(app, Application):
                raise BootError(f"the application {config.server.app} is a {type(app).__name__}, no WebSocketServer")
            self._commands.handlers = Handlers(app, self._commands, self._loop)
            # The application may speak of a guest at once.
            self._identities.may_wait = False
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
        return Acceptor(
            settings.acceptor_settings(self._config),
            self._inlet,
            lane,
            echo,
            self._limits,
            settings.origins(self._config),
            lambda: self._identities.verifier,
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
        self._publish_figures()
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
            times = (float(fields[name]) for name in ("lead_s", "window_s", "deadline_s"))
            self._drain_clients(Order(str(fields["reason"]), *times))
        elif message.op == "reload":
            self._context.send("reloaded", problem=self._reload(fields["options"], bool(fields["certificates"])))
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

    def _reload(self, options: Mapping[str, Any], certificates: bool) -> str:
        """Take the options that can change while we serve, and read keys and certificates again: all of it, or, when
        something is bad, nothing. Returns what was bad."""
        try:
            config = with_options(self._config, options)
            verifier, origins = settings.verifier(config, self._revocations), settings.origins(config)
            if certificates and self._certificates is not None:
                self._certificates.reload(settings.certificate_files(config))
        except (BootError, ConfigError) as error:
            log.error("reload: everything is left as it was", extra={"reason": str(error)})
            return str(error)
        self._config = config
        self._times = settings.times(config)
        self._limits.change_rates(settings.shared_limits(config))
        self._limits.bind(self._pings)
        self._identities.take_terms(settings.terms(config))
        self._identities.verifier = verifier
        self._acceptor.origins = origins
        logs.set_level(config.logging.log_level)
        return ""

    def _drain_clients(self, order: Order) -> None:
        """Stop accepting, after the time that `order` gives to balancers, and send everybody away. Again: hurry."""
        self._draining = True
        if self._departure is not None:
            self._departure.hasten(order, self._loop.time())
            return
        if self._drain_lead is not None:
            self._drain_lead.cancel()
        if order.lead_s:
            self._drain_lead = self._loop.call_later(order.lead_s, self._begin_drain, order)
        else:
            self._begin_drain(order)

    def _begin_drain(self, order: Order) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        order = replace(order, deadline_s=(order.deadline_s - order.lead_s) * DRAIN_SHARE)
        self._departure = Drain(order, self._sessions.values(), self._send_away, self._loop.time(), random.Random())
        self._go_on_draining(self._departure)

    def _send_away(self, sessions: list[Session], code: CloseCode, text: bytes) -> None:
        """Close these connections so that nothing falls between them and their successors: they stop being the broker's
        first. What it sent them until then is here before its answer, and leaves before the Close; what it gets for
        them later waits. What the clients say meanwhile is not read: it was not answered, and is said again.
        """

        def close(done: object = None) -> None:
            for session in sessions:
                session.connection.close(code, text)
                session.connection.resume_reading()

        if self._link is None:
            close()
            return
        for session in sessions:
            session.connection.pause_reading()
            self._outbox.forget(session)
            if session.user is not None:
                self._outbox.send(records.Detach(session.number, False))
        self._when_told(close)

    def _go_on_draining(self, departure: Drain) -> None:
        now = self._loop.time()
        more = departure.tick(now)
        # Where the node lives on, handshakes that came to us are finished; their own deadline bounds them.
        unfinished = self._acceptor.door.half_open + self._poller.unheard
        here = bool(self._sessions) or (departure.finishes_handshakes and unfinished > 0)
        unsent = self._link is not None and self._link.congested
        if now >= departure.deadline or not (here or unsent):
            self._outbox.flush()
            self._finish()
        elif more:
            self._loop.call_soon(self._go_on_draining, departure)
        else:
            self._loop.call_later(DRAIN_LOOK_S, self._go_on_draining, departure)

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
        if self._context.listener is not None and self._context.slot not in self._listeners:
            # Nobody is let in before all is known that the broker has to say first: who is revoked.
            self._when_told(self._serve_when_told)

    def _when_told(self, then: Callable[[asyncio.Future[bytes]], None]) -> None:
        """Call `then` when all that the broker has decided until now is here, or when it has died."""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        answer.add_done_callback(then)
        tag = self._outbox.expect(None, None, future=answer)
        # Any question will do whose answer comes after all that was decided before it.
        self._outbox.send(records.Call(records.CONN_SERVER, tag, 0, "room_count", {}))

    def _serve_when_told(self, answer: asyncio.Future[bytes]) -> None:
        listener, slot = self._context.listener, self._context.slot
        was_answered = codec.decode(answer.result())["type"] != "error"
        if was_answered and listener is not None and slot not in self._listeners and not self._draining:
            self._serve(slot, listener)

    def _drain_rest(self) -> None:
        """What a dead broker had committed to the ring was decided: it is carried out before its successor is told."""
        unapplied, self._unapplied = self._unapplied, []
        self._inbox.apply(unapplied)
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
        self._hub.forget_recovery()
        for key, (version, value) in self._inbox.kept.items():
            outbox.send(records.Kept(key, version, value))
        for session in self._sessions.values():
            if session.user is not None:
                self._identities.attach(session)
                for name in session.rooms:
                    room = self._hub.rooms[name]
                    outbox.send(records.Restore(session.number, name, room.epoch, room.offset, room.told))
        self._hub.announce_watches()
        outbox.send(records.Announced(self._context.slot, self._inbox.told))
        outbox.ask_again()
        outbox.flush()

    def _ask_recovery(self, room: str, epoch: str, offset: int) -> None:
        self._outbox.send(records.Recover(room, epoch, offset))

    def _on_bell(self) -> None:
        # It may be silent: rung once for two reasons, and read by the first.
        self._bell.clear()
        self._drain()

    def _drain(self) -> None:
        """Apply a bounded batch of what the broker sent, write it out, then sleep on the bell or go on next turn."""
        link = self._link
        if link is None:
            return
        link.end_sleep()
        self._asleep = False
        self._lookout.woken()
        batch = self._unapplied
        try:
            if not batch:
                batch = cast(list[records.DownRecord], link.drain(DRAIN_MAX))
        except LinkPoisoned as error:
            self._give_up(str(error))
            return
        try:
            self._unapplied = []
            if batch:
                self._unapplied = self._inbox.apply(batch, time.monotonic() + APPLY_S)
                self._point.flush()
            self._outbox.flush()
        finally:
            # Whatever went wrong above, the ring is looked at again: a worker that stops draining is deaf.
            self._asleep = not self._unapplied and len(batch) < DRAIN_MAX and link.begin_sleep()
            if not self._asleep:
                self._loop.call_soon(self._drain)

    def _look(self) -> None:
        """The safety net under the doorbell."""
        if self._lookout.is_lost(self._link is not None and self._asleep and self._link.pending):
            self._context.counters.add(Metric.LOST_WAKEUP_RESCUED)
            self._drain()
        self._loop.call_later(SAFETY_TICK_S, self._look)

    # -- sessions and time ---------------------------------------------------------------------------------------------

    def _new_session(self, address: str) -> Session:
        session = Session(self._commands, self._new_number(), address, self._loop.time())
        if self._departure is not None:
            # Behind its `welcome`, which comes first.
            self._loop.call_soon(self._tell_latecomer, self._departure, session)
        return session

    def _tell_latecomer(self, departure: Drain, session: Session) -> None:
        if session.number in self._sessions:
            departure.opened(session, self._loop.time())

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _file(self, session: Session) -> None:
        session.look_at = session.next_deadline(self._loop.time(), time.time(), self._times)
        self._wheel.add(session.number, session.look_at)

    def _tick(self) -> None:
        # First: what fails below costs this tick, and neither the next one nor the process.
        self._loop.call_later(TICK_S, self._tick)
        self._context.beat()
        now, wall = self._loop.time(), time.time()
        for number in self._wheel.advance(now):
            session = self._sessions.get(number)
            if session is not None and session.look_at <= now and session.on_timer(now, wall, self._times):
                self._file(session)
        self._hub.report_changes()
        for lane in self._lanes:
            lane.point.expire(now, self._config.performance.queue_age_max)
        self._acceptor.expire(now)
        self._guard.look()
        self._revocations.expire(wall)
        self._publish_figures()

    def _publish_figures(self) -> None:
        """What compiled code counted, brought into the shared counters (at most a second old there)."""
        counters, departure = self._context.counters, self._departure
        points, pools = [lane.point for lane in self._lanes], [lane.pool for lane in self._lanes]
        grown = {
            Metric.BYTES_IN: sum(point.bytes_in for point in points),
            Metric.BYTES_OUT: sum(point.bytes_out for point in points),
            Metric.TOO_SLOW_CLOSED: sum(point.too_slow for point in points),
            Metric.LEFT_OUT: sum(point.left_out for point in points),
            Metric.DELIVERIES: self._hub.deliveries,
            Metric.GAPS_SENT: self._hub.gaps + sum(point.gaps for point in points),
            Metric.RING_OVERRUN: self._hub.holes,
            Metric.MESSAGES_RECEIVED: self._commands.received + self._pings.answered,
            Metric.REPLIES_SENT: self._commands.replies + self._pings.answered,
            Metric.MEMORY_SHED: self._guard.shed,
            Metric.PROTOCOL_ERRORS: sum(point.protocol_errors for point in points),
            Metric.FRAME_RATE_CLOSED: self._point.pace.frames_closed,
            Metric.BYTE_RATE_CLOSED: self._point.pace.bytes_closed,
            Metric.PING_RATE_CLOSED: self._point.pace.pings_closed,
            Metric.PONGS_SPARED: self._point.pace.pongs_spared,
            Metric.READS_CUT: self._inlet.rests,
            Metric.INFLATED_MESSAGES: sum(pool.inflated_messages for pool in pools),
            Metric.INFLATED_BYTES: sum(pool.inflated_bytes for pool in pools),
            Metric.INFLATE_BUDGET_CLOSED: sum(pool.budget_closed for pool in pools),
            Metric.DEFLATED_MESSAGES: sum(pool.scratch.deflated_messages for pool in pools),
            Metric.DEFLATED_BYTES: sum(pool.scratch.deflated_bytes for pool in pools),
            Metric.RECORDS_FAILED: self._inbox.failed,
            Metric.RECONNECT_TOLD: departure.told if departure is not None else 0,
            Metric.DRAIN_CLOSED: departure.closed if departure is not None else 0,
        }
        for metric, value in grown.items():
            counters.add(metric, value - self._flushed.get(metric, 0))
        self._flushed = grown
        counters.set(Metric.CONNECTIONS_CURRENT, len(self._sessions))
        counters.set(Metric.MEMORY_BYTES, self._guard.used)
        counters.set(Metric.MEMORY_BLOCKS, sys.getallocatedblocks())
        counters.set(Metric.HALF_OPEN, self._acceptor.door.half_open)
        counters.set(Metric.SESSIONS, sum(1 for s in self._sessions.values() if s.user is not None))
        # Figures of the whole node, shown by one worker; its successor shows them as soon as it serves.
        leads = self._context.leads and not self._draining
        counters.set(Metric.LIMIT_SLOTS_LOST, self._limits.slots_lost if leads else 0)
        if self._certificates is not None:
            counters.set(Metric.TLS_NOT_AFTER, int(self._certificates.not_after.timestamp()) if leads else 0)
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
