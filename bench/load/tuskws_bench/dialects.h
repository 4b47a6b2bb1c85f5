/* What a frame means in each dialect: ours (traffic.h), the raw one, and those of peers that have a protocol.
 *
 *     raw         the payload is the message
 *     nchan       the same; its own answers to a publication are text without a stamp
 *     socketio    Engine.IO 4 over WebSocket: `0` opens, `40` connects, `42["m","…"]` is an event, `2` asks for `3`
 *     nats        a stream of lines in frames: INFO, CONNECT, SUB, PUB, MSG; a message may go on in the next frame
 */
#ifndef TUSKWS_BENCH_DIALECTS_H
#define TUSKWS_BENCH_DIALECTS_H

#include "inflate.h"
#include "side.h"

static void on_raw(client_t *client, conn_t *conn, const frame_t *frame, size_t bytes, uint64_t now_us) {
    if (frame->length >= STAMP_BYTES && (client->dialect == DIALECT_RAW || frame->payload[0] == '~'))
        deliver(client, conn, frame->payload, bytes, now_us);
    else if (client->dialect == DIALECT_NCHAN) client->counters.other_pushes++;
    else client->counters.foreign++;
}

static bool begins(const frame_t *frame, const char *text) {
    size_t length = strlen(text);
    return frame->length >= length && memcmp(frame->payload, text, length) == 0;
}

static void on_socketio(client_t *client, conn_t *conn, const frame_t *frame, size_t bytes, uint64_t now_us) {
    static const char event[] = "42[\"m\",\"";
    char text[COMMAND_BYTES_MAX];
    if (begins(frame, event) && frame->length >= sizeof event - 1 + STAMP_BYTES) {
        deliver(client, conn, frame->payload + sizeof event - 1, bytes, now_us);
    } else if (begins(frame, "2")) {
        client->counters.pings_answered++;
        conn_send_frame(client, conn, OP_TEXT, "3", 1);
    } else if (begins(frame, "0") && conn->state == CONN_WELCOME) {
        conn_send_frame(client, conn, OP_TEXT, "40", 2);
    } else if (begins(frame, "40") && conn->state == CONN_WELCOME) {
        if (conn->room < 0) {
            become_ready(client, conn);
            return;
        }
        conn->state = CONN_JOINING;
        int length = snprintf(text, sizeof text, "420[\"join\",\"%s\"]", client->rooms[conn->room].name);
        conn_send_frame(client, conn, OP_TEXT, text, (size_t)length);
    } else if (begins(frame, "430") && conn->state == CONN_JOINING) {
        become_ready(client, conn);
    } else {
        client->counters.foreign++;
    }
}

static void nats_greet(client_t *client, conn_t *conn) {
    char text[COMMAND_BYTES_MAX];
    int length = snprintf(text, sizeof text, "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true}\r\n");
    if (conn->room >= 0)
        length += snprintf(text + length, sizeof text - (size_t)length, "SUB %s 1\r\n", client->rooms[conn->room].name);
    length += snprintf(text + length, sizeof text - (size_t)length, "PING\r\n");
    conn->state = CONN_JOINING;
    conn_send_frame(client, conn, OP_BINARY, text, (size_t)length);
}

/* Bytes of the first line, with what belongs to it, at `at`; 0 while it is incomplete. */
static size_t take_nats(client_t *client, conn_t *conn, const uint8_t *at, size_t left, uint64_t now_us) {
    const uint8_t *end = memmem(at, left, "\r\n", 2);
    if (end == NULL) return 0;
    size_t line = (size_t)(end - at) + 2;
    if (line > 6 && memcmp(at, "MSG ", 4) == 0) {
        size_t size = 0, digits = line - 2;
        while (digits && at[digits - 1] != ' ') digits--;
        for (; digits < line - 2; digits++) size = size * 10 + (size_t)(at[digits] - '0');
        if (size > FRAME_BYTES_MAX) {
            conn_close(client, conn, "a NATS message over the load client's limit");
            return 0;
        }
        if (left < line + size + 2) return 0;
        if (size >= STAMP_BYTES) deliver(client, conn, at + line, line + size + 2, now_us);
        else client->counters.foreign++;
        return line + size + 2;
    }
    if (memcmp(at, "PING", line < 4 ? line : 4) == 0) {
        client->counters.pings_answered++;
        conn_send_frame(client, conn, OP_BINARY, "PONG\r\n", 6);
    } else if (memcmp(at, "PONG", line < 4 ? line : 4) == 0) {
        if (conn->state == CONN_JOINING) become_ready(client, conn);
    } else if (memcmp(at, "-ERR", line < 4 ? line : 4) == 0) {
        char why[TEXT_BYTES];
        snprintf(why, sizeof why, "%.*s", (int)(line < 100 ? line - 2 : 98), (const char *)at);
        conn_close(client, conn, why);
        return 0;
    } else if (memcmp(at, "INFO", line < 4 ? line : 4) == 0) {
        if (conn->state == CONN_WELCOME) nats_greet(client, conn);
    } else if (at[0] != '+') {
        client->counters.foreign++;
    }
    return line;
}

