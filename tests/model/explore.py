"""Every state that a model can reach, breadth first, so that the first fault found has the shortest way to it.

A model says what may happen next (`steps`), what may never be (`wrong`, or `Broken` raised while a step is taken), and
what may not be when nothing can happen any more (`unfinished`: a wait that nobody ends is a state without steps).
States are plain tuples: equal when nothing that matters differs.

    found = explore(model)
    found.fault is None        all of it was seen, and it holds
    found.fault.trace          else the labels of the steps that lead to the fault

`walks` gives paths that together take every step of the graph: what a replay against the real parts runs through.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator
from time import perf_counter
from typing import NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Broken(Exception):
    """A step did what may never be done."""


class Model(Protocol[S]):
    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterable[tuple[str, S]]: ...

    def wrong(self, state: S) -> str | None: ...

    def unfinished(self, state: S) -> str | None: ...


class Fault(NamedTuple):
    text: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  {n:3} {label}" for n, label in enumerate(self.trace, 1))])


class Found(NamedTuple):
    states: int
    steps: int
    depth: int
    seconds: float
    fault: Fault | None

    def __str__(self) -> str:
        return f"{self.states} states, {self.steps} steps, depth {self.depth}, {self.seconds:.1f} s"


def explore(model: Model[S], states_max: int = 2_000_000) -> Found:
    """Stops at the first fault. More states than `states_max` is an error: nothing would be proven."""
    began = perf_counter()
    start = model.initial()
    came: dict[S, tuple[S, str] | None] = {start: None}
    frontier, taken, depth = [start], 0, 0

    def found(text: str | None, state: S, *label: str) -> Found:
        fault = None if text is None else Fault(text, (*_trace(came, state), *label))
        return Found(len(came), taken, depth, perf_counter() - began, fault)

    while frontier:
        following: list[S] = []
        for state in frontier:
            text = model.wrong(state)
            if text is not None:
                return found(text, state)
            stuck = True
            steps = iter(model.steps(state))
            while True:
                try:
                    label, after = next(steps)
                except StopIteration:
                    break
                except Broken as broken:
                    return found(str(broken), state, "…")
                stuck = False
                taken += 1
                if after not in came:
                    came[after] = (state, label)
                    following.append(after)
            if stuck and (text := model.unfinished(state)) is not None:
                return found(text, state)
        assert len(came) <= states_max, f"more than {states_max} states"
        frontier = following
        depth += bool(following)
    return found(None, start)


def _trace(came: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    labels: list[str] = []
    while (before := came[state]) is not None:
        state, label = before
        labels.append(label)
    return tuple(reversed(labels))


Walk = list[tuple[str, S]]


def walks(model: Model[S], seed: int, share: float = 1.0) -> Iterator[Walk[S]]:
    """Paths from the beginning to an end, as (label, state after it), until `share` of all steps were taken once.

    Where a state was seen through, a walk goes on by chance; so later walks are short of news, and `share` saves time.
    """
    rng = random.Random(seed)
    edges: dict[S, list[tuple[str, S]]] = {}
    frontier = [model.initial()]
    while frontier:
        state = frontier.pop()
        if state not in edges:
            edges[state] = list(model.steps(state))
            frontier += [after for _, after in edges[state]]
    ways = _ways(edges)
    fresh = {state: list(range(len(steps))) for state, steps in edges.items()}
    for numbers in fresh.values():
        rng.shuffle(numbers)
    left = sum(map(len, fresh.values()))
    enough = int(left * (1 - share))
    start = model.initial()
    targets = list(edges)
    rng.shuffle(targets)
    while left > enough:
        walk: Walk[S] = []
        state = start
        # To somewhere with a step not taken yet, then on until nothing follows.
        while not fresh[targets[-1]]:
            targets.pop()
        for label, after in _path(edges, ways, targets[-1]):
            walk.append((label, after))
            state = after
        while edges[state]:
            if fresh[state]:
                number = fresh[state].pop()
                left -= 1
            else:
                number = rng.randrange(len(edges[state]))
            label, state = edges[state][number]
            walk.append((label, state))
        yield walk


def _ways(edges: dict[S, list[tuple[str, S]]]) -> dict[S, tuple[S, int]]:
    """How each state was reached first."""
    ways: dict[S, tuple[S, int]] = {}
    start = next(iter(edges))
    seen, frontier = {start}, [start]
    while frontier:
        following = []
        for state in frontier:
            for number, (_, after) in enumerate(edges[state]):
                if after not in seen:
                    seen.add(after)
                    ways[after] = (state, number)
                    following.append(after)
        frontier = following
    return ways


def _path(edges: dict[S, list[tuple[str, S]]], ways: dict[S, tuple[S, int]], target: S) -> Walk[S]:
    path: Walk[S] = []
    state = target
    while state in ways:
        before, number = ways[state]
        path.append(edges[before][number])
        state = before
    path.reverse()
    return path
