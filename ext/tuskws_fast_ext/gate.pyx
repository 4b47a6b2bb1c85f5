"""In front of picows: every byte of a client passes here, and only whole, legal frames go on.

picows parses one frame ahead and answers what it dislikes by itself, at once. So a good message whose successor in the
same segment is bad was never answered, a second Close hid the first (Autobahn 4.1.3-5, 4.2.3-5, 7.1.2), and its Close
overtook what we had queued. It also keeps the largest read buffer it ever needed. Here each header is judged first:

    a run of whole small frames   ─▶ picows, as it came: unmasked in place, no copy kept
    more than a slice of them     ─▶ the rest waits until others had their turn; nothing is read meanwhile
    a frame cut by the read's end ─▶ held until it is whole
    a frame longer than picows' buffer ─▶ held, unmasked here, handed to the connection: the memory goes with it
    a Close, or an illegal header ─▶ the connection; nothing behind it is looked at
    more than a second's worth (ext/pace) ─▶ 1008, before a frame of it is looked at

What a peer sends after it broke the protocol is read and dropped, so that it gets our Close and the socket ends in
order; but not for ever: beyond DISCARD_MAX it is not read any more, and the closing handshake's deadline resets it.

Connections that hold nothing share one read buffer a worker: uvloop reads and calls back in one go.

Slices. Thirty-two kilobytes of small commands are ten milliseconds of work, and all others would wait for it. So a read
is looked at slice by slice; when the turn has lasted its time, what is left rests, and `Inlet.go_on` looks at it behind
those who wait for the first time, a slice a gate in turn.
"""

from collections import deque

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from tuskws_fast_ext.connection cimport Connection
from tuskws_fast_ext.pace cimport SHARE_US, charge, exact_monotonic, is_over, monotonic
from tuskws_fast_ext.parser cimport FrameParser

cdef enum:
    OP_CLOSE = 0x8
    CONTROL_BIT = 0x8
    CONTROL_PAYLOAD_MAX = 125
    PROTOCOL_ERROR = 1002
    POLICY = 1008
    TOO_BIG = 1009
    # The largest message that an honest client may be writing when it broke a rule; many read nothing before they have
    # written it. Reading more than that is only work.
    DISCARD_MAX = 1 << 24
    # What is looked at in one go at most. Of publications so many: a publisher's window (64 is the usual one) stays in
    # one piece, for it leaves for the broker, and for each member, as one.
    SLICE_FRAMES = 64
    SLICE_BYTES = 1 << 14
    # Of all else, refusals among it, as many of these as fit into SLICE_US; 64 of them would be up to a millisecond. (If
    # the clock ended publications too, it cut windows in two, and a third off what a large room is sent.)
    RUN_FRAMES = 8
    SLICE_US = 50


cdef int parse_header(
    const unsigned char* data, Py_ssize_t size, uint32_t frame_max, Header* header
) noexcept nogil:
    """Judge the frame header at `data` (RFC 6455 §5.2). 1: it is complete (or its fault is plain already), 0: more bytes
    are needed."""
    cdef:
        unsigned int length
        uint64_t long_length
        int i
    header.fault = 0
    if size < 2:
        return 0
    header.fin = data[0] >> 7
    header.rsv = (data[0] >> 4) & 7
    header.opcode = data[0] & 0x0F
    length = data[1] & 0x7F
    if header.opcode > 10 or 2 < header.opcode < 8:
        header.fault = PROTOCOL_ERROR
    elif header.opcode & CONTROL_BIT and (not header.fin or length > CONTROL_PAYLOAD_MAX or header.rsv):
        # §5.5: control frames are short and never fragmented; no extension gives their reserved bits a meaning.
        header.fault = PROTOCOL_ERROR
    elif not data[1] >> 7:
        # §5.1: a server MUST close when it gets a frame that is not masked.
        header.fault = PROTOCOL_ERROR
    if header.fault:
        return 1
    if length < 126:
        header.size = 6
        header.payload = length
    elif length == 126:
        header.size = 8
        if size < 4:
            return 0
        header.payload = data[2] << 8 | data[3]
        if header.payload < 126:
            header.fault = PROTOCOL_ERROR
    else:
        header.size = HEADER_MAX
        if size < 10:
            return 0
        long_length = 0
        for i in range(8):
            long_length = long_length << 8 | data[2 + i]
        if long_length >> 63 or long_length < 65536:
            header.fault = PROTOCOL_ERROR
        elif long_length > frame_max:
            header.fault = TOO_BIG
        else:
            header.payload = <Py_ssize_t>long_length
    if not header.fault and header.payload > frame_max:
        header.fault = TOO_BIG
    return 1 if header.fault or size >= header.size else 0


