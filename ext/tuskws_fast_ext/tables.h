/* Limits and counters that all processes of a node share: three tables in plain shared memory, lock-free.

   Every table opens with one line that the first to attach fills in; zeroed memory is an empty table.

       0          8          16         24                         128
       ├──────────┼──────────┼──────────┼──────────────────────────┼────────────────────────
       │ shape    │ refused  │ evicted  │                          │ rows, buckets or slots
       └──────────┴──────────┴──────────┴──────────────────────────┴────────────────────────
       shape = kind << 56 | columns: who attaches with another idea of the layout is refused

   Counters    one row a process on cache lines of its own, columns of u64; one writer a row, so no locked instruction
   RateTable   buckets of 8 words, one cache line each; a word is everything known of one user's rate
   Admission   slots of a key and one u32 column a worker; what a worker holds is what its own column says, so the
               supervisor makes a killed worker's share vanish exactly by zeroing that column

   A limit must not be passed, even for a moment, by two processes that ask at once. It may be refused falsely where
   two ask for the last place in the same instant, and where a table is too full (both are counted, never silent). */

#ifndef TUSKWS_TABLES_H
#define TUSKWS_TABLES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define TABLE_HEADER 128U

typedef struct {
    _Atomic uint64_t shape;
    _Atomic uint64_t refused; /* admissions refused because no slot was left in a key's window */
    _Atomic uint64_t evicted; /* rates forgotten because a bucket overflowed */
    _Alignas(128) uint8_t body[];
} table_shared;

_Static_assert(sizeof(table_shared) == TABLE_HEADER, "the diagram above is the layout");

enum table_kind { TABLE_COUNTERS = 1, TABLE_RATES = 2, TABLE_ADMISSION = 3 };

/* 1 = the table has this shape (now). */
static int table_adopt(table_shared *table, uint64_t kind, uint64_t columns) {
    uint64_t found = 0, shape = kind << 56 | columns;
    return atomic_compare_exchange_strong(&table->shape, &found, shape) || found == shape;
}

static inline uint64_t table_count(_Atomic uint64_t *cell) {
    return atomic_load_explicit(cell, memory_order_relaxed);
}

/* -- counters ---------------------------------------------------------------------------------------------------- */

static inline uint64_t counters_stride(uint64_t columns) { return (columns * 8 + 127) & ~127ULL; }

static inline _Atomic uint64_t *counters_cell(table_shared *table, uint64_t row, uint64_t columns, uint64_t column) {
    return (_Atomic uint64_t *)(table->body + row * counters_stride(columns)) + column;
}

static inline void counters_set(_Atomic uint64_t *cell, uint64_t value) {
    atomic_store_explicit(cell, value, memory_order_relaxed);
}

/* -- rates (GCRA) ------------------------------------------------------------------------------------------------ */

/* A word: 18 bits of the key's hash | 46 bits of theoretical arrival time (tat) in microseconds.
   The tat is when the user's bucket will be full again: in the past, the word says nothing that an absent one would
   not, and it may be taken over. 46 bits are 2.2 years, so times are compared modulo 2^46: within AHEAD (12 days) in
   front of `now` is the future, all else the past.
   Two users share a word, and thereby a limit, if they meet in a bucket with the same 18 bits: 7 of 262,144 users in
   a full table.

   No locks and still exact, because every slot's tat only grows (while no bucket overflows) and a new word always
   goes where the smallest is. Say A put a user into slot a while B puts the same user into b, neither seeing the
   other's word. A chose a: a's value was below the b that A read, which is at most the b that B replaced, which was
   below the a that B read. So B read an `a` that is newer than the one A replaced: A's own word. Contradiction. */
#define RATE_WAYS 8
#define RATE_TIME_BITS 46
#define RATE_TIME_MASK ((1ULL << RATE_TIME_BITS) - 1)
#define RATE_AHEAD (1ULL << 40)

/* How far `tat` lies in front of `now`; 0 = it is past. */
static inline uint64_t rate_ahead(uint64_t tat, uint64_t now) {
    uint64_t ahead = (tat - now) & RATE_TIME_MASK;
    return ahead < RATE_AHEAD ? ahead : 0;
}

