"""The parent of all processes: it makes what must outlive them, bears them, watches them, buries them.

One thread, no event loop, no lock: `selectors` over pidfds (a child ended), control sockets (a child speaks), a
wake-up socket (a signal came; handlers do nothing else) and the stats socket. Everything is decided in `tick`, which
runs after each wake-up and at the next due time, so no decision depends on which descriptor was readable first.

    births     fork the broker, then the workers; a link for every (worker, broker) pair, both ends told
    beats      a process whose loop has stood still too long is killed; then it is a death like any other
    deaths     reap; zero its gauges and admissions; ring and tell its peer; new birth after a back-off
    orphans    the listener of a worker that stays away is lent to a neighbour until its successor is ready
    the end    SIGTERM: workers drain, then the broker; what is left at the deadline, or at a second SIGINT, is killed

After a death the order matters: the dead process is reaped first (no zombie can write any more), its peer is rung so
that it drains what was committed, and only then does new memory with the next generation go out.

If the supervisor itself dies, PDEATHSIG kills every child: a service manager starts from a clean slate.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuskws_fast.errors import ControlError, ExitCode
from tuskws_fast.metrics import ROW_BROKER, ROW_SUPERVISOR, Metric, State, worker_row
from tuskws_fast.supervisor.backoff import Backoff, BackoffRule
from tuskws_fast.supervisor.child import ChildContext, ChildMain
from tuskws_fast.supervisor.control import Message, receive_message
from tuskws_fast.supervisor.memory import NodeMemory
from tuskws_fast.supervisor.peers import Peers
from tuskws_fast.supervisor.signals import SignalInbox
from tuskws_fast.supervisor.slots import Slot, describe_end
from tuskws_fast.supervisor.spawn import spawn
from tuskws_fast.supervisor.stats import StatsSocket

log = logging.getLogger(__name__)


BROKER_DRAIN_S = 1.0
DEFAULT_BACKOFF = BackoffRule()


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the supervisor is."""

    hang_s: float = 5.0
    boot_s: float = 30.0
    drain_s: float = 10.0
    adopt_after_s: float = 1.0
    backoff: BackoffRule = DEFAULT_BACKOFF


