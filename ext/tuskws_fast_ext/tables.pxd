# The C side of the shared tables (layout, proofs and atomics: tables.h) and one object for each kind.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "tables.h" nogil:
    uint64_t TABLE_HEADER
    uint64_t TABLE_COUNTERS
    uint64_t TABLE_RATES
    uint64_t TABLE_ADMISSION
    uint64_t RATE_WAYS
    uint64_t RATE_AHEAD
    uint32_t ADMISSION_WORKERS_MAX

    ctypedef struct cell "_Atomic uint64_t":
        pass

    ctypedef struct table_shared:
        cell refused
        cell evicted

    bint table_adopt(table_shared *table, uint64_t kind, uint64_t columns) noexcept
    uint64_t table_count(cell *c) noexcept

    uint64_t counters_stride(uint64_t columns) noexcept
    cell *counters_cell(table_shared *table, uint64_t row, uint64_t columns, uint64_t column) noexcept
    void counters_set(cell *c, uint64_t value) noexcept

    uint64_t rate_take(table_shared *table, uint64_t buckets, uint64_t hash, uint64_t now, uint64_t taken,
                       uint64_t depth, bint look) noexcept

    ctypedef struct admission_table:
        table_shared *table
        uint64_t slots
        uint32_t workers
        uint32_t worker

    uint64_t admission_stride(uint64_t workers) noexcept
    bint admission_admit(const admission_table *t, uint64_t hash, uint64_t limit) noexcept
    bint admission_leave(const admission_table *t, uint64_t hash) noexcept
    uint64_t admission_sum(const admission_table *t, uint64_t hash) noexcept
    void admission_clear(const admission_table *t, uint32_t worker) noexcept


cdef class _Table:
    cdef Py_buffer _view            # held until close(): the memory cannot be unmapped under us
    cdef table_shared *_table       # NULL after close()

    cdef table_shared *_open(self) except NULL


cdef class Counters(_Table):
    cdef readonly uint64_t row
    cdef readonly uint64_t columns

    cdef cell *_cell(self, uint64_t column) except NULL


cdef class RateTable(_Table):
    cdef uint64_t _buckets

    cdef double _take(
        self, uint64_t key_hash, uint64_t now_us, uint64_t cost, double interval_us, uint64_t burst, bint look
    ) except -1


cdef class AdmissionTable(_Table):
    cdef admission_table _t
