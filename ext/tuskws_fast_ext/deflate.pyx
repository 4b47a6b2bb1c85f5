"""permessage-deflate (RFC 7692) over zlib: messages made small and whole again, each within a bound.

    worker         CompressionPool   one deflater and one inflater for everybody, the worker's budget
    connection     Compression       its budget, and contexts of its own where they were agreed

Out. Without context takeover a message compresses to the same bytes for everybody, so the pool's deflater makes them
once and `Frame` keeps them. A deflater *with* takeover belongs to one connection and must see each message exactly
once, in the order of sending: whoever calls `compress` sends what comes out.

In. A message of 1 KB can inflate to 1 MB, and one of no output at all can cost 5 ms a 64 KB (blocks that only define
Huffman tables: 94 ns a byte measured, where ordinary output costs 1.3). So the bound is on *work*: each byte of output
counts 1 and each block beyond the second BLOCK_COST, and it stops the stream before memory is taken or time spent
beyond it. Output goes to a scratch buffer of the worker that grows in steps up to limit + 1 bytes and never past it.

Budgets are a bucket each, kept as the moment when it will be full again (GCRA), holding one second's worth. Half of
the worker's is a reserve for connections that have hardly used their own: who inflates much meets the bound first.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memset

cdef extern from "zlib.h" nogil:
    enum:
        Z_OK
        Z_STREAM_END
        Z_BUF_ERROR
        Z_DATA_ERROR
        Z_NEED_DICT
        Z_SYNC_FLUSH
        Z_BLOCK
        Z_DEFLATED
        Z_DEFAULT_STRATEGY
    int deflateInit2(z_stream* stream, int level, int method, int window_bits, int memory_level, int strategy)
    int deflate(z_stream* stream, int flush)
    int deflateReset(z_stream* stream)
    int deflateEnd(z_stream* stream)
    unsigned long deflateBound(z_stream* stream, unsigned long size)
    int inflateInit2(z_stream* stream, int window_bits)
    int inflate(z_stream* stream, int flush)
    int inflateReset(z_stream* stream)
    int inflateResetKeep(z_stream* stream)
    int inflateEnd(z_stream* stream)

cdef enum:
    WINDOW_BITS_MAX = 15
    # Of the deflater everybody shares, so its 256 KB count once a worker.
    SHARED_MEMORY_LEVEL = 8
    SCRATCH_FIRST = 16 * 1024
    # What the scratch buffer may keep between messages.
    SCRATCH_KEPT = 256 * 1024
    # What a block costs beside its output, in bytes of output that cost as much: 1 to 3 µs against 1.3 µs a KiB.
    BLOCK_COST = 2048
    # Every message has them: one of its own, and the empty one at its end.
    FREE_BLOCKS = 2
    # Where authentication is required, one that has not done so yet may send as much compressed, a message and in all.
    STRANGER_MESSAGE_MAX = 8 * 1024
    STRANGER_WORK_MAX = 64 * 1024
    # A connection has hardly used its budget while this part of it (1/32) is not used up.
    LIGHT_PART = 32

    TOO_LONG = -2
    TOO_MUCH_WORK = -3
    CORRUPT = -4

# Close codes (protocol §5).
cdef enum:
    BAD_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009

# What a sender takes off the end of every message and a receiver puts back (RFC 7692 §7.2.1): the rest of an empty
# stored block.
cdef const unsigned char* TAIL = b"\x00\x00\xff\xff"


cdef class Scratch:
    """What all streams of a worker share: figures, and a buffer for one message at a time. What is in it must be
    copied out before the next."""

    def __dealloc__(self):
        free(self.data)

    cdef int reserve(self, Py_ssize_t size) except -1:
        cdef unsigned char* moved
        if size > self.size:
            moved = <unsigned char*>realloc(self.data, size)
            if moved is NULL:
                raise MemoryError("no memory for a compressed message")
            self.data = moved
            self.size = size
        return 0

    cdef int trim(self) except -1:
        """Give back what an unusually large message took."""
        if self.size > SCRATCH_KEPT:
            free(self.data)
            self.data = NULL
            self.size = 0
        return 0


cdef class Deflater:
    """Compresses messages; without `takeover` each as if it were the first. The stream's memory comes with the first
    message: 2^(window_bits+2) + 2^(memory_level+9) bytes (zlib's zconf.h)."""

    def __init__(
        self,
        Scratch scratch not None,
        int level,
        Py_ssize_t min_size,
        bint takeover=False,
        int window_bits=WINDOW_BITS_MAX,
        int memory_level=SHARED_MEMORY_LEVEL,
    ):
        # zlib makes no raw stream with a window of 256 bytes (deflateInit2 refuses 8).
        assert 9 <= window_bits <= WINDOW_BITS_MAX, "zlib deflates with windows of 9 to 15 bits"
        self.scratch = scratch
        self.level = level
        # An empty message has no compressed form shorter than itself, and zlib may make none at all of the second one.
        self.min_size = max(min_size, 1)
        self.takeover = takeover
        self.window_bits = window_bits
        self.memory_level = memory_level

    def __dealloc__(self):
        if self.is_open:
            deflateEnd(&self.stream)

    cdef Py_ssize_t compress(self, const char* data, Py_ssize_t size) except -1:
        """Leave the payload of a frame with RSV1 in the scratch buffer; its size. `size` is not 0."""
        cdef:
            Py_ssize_t made = 0
            int status
        if not self.is_open:
            memset(&self.stream, 0, sizeof(self.stream))
            status = deflateInit2(
                &self.stream, self.level, Z_DEFLATED, -self.window_bits, self.memory_level, Z_DEFAULT_STRATEGY
            )
            if status != Z_OK:
                raise MemoryError(f"zlib gives no compressor ({status})")
            self.is_open = True
        elif not self.takeover:
            deflateReset(&self.stream)
        # Room for the empty block too, which the bound does not include.
        self.scratch.reserve(<Py_ssize_t>deflateBound(&self.stream, size) + 16)
        self.stream.next_in = <const unsigned char*>data
        self.stream.avail_in = <unsigned int>size
        while True:
            self.stream.next_out = self.scratch.data + made
            self.stream.avail_out = <unsigned int>(self.scratch.size - made)
            status = deflate(&self.stream, Z_SYNC_FLUSH)
            made = self.scratch.size - self.stream.avail_out
            if self.stream.avail_out > 0:
                break
            self.scratch.reserve(2 * self.scratch.size)
        # Z_BUF_ERROR: the message had filled the buffer to its last byte, and there was no more to say.
        if (
            (status != Z_OK and status != Z_BUF_ERROR)
            or self.stream.avail_in
            or made < 4
            or memcmp(self.scratch.data + made - 4, TAIL, 4)
        ):
            raise RuntimeError(f"zlib did not flush a message ({status})")
        self.scratch.deflated_messages += 1
        self.scratch.deflated_bytes += made - 4
        return made - 4

    def encode(self, bytes message not None):
        """`compress`, for tests."""
        cdef Py_ssize_t size = self.compress(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))
        return PyBytes_FromStringAndSize(<char*>self.scratch.data, size)


