/* A fuzz input read as a program: the next byte is an operation, its arguments follow it. Reading past the end gives
   zeros, so every input is a program and a shorter one of the same meaning is always possible. */

#ifndef TUSKWS_FUZZ_PROGRAM_H
#define TUSKWS_FUZZ_PROGRAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *at, *end;
} program;

static inline uint64_t take(program *p, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        if (p->at < p->end) value |= (uint64_t)*p->at++ << 8 * i;
    return value;
}

static inline void take_into(program *p, void *out, size_t bytes) {
    size_t there = (size_t)(p->end - p->at), n = bytes < there ? bytes : there;
    memset(out, 0, bytes);
    if (n) memcpy(out, p->at, n);
    p->at += n;
}

/* A finding that no sanitizer sees: the code did something other than its contract says. */
#define MUST(condition)                                                                                               \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: broken contract: %s\n", __FILE__, __LINE__, #condition);                          \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

/* `n` bytes of the heap on a 128-byte line, ending where they end, so that AddressSanitizer sees one byte too far. */
static inline void *aligned_bytes(size_t n) {
    void *memory = NULL;
    MUST(!posix_memalign(&memory, 128, n));
    memset(memory, 0, n);
    return memory;
}

#endif
