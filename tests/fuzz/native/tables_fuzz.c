/* Fuzz target `tables`: ext/tuskws_fast_ext/tables.h alone. Input is a program, as in ring_fuzz.c.

   honest  one operation after the other, of several workers, against a model that counts: never more admitted than the
           limit, what is given back is free again, a dead worker's share vanishes exactly; a rate never grants more
           than the burst at once, and in the long run no more than is earned
   mad     another process writes anywhere into the tables in between: nothing outside is touched, every call returns

   The tables are small on purpose (6 admission slots, 2 rate buckets): full windows and evictions are the common case. */

#include "program.h"
#include "tables.h"

#define WORKERS 3U
#define SLOTS 6U
#define KEYS 8U
#define USERS 24U
#define BUCKETS 2U
#define COLUMNS 3U
#define ROWS 2U
#define STEP 1000U
#define BURST 4U

typedef struct {
    table_shared *admission, *rates, *counters;
    size_t sizes[3];
    uint32_t held[WORKERS][KEYS];
    uint64_t cells[ROWS][COLUMNS];
    /* Of each user: what a perfect bucket would still hold, in microseconds of credit, and when that was true. */
    uint64_t credit[USERS], credited_at[USERS];
    uint64_t now;
    int mad;
} state;

/* Hashes that meet in windows and buckets, and differ in the bits that are kept. */
static uint64_t hash_of(uint64_t key) { return key << 58 | (key * 0x9E3779B97F4A7C15ULL >> 20 & 0xFFFFFFFFFULL) << 12 | key; }

static admission_table seen_by(const state *s, uint32_t worker) {
    return (admission_table){s->admission, SLOTS, WORKERS, worker};
}

static uint64_t held_of(const state *s, uint32_t key) {
    uint64_t sum = 0;
    for (uint32_t w = 0; w < WORKERS; w++) sum += s->held[w][key];
    return sum;
}

static void admit(state *s, program *p) {
    uint32_t worker = take(p, 1) % WORKERS, key = take(p, 1) % KEYS;
    uint64_t limit = take(p, 1) % 5;
    admission_table table = seen_by(s, worker);
    uint64_t before = held_of(s, key), refused = table_count(&s->admission->refused);
    int admitted = admission_admit(&table, hash_of(key), limit);
    if (s->mad) return;
    if (admitted) {
        MUST(before < limit);
        s->held[worker][key]++;
    } else {
        MUST(before >= limit || table_count(&s->admission->refused) == refused + 1);
    }
    MUST(admission_sum(&table, hash_of(key)) == held_of(s, key));
}

static void leave(state *s, program *p) {
    uint32_t worker = take(p, 1) % WORKERS, key = take(p, 1) % KEYS;
    admission_table table = seen_by(s, worker);
    int left = admission_leave(&table, hash_of(key));
    if (s->mad) return;
    MUST(left == (s->held[worker][key] > 0));
    if (left) s->held[worker][key]--;
}

static void clear(state *s, program *p) {
    uint32_t worker = take(p, 1) % WORKERS;
    admission_table table = seen_by(s, worker);
    admission_clear(&table, worker);
    memset(s->held[worker], 0, sizeof s->held[worker]);
    if (s->mad) return;
    for (uint32_t key = 0; key < KEYS; key++) MUST(admission_sum(&table, hash_of(key)) == held_of(s, key));
}

static uint64_t credit_of(const state *s, uint32_t key) {
    uint64_t credit = s->credit[key] + (s->now - s->credited_at[key]);
    return credit > BURST * STEP ? BURST * STEP : credit;
}

/* Others of the same bucket whose credit is not full: only they need their words. */
static uint32_t neighbours(const state *s, uint32_t key) {
    uint32_t n = 0;
    for (uint32_t other = 0; other < USERS; other++)
        n += other != key && hash_of(other) % BUCKETS == hash_of(key) % BUCKETS && credit_of(s, other) < BURST * STEP;
    return n;
}

