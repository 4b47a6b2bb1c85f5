"""The compiled load client: one object a load process holds all its connections, and runs without the GIL.

    client = LoadClient(share)          what this process is to open, join and publish (plan.Share)
    client.open_up_to(n); client.run(until_ns, READY)
    client.measure(from_ns, until_ns)   latency is kept for messages that were to leave in between, whenever they arrive
    client.publish(first_due_ns, interval_ns)
    client.run(until_ns); client.counters()

`run` returns at the time or the goal, so its caller takes snapshots between runs and the C loop stays free of policy.
Also here, for the tests' oracles and for merging: `Histogram`, `parse_frames`, `seal_frame`, `make_stamp`, `read_stamp`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset, strncpy


cdef extern from "client.h" nogil:
    enum:
        HISTOGRAM_BUCKETS, STAMP_BYTES, PUBLISHERS_MAX, ERRORS_MAX, NAME_BYTES
        DIALECT_RAW, DIALECT_TUSK, DIALECT_NATS, DIALECT_SOCKETIO, DIALECT_NCHAN
        ACTION_PUBLISH, ACTION_PING, ACTION_PRESENCE, ACTION_PRIVATE, ACTION_JOIN, ACTION_NONE
    ctypedef enum goal_t "enum goal":
        GOAL_TIME, GOAL_READY, GOAL_DELIVERED, GOAL_CLOSED

    ctypedef struct histogram_t:
        uint64_t count, max
        uint64_t buckets[1984]

    void histogram_add(histogram_t *h, uint64_t value)
    uint64_t histogram_percentile(const histogram_t *h, double fraction)
    void histogram_merge(histogram_t *into, const histogram_t *source)

    ctypedef struct frame_t:
        uint8_t opcode, fin
        size_t length
        const uint8_t *payload

    ctypedef struct stamp_t:
        unsigned run
        uint32_t publisher, seq
        uint64_t time_us

    int64_t frame_parse(const uint8_t *data, size_t have, frame_t *frame, int compression)
    size_t mask_head_bytes(size_t length)
    void frame_seal(uint8_t *at, uint8_t opcode, size_t length, uint32_t key)
    void stamp_tables()
    void stamp_write(uint8_t *at, const stamp_t *stamp)
    int stamp_read(const uint8_t *at, stamp_t *stamp)

    ctypedef struct counters_t:
        uint64_t connected, ready, failed, closed_early
        uint64_t published, refused, throttled_joins
        uint64_t deliveries, duplicates, out_of_order, skipped, foreign
        uint64_t gaps, errors, replies, acks, other_pushes, pings_answered
        uint64_t slow_deliveries, slow_gaps, slow_closed, dropped, returned, compressed, side_commands, side_replies, side_refused
        uint64_t frames, bytes, delivery_bytes, reads, sends, short_sends
        uint64_t opened_ns, last_ready_ns

    ctypedef struct error_count_t:
        char code[32]
        uint64_t count

    ctypedef struct conn_t:
        int32_t room, publisher, side
        uint32_t rooms
        bint slow

    ctypedef struct publisher_t:
        uint32_t conn, number, room, seq, refused

    ctypedef struct side_t:
        uint32_t conn

    ctypedef struct room_t:
        char name[64]
        uint32_t members, publisher_base, publisher_count
        uint64_t unique

    ctypedef struct client_t:
        char authority[128]
        char path[128]
        char token[4096]
        char level[16]
        int dialect, action
        bint batch, windowed, compression
        void *tls
        unsigned run
        uint32_t payload, window, connect_burst
        uint64_t base_ns
        room_t *rooms
        conn_t *conns
        publisher_t *publishers
        side_t *sides
        uint32_t room_count, conn_count, publisher_count, number_count, side_count, conn_limit, open, random
        uint64_t open_interval_ns
        bint publishing
        uint64_t expected, measure_from_us, measure_until_us
        counters_t counters
        error_count_t error_codes[16]
        char first_error[240]
        histogram_t latency, lateness, opening, replies

    void *tls_context()
    bint client_address(client_t *client, const char *host, uint16_t port)
    bint client_allocate(client_t *client)
    bint client_link(client_t *client)
    void client_free(client_t *client)
    void client_run(client_t *client, uint64_t until_ns, goal_t goal)
    void client_publish(client_t *client, uint64_t first_due_ns, uint64_t interval_ns, uint64_t side_interval_ns)
    void client_drop(client_t *client, uint64_t first_due_ns, uint64_t interval_ns, uint32_t count)
    void client_churn(client_t *client)
    void client_pause(client_t *client, bint paused)
    void client_goodbye(client_t *client)


TIME, READY, DELIVERED, CLOSED = GOAL_TIME, GOAL_READY, GOAL_DELIVERED, GOAL_CLOSED
STAMP_LENGTH = STAMP_BYTES
PUBLISHERS_LIMIT = PUBLISHERS_MAX

DIALECTS = {
    "raw": DIALECT_RAW,
    "tusk": DIALECT_TUSK,
    "nats": DIALECT_NATS,
    "socketio": DIALECT_SOCKETIO,
    "nchan": DIALECT_NCHAN,
}
ACTIONS = {
    "publish": ACTION_PUBLISH,
    "ping": ACTION_PING,
    "presence": ACTION_PRESENCE,
    "private": ACTION_PRIVATE,
    "join": ACTION_JOIN,
    "none": ACTION_NONE,
}

stamp_tables()


cdef class Histogram:
    """Counts by value to within 1.6 %; the unit is the caller's. `to_bytes` and `merge` carry it between processes."""

    cdef histogram_t h

    def __cinit__(self, bytes data=b""):
        memset(&self.h, 0, sizeof(self.h))
        if data:
            self.merge(data)

    def add(self, value):
        histogram_add(&self.h, value)

    def percentile(self, double fraction):
        """The value that `fraction` of all do not exceed, rounded up to its bucket's end; 0 when empty."""
        return histogram_percentile(&self.h, fraction)

    def merge(self, bytes data):
        cdef histogram_t other
        if len(data) != sizeof(histogram_t):
            raise ValueError("not a histogram of this layout")
        memcpy(&other, PyBytes_AS_STRING(data), sizeof(other))
        histogram_merge(&self.h, &other)

    def to_bytes(self):
        return PyBytes_FromStringAndSize(<char *>&self.h, sizeof(self.h))

    @property
    def count(self):
        return self.h.count

    @property
    def max(self):
        return self.h.max


