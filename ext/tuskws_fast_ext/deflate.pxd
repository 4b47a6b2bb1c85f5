cdef extern from *:
    """
    /* zlib.h: input is const. */
    #define ZLIB_CONST
    """

cdef extern from "zlib.h" nogil:
    ctypedef struct z_stream:
        const unsigned char* next_in
        unsigned int avail_in
        unsigned char* next_out
        unsigned int avail_out
        int data_type


cdef class Scratch:
    cdef:
        unsigned char* data
        readonly Py_ssize_t size
        readonly unsigned long long deflated_messages
        readonly unsigned long long deflated_bytes      # made of them

    cdef int reserve(self, Py_ssize_t size) except -1
    cdef int trim(self) except -1


cdef class Deflater:
    cdef:
        z_stream stream
        Scratch scratch
        bint is_open                   # the stream has its memory
        readonly bint takeover         # each message is compressed in the context of those before it
        readonly int level
        readonly int window_bits
        readonly int memory_level
        readonly Py_ssize_t min_size   # shorter messages are not worth it

    cdef Py_ssize_t compress(self, const char* data, Py_ssize_t size) except -1


cdef class Inflater:
    cdef:
        z_stream stream
        Scratch scratch
        bint is_open
        readonly bint takeover
        readonly int window_bits
        Py_ssize_t work                # of the last message, in bytes: its output, and BLOCK_COST for each block too many

    cdef int _start(self) except -1
    cdef Py_ssize_t expand(self, const char* data, Py_ssize_t size, Py_ssize_t limit, Py_ssize_t work_max) except -8


cdef class CompressionPool:
    cdef:
        readonly Scratch scratch
        readonly Deflater deflater     # of every connection without a context of its own
        readonly Inflater inflater
        dict narrow                    # window bits -> Deflater that starts anew with every message
        readonly double rate           # bytes a second that a connection may inflate
        readonly double worker_rate
        double busy_until              # when the worker's budget is whole again
        readonly int level
        readonly int memory_level
        readonly unsigned long long inflated_messages
        readonly unsigned long long inflated_bytes
        readonly unsigned long long budget_closed


cdef class Compression:
    cdef:
        CompressionPool pool
        readonly Deflater deflater
        Inflater inflater
        double busy_until
        Py_ssize_t stranger_left       # work it may still cause before authentication; -1 = authenticated
        readonly int failure           # close code, when `inflate` gave None
        readonly bytes reason

    cdef bytes inflate(self, const char* data, Py_ssize_t size, Py_ssize_t message_max, double now)
    cdef int _charge(self, double now) except -1
