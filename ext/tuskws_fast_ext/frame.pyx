"""Server frames: what several messages look like on the wire, built once, shared by every connection that gets them.

A server never masks and never fragments here, so a frame is a header of 2, 4 or 10 bytes and the payload (RFC 6455
§5.2). `Frame` is immutable and reference counted: a fan-out hands the same object to each member, a slow member's
queue keeps a reference, never a copy. Forms that not everyone needs (the `batch` message, the compressed ones) are
built at first use, once: what it costs to compress a message does not depend on how many get it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from tuskws_fast_ext.deflate cimport Deflater

cdef extern from "debug.h" nogil:
    bint TUSKWS_COUNTED
    long tuskws_live
    void tuskws_count(long n)

cdef enum:
    OP_TEXT = 0x1
    # RSV1 on the first frame of a message: it is compressed (RFC 7692 §6).
    RSV1 = 0x40


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


cdef bytes deflated_bytes(list bodies, int opcode, Deflater deflater):
    """As `frame_bytes`, each body compressed for itself; what is short or does not become smaller stays as it is.

    None when no body is long enough. Without the deflater's takeover the result is the same for everybody.
    """
    cdef:
        list frames = []
        bint any_deflated = False
        bytes body, frame
        Py_ssize_t made
        char* out
    for body in bodies:
        if PyBytes_GET_SIZE(body) >= deflater.min_size:
            made = deflater.compress(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
            if made < PyBytes_GET_SIZE(body) or deflater.takeover:
                frame = PyBytes_FromStringAndSize(NULL, header_size(made) + made)
                out = put_header(PyBytes_AS_STRING(frame), opcode | RSV1, made)
                memcpy(out, deflater.scratch.data, made)
                deflater.scratch.trim()
                frames.append(frame)
                any_deflated = True
                continue
        frames.append(frame_bytes([body], opcode))
    if not any_deflated:
        return None
    return frames[0] if len(frames) == 1 else b"".join(frames)


cpdef bytes control_frame(int opcode, bytes payload):
    """A control frame (close 8, ping 9, pong 10); its payload may have 125 bytes at most (RFC 6455 §5.5)."""
    assert len(payload) <= 125, "a control frame carries at most 125 bytes"
    return frame_bytes([payload], opcode)


def live_objects():
    """Frames that exist; None in a build that does not count them (TUSKWS_DEBUG=1 does)."""
    return tuskws_live if TUSKWS_COUNTED else None


cdef class Feed:
    """A room whose messages may be left out for a reader that is too slow for them, and how it is told of that."""

    def __init__(self, bytes head not None, bint conflate):
        self.head = head
        self.conflate = conflate
        self.active = True


cdef class Frame:
    """One or more encoded messages on their way to connections. `timestamp` goes into the `batch` form."""

    def __cinit__(self):
        tuskws_count(1)

    def __dealloc__(self):
        tuskws_count(-1)

    def __init__(
        self,
        list bodies not None,
        double timestamp=0.0,
        bint exempt=False,
        Feed feed=None,
        unsigned long long first_offset=0,
    ):
        self.feed = feed
        self.first_offset = first_offset
        self.last_offset = first_offset + len(bodies) - 1
        self.bodies = bodies
        self.opcode = OP_TEXT
        self.count = len(bodies)
        self.timestamp = timestamp
        self.exempt = exempt

    @staticmethod
    def message(int opcode, bytes payload not None):
        """One message of any type, as it is."""
        cdef Frame frame = Frame.__new__(Frame)
        frame.bodies = [payload]
        frame.opcode = opcode
        frame.count = 1
        return frame

    @staticmethod
    def raw(bytes wire not None):
        """Bytes that are no frame: the response that goes before the first one."""
        return Frame._fixed(wire, 0, False)

    @staticmethod
    def control(int opcode, bytes payload not None):
        """A control frame; not a message, so it counts as none. It is the same in every form."""
        return Frame._fixed(control_frame(opcode, payload), 0, False)

    @staticmethod
    cdef Frame _fixed(bytes wire, Py_ssize_t count, bint exempt):
        cdef Frame frame = Frame.__new__(Frame)
        frame.plain = frame.batched = frame.deflated = frame.deflated_batch = wire
        frame.count = count
        frame.exempt = exempt
        return frame

    cdef bytes wire(self, bint batch, Deflater deflater):
        """The bytes for who takes `batch` messages, or not, and has agreed to what `deflater` makes (None: to no
        compression). All callers of a process use one deflater, without takeover."""
        if batch and self.count > 1:
            if deflater is not None:
                if self.deflated_batch is None:
                    self.deflated_batch = (
                        deflated_bytes([self._batch_body()], OP_TEXT, deflater) or self.wire(True, None)
                    )
                return self.deflated_batch
            if self.batched is None:
                self.batched = frame_bytes([self._batch_body()], OP_TEXT)
            return self.batched
        if deflater is not None:
            if self.deflated is None:
                self.deflated = deflated_bytes(self.bodies, self.opcode, deflater) or self.wire(False, None)
            return self.deflated
        if self.plain is None:
            self.plain = frame_bytes(self.bodies, self.opcode)
        return self.plain

    cdef Frame for_one(self, bint batch, Deflater deflater):
        """The frame in the form of one connection, whose own context `deflater` is: call it once, in the order of
        sending. It is the same in every form."""
        cdef:
            list bodies = self.bodies
            bytes wire
        if bodies is None:
            return self
        wire = deflated_bytes([self._batch_body()] if batch and self.count > 1 else bodies, self.opcode, deflater)
        return self if wire is None else Frame._fixed(wire, self.count, self.exempt)

    cdef Frame newest(self):
        """Its last message alone."""
        cdef Frame frame
        if self.count == 1:
            return self
        frame = Frame.__new__(Frame)
        frame.bodies = [self.bodies[len(self.bodies) - 1]]
        frame.opcode = self.opcode
        frame.count = 1
        frame.timestamp = self.timestamp
        frame.feed = self.feed
        frame.first_offset = frame.last_offset = self.last_offset
        return frame

    cdef bytes _batch_body(self):
        return b'{"type":"batch","messages":[%b],"timestamp":%.3f}' % (b",".join(self.bodies), self.timestamp)

    def encoded(self, bint batch=False, Deflater deflater=None):
        """The bytes on the wire: for tests and benchmarks."""
        return self.wire(batch, deflater)