cdef class Inflater:
    """Makes compressed messages whole again. With `takeover` a message may refer to those before it."""

    def __init__(self, Scratch scratch not None, bint takeover=False, int window_bits=WINDOW_BITS_MAX):
        assert 8 <= window_bits <= WINDOW_BITS_MAX, "RFC 7692 has windows of 8 to 15 bits"
        self.scratch = scratch
        self.takeover = takeover
        self.window_bits = window_bits

    def __dealloc__(self):
        if self.is_open:
            inflateEnd(&self.stream)

    cdef int _start(self) except -1:
        cdef int status
        if not self.is_open:
            memset(&self.stream, 0, sizeof(self.stream))
            # Senders on an old zlib use 9 bits when 8 were agreed.
            status = inflateInit2(&self.stream, -max(self.window_bits, 9))
            if status != Z_OK:
                raise MemoryError(f"zlib gives no decompressor ({status})")
            self.is_open = True
        elif not self.takeover:
            inflateReset(&self.stream)
        return 0

    cdef Py_ssize_t expand(self, const char* data, Py_ssize_t size, Py_ssize_t limit, Py_ssize_t work_max) except -8:
        """Leave the message in the scratch buffer; its size, or TOO_LONG (over `limit` bytes), TOO_MUCH_WORK (over
        `work_max`), CORRUPT. After any of these the stream of a takeover is of no more use. `work` says what it cost.
        """
        cdef:
            Py_ssize_t made = 0
            Py_ssize_t blocks = 0
            # The most that may ever be made: one byte beyond what is allowed tells that it is too much.
            Py_ssize_t most = min(limit, work_max) + 1
            Py_ssize_t room
            bint at_tail = False
            int status
        self.work = 0
        if size == 0:
            # Some senders make nothing of an empty message, where RFC 7692 §7.2.3.6 wants one zero octet.
            return 0
        self._start()
        self.scratch.reserve(min(<Py_ssize_t>SCRATCH_FIRST, most))
        self.stream.next_in = <const unsigned char*>data
        self.stream.avail_in = <unsigned int>size
        while True:
            room = min(self.scratch.size, most)
            if made == room:
                if made == most:
                    return TOO_LONG if made > limit else TOO_MUCH_WORK
                room = min(2 * room, most)
                self.scratch.reserve(room)
            self.stream.next_out = self.scratch.data + made
            self.stream.avail_out = <unsigned int>(room - made)
            # Z_BLOCK comes back at the end of each block, so that blocks are counted and the last one is seen to end.
            status = inflate(&self.stream, Z_BLOCK)
            made = room - self.stream.avail_out
            if status == Z_DATA_ERROR or status == Z_NEED_DICT:
                return CORRUPT
            if status != Z_OK and status != Z_STREAM_END and status != Z_BUF_ERROR:
                raise MemoryError(f"zlib cannot inflate ({status})")
            if status == Z_STREAM_END or self.stream.data_type & 128:
                blocks += 1
            self.work = made + max(blocks - FREE_BLOCKS, <Py_ssize_t>0) * BLOCK_COST
            if made <= limit and self.work > work_max:
                return TOO_MUCH_WORK
            if status == Z_STREAM_END:
                # A block marked as the last one ends no message: others may follow (§7.2.3.4), with the same window.
                inflateResetKeep(&self.stream)
                if self.stream.avail_in == 0:
                    break
            elif self.stream.avail_in == 0 and self.stream.avail_out > 0 and self.stream.data_type & 192 != 192:
                # (192: a last block has ended, and the next call will say so.)
                if not at_tail:
                    at_tail = True
                    self.stream.next_in = TAIL
                    self.stream.avail_in = 4
                elif self.stream.data_type == 128:
                    # Between two blocks and on a byte's edge, as every message must end.
                    break
                else:
                    return CORRUPT
        return TOO_LONG if made > limit else made

    def decode(self, bytes payload not None, Py_ssize_t limit, Py_ssize_t work_max=1 << 40):
        """`expand`, for tests: the message, or -2 too long, -3 too much work, -4 corrupt."""
        cdef Py_ssize_t size = self.expand(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), limit, work_max)
        return size if size < 0 else PyBytes_FromStringAndSize(<char*>self.scratch.data, size)


