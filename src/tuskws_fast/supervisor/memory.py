"""The memory that all processes of a node share, made by the supervisor before the first fork.

    counters    a row a process: figures and heartbeats                         (ext tables.Counters, metrics.Metric)
    rates       commands a second, a user                                       (ext tables.RateTable)
    admission   connections in total, of an address, of a user; a column a worker    (ext tables.AdmissionTable)

Children inherit these by fork and open their own view (`NodeMemory.rate_table()`, …) after it. Links, which must be new
after every death, are not inherited but sent; `new_link` makes one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tuskws_fast_ext.tables import (
    AdmissionTable,
    Counters,
    RateTable,
    admission_bytes,
    counters_bytes,
    rates_bytes,
)

from tuskws_fast.ipc.link import format_link, link_bytes
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.metrics import COLUMN_COUNT, GAUGES, row_count


@dataclass(frozen=True, slots=True)
class MemorySizes:
    """How much of it: entries of the limit tables, bytes of a link's two rings."""

    limit_keys: int
    ring_up_bytes: int
    ring_down_bytes: int


class NodeMemory:
    """The segments, and what the supervisor does to them. Raises `OSError` when the machine has no room for them.

    `workers` is the number of worker slots, spare ones too.
    """

    def __init__(self, workers: int, sizes: MemorySizes) -> None:
        self.workers = workers
        self.sizes = sizes
        # Keys of the limit tables are hashes under this secret: nobody outside can choose colliding names.
        self.secret = secrets.token_bytes(32)
        # Makes session tickets genuine; replaced by one that outlives the node where there is a data directory.
        self.ticket_key = secrets.token_bytes(32)
        self._counters = Segment.create("counters", counters_bytes(row_count(workers), COLUMN_COUNT))
        self._rates = Segment.create("rates", rates_bytes(sizes.limit_keys))
        self._admission = Segment.create("admission", admission_bytes(sizes.limit_keys, workers))
        self._reader = self.counters(0)

    def counters(self, row: int) -> Counters:
        """The view of the process that owns `row`; any view can read every row."""
        return Counters(self._counters.buffer, row, COLUMN_COUNT)

    def rate_table(self) -> RateTable:
        return RateTable(self._rates.buffer)

    def admission_table(self, worker: int) -> AdmissionTable:
        return AdmissionTable(self._admission.buffer, worker, self.workers)

    def rows(self) -> list[list[int]]:
        """All rows of the counters, as `metrics.health_of` and the stats want them."""
        return [self._reader.read_row(row) for row in range(row_count(self.workers))]

    def new_link(self, generation: int) -> Segment:
        """Fresh, formatted memory for the two rings of a (worker, broker) pair."""
        up, down = self.sizes.ring_up_bytes, self.sizes.ring_down_bytes
        segment = Segment.create("link", link_bytes(up, down))
        format_link(segment, generation, up, down)
        return segment

    def forget_process(self, row: int) -> None:
        """After a process was reaped: what it held now is nothing; what it counted stays."""
        counters = self.counters(row)
        for gauge in GAUGES:
            counters.set(gauge, 0)
        counters.close()

    def release_admissions(self, worker: int) -> None:
        """After a worker was reaped: what it had admitted is free again."""
        table = self.admission_table(worker)
        table.clear_column(worker)
        table.close()

    def close(self) -> None:
        self._reader.close()
        for segment in (self._counters, self._rates, self._admission):
            segment.close()
