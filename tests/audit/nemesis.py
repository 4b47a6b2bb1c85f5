"""What is done to the node, and when: drawn from a seed, and nothing but the seed. Pure.

A `Blow` names a kind of process, not a number: which worker is meant is drawn when it falls (`pick`), among those that
are there. So a plan stays the same whatever the node does meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from audit.build import STEPS

# For how long a process is stopped that should live, and that should be killed for it (the node's patience is 5 s).
SHORT_STOP_S = (0.2, 3.0)
LONG_STOP_S = 8.0
CLOCK_STEPS_S = (-7200.0, -1.0, 1.0, 3600.0)
ERRORS = (("write", "EIO"), ("write", "ENOSPC"), ("open", "ENOSPC"), ("sync", "EIO"))


@dataclass(frozen=True, slots=True)
class Blow:
    """`what` is done to `target` for `seconds`, and nothing else for `pause_s` afterwards."""

    what: str
    target: str = ""
    detail: str = ""
    seconds: float = 0.0
    pick: float = 0.0
    pause_s: float = 1.0


# How often each kind comes in a mixed run.
WEIGHTS = {
    "kill worker": 10,
    "kill broker": 6,
    "die": 10,
    "stop worker": 4,
    "stop broker": 3,
    "stop supervisor": 2,
    "kill node": 2,
    "kill supervisor": 1,
    "power": 2,
    "damage": 2,
    "disk": 4,
    "clock": 3,
    "churn": 12,
}


def mixed(rng: random.Random, only: str = "") -> Iterator[Blow]:
    """Endless. `only`: a comma-separated part of `WEIGHTS`."""
    weights = {kind: weight for kind, weight in WEIGHTS.items() if not only or kind in only.split(",")}
    while True:
        (kind,) = rng.choices(list(weights), list(weights.values()))
        what, _, target = kind.partition(" ")
        pick, pause_s = rng.random(), rng.uniform(0.05, 1.5)
        if what == "die":
            yield Blow("die", detail=rng.choice(STEPS), pick=pick, pause_s=pause_s)
        elif what == "stop":
            long = target != "supervisor" and rng.random() < 0.15
            yield Blow("stop", target, "", LONG_STOP_S if long else rng.uniform(*SHORT_STOP_S), pick, pause_s)
        elif what == "damage":
            yield Blow("damage", detail=rng.choice(("flip", "cut")), pick=pick, pause_s=3.0)
        elif what == "disk":
            operation, error = rng.choice(ERRORS)
            yield Blow("disk", detail=f"{operation} {error}", seconds=rng.uniform(0.5, 3.0), pause_s=3.0)
        elif what == "clock":
            yield Blow("clock", detail=str(rng.choice(CLOCK_STEPS_S)), pause_s=pause_s)
        else:
            yield Blow(what, target, pick=pick, pause_s=pause_s)