/* Orders tats: the longest past is least, an empty word less than all. */
static inline uint64_t rate_rank(uint64_t word, uint64_t now) {
    return word ? 1 + (((word & RATE_TIME_MASK) - now - RATE_AHEAD) & RATE_TIME_MASK) : 0;
}

/* Microseconds to wait until `taken` more would be allowed; 0 = they are taken, or with `look` only would be. Nothing is
   taken otherwise.
   `step` is what one costs in microseconds, `depth` = burst * step is how far ahead the tat may run. */
static uint64_t rate_take(table_shared *table, uint64_t buckets, uint64_t hash, uint64_t now, uint64_t taken,
                          uint64_t depth, int look) {
    _Atomic uint64_t *bucket = (_Atomic uint64_t *)table->body + (hash % buckets) * RATE_WAYS;
    uint64_t tag = hash >> RATE_TIME_BITS << RATE_TIME_BITS;
    for (;;) {
        uint64_t least_rank = UINT64_MAX, word = 0;
        int slot = -1, found = 0;
        for (int i = 0; i < RATE_WAYS && !found; i++) {
            uint64_t seen = atomic_load_explicit(&bucket[i], memory_order_acquire);
            found = seen && (seen & ~RATE_TIME_MASK) == tag;
            uint64_t rank = rate_rank(seen, now);
            if (found || rank < least_rank) {
                least_rank = rank;
                slot = i;
                word = seen;
            }
        }
        uint64_t ahead = word ? rate_ahead(word & RATE_TIME_MASK, now) : 0;
        int evicts = !found && ahead;
        if (!found) ahead = 0;
        /* After a reload to a smaller burst a tat may be further ahead than the limit allows: an empty bucket. */
        if (ahead > depth) ahead = depth;
        if (ahead + taken > depth) return ahead + taken - depth;
        if (look) return 0;
        uint64_t next = tag | ((now + ahead + taken) & RATE_TIME_MASK);
        if (atomic_compare_exchange_strong(&bucket[slot], &word, next)) {
            if (evicts) atomic_fetch_add_explicit(&table->evicted, 1, memory_order_relaxed);
            return 0;
        }
    }
}

/* -- admission --------------------------------------------------------------------------------------------------- */

/* A slot: u64 key (54 bits of the hash | 10 bits `taker`) | u32 column of worker 0 | … | padding to 8 bytes.

   The count of a key is the sum over all slots of its window that carry it, so it does no harm when two workers
   claim two slots for one key in the same instant. A window ends at the first slot never used (a key never returns
   to 0), or after ADMISSION_WINDOW slots.

   A slot whose columns are all zero may be taken for another key. The taker first marks it (`taker` = its worker
   number + 1), so that two things hold while it looks again: a worker that counts itself in sees the mark and takes
   itself out again, or the taker sees its column (store, seq_cst, load on both sides); and whoever sums up still finds
   the key, mark or not. A taker that is killed leaves the mark, and `admission_clear` wipes it. */
#define ADMISSION_WINDOW 32
#define ADMISSION_TAKER_BITS 10
#define ADMISSION_WORKERS_MAX ((1 << ADMISSION_TAKER_BITS) - 1)
#define ADMISSION_KEY(word) ((word) >> ADMISSION_TAKER_BITS << ADMISSION_TAKER_BITS)

typedef struct {
    table_shared *table;
    uint64_t slots;
    uint32_t workers;
    uint32_t worker;
} admission_table;

static inline uint64_t admission_stride(uint64_t workers) { return 8 + ((workers * 4 + 7) & ~7ULL); }

static inline uint64_t admission_key(uint64_t hash) {
    uint64_t key = ADMISSION_KEY(hash);
    return key ? key : 1ULL << ADMISSION_TAKER_BITS;
}

static inline _Atomic uint64_t *admission_slot(const admission_table *t, uint64_t hash, uint64_t i) {
    return (_Atomic uint64_t *)(t->table->body + ((hash % t->slots + i) % t->slots) * admission_stride(t->workers));
}

static inline _Atomic uint32_t *admission_columns(_Atomic uint64_t *slot) { return (_Atomic uint32_t *)(slot + 1); }

static inline uint64_t admission_window(const admission_table *t) {
    return t->slots < ADMISSION_WINDOW ? t->slots : ADMISSION_WINDOW;
}

