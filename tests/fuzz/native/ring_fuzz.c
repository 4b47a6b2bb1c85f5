/* Fuzz target `ring`: ext/tuskws_fast_ext/ring.h alone, at some hundred thousand executions a second.

   The first byte chooses between two ways of using the input.

   honest  a program of what two well-meaning ends do, checked against a queue: records come out as they went in, in
           order, none lost; a ring that nobody damaged is never poisoned; the reserve is control records' alone
   mad     the same program with operations that write anywhere into the shared memory between any two steps, as a
           broken process would. What is drained means nothing then; what counts is that nothing outside the memory is
           touched (AddressSanitizer), nothing undefined happens (UBSan), every call returns, and no drain gives more
           than the ring can hold. Half of the records it forges carry a right checksum, or none would pass. */

#include "program.h"
#include "ring.h"

#define CAPACITY 4096U
#define GENERATION 3U
#define QUEUE_MAX 4096U

typedef struct {
    uint16_t type;
    uint16_t len;
    uint8_t fill;
} expected_record;

typedef struct {
    ring_shared *ring;
    ring_producer producer;
    ring_consumer consumer;
    expected_record queue[QUEUE_MAX];
    uint32_t pushed, published, drained;
    int mad;
} state;

static void push(state *s, program *p) {
    uint8_t payload[1024];
    expected_record record = {(uint16_t)take(p, 2), (uint16_t)take(p, 2), (uint8_t)take(p, 1)};
    int control = take(p, 1) & 1;
    record.len %= ring_payload_max(CAPACITY) + 1;
    memset(payload, record.fill, record.len);
    if (s->pushed == QUEUE_MAX) return;
    uint64_t free_before = ring_producer_free(&s->producer);
    int done = ring_push(&s->producer, record.type, payload, record.len, control);
    if (done == 1) s->queue[s->pushed++] = record;
    if (s->mad) return;
    MUST(done >= 0);
    if (done && !control) MUST(ring_producer_free(&s->producer) >= CAPACITY / RING_RESERVED_SHARE);
    if (!done) MUST(free_before < CAPACITY);
}

static void publish(state *s) {
    ring_publish(&s->producer);
    s->published = s->pushed;
}

static void drain(state *s, program *p) {
    uint32_t most = (uint32_t)take(p, 1);
    uint64_t bytes = 0;
    ring_record record;
    const uint8_t *payload;
    if (s->consumer.fault || !ring_refresh_tail(&s->consumer)) {
        MUST(s->mad);
        return;
    }
    for (; most; most--) {
        int found = ring_next(&s->consumer, &record, &payload);
        if (found <= 0) {
            MUST(s->mad || (!found && s->drained == s->published));
            break;
        }
        MUST(record.len <= ring_payload_max(CAPACITY));
        uint8_t *copy = malloc(record.len ? record.len : 1);
        MUST(copy != NULL);
        memcpy(copy, payload, record.len);
        int whole = ring_accept(&s->consumer, &record, copy);
        bytes += whole ? ring_record_bytes(record.len) : 0;
        if (!s->mad) {
            expected_record *expected = &s->queue[s->drained++];
            MUST(whole && s->drained <= s->published);
            MUST(record.type == expected->type && record.len == expected->len);
            for (uint32_t i = 0; i < record.len; i++) MUST(copy[i] == expected->fill);
        }
        free(copy);
        if (!whole) {
            MUST(s->mad);
            break;
        }
    }
    ring_release(&s->consumer);
    MUST(bytes <= CAPACITY);
}

/* The wake-up protocol, as far as one thread shows it: nobody may sleep while there is something for him. */
static void sleep_and_wake(state *s) {
    int may_sleep = ring_begin_sleep(&s->consumer);
    if (!s->mad) MUST(may_sleep == (s->drained == s->published));
    if (may_sleep && s->pushed > s->published) {
        int ring_bell = ring_publish(&s->producer);
        if (!s->mad) MUST(ring_bell);
        s->published = s->pushed;
    }
    ring_end_sleep(&s->consumer);
}

static void want_space(state *s) {
    int waiting = ring_want_space(&s->producer);
    MUST(s->mad || waiting >= 0);
    (void)ring_dropped(&s->producer);
    (void)ring_pending(&s->consumer);
}

static void attach_again(state *s, program *p) {
    if (take(p, 1) & 1) {
        ring_consumer_attach(&s->consumer, s->ring, CAPACITY, GENERATION);
        MUST(s->mad || !s->consumer.fault);
    } else {
        /* What was pushed and not published never happened. */
        ring_producer_attach(&s->producer, s->ring, CAPACITY, GENERATION);
        s->pushed = s->published;
        MUST(s->mad || !s->producer.fault);
    }
}

