"""One client socket: the message layer above picows' frames, and the only place that writes to a socket.

In:   picows parses and unmasks; here frames become messages (fragments joined, RSV bits refused, control frames
      answered, the closing handshake led to its end) and go to `session.on_message`.
Out:  `queue` takes references to frames, `FlushPoint.flush` writes at the end of the loop turn what each connection
      has waiting, in one system call straight on the socket.

The rule of back-pressure. As long as the socket takes everything, the transport's own buffer is empty and bytes go
past it. On a short write the rest of that *one* frame goes to the transport, which waits for the socket; until it says
`resume_writing` nothing else is written and frames wait here as references. So a slow member costs a list of
pointers, and is cut off with 4008 when bytes, messages or age pass their bound. Writing past a transport that still
holds bytes would tear a frame in two: `is_blocked` is that invariant.

picows is told to answer nothing by itself (no auto-ping, no auto-pong). What it does send is a Close on a framing
error, after which it ends the connection; `transport.is_close_frame_sent` then keeps us silent.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from picows.picows cimport WSFrame, WSListener, WSMsgType, WSTransport

from tuskws_fast_ext.frame cimport Frame, control_frame

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SOL_SOCKET
        SO_LINGER
    struct linger:
        int l_onoff
        int l_linger
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec* vector, int count)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC_COARSE
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* out)

cdef enum:
    # Frames of one writev. More gain nothing: the socket buffer is full long before.
    IOV_MAX = 64
    FRAGMENTS_MAX = 1024
    # Seconds a peer has to take what is on its way and to end its half of the closing handshake.
    CLOSE_TIMEOUT = 5

# Close codes (RFC 6455 §7.4.1 and protocol §5); the table with their meaning is protocol/codes.py.
cdef enum:
    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NO_CODE = 1005
    ABNORMAL = 1006
    POLICY = 1008
    TOO_BIG = 1009
    TOO_SLOW = 4008


cdef inline double monotonic() noexcept nogil:
    """Seconds on the coarse clock (4 ms steps, 5 ns to read): deadlines here are seconds long."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class FlushPoint:
    """Where a worker's output leaves: the connections that have something queued, written once a loop turn.

    `flush` is called by whoever ends a turn's work (the ring's drain does); a queue that fills outside of one
    schedules it by `call_soon`, which runs after all reads of the turn, so replies to them leave together.
    """

    def __init__(self, call_soon, Py_ssize_t queue_bytes_max, Py_ssize_t queue_messages_max):
        self.call_soon = call_soon
        self.dirty = []
        self.blocked = set()
        self.closing = set()
        self.queue_bytes_max = queue_bytes_max
        self.queue_messages_max = queue_messages_max

    cdef int mark(self, Connection connection) except -1:
        self.dirty.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.flush)
        return 0

    def flush(self):
        """Write what every marked connection has waiting."""
        cdef:
            list dirty = self.dirty
            Connection connection
        self.scheduled = False
        if not dirty:
            return
        self.dirty = []
        for connection in dirty:
            connection.is_dirty = False
            if not connection.is_blocked:
                connection.write_queue()

    def expire(self, double now, double age_max_s):
        """Once a second: cut off who made no progress for `age_max_s`, and who owes its half of a closing handshake."""
        cdef Connection connection
        for connection in list(self.blocked):
            if now - connection.blocked_since > age_max_s:
                connection._cut_off()
        for connection in list(self.closing):
            if now > connection.deadline:
                connection.abort()


