"""Byte rings between two processes: one writes, one reads, neither waits for the other, neither trusts the other.

A ring lies in memory that both have mapped (`format_ring` once, before either attaches). Its rules, its picture and
its atomics are in ring.h; this file turns them into two objects and copies payloads in and out.

    producer.push(type, payload) …      any number, invisible so far
    producer.flush()                    all of them become visible at once; the consumer is woken if it sleeps

    consumer.end_sleep()                on the bell
    consumer.drain(n)                   copies up to n records out and gives their space back
    consumer.begin_sleep()              before the process may block; False = do not block, there is more

A bell is an eventfd that belongs to the process that sleeps on it: one bell serves all rings that process reads, and
wakes it too when a full ring it writes to has room again (`want_space`).

A record that fails any check poisons the ring for good: what came before it is handed out, then `RingPoisoned` is
raised at every call. The cure is a new ring with the next generation; nothing here repairs.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from posix.unistd cimport write

HEADER_BYTES = sizeof(ring_shared)
RECORD_HEADER_BYTES = RING_RECORD_HEADER
CAPACITY_MIN = RING_CAPACITY_MIN
CAPACITY_MAX = RING_CAPACITY_MAX
MAGIC = RING_MAGIC
VERSION = RING_VERSION
HARDWARE_CRC = bool(ring_init())

cdef tuple FAULTS = (
    "no fault",
    "the peer's position is impossible",
    "padding where none can be",
    "a record's length is impossible",
    "a record of another generation",
    "a record of another lap or place",
    "a record's checksum is wrong",
)

RingState = namedtuple("RingState", "generation capacity head tail sleeping waiting dropped")
PeekedRecord = namedtuple("PeekedRecord", "position type flags generation payload fault")


class RingError(ValueError):
    """The memory is no ring, or not the one that was expected."""


class RingPoisoned(Exception):
    """The peer wrote something that it cannot have meant. Its process must be replaced, and the ring with it."""


def ring_bytes(uint64_t capacity) -> int:
    """Bytes of memory that a ring of this capacity (a power of two) takes. Always a multiple of 128."""
    if not ring_capacity_ok(capacity):
        raise RingError(f"capacity {capacity} is not a power of two in {RING_CAPACITY_MIN}..{RING_CAPACITY_MAX}")
    return sizeof(ring_shared) + capacity


def payload_max(uint64_t capacity) -> int:
    """The longest payload of one record: a quarter of the ring, less the record's header."""
    return ring_payload_max(capacity)


def crc32c(data: bytes, *, portable: bool = False) -> int:
    """CRC-32C (Castagnoli) as the rings use it. `portable` takes the table, for the test that compares the two."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t n = len(data)
    cdef uint32_t crc = ring_crc32c_portable(UINT32_MAX, p, n) if portable else ring_crc32c(UINT32_MAX, p, n)
    return crc ^ UINT32_MAX


def format_ring(buffer, Py_ssize_t offset, uint64_t capacity, uint32_t generation) -> None:
    """Makes an empty ring at `offset`. Nobody may be attached to this memory."""
    cdef Py_buffer view
    ring_bytes(capacity)
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        ring_format(_place(&view, offset, sizeof(ring_shared) + capacity), capacity, generation)
    finally:
        PyBuffer_Release(&view)


cdef ring_shared *_place(Py_buffer *view, Py_ssize_t offset, uint64_t n) except NULL:
    if offset < 0 or offset > view.len or <uint64_t>(view.len - offset) < n:
        raise RingError(f"{view.len} bytes cannot hold {n} at {offset}")
    cdef ring_shared *ring = <ring_shared *>(<char *>view.buf + offset)
    if <uintptr_t>ring % 128:
        raise RingError(f"offset {offset} does not fall on a 128-byte line")
    return ring


cdef ring_shared *_attach(Py_buffer *view, Py_ssize_t offset, object expected, uint64_t *capacity,
                          uint32_t *generation) except NULL:
    """Checks copies of the header's fields and hands out the copies: the peer may have mapped this memory already."""
    cdef ring_shared *ring = _place(view, offset, sizeof(ring_shared))
    cdef uint64_t found = ring.generation
    capacity[0] = ring.capacity
    generation[0] = <uint32_t>found
    if ring.magic != RING_MAGIC or ring.version != RING_VERSION or ring.header_bytes != sizeof(ring_shared):
        raise RingError(f"no ring of version {RING_VERSION} at {offset}")
    if not ring_capacity_ok(capacity[0]) or found > UINT32_MAX:
        raise RingError(f"capacity {capacity[0]} or generation {found} is impossible")
    if expected is not None and found != <uint64_t>expected:
        raise RingError(f"generation {found}, expected {expected}")
    return _place(view, offset, sizeof(ring_shared) + capacity[0])


cdef int _write_bell(int fd) except -1:
    """Adds one to an eventfd. A full counter (EAGAIN) is a bell that is ringing already."""
    cdef uint64_t one = 1
    while write(fd, &one, sizeof(one)) < 0:
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            raise OSError(errno, f"cannot ring bell {fd}")
    return 0


