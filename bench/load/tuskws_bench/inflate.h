/* Compressed messages: inflated once for all members that got the same bytes.
 *
 * A member's context is not taken over from message to message (the client asks for that), so equal bytes mean equal
 * text, and a fan-out sends the same bytes to everybody. A small table of what was inflated last, by a hash of the
 * compressed bytes and checked by comparing all of them, spares the rest of the work: otherwise zlib here, and not the
 * server, would be measured.
 */
#ifndef TUSKWS_BENCH_INFLATE_H
#define TUSKWS_BENCH_INFLATE_H

#include <zlib.h>

#include "state.h"

#define INFLATE_SLOTS 1024
#define INFLATE_BYTES_MAX (1024 * 1024)

typedef struct {
    uint8_t *packed, *text;
    uint32_t packed_length, text_length;
} inflated_t;

struct inflater {
    z_stream stream;
    inflated_t slots[INFLATE_SLOTS];
    uint8_t *packed; /* the message with the tail that permessage-deflate leaves out */
    uint8_t *text;
};

static struct inflater *inflater_new(void) {
    struct inflater *made = calloc(1, sizeof *made);
    if (made == NULL) return NULL;
    made->packed = malloc(INFLATE_BYTES_MAX + 4), made->text = malloc(INFLATE_BYTES_MAX);
    if (made->packed && made->text && inflateInit2(&made->stream, -15) == Z_OK) return made;
    free(made->packed), free(made->text), free(made);
    return NULL;
}

static void inflater_free(struct inflater *inflater) {
    if (inflater == NULL) return;
    for (unsigned i = 0; i < INFLATE_SLOTS; i++) free(inflater->slots[i].packed), free(inflater->slots[i].text);
    inflateEnd(&inflater->stream);
    free(inflater->packed), free(inflater->text), free(inflater);
}

static bool inflate_once(struct inflater *inflater, const frame_t *frame, size_t *length) {
    static const uint8_t tail[4] = {0x00, 0x00, 0xFF, 0xFF};
    if (frame->length > INFLATE_BYTES_MAX) return false;
    memcpy(inflater->packed, frame->payload, frame->length);
    memcpy(inflater->packed + frame->length, tail, 4);
    z_stream *stream = &inflater->stream;
    if (inflateReset(stream) != Z_OK) return false;
    stream->next_in = inflater->packed, stream->avail_in = (uInt)frame->length + 4;
    stream->next_out = inflater->text, stream->avail_out = INFLATE_BYTES_MAX;
    int result = inflate(stream, Z_SYNC_FLUSH);
    *length = INFLATE_BYTES_MAX - stream->avail_out;
    return (result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR) && stream->avail_in == 0 && stream->avail_out > 0;
}

/* Put the text of a compressed frame in its place; false for what cannot be inflated. It is valid until the next call. */
static bool inflate_frame(struct inflater *inflater, frame_t *frame) {
    uint64_t hash = frame->length;
    for (size_t i = 0; i < frame->length; i++) hash = (hash ^ frame->payload[i]) * 0x100000001B3ULL;
    inflated_t *slot = &inflater->slots[(hash ^ hash >> 32) % INFLATE_SLOTS];
    if (slot->packed_length != frame->length || !slot->packed || !slot->text || memcmp(slot->packed, frame->payload, frame->length)) {
        size_t length;
        if (!inflate_once(inflater, frame, &length)) return false;
        free(slot->packed), free(slot->text);
        slot->packed = malloc(frame->length + 1), slot->text = malloc(length + 1);
        slot->packed_length = (uint32_t)frame->length, slot->text_length = (uint32_t)length;
        if (slot->packed == NULL || slot->text == NULL) return false;
        memcpy(slot->packed, frame->payload, frame->length);
        memcpy(slot->text, inflater->text, length);
    }
    frame->payload = slot->text, frame->length = slot->text_length;
    return true;
}

#endif