static void rate_of(state *s, uint32_t key, uint32_t cost) {
    uint64_t evicted = table_count(&s->rates->evicted), credit = credit_of(s, key);
    uint64_t looked = rate_take(s->rates, BUCKETS, hash_of(key), s->now, cost * STEP, BURST * STEP, 1);
    uint64_t wait = rate_take(s->rates, BUCKETS, hash_of(key), s->now, cost * STEP, BURST * STEP, 0);
    if (s->mad) return;
    MUST(looked == wait);
    uint64_t exact = credit >= cost * STEP ? 0 : cost * STEP - credit;
    /* Whose word was taken over starts anew with a full bucket: nobody ever waits longer than is right. */
    MUST(wait <= exact);
    if (!evicted) {
        MUST(wait == exact);
        /* Looked at only when one was taken over: it is most of what an execution costs. */
        MUST(!table_count(&s->rates->evicted) || neighbours(s, key) >= RATE_WAYS);
    }
    if (!wait) {
        s->credit[key] = credit >= cost * STEP ? credit - cost * STEP : 0;
        s->credited_at[key] = s->now;
    }
}

static void rate(state *s, program *p, int everybody) {
    uint32_t key = take(p, 1) % USERS, cost = take(p, 1) % (BURST + 1);
    for (uint32_t other = 0; everybody && other < USERS; other++) rate_of(s, other, cost);
    rate_of(s, key, cost);
}

static void count(state *s, program *p) {
    uint32_t row = take(p, 1) % ROWS, column = take(p, 1) % COLUMNS;
    uint64_t value = take(p, 8);
    _Atomic uint64_t *cell = counters_cell(s->counters, row, COLUMNS, column);
    counters_set(cell, value);
    s->cells[row][column] = value;
    for (row = 0; row < ROWS; row++)
        for (column = 0; column < COLUMNS; column++)
            MUST(s->mad || table_count(counters_cell(s->counters, row, COLUMNS, column)) == s->cells[row][column]);
}

static void scribble(state *s, program *p) {
    uint32_t which = take(p, 1) % 3;
    uint8_t *table = (uint8_t *[]){(uint8_t *)s->admission, (uint8_t *)s->rates, (uint8_t *)s->counters}[which];
    size_t at = take(p, 2) % s->sizes[which], n = take(p, 1);
    if (n > s->sizes[which] - at) n = s->sizes[which] - at;
    take_into(p, table + at, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    state s = {0};
    program p = {data, data + size};
    s.mad = take(&p, 1) & 1;
    /* From any moment: near where 46 bits of time wrap too. */
    s.now = take(&p, 2) + (take(&p, 1) & 1 ? RATE_TIME_MASK - 0x8000 : 1ULL << 45);
    s.sizes[0] = TABLE_HEADER + SLOTS * admission_stride(WORKERS);
    s.sizes[1] = TABLE_HEADER + BUCKETS * RATE_WAYS * 8;
    s.sizes[2] = TABLE_HEADER + ROWS * counters_stride(COLUMNS);
    s.admission = aligned_bytes(s.sizes[0]);
    s.rates = aligned_bytes(s.sizes[1]);
    s.counters = aligned_bytes(s.sizes[2]);
    MUST(table_adopt(s.admission, TABLE_ADMISSION, WORKERS) && !table_adopt(s.admission, TABLE_RATES, WORKERS));
    MUST(admission_stride(WORKERS) % sizeof(uint64_t) == 0);
    for (uint32_t key = 0; key < USERS; key++) {
        s.credit[key] = BURST * STEP;
        s.credited_at[key] = s.now;
    }
    while (p.at < p.end) {
        uint8_t op = (uint8_t)take(&p, 1);
        switch (op & 7) {
            case 0:
            case 1: admit(&s, &p); break;
            case 2: leave(&s, &p); break;
            case 3: clear(&s, &p); break;
            case 4: rate(&s, &p, op & 8); break;
            case 5: s.now += take(&p, 2); break;
            case 6: count(&s, &p); break;
            default:
                if (s.mad) scribble(&s, &p);
        }
    }
    free(s.admission);
    free(s.rates);
    free(s.counters);
    return 0;
}
