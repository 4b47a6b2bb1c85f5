/* A latency histogram of fixed size: exact below 128, then 64 buckets an octave (an error of at most 1.6 %).
 *
 *     index   0 .. 127        the value itself
 *             128 .. 191      128 .. 255 in steps of 2
 *             192 .. 255      256 .. 511 in steps of 4          and so on, up to 2^36 - 1
 *
 * The unit is the caller's (the client uses microseconds). Adding costs a count of leading zeros and one increment in
 * 16 KiB; histograms of several processes merge by adding their counts. Nothing is sampled, nothing is forgotten.
 */
#ifndef TUSKWS_BENCH_HISTOGRAM_H
#define TUSKWS_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_HALF 64
#define HISTOGRAM_VALUE_MAX ((1ULL << 36) - 1)
#define HISTOGRAM_BUCKETS (29 * HISTOGRAM_HALF + 2 * HISTOGRAM_HALF)

typedef struct {
    uint64_t count, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
} histogram_t;

static inline unsigned histogram_index(uint64_t value) {
    if (value < 2 * HISTOGRAM_HALF) return (unsigned)value;
    unsigned shift = 57 - (unsigned)__builtin_clzll(value); /* value >> shift lies in 64 .. 127 */
    return shift * HISTOGRAM_HALF + (unsigned)(value >> shift);
}

/* The largest value that falls into the bucket: percentiles never flatter. */
static inline uint64_t histogram_upper(unsigned index) {
    if (index < 2 * HISTOGRAM_HALF) return index;
    unsigned shift = index / HISTOGRAM_HALF - 1;
    return (((uint64_t)(index - shift * HISTOGRAM_HALF) + 1) << shift) - 1;
}

static inline void histogram_add(histogram_t *h, uint64_t value) {
    if (value > HISTOGRAM_VALUE_MAX) value = HISTOGRAM_VALUE_MAX;
    h->buckets[histogram_index(value)]++;
    h->count++;
    if (value > h->max) h->max = value;
}

/* The smallest recorded value (to bucket precision) that `fraction` of all values do not exceed; 0 when empty. */
static inline uint64_t histogram_percentile(const histogram_t *h, double fraction) {
    double wanted = fraction * (double)h->count;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen && (double)seen >= wanted) {
            uint64_t upper = histogram_upper(i);
            return upper < h->max ? upper : h->max;
        }
    }
    return h->max;
}

static inline void histogram_merge(histogram_t *into, const histogram_t *from) {
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) into->buckets[i] += from->buckets[i];
    into->count += from->count;
    if (from->max > into->max) into->max = from->max;
}

#endif
