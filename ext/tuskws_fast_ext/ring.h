/* One single-producer single-consumer byte ring in shared memory: its layout, its checks and all its atomics.

       0        128      256      384         512        640      768                          768 + capacity
       ├────────┼────────┼────────┼───────────┼──────────┼────────┼───────────────────────────────────┤
       │ ident  │ tail   │ head   │ sleeping  │ waiting  │ dropped│ buf: records, 8-byte aligned      │
       └────────┴────────┴────────┴───────────┴──────────┴────────┴───────────────────────────────────┘
       written   producer consumer consumer    producer   producer   each on two cache lines of its own: CPUs
       once                        (producer   (consumer             prefetch lines in pairs
                                    clears)     clears)
       ident = magic u64 | version u32 | header bytes u32 | capacity u64 | generation u64

   A record                                                  the end of the buffer, when a record would not fit there
       0       4        8      10      12           16    24                    0            4
       ├───────┼────────┼──────┼───────┼────────────┼─────┼─────────┬─────┐     ├────────────┼───────────┐
       │ len   │ crc32c │ type │ flags │ generation │ seq │ payload │ pad │     │ 0xFFFFFFFF │  skipped  │
       └───────┴────────┴──────┴───────┴────────────┴─────┴─────────┴─────┘     └────────────┴───────────┘
       len counts the payload; the crc covers all else, len too.

   The rules that keep it honest
   1. Publish after write: header and payload first, the release-store of `tail` last. A producer that dies before
      that store published nothing, one that dies after it published everything; there is no third case. (A ring that
      claims space first got stuck in 15 % of 20,000 kills; this order in none.)
   2. `head` and `tail` run freely and are never masked when stored, so full and empty cannot be confused.
   3. `seq` is the free-running position of the record. It says "this record, in this lap, of this ring": a record
      left over from an earlier lap or read at the wrong place is refused, and a producer that attaches to a ring in
      use needs no memory of what was sent before. A record with a foreign generation is a zombie's, and refused.
   4. Both wake-ups (data for the consumer, space for the producer) are Dekker's pattern: store, seq_cst fence, load,
      on both sides. Without both fences wake-ups get lost, on x86 too.
   5. Nobody trusts the peer: each side keeps its own position in private memory and only ever writes it out; the
      other's position is checked; a record's header is copied once and the copy is checked, the payload is copied
      out before its crc is. So a peer that has gone mad costs its own ring, never a read outside of it.

   This file knows nothing of Python, descriptors or what records mean. Little-endian machines only. */

#ifndef TUSKWS_RING_H
#define TUSKWS_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the ring's layout is little-endian"
#endif

#define RING_MAGIC 0x31474e4952575354ULL /* "TSWRING1" */
#define RING_VERSION 1U
#define RING_PADDING 0xFFFFFFFFU
#define RING_RECORD_HEADER 24U
#define RING_CAPACITY_MIN 4096ULL
#define RING_CAPACITY_MAX (1ULL << 30)
/* One tenth is for control records only; and a record may take a quarter, so that even with padding before it
   (always smaller than the record) it fits into an empty ring whatever the reserve. */
#define RING_RESERVED_SHARE 10U
#define RING_RECORD_SHARE 4U

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint64_t capacity;
    uint64_t generation;
    _Alignas(128) _Atomic uint64_t tail;
    _Alignas(128) _Atomic uint64_t head;
    _Alignas(128) _Atomic uint32_t consumer_sleeping;
    _Alignas(128) _Atomic uint32_t producer_waiting;
    _Alignas(128) _Atomic uint64_t dropped;
    _Alignas(128) uint8_t buf[];
} ring_shared;

typedef struct {
    uint32_t len;
    uint32_t crc;
    uint16_t type;
    uint16_t flags;
    uint32_t generation;
    uint64_t seq;
} ring_record;

_Static_assert(sizeof(ring_shared) == 768, "the diagram above is the layout");
_Static_assert(sizeof(ring_record) == RING_RECORD_HEADER, "the diagram above is the layout");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock inside shared memory would die with its owner");

