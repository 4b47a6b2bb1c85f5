"""`ping`, answered where it is read: no object is made of it, and one frame answers all pings of a millisecond.

It is the command that clients send without end, and the only one that asks for nothing but a sign of life. Known here
are the forms in which JSON libraries write it, with no id or a plain one:

    {"type":"ping"}        {"type":"ping","id":17}        {"type": "ping", "id": "a-7"}

Whatever differs, also a ping beyond the rate, is left to `worker.commands`, with nothing taken. That both answer alike
is tested (tests/unit/ext/test_pings.py).
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdio cimport snprintf
from libc.string cimport memcmp

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_REALTIME
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* out)

cdef enum:
    # A literal id has at most as many bytes, its quotes included (protocol.messages.MAX_ID_CHARS is 64).
    ID_MAX = 64
    # Digits of a number that certainly is one (the protocol's largest has 16).
    DIGITS_MAX = 15

# 1: may stand in a string id and needs no escape, neither in JSON nor in HTML.
cdef unsigned char PLAIN[256]
for _c in range(256):
    PLAIN[_c] = 48 <= _c <= 57 or 65 <= _c <= 90 or 97 <= _c <= 122 or _c == 45 or _c == 46 or _c == 95


cdef inline const char* skip(const char* at, const char* end, const char* word, Py_ssize_t size) noexcept nogil:
    """Behind `word` and one space that may follow; NULL when something else stands here."""
    if at is NULL or end - at < size or memcmp(at, word, size):
        return NULL
    at += size
    return at + 1 if at < end and at[0] == 32 else at


cdef Py_ssize_t literal(const char* at, const char* end) noexcept nogil:
    """The size of the plain number or string that begins here; 0: there is none."""
    cdef const char* start = at
    if at < end and at[0] == 34:
        at += 1
        while at < end and PLAIN[<unsigned char>at[0]]:
            at += 1
        if at == end or at[0] != 34 or at - start < 2 or at - start >= ID_MAX:
            return 0
        return at + 1 - start
    while at < end and 48 <= at[0] <= 57:
        at += 1
    if at == start or at - start > DIGITS_MAX or (start[0] == 48 and at - start > 1):
        return 0
    return at - start


cdef class Caller:
    """What a session owes and has done wrong: all that the answer to a ping depends on."""


cdef class Pings:
    """`started_us` is the start of the node on the monotonic clock, from which rates are counted."""

    def __init__(self, RateTable rates not None, uint64_t started_us):
        self.rates = rates
        self.started_us = started_us
        self.stamp = -1

    def limit(self, double interval_us, uint64_t burst, double address_interval_us, uint64_t address_burst):
        """The rates of a caller and of an address: a command in so many microseconds, 0 = not limited."""
        self.interval_us = interval_us
        self.burst = burst
        self.address_interval_us = address_interval_us
        self.address_burst = address_burst

    cdef Frame answer(self, Caller caller, const char* data, Py_ssize_t size, double now):
        """The pong to the message `data`; None: that is no ping of the forms known here, or it is not allowed."""
        cdef:
            const char* end = data + size
            const char* at = data
            const char* id_at = NULL
            Py_ssize_t id_size = 0
        at = skip(at, end, b'{"type":', 8)
        if at is NULL:
            return None
        if end - at < 7 or memcmp(at, b'"ping"', 6):
            return None
        at += 6
        if at[0] == 44:
            at = skip(skip(at, end, b",", 1), end, b'"id":', 5)
            if at is NULL:
                return None
            id_at = at
            id_size = literal(at, end)
            if not id_size:
                return None
            at += id_size
        if end - at != 1 or at[0] != 125 or not self._charge(caller, now):
            return None
        caller.faults = 0
        caller.refused_in_row = 0
        self.answered += 1
        self._tell_time()
        if id_at is NULL:
            return self.plain
        return Frame([b'%b,"id":%b}' % (self.head, PyBytes_FromStringAndSize(id_at, id_size))])

    cdef bint _charge(self, Caller caller, double now) except -1:
        """Take one command from both rates, or nothing."""
        cdef uint64_t now_us = <uint64_t>(now * 1e6) - self.started_us
        if caller.address_key and self.address_interval_us:
            if self.rates._take(caller.address_key, now_us, 1, self.address_interval_us, self.address_burst, True):
                return False
        if self.interval_us and self.rates._take(caller.rate_key, now_us, 1, self.interval_us, self.burst, False):
            return False
        if caller.address_key and self.address_interval_us:
            self.rates._take(caller.address_key, now_us, 1, self.address_interval_us, self.address_burst, False)
        return True

    cdef int _tell_time(self) except -1:
        cdef:
            timespec now
            long long stamp
            char text[32]
            int size
        clock_gettime(CLOCK_REALTIME, &now)
        stamp = now.tv_sec * <long long>1000 + now.tv_nsec // 1000000
        if stamp != self.stamp:
            size = snprintf(text, sizeof(text), b"%lld.%03lld", stamp // 1000, stamp % 1000)
            self.head = b'{"type":"pong","timestamp":%b' % PyBytes_FromStringAndSize(text, size)
            self.plain = Frame([self.head + b"}"])
            self.stamp = stamp
        return 0