cdef Py_ssize_t count_frames(const unsigned char* data, Py_ssize_t size, uint32_t frame_max) noexcept nogil:
    """Whole legal frames at `data`, up to a Close."""
    cdef:
        Header header
        Py_ssize_t at = 0
        Py_ssize_t count = 0
    while parse_header(data + at, size - at, frame_max, &header) and not header.fault:
        if header.size + header.payload > size - at:
            break
        at += header.size + header.payload
        count += 1
        if header.opcode == OP_CLOSE:
            break
    return count


cdef void unmask(unsigned char* data, Py_ssize_t size, const unsigned char* mask) noexcept nogil:
    cdef:
        uint32_t mask32
        uint64_t mask64, word
        Py_ssize_t i = 0
    memcpy(&mask32, mask, 4)
    mask64 = <uint64_t>mask32 << 32 | mask32
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        word ^= mask64
        memcpy(data + i, &word, 8)
        i += 8
    while i < size:
        data[i] ^= mask[i & 3]
        i += 1


cdef class Inlet:
    """What all connections of a worker read by: one buffer, in which nothing stays between two callbacks, and the line
    of those who sent more than a turn has time for. `call_soon` is the loop's: what it calls runs behind new events."""

    def __init__(self, Py_ssize_t size, call_soon not None):
        self.memory = bytearray(size)
        self.view = memoryview(self.memory)
        self._call_soon = call_soon
        self._resting = deque()

    cdef int rest(self, Gate gate) except -1:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self.go_on)
        gate._is_in_line = True
        self._resting.append(gate)
        return 0

    def go_on(self):
        """A slice of each gate in line, round and round, until this turn's share is over."""
        cdef:
            Gate gate
            object resting = self._resting
            double until = exact_monotonic() + SHARE_US * 1e-6
        while resting:
            gate = resting.popleft()
            try:
                gate._go_on()
            except Exception as error:
                gate._connection.break_off(error)
            if exact_monotonic() >= until:
                break
        self._is_scheduled = len(resting) > 0
        if self._is_scheduled:
            self._call_soon(self.go_on)