/* What a check found. The texts are in ring.pyx. */
enum ring_fault {
    RING_OK = 0,
    RING_BAD_POSITION,   /* the peer's position is unaligned, went back, or is further away than the capacity */
    RING_BAD_PADDING,    /* a padding mark at the start of the buffer, or reaching beyond the tail */
    RING_BAD_LENGTH,     /* longer than a record may be, or reaching beyond the tail or the end of the buffer */
    RING_BAD_GENERATION, /* written by a process that should be dead */
    RING_BAD_SEQ,        /* belongs to another lap or another place */
    RING_BAD_CRC,        /* torn or altered */
};

/* -- crc32c ------------------------------------------------------------------------------------------------------ */

static uint32_t ring_crc_table[8][256];

/* Slicing-by-8, for CPUs without the instruction: about 2 bytes a cycle, against 8 every 3 cycles. */
static uint32_t ring_crc32c_portable(uint32_t crc, const uint8_t *data, size_t n) {
    for (; n >= 8; n -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word ^= crc;
        crc = ring_crc_table[7][word & 0xFF] ^ ring_crc_table[6][word >> 8 & 0xFF] ^
              ring_crc_table[5][word >> 16 & 0xFF] ^ ring_crc_table[4][word >> 24 & 0xFF] ^
              ring_crc_table[3][word >> 32 & 0xFF] ^ ring_crc_table[2][word >> 40 & 0xFF] ^
              ring_crc_table[1][word >> 48 & 0xFF] ^ ring_crc_table[0][word >> 56];
    }
    for (; n; n--, data++) crc = ring_crc_table[0][(crc ^ *data) & 0xFF] ^ crc >> 8;
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t ring_crc32c_sse42(uint32_t crc, const uint8_t *data, size_t n) {
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; n; n--, data++) crc = _mm_crc32_u8(crc, *data);
    return crc;
}
#endif

static uint32_t (*ring_crc32c)(uint32_t crc, const uint8_t *data, size_t n) = ring_crc32c_portable;

/* Once, when the module is imported. Returns whether the CPU's own instruction is used. */
static int ring_init(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78U : 0);
        ring_crc_table[0][i] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t before = ring_crc_table[slice - 1][i];
            ring_crc_table[slice][i] = before >> 8 ^ ring_crc_table[0][before & 0xFF];
        }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        ring_crc32c = ring_crc32c_sse42;
        return 1;
    }
#endif
    return 0;
}

static uint32_t ring_record_crc(const ring_record *record, const uint8_t *payload) {
    uint32_t crc = ring_crc32c(~record->len, (const uint8_t *)record + 8, sizeof *record - 8);
    return ~ring_crc32c(crc, payload, record->len);
}

/* -- layout ------------------------------------------------------------------------------------------------------ */

static inline uint64_t ring_record_bytes(uint64_t payload) { return (RING_RECORD_HEADER + payload + 7) & ~7ULL; }

static inline uint64_t ring_payload_max(uint64_t capacity) { return capacity / RING_RECORD_SHARE - RING_RECORD_HEADER; }

static inline int ring_capacity_ok(uint64_t capacity) {
    return capacity >= RING_CAPACITY_MIN && capacity <= RING_CAPACITY_MAX && !(capacity & (capacity - 1));
}

/* The memory is not shared yet; the magic goes in last, so that half a header is never taken for one. */
static void ring_format(ring_shared *ring, uint64_t capacity, uint32_t generation) {
    memset(ring, 0, sizeof *ring);
    ring->version = RING_VERSION;
    ring->header_bytes = sizeof *ring;
    ring->capacity = capacity;
    ring->generation = generation;
    atomic_thread_fence(memory_order_release);
    ring->magic = RING_MAGIC;
}

/* Checks one record against what lies before the tail. `body` points to the payload, in the ring or in a copy. */
static int ring_check_header(const ring_record *record, uint64_t position, uint64_t available, uint64_t capacity,
                             uint32_t generation) {
    uint64_t to_end = capacity - (position & (capacity - 1));
    if (record->len > ring_payload_max(capacity)) return RING_BAD_LENGTH;
    uint64_t bytes = ring_record_bytes(record->len);
    if (bytes > available || bytes > to_end) return RING_BAD_LENGTH;
    if (record->generation != generation) return RING_BAD_GENERATION;
    if (record->seq != position) return RING_BAD_SEQ;
    return RING_OK;
}

