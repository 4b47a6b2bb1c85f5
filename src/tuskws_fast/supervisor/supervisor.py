"""The parent of all processes: it makes what must outlive them, bears them, watches them, buries them.

One thread, no event loop, no lock: `selectors` over pidfds (a child ended), control sockets (a child speaks), a
wake-up socket (a signal came; handlers do nothing else) and the operators' socket. Everything is decided in `tick`,
which runs after each wake-up and at the next due time, so no decision depends on which descriptor was readable first.

    births     fork the broker, then the workers; a link for every (worker, broker) pair, both ends told
    beats      a process whose loop has stood still too long is killed; then it is a death like any other
    deaths     reap; zero its gauges and admissions; ring and tell its peer; new birth after a back-off
    orphans    the listener of a worker that stays away is lent to a neighbour until its successor is ready
    renewal    SIGHUP: configuration, keys, certificates (`reloading`); on request, every worker anew (`rollout`)
    the end    SIGTERM: workers drain, then the broker; a second SIGTERM leaves them a second more; what is left at the
               deadline, or at a second SIGINT, is killed

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
from typing import Any

from tuskws_fast.errors import ControlError, ExitCode
from tuskws_fast.metrics import ROW_BROKER, ROW_SUPERVISOR, Metric, State, worker_row
from tuskws_fast.supervisor.backoff import Backoff
from tuskws_fast.supervisor.child import ChildContext, ChildMain
from tuskws_fast.supervisor.control import Message, receive_message
from tuskws_fast.supervisor.cores import Cores
from tuskws_fast.supervisor.ending import BROKER_DRAIN_S, Ending, kill, window_of
from tuskws_fast.supervisor.memory import NodeMemory
from tuskws_fast.supervisor.notify import Notifier
from tuskws_fast.supervisor.operators import Operator, OperatorSocket
from tuskws_fast.supervisor.peers import Peers
from tuskws_fast.supervisor.placing import Placing
from tuskws_fast.supervisor.reloading import Reloaded, Reloads, Report
from tuskws_fast.supervisor.revoking import Revocations
from tuskws_fast.supervisor.rollout import LAST_STEPS, Phase, Rollout
from tuskws_fast.supervisor.signals import SignalInbox
from tuskws_fast.supervisor.slots import Slot, describe_end
from tuskws_fast.supervisor.spawn import spawn
from tuskws_fast.supervisor.stats import now_document
from tuskws_fast.supervisor.timing import Timing

log = logging.getLogger(__name__)


class Supervisor:
    """Owns listeners and memory from `run` on, and closes them at its end. Use from the main thread, once.

    `memory` has a slot for each listener; what it has beyond them are spare ones. `on_reload` reads everything again.
    `cores`: which of them each process is kept on; `placing`: who gets new connections; without them the kernel
    decides.
    """

    def __init__(
        self,
        *,
        broker: ChildMain,
        worker: ChildMain,
        listeners: Sequence[socket.socket],
        memory: NodeMemory,
        timing: Timing,
        operators: OperatorSocket | None = None,
        notifier: Notifier | None = None,
        on_ready: Callable[[], None] | None = None,
        on_reload: Callable[[], Reloaded] | None = None,
        cores: Cores | None = None,
        placing: Placing | None = None,
    ) -> None:
        self._memory = memory
        self._cores = cores
        self._placing = placing
        self.timing = timing
        self._listeners = list(listeners)
        self._operators = operators
        self._notifier = notifier or Notifier({})
        self._on_ready = on_ready
        self._facts = memory.counters(ROW_SUPERVISOR)
        self._broker = self._slot("broker", 0, ROW_BROKER, broker)
        self._workers = [self._slot("worker", n, worker_row(n), worker) for n in range(memory.workers)]
        for slot in self._workers:
            if slot.number < len(listeners):
                slot.listener = slot.number
            else:
                slot.rest()
        self._slots = [self._broker, *self._workers]
        self._peers = Peers(self._broker, self._workers, self._listeners, memory)
        self._was_ready = False
        self._rollout: Rollout | None = None
        reread = on_reload or Reloaded
        self._reloads = Reloads(self._slots, self._peers, reread, self._notifier)
        self._revocations = Revocations(self._broker, self._peers)
        # Asked for while the node was still starting: begun when it is ready.
        self._early_reloads: list[Report] = []
        self._ending: Ending | None = None
        self._last_tick = 0.0
        self._beats_count_from = 0.0
        self._selector: selectors.BaseSelector
        self._signals: SignalInbox

    def _slot(self, role: str, number: int, row: int, main: ChildMain) -> Slot:
        return Slot(role, number, row, main, Backoff(self.timing.backoff), self._memory.counters(row))

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Serve until told to end; the exit code says how it ended."""
        now = time.monotonic()
        self._last_tick = now
        self._facts.set(Metric.PID, os.getpid())
        self._facts.set(Metric.STARTED, int(now * 1000))
        self._facts.set(Metric.STATE, State.STARTING)
        self._facts.set(Metric.WORKERS, len(self._listeners))
        self._selector = selectors.DefaultSelector()
        self._signals = SignalInbox((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        try:
            self._selector.register(self._signals.fd, selectors.EVENT_READ, self._on_signals)
            if self._operators is not None:
                commands = {
                    "stats": self._answer_stats,
                    "reload": self._answer_reload,
                    "restart": self._restart,
                    "revoke": self._revocations.ask,
                }
                self._operators.serve(self._selector, commands)
            self._tick(now)
            while self._ending is None or any(slot.process for slot in self._slots):
                for key, _ in self._selector.select(max(0.0, self._next_due() - time.monotonic())):
                    key.data()
                self._tick(time.monotonic())
        finally:
            kill(self._slots)
            for slot in self._slots:
                if slot.process:
                    self._bury(slot)
            self._signals.restore()
            self._close_all()
        assert self._ending is not None
        return self._ending.exit_code

    def _tick(self, now: float) -> None:
        self._facts.set(Metric.BEAT, int(now * 1000))
        self._notifier.pet(now)
        if now - self._last_tick > self.timing.hang_s / 2:
            # We ourselves stood still (stopped, or the whole machine was): nobody's silence in that time counts.
            self._beats_count_from = now
        self._last_tick = now
        if self._ending is not None:
            self._ending.go_on(now)
        else:
            if self._rollout is not None:
                self._rollout.tick(now)
            self._bear(now)
            self._peers.lend_listeners(now, self.timing.adopt_after_s)
            if self._placing is not None and self._placing.is_due(now):
                self._placing.place([self._connections_of(each) for each in range(len(self._listeners))], now)
        if self._operators is not None:
            self._operators.expire(now)
        self._check_beats(now)

    def _next_due(self) -> float:
        due = [self._last_tick + self.timing.hang_s / 10]
        if self._notifier.watchdog_s is not None:
            due.append(self._last_tick + self._notifier.watchdog_s / 4)
        if self._operators is not None and self._operators.next_due is not None:
            due.append(self._operators.next_due)
        if self._ending is not None:
            return min(*due, self._ending.next_due)
        if self._is_rolling:
            assert self._rollout is not None
            due.append(self._rollout.next_due)
        for slot in self._slots:
            if slot.birth_due is not None:
                due.append(slot.birth_due)
            elif slot.down_since is not None and slot.adopted_by is None:
                due.append(max(slot.down_since + self.timing.adopt_after_s, self._last_tick + 0.05))
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
        if self._rollout is not None and self._rollout.on_end(slot, reason, now):
            return
        delay_s = slot.backoff.died(lived_s=0.0, boot_failed=True)
        if slot.backoff.hopeless or not self._was_ready:
            self._give_up(slot, reason)
        else:
            log.error(reason, extra={"child": slot.name, "again_in_s": delay_s})
            slot.birth_due = now + delay_s

    def _fork(self, slot: Slot, now: float) -> None:
        slot.generation += 1

        def make_context(control: socket.socket, bell: int) -> ChildContext:
            listener = self._listeners[slot.listener] if slot.listener is not None else None
            return ChildContext(
                role=slot.role,
                slot=slot.number,
                generation=slot.generation,
                workers=tuple(worker.number for worker in self._workers if worker.state is not State.SPARE),
                control=control,
                memory=self._memory,
                counters=slot.facts,
                bell=bell,
                listener=listener,
                leads=slot.listener == 0,
                cores=self._cores_of(slot),
            )

        process = spawn(make_context, slot.main, lambda: self._abandon(slot))
        slot.born(process, now)
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda: self._on_end(slot))
        self._selector.register(process.control, selectors.EVENT_READ, lambda: self._on_control(slot))
        log.debug("forked", extra={"child": slot.name, "pid": process.pid, "generation": slot.generation})

    def _cores_of(self, slot: Slot) -> frozenset[int] | None:
        if self._cores is None:
            return None
        return self._cores.of_broker() if slot.listener is None else self._cores.of_worker(slot.listener)

    def _connections_of(self, listener: int) -> int | None:
        """Of the worker that serves the listener; None while none is ready."""
        serving = (slot for slot in self._workers if slot.listener == listener and slot.state is State.READY)
        return next((slot.facts.get(Metric.CONNECTIONS_CURRENT) for slot in serving), None)

    def _abandon(self, own: Slot) -> None:
        """In the child: close what only the supervisor may hold, or a peer's death would never be seen as one."""
        self._selector.close()
        self._signals.abandon()
        self._notifier.close()
        if self._operators is not None:
            self._operators.abandon()
        for slot in self._slots:
            if slot.process:
                slot.process.close()
            if slot.link:
                slot.link.close()
        for number, listener in enumerate(self._listeners):
            if number != own.listener:
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
        elif message.op == "reloaded":
            self._reloads.taken(slot, str(message.fields.get("problem", "")))
        elif message.op == "revoked":
            self._revocations.answered(message.fields)
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
        if self._placing is not None:
            self._placing.hurry()
        if self._is_rolling:
            assert self._rollout is not None
            self._rollout.on_ready(slot, time.monotonic())
        elif self._was_ready:
            log.info("is back", extra={"child": slot.name, "generation": slot.generation})
        elif all(other.state in (State.READY, State.SPARE) for other in self._slots):
            self._was_ready = True
            self._facts.set(Metric.STATE, State.READY)
            self._notifier.ready("serving")
            if self._on_ready:
                self._on_ready()
            for report in self._early_reloads:
                self._reloads.ask(report)

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
            patience = self.timing.boot_s if slot.state is State.STARTING else self.timing.hang_s
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
        self._reloads.lost(slot)
        if slot is self._broker:
            self._revocations.lost()
        if self._ending is not None:
            if status and state is not State.STARTING:
                log.warning("ended while draining", extra={"child": slot.name, "how": describe_end(status)})
            return
        if slot.boot_reason and not self._was_ready:
            self._give_up(slot, slot.boot_reason)
            return
        if self._rollout is not None and self._rollout.on_end(slot, describe_end(status), now):
            if status and state is State.DRAINING:
                log.warning("ended while draining", extra={"child": slot.name, "how": describe_end(status)})
            self._peers.tell_of_death(slot)
            return
        # One that somebody else killed while it started says nothing about whether it can start.
        boot_failed = state is State.STARTING and (status != -signal.SIGKILL or bool(slot.boot_reason))
        delay_s = slot.backoff.died(lived_s=lived_s, boot_failed=boot_failed)
        how = slot.boot_reason or describe_end(status)
        if slot.backoff.hopeless:
            self._give_up(slot, f"{how}, {slot.backoff.boot_failures} times in a row before it was ready")
            return
        slot.deaths += 1
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

    # -- signals, operators, the end -------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                self._reload(lambda found: None)
            elif self._ending is None:
                log.info("draining", extra={"signal": signal.Signals(number).name, "timeout_s": self.timing.drain_s})
                self._begin_end(ExitCode.OK, self.timing.drain_s)
            elif number == signal.SIGINT:
                self._ending.interrupt()
            else:
                self._ending.hasten()

    def _reload(self, report: Report) -> None:
        if self._ending is not None:
            report({"problems": ["the node is ending"]})
        elif self._was_ready:
            self._reloads.ask(report)
        else:
            self._early_reloads.append(report)

    def _answer_stats(self, operator: Operator) -> None:
        operator.tell(now_document(self._memory.rows()))
        operator.end()

    def _answer_reload(self, operator: Operator) -> None:
        def report(found: Mapping[str, Any]) -> None:
            operator.tell(found)
            operator.end()

        self._reload(report)

    def _restart(self, operator: Operator) -> None:
        """Begin a rolling restart, whose steps `operator` is told."""

        def report(step: Mapping[str, Any]) -> None:
            operator.tell(step)
            self._notifier.status("serving; rolling restart: " + str(step["event"]))
            if step["event"] in LAST_STEPS:
                operator.end()

        refusal = self._why_no_rollout()
        if refusal:
            operator.tell({"event": "aborted", "reason": refusal})
            operator.end()
            return
        now = time.monotonic()
        log.info("restarting the workers one by one")
        self._rollout = Rollout(
            self._workers, self._drain, self._peers.give_back_listener, report, self.timing.boot_s, now
        )

    def _why_no_rollout(self) -> str:
        if self._ending is not None:
            return "the node is ending"
        if not self._was_ready:
            return "the node is still starting"
        if self._is_rolling or not any(worker.state is State.SPARE for worker in self._workers):
            return "a rolling restart is under way"
        return ""

    @property
    def _is_rolling(self) -> bool:
        return self._rollout is not None and self._rollout.phase is not Phase.OVER

    def _drain(self, worker: Slot) -> float:
        """Have `worker`, whose successor serves, send its clients away; when it must have ended."""
        window_s = window_of(self.timing, [worker])
        deadline_s = window_s + self.timing.drain_margin_s
        worker.enter(State.DRAINING)
        self._peers.forget_heir(worker)
        fields = {"reason": "restart", "lead_s": 0.0, "window_s": window_s, "deadline_s": deadline_s}
        self._peers.tell(worker, "drain", fields)
        return time.monotonic() + deadline_s + 1.0

    def _give_up(self, slot: Slot, reason: str) -> None:
        """The node cannot go on: clients that are being served, if any, are drained first."""
        log.critical(f"stopped: {slot.name}: {reason}")
        self._begin_end(ExitCode.BOOT, self.timing.drain_s if self._was_ready else 0.0)

    def _begin_end(self, exit_code: ExitCode, within_s: float) -> None:
        if self._ending is not None:
            return
        self._facts.set(Metric.STATE, State.DRAINING)
        self._notifier.stopping(within_s + 2 * BROKER_DRAIN_S)
        if self._rollout is not None:
            self._rollout.abort("the node is told to end")
        self._ending = Ending(
            self._broker, self._workers, self._peers, self._listeners, self.timing, exit_code, within_s
        )

    def _close_all(self) -> None:
        self._selector.close()
        for listener in self._listeners:
            listener.close()
        for slot in self._slots:
            if slot.link:
                slot.link.close()
            slot.facts.close()
        self._facts.close()
        if self._operators is not None:
            self._operators.close()
        self._notifier.close()
