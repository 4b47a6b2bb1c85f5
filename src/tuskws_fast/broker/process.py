"""The broker process: rings in, engine, journal, rings out, and the engine's timers.

    doorbell ─▶ inbox (a batch of each worker) ─▶ engine ─▶ journal (one write) ─▶ outbox ─▶ rings, one wake-up a worker

Nothing is told before it is written. It owns no client. When it dies the supervisor starts another, which recovers what
is in the journal, and hands out new links; the workers tell it what they know and ask again what was not answered.
When a worker dies, what it had committed is still ordered, then its sessions are lost (their rooms and presence stay
for the grace).
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from tuskws_fast import logs
from tuskws_fast.auth.tickets import Tickets
from tuskws_fast.auth.tokens import TokenError
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.inbox import Inbox
from tuskws_fast.broker.journal import Journal, Place
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.broker.outbox import Outbox
from tuskws_fast.config import Config
from tuskws_fast.ipc.bell import Bell, Lookout
from tuskws_fast.ipc.link import Link, LinkPoisoned
from tuskws_fast.ipc.records import DownRecord
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.metrics import LIMIT_COLUMN, Metric
from tuskws_fast.rooms.shelf import Window
from tuskws_fast.storage.directory import boot_id
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.segments import JournalLimits
from tuskws_fast.supervisor.child import ChildContext
from tuskws_fast.supervisor.control import Message

log = logging.getLogger(__name__)

TICK_S = 1.0
SAFETY_TICK_S = 0.25
EPOCH_BYTES = 6
# The journal is as many segments of equal size.
SEGMENTS = 8
SEGMENT_BYTES_MIN = 256 * 1024


def main(context: ChildContext, config: Config, app: object | None) -> None:
    """Run the broker until it is told to stop. Called in the child, right after fork."""
    gc.callbacks.append(spare_the_living)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    broker = Broker(context, config, loop)
    try:
        loop.run_until_complete(broker.run())
    finally:
        loop.close()


def spare_the_living(phase: str, info: dict[str, int]) -> None:
    """What has lived through a full collection is not looked at again: rooms and people would be, whole, each time that
    their number has grown by a quarter, and 100,000 rooms with a million members stopped everything for 0.2 s. They
    are in no cycle once they are let go of, so that counting references frees them (tests/unit/broker/test_process)."""
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def engine_limits(config: Config) -> EngineLimits:
    rooms, limits = config.rooms, config.limits
    return EngineLimits(
        rooms_max=limits.max_rooms or EngineLimits().rooms_max,
        history_bytes_total_max=rooms.history_bytes_total,
        history_size=rooms.history_size,
        history_ttl_s=rooms.history_ttl,
        history_bytes=rooms.history_bytes,
        history_memory=rooms.history_memory,
        replay_bytes_max=rooms.history_replay,
        max_room_members=limits.max_room_members,
        max_rooms_per_user=limits.max_rooms_per_user,
        inbox_size=rooms.inbox_size,
        inbox_ttl_s=rooms.inbox_ttl,
        inbox_bytes=rooms.inbox_bytes,
        presence_full_max=rooms.presence_full_max,
        grace_s=config.timeouts.leave_grace,
        keep_alive_s=config.timeouts.keep_alive_timeout,
        token_ttl_s=0.0 if config.security.allow_no_exp else config.security.max_token_ttl,
        dedupe_window_s=rooms.dedupe_window,
        dedupe_ids_max=rooms.dedupe_ids_max,
        dedupe_bytes_max=rooms.dedupe_bytes_max,
    )


def journal_place(context: ChildContext, config: Config) -> Place:
    server = config.server
    size = server.journal_size
    limits = JournalLimits(max(size // SEGMENTS, SEGMENT_BYTES_MIN), size, server.journal_age)
    run = hashlib.blake2b(context.memory.secret, digest_size=16, person=b"journal-run").digest()
    rooms = config.rooms
    return Place(
        Path(server.data_dir), limits, boot_id(), run, rooms.dedupe_window, rooms.dedupe_ids_max, rooms.history_memory
    )


class Broker:
    def __init__(self, context: ChildContext, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self._bell = Bell(context.bell)
        self._engine = Engine(
            engine_limits(config),
            loop.time(),
            lambda: secrets.token_urlsafe(EPOCH_BYTES),
            # Only a successor is told by the workers what they know.
            workers=context.workers if context.generation > 1 else (),
            durable=config.server.data_dir != "none",
        )
        self._journal: Journal | None = None
        if config.server.data_dir != "none":
            self._journal = Journal(
                journal_place(context, config), Files(), self._engine, context.counters, loop, self._tell
            )
        self._tickets = Tickets(context.memory.ticket_key, context.memory.secret)
        self._outbox = Outbox(self._engine.position, self._give_up)
        self._inbox = Inbox(self._engine, self._outbox)
        self._held: dict[int, tuple[Segment, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._asleep = False
        self._lookout = Lookout()
        self._flushed: dict[int, int] = {}
        self._done = loop.create_future()

    async def run(self) -> None:
        self._context.connect(self._loop, self._on_control)
        self._loop.add_reader(self._context.bell, self._on_bell)
        self._loop.call_later(TICK_S, self._tick)
        self._loop.call_later(SAFETY_TICK_S, self._look)
        if self._journal is not None:
            self._journal.start(self._context.beat)
        self._context.send("ready")
        await self._done
        if self._journal is not None:
            self._journal.close()
        self._context.send("drained")

    def _on_control(self, message: Message) -> None:
        if message.op == "link":
            self._connect(int(message.fields["worker"]), int(message.fields["generation"]), message.fds)
        elif message.op == "link_gone":
            self._lose(int(message.fields["worker"]))
        elif message.op == "reload":
            level = message.fields["options"].get("log_level")
            if level is not None:
                logs.set_level(level)
            self._context.send("reloaded", problem="")
        elif message.op == "revoke":
            self._revoke(int(message.fields["asked"]), message.fields["args"])
        elif message.op in ("drain", "stop") and not self._done.done():
            self._done.set_result(None)

    def _revoke(self, asked: int, args: Mapping[str, Any]) -> None:
        """What an operator takes back. A session is named by its ticket."""
        try:
            if args.get("session") is not None:
                args = {**args, "session": self._tickets.session_of(str(args["session"]))}
            decided, ended = self._engine.revoke(args, self._loop.time(), time.time())
        except TokenError as error:
            self._context.send("revoked", asked=asked, problem=error.text)
            return
        except Refused as refused:
            self._context.send("revoked", asked=asked, problem=refused.text or refused.code.text)
            return
        self._release(decided)
        self._outbox.flush()
        self._arm()
        self._context.send("revoked", asked=asked, problem="", sessions=ended)

    # -- links -------------------------------------------------------------------------------------------------------

    def _connect(self, worker: int, generation: int, fds: tuple[int, ...]) -> None:
        """A worker is born, or this broker is and finds it there: new memory, new bells."""
        self._lose(worker)
        segment_fd, own_bell, peer_bell = fds
        os.close(own_bell)
        segment = Segment.from_fd(segment_fd)
        self._held[worker] = (segment, peer_bell)
        self._outbox.links[worker] = Link(segment, "broker", self._context.bell, peer_bell)
        self._release(self._engine.worker_up(worker, generation))
        self._drain()

    def _lose(self, worker: int) -> None:
        """The worker is dead and reaped: order what it had committed, then its connections are lost."""
        held = self._held.pop(worker, None)
        if held is None:
            return
        now, wall = self._loop.time(), time.time()
        link = self._outbox.links.get(worker)
        if link is not None:
            decided: list[tuple[int, DownRecord]] = []
            self._inbox.drain_all(worker, now, wall, decided)
            self._release(decided)
            self._outbox.drop_worker(worker)
            link.close()
        segment, peer_bell = held
        segment.close()
        os.close(peer_bell)
        self._release(self._engine.worker_lost(worker, now))
        self._outbox.flush()
        self._arm()

    def _give_up(self, worker: int, reason: str) -> None:
        self._context.counters.add(Metric.RING_POISONED)
        log.error("the link to a worker is given up", extra={"worker": worker, "reason": reason})
        self._context.send("poisoned", worker=worker, reason=reason)

    # -- what is told ------------------------------------------------------------------------------------------------

    def _release(self, decided: list[tuple[int, DownRecord]]) -> None:
        """Write what the engine decided; then, and not before, tell it."""
        if self._journal is None:
            self._outbox.send(decided)
            return
        self._journal.commit()
        self._outbox.send(decided)
        for fetch in self._engine.take_fetches():
            self._journal.fetch(fetch, self._fetched)

    def _fetched(self, window: Window, entries: list[tuple[float, bytes]] | None) -> None:
        self._release(self._engine.fetched(window, entries, self._loop.time(), time.time()))
        self._outbox.flush()
        self._arm()

    def _tell(self, answers: list[tuple[int, DownRecord]]) -> None:
        self._outbox.send(answers)
        self._outbox.flush()

    # -- the loop's events -------------------------------------------------------------------------------------------

    def _on_bell(self) -> None:
        # It may be silent: rung by several workers, and read for the first.
        self._bell.clear()
        self._outbox.wake()
        self._drain()

    def _drain(self) -> None:
        """A batch of every worker, then out; sleep on the bell only when every ring was found empty."""
        links = self._outbox.links
        for link in links.values():
            link.end_sleep()
        self._asleep = False
        self._lookout.woken()
        now, wall = self._loop.time(), time.time()
        more = False
        decided: list[tuple[int, DownRecord]] = []
        for worker in list(links):
            try:
                more = self._inbox.drain(worker, now, wall, decided) or more
            except LinkPoisoned as error:
                self._outbox.drop_worker(worker)
                self._give_up(worker, str(error))
        self._release(decided)
        self._outbox.flush()
        self._arm()
        if not more:
            # All must be asked: each that says "sleep" will ring the bell.
            asleep = [link.begin_sleep() for link in links.values()]
            self._asleep = all(asleep)
        if not self._asleep:
            self._loop.call_soon(self._drain)

    def _look(self) -> None:
        """The safety net under the doorbell."""
        if self._lookout.is_lost(self._asleep and any(link.pending for link in self._outbox.links.values())):
            self._context.counters.add(Metric.LOST_WAKEUP_RESCUED)
            self._outbox.wake()
            self._drain()
        self._loop.call_later(SAFETY_TICK_S, self._look)

    def _arm(self) -> None:
        """Wake for the engine's next deadline, and not otherwise."""
        due = self._engine.next_deadline()
        if self._timer is not None and (due is None or due < self._timer_due):
            self._timer.cancel()
            self._timer = None
        if due is not None and self._timer is None:
            # uvloop returns a plain handle, which knows no time, for what is due at once: so the time is kept here.
            self._timer = self._loop.call_at(due, self._on_due)
            self._timer_due = due

    def _on_due(self) -> None:
        self._timer = None
        self._release(self._engine.tick(self._loop.time(), time.time()))
        self._outbox.flush()
        self._arm()

    def _tick(self) -> None:
        # First: what fails below costs this tick, and neither the next one nor the process.
        self._loop.call_later(TICK_S, self._tick)
        self._context.beat()
        counters, gauges = self._context.counters, self._engine.gauges()
        for name, value in gauges.items():
            counters.set(Metric[name.upper()], value)
        events = self._engine.counters
        grown = {column: events[name] for name, column in LIMIT_COLUMN.items()}
        grown[Metric.PUBLICATIONS] = events["publications"]
        grown[Metric.PRIVATE_MESSAGES] = events["private_messages"]
        grown[Metric.DUPLICATES] = events["duplicates"]
        grown[Metric.REPLAYS_MADE] = events["replays_made"]
        grown[Metric.REPLAYS_SHARED] = events["replays_shared"]
        grown[Metric.HISTORY_FETCHES] = events["fetches"]
        grown[Metric.HISTORY_FETCHES_FAILED] = events["fetches_failed"]
        grown[Metric.HISTORY_FORGONE] = events["history_forgone"]
        grown[Metric.SESSIONS_RESUMED] = events["resumed"]
        grown[Metric.RING_DROPPED] = self._outbox.drops
        grown[Metric.RING_FULL] = self._outbox.full
        grown[Metric.RECORDS_FAILED] = self._inbox.failed
        for metric, value in grown.items():
            counters.add(metric, value - self._flushed.get(metric, 0))
        self._flushed = grown
        counters.set(Metric.MEMORY_BLOCKS, sys.getallocatedblocks())
        if self._journal is not None:
            self._journal.tick(self._loop.time())
