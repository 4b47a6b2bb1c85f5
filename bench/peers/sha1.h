/* SHA-1 and base64 of a handshake key: all of either that RFC 6455 section 4.2.2 needs, so that the peer links nothing.
 *
 * The input is always 60 bytes (24 of the client's key, 36 of the fixed GUID), hence always two blocks.
 */
#ifndef TUSKWS_PEER_SHA1_H
#define TUSKWS_PEER_SHA1_H

#include <stdint.h>
#include <string.h>

#define KEY_BYTES 24
#define ACCEPT_BYTES 28

static uint32_t sha1_rotate(uint32_t value, unsigned bits) { return (value << bits) | (value >> (32 - bits)); }

static void sha1_block(uint32_t state[5], const uint8_t *block) {
    uint32_t w[80];
    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (unsigned i = 16; i < 80; i++) w[i] = sha1_rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (unsigned i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) {
            f = (b & c) | (~b & d), k = 0x5A827999;
        } else if (i < 40) {
            f = b ^ c ^ d, k = 0x6ED9EBA1;
        } else if (i < 60) {
            f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        } else {
            f = b ^ c ^ d, k = 0xCA62C1D6;
        }
        uint32_t next = sha1_rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = sha1_rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* `accept` gets 28 characters and no terminator. */
static void accept_of_key(const char key[KEY_BYTES], char accept[ACCEPT_BYTES]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t blocks[128] = {0};
    memcpy(blocks, key, KEY_BYTES);
    memcpy(blocks + KEY_BYTES, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    blocks[60] = 0x80;
    blocks[126] = (60 * 8) >> 8, blocks[127] = (60 * 8) & 0xFF;
    sha1_block(state, blocks);
    sha1_block(state, blocks + 64);

    uint8_t digest[21] = {0};
    for (unsigned i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
    for (unsigned i = 0; i < 7; i++) {
        uint32_t group = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (unsigned j = 0; j < 4; j++) accept[4 * i + j] = digits[group >> (18 - 6 * j) & 63];
    }
    accept[ACCEPT_BYTES - 1] = '='; /* 20 bytes leave two in the last group: one padding character */
}

#endif
