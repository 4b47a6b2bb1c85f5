"""Server frames: what several messages look like on the wire, built once, shared by every connection that gets them.

A server never masks and never fragments here, so a frame is a header of 2, 4 or 10 bytes and the payload (RFC 6455
§5.2). `Frame` is immutable and reference counted: a fan-out hands the same object to each member, a slow member's
queue keeps a reference, never a copy. Forms that not everyone needs (the `batch` message) are built at first use.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef enum:
    OP_TEXT = 0x1


cdef inline Py_ssize_t header_size(Py_ssize_t n) noexcept nogil:
    return 2 if n < 126 else (4 if n < 65536 else 10)


cdef inline char* put_header(char* out, int opcode, Py_ssize_t n) noexcept nogil:
    cdef int shift
    out[0] = <char>(0x80 | opcode)
    if n < 126:
        out[1] = <char>n
        return out + 2
    if n < 65536:
        out[1] = 126
        out[2] = <char>(n >> 8)
        out[3] = <char>n
        return out + 4
    out[1] = 127
    for shift in range(8):
        out[2 + shift] = <char>(<unsigned long long>n >> (56 - 8 * shift))
    return out + 10


cdef bytes frame_bytes(list bodies, int opcode):
    """The bodies as frames one after the other, in one buffer."""
    cdef:
        Py_ssize_t total = 0
        Py_ssize_t n
        bytes body
        bytes result
        char* out
    for body in bodies:
        n = PyBytes_GET_SIZE(body)
        total += header_size(n) + n
    result = PyBytes_FromStringAndSize(NULL, total)
    out = PyBytes_AS_STRING(result)
    for body in bodies:
        n = PyBytes_GET_SIZE(body)
        out = put_header(out, opcode, n)
        memcpy(out, PyBytes_AS_STRING(body), n)
        out += n
    return result


cpdef bytes control_frame(int opcode, bytes payload):
    """A control frame (close 8, ping 9, pong 10); its payload may have 125 bytes at most (RFC 6455 §5.5)."""
    assert len(payload) <= 125, "a control frame carries at most 125 bytes"
    return frame_bytes([payload], opcode)


cdef class Frame:
    """One or more encoded messages on their way to connections. `timestamp` goes into the `batch` form."""

    def __init__(self, list bodies not None, double timestamp=0.0, bint exempt=False):
        self.bodies = bodies
        self.count = len(bodies)
        self.timestamp = timestamp
        self.exempt = exempt

    @staticmethod
    def message(int opcode, bytes payload not None):
        """One message of any type, as it is; the same in every form."""
        cdef Frame frame = Frame.__new__(Frame)
        frame.plain = frame_bytes([payload], opcode)
        frame.batched = frame.plain
        frame.count = 1
        return frame

    @staticmethod
    def raw(bytes wire not None):
        """Bytes that are no frame: the response that goes before the first one."""
        cdef Frame frame = Frame.__new__(Frame)
        frame.plain = wire
        frame.batched = wire
        return frame

    @staticmethod
    def control(int opcode, bytes payload not None):
        """A control frame; not a message, so it counts as none. It is the same in every form."""
        cdef Frame frame = Frame.__new__(Frame)
        frame.plain = control_frame(opcode, payload)
        frame.batched = frame.plain
        return frame

    cdef bytes wire(self, bint batch):
        if not batch or self.count < 2:
            if self.plain is None:
                self.plain = frame_bytes(self.bodies, OP_TEXT)
            return self.plain
        if self.batched is None:
            self.batched = frame_bytes(
                [b'{"type":"batch","messages":[%b],"timestamp":%.3f}' % (b",".join(self.bodies), self.timestamp)],
                OP_TEXT,
            )
        return self.batched

    def encoded(self, bint batch=False):
        """The bytes on the wire: for tests and benchmarks."""
        return self.wire(batch)