static uint64_t admission_slot_sum(const admission_table *t, _Atomic uint64_t *slot) {
    uint64_t sum = 0;
    for (uint32_t w = 0; w < t->workers; w++) sum += atomic_load(&admission_columns(slot)[w]);
    return sum;
}

static uint64_t admission_sum(const admission_table *t, uint64_t hash) {
    uint64_t key = admission_key(hash), sum = 0;
    for (uint64_t i = 0; i < admission_window(t); i++) {
        _Atomic uint64_t *slot = admission_slot(t, hash, i);
        uint64_t word = atomic_load(slot);
        if (!word) break;
        if (ADMISSION_KEY(word) == key) sum += admission_slot_sum(t, slot);
    }
    return sum;
}

/* Gives the slot to `key` if it is free, or nobody is counted in it. */
static int admission_take_slot(const admission_table *t, _Atomic uint64_t *slot, uint64_t word, uint64_t key) {
    uint64_t marked = word | (t->worker + 1);
    if (!word) return atomic_compare_exchange_strong(slot, &word, key);
    if (word != ADMISSION_KEY(word) || admission_slot_sum(t, slot)) return 0;
    if (!atomic_compare_exchange_strong(slot, &word, marked)) return 0;
    atomic_thread_fence(memory_order_seq_cst);
    int empty = !admission_slot_sum(t, slot);
    atomic_store(slot, empty ? key : ADMISSION_KEY(marked));
    return empty;
}

/* A slot that carries the key, claimed if need be; NULL = the window is full of others. */
static _Atomic uint64_t *admission_find(const admission_table *t, uint64_t hash) {
    uint64_t key = admission_key(hash);
    for (uint64_t i = 0; i < admission_window(t); i++) {
        _Atomic uint64_t *slot = admission_slot(t, hash, i);
        uint64_t word = atomic_load(slot);
        if (word == key) return slot;
        if (!word) break;
    }
    for (uint64_t i = 0; i < admission_window(t); i++) {
        _Atomic uint64_t *slot = admission_slot(t, hash, i);
        uint64_t word = atomic_load(slot);
        /* A neighbour may have claimed a slot for the same key since we looked. */
        if (word == key || admission_take_slot(t, slot, word, key)) return slot;
    }
    return NULL;
}

/* 1 = counted in (give back by admission_leave), 0 = over the limit, or no slot (counted in `refused`). */
static int admission_admit(const admission_table *t, uint64_t hash, uint64_t limit) {
    uint64_t key = admission_key(hash);
    for (;;) {
        _Atomic uint64_t *slot = admission_find(t, hash);
        if (!slot) {
            atomic_fetch_add_explicit(&t->table->refused, 1, memory_order_relaxed);
            return 0;
        }
        _Atomic uint32_t *mine = &admission_columns(slot)[t->worker];
        atomic_fetch_add(mine, 1);
        atomic_thread_fence(memory_order_seq_cst);
        if (atomic_load(slot) == key) {
            if (admission_sum(t, hash) <= limit) return 1;
            atomic_fetch_sub(mine, 1);
            return 0;
        }
        atomic_fetch_sub(mine, 1); /* the slot was being taken for another key */
    }
}

/* 1 = counted out, 0 = this worker holds nothing of the key. */
static int admission_leave(const admission_table *t, uint64_t hash) {
    uint64_t key = admission_key(hash);
    for (uint64_t i = 0; i < admission_window(t); i++) {
        _Atomic uint64_t *slot = admission_slot(t, hash, i);
        uint64_t word = atomic_load(slot);
        if (!word) return 0;
        _Atomic uint32_t *mine = &admission_columns(slot)[t->worker];
        if (ADMISSION_KEY(word) == key && atomic_load(mine)) {
            atomic_fetch_sub(mine, 1);
            return 1;
        }
    }
    return 0;
}

/* What a dead, reaped worker held is gone, and so are the marks it left. */
static void admission_clear(const admission_table *t, uint32_t worker) {
    for (uint64_t i = 0; i < t->slots; i++) {
        _Atomic uint64_t *slot = admission_slot(t, 0, i);
        uint64_t word = atomic_load(slot);
        if (word - ADMISSION_KEY(word) == worker + 1U) atomic_store(slot, ADMISSION_KEY(word));
        atomic_store(&admission_columns(slot)[worker], 0);
    }
}

#endif