cdef class Connection(WSListener):
    """`session` gets `on_open()`, `on_message(payload, text)`, `on_pong()`, `on_closed(code)` and, when one of these
    raises, `on_failure(exception)`. `code` is the peer's close code, 1005 for none given, 1006 for no Close at all.
    """

    def __init__(self, FlushPoint point not None, session, uint32_t message_max):
        self.point = point
        self.session = session
        self.message_max = message_max
        self.peer_code = ABNORMAL
        self.fd = -1

    # -- from picows -----------------------------------------------------------------------------------------------

    cpdef on_ws_connected(self, WSTransport transport):
        self.transport = transport
        self.fd = transport._socket
        # What would stay as long as the connection and is never read, 4 KB in all (measured): the handshake's objects,
        # a write buffer and a future of its own.
        transport.request = None
        transport.response = None
        if self.point.scratch is None:
            self.point.scratch = transport._write_buffer
            self.point.ended = transport.disconnected_future
            self.point.ended.set_result(None)
        transport._write_buffer = self.point.scratch
        transport.disconnected_future = self.point.ended
        # The 101 may still wait in the transport.
        self.is_blocked = transport.underlying_transport.get_write_buffer_size() > 0
        self.last_input = monotonic()
        try:
            self.session.on_open()
        except Exception as error:
            self.session.on_failure(error)

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        self.last_input = monotonic()
        if self.peer_closed:
            return
        try:
            if frame.msg_type == WSMsgType.CLOSE:
                self._on_close_frame(frame)
            elif self.is_closing:
                return
            elif frame.rsv1 or frame.rsv2 or frame.rsv3:
                # RFC 6455 §5.2: MUST be 0 unless an extension defines a meaning. None is negotiated.
                self.fail(PROTOCOL_ERROR, b"reserved bits")
            elif frame.msg_type == WSMsgType.PING:
                self.queue(Frame.control(WSMsgType.PONG, frame.get_payload_as_bytes()))
            elif frame.msg_type == WSMsgType.PONG:
                self.session.on_pong()
            else:
                self._on_data_frame(frame)
        except Exception as error:
            self.session.on_failure(error)

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.is_lost = True
        self.is_closing = True
        self._drop_queue()
        self.partial = None
        self.point.blocked.discard(self)
        self.point.closing.discard(self)
        session, self.session = self.session, None
        try:
            session.on_closed(self.peer_code)
        except Exception as error:
            session.on_failure(error)

    cpdef pause_writing(self):
        # Known already: `_hand_over` asks the transport at once.
        pass

    cpdef resume_writing(self):
        self.is_blocked = False
        self.blocked_since = monotonic()
        self.point.blocked.discard(self)
        self.write_queue()

    # -- the message layer -----------------------------------------------------------------------------------------

    cdef int _on_data_frame(self, WSFrame frame) except -1:
        cdef unsigned char opcode = <unsigned char>frame.msg_type
        if opcode != 0:
            if self.partial_opcode:
                # RFC 6455 §5.4: fragments of one message must not be interleaved with another's.
                self.fail(PROTOCOL_ERROR, b"a new message inside a fragmented one")
                return 0
            if frame.fin:
                if frame.payload_size > self.message_max:
                    self.fail(TOO_BIG, b"message too big")
                    return 0
                return self._deliver(
                    PyBytes_FromStringAndSize(frame.payload_ptr, frame.payload_size), opcode == WSMsgType.TEXT
                )
            self.partial_opcode = opcode
            self.partial = bytearray()
            self.fragments = 0
        elif not self.partial_opcode:
            self.fail(PROTOCOL_ERROR, b"continuation of nothing")
            return 0
        # Empty fragments count too: a flood of them costs as much as one with bytes (CVE-2026-48779 in `ws`).
        self.fragments += 1
        if self.fragments > FRAGMENTS_MAX:
            self.fail(POLICY, b"too many fragments")
            return 0
        if len(self.partial) + frame.payload_size > self.message_max:
            self.fail(TOO_BIG, b"message too big")
            return 0
        self.partial += frame.payload_ptr[: frame.payload_size]
        if not frame.fin:
            return 0
        payload, text = bytes(self.partial), self.partial_opcode == WSMsgType.TEXT
        self.partial = None
        self.partial_opcode = 0
        return self._deliver(payload, text)

    cdef int _deliver(self, bytes payload, bint text) except -1:
        self.point.messages_in += 1
        self.point.bytes_in += PyBytes_GET_SIZE(payload)
        self.session.on_message(payload, text)
        return 0

    cdef int _on_close_frame(self, WSFrame frame) except -1:
        """Answer with the peer's own code (RFC 6455 §5.5.1) and end; or, if ours went first, just end."""
        cdef int code = NO_CODE
        cdef bytes payload = b""
        if frame.payload_size >= 2:
            code = (<unsigned char>frame.payload_ptr[0] << 8) | <unsigned char>frame.payload_ptr[1]
            payload = frame.payload_ptr[:2]
            if code < 1000 or code == NO_CODE or code == ABNORMAL or code >= 5000:
                # picows lets these pass; none of them may stand in a Close (RFC 6455 §7.4).
                code = PROTOCOL_ERROR
                payload = b"\x03\xea"
        self.peer_closed = True
        self.peer_code = code
        if not self.is_closing:
            self.queue(Frame.control(WSMsgType.CLOSE, payload))
            self.is_closing = True
            self._finish()
        elif self.first is None:
            self.transport.underlying_transport.close()
        return 0

    def set_batch(self, bint batch):
        """Whether this client takes `batch` messages. What waits already is counted anew in its other form."""
        self.batch = batch
        self.queued_bytes = 0
        for frame in ([] if self.first is None else [self.first, *(self.rest or [])]):
            if not (<Frame>frame).exempt:
                self.queued_bytes += PyBytes_GET_SIZE((<Frame>frame).wire(batch))

    def fail(self, int code, bytes reason not None):
        """The peer broke the protocol: count it and close with `code`."""
        self.point.protocol_errors += 1
        self.close(code, reason)

    # -- out -------------------------------------------------------------------------------------------------------

    def send(self, Frame frame not None):
        """Queue `frame`; it leaves at the end of the loop turn. Nothing is sent once the connection is closing."""
        self.queue(frame)

    def close(self, int code, bytes reason=b""):
        """Send what is queued, then a Close; the socket ends when the peer answers, or after 5 s."""
        if self.is_closing:
            return
        self.queue(Frame.control(WSMsgType.CLOSE, code.to_bytes(2, "big") + reason[:123]))
        self.is_closing = True
        self._finish()

    def abort(self):
        """End the socket now, without a word, and with it what the kernel still holds for it (up to 4 MB measured):
        a plain close would keep that until the peer reads, which may be never."""
        cdef linger reset
        if self.fd >= 0 and not self.is_lost:
            reset.l_onoff = 1
            reset.l_linger = 0
            setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
        self._drop_queue()
        self.is_closing = True
        if self.transport is not None and not self.is_lost:
            self.transport.underlying_transport.abort()

    def waiting(self):
        """The bytes queued here and not written yet: for tests and for looking into a live process."""
        frames = [] if self.first is None else [self.first, *(self.rest or [])]
        return b"".join([(<Frame>frame).wire(self.batch) for frame in frames])

    def pause_reading(self):
        self.transport.underlying_transport.pause_reading()

    def resume_reading(self):
        if not self.is_lost and not self.transport.underlying_transport.is_closing():
            self.transport.underlying_transport.resume_reading()

    cdef int queue(self, Frame frame) except -1:
        if self.is_closing:
            return 0
        if self.first is None:
            self.first = frame
        elif self.rest is None:
            self.rest = [frame]
        else:
            self.rest.append(frame)
        if not frame.exempt:
            self.queued_messages += frame.count
            self.queued_bytes += PyBytes_GET_SIZE(frame.wire(self.batch))
        if self.is_blocked:
            if (
                self.queued_bytes > self.point.queue_bytes_max
                or self.queued_messages > self.point.queue_messages_max
            ):
                self._cut_off()
        elif not self.is_dirty:
            self.is_dirty = True
            self.point.mark(self)
        return 0

    cdef int write_queue(self) except -1:
        """Write until the queue is empty or the socket is full. Call only while not blocked."""
        cdef:
            bytes wire
            Py_ssize_t size, sent
        if self.is_lost or self.transport.is_close_frame_sent:
            return self._drop_queue()
        while self.first is not None:
            if self.rest is not None:
                self._write_many()
            else:
                wire = self.first.wire(self.batch)
                size = PyBytes_GET_SIZE(wire)
                sent = c_send(self.fd, PyBytes_AS_STRING(wire), size, MSG_DONTWAIT | MSG_NOSIGNAL)
                self.point.writes += 1
                if sent < size:
                    if sent < 0 and errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
                        self.abort()
                        return 0
                    self._hand_over(wire, sent if sent > 0 else 0)
                self._written(self.first)
                self.first = None
            if self.is_blocked:
                break
        if self.is_blocked and (
            self.queued_bytes > self.point.queue_bytes_max or self.queued_messages > self.point.queue_messages_max
        ):
            return self._cut_off()
        if self.first is None and self.peer_closed:
            self.transport.underlying_transport.close()
        return 0

    cdef int _write_many(self) except -1:
        """One writev for up to 64 queued frames; what it took leaves the queue."""
        cdef:
            iovec vector[IOV_MAX]
            list batch = [self.first]
            list rest = self.rest
            Frame frame
            bytes wire
            Py_ssize_t i, n, sent, size
            Py_ssize_t whole = 0
        batch.extend(rest[: IOV_MAX - 1])
        n = len(batch)
        for i in range(n):
            # Each frame keeps its wire form alive, and `batch` keeps the frame.
            wire = (<Frame>batch[i]).wire(self.batch)
            vector[i].iov_base = PyBytes_AS_STRING(wire)
            vector[i].iov_len = PyBytes_GET_SIZE(wire)
        sent = writev(self.fd, vector, <int>n)
        self.point.writes += 1
        if sent < 0:
            if errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
                self.abort()
                return 0
            sent = 0
        for i in range(n):
            size = <Py_ssize_t>vector[i].iov_len
            frame = <Frame>batch[i]
            if sent < size:
                # The cut frame, or the first that did not fit at all: only this one goes to the transport.
                self._hand_over(frame.wire(self.batch), sent)
                self._written(frame)
                whole += 1
                break
            sent -= size
            self._written(frame)
            whole += 1
        rest = [self.first] + rest
        rest = rest[whole:]
        self.first = <Frame>rest[0] if rest else None
        self.rest = rest[1:] if len(rest) > 1 else None
        return 0

    cdef int _written(self, Frame frame) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame.wire(self.batch))
        self.point.messages_out += frame.count
        self.point.bytes_out += size
        if not frame.exempt:
            self.queued_messages -= frame.count
            self.queued_bytes -= size
        return 0

    cdef int _hand_over(self, bytes wire, Py_ssize_t sent) except -1:
        """Give the unsent end of `wire` to the transport; blocked until it is through."""
        transport = self.transport.underlying_transport
        transport.write(wire[sent:])
        if transport.get_write_buffer_size() > 0 and not self.is_lost:
            self.is_blocked = True
            self.blocked_since = monotonic()
            self.point.blocked.add(self)
        return 0

    cdef int _cut_off(self) except -1:
        """Too slow: forget what waits, and say 4008 behind the frame that is under way."""
        if self.is_closing:
            # It does not even take the Close that we owe it.
            self.abort()
            return 0
        self.point.too_slow += 1
        self._drop_queue()
        self.is_closing = True
        self.transport.underlying_transport.write(
            control_frame(WSMsgType.CLOSE, (<object>TOO_SLOW).to_bytes(2, "big") + b"too slow")
        )
        self.deadline = monotonic() + CLOSE_TIMEOUT
        self.point.closing.add(self)
        return 0

    cdef int _finish(self) except -1:
        if not self.is_lost:
            self.deadline = monotonic() + CLOSE_TIMEOUT
            self.point.closing.add(self)
        return 0

    cdef int _drop_queue(self) except -1:
        self.first = None
        self.rest = None
        self.queued_bytes = 0
        self.queued_messages = 0
        return 0
