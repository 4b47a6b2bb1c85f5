"""One client socket: the message layer above picows' frames, and the only place that writes to a socket.

In:   the gate judges, picows unmasks; here control frames are answered, the closing handshake is led to its end, and
      messages (ext/message joins fragments) go to `session.on_message`.
Out:  `queue` takes references to frames, `FlushPoint.flush` writes at the end of the loop turn what each connection
      has waiting, in one system call straight on the socket.

The rule of back-pressure. As long as the socket takes everything, the transport's own buffer is empty and bytes go
past it. On a short write the rest of that *one* frame goes to the transport, which waits for the socket; until it says
`resume_writing` nothing else is written and frames wait here as references. So a slow member costs a list of
pointers, and is cut off with 4008 when bytes, messages or age pass their bound. Rooms may ask for less: what waits of
a `Feed` is left out first, all that follows of it too until the queue is empty, and then the connection is told by one
`gap` (behind it, where the feed conflates, the newest message). Writing past a transport that still
holds bytes would tear a frame in two: `is_blocked` is that invariant.

Under TLS the socket carries records that only the transport can make: what waits goes to it as one buffer of at most
TLS_WRITE bytes (a TLS record a frame would cost 29 bytes and a cipher's set-up each), and the same rule holds from
there: what the transport could not pass on blocks the connection, and counts against its bound in bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from tuskws_fast_ext.deflate cimport Compression
from tuskws_fast_ext.frame cimport Feed, Frame, control_frame
from tuskws_fast_ext.message cimport MessageReader, Verdict
from tuskws_fast_ext.pace cimport SHARE_US, Pace, charge, exact_monotonic, is_over, monotonic
from tuskws_fast_ext.pings cimport Caller
from tuskws_fast_ext.utf8 cimport Utf8State, utf8_complete, utf8_feed, utf8_start

cdef extern from "debug.h" nogil:
    bint TUSKWS_COUNTED
    long tuskws_live
    void tuskws_count(long n)

cdef extern from "uring.h" nogil:
    enum:
        URING_BATCH
        URING_UNSENT
    int uring_open(uring* ring)
    void uring_close(uring* ring)
    void uring_send(uring* ring, int fd, const void* data, size_t size)
    void uring_submit(uring* ring, int* results)

cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    static void give_memory_back(void) { malloc_trim(0); }
    #else
    static void give_memory_back(void) {}
    #endif
    """
    void give_memory_back() nogil

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SOL_SOCKET
        SO_LINGER
        SO_RCVBUF
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

cdef enum:
    # Frames of one writev. More gain nothing: the socket buffer is full long before.
    IOV_MAX = 64
    # Bytes of one write under TLS: two full records. Twice as much gained nothing (measured).
    TLS_WRITE = 32 * 1024
    # Connections with one frame each from which on their sends go to the kernel together (measured: from 4 on it gains).
    TOGETHER_MIN = 8
    # Seconds a peer has to take what is on its way and to end its half of the closing handshake.
    CLOSE_TIMEOUT = 5
    # Bytes of a receive buffer from which everything is dropped (the kernel takes twice as much).
    DISCARD_WINDOW = 16384
    # Seconds' worth of pings that a peer may send at once before it is closed; the first is answered in full.
    PING_PATIENCE = 8

cdef enum:
    OP_TEXT = 0x1
    OP_CLOSE = 0x8
    OP_PING = 0x9
    OP_PONG = 0xA

# Close codes (RFC 6455 §7.4.1 and protocol §5); the table with their meaning is protocol/codes.py.
cdef enum:
    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NO_CODE = 1005
    ABNORMAL = 1006
    BAD_UTF8 = 1007
    POLICY = 1008
    TOO_BIG = 1009
    TOO_SLOW = 4008


cdef int close_code_of(const unsigned char* payload, Py_ssize_t size) noexcept nogil:
    """The code of a Close (1005: it has none). Negative: no Close may have this payload (RFC 6455 §7.4), and the code to
    answer with; a peer may well close with 1002 or 1007 itself."""
    cdef:
        int code
        Utf8State state
    if size == 0:
        return NO_CODE
    if size == 1:
        return -PROTOCOL_ERROR
    code = payload[0] << 8 | payload[1]
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        return -PROTOCOL_ERROR
    utf8_start(&state)
    if not utf8_feed(&state, payload + 2, size - 2) or not utf8_complete(&state):
        return -BAD_UTF8
    return code