/* -- producer ---------------------------------------------------------------------------------------------------- */

typedef struct {
    ring_shared *ring;
    uint64_t capacity;
    uint32_t generation;
    int fault;
    uint64_t written;   /* the end of what was pushed: private until the next publish */
    uint64_t published; /* what `tail` says */
    uint64_t head;      /* the consumer's position when last looked at; it can only have moved on */
    uint64_t refused;   /* free bytes that the last refused record needed */
} ring_producer;

/* Looks at the consumer's position again. 0 = it is impossible, and the ring is poisoned. */
static int ring_refresh_head(ring_producer *p) {
    uint64_t head = atomic_load_explicit(&p->ring->head, memory_order_acquire);
    if (head < p->head || head > p->published || head & 7) {
        p->fault = RING_BAD_POSITION;
        return 0;
    }
    p->head = head;
    return 1;
}

static int ring_producer_attach(ring_producer *p, ring_shared *ring, uint64_t capacity, uint32_t generation) {
    p->ring = ring;
    p->capacity = capacity;
    p->generation = generation;
    p->fault = RING_OK;
    p->written = p->published = atomic_load_explicit(&ring->tail, memory_order_acquire);
    p->head = 0;
    p->refused = 0;
    if (p->published & 7 || !ring_refresh_head(p) || p->published - p->head > capacity) p->fault = RING_BAD_POSITION;
    return p->fault;
}

static inline uint64_t ring_producer_free(const ring_producer *p) { return p->capacity - (p->written - p->head); }

/* 1 = written (not yet published), 0 = no room, -1 = poisoned. The payload's length has been checked. */
static int ring_push(ring_producer *p, uint16_t type, const uint8_t *payload, uint32_t len, int control) {
    uint64_t at = p->written & (p->capacity - 1);
    uint64_t to_end = p->capacity - at;
    uint64_t bytes = ring_record_bytes(len);
    uint64_t padding = bytes > to_end ? to_end : 0;
    uint64_t needed = padding + bytes + (control ? 0 : p->capacity / RING_RESERVED_SHARE);
    if (p->fault) return -1;
    if (needed > ring_producer_free(p)) {
        if (!ring_refresh_head(p)) return -1;
        if (needed > ring_producer_free(p)) {
            p->refused = needed;
            return 0;
        }
    }
    if (padding) {
        uint32_t mark = RING_PADDING;
        memcpy(p->ring->buf + at, &mark, sizeof mark);
        at = 0;
    }
    ring_record record = {len, 0, type, 0, p->generation, p->written + padding};
    record.crc = ring_record_crc(&record, payload);
    memcpy(p->ring->buf + at, &record, sizeof record);
    memcpy(p->ring->buf + at + sizeof record, payload, len);
    p->written += padding + bytes;
    return 1;
}

/* Makes all that was pushed visible. 1 = the consumer sleeps and its bell must be rung now.
   The flag is taken down by whoever rings: a consumer that has not woken yet is not rung again by every publish. */
static int ring_publish(ring_producer *p) {
    if (p->published == p->written) return 0;
    p->published = p->written;
    atomic_store_explicit(&p->ring->tail, p->written, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&p->ring->consumer_sleeping, memory_order_relaxed) &&
           atomic_exchange_explicit(&p->ring->consumer_sleeping, 0, memory_order_relaxed);
}

/* 1 = the consumer will ring when it has freed space, 0 = there is room already, -1 = poisoned. */
static int ring_want_space(ring_producer *p) {
    atomic_store_explicit(&p->ring->producer_waiting, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!ring_refresh_head(p)) return -1;
    if (p->refused > ring_producer_free(p)) return 1;
    atomic_store_explicit(&p->ring->producer_waiting, 0, memory_order_relaxed);
    return 0;
}

static inline void ring_count_dropped(ring_producer *p) {
    atomic_fetch_add_explicit(&p->ring->dropped, 1, memory_order_relaxed);
}

static inline uint64_t ring_dropped(const ring_producer *p) {
    return atomic_load_explicit(&p->ring->dropped, memory_order_relaxed);
}

/* -- consumer ---------------------------------------------------------------------------------------------------- */