static void on_nats(client_t *client, conn_t *conn, const frame_t *frame, uint64_t now_us) {
    const uint8_t *at = frame->payload;
    size_t left = frame->length, used;
    bool carried = conn->text_length > 0;
    if (carried) {
        if (!append(&conn->text, &conn->text_length, &conn->text_capacity, at, left)) {
            conn_close(client, conn, "no memory");
            return;
        }
        at = conn->text, left = conn->text_length;
    }
    while (left && conn->state != CONN_CLOSED && (used = take_nats(client, conn, at, left, now_us)) > 0) at += used, left -= used;
    if (conn->state == CONN_CLOSED) return;
    if (carried) {
        memmove(conn->text, at, left);
        conn->text_length = (uint32_t)left;
    } else if (left && !append(&conn->text, &conn->text_length, &conn->text_capacity, at, left)) {
        conn_close(client, conn, "no memory");
    }
}

static inline void on_text(client_t *client, conn_t *conn, const frame_t *frame, size_t bytes, uint64_t now_us) {
    const uint8_t *payload = frame->payload;
    size_t at = client->stamp_at;
    switch (client->dialect) {
        case DIALECT_RAW:
        case DIALECT_NCHAN: on_raw(client, conn, frame, bytes, now_us); return;
        case DIALECT_SOCKETIO: on_socketio(client, conn, frame, bytes, now_us); return;
        case DIALECT_NATS: on_nats(client, conn, frame, now_us); return;
        default: break;
    }
    if (conn->side >= 0) {
        on_side_text(client, conn, frame, now_us);
    } else if (!client->batch && frame->length > at + STAMP_BYTES && payload[at] == '"' && payload[at + 1] == '~') {
        deliver(client, conn, payload + at + 1, bytes, now_us);
    } else {
        on_other_text(client, conn, frame, bytes, now_us);
    }
}

static void on_frame(client_t *client, conn_t *conn, frame_t *frame, size_t bytes, uint64_t now_us) {
    client->counters.frames++;
    if ((frame->opcode == OP_TEXT || frame->opcode == OP_BINARY) && frame->fin) {
        if (frame->compressed) {
            client->counters.compressed++;
            if (!inflate_frame(client->inflater, frame)) {
                conn_close(client, conn, "a compressed message that cannot be inflated");
                return;
            }
        }
        on_text(client, conn, frame, bytes, now_us);
    } else if (frame->opcode == OP_PING) {
        client->counters.pings_answered++;
        conn_send_frame(client, conn, OP_PONG, frame->payload, frame->length);
    } else if (frame->opcode == OP_CLOSE) {
        char why[TEXT_BYTES];
        unsigned code = frame->length >= 2 ? (unsigned)frame->payload[0] << 8 | frame->payload[1] : 1005;
        snprintf(why, sizeof why, "closed by the server: %u %.*s", code, frame->length > 2 ? (int)frame->length - 2 : 0,
                 (const char *)frame->payload + 2);
        if (!client->ending) conn_send_frame(client, conn, OP_CLOSE, frame->payload, frame->length);
        conn_close(client, conn, why);
    } else if (frame->opcode != OP_PONG) {
        conn_close(client, conn, "a fragmented message or an unknown opcode: this client reads neither");
    }
}

#endif