cpdef Py_ssize_t waiting_bytes(Connection connection):
    return connection.queued_bytes + connection.held_bytes


def live_objects():
    """Connections that exist; None in a build that does not count them (TUSKWS_DEBUG=1 does)."""
    return tuskws_live if TUSKWS_COUNTED else None


cdef class FlushPoint:
    """Where a worker's output leaves: the connections that have something queued, written once a loop turn.

    `flush` is called by whoever ends a turn's work (the ring's drain does); a queue that fills outside of one
    schedules it by `call_soon`, which runs after all reads of the turn, so replies to them leave together.
    """

    def __cinit__(self):
        self.ring.fd = -1

    def __init__(self, call_soon, Py_ssize_t queue_bytes_max, Py_ssize_t queue_messages_max, Pace pace=None):
        self.call_soon = call_soon
        self.pace = Pace() if pace is None else pace
        self.owing = set()
        self.dirty = []
        self.blocked = set()
        self.closing = set()
        self._late = []
        self.queue_bytes_max = queue_bytes_max
        self.queue_messages_max = queue_messages_max

    def __dealloc__(self):
        uring_close(&self.ring)

    def send_together(self):
        """Have io_uring carry out the sends of a fan-out. 0, or the errno of why this kernel or sandbox does not."""
        return 0 if self.ring.fd >= 0 else uring_open(&self.ring)

    cdef int mark(self, Connection connection) except -1:
        self.dirty.append(connection)
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.flush)
        return 0

    def flush(self):
        """Write what every marked connection has waiting. What fails costs the connection it fails for."""
        cdef:
            list dirty = self.dirty
            Connection connection
        self.scheduled = False
        if not dirty:
            return
        self.dirty = []
        if self.ring.fd >= 0 and len(dirty) >= TOGETHER_MIN:
            self._flush_together(dirty)
            return
        for connection in dirty:
            connection.is_dirty = False
            try:
                if not connection.is_blocked:
                    connection.write_queue()
            except Exception as error:
                connection.break_off(error)

    cdef int _flush_together(self, list dirty) except -1:
        """As `flush`: who has one frame waiting shares a system call with others, the rest write by themselves."""
        cdef:
            Connection connection
            PyObject* together[URING_BATCH]     # borrowed: `dirty` holds them
            int results[URING_BATCH]
            int i, n = 0
            bytes wire
        for connection in dirty:
            connection.is_dirty = False
            if connection.is_blocked:
                continue
            try:
                # The ring may have failed in the batch before.
                if (
                    connection.rest is not None
                    or connection.first is None
                    or connection.is_tls
                    or connection.is_lost
                    or self.ring.fd < 0
                ):
                    connection.write_queue()
                    continue
                wire = connection.first.wire(connection.batch, connection.deflater)
            except Exception as error:
                connection.break_off(error)
                continue
            uring_send(&self.ring, connection.fd, PyBytes_AS_STRING(wire), PyBytes_GET_SIZE(wire))
            together[n] = <PyObject*>connection
            n += 1
            if n == URING_BATCH:
                self._submit(together, results, n)
                n = 0
        if n:
            self._submit(together, results, n)
        return 0

    cdef int _submit(self, PyObject** together, int* results, int n) except -1:
        cdef:
            Connection connection
            int i
        uring_submit(&self.ring, results)
        self.writes += 1
        for i in range(n):
            connection = <Connection>together[i]
            try:
                connection.sent_first(results[i])
            except Exception as error:
                connection.break_off(error)
        return 0

    def expire(self, double now, double age_max_s):
        """Once a second: cut off who made no progress for `age_max_s`, and who owes its half of a closing handshake.
        Pongs that had to wait are sent to those who read."""
        cdef Connection connection
        for connection in list(self.owing):
            if not connection.is_blocked:
                connection._pay_pong()
        self._looked_at = now
        self._age_max_s = age_max_s
        self._late = [
            each
            for each in self.blocked | self.closing
            if self._is_stuck(<Connection>each) or self._owes_close(<Connection>each)
        ]
        self._end_late()

    cdef bint _is_stuck(self, Connection connection) except -1:
        return connection in self.blocked and self._looked_at - connection.blocked_since > self._age_max_s

    cdef bint _owes_close(self, Connection connection) except -1:
        return connection in self.closing and self._looked_at > connection.deadline

    def _end_late(self):
        """For a while; an attack leaves a thousand of them, which take 10 ms. The others have their turn when the loop
        comes round."""
        cdef:
            Connection connection
            double until = exact_monotonic() + SHARE_US * 1e-6
        while self._late:
            connection = self._late.pop()
            # It may have moved on meanwhile.
            if self._owes_close(connection):
                connection.abort()
            elif self._is_stuck(connection):
                connection._be_slow(True)
            if exact_monotonic() >= until:
                break
        if self._late:
            self.call_soon(self._end_late)

    def shed(self, Py_ssize_t size):
        """Cut off connections that do not read, who has most waiting first, until `size` bytes are let go; how many
        connections that were."""
        cdef:
            Connection connection
            int count = 0
        for connection in sorted(self.blocked, key=waiting_bytes, reverse=True):
            if size <= 0:
                break
            size -= waiting_bytes(connection)
            connection._cut_off()
            count += 1
        if count:
            # glibc keeps what was freed below the top of its heap: 70 of 70 MiB (measured).
            give_memory_back()
        return count