typedef struct {
    ring_shared *ring;
    uint64_t capacity;
    uint32_t generation;
    int fault;
    uint64_t position; /* all before it was handed out */
    uint64_t released; /* what `head` says */
    uint64_t tail;     /* the end of what this drain may read */
} ring_consumer;

/* Looks at the producer's position again. 0 = it is impossible, and the ring is poisoned. */
static int ring_refresh_tail(ring_consumer *c) {
    uint64_t tail = atomic_load_explicit(&c->ring->tail, memory_order_acquire);
    if (tail < c->position || tail - c->position > c->capacity || tail & 7) {
        c->fault = RING_BAD_POSITION;
        return 0;
    }
    c->tail = tail;
    return 1;
}

static int ring_consumer_attach(ring_consumer *c, ring_shared *ring, uint64_t capacity, uint32_t generation) {
    c->ring = ring;
    c->capacity = capacity;
    c->generation = generation;
    c->fault = RING_OK;
    c->position = c->released = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (c->position & 7 || !ring_refresh_tail(c)) c->fault = RING_BAD_POSITION;
    return c->fault;
}

/* Finds the next record before the tail that `ring_refresh_tail` saw. 1 = its header is in `record`, copied once and
   checked, and `payload` points into the ring; 0 = there is none; -1 = poisoned. Every step moves on by 8 bytes or
   more and padding is never followed by padding, so this ends whatever the memory holds. */
static int ring_next(ring_consumer *c, ring_record *record, const uint8_t **payload) {
    if (c->fault) return -1;
    while (c->position != c->tail) {
        uint64_t at = c->position & (c->capacity - 1);
        uint64_t to_end = c->capacity - at;
        uint64_t available = c->tail - c->position;
        const uint8_t *here = c->ring->buf + at;
        uint32_t len = *(const volatile uint32_t *)here;
        if (len == RING_PADDING) {
            if (at == 0 || to_end > available) {
                c->fault = RING_BAD_PADDING;
                return -1;
            }
            c->position += to_end;
            continue;
        }
        if (available < sizeof *record || to_end < sizeof *record) {
            c->fault = RING_BAD_LENGTH;
            return -1;
        }
        memcpy(record, here, sizeof *record);
        record->len = len;
        /* From here on only the copy counts; the peer may rewrite the ring under our eyes. */
        __asm__ volatile("" : "+m"(*record));
        c->fault = ring_check_header(record, c->position, available, c->capacity, c->generation);
        if (c->fault) return -1;
        *payload = here + sizeof *record;
        return 1;
    }
    return 0;
}

/* The record that `ring_next` found has been copied to `copy`: is it whole? 1 = yes, and it is consumed. */
static int ring_accept(ring_consumer *c, const ring_record *record, const uint8_t *copy) {
    if (ring_record_crc(record, copy) != record->crc) {
        c->fault = RING_BAD_CRC;
        return 0;
    }
    c->position += ring_record_bytes(record->len);
    return 1;
}

/* Gives the space of all consumed records back. 1 = the producer waits for space and its bell must be rung now. */
static int ring_release(ring_consumer *c) {
    if (c->released == c->position) return 0;
    c->released = c->position;
    atomic_store_explicit(&c->ring->head, c->position, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&c->ring->producer_waiting, memory_order_relaxed) &&
           atomic_exchange_explicit(&c->ring->producer_waiting, 0, memory_order_relaxed);
}

/* 1 = sleep: whoever publishes next will ring. 0 = there is something to drain (or to be told), do not sleep. */
static int ring_begin_sleep(ring_consumer *c) {
    if (c->fault) return 0;
    atomic_store_explicit(&c->ring->consumer_sleeping, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&c->ring->tail, memory_order_acquire) == c->position) return 1;
    atomic_store_explicit(&c->ring->consumer_sleeping, 0, memory_order_relaxed);
    return 0;
}

static inline void ring_end_sleep(ring_consumer *c) {
    atomic_store_explicit(&c->ring->consumer_sleeping, 0, memory_order_relaxed);
}

/* Published bytes that were not handed out yet; whatever it says, only `ring_refresh_tail` is believed. */
static inline uint64_t ring_pending(const ring_consumer *c) {
    return atomic_load_explicit(&c->ring->tail, memory_order_acquire) - c->position;
}

#endif