cdef class Gate:
    """The transport's protocol after the upgrade."""

    def __init__(
        self,
        FrameParser parser not None,
        Connection connection not None,
        Inlet inlet not None,
        uint32_t frame_max,
    ):
        self._parser = parser
        self._connection = connection
        self._inlet = inlet
        self._frame_max = frame_max
        self._pace = connection.point.pace

    # -- what the transport calls ------------------------------------------------------------------------------------

    def is_buffered_protocol(self):
        """What aiofastnet, the transport under TLS, asks in place of a base class."""
        return True

    def get_buffer(self, sizehint):
        return self._inlet.view

    def buffer_updated(self, Py_ssize_t size):
        self._pass(<const unsigned char*>PyByteArray_AS_STRING(self._inlet.memory), size)

    def feed(self, bytes data not None):
        """Bytes that came by another way: behind the upgrade request, or from a test."""
        # A copy: frames are unmasked in place, and `data` is its owner's.
        cdef bytearray memory = bytearray(data)
        self._pass(<const unsigned char*>PyByteArray_AS_STRING(memory), PyByteArray_GET_SIZE(memory))

    def eof_received(self):
        """A peer that stops sending has nothing to say in a closing handshake: the transport closes."""
        return False

    def connection_lost(self, error):
        self.lost()

    cdef int lost(self) except -1:
        self._ended = True
        self._held = None
        self._rest = None
        self._connection.lost()
        return 0

    def pause_writing(self):
        self._connection.pause_writing()

    def resume_writing(self):
        self._connection.resume_writing()

    # -- frames ------------------------------------------------------------------------------------------------------

    cdef int _pass(self, const unsigned char* data, Py_ssize_t size) except -1:
        if self._connection.is_failed:
            return self._discard(size)
        if self._pace.size and is_over(charge(&self._bytes_full_at, monotonic(), size / self._pace.size)):
            self._pace.bytes_closed += 1
            self._ended = True
            return self._connection.reject(POLICY, b"too many bytes")
        self.is_loud = size == PyByteArray_GET_SIZE(self._inlet.memory)
        if self._rest is not None:
            # A transport that had decrypted it already when it was asked to pause.
            self._behind = (self._behind or bytearray()) + (<const char*>data)[:size]
            return 0
        return self._proceed(data, size)

    cdef int _proceed(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t used = 0
        if self._held is not None:
            used = self._continue_held(data, size)
        if not self._ended and used < size:
            self._take(data + used, size - used)
        return 0

    cdef int _take(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Pay for all frames, look at as many as there is time for; the others rest."""
        cdef:
            Py_ssize_t used
            Py_ssize_t count = count_frames(data, size, self._frame_max)
        if count and not self._pay(count):
            return 0
        used = self._scan(data, size)
        if used < size and not self._ended:
            self._rest = bytearray((<const char*>data)[used:size])
            self._rest_at = 0
            self._connection.cut_short(self)
            self._inlet.rests += 1
            self.is_loud = True
            self._inlet.rest(self)
        return 0

    def go_on(self):
        """The connection may be read again; what rests comes first."""
        if not self._is_in_line:
            self._inlet.rest(self)

    cdef int _go_on(self) except -1:
        """One slice of what rests; when nothing is left, the socket is read again."""
        cdef:
            bytearray rest = self._rest
            bytearray behind
            Py_ssize_t at = self._rest_at
        self._is_in_line = False
        if rest is None or self._connection.is_paused:
            return 0
        if not self._connection.is_failed:
            at += self._scan(
                <const unsigned char*>PyByteArray_AS_STRING(rest) + at, PyByteArray_GET_SIZE(rest) - at
            )
            if at < PyByteArray_GET_SIZE(rest) and not self._ended:
                self._rest_at = at
                return self._inlet.rest(self)
        self._rest = None
        behind, self._behind = self._behind, None
        if behind is not None and not self._ended:
            self._proceed(<const unsigned char*>PyByteArray_AS_STRING(behind), PyByteArray_GET_SIZE(behind))
        if self._rest is None:
            self._connection.caught_up()
        return 0

    cdef int _pay(self, Py_ssize_t count) except -1:
        """Charge `count` frames. 0: they are too many, and the connection is closed."""
        if self._pace.frames and is_over(charge(&self._frames_full_at, monotonic(), count / self._pace.frames)):
            self._pace.frames_closed += 1
            self._ended = True
            self._connection.reject(POLICY, b"too many frames")
            return 0
        return 1

    cdef int _discard(self, Py_ssize_t size) except -1:
        self._ended = True
        self._held = None
        self._discarded += size
        if self._discarded > DISCARD_MAX and not self._connection.is_lost:
            self._connection.pause_reading()
        return 0

    cdef Py_ssize_t _continue_held(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Complete the held frame from `data`; returns how many bytes that took."""
        cdef:
            Header header
            Py_ssize_t had, take
            Py_ssize_t used = 0
            bytearray frame
        while True:
            had = PyByteArray_GET_SIZE(self._held)
            if not self._wanted and parse_header(
                <unsigned char*>PyByteArray_AS_STRING(self._held), had, self._frame_max, &header
            ):
                if header.fault:
                    self._ended = True
                    self._connection.fault(header.fault)
                    return size
                self._wanted = header.size + header.payload
            if had == self._wanted:
                break
            # As long as the header is not complete, byte by byte: it says how much more it takes, or that it is wrong.
            take = self._wanted - had if self._wanted else 1
            if take > size - used:
                take = size - used
            if not take:
                return used
            PyByteArray_Resize(self._held, had + take)
            memcpy(PyByteArray_AS_STRING(self._held) + had, data + used, take)
            used += take
        frame = self._held
        self._held = None
        self._wanted = 0
        if self._pay(1):
            parse_header(
                <unsigned char*>PyByteArray_AS_STRING(frame), PyByteArray_GET_SIZE(frame), self._frame_max, &header
            )
            self._single(&header, <unsigned char*>PyByteArray_AS_STRING(frame))
        return used

    cdef Py_ssize_t _scan(self, const unsigned char* data, Py_ssize_t size) except -1:
        """Pass on what is whole in `data`, hold what is not. How many bytes are done with: `size`, or less if there was
        no time for more."""
        cdef:
            Header header
            Py_ssize_t at = 0
            Py_ssize_t run = 0          # start of the run of small frames that nobody has yet
            Py_ssize_t count = 0        # and how many they are
            Py_ssize_t whole
            Py_ssize_t slice_at = 0
            Py_ssize_t slice_frames = 0
            double slice_began = exact_monotonic()
            double now
            bint is_full
        while at < size:
            if not parse_header(data + at, size - at, self._frame_max, &header):
                break
            if header.fault:
                self._parse(data + run, at - run, count)
                if not self._ended:
                    self._ended = True
                    self._connection.fault(header.fault)
                return size
            whole = header.size + header.payload
            if whole > size - at:
                break
            is_full = slice_frames == SLICE_FRAMES or at - slice_at >= SLICE_BYTES
            if is_full or slice_frames and slice_frames % RUN_FRAMES == 0:
                self._connection.is_publishing = False
                self._parse(data + run, at - run, count)
                if self._ended:
                    return size
                run = at
                count = 0
                now = exact_monotonic()
                if is_full or not self._connection.is_publishing and now >= slice_began + SLICE_US * 1e-6:
                    if now >= self._inlet.until:
                        return at
                    slice_at = at
                    slice_frames = 0
                    slice_began = now
            slice_frames += 1
            if whole > PICOWS_FRAME_MAX or header.opcode == OP_CLOSE:
                self._parse(data + run, at - run, count)
                if not self._ended:
                    self._single(&header, <unsigned char*>data + at)
                if self._ended:
                    return size
                run = at + whole
                count = 0
            else:
                count += 1
            at += whole
        self._parse(data + run, at - run, count)
        if at < size and not self._ended:
            self._held = bytearray((<const char*>data)[at:size])
            self._wanted = 0
        return size

    cdef int _single(self, Header* header, unsigned char* frame) except -1:
        """One whole frame by itself, in memory that may be written: unmasked here."""
        cdef unsigned char* payload = frame + header.size
        if header.opcode != OP_CLOSE and header.size + header.payload <= PICOWS_FRAME_MAX:
            return self._parse(frame, header.size + header.payload, 1)
        unmask(payload, header.payload, payload - 4)
        if header.opcode == OP_CLOSE:
            self._ended = True
            self._connection.peer_close(payload, header.payload)
        else:
            self._connection.take_frame(header.opcode, header.fin, header.rsv, payload, header.payload)
        return 0

    cdef int _parse(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t count) except -1:
        if count and not self._connection.is_lost:
            self._inlet.heard_at = monotonic()
            self._parser.parse(self._connection, data, size, count)
        return 0
