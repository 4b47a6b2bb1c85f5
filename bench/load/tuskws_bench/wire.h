/* What is on the wire: frames of RFC 6455 as a client reads and writes them, and the stamp inside a measured message.
 *
 * A stamp is 16 characters that need no escape in JSON, the first thing in the message, so that a delivery is checked
 * without parsing JSON. Six bits a character, most significant first:
 *
 *     ~ | run 1 | publisher 3 | seq 5 | intended send time 6, in microseconds since the run's base
 *
 * The rest of the message is filler. `seq` counts 1, 2, 3 … for each publisher; `run` tells a stray message of another
 * run from ours. Nothing here allocates or keeps state.
 */
#ifndef TUSKWS_BENCH_WIRE_H
#define TUSKWS_BENCH_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define STAMP_BYTES 16
#define PUBLISHERS_MAX (1u << 18)
#define SEQ_MAX ((1u << 30) - 1)
#define FRAME_BYTES_MAX (16 * 1024 * 1024) /* nats-server puts all that waits for a client into one frame */

enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

typedef struct {
    uint8_t opcode;
    uint8_t fin;
    uint8_t compressed;
    size_t length; /* of the payload */
    const uint8_t *payload;
} frame_t;

typedef struct {
    unsigned run;
    uint32_t publisher;
    uint32_t seq;
    uint64_t time_us;
} stamp_t;

/* ---- frames ---- */

/* Bytes that the first frame at `bytes` occupies, 0 while it is incomplete, -1 for what no server may send us:
 * a mask, a reserved bit (but `compression`'s on a data frame, where that was agreed), a control frame that is long or in
 * pieces, a frame over FRAME_BYTES_MAX. */
static inline int64_t frame_parse(const uint8_t *bytes, size_t have, frame_t *frame, int compression) {
    if (have < 2) return 0;
    size_t length = bytes[1], head = 2;
    if ((bytes[0] & (compression && !(bytes[0] & 0x08) ? 0x30 : 0x70)) || (length & 0x80)) return -1;
    if ((bytes[0] & 0x08) && (length > 125 || !(bytes[0] & 0x80))) return -1;
    if (length == 126) {
        if (have < 4) return 0;
        length = (size_t)bytes[2] << 8 | bytes[3], head = 4;
    } else if (length == 127) {
        if (have < 10) return 0;
        uint64_t wide = 0;
        for (unsigned i = 2; i < 10; i++) wide = wide << 8 | bytes[i];
        if (wide > FRAME_BYTES_MAX - 10) return -1;
        length = (size_t)wide, head = 10;
    }
    if (have < head + length) return 0;
    frame->opcode = bytes[0] & 0x0F;
    frame->fin = bytes[0] >> 7;
    frame->compressed = bytes[0] >> 6 & 1;
    frame->length = length;
    frame->payload = bytes + head;
    return (int64_t)(head + length);
}

static inline void mask_bytes(uint8_t *bytes, size_t length, uint32_t key) {
    uint64_t wide = (uint64_t)key << 32 | key, word;
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, bytes + i, 8);
        word ^= wide;
        memcpy(bytes + i, &word, 8);
    }
    for (; i < length; i++) bytes[i] ^= (uint8_t)(key >> (8 * (i & 3)));
}

/* Bytes a masked frame needs in front of its payload. */
static inline size_t mask_head_bytes(size_t length) { return length < 126 ? 6 : length < 65536 ? 8 : 14; }

/* Write the head at `at` and mask the payload that stands behind it already. */
static inline void frame_seal(uint8_t *at, uint8_t opcode, size_t length, uint32_t key) {
    at[0] = 0x80 | opcode;
    size_t head = mask_head_bytes(length);
    if (head == 6) {
        at[1] = 0x80 | (uint8_t)length;
    } else if (head == 8) {
        at[1] = 0x80 | 126, at[2] = (uint8_t)(length >> 8), at[3] = (uint8_t)length;
    } else {
        at[1] = 0x80 | 127;
        for (unsigned i = 0; i < 8; i++) at[2 + i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
    }
    memcpy(at + head - 4, &key, 4); /* little-endian, as mask_bytes takes it apart */
    mask_bytes(at + head, length, key);
}

/* ---- stamps ---- */

static const char STAMP_DIGITS[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
static uint8_t stamp_values[256]; /* 0xFF: not a digit */

static inline void stamp_tables(void) {
    memset(stamp_values, 0xFF, sizeof stamp_values);
    for (unsigned i = 0; i < 64; i++) stamp_values[(uint8_t)STAMP_DIGITS[i]] = (uint8_t)i;
}

static inline void stamp_number(uint8_t *at, unsigned digits, uint64_t value) {
    for (unsigned i = digits; i-- > 0; value >>= 6) at[i] = (uint8_t)STAMP_DIGITS[value & 63];
}

static inline void stamp_write(uint8_t *at, const stamp_t *stamp) {
    at[0] = '~';
    stamp_number(at + 1, 1, stamp->run);
    stamp_number(at + 2, 3, stamp->publisher);
    stamp_number(at + 5, 5, stamp->seq);
    stamp_number(at + 10, 6, stamp->time_us);
}

/* False unless a whole, well-formed stamp stands at `at` (16 readable bytes). */
static inline int stamp_read(const uint8_t *at, stamp_t *stamp) {
    uint8_t digit[STAMP_BYTES], any = 0;
    for (unsigned i = 1; i < STAMP_BYTES; i++) any |= digit[i] = stamp_values[at[i]];
    if (at[0] != '~' || (any & 0x80)) return 0;
    stamp->run = digit[1];
    stamp->publisher = (uint32_t)digit[2] << 12 | (uint32_t)digit[3] << 6 | digit[4];
    uint32_t seq = 0, high = 0, low = 0;
    for (unsigned i = 5; i < 10; i++) seq = seq << 6 | digit[i];
    for (unsigned i = 10; i < 13; i++) high = high << 6 | digit[i];
    for (unsigned i = 13; i < 16; i++) low = low << 6 | digit[i];
    stamp->seq = seq;
    stamp->time_us = (uint64_t)high << 18 | low;
    return 1;
}

#endif
