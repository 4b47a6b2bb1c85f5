"""A rolling restart: every worker is replaced by a fresh process, one after the other, the new one first.

    STARTING   the spare slot bears a process, which will serve the same listening socket
    DRAINING   it is ready; the old one accepts no more, and sends its clients away one by one
    SETTLING   the old one has ended, its slot is the spare; go on when every worker is ready

A successor that does not become ready ends the whole: it is killed, the old one stays in service and nothing has
changed for anybody. Whoever dies meanwhile is replaced as ever; the next step waits for it.

Why a spare slot: docs/decisions/0009. The listening socket is one file that supervisor, old and new worker hold, so
connections that wait in its queue when the old worker closes its copy are the new one's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from tuskws_fast.metrics import State
from tuskws_fast.supervisor.slots import Slot

log = logging.getLogger(__name__)

# Worker slots beyond those that serve: one worker at a time is replaced.
SPARE_SLOTS = 1
# Nothing is reported after one of these.
LAST_STEPS = frozenset({"done", "aborted"})

Report = Callable[[Mapping[str, Any]], None]


class Phase(Enum):
    STARTING = "starting"
    DRAINING = "draining"
    SETTLING = "settling"
    OVER = "over"


class Rollout:
    """Told of everything that happens to workers; acts through slots and through `drain(slot)`, which says when the
    slot must have ended. `report` hears of each step; `patience_s` is how long a process may take to be ready."""

    def __init__(
        self,
        workers: Sequence[Slot],
        drain: Callable[[Slot], float],
        give_back_listener: Callable[[Slot], None],
        report: Report,
        patience_s: float,
        now: float,
    ) -> None:
        self._workers = workers
        self._drain = drain
        self._give_back_listener = give_back_listener
        self._report = report
        self._patience_s = patience_s
        serving = [worker for worker in workers if worker.listener is not None]
        self._waiting = sorted(serving, key=lambda worker: worker.listener or 0)
        self._count = len(self._waiting)
        self._old: Slot | None = None
        self._new: Slot | None = None
        self._given_up: Slot | None = None
        self._due = now + patience_s
        self.phase = Phase.SETTLING

    @property
    def next_due(self) -> float:
        return self._due

    def tick(self, now: float) -> None:
        """Go on if it is time to, give up if it is too late."""
        if self.phase is Phase.SETTLING and self._all_serve():
            self._go_on(now)
        elif now < self._due or self.phase is Phase.OVER:
            return
        elif self.phase is Phase.DRAINING:
            assert self._old is not None
            log.warning("kill: does not end its drain", extra={"child": self._old.name})
            self._kill(self._old)
            self._due = now + self._patience_s
        elif self.phase is Phase.STARTING:
            assert self._new is not None
            self.abort(f"{self._new.name} is not ready after {self._patience_s:g} s")
        else:
            away = ", ".join(slot.name for slot in self._workers if slot.state in (State.DOWN, State.STARTING))
            self.abort(f"{away} is not ready after {self._patience_s:g} s")

    def _all_serve(self) -> bool:
        return all(slot.state is State.READY for slot in self._workers if slot.listener is not None)

    def _go_on(self, now: float) -> None:
        if not self._waiting:
            self.phase = Phase.OVER
            log.info("restarted", extra={"workers": self._count})
            self._report({"event": "done", "workers": self._count})
            return
        self._old = self._waiting.pop(0)
        self._new = new = next(slot for slot in self._workers if slot.state is State.SPARE)
        new.listener = self._old.listener
        new.birth_due = now
        self.phase = Phase.STARTING
        self._due = now + self._patience_s
        self._tell("starting")

    def on_ready(self, slot: Slot, now: float) -> None:
        """A worker serves. If it is the successor, the old one may go."""
        if slot is not self._new or self.phase is not Phase.STARTING:
            return
        old = self._old
        assert old is not None
        self._give_back_listener(old)
        self.phase = Phase.DRAINING
        self._due = now + self._patience_s
        if old.process is None:
            self._old_ended(now)
        elif old.state is State.STARTING:
            # It died, and was just being born again: it has no clients.
            self._kill(old)
        else:
            self._due = self._drain(old)
        if self.phase is Phase.DRAINING:
            self._tell("draining")

    def on_end(self, slot: Slot, how: str, now: float) -> bool:
        """A worker has been reaped, or could not be born. True: its slot is the spare now."""
        if slot is self._old and self.phase is Phase.DRAINING:
            self._old_ended(now)
            return True
        if slot is self._new and self.phase is Phase.STARTING:
            why = slot.boot_reason or how
            slot.rest()
            self.abort(f"{slot.name}: {why}")
            return True
        if slot is self._given_up:
            self._given_up = None
            slot.rest()
            return True
        return False

    def _old_ended(self, now: float) -> None:
        assert self._old is not None
        self._old.rest()
        self.phase = Phase.SETTLING
        self._due = now + self._patience_s
        self._tell("replaced")

    def abort(self, reason: str) -> None:
        """Leave everything as it is now; a successor that is not ready yet is given up."""
        if self.phase is Phase.OVER:
            return
        was, self.phase = self.phase, Phase.OVER
        log.error("the rolling restart is given up", extra={"reason": reason})
        self._report({"event": "aborted", "reason": reason})
        new = self._new
        if was is not Phase.STARTING or new is None or new.state is State.SPARE:
            return
        if new.process is None:
            new.rest()
        else:
            self._given_up = new
            self._kill(new)

    def _tell(self, event: str) -> None:
        assert self._old is not None
        assert self._new is not None
        step = self._count - len(self._waiting)
        fields = {"old": self._old.name, "new": self._new.name, "step": step, "of": self._count}
        log.info(f"rolling restart: {event}", extra=fields)
        self._report({"event": event, **fields})

    @staticmethod
    def _kill(slot: Slot) -> None:
        if slot.process is not None:
            slot.process.kill()