def parse_frames(bytes data):
    """(list of (opcode, fin, payload), bytes used): every whole frame at the front. ValueError for an illegal one."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef size_t left = len(data)
    cdef frame_t frame
    cdef int64_t used
    frames = []
    while left:
        used = frame_parse(at, left, &frame, 0)
        if used < 0:
            raise ValueError("a frame that no server may send")
        if used == 0:
            break
        frames.append((frame.opcode, bool(frame.fin), PyBytes_FromStringAndSize(<char *>frame.payload, frame.length)))
        at += used
        left -= <size_t>used
    return frames, len(data) - left


def seal_frame(uint8_t opcode, bytes payload, uint32_t key):
    """The masked frame a client sends."""
    cdef size_t head = mask_head_bytes(len(payload))
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, head + len(payload))
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(frame)
    memcpy(at + head, PyBytes_AS_STRING(payload), len(payload))
    frame_seal(at, opcode, len(payload), key)
    return frame


def make_stamp(unsigned run, uint32_t publisher, uint32_t seq, uint64_t time_us):
    cdef stamp_t stamp
    cdef uint8_t text[16]
    stamp.run, stamp.publisher, stamp.seq, stamp.time_us = run, publisher, seq, time_us
    stamp_write(text, &stamp)
    return PyBytes_FromStringAndSize(<char *>text, STAMP_BYTES)


def read_stamp(bytes text):
    """(run, publisher, seq, time_us), or None where no stamp stands at the front of `text`."""
    cdef stamp_t stamp
    if len(text) < STAMP_BYTES or not stamp_read(<const uint8_t *>PyBytes_AS_STRING(text), &stamp):
        return None
    return stamp.run, stamp.publisher, stamp.seq, stamp.time_us


cdef _store(char *at, size_t size, str text):
    cdef bytes encoded = text.encode()
    if <size_t>len(encoded) >= size:
        raise ValueError(f"too long: {text[:40]}…")
    strncpy(at, PyBytes_AS_STRING(encoded), size)


cdef class LoadClient:
    cdef client_t *c

    def __cinit__(self, share):
        self.c = <client_t *>calloc(1, sizeof(client_t))
        if self.c == NULL:
            raise MemoryError
        cdef client_t *c = self.c
        if not client_address(c, share.address.encode(), share.port):
            raise ValueError(f"not an address: {share.address}")
        _store(c.authority, sizeof(c.authority), share.authority)
        _store(c.path, sizeof(c.path), share.path)
        _store(c.token, sizeof(c.token), share.token)
        _store(c.level, sizeof(c.level), "" if share.level == "none" else share.level)
        c.dialect = DIALECTS[share.dialect]
        c.action = ACTIONS[share.action]
        c.batch = share.batch
        c.compression = share.compression
        if share.tls:
            c.tls = tls_context()
            if c.tls == NULL:
                raise RuntimeError("wss:// needs OpenSSL's shared library (libssl), which was not found")
        c.open_interval_ns = share.open_interval_ns
        c.window = share.window
        c.windowed = share.window > 0
        c.run = share.run
        c.payload = share.payload
        c.connect_burst = share.connect_burst
        c.base_ns = share.base_ns
        c.random = 0x9E3779B9
        c.room_count = len(share.rooms)
        c.conn_count = share.connections
        c.publisher_count = sum(len(room.publishers) for room in share.rooms)
        c.number_count = share.publisher_total
        c.side_count = share.side_connections
        if c.number_count > PUBLISHERS_MAX or c.payload < STAMP_BYTES:
            raise ValueError(f"at most {PUBLISHERS_MAX} publishers, at least {STAMP_BYTES} bytes of payload")
        if not client_allocate(c):
            raise MemoryError
        self._place(share.rooms)
        self._place_sides()
        if not client_link(c):
            raise MemoryError

    cdef _place(self, rooms):
        """Give each room its connections, one after the other, or those of the room before it. Its first ones are the
        publishers of this process; where rooms share their members, the publishers move on by one a room."""
        cdef uint32_t conn = 0, publisher = 0, first = 0, end = 0, shared = 0
        cdef room_t *r
        for index, room in enumerate(rooms):
            r = &self.c.rooms[index]
            _store(r.name, NAME_BYTES, room.name)
            r.members = room.members - room.slow
            r.publisher_base = room.publisher_base
            r.publisher_count = room.publisher_count
            if len(room.publishers) > room.members - room.slow:
                raise ValueError("a publisher is a member that reads: more publishers than these")
            shared = shared + 1 if room.same_members else 0
            if not room.same_members:
                first, end = end, end + <uint32_t>room.members
            for number, place in enumerate(room.publishers):
                conn = first + (<uint32_t>number + shared) % <uint32_t>room.members
                self.c.publishers[publisher].conn = conn
                self.c.publishers[publisher].room = index
                self.c.publishers[publisher].number = room.publisher_base + place
                if not room.same_members:
                    self.c.conns[conn].publisher = publisher
                publisher += 1
            for conn in range(first, end):
                if not room.same_members:
                    self.c.conns[conn].room = index
                    self.c.conns[conn].slow = conn - first >= r.members
                self.c.conns[conn].rooms += 1
        if self.c.action == ACTION_PRIVATE:  # each room is the mailbox of one; its neighbour writes to it
            for publisher in range(self.c.publisher_count):
                r = &self.c.rooms[(publisher + 1) % self.c.room_count]
                r.publisher_base = self.c.publishers[publisher].number
                self.c.publishers[publisher].room = (publisher + 1) % self.c.room_count

    cdef _place_sides(self):
        """The last connections, behind those of the rooms."""
        cdef uint32_t side, first = self.c.conn_count - self.c.side_count
        for side in range(self.c.side_count):
            self.c.sides[side].conn = first + side
            self.c.conns[first + side].side = side

    def __dealloc__(self):
        if self.c != NULL:
            client_free(self.c)

    def open_up_to(self, uint32_t connections):
        """Let `run` open connections until this many have been tried."""
        self.c.conn_limit = min(connections, self.c.conn_count)

    def run(self, uint64_t until_ns, goal_t goal=GOAL_TIME):
        with nogil:
            client_run(self.c, until_ns, goal)

    def measure(self, uint64_t from_ns, uint64_t until_ns):
        self.c.measure_from_us = (from_ns - self.c.base_ns) // 1000
        self.c.measure_until_us = (until_ns - self.c.base_ns) // 1000

    def publish(self, uint64_t first_due_ns, uint64_t interval_ns, uint64_t side_interval_ns=0):
        """Closed loop when `interval_ns` is 0: each publisher fills its window. Else one message an interval.
        Side connections send a command each `side_interval_ns`."""
        client_publish(self.c, first_due_ns, interval_ns, side_interval_ns)

    def drop(self, uint64_t first_due_ns, uint64_t interval_ns, uint32_t count):
        """Drop `count` connections, one an interval or all at once, and open each again."""
        client_drop(self.c, first_due_ns, interval_ns, count)

    def churn(self):
        """Drop whoever is ready, now and whenever one becomes it again, and open it again."""
        client_churn(self.c)

    def pause(self, bint paused):
        """The slow members stop reading, or read again."""
        client_pause(self.c, paused)

    def stop(self):
        self.c.publishing = False

    def expect(self, uint64_t deliveries):
        """The count at which `run(…, DELIVERED)` returns: deliveries of this process since its beginning."""
        self.c.expected = deliveries

    def goodbye(self):
        client_goodbye(self.c)

    def counters(self):
        return self.c.counters

    def error_codes(self):
        return {
            self.c.error_codes[i].code.decode("utf-8", "replace"): self.c.error_codes[i].count
            for i in range(ERRORS_MAX)
            if self.c.error_codes[i].count
        }

    def first_error(self):
        return self.c.first_error.decode("utf-8", "replace")

    def published_by_room(self):
        """{index of the room in the share: messages sent by its publishers here, less those refused}."""
        totals = {}
        for i in range(self.c.publisher_count):
            room = self.c.publishers[i].room
            totals[room] = totals.get(room, 0) + self.c.publishers[i].seq - self.c.publishers[i].refused
        return totals

    def unique_by_room(self):
        return [self.c.rooms[i].unique for i in range(self.c.room_count)]

    def latency(self):
        return PyBytes_FromStringAndSize(<char *>&self.c.latency, sizeof(histogram_t))

    def lateness(self):
        return PyBytes_FromStringAndSize(<char *>&self.c.lateness, sizeof(histogram_t))

    def opening(self):
        """From when a connection was to open until it was ready, joined where it joins."""
        return PyBytes_FromStringAndSize(<char *>&self.c.opening, sizeof(histogram_t))

    def replies(self):
        """From when a side connection's command was to leave until its reply."""
        return PyBytes_FromStringAndSize(<char *>&self.c.replies, sizeof(histogram_t))
