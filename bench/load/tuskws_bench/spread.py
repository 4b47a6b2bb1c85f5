"""`tuskws-bench spread`: how evenly connections lie over the workers of our server.

    opened       all connections, one after the other: the kernel's hash of addresses and ports decides (SO_REUSEPORT)
    killed       worker 0 is killed; its connections, and they alone, come back
    restarted    a rolling restart: the clients that each worker sends away come back at once

A fair throw of `n` connections over `w` workers has a standard deviation of sqrt(n (w - 1)) / w a worker, which the
table shows as a share of the mean; what is far beyond it is no chance. `most / mean` is what the fullest worker has to
carry, where 1 would be even.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from tuskws_bench import flags, report
from tuskws_bench.contenders import Contender, ContenderError, OurServer
from tuskws_bench.loadclient import READY, LoadClient
from tuskws_bench.machine import machine
from tuskws_bench.plan import Scenario
from tuskws_fast.supervisor.operators import ask
from tuskws_fast.supervisor.stats import read_stats

SLICE_NS = 50_000_000
# Workers bring their figures up to date once a second.
TOLD_WITHIN_S = 1.5
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Connections of each worker at one moment."""

    workers: int
    moment: str
    counts: list[int]

    @property
    def deviation(self) -> float:
        """Standard deviation over the workers, as a share of the mean."""
        return statistics.pstdev(self.counts) / statistics.mean(self.counts)

    @property
    def by_chance(self) -> float:
        return math.sqrt((self.workers - 1) / sum(self.counts))

    @property
    def fullest(self) -> float:
        return max(self.counts) / statistics.mean(self.counts)


class Crowd:
    """Connections that do nothing. Who is sent away or cut off is opened anew by `refill`."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._clients: list[LoadClient] = []
        self._size = size

    def refill(self) -> int:
        """Open as many as are missing; how many that were."""
        missing = self._size - self.open
        if missing > 0:
            scenario = Scenario("idle", url=self._url, members=missing)
            host, _, _, _ = scenario.endpoint()
            (share,) = scenario.shares(address=host, run=0, name="spread", base_ns=time.monotonic_ns())
            client = LoadClient(share)
            client.open_up_to(missing)
            client.run(time.monotonic_ns() + int(PATIENCE_S * 1e9), READY)
            self._clients.append(client)
        return max(0, missing)

    @property
    def open(self) -> int:
        """Right after `serve`."""
        found = [client.counters() for client in self._clients]
        return sum(each["ready"] - each["closed_early"] for each in found)

    def serve(self, seconds: float) -> None:
        """Answer pings, and see who was closed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for client in self._clients:
                client.run(time.monotonic_ns() + SLICE_NS // len(self._clients))


def measure(size: int, workers: int, server_flags: tuple[str, ...] = ()) -> Iterator[Spread]:
    with OurServer(workers=workers, flags=server_flags) as server:
        socket = server.control_socket
        assert socket is not None, "known once it is started"
        crowd = Crowd(server.url, size)
        crowd.refill()
        yield Spread(workers, "opened", _counts(crowd, server, size))
        os.kill(_workers(socket)[0]["pid"], signal.SIGKILL)
        crowd.serve(1.0)
        crowd.refill()
        yield Spread(workers, "killed", _counts(crowd, server, size))
        restarting = threading.Thread(target=lambda: list(ask(socket, "restart", None)))
        restarting.start()
        while restarting.is_alive():
            crowd.serve(0.1)
            crowd.refill()
        yield Spread(workers, "restarted", _counts(crowd, server, size))


def _workers(control_socket: Path) -> list[dict[str, Any]]:
    """Of the workers that live, in the order of their slots."""
    return [
        each for each in read_stats(control_socket)["processes"] if each["name"].startswith("worker") and each["pid"]
    ]


def _counts(crowd: Crowd, server: Contender, size: int) -> list[int]:
    assert server.control_socket is not None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        crowd.serve(TOLD_WITHIN_S)
        crowd.refill()
        counts = [int(each["connections"]) for each in _workers(server.control_socket)]
        if sum(counts) == size:
            return counts
        if time.monotonic() > deadline:
            raise ContenderError(f"{sum(counts)} connections of {size} are there:\n{server.log_tail()}")


def table_of(found: list[Spread]) -> Table:
    table = Table(title="connections of each worker", title_justify="left")
    for name in ("workers", "when", "connections", "deviation", "by chance", "most / mean"):
        table.add_column(name, justify="left" if name == "when" else "right")
    for each in found:
        table.add_row(
            str(each.workers),
            each.moment,
            " ".join(f"{count:,}" for count in each.counts),
            f"{100 * each.deviation:.1f} %",
            f"{100 * each.by_chance:.1f} %",
            f"{each.fullest:.2f}",
        )
    return table


def execute(*, connections: int, workers: str, json_file: Path | None) -> None:
    console = report.open_console(stderr=json_file == Path("-"))
    try:
        tried = flags.numbers("--workers", workers)
        Scenario("idle", members=connections).validate()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        found = [each for number in tried for each in measure(connections, number)]
    except ContenderError as error:
        raise click.ClickException(str(error)) from error
    console.print(table_of(found))
    rows = [{"workers": each.workers, "when": each.moment, "counts": each.counts} for each in found]
    report.write_json(json_file, {"machine": machine(), "spreads": rows})


spread = click.Command(
    "spread",
    params=[
        flags.flag("--connections", default=10_000, help="Connections of the node."),
        flags.flag("--workers", default="2,4", help="Numbers of workers to try."),
        flags.json_flag(),
    ],
    callback=execute,
    help="How evenly connections lie over the workers. Also after a death, and after a rolling restart.",
)
