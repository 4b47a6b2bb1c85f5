"""Contenders in turn, a fresh server each time, A B C A B C: a slow minute of the machine then hits all of them.

A run in which other programs used more than FOREIGN_LOAD_MAX cores is marked and repeated, `repeats` times at most for
each contender; the median of the quiet runs counts, of all runs where none was quiet. Its percentiles of latency are
medians over these runs, each for itself: a p99 is a handful of messages, and that of one run says what that run met.

Our pushes are longer than the message value they carry. So that peers move as many bytes, they send frames as long as
our server's were (`wire`), where it took its turn before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median_high

from tuskws_bench.contenders import Contender, ContenderError
from tuskws_bench.plan import Scenario
from tuskws_bench.procfs import NoServerError
from tuskws_bench.result import FOREIGN_LOAD_MAX, PERCENTILES, Result
from tuskws_bench.run import OnProgress, RunError, run

Metric = Callable[[Result], float | None]
Failed = (RunError, NoServerError, ContenderError)


@dataclass(slots=True)
class Entry:
    """One contender and its scenario. `failed`: why it could not be run; it is not tried again."""

    name: str
    make: Callable[[], Contender]
    scenario: Scenario
    results: list[Result] = field(default_factory=list)
    failed: str = ""

    @property
    def quiet(self) -> list[Result]:
        return [result for result in self.results if result.foreign_cores <= FOREIGN_LOAD_MAX]


# Run the entry once; `wire`: how long peers' frames are to be, 0: nobody knows.
Once = Callable[[Entry, int, OnProgress], Result]


class Rounds:
    """`watch(label)` gives the progress callback of each run."""

    def __init__(
        self, entries: Sequence[Entry], *, runs: int, repeats: int = 0, watch: Callable[[str], OnProgress], once: Once
    ) -> None:
        self._entries = entries
        self._runs = runs
        self._repeats = repeats
        self._watch = watch
        self._once = once
        self._wire = 0

    def run(self) -> None:
        for number in range(self._runs):
            for entry in self._entries:
                self._try(entry, f"{entry.name}, {number + 1} of {self._runs}")
        for number in range(self._repeats):
            for entry in self._entries:
                if len(entry.quiet) < self._runs:
                    self._try(entry, f"{entry.name}, again ({number + 1} of at most {self._repeats})")

    def _try(self, entry: Entry, label: str) -> None:
        if entry.failed:
            return
        try:
            result = self._once(entry, self._wire, self._watch(label))
        except Failed as error:
            entry.failed = str(error)
            return
        entry.results.append(result)
        ours = result.scenario["protocol"] == "tusk" and not result.scenario["compression"]
        if ours and result.wire_bytes_per_delivery:
            self._wire = round(result.wire_bytes_per_delivery)


def run_once(entry: Entry, wire: int, on_progress: OnProgress) -> Result:
    """A fresh server, one run, and its end."""
    with entry.make() as contender:
        scenario = replace(
            entry.scenario,
            url=contender.url,
            protocol=contender.protocol,
            wire=0 if contender.protocol == "tusk" else entry.scenario.wire or wire,
            server_pid=contender.pid,
        )
        try:
            return run(scenario, on_progress, contender.control_socket)
        except RunError as error:
            raise RunError(f"{error}\nThe end of its log:\n{contender.log_tail()}") from error


def median(results: list[Result], metric: Metric) -> Result:
    """Of the undisturbed rounds where there are any."""
    counted = [result for result in results if result.foreign_cores <= FOREIGN_LOAD_MAX] or results
    middle = sorted(counted, key=lambda result: metric(result) or 0.0)[(len(counted) - 1) // 2]
    return replace(
        middle,
        latency_us=_middle_of([each.latency_us for each in counted], middle.latency_us),
        opening_us=_middle_of([each.opening_us for each in counted], middle.opening_us),
    )


def _middle_of(figures: list[dict[str, int]], own: dict[str, int]) -> dict[str, int]:
    """`own`, with each percentile the median of all; of two the slower."""
    return own | {name: median_high(each[name] for each in figures if each) for name in PERCENTILES if name in own}
