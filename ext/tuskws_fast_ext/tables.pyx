"""Limits and counters over all processes of a node, in shared memory, without asking anyone.

    Counters        figures: each process writes its own row, anyone reads all rows
    RateTable       so many a second for each user, over all its connections and workers, surviving reconnects
    AdmissionTable  so many at once for each key (an address, a user, the node), exact, and exact after a kill

Layouts, memory order and why two processes asking at once cannot both get the last place: tables.h. Memory must be
zeroed at the start and 128-byte aligned, as a fresh segment is. Keys are 64-bit keyed hashes that the caller makes:
nobody outside can choose names that meet in one bucket.
"""

import math

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

HEADER_BYTES = TABLE_HEADER
WORKERS_MAX = ADMISSION_WORKERS_MAX


class TableError(ValueError):
    """The memory does not hold the table that was asked for, or the table was used wrongly."""


def counters_bytes(uint64_t rows, uint64_t columns) -> int:
    return TABLE_HEADER + rows * counters_stride(columns)


def rates_bytes(uint64_t users) -> int:
    """For so many users that are active at once; who was idle for as long as the burst takes needs no place.

    A quarter full, so that a bucket overflows for 1 user in 6,800 (half full, for 1 in 120).
    """
    return TABLE_HEADER + (users * 4 // RATE_WAYS + 1) * RATE_WAYS * 8


def admission_bytes(uint64_t keys, uint32_t workers) -> int:
    """For so many keys with something admitted at once.

    A quarter full, so that among a million keys none needs more than the 32 slots it may look at (half full, one in
    20,000 was refused).
    """
    return TABLE_HEADER + (keys * 4 + 1) * admission_stride(workers)


cdef class _Table:
    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    def close(self) -> None:
        """Lets go of the memory. The object is of no use after it."""
        self._table = NULL
        PyBuffer_Release(&self._view)

    cdef table_shared *_open(self) except NULL:
        if self._table is NULL:
            raise TableError("the table is closed")
        return self._table


cdef int _attach(_Table self, object buffer, uint64_t kind, uint64_t columns, uint64_t n) except -1:
    PyObject_GetBuffer(buffer, &self._view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    if <uint64_t>self._view.len < n:
        raise TableError(f"{self._view.len} bytes are too few: this table needs {n}")
    if <uintptr_t>self._view.buf % 128:
        raise TableError("the memory does not begin on a 128-byte line")
    if not table_adopt(<table_shared *>self._view.buf, kind, columns):
        raise TableError("the memory holds a table of another kind or width")
    self._table = <table_shared *>self._view.buf
    return 0


cdef class Counters(_Table):
    """The row of counters and gauges of one process. Nobody else may write it; anyone may read it."""

    def __cinit__(self, buffer, uint64_t row, uint64_t columns):
        _attach(self, buffer, TABLE_COUNTERS, columns, TABLE_HEADER + (row + 1) * counters_stride(columns))
        self.row = row
        self.columns = columns

    cdef cell *_cell(self, uint64_t column) except NULL:
        if column >= self.columns:
            raise TableError(f"column {column} of {self.columns}")
        return counters_cell(self._open(), self.row, self.columns, column)

    def add(self, uint64_t column, int64_t n=1) -> None:
        cdef cell *c = self._cell(column)
        counters_set(c, table_count(c) + <uint64_t>n)

    def set(self, uint64_t column, uint64_t value) -> None:
        counters_set(self._cell(column), value)

    def get(self, uint64_t column) -> int:
        return table_count(self._cell(column))

    def read_row(self, uint64_t row) -> list:
        """All columns of any process's row; each is exact, together they are no snapshot."""
        cdef table_shared *table = self._open()
        if row >= self._rows():
            raise TableError(f"row {row} of {self._rows()}")
        return [table_count(counters_cell(table, row, self.columns, i)) for i in range(self.columns)]

    def sum_column(self, uint64_t column) -> int:
        """The column over all rows."""
        cdef table_shared *table = self._open()
        self._cell(column)
        cdef uint64_t total = 0, row
        for row in range(<uint64_t>self._rows()):
            total += table_count(counters_cell(table, row, self.columns, column))
        return total

    def clear_row(self) -> None:
        """A new process in this row starts from zero."""
        for column in range(self.columns):
            self.set(column, 0)

    def _rows(self) -> int:
        return (<uint64_t>self._view.len - TABLE_HEADER) // counters_stride(self.columns)


cdef class RateTable(_Table):
    """Token buckets by GCRA (generic cell rate algorithm): one word a user, no timer, nothing to refill."""

    def __cinit__(self, buffer):
        _attach(self, buffer, TABLE_RATES, RATE_WAYS, TABLE_HEADER + RATE_WAYS * 8)
        self._buckets = (<uint64_t>self._view.len - TABLE_HEADER) // (RATE_WAYS * 8)

    def take(self, uint64_t key_hash, uint64_t now_us, uint64_t cost, double interval_us, uint64_t burst) -> float:
        """0.0 = `cost` commands are allowed and taken; else the seconds until they would be, and nothing is taken.

        One command is earned every `interval_us` (rounded up to whole microseconds), `burst` can be saved up.
        `now_us` counts from any moment that all processes agree on. `inf`: more than `burst` is never allowed at once.
        """
        return self._take(key_hash, now_us, cost, interval_us, burst, False)

    def wait(self, uint64_t key_hash, uint64_t now_us, uint64_t cost, double interval_us, uint64_t burst) -> float:
        """As `take`, but nothing is taken."""
        return self._take(key_hash, now_us, cost, interval_us, burst, True)

    cdef double _take(
        self, uint64_t key_hash, uint64_t now_us, uint64_t cost, double interval_us, uint64_t burst, bint look
    ) except -1:
        cdef double step = ceil(interval_us)
        if not (1.0 <= step and step * burst < <double>RATE_AHEAD):
            raise TableError(f"a burst of {burst} every {interval_us} µs is none, or takes longer than 12 days")
        if cost > burst:
            return math.inf
        return rate_take(self._open(), self._buckets, key_hash, now_us, cost * <uint64_t>step,
                         burst * <uint64_t>step, look) / 1e6

    @property
    def evicted(self) -> int:
        """Users whose rate was forgotten because too many met in a bucket: above 0 the table is too small."""
        return table_count(&self._open().evicted)


cdef class AdmissionTable(_Table):
    """How many of each key are admitted, in all and by each worker; `worker` is the caller's column.

    A worker must `release` what it was admitted, or die and be cleared by the supervisor.
    """

    def __cinit__(self, buffer, uint32_t worker, uint32_t workers):
        if worker >= workers or workers > ADMISSION_WORKERS_MAX:
            raise TableError(f"worker {worker} of {workers}, at most {ADMISSION_WORKERS_MAX}")
        _attach(self, buffer, TABLE_ADMISSION, workers, TABLE_HEADER + admission_stride(workers))
        self._t.table = self._table
        self._t.slots = (<uint64_t>self._view.len - TABLE_HEADER) // admission_stride(workers)
        self._t.worker = worker
        self._t.workers = workers

    def admit(self, uint64_t key_hash, uint64_t limit) -> bool:
        """True = one more is counted for this key; over all workers there are never more than `limit`.

        False = there are `limit` already (or the last place was asked for twice in one instant), or there is no
        place for the key in the table (`refused` counts that).
        """
        self._open()
        return admission_admit(&self._t, key_hash, limit)

    def release(self, uint64_t key_hash) -> None:
        """Gives back what `admit` granted to this worker."""
        self._open()
        if not admission_leave(&self._t, key_hash):
            raise TableError("released a key that this worker does not hold")

    def count(self, uint64_t key_hash) -> int:
        """Admitted for this key now, by all workers; while others ask, as many more as ask."""
        self._open()
        return admission_sum(&self._t, key_hash)

    def clear_column(self, uint32_t worker) -> None:
        """All that `worker` held is given back. Only once that process is dead and reaped: it is its column."""
        if worker >= self._t.workers:
            raise TableError(f"worker {worker} of {self._t.workers}")
        self._open()
        admission_clear(&self._t, worker)

    @property
    def refused(self) -> int:
        """Admissions refused for want of a place: above 0 the table is too small."""
        return table_count(&self._open().refused)