cdef class Producer:
    """The writing end. One process, one thread, one object a ring; `generation` is what the ring must have."""

    def __cinit__(self, buffer, Py_ssize_t offset, int bell_fd, generation=None):
        self._bell = bell_fd
        PyObject_GetBuffer(buffer, &self._view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        cdef uint64_t capacity = 0
        cdef uint32_t own_generation = 0
        cdef ring_shared *ring = _attach(&self._view, offset, generation, &capacity, &own_generation)
        if ring_producer_attach(&self._p, ring, capacity, own_generation):
            raise RingPoisoned(FAULTS[self._p.fault])

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    def close(self) -> None:
        """Lets go of the memory; records that were not flushed never happened. The object is of no use after it."""
        self._p.ring = NULL
        PyBuffer_Release(&self._view)

    def push(self, uint16_t type, bytes payload, bint control=False) -> bool:
        """Writes a record that nobody sees before `flush`. False = there is no room for it now.

        Only control records may use the last tenth of the ring. Longer than `payload_max` is a `RingError`.
        """
        if self._p.ring is NULL:
            raise RingError("the ring is closed")
        cdef size_t n = len(payload)
        if n > ring_payload_max(self._p.capacity):
            raise RingError(f"a record of {n} bytes cannot fit a ring of {self._p.capacity}")
        cdef int done = ring_push(&self._p, type, <const uint8_t *>PyBytes_AS_STRING(payload), <uint32_t>n, control)
        if done < 0:
            raise RingPoisoned(FAULTS[self._p.fault])
        if not done:
            self.full += 1
        return done == 1

    def flush(self) -> None:
        """Publishes all that was pushed since the last flush with one store, and rings the consumer if it sleeps."""
        if self._p.ring is NULL:
            raise RingError("the ring is closed")
        if ring_publish(&self._p):
            self._ring_bell()

    def want_space(self) -> bool:
        """After a refused push, and after `flush`: True = the consumer will ring our bell when it has freed space.

        False = the record that was refused fits by now: push it again. Being rung promises some space, not enough.
        """
        if self._p.ring is NULL:
            raise RingError("the ring is closed")
        cdef int waiting = ring_want_space(&self._p)
        if waiting < 0:
            raise RingPoisoned(FAULTS[self._p.fault])
        return waiting == 1

    def count_dropped(self) -> None:
        """Notes in the ring, where `ringcat` sees it, that the owner gave a record up."""
        if self._p.ring is NULL:
            raise RingError("the ring is closed")
        ring_count_dropped(&self._p)

    cdef int _ring_bell(self) except -1:
        if self._bell >= 0:
            _write_bell(self._bell)
        return 0

    @property
    def free(self) -> int:
        """Bytes that can be written now, headers and padding included."""
        if self._p.ring is NULL:
            raise RingError("the ring is closed")
        if not self._p.fault:
            ring_refresh_head(&self._p)
        return ring_producer_free(&self._p)

    @property
    def dropped(self) -> int:
        """Records given up on this ring, by any producer it has had."""
        if self._p.ring is NULL:
            raise RingError("the ring is closed")
        return ring_dropped(&self._p)

    @property
    def generation(self) -> int:
        return self._p.generation

    @property
    def capacity(self) -> int:
        return self._p.capacity


cdef class Consumer:
    """The reading end. One process, one thread, one object a ring; `bell_fd_of_producer` is rung to tell of space."""

    def __cinit__(self, buffer, Py_ssize_t offset, int bell_fd_of_producer, generation=None):
        self._bell = bell_fd_of_producer
        PyObject_GetBuffer(buffer, &self._view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        cdef uint64_t capacity = 0
        cdef uint32_t own_generation = 0
        cdef ring_shared *ring = _attach(&self._view, offset, generation, &capacity, &own_generation)
        if ring_consumer_attach(&self._c, ring, capacity, own_generation):
            raise RingPoisoned(FAULTS[self._c.fault])

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    def close(self) -> None:
        """Lets go of the memory. The object is of no use after it."""
        self._c.ring = NULL
        PyBuffer_Release(&self._view)

    def drain(self, Py_ssize_t max_records) -> list:
        """Up to `max_records` records as (type, payload), in order; their space is the producer's again.

        Records before a bad one are handed out first; the next call raises `RingPoisoned`.
        """
        if self._c.ring is NULL:
            raise RingError("the ring is closed")
        cdef list records = []
        cdef ring_record record
        cdef const uint8_t *payload = NULL
        cdef bytes copy
        cdef int found = -1
        if not self._c.fault and ring_refresh_tail(&self._c):
            found = 0
            while max_records > 0:
                found = ring_next(&self._c, &record, &payload)
                if found <= 0:
                    break
                copy = PyBytes_FromStringAndSize(NULL, record.len)
                memcpy(PyBytes_AS_STRING(copy), payload, record.len)
                if not ring_accept(&self._c, &record, <const uint8_t *>PyBytes_AS_STRING(copy)):
                    found = -1
                    break
                records.append((record.type, copy))
                max_records -= 1
            if ring_release(&self._c):
                self._ring_bell()
        if found < 0 and not records:
            raise RingPoisoned(f"{FAULTS[self._c.fault]} (at {self._c.position})")
        return records

    def begin_sleep(self) -> bool:
        """Before blocking on the bell. True = whoever publishes next will ring; False = drain first."""
        if self._c.ring is NULL:
            raise RingError("the ring is closed")
        return ring_begin_sleep(&self._c)

    def end_sleep(self) -> None:
        """After waking: no bell is owed while the ring is being read anyway."""
        if self._c.ring is NULL:
            raise RingError("the ring is closed")
        ring_end_sleep(&self._c)

    cdef int _ring_bell(self) except -1:
        if self._bell >= 0:
            _write_bell(self._bell)
        return 0

    @property
    def pending(self) -> int:
        """Published bytes that were not drained yet; nonsense (never an exception) if the producer has gone mad."""
        if self._c.ring is NULL:
            raise RingError("the ring is closed")
        return ring_pending(&self._c)

    @property
    def generation(self) -> int:
        return self._c.generation

    @property
    def capacity(self) -> int:
        return self._c.capacity


# -- reading by eye: on a copy of the memory, without attaching (scripts/ringcat) ---------------------------------


def inspect_ring(buffer, Py_ssize_t offset):
    """The header of the ring at `offset` of a readable buffer as a `RingState`; `RingError` if there is none."""
    cdef Py_buffer view
    cdef ring_shared shared
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if offset < 0 or offset > view.len - <Py_ssize_t>sizeof(shared):
            raise RingError(f"{view.len} bytes end before a ring at {offset}")
        memcpy(&shared, <char *>view.buf + offset, sizeof(shared))
        if shared.magic != RING_MAGIC or shared.version != RING_VERSION or not ring_capacity_ok(shared.capacity):
            raise RingError(f"no ring of version {RING_VERSION} at {offset}")
        if shared.capacity > <uint64_t>(view.len - offset) - sizeof(shared):
            raise RingError(f"the ring at {offset} is longer than the memory")
    finally:
        PyBuffer_Release(&view)
    return RingState(shared.generation, shared.capacity, shared.head, shared.tail, bool(shared.consumer_sleeping),
                     bool(shared.producer_waiting), shared.dropped)


def peek_records(buffer, Py_ssize_t offset, uint64_t start, uint64_t stop, Py_ssize_t max_records) -> list:
    """The records between two free-running positions, consuming nothing: a list of `PeekedRecord`.

    Damage does not end it: `fault` names what is wrong with a record (None = whole), and reading goes on at the next
    place where a whole record lies: a record names its own position, so that place can be recognised.
    """
    state = inspect_ring(buffer, offset)
    cdef uint64_t capacity = state.capacity
    cdef uint32_t generation = <uint32_t><uint64_t>state.generation
    cdef Py_buffer view
    cdef ring_record record
    cdef uint64_t position = start
    cdef int fault
    cdef list found = []
    if start % 8 or stop % 8 or stop < start or stop - start > capacity:
        raise RingError(f"{start}..{stop} is no part of a ring of {capacity}")
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    cdef const uint8_t *buf = <const uint8_t *>view.buf + offset + sizeof(ring_shared)
    try:
        while position < stop and len(found) < max_records:
            fault = _peek(buf, position, stop - position, capacity, generation, &record)
            if fault == RING_BAD_PADDING and position % capacity:
                position += capacity - position % capacity
                continue
            payload = b"" if fault and fault != RING_BAD_CRC else (
                buf + position % capacity + sizeof(record))[:record.len]
            found.append(PeekedRecord(position, record.type, record.flags, record.generation, payload,
                                      FAULTS[fault] if fault else None))
            if not fault:
                position += ring_record_bytes(record.len)
                continue
            while True:
                position += 8
                if position >= stop or not _peek(buf, position, stop - position, capacity, generation, &record):
                    break
    finally:
        PyBuffer_Release(&view)
    return found


cdef int _peek(const uint8_t *buf, uint64_t position, uint64_t available, uint64_t capacity, uint32_t generation,
               ring_record *record) noexcept nogil:
    """What is wrong with the record at `position` of a copy (0 = nothing); RING_BAD_PADDING: it is padding."""
    cdef uint64_t at = position % capacity
    record.len = record.crc = record.generation = 0
    record.type = record.flags = 0
    record.seq = 0
    memcpy(record, buf + at, 4)
    if record.len == RING_PADDING:
        return RING_BAD_PADDING
    if capacity - at < sizeof(ring_record) or available < sizeof(ring_record):
        return RING_BAD_LENGTH
    memcpy(record, buf + at, sizeof(ring_record))
    cdef int fault = ring_check_header(record, position, available, capacity, generation)
    if not fault and ring_record_crc(record, buf + at + sizeof(ring_record)) != record.crc:
        return RING_BAD_CRC
    return fault
