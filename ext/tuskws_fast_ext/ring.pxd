# The C side of a ring (layout, checks and atomics: ring.h) and the two objects that own an end of one.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "ring.h" nogil:
    uint64_t RING_MAGIC
    uint32_t RING_VERSION
    uint32_t RING_PADDING
    uint32_t RING_RECORD_HEADER
    uint64_t RING_CAPACITY_MIN
    uint64_t RING_CAPACITY_MAX
    uint32_t RING_RESERVED_SHARE
    int RING_BAD_LENGTH
    int RING_BAD_PADDING
    int RING_BAD_CRC

    ctypedef struct ring_shared:
        uint64_t magic
        uint32_t version
        uint32_t header_bytes
        uint64_t capacity
        uint64_t generation
        uint64_t tail               # atomic in C; Cython code only reads these six, in snapshots and for figures
        uint64_t head
        uint32_t consumer_sleeping
        uint32_t producer_waiting
        uint64_t dropped
        uint8_t buf[0]

    ctypedef struct ring_record:
        uint32_t len
        uint32_t crc
        uint16_t type
        uint16_t flags
        uint32_t generation
        uint64_t seq

    ctypedef struct ring_producer:
        ring_shared *ring
        uint64_t capacity
        uint32_t generation
        int fault
        uint64_t written
        uint64_t published
        uint64_t head
        uint64_t refused

    ctypedef struct ring_consumer:
        ring_shared *ring
        uint64_t capacity
        uint32_t generation
        int fault
        uint64_t position
        uint64_t released
        uint64_t tail

    int ring_init() noexcept
    uint32_t ring_crc32c(uint32_t crc, const uint8_t *data, size_t n) noexcept
    uint32_t ring_crc32c_portable(uint32_t crc, const uint8_t *data, size_t n) noexcept
    uint32_t ring_record_crc(const ring_record *record, const uint8_t *payload) noexcept
    uint64_t ring_record_bytes(uint64_t payload) noexcept
    uint64_t ring_payload_max(uint64_t capacity) noexcept
    bint ring_capacity_ok(uint64_t capacity) noexcept
    void ring_format(ring_shared *ring, uint64_t capacity, uint32_t generation) noexcept
    int ring_check_header(const ring_record *record, uint64_t position, uint64_t available, uint64_t capacity,
                          uint32_t generation) noexcept

    int ring_producer_attach(ring_producer *p, ring_shared *ring, uint64_t capacity, uint32_t generation) noexcept
    uint64_t ring_producer_free(const ring_producer *p) noexcept
    int ring_refresh_head(ring_producer *p) noexcept
    int ring_push(ring_producer *p, uint16_t type, const uint8_t *payload, uint32_t len, bint control) noexcept
    bint ring_publish(ring_producer *p) noexcept
    int ring_want_space(ring_producer *p) noexcept
    void ring_count_dropped(ring_producer *p) noexcept
    uint64_t ring_dropped(const ring_producer *p) noexcept

    int ring_consumer_attach(ring_consumer *c, ring_shared *ring, uint64_t capacity, uint32_t generation) noexcept
    int ring_refresh_tail(ring_consumer *c) noexcept
    int ring_next(ring_consumer *c, ring_record *record, const uint8_t **payload) noexcept
    bint ring_accept(ring_consumer *c, const ring_record *record, const uint8_t *copy) noexcept
    bint ring_release(ring_consumer *c) noexcept
    bint ring_begin_sleep(ring_consumer *c) noexcept
    void ring_end_sleep(ring_consumer *c) noexcept
    uint64_t ring_pending(const ring_consumer *c) noexcept


cdef class Producer:
    cdef ring_producer _p
    cdef Py_buffer _view            # held until close(): the memory cannot be unmapped under us
    cdef int _bell                  # eventfd of the process that consumes; -1 = none
    cdef readonly uint64_t full     # pushes that found no room

    cdef int _ring_bell(self) except -1


cdef class Consumer:
    cdef ring_consumer _c
    cdef Py_buffer _view
    cdef int _bell                  # eventfd of the process that produces; -1 = none

    cdef int _ring_bell(self) except -1
