"""What two load processes might report after a run of two seconds, without running anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tuskws_bench.loadclient import Histogram
from tuskws_bench.loadproc import Finished, Opened, Stopped
from tuskws_bench.result import Interval, Run


def counted(**figures: int) -> dict[str, int]:
    """As the client's counters: what is not named is 0."""
    return Counter(figures)


def histogram(*values: int) -> bytes:
    made = Histogram()
    for value in values:
        made.add(value)
    return made.to_bytes()


def a_run(**finished: int) -> Run:
    opened = counted(ready=5, opened_ns=1_000_000_000, last_ready_ns=1_500_000_000)
    stopped = Stopped(
        {"r": 100},
        counted(deliveries=1000, published=10, delivery_bytes=150_000, reads=10),
        counted(deliveries=3000, published=30, delivery_bytes=450_000, reads=110),
        0.5,
        [1000, 1000],
    )
    empty = histogram()
    done = Finished({"r": 100}, 1500, counted(**finished), {}, "", histogram(10, 20), empty, histogram(7), empty)
    return Run(
        opened=[Opened(opened, 0.4, {}, ""), Opened(opened, 0.5, {}, "")],
        opening_cpu_s=0.001,
        interval=Interval(2.0, 0.4, {"worker-0 7": 0.3, "broker-0 8": 0.1}, [0.5, 1.9], 3.5, 0.1),
        pss=(1_000_000, 1_050_000),
        kernel=20_000,
        records=None,
        stopped=[stopped, stopped],
        finished=[done, replace(done, latency=histogram(1000, 2000))],
        lost=0,
    )