/* -- what only a mad peer does ---------------------------------------------------------------------------------- */

static void scribble(state *s, program *p) {
    size_t at = take(p, 2) % (sizeof(ring_shared) + CAPACITY), n = take(p, 1);
    if (n > sizeof(ring_shared) + CAPACITY - at) n = sizeof(ring_shared) + CAPACITY - at;
    take_into(p, (uint8_t *)s->ring + at, n);
}

/* A position near where something interesting is, or anywhere. */
static uint64_t lie(state *s, program *p) {
    static const uint64_t far[] = {0, 7, 8, CAPACITY, 1ULL << 32, 1ULL << 63, UINT64_MAX - 7, UINT64_MAX};
    uint8_t kind = (uint8_t)take(p, 1);
    int16_t by = (int16_t)take(p, 2);
    uint64_t base = kind & 8 ? s->consumer.position : s->producer.written;
    if (kind & 16) return far[kind & 7];
    return base + (uint64_t)(int64_t)by;
}

/* A record at the consumer's place whose header lies as the input says, and whose checksum is right all the same. */
static void forge(state *s, program *p) {
    uint64_t position = s->consumer.position & ~7ULL, at = position & (CAPACITY - 1);
    uint8_t kind = (uint8_t)take(p, 1);
    ring_record record = {0, 0, 0, 0, GENERATION, position};
    /* Any length, or one that a record may have, or a little more. */
    record.len = kind & 1 ? (uint32_t)take(p, 4) : (uint32_t)take(p, 2) % (uint32_t)(ring_payload_max(CAPACITY) + 16);
    record.type = (uint16_t)take(p, 1);
    if (kind & 2) record.generation = (uint32_t)take(p, 1);
    if (kind & 4) record.seq = lie(s, p);
    if (CAPACITY - at < sizeof record) {
        memcpy(s->ring->buf + at, &record.len, 4);
        return;
    }
    uint64_t there = CAPACITY - at - sizeof record;
    if (record.len <= there && kind & 8) record.crc = ring_record_crc(&record, s->ring->buf + at + sizeof record);
    memcpy(s->ring->buf + at, &record, sizeof record);
    if (kind & 16) atomic_store(&s->ring->tail, position + ring_record_bytes(record.len));
}

static void be_mad(state *s, program *p, uint8_t op) {
    switch (op & 3) {
        case 0: scribble(s, p); break;
        case 1: atomic_store(&s->ring->tail, lie(s, p)); break;
        case 2: atomic_store(&s->ring->head, lie(s, p)); break;
        default: forge(s, p);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static state s;
    if (!ring_crc_table[0][1]) ring_init();
    program p = {data, data + size};
    uint8_t mode = (uint8_t)take(&p, 1);
    s.ring = aligned_bytes(sizeof(ring_shared) + CAPACITY);
    s.pushed = s.published = s.drained = 0;
    s.mad = mode & 1;
    ring_format(s.ring, CAPACITY, GENERATION);
    /* Any place of any lap, also where a position no longer fits 32 bits. (64 bits never wrap: that is 18 exabytes.) */
    uint64_t start = (take(&p, 2) << 3) + (mode & 2 ? UINT32_MAX - 0xFFFFULL : 0) + (mode & 4 ? 1ULL << 62 : 0);
    atomic_store(&s.ring->head, start);
    atomic_store(&s.ring->tail, start);
    ring_consumer_attach(&s.consumer, s.ring, CAPACITY, GENERATION);
    ring_producer_attach(&s.producer, s.ring, CAPACITY, GENERATION);
    MUST(!s.consumer.fault && !s.producer.fault);
    while (p.at < p.end) {
        uint8_t op = (uint8_t)take(&p, 1);
        /* Whatever the other side wrote, each side's own idea of the ring stays possible. */
        if (!s.consumer.fault) MUST(s.consumer.position <= s.consumer.tail);
        if (!s.consumer.fault) MUST(s.consumer.tail - s.consumer.position <= CAPACITY);
        if (!s.producer.fault) MUST(ring_producer_free(&s.producer) <= CAPACITY);
        switch (op >> 2 & 7) {
            case 0:
            case 1: push(&s, &p); break;
            case 2: publish(&s); break;
            case 3: drain(&s, &p); break;
            case 4: sleep_and_wake(&s); break;
            case 5: want_space(&s); break;
            case 6: attach_again(&s, &p); break;
            default:
                if (s.mad) be_mad(&s, &p, op);
        }
    }
    free(s.ring);
    return 0;
}
