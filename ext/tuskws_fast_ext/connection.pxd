from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from tuskws_fast_ext.deflate cimport Compression, Deflater
from tuskws_fast_ext.frame cimport Feed, Frame
from tuskws_fast_ext.message cimport MessageReader
from tuskws_fast_ext.pace cimport Pace
from tuskws_fast_ext.pings cimport Pings


cdef extern from "uring.h" nogil:
    struct uring:
        int fd


cdef class FlushPoint:
    cdef:
        uring ring                        # of io_uring; fd -1: each connection writes by itself
        list dirty                        # connections with something queued in this loop turn
        object call_soon
        bint scheduled
        readonly set blocked              # connections whose socket is full: the owner watches their age
        readonly set closing              # connections that owe us the end of the closing handshake
        set owing                         # connections that are owed a pong
        list _late                        # connections whose time was over at `_looked_at`
        double _looked_at
        double _age_max_s
        readonly Pace pace
        public Pings pings                # answers pings without their session; None: nobody does
        readonly Py_ssize_t queue_bytes_max
        readonly Py_ssize_t queue_messages_max
        readonly unsigned long long messages_out   # messages given to the kernel or to a transport's buffer
        readonly unsigned long long bytes_out
        readonly unsigned long long writes         # send and writev calls made for them
        readonly unsigned long long messages_in
        readonly unsigned long long bytes_in
        readonly unsigned long long too_slow       # connections closed with 4008
        readonly unsigned long long left_out       # messages that slow connections were not sent
        readonly unsigned long long gaps           # times a connection was told of that
        readonly unsigned long long protocol_errors

    cdef int mark(self, Connection connection) except -1
    cdef bint _is_stuck(self, Connection connection) except -1
    cdef bint _owes_close(self, Connection connection) except -1
    cdef int _flush_together(self, list dirty) except -1
    cdef int _submit(self, PyObject** together, int* results, int n) except -1


cdef class Skip:
    cdef:
        Feed feed
        unsigned long long first          # the offsets that are left out
        unsigned long long last
        Frame newest                      # of a conflating feed


cdef class Connection:
    cdef:
        object __weakref__
        readonly object transport         # a Socket; under TLS an asyncio.Transport
        FlushPoint point
        public object session             # gets on_open, on_message, on_pong, on_closed, on_failure
        Frame pong                        # the answer to the newest ping, as long as it has to wait
        Frame first                       # the queue: nearly always one frame deep, so no list until a second comes
        list rest
        list skips                        # rooms of which messages are being left out; None: of none
        MessageReader reader              # made for the first message that is not one plain frame
        readonly Compression compression  # None: not agreed
        Deflater deflater                 # the one that all share; None: frames go plain, or through a context of its own
        readonly Py_ssize_t queued_bytes  # what waits and counts against the limits
        readonly Py_ssize_t queued_messages
        readonly Py_ssize_t held_bytes    # what the transport could not pass on, under TLS
        uint32_t message_max
        uint32_t fragments_max
        int fd
        bint check_text                   # text must be valid UTF-8 before the session sees it
        readonly bint batch               # hello {batch: true}
        object resting                    # the gate that holds frames back until others had their turn; None: it does not
        readonly bint is_paused           # its session wants nothing more of it for now
        public bint is_publishing         # of what it sent just now, something is on its way to others
        bint is_tls
        bint is_dirty
        bint is_blocked                   # the transport holds bytes of ours: nothing may be written past them
        readonly bint is_closing          # our Close is queued or sent: nothing is queued after it
        bint peer_closed                  # the peer's Close has come
        readonly bint is_failed           # the peer broke the protocol: nothing more of it is looked at
        readonly bint is_lost
        readonly int peer_code            # its code; 1005 = none given, 1006 = no Close came
        readonly double blocked_since     # monotonic seconds of the last progress
        readonly double last_input        # monotonic seconds of the last frame
        double pings_full_at              # when the bucket of pings is full again
        public double deadline            # of the closing handshake

    cdef int cut_short(self, gate) except -1
    cdef int caught_up(self) except -1
    cdef int queue(self, Frame frame) except -1
    cdef int write_queue(self) except -1
    cdef int sent_first(self, Py_ssize_t sent) except -1
    cdef int break_off(self, error) except -1
    cdef bint _took_first(self, bytes wire, Py_ssize_t sent) except -1
    cdef int _after_write(self) except -1
    cdef int _written(self, Frame frame) except -1
    cdef bint _is_over(self) noexcept
    cdef int _hand_over(self, bytes wire, Py_ssize_t sent) except -1
    cdef int _look_at(self, transport) except -1
    cdef int _write_many(self) except -1
    cdef int _write_tls(self) except -1
    cdef int _forget(self, Py_ssize_t count) except -1
    cdef int _end_output(self) except -1
    cdef int _finish(self) except -1
    cdef int _drop_queue(self) except -1
    cdef int _cut_off(self) except -1
    cdef int _be_slow(self, bint aged) except -1
    cdef int _shed(self) except -1
    cdef bint _skips(self, Frame frame) except -1
    cdef int _skip(self, Frame frame) except -1
    cdef int _tell_skips(self) except -1
    cdef int _tell(self, Skip skip) except -1
    cpdef lost(self)
    cpdef pause_writing(self)
    cpdef resume_writing(self)
    cdef int reject(self, int code, bytes reason) except -1
    cdef int fault(self, int code) except -1
    cdef int _answer_ping(self, const char* data, Py_ssize_t size) except -1
    cdef int _pay_pong(self) except -1
    cdef int peer_close(self, const unsigned char* payload, Py_ssize_t size) except -1
    cdef int take_frame(
        self, unsigned char opcode, bint fin, unsigned char rsv, const unsigned char* data, Py_ssize_t size
    ) except -1
    cdef bint _take_ping(self, const char* data, Py_ssize_t size) except -1
    cdef int _take_part(
        self, unsigned char opcode, bint fin, unsigned char rsv, const unsigned char* data, Py_ssize_t size
    ) except -1
    cdef int _inflate(self, bytes compressed, bint text) except -1
    cdef int _deliver(self, bytes payload, bint text) except -1
