"""A slot: a place for one process, and what is remembered about it over all the processes that have had it.

DOWN ──fork──▶ STARTING ──"ready"──▶ READY ──▶ DRAINING
  ▲                │                   │           │
  └────────────────┴──────reaped───────┴───────────┘

One worker slot is SPARE: it has no process, on purpose, and becomes the place of a successor that is to serve before
the process it replaces has gone (`rollout`). Connections, limits, rings and figures are kept by slot, so two processes
never share one.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from tuskws_fast_ext.tables import Counters

from tuskws_fast.ipc.segment import Segment
from tuskws_fast.metrics import Metric, State
from tuskws_fast.supervisor.backoff import Backoff
from tuskws_fast.supervisor.child import ChildMain
from tuskws_fast.supervisor.spawn import Process


@dataclass(slots=True, eq=False)
class Slot:
    """Times are monotonic seconds. `facts` is the view of this slot's row through which its facts are published."""

    role: str
    number: int
    row: int
    main: ChildMain
    backoff: Backoff
    facts: Counters
    generation: int = 0
    deaths: int = 0
    process: Process | None = None
    state: State = State.DOWN
    born_at: float = 0.0
    birth_due: float | None = 0.0
    down_since: float | None = None
    boot_reason: str = ""
    # Of a worker: which listener it serves, the memory it shares with the broker, who serves its listener while it is
    # away.
    listener: int | None = None
    link: Segment | None = None
    link_generation: int = 0
    adopted_by: Slot | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"{self.role} {self.number}"

    def enter(self, state: State) -> None:
        self.state = state
        self.facts.set(Metric.STATE, state)

    def born(self, process: Process, now: float) -> None:
        self.process = process
        self.born_at = now
        self.birth_due = None
        self.boot_reason = ""
        self.facts.set(Metric.PID, process.pid)
        self.facts.set(Metric.STARTED, int(now * 1000))
        self.facts.set(Metric.RESTARTS, self.deaths)
        self.facts.set(Metric.BEAT, int(now * 1000))
        self.enter(State.STARTING)

    def rest(self) -> None:
        """Be the spare slot: nothing is missed here, and nothing is born until somebody asks for it."""
        self.listener = None
        self.birth_due = None
        self.boot_reason = ""
        self.down_since = None
        self.enter(State.SPARE)

    def beat_age_s(self, now: float) -> float:
        return now - self.facts.get(Metric.BEAT) / 1000


def describe_end(status: int) -> str:
    """What `Process.reap` returned, in words."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
