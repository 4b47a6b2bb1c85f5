"""The loop that drives a target written in Python: replay, mutate, keep what is new, stop at the first finding.

A target is an object with

    name, input_max
    run(data)      one execution. Raises on a finding; returns what happened, hashable: its *outcome*
    seeds()        inputs to begin with            fresh(rng)     a new input with the structure of a valid one

The outcome stands in for code coverage: an input whose outcome nobody had before is kept and mutated further. It needs
no instrumented build, so it works the same for compiled code and Python, with and without sanitizers.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fuzz import corpus

FRESH_SHARE = 0.25
KEPT_MAX = 4096


class Target(Protocol):
    name: str
    input_max: int

    def run(self, data: bytes) -> Hashable: ...

    def seeds(self) -> list[bytes]: ...

    def fresh(self, rng: random.Random) -> bytes: ...


class Finding(Exception):
    """`data` makes the target fail; the failure is the cause."""

    def __init__(self, target: str, data: bytes) -> None:
        super().__init__(f"target {target} fails on {data!r:.2000}")
        self.data = data


class UnderWay:
    """The file that holds the input under way. Kept open: opening it would cost more than many executions do."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._size = 0

    def write(self, data: bytes) -> None:
        if len(data) < self._size:
            os.ftruncate(self._fd, len(data))
        os.pwrite(self._fd, data, 0)
        self._size = len(data)


@dataclass
class Tally:
    executions: int
    outcomes: int
    seconds: float


def fuzz(
    target: Target,
    seconds: float,
    executions: int | None = None,
    seed: int = 1,
    keep: Path | None = None,
    pending: Path | None = None,
) -> Tally:
    """Run until time or executions are used up. `keep`: a directory for inputs with new outcomes. `pending`: the file
    that always holds the input under way, for when a sanitizer ends the process."""
    rng = random.Random(seed)
    begun = time.monotonic()
    known: set[Hashable] = set()
    pool = [*target.seeds(), *corpus.kept(target.name)]
    if keep is not None:
        pool += corpus.load(keep)
    done = 0
    under_way = UnderWay(pending) if pending is not None else None

    def once(data: bytes) -> bool:
        nonlocal done
        if under_way is not None:
            under_way.write(data)
        try:
            outcome = target.run(data)
        except Exception as error:
            raise Finding(target.name, data) from error
        done += 1
        if outcome in known:
            return False
        known.add(outcome)
        return True

    for data in pool:
        once(data)
    while (executions is None or done < executions) and time.monotonic() - begun < seconds:
        if rng.random() < FRESH_SHARE:
            data = target.fresh(rng)
        else:
            data = corpus.mutated(rng, rng.choice(pool), pool, target.input_max)
        if once(data) and len(pool) < KEPT_MAX:
            pool.append(data)
            if keep is not None:
                corpus.save(keep, data)
    return Tally(done, len(known), time.monotonic() - begun)


def smallest(target: Target, data: bytes, tries: int = 2000) -> bytes:
    """`data` with all removed that the same kind of failure does not need."""
    kind = _failure(target, data)
    size = max(1, len(data) // 2)
    while size and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            shorter = data[:at] + data[at + size :]
            tries -= 1
            if _failure(target, shorter) == kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _failure(target: Target, data: bytes) -> str | None:
    try:
        target.run(data)
    except Exception as error:
        return f"{type(error).__name__} {str(error)[:30]}"
    return None
