"""The end of the node: everybody out, workers first, then the broker; whoever stays too long is killed.

    told         /readyz says 503; for `drain_delay` clients are still accepted, so that balancers can look away
    drained      nothing listens any more; each worker sends its clients away over a window (worker/drain)
    last         when no worker is left, the broker
    hastened     by a second SIGTERM: every client is closed at once, a second is left for that

The window is that of `drain_window`, longer where `drain_rate` asks for it, and never more than half of what is left
until the deadline: what is sent away in the last moment could not go in peace.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Sequence

from tuskws_fast.errors import ExitCode
from tuskws_fast.metrics import Metric, State
from tuskws_fast.supervisor.peers import Peers
from tuskws_fast.supervisor.slots import Slot
from tuskws_fast.supervisor.timing import Timing

log = logging.getLogger(__name__)

BROKER_DRAIN_S = 1.0
# What a second SIGTERM leaves to those who are still here: each is closed at once, and may still answer.
HASTE_S = 1.0
# The part of the time left in which clients are sent away; the rest is for the last of them to go.
WINDOW_SHARE = 0.5


class Ending:
    """`within_s` 0: nobody has been served yet, so nobody is waited for."""

    def __init__(
        self,
        broker: Slot,
        workers: Sequence[Slot],
        peers: Peers,
        listeners: Sequence[socket.socket],
        timing: Timing,
        exit_code: ExitCode,
        within_s: float,
    ) -> None:
        self.exit_code = exit_code
        self._broker = broker
        self._workers = workers
        self._peers = peers
        self._listeners = listeners
        self._deadline = time.monotonic() + within_s
        lead_s = min(timing.drain_delay_s, within_s)
        self._stop_listening_at = time.monotonic() + lead_s
        window_s = self._window_s(timing, within_s - lead_s)
        for worker in workers:
            self._drain(worker, {"reason": "shutdown", "lead_s": lead_s, "window_s": window_s})
        self._stop_listening(time.monotonic())

    def _window_s(self, timing: Timing, left_s: float) -> float:
        wanted_s = window_of(timing, self._workers)
        most_s = left_s * WINDOW_SHARE
        if wanted_s > max(most_s, timing.drain_window_s):
            extra = {"window_s": round(most_s, 1), "wanted_s": round(wanted_s, 1)}
            log.warning("more clients a second are sent away than drain_rate: shutdown_timeout is short", extra=extra)
        return min(wanted_s, most_s)

    @property
    def next_due(self) -> float:
        return min(self._deadline, self._stop_listening_at)

    def go_on(self, now: float) -> None:
        self._stop_listening(now)
        workers_left = [worker for worker in self._workers if worker.process]
        if not workers_left:
            self._drain(self._broker, {})
        left = workers_left or [slot for slot in (self._broker,) if slot.process]
        if left and now >= self._deadline:
            if self.exit_code is ExitCode.OK:
                log.warning("the drain timed out: killing", extra={"left": ", ".join(slot.name for slot in left)})
                self.exit_code = ExitCode.DRAIN_TIMED_OUT
            kill(left)
            # The broker, which could not drain before the workers had, still gets its turn.
            self._deadline = now + BROKER_DRAIN_S

    def hasten(self) -> None:
        """Asked for a second time: whoever is still here goes now."""
        now = time.monotonic()
        if self._deadline <= now + HASTE_S:
            return
        log.warning("asked to end again: closing what is left", extra={"within_s": HASTE_S})
        self._deadline = now + HASTE_S
        self._stop_listening_at = min(self._stop_listening_at, now)
        for worker in self._workers:
            if worker.state is State.DRAINING:
                self._tell(worker, {"reason": "shutdown", "lead_s": 0.0, "window_s": 0.0})
        self._stop_listening(now)

    def interrupt(self) -> None:
        """No more patience at all."""
        log.warning("second interrupt: killing what is left")
        self.exit_code = ExitCode.INTERRUPTED
        kill([self._broker, *self._workers])

    def _drain(self, slot: Slot, fields: dict[str, float | str]) -> None:
        if slot.state is State.STARTING and slot.process:
            slot.process.kill()  # It has no clients yet, and perhaps no loop that could obey.
        elif slot.state is State.READY or (slot.state is State.DRAINING and slot.role == "worker" and fields):
            # One that was being replaced is in less of a hurry than the node is now.
            slot.enter(State.DRAINING)
            self._tell(slot, fields)

    def _tell(self, slot: Slot, fields: dict[str, float | str]) -> None:
        left_s = max(0.0, self._deadline - time.monotonic())
        self._peers.tell(slot, "drain", {**fields, "deadline_s": left_s})

    def _stop_listening(self, now: float) -> None:
        """Once the workers have closed their copies too, new clients are refused and go elsewhere."""
        if now >= self._stop_listening_at:
            self._stop_listening_at = float("inf")
            for listener in self._listeners:
                listener.close()


def window_of(timing: Timing, draining: Sequence[Slot]) -> float:
    """Over how long the clients of these workers are to be sent away."""
    clients = sum(worker.facts.get(Metric.CONNECTIONS_CURRENT) for worker in draining)
    return max(timing.drain_window_s, clients / timing.drain_rate)


def kill(slots: Sequence[Slot]) -> None:
    for slot in slots:
        if slot.process:
            slot.process.kill()