cdef class CompressionPool:
    """What a worker compresses with. `open` makes the part of one connection.

    `level` and `min_size` are those of every deflater; `memory_level` those of contexts of one connection. `rate` and
    `worker_rate` are bytes of work a second, a second's worth of which may come at once.
    """

    def __init__(self, int level, Py_ssize_t min_size, int memory_level, double rate, double worker_rate):
        self.scratch = Scratch()
        self.level = level
        self.memory_level = memory_level
        self.deflater = Deflater(self.scratch, level, min_size)
        self.inflater = Inflater(self.scratch)
        self.narrow = {}
        self.rate = rate
        self.worker_rate = worker_rate

    def open(
        self,
        bint server_takeover=False,
        bint client_takeover=False,
        int server_window_bits=WINDOW_BITS_MAX,
        int client_window_bits=WINDOW_BITS_MAX,
        bint stranger=False,
    ):
        """The compression of a connection, as agreed. A `stranger` is bounded tightly until `trust`."""
        cdef Compression compression = Compression.__new__(Compression)
        compression.pool = self
        compression.stranger_left = STRANGER_WORK_MAX if stranger else -1
        if server_takeover:
            compression.deflater = self._deflater(True, server_window_bits)
        elif server_window_bits == WINDOW_BITS_MAX:
            compression.deflater = self.deflater
        else:
            if server_window_bits not in self.narrow:
                self.narrow[server_window_bits] = self._deflater(False, server_window_bits)
            compression.deflater = self.narrow[server_window_bits]
        compression.inflater = (
            Inflater(self.scratch, True, client_window_bits) if client_takeover else self.inflater
        )
        return compression

    def _deflater(self, bint takeover, int window_bits):
        return Deflater(self.scratch, self.level, self.deflater.min_size, takeover, window_bits, self.memory_level)