cdef class Connection:
    """`session` gets `on_open()`, `on_message(payload, text)`, `on_pong()`, `on_closed(code)` and, when one of these
    raises, `on_failure(exception)`. `code` is the peer's close code, 1005 for none given, 1006 for no Close at all.
    """

    def __cinit__(self):
        tuskws_count(1)

    def __dealloc__(self):
        tuskws_count(-1)

    def __init__(
        self,
        FlushPoint point not None,
        session,
        uint32_t message_max,
        uint32_t fragments_max,
        bint check_text=False,
        Compression compression=None,
    ):
        self.point = point
        self.session = session
        self.message_max = message_max
        self.fragments_max = fragments_max
        self.check_text = check_text
        self.compression = compression
        if compression is not None and compression.is_shared:
            self.deflater = compression.deflater
        self.peer_code = ABNORMAL
        self.fd = -1

    # -- the socket's life -----------------------------------------------------------------------------------------

    def open(self, transport not None, int fd, bytes response not None, bint is_tls=False):
        """The upgrade is accepted: `response` goes out first, and what the session says in the same write."""
        self.transport = transport
        self.fd = fd
        self.is_tls = is_tls
        self.is_blocked = transport.get_write_buffer_size() > 0
        self.last_input = monotonic()
        self.queue(Frame.raw(response))
        try:
            self.session.on_open()
        except Exception as error:
            self.session.on_failure(error)

    cpdef lost(self):
        self.is_lost = True
        self.is_closing = True
        self._drop_queue()
        self.reader = None
        self.resting = None
        self.point.blocked.discard(self)
        self.point.closing.discard(self)
        self.point.owing.discard(self)
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
        self.held_bytes = 0
        self.blocked_since = monotonic()
        self.point.blocked.discard(self)
        if self.pong is not None:
            self._pay_pong()
        self.write_queue()

    # -- from the gate -----------------------------------------------------------------------------------------------

    cdef int take_frame(
        self, unsigned char opcode, bint fin, unsigned char rsv, const unsigned char* data, Py_ssize_t size
    ) except -1:
        """One whole frame with a legal header, unmasked. `data` is valid during the call only."""
        self.last_input = monotonic()
        if self.is_closing:
            return 0
        try:
            if opcode == OP_PING:
                self._answer_ping(<const char*>data, size)
            elif opcode == OP_PONG:
                self.session.on_pong()
            elif fin and opcode and not rsv and not self.check_text and self.reader is None:
                self.point.bytes_in += size
                if self.point.pings is None or not self._take_ping(<const char*>data, size):
                    self._deliver(PyBytes_FromStringAndSize(<const char*>data, size), opcode == OP_TEXT)
            else:
                self._take_part(opcode, fin, rsv, data, size)
        except Exception as error:
            self.session.on_failure(error)
        return 0

    cdef int _answer_ping(self, const char* data, Py_ssize_t size) except -1:
        cdef:
            Pace pace = self.point.pace
            double taken = charge(&self.pings_full_at, self.last_input, 1.0 / pace.pings) if pace.pings else 0.0
        if taken > PING_PATIENCE:
            pace.pings_closed += 1
            return self.reject(POLICY, b"too many pings")
        pong = Frame.control(OP_PONG, data[:size])
        if not is_over(taken) and not self.is_blocked:
            return self.queue(pong)
        pace.pongs_spared += self.pong is not None
        self.pong = pong
        self.point.owing.add(self)
        return 0

    cdef int _pay_pong(self) except -1:
        pong, self.pong = self.pong, None
        self.point.owing.discard(self)
        return self.queue(pong)

    cdef bint _take_ping(self, const char* data, Py_ssize_t size) except -1:
        """Answer the message if it is a plain `ping` (ext/pings)."""
        cdef Frame pong
        if not isinstance(self.session, Caller):
            return False
        pong = self.point.pings.answer(<Caller>self.session, data, size, self.last_input)
        if pong is None:
            return False
        self.point.messages_in += 1
        self.queue(pong)
        return True

    cdef int _take_part(
        self, unsigned char opcode, bint fin, unsigned char rsv, const unsigned char* data, Py_ssize_t size
    ) except -1:
        cdef int verdict
        if self.reader is None:
            self.reader = MessageReader(
                self.message_max, self.fragments_max, self.check_text, self.compression is not None
            )
        verdict = self.reader.take(opcode, fin, rsv & 4, rsv & 3, data, size)
        if verdict == Verdict.WHOLE:
            payload, text, compressed = self.reader.payload, self.reader.opcode == OP_TEXT, self.reader.compressed
            # Most clients never fragment, and those that do rarely: the next message is a plain one again.
            self.reader = None
            if compressed:
                return self._inflate(payload, text)
            self.point.bytes_in += PyBytes_GET_SIZE(payload)
            return self._deliver(payload, text)
        if verdict != Verdict.MORE:
            self.fail(verdict, self.reader.reason)
        return 0

    cdef int _inflate(self, bytes compressed, bint text) except -1:
        """Deliver a compressed message, or close: the limit of a message holds for both of its forms."""
        cdef:
            Compression compression = self.compression
            bytes payload
            Utf8State state
        self.point.bytes_in += PyBytes_GET_SIZE(compressed)
        payload = compression.inflate(
            PyBytes_AS_STRING(compressed), PyBytes_GET_SIZE(compressed), self.message_max, self.last_input
        )
        if payload is None:
            if compression.failure == POLICY:
                self.close(POLICY, compression.reason)
            else:
                self.fail(compression.failure, compression.reason)
            return 0
        if text and self.check_text:
            utf8_start(&state)
            if (
                not utf8_feed(&state, <const unsigned char*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
                or not utf8_complete(&state)
            ):
                self.fail(BAD_UTF8, b"invalid UTF-8")
                return 0
        return self._deliver(payload, text)

    cdef int _deliver(self, bytes payload, bint text) except -1:
        self.point.messages_in += 1
        self.session.on_message(payload, text)
        return 0

    cdef int fault(self, int code) except -1:
        """The peer sent a header that no frame may have."""
        self.fail(code, b"message too big" if code == TOO_BIG else b"illegal frame header")
        return 0

    cdef int peer_close(self, const unsigned char* payload, Py_ssize_t size) except -1:
        """Answer with the peer's own code (RFC 6455 §5.5.1) and end; or, if ours went first, just end."""
        cdef int code = close_code_of(payload, size)
        self.last_input = monotonic()
        self.peer_code = abs(code)
        if code < 0:
            self.fail(-code, b"illegal close")
        self.peer_closed = True
        if not self.is_closing:
            self.queue(Frame.control(OP_CLOSE, (<const char*>payload)[:2] if size else b""))
            self.is_closing = True
            self._finish()
        elif self.first is None:
            self.transport.close()
        return 0

    def fail(self, int code, bytes reason not None):
        """The peer broke the protocol: count it, and `reject`."""
        self.point.protocol_errors += 1
        self.reject(code, reason)

    cdef int reject(self, int code, bytes reason) except -1:
        """Close with `code`, and end our half of the socket behind that.

        Nothing the peer still sends is looked at (RFC 6455 §7.1.7), so its own Close is not waited for. Only our half
        ends: closing a socket that has unread bytes resets it, and a reset may cost the peer the Close with its code.
        """
        cdef int window = DISCARD_WINDOW
        self.close(code, reason)
        self.is_failed = True
        if self.fd >= 0 and not self.is_lost:
            # One read of a flood that is only dropped takes 0.2 ms: the kernel lets the sender send on from within it.
            setsockopt(self.fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof(window))
        if self.first is None:
            self._end_output()
        return 0

    def trust(self):
        """The client has authenticated: it may send as much compressed as anybody."""
        if self.compression is not None:
            self.compression.trust()

    def set_batch(self, bint batch):
        """Whether this client takes `batch` messages. What waits already is counted anew in its other form."""
        self.batch = batch
        self.queued_bytes = 0
        for frame in ([] if self.first is None else [self.first, *(self.rest or [])]):
            if not (<Frame>frame).exempt:
                self.queued_bytes += PyBytes_GET_SIZE((<Frame>frame).wire(batch, self.deflater))

    # -- out -------------------------------------------------------------------------------------------------------

    def send(self, Frame frame not None):
        """Queue `frame`; it leaves at the end of the loop turn. Nothing is sent once the connection is closing."""
        self.queue(frame)

    def close(self, int code, bytes reason=b""):
        """Send what is queued, then a Close; the socket ends when the peer answers, or after 5 s."""
        if self.is_closing:
            return
        self.queue(Frame.control(OP_CLOSE, code.to_bytes(2, "big") + reason[:123]))
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
            self.transport.abort()

    def waiting(self):
        """The bytes queued here and not written yet: for tests and for looking into a live process."""
        frames = [] if self.first is None else [self.first, *(self.rest or [])]
        return b"".join([(<Frame>frame).wire(self.batch, self.deflater) for frame in frames])

    def pause_reading(self):
        """Take nothing more from the peer, not even of what was read."""
        self.is_paused = True
        self.transport.pause_reading()

    def resume_reading(self):
        self.is_paused = False
        if self.is_lost or self.transport.is_closing():
            return
        if self.resting is not None:
            self.resting.go_on()
        else:
            self.transport.resume_reading()

    cdef int cut_short(self, gate) except -1:
        """Nothing is read until the gate has been through what it holds back."""
        self.resting = gate
        self.transport.pause_reading()
        return 0

    cdef int caught_up(self) except -1:
        self.resting = None
        if not self.is_paused and not self.is_lost and not self.transport.is_closing():
            self.transport.resume_reading()
        return 0

    cdef int queue(self, Frame frame) except -1:
        if self.is_closing:
            return 0
        if frame.feed is not None and self.skips is not None and self._skips(frame):
            return 0
        # What may be left out goes plain to who has a compression context of its own: it would be part of that context.
        if self.compression is not None and self.deflater is None and frame.feed is None:
            frame = frame.for_one(self.batch, self.compression.deflater)
        if self.first is None:
            self.first = frame
        elif self.rest is None:
            self.rest = [frame]
        else:
            self.rest.append(frame)
        if not frame.exempt:
            self.queued_messages += frame.count
            self.queued_bytes += PyBytes_GET_SIZE(frame.wire(self.batch, self.deflater))
        if self.is_blocked:
            if self._is_over():
                self._be_slow(False)
        elif not self.is_dirty:
            self.is_dirty = True
            self.point.mark(self)
        return 0

    cdef inline bint _is_over(self) noexcept:
        return (
            self.queued_bytes + self.held_bytes > self.point.queue_bytes_max
            or self.queued_messages > self.point.queue_messages_max
        )

    cdef int write_queue(self) except -1:
        """Write until the queue is empty or the socket is full. Call only while not blocked."""
        cdef:
            bytes wire
            Py_ssize_t sent
        if self.is_lost:
            return self._drop_queue()
        while self.first is not None:
            if self.is_tls:
                self._write_tls()
            elif self.rest is not None:
                self._write_many()
            else:
                wire = self.first.wire(self.batch, self.deflater)
                sent = c_send(self.fd, PyBytes_AS_STRING(wire), PyBytes_GET_SIZE(wire), MSG_DONTWAIT | MSG_NOSIGNAL)
                self.point.writes += 1
                if not self._took_first(wire, sent if sent >= 0 else -errno):
                    return 0
            if self.is_blocked:
                break
        return self._after_write()

    cdef int sent_first(self, Py_ssize_t sent) except -1:
        """The first frame, the only one, was given to the kernel by the flush point: bytes taken, -errno, or unsent."""
        if sent == URING_UNSENT:
            return self.write_queue()
        if self._took_first(self.first.wire(self.batch, self.deflater), sent):
            self._after_write()
        return 0

    cdef bint _took_first(self, bytes wire, Py_ssize_t sent) except -1:
        """Account for one send of the first frame. False: the socket is broken, and aborted."""
        if sent < PyBytes_GET_SIZE(wire):
            if sent < 0 and sent != -EAGAIN and sent != -EINTR and sent != -ENOBUFS and sent != -ENOMEM:
                self.abort()
                return False
            self._hand_over(wire, sent if sent > 0 else 0)
        self._written(self.first)
        self.first = None
        return True

    cdef int break_off(self, error) except -1:
        """Writing to it has failed for a reason of ours."""
        if self.session is not None:
            self.session.on_failure(error)
        self.abort()
        return 0

    cdef int _after_write(self) except -1:
        if self.is_blocked:
            if self._is_over():
                return self._be_slow(False)
        elif self.skips is not None and self.first is None:
            self._tell_skips()
        if self.first is None:
            if self.peer_closed:
                self.transport.close()
            elif self.is_failed:
                self._end_output()
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
            wire = (<Frame>batch[i]).wire(self.batch, self.deflater)
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
                self._hand_over(frame.wire(self.batch, self.deflater), sent)
                self._written(frame)
                whole += 1
                break
            sent -= size
            self._written(frame)
            whole += 1
        return self._forget(whole)

    cdef int _write_tls(self) except -1:
        """One buffer of whole frames for the transport, which encrypts it."""
        cdef:
            list frames = [self.first] if self.rest is None else [self.first, *self.rest]
            list parts = []
            Frame frame
            bytes wire
            Py_ssize_t size = 0
        transport = self.transport
        for frame in frames:
            wire = frame.wire(self.batch, self.deflater)
            size += PyBytes_GET_SIZE(wire)
            if parts and size > TLS_WRITE:
                break
            parts.append(wire)
        for frame in frames[: len(parts)]:
            self._written(frame)
        self._forget(len(parts))
        transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
        self.point.writes += 1
        self._look_at(transport)
        return 0

    cdef int _forget(self, Py_ssize_t count) except -1:
        """Take the first `count` frames out of the queue."""
        cdef list left = [self.first] if self.rest is None else [self.first, *self.rest]
        left = left[count:]
        self.first = <Frame>left[0] if left else None
        self.rest = left[1:] if len(left) > 1 else None
        return 0

    cdef int _written(self, Frame frame) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame.wire(self.batch, self.deflater))
        self.point.messages_out += frame.count
        self.point.bytes_out += size
        if not frame.exempt:
            self.queued_messages -= frame.count
            self.queued_bytes -= size
        return 0

    cdef int _hand_over(self, bytes wire, Py_ssize_t sent) except -1:
        """Give the unsent end of `wire` to the transport; blocked until it is through."""
        transport = self.transport
        transport.write(wire[sent:])
        self._look_at(transport)
        return 0

    cdef int _look_at(self, transport) except -1:
        """Blocked while the transport holds bytes. Under TLS these were several messages, and count as waiting."""
        cdef Py_ssize_t held = transport.get_write_buffer_size()
        if held > 0 and not self.is_lost:
            self.is_blocked = True
            self.held_bytes = held if self.is_tls else 0
            self.blocked_since = monotonic()
            self.point.blocked.add(self)
        return 0

    cdef int _be_slow(self, bint aged) except -1:
        """A bound is passed. Leave out what may be left out; if that was not enough, cut off. `aged`: the bound in age
        leaves nothing to wait but what the transport holds."""
        self._shed()
        if self.first is not None if aged else self._is_over():
            self._cut_off()
        elif aged and self.skips is None:
            self._cut_off()
        return 0

    cdef int _shed(self) except -1:
        """Take the messages of feeds out of the queue."""
        cdef:
            list waiting, left = []
            Frame frame
        if self.first is None or self.is_closing:
            return 0
        waiting = [self.first] if self.rest is None else [self.first, *self.rest]
        for frame in waiting:
            if frame.feed is None or not frame.feed.active:
                left.append(frame)
                continue
            self.queued_messages -= frame.count
            self.queued_bytes -= PyBytes_GET_SIZE(frame.wire(self.batch, self.deflater))
            if not self._skips(frame):
                self._skip(frame)
        self.first = <Frame>left[0] if left else None
        self.rest = left[1:] if len(left) > 1 else None
        return 0

    cdef bint _skips(self, Frame frame) except -1:
        """Whether the frame is left out because others of its room were."""
        cdef Skip skip
        for skip in self.skips or ():
            if skip.feed is frame.feed:
                skip.last = frame.last_offset
                skip.newest = frame.newest() if skip.feed.conflate else None
                self.point.left_out += frame.count
                return True
        return False

    cdef int _skip(self, Frame frame) except -1:
        cdef Skip skip = Skip.__new__(Skip)
        skip.feed = frame.feed
        skip.first = frame.first_offset
        if self.skips is None:
            self.skips = []
        self.skips.append(skip)
        self._skips(frame)
        return 0

    cdef int _tell_skips(self) except -1:
        """It has caught up: say what it was not sent, and go on."""
        cdef:
            list skips = self.skips
            Skip skip
        self.skips = None
        if self.is_closing:
            # It comes back with the position of what it has, and not behind the gap.
            return 0
        for skip in skips:
            self._tell(skip)
        return 0

    cdef int _tell(self, Skip skip) except -1:
        cdef:
            Frame newest = skip.newest
            unsigned long long last = skip.last if newest is None else skip.last - 1
        if skip.first <= last:
            self.point.gaps += 1
            self.queue(Frame([b'%b,"from":%d,"to":%d}' % (skip.feed.head, skip.first, last)]))
        if newest is not None:
            self.point.left_out -= 1
            self.queue(newest)
        return 0

    def end_skip(self, Feed feed not None, bint told):
        """No more of the feed is left out. `told`: say now what was, before what comes next of this room."""
        cdef Skip skip
        for skip in self.skips or ():
            if skip.feed is feed:
                self.skips = [each for each in self.skips if each is not skip] or None
                if told:
                    self._tell(skip)
                return

    cdef int _cut_off(self) except -1:
        """Too slow: forget what waits, and say 4008 behind the frame that is under way."""
        if self.is_closing:
            # It does not even take the Close that we owe it.
            self.abort()
            return 0
        self.point.too_slow += 1
        self._drop_queue()
        self.is_closing = True
        self.transport.write(
            control_frame(OP_CLOSE, (<object>TOO_SLOW).to_bytes(2, "big") + b"too slow")
        )
        return self._finish()

    cdef int _end_output(self) except -1:
        """Say by the socket's end that nothing more comes, behind what the transport still holds."""
        transport = self.transport
        if not self.is_lost and not transport.is_closing():
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
        return 0

    cdef int _finish(self) except -1:
        if not self.is_lost:
            self.deadline = monotonic() + CLOSE_TIMEOUT
            self.point.closing.add(self)
        return 0

    cdef int _drop_queue(self) except -1:
        self.first = None
        self.rest = None
        self.skips = None
        self.queued_bytes = 0
        self.queued_messages = 0
        return 0
