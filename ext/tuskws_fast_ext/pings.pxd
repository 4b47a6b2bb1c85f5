from libc.stdint cimport uint64_t

from tuskws_fast_ext.frame cimport Frame
from tuskws_fast_ext.tables cimport RateTable


cdef class Caller:
    cdef:
        public uint64_t rate_key          # whose rate its commands are charged to
        public uint64_t address_key       # strangers and guests pay from their address's rate too; 0 = this one does not
        public int faults                 # malformed messages in a row
        public int refused_in_row         # commands beyond the rate, in a row


cdef class Pings:
    cdef:
        RateTable rates
        uint64_t started_us
        double interval_us                # of a caller's rate; 0 = not limited
        uint64_t burst
        double address_interval_us
        uint64_t address_burst
        readonly unsigned long long answered
        long long stamp                   # the millisecond that `plain` tells
        bytes head                        # a pong without its end
        Frame plain                       # to pings without an id: the same for all of a millisecond

    cdef Frame answer(self, Caller caller, const char* data, Py_ssize_t size, double now)
    cdef bint _charge(self, Caller caller, double now) except -1
    cdef int _tell_time(self) except -1