class Supervisor:
    """Owns listeners and memory from `run` on, and closes them at its end. Use from the main thread, once."""

    def __init__(
        self,
        *,
        broker: ChildMain,
        worker: ChildMain,
        listeners: Sequence[socket.socket],
        memory: NodeMemory,
        timing: Timing,
        stats: StatsSocket | None = None,
        on_ready: Callable[[], None] | None = None,
        on_reload: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._memory = memory
        self._timing = timing
        self._listeners = list(listeners)
        self._stats = stats
        self._on_ready = on_ready
        self._on_reload = on_reload
        self._facts = memory.counters(ROW_SUPERVISOR)
        self._broker = self._slot("broker", 0, ROW_BROKER, broker)
        self._workers = [self._slot("worker", n, worker_row(n), worker) for n in range(len(listeners))]
        self._slots = [self._broker, *self._workers]
        self._peers = Peers(self._broker, self._workers, self._listeners, memory)
        self._was_ready = False
        self._ending = False
        self._deadline = 0.0
        self._exit_code = ExitCode.OK
        self._last_tick = 0.0
        self._beats_count_from = 0.0
        self._selector: selectors.BaseSelector
        self._signals: SignalInbox

    def _slot(self, role: str, number: int, row: int, main: ChildMain) -> Slot:
        return Slot(role, number, row, main, Backoff(self._timing.backoff), self._memory.counters(row))

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Serve until told to end; the exit code says how it ended."""
        now = time.monotonic()
        self._last_tick = now
        self._facts.set(Metric.PID, os.getpid())
        self._facts.set(Metric.STARTED, int(now * 1000))
        self._facts.set(Metric.STATE, State.STARTING)
        self._selector = selectors.DefaultSelector()
        self._signals = SignalInbox((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        try:
            self._selector.register(self._signals.fd, selectors.EVENT_READ, self._on_signals)
            if self._stats is not None:
                self._selector.register(self._stats.fd, selectors.EVENT_READ, self._stats.answer)
            self._tick(now)
            while not self._ending or any(slot.process for slot in self._slots):
                for key, _ in self._selector.select(max(0.0, self._next_due() - time.monotonic())):
                    key.data()
                self._tick(time.monotonic())
        finally:
            self._kill(self._slots)
            for slot in self._slots:
                if slot.process:
                    self._bury(slot)
            self._signals.restore()
            self._close_all()
        return self._exit_code

    def _tick(self, now: float) -> None:
        self._facts.set(Metric.BEAT, int(now * 1000))
        if now - self._last_tick > self._timing.hang_s / 2:
            # We ourselves stood still (stopped, or the whole machine was): nobody's silence in that time counts.
            self._beats_count_from = now
        self._last_tick = now
        if self._ending:
            self._go_on_ending(now)
        else:
            self._bear(now)
            self._peers.lend_listeners(now, self._timing.adopt_after_s)
        self._check_beats(now)

    def _next_due(self) -> float:
        due = [self._last_tick + self._timing.hang_s / 10]
        if self._ending:
            due.append(self._deadline)
            return min(due)
        for slot in self._slots:
            if slot.birth_due is not None:
                due.append(slot.birth_due)
            elif slot.down_since is not None and slot.adopted_by is None:
                due.append(max(slot.down_since + self._timing.adopt_after_s, self._last_tick + 0.05))
        return min(due)

    # -- births --------------------------------------------------------------------------------------------------

    def _bear(self, now: float) -> None:
        for slot in self._slots:
            if slot.birth_due is None or slot.birth_due > now:
                continue
            try:
                self._fork(slot, now)
            except OSError as error:
                # No more processes, memory or descriptors: the machine may recover, as it may from a death.
                self._on_birth_failed(slot, f"cannot fork: {os.strerror(error.errno or 0)}", now)
                return
            self._peers.link(slot)

    def _on_birth_failed(self, slot: Slot, reason: str, now: float) -> None:
        delay_s = slot.backoff.died(lived_s=0.0, boot_failed=True)
        if slot.backoff.hopeless or not self._was_ready:
            self._give_up(slot, reason)
        else:
            log.error(reason, extra={"child": slot.name, "again_in_s": delay_s})
            slot.birth_due = now + delay_s

    def _fork(self, slot: Slot, now: float) -> None:
        slot.generation += 1

        def make_context(control: socket.socket, bell: int) -> ChildContext:
            listener = self._listeners[slot.number] if slot.role == "worker" else None
            return ChildContext(
                role=slot.role,
                slot=slot.number,
                generation=slot.generation,
                workers=len(self._workers),
                control=control,
                memory=self._memory,
                counters=slot.facts,
                bell=bell,
                listener=listener,
            )

        process = spawn(make_context, slot.main, lambda: self._abandon(slot))
        slot.born(process, now)
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._on_end(slot))
        self._selector.register(process.control, selectors.EVENT_READ, lambda: self._on_control(slot))
        log.debug("forked", extra={"child": slot.name, "pid": process.pid, "generation": slot.generation})

    def _abandon(self, own: Slot) -> None:
        """In the child: close what only the supervisor may hold, or a peer's death would never be seen as one."""
        self._selector.close()
        self._signals.abandon()
        if self._stats is not None:
            self._stats.abandon()
        for slot in self._slots:
            if slot.process:
                slot.process.close()
            if slot.link:
                slot.link.close()
        for number, listener in enumerate(self._listeners):
            if own.role != "worker" or number != own.number:
                listener.close()

    # -- what children say ---------------------------------------------------------------------------------------

    def _on_control(self, slot: Slot) -> None:
        process = slot.process
        if process is None:
            return
        while True:
            try:
                message = receive_message(process.control)
                if message is not None:
                    self._on_message(slot, message)
                    continue
            except BlockingIOError:
                return
            except ControlError as error:
                log.error("kill: speaks nonsense", extra={"child": slot.name, "reason": str(error)})
                process.kill()
            except ConnectionResetError:
                log.debug("reset its control socket", extra={"child": slot.name})
            # It is ending, now or soon: the pidfd follows.
            if process.control in self._selector.get_map():
                self._selector.unregister(process.control)
            return

    def _on_message(self, slot: Slot, message: Message) -> None:
        if message.op == "ready":
            self._on_child_ready(slot)
        elif message.op == "boot_failed":
            slot.boot_reason = str(message.fields.get("reason", "no reason given"))
        elif message.op == "poisoned":
            self._on_poisoned(slot, message.fields)
        elif message.op == "drained":
            log.debug("drained", extra={"child": slot.name})
        else:
            raise ControlError(f"no such message: {message.op}")

    def _on_child_ready(self, slot: Slot) -> None:
        if slot.state is not State.STARTING:
            return
        slot.enter(State.READY)
        slot.down_since = None
        self._peers.give_back_listener(slot)
        if self._was_ready:
            log.info("is back", extra={"child": slot.name, "generation": slot.generation})
        elif all(other.state is State.READY for other in self._slots):
            self._was_ready = True
            self._facts.set(Metric.STATE, State.READY)
            if self._on_ready:
                self._on_ready()

    def _on_poisoned(self, accuser: Slot, fields: Mapping[str, Any]) -> None:
        """A ring holds what no producer of ours writes: its producer's memory is not to be trusted any more."""
        number = fields.get("worker") if accuser is self._broker else accuser.number
        if not isinstance(number, int) or not 0 <= number < len(self._workers):
            raise ControlError(f"poisoned by no worker of ours: {number!r}")
        worker = self._workers[number]
        if fields.get("generation", worker.link_generation) != worker.link_generation:
            return  # of a link that is already gone
        producer = worker if accuser is self._broker else self._broker
        log.error("kill: poisoned a ring", extra={"child": producer.name, "reason": fields.get("reason", "")})
        if producer.process:
            producer.process.kill()

    # -- deaths --------------------------------------------------------------------------------------------------

    def _check_beats(self, now: float) -> None:
        for slot in self._slots:
            if slot.process is None:
                continue
            patience = self._timing.boot_s if slot.state is State.STARTING else self._timing.hang_s
            if min(slot.beat_age_s(now), now - self._beats_count_from) > patience:
                log.error("kill: no sign of life", extra={"child": slot.name, "patience_s": patience})
                if slot.state is State.STARTING:
                    slot.boot_reason = f"no sign of life for {patience:g} s while starting"
                slot.process.kill()
                # Its end comes through the pidfd; do not kill it again at every tick until then.
                slot.facts.set(Metric.BEAT, int(now * 1000))

    def _on_end(self, slot: Slot) -> None:
        if slot.process is None:
            return
        self._on_control(slot)  # its last words
        now = time.monotonic()
        state, lived_s = slot.state, now - slot.born_at
        status = self._bury(slot)
        if self._ending:
            if status and state is not State.STARTING:
                log.warning("ended while draining", extra={"child": slot.name, "how": describe_end(status)})
            return
        if slot.boot_reason and not self._was_ready:
            self._give_up(slot, slot.boot_reason)
            return
        # One that somebody else killed while it started says nothing about whether it can start.
        boot_failed = state is State.STARTING and (status != -signal.SIGKILL or bool(slot.boot_reason))
        delay_s = slot.backoff.died(lived_s=lived_s, boot_failed=boot_failed)
        how = slot.boot_reason or describe_end(status)
        if slot.backoff.hopeless:
            self._give_up(slot, f"{how}, {slot.backoff.boot_failures} times in a row before it was ready")
            return
        slot.birth_due = now + delay_s
        slot.down_since = slot.down_since or now
        extra = {"child": slot.name, "how": how, "lived_s": round(lived_s, 1), "again_in_s": delay_s}
        log.error("ended unexpectedly", extra=extra)
        self._peers.tell_of_death(slot)

    def _bury(self, slot: Slot) -> int:
        """Reap a process and free what it held. Waits for its end if it has only just been killed."""
        process = slot.process
        assert process is not None
        status = process.reap()
        for watched in (process.pidfd, process.control):
            if watched in self._selector.get_map():
                self._selector.unregister(watched)
        process.close()
        slot.process = None
        slot.enter(State.DOWN)
        slot.facts.set(Metric.PID, 0)
        self._memory.forget_process(slot.row)
        if slot.role == "worker":
            self._memory.release_admissions(slot.number)
            self._peers.forget_heir(slot)
        return status

    # -- signals and the end -------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                self._reload()
            elif not self._ending:
                log.info("draining", extra={"signal": signal.Signals(number).name, "timeout_s": self._timing.drain_s})
                self._begin_end(ExitCode.OK, self._timing.drain_s)
            elif number == signal.SIGINT:
                log.warning("second interrupt: killing what is left")
                self._exit_code = ExitCode.INTERRUPTED
                self._kill(self._slots)

    def _reload(self) -> None:
        log.info("reloading")
        fields = self._on_reload() if self._on_reload else {}
        for slot in self._slots:
            self._peers.tell(slot, "reload", fields)

    def _give_up(self, slot: Slot, reason: str) -> None:
        """The node cannot go on: clients that are being served, if any, are drained first."""
        log.critical(f"stopped: {slot.name}: {reason}")
        self._begin_end(ExitCode.BOOT, self._timing.drain_s if self._was_ready else 0.0)

    def _begin_end(self, exit_code: ExitCode, drain_s: float) -> None:
        if self._ending:
            return
        self._ending = True
        self._exit_code = exit_code
        self._deadline = time.monotonic() + drain_s
        self._facts.set(Metric.STATE, State.DRAINING)
        # Once the workers have closed their copies too, new clients are refused and go elsewhere.
        for listener in self._listeners:
            listener.close()
        for worker in self._workers:
            self._drain(worker)

    def _drain(self, slot: Slot) -> None:
        if slot.state is State.STARTING and slot.process:
            slot.process.kill()  # It has no clients yet, and perhaps no loop that could obey.
        elif slot.state is State.READY:
            slot.enter(State.DRAINING)
            self._peers.tell(slot, "drain", {"deadline_s": max(0.0, self._deadline - time.monotonic())})

    def _go_on_ending(self, now: float) -> None:
        workers_left = [worker for worker in self._workers if worker.process]
        if not workers_left:
            self._drain(self._broker)
        left = workers_left or [slot for slot in self._slots if slot.process]
        if left and now >= self._deadline:
            if self._exit_code is ExitCode.OK:
                log.warning("the drain timed out: killing", extra={"left": ", ".join(slot.name for slot in left)})
                self._exit_code = ExitCode.DRAIN_TIMED_OUT
            self._kill(left)
            # The broker, which could not drain before the workers had, still gets its turn.
            self._deadline = now + BROKER_DRAIN_S

    def _kill(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            if slot.process:
                slot.process.kill()

    def _close_all(self) -> None:
        self._selector.close()
        for listener in self._listeners:
            listener.close()
        for slot in self._slots:
            if slot.link:
                slot.link.close()
            slot.facts.close()
        self._facts.close()
        if self._stats is not None:
            self._stats.close()