cdef inline double left_of(double busy_until, double now, double rate) noexcept nogil:
    """What a bucket of one second's worth holds."""
    return rate if busy_until <= now else rate * (1.0 - (busy_until - now))


cdef inline double charged(double busy_until, double now, double rate, double cost) noexcept nogil:
    return (busy_until if busy_until > now else now) + cost / rate


cdef class Compression:
    """A connection's part. Made by `CompressionPool.open`."""

    @property
    def is_shared(self):
        """Its messages are compressed once for all who share."""
        return self.deflater is self.pool.deflater

    def trust(self):
        """It has authenticated: from here on it has the budgets of everybody."""
        self.stranger_left = -1

    cdef bytes inflate(self, const char* data, Py_ssize_t size, Py_ssize_t message_max, double now):
        """The message in the payload of a frame (or of its fragments, joined), at most `message_max` bytes.

        None: close with `failure` for `reason`. Either way the work done is charged; `now` is monotonic seconds.
        """
        cdef:
            CompressionPool pool = self.pool
            double own = left_of(self.busy_until, now, pool.rate)
            double shared = left_of(pool.busy_until, now, pool.worker_rate)
            Py_ssize_t limit = message_max
            Py_ssize_t work_max, made
        # The worker's reserve is open to the first part of each connection's own second only.
        shared = max(shared - pool.worker_rate / 2, min(shared, own - pool.rate * (1 - 1.0 / LIGHT_PART)))
        work_max = <Py_ssize_t>max(min(own, shared), 0.0)
        if self.stranger_left >= 0:
            limit = min(limit, <Py_ssize_t>STRANGER_MESSAGE_MAX)
            work_max = min(work_max, self.stranger_left)
        made = self.inflater.expand(data, size, limit, work_max)
        self._charge(now)
        if made >= 0:
            pool.inflated_messages += 1
            pool.inflated_bytes += made
            message = PyBytes_FromStringAndSize(<char*>pool.scratch.data, made)
            pool.scratch.trim()
            return message
        pool.scratch.trim()
        if made == TOO_LONG:
            self.failure, self.reason = TOO_BIG, b"message too big"
        elif made == TOO_MUCH_WORK:
            pool.budget_closed += 1
            self.failure, self.reason = POLICY, b"too much compressed data"
        else:
            # The frames were in order and what they carry is not: RFC 6455 §7.4.1 has 1007 for data that is not
            # consistent with the message, as bad UTF-8.
            self.failure, self.reason = BAD_DATA, b"invalid compressed data"
        return None

    cdef int _charge(self, double now) except -1:
        cdef:
            CompressionPool pool = self.pool
            Py_ssize_t work = self.inflater.work
        pool.busy_until = charged(pool.busy_until, now, pool.worker_rate, work)
        self.busy_until = charged(self.busy_until, now, pool.rate, work)
        if self.stranger_left >= 0:
            self.stranger_left -= min(work, self.stranger_left)
        return 0

    def received(self, bytes payload not None, Py_ssize_t message_max, double now):
        """`inflate`, for tests."""
        return self.inflate(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), message_max, now)
