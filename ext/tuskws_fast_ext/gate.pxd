from libc.stdint cimport uint32_t

from tuskws_fast_ext.connection cimport Connection
from tuskws_fast_ext.pace cimport Pace
from tuskws_fast_ext.parser cimport FrameParser


cdef enum:
    HEADER_MAX = 14
    # Whole frames up to this go through picows, whose read buffer (2 KiB less 256) then never has to grow.
    PICOWS_FRAME_MAX = 1408


cdef struct Header:
    unsigned char opcode
    bint fin
    unsigned char rsv
    Py_ssize_t size         # of the header itself
    Py_ssize_t payload
    int fault               # close code, 0 = a legal header


cdef class Inlet:
    cdef:
        bytearray memory
        readonly object view             # what every get_buffer returns: made once a worker
        double until                     # monotonic seconds: until then a read may take more than one slice
        double heard_at                  # coarse monotonic seconds: when somebody who is in last said something
        object _call_soon
        object _resting                  # gates with whole frames that nobody has looked at
        bint _is_scheduled
        readonly unsigned long long rests  # reads that were cut short

    cdef int rest(self, Gate gate) except -1


cdef class Gate:
    cdef:
        FrameParser _parser              # shared by all connections
        Connection _connection
        Inlet _inlet
        bytearray _rest                  # read and paid for, and to be looked at from `_rest_at` on
        Py_ssize_t _rest_at
        bytearray _behind                # what came all the same while something rested
        bint _is_in_line
        bytearray _held                  # the start of a frame that is not here as a whole yet
        Py_ssize_t _wanted               # how long it will be, 0 while even its header is not complete
        uint32_t _frame_max
        Py_ssize_t _discarded            # bytes that came after the peer broke the protocol
        bint _ended
        bint is_loud                     # it said more than a slice when it was read last, or than a buffer holds
        Pace _pace
        double _frames_full_at           # when the buckets are full again
        double _bytes_full_at

    cdef int lost(self) except -1
    cdef int _pass(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _proceed(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _take(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _go_on(self) except -1
    cdef int _pay(self, Py_ssize_t count) except -1
    cdef int _discard(self, Py_ssize_t size) except -1
    cdef Py_ssize_t _continue_held(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t _scan(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _single(self, Header* header, unsigned char* frame) except -1
    cdef int _parse(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t count) except -1


cdef int parse_header(const unsigned char* data, Py_ssize_t size, uint32_t frame_max, Header* header) noexcept nogil
