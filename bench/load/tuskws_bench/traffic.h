/* What the frames mean: stamps are checked and counted, commands are built, replies move a connection on.
 *
 *     deliver          one stamp in a push: loss, order, duplicates, latency, and the publisher's window
 *     on_text          one text frame: the stamp at the usual place (the fast path), else by its `type`
 *     publisher_send   a burst of messages of one publisher, in one write
 *
 * The window is exact within this process: a message is complete when each member of its room that lives here has it;
 * the publisher is told by a count in its flight. No JSON is parsed: the harness looks for the few keys it needs, and
 * it wrote every string that could contain them itself.
 */
#ifndef TUSKWS_BENCH_TRAFFIC_H
#define TUSKWS_BENCH_TRAFFIC_H

#include "conn.h"

#define BURST_BYTES (256 * 1024)
#define COMMAND_BYTES_MAX 512 /* around the message value */

/* Replies that come in the order of their commands, one each. */
static bool asks(const client_t *client) { return client->action == ACTION_PING || client->action == ACTION_PRESENCE; }

/* ---- publishing ---- */

static void queue_publisher(client_t *client, publisher_t *publisher) {
    if (publisher->queued || !client->publishing) return;
    publisher->queued = true;
    client->queue[client->queue_count++] = (uint32_t)(publisher - client->publishers);
}

static size_t write_command(client_t *client, const publisher_t *publisher, uint8_t *at, const stamp_t *stamp) {
    const char *name = client->rooms[publisher->room].name, *tail = "";
    char acked[64];
    size_t length = 0;
    switch (client->dialect) {
        case DIALECT_TUSK:
            if (client->action == ACTION_PING) return (size_t)sprintf((char *)at, "{\"type\":\"ping\"}");
            if (client->action == ACTION_PRESENCE)
                return (size_t)sprintf((char *)at, "{\"type\":\"presence\",\"status\":\"%s\",\"id\":%u}",
                                       stamp->seq & 1 ? "busy" : "online", (unsigned)stamp->seq);
            length = (size_t)sprintf((char *)at,
                                     client->action == ACTION_PRIVATE ? "{\"type\":\"private_message\",\"to\":\"%s\",\"message\":\""
                                                                      : "{\"type\":\"broadcast\",\"room\":\"%s\",\"message\":\"",
                                     name);
            tail = "\"}";
            if (client->level[0]) {
                snprintf(acked, sizeof acked, "\",\"ack\":\"%s\",\"id\":%u}", client->level, (unsigned)stamp->seq);
                tail = acked;
            }
            break;
        case DIALECT_NATS:
            length = (size_t)sprintf((char *)at, "PUB %s %u\r\n", name, (unsigned)client->payload);
            tail = "\r\n";
            break;
        case DIALECT_SOCKETIO:
            length = (size_t)sprintf((char *)at, "42[\"m\",\"%s\",\"", name);
            tail = "\"]";
            break;
        default: break;
    }
    memcpy(at + length, client->filler, client->payload);
    stamp_write(at + length, stamp);
    length += client->payload;
    memcpy(at + length, tail, strlen(tail));
    return length + strlen(tail);
}

static void output_flush(client_t *client, conn_t *conn) {
    if (client->output_length) conn_send(client, conn, client->output, client->output_length);
    client->output_length = 0;
}

/* Send `count` messages that were to leave at `due_ns`. */
static void publisher_send(client_t *client, publisher_t *publisher, uint32_t count, uint64_t due_ns) {
    conn_t *conn = &client->conns[publisher->conn];
    if (conn->state != CONN_READY) return;
    stamp_t stamp = {.run = client->run, .publisher = publisher->number, .time_us = (due_ns - client->base_ns) / 1000};
    for (uint32_t i = 0; i < count; i++) {
        stamp.seq = ++publisher->seq;
        if (publisher->flights) {
            flight_t *flight = &publisher->flights[stamp.seq & client->flight_mask];
            *flight = (flight_t){stamp.seq, client->rooms[publisher->room].members, stamp.time_us};
            if (++publisher->outstanding > client->flight_mask) {
                conn_close(client, conn, "more requests without a reply than the load client remembers");
                return;
            }
        }
        uint8_t *at = client->output + client->output_length;
        size_t room_for_head = 14, length = write_command(client, publisher, at + room_for_head, &stamp);
        size_t head = mask_head_bytes(length);
        if (head != room_for_head) memmove(at + head, at + room_for_head, length);
        frame_seal(at, OP_TEXT, length, next_mask(client));
        client->output_length += head + length;
        if (client->output_length >= BURST_BYTES) output_flush(client, conn);
    }
    client->counters.published += count;
    output_flush(client, conn);
}

static void fill_windows(client_t *client) {
    uint32_t count = client->queue_count;
    if (count == 0) return;
    uint64_t now = monotonic_ns();
    client->queue_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        publisher_t *publisher = &client->publishers[client->queue[i]];
        publisher->queued = false;
        if (client->publishing && publisher->outstanding < client->window)
            publisher_send(client, publisher, client->window - publisher->outstanding, now);
    }
}

/* Open loop: every message that is due leaves now, stamped with the time at which it should have left. */
static void send_due(client_t *client, uint64_t now) {
    while (client->publishing && client->interval_ns && client->next_due_ns <= now) {
        uint64_t due = client->next_due_ns, due_us = (due - client->base_ns) / 1000;
        publisher_send(client, &client->publishers[client->next_publisher], 1, due);
        if (due_us >= client->measure_from_us && due_us < client->measure_until_us)
            histogram_add(&client->lateness, (monotonic_ns() - due) / 1000);
        client->next_publisher = (client->next_publisher + 1) % client->publisher_count;
        client->next_due_ns += client->interval_ns;
    }
}

/* ---- receiving ---- */

static void land(client_t *client, publisher_t *publisher) {
    publisher->outstanding--;
    queue_publisher(client, publisher);
}

static inline void record_latency(client_t *client, uint64_t sent_us, uint64_t now_us) {
    if (sent_us >= client->measure_from_us && sent_us < client->measure_until_us)
        histogram_add(&client->latency, now_us > sent_us ? now_us - sent_us : 0);
}

/* The slow path of deliver(): something is missing, late, or here twice. True when the message is new to the member. */
static bool deliver_unexpected(client_t *client, track_t *track, uint32_t seq) {
    if (seq > track->last) {
        uint32_t step = seq - track->last;
        client->counters.skipped += step - 1;
        track->seen = step < 64 ? track->seen << step | 1 : 1;
        track->last = seq;
        return true;
    }
    uint32_t behind = track->last - seq;
    if (behind < 64 && !(track->seen >> behind & 1)) {
        track->seen |= 1ULL << behind;
        client->counters.out_of_order++;
        client->counters.skipped--;
        return true;
    }
    client->counters.duplicates++; /* also what is over 63 messages late: memory of more would cost each delivery */
    return false;
}

static inline void deliver(client_t *client, conn_t *conn, const uint8_t *at, size_t bytes, uint64_t now_us) {
    stamp_t stamp;
    room_t *room = conn->room < 0 ? NULL : &client->rooms[conn->room];
    uint32_t number; /* of the publisher, among those of all rooms of this member */
    if (room == NULL || !stamp_read(at, &stamp) || stamp.run != client->run || stamp.seq == 0 ||
        (number = stamp.publisher - room->publisher_base) >= conn->rooms * room->publisher_count) {
        client->counters.foreign++;
        return;
    }
    if (conn->slow) {
        client->counters.slow_deliveries++;
        return;
    }
    client->counters.delivery_bytes += bytes;
    if (conn->rooms > 1) room += number / room->publisher_count;
    track_t *track = &conn->tracks[number];
    if (stamp.seq == track->last + 1) {
        track->last = stamp.seq;
        track->seen = track->seen << 1 | 1;
    } else if (!deliver_unexpected(client, track, stamp.seq)) {
        return;
    }
    client->counters.deliveries++;
    room->unique++;
    record_latency(client, stamp.time_us, now_us);
    int32_t local = client->local_of[stamp.publisher];
    if (!client->windowed || local < 0) return;
    publisher_t *publisher = &client->publishers[local];
    flight_t *flight = &publisher->flights[stamp.seq & client->flight_mask];
    if (flight->seq == stamp.seq && --flight->missing == 0) land(client, publisher);
}

static void on_reply(client_t *client, conn_t *conn, size_t bytes, uint64_t now_us) {
    publisher_t *publisher = conn->publisher < 0 ? NULL : &client->publishers[conn->publisher];
    if (publisher != NULL && client->level[0]) {
        client->counters.acks++; /* the message itself is counted where it is delivered */
        return;
    }
    if (publisher == NULL || !asks(client) || publisher->answered == publisher->seq) {
        client->counters.foreign++;
        return;
    }
    flight_t *flight = &publisher->flights[++publisher->answered & client->flight_mask];
    client->counters.deliveries++;
    client->counters.delivery_bytes += bytes;
    client->counters.replies++;
    client->rooms[conn->room].unique++;
    record_latency(client, flight->time_us, now_us);
    land(client, publisher);
}

static void count_error(client_t *client, const uint8_t *text, size_t length) {
    static const char key[] = "\"code\":\"";
    char code[sizeof client->error_codes[0].code] = "(no code)";
    const uint8_t *at = memmem(text, length, key, sizeof key - 1);
    if (at) {
        at += sizeof key - 1;
        size_t size = 0, left = (size_t)(text + length - at);
        while (size < left && size < sizeof code - 1 && at[size] != '"') size++;
        memcpy(code, at, size);
        code[size] = 0;
    }
    client->counters.errors++;
    note_error(client, (const char *)text, length);
    for (unsigned i = 0; i < ERRORS_MAX; i++) {
        error_count_t *entry = &client->error_codes[i];
        if (entry->count == 0) memcpy(entry->code, code, sizeof code);
        if (strcmp(entry->code, code) == 0) {
            entry->count++;
            return;
        }
    }
}

static void send_join(client_t *client, conn_t *conn) {
    char text[COMMAND_BYTES_MAX];
    const char *name = client->rooms[(uint32_t)conn->room + conn->joined].name;
    int length = snprintf(text, sizeof text, "{\"type\":\"join_room\",\"room\":\"%s\"}", name);
    conn->state = CONN_JOINING;
    conn_send_frame(client, conn, OP_TEXT, text, (size_t)length);
}

static void become_ready(client_t *client, conn_t *conn) {
    if (conn->state == CONN_CLOSED) return;
    uint64_t now = monotonic_ns(), now_us = (now - client->base_ns) / 1000;
    conn->state = CONN_READY;
    client->connecting--;
    client->counters.ready++;
    if (client->churning) client->arrived[client->arrived_count++] = (uint32_t)(conn - client->conns);
    if (!conn->again) {
        client->counters.last_ready_ns = now;
        histogram_add(&client->opening, now_us > conn->due_us ? now_us - conn->due_us : 0);
        return;
    }
    client->counters.returned++;
    client->counters.deliveries++;
    if (conn->room >= 0) client->rooms[conn->room].unique++;
    record_latency(client, conn->due_us, now_us);
}

static void on_joined(client_t *client, conn_t *conn) {
    if (conn->state != CONN_JOINING) return;
    if (++conn->joined < conn->rooms) send_join(client, conn);
    else become_ready(client, conn);
}

/* The room of a connection that writes to users is its own mailbox: its name is the user's, which the server gave it. */
static bool take_user(client_t *client, conn_t *conn, const uint8_t *text, size_t length) {
    static const char key[] = "\"user\":{\"id\":\"";
    const uint8_t *at = memmem(text, length, key, sizeof key - 1), *end;
    if (at == NULL) return false;
    at += sizeof key - 1;
    end = memchr(at, '"', (size_t)(text + length - at));
    if (end == NULL || end - at >= NAME_BYTES) return false;
    memcpy(client->rooms[conn->room].name, at, (size_t)(end - at));
    client->rooms[conn->room].name[end - at] = 0;
    return true;
}

static void on_welcome(client_t *client, conn_t *conn, const uint8_t *text, size_t length) {
    static const char hello[] = "{\"type\":\"hello\",\"batch\":true}";
    if (conn->state != CONN_WELCOME) return;
    if (client->action == ACTION_PRIVATE && !take_user(client, conn, text, length)) {
        conn_close(client, conn, "the welcome names no user: private messages need guests or a token");
        return;
    }
    if (client->batch && conn->side < 0 && !conn_send_frame(client, conn, OP_TEXT, hello, sizeof hello - 1)) return;
    bool joins = client->action == ACTION_PUBLISH || client->action == ACTION_PRESENCE || client->action == ACTION_JOIN;
    if (joins && conn->room >= 0) send_join(client, conn);
    else become_ready(client, conn);
}

static void on_error_reply(client_t *client, conn_t *conn, const uint8_t *text, size_t length) {
    bool throttled = memmem(text, length, "\"rate_limited\"", 14) != NULL;
    if (conn->state == CONN_JOINING && throttled) {
        conn->state = CONN_REFUSED; /* tried again at the next run() */
        client->counters.throttled_joins++;
        return;
    }
    count_error(client, text, length);
    if (conn->state != CONN_READY) {
        char why[TEXT_BYTES];
        snprintf(why, sizeof why, "%.*s", (int)(length < sizeof why - 1 ? length : sizeof why - 1), (const char *)text);
        conn_close(client, conn, why);
    } else if (conn->publisher >= 0) {
        publisher_t *publisher = &client->publishers[conn->publisher];
        client->counters.refused++;
        publisher->refused++;
        if (client->windowed) publisher->held++; /* its place is free again at the next run(): no storm of refusals */
        if (asks(client)) publisher->answered++;
    }
}

/* `type` of a message that is not a plain delivery. Compared at its length: "pong" is not "pong_x". */
static bool type_is(const uint8_t *type, size_t left, const char *name) {
    size_t length = strlen(name);
    return left > length && memcmp(type, name, length) == 0 && type[length] == '"';
}

/* Every stamp in the frame; the bytes count once. Remembers where the last one stood, for the fast path. */
static size_t deliver_all(client_t *client, conn_t *conn, const frame_t *frame, size_t bytes, uint64_t now_us) {
    const uint8_t *at = frame->payload, *end = at + frame->length;
    size_t found = 0;
    while ((at = memmem(at, (size_t)(end - at), "\"~", 2)) != NULL && end - at > STAMP_BYTES) {
        client->stamp_at = (size_t)(at - frame->payload);
        deliver(client, conn, at + 1, found++ ? 0 : bytes, now_us);
        at += STAMP_BYTES;
    }
    return found;
}

/* A batch holds pushes and replies alike, each an object with its own `type`. */
static void on_batch(client_t *client, conn_t *conn, const frame_t *frame, size_t bytes, uint64_t now_us) {
    static const char joined[] = "\"type\":\"room_joined\"", error[] = "\"type\":\"error\"";
    const uint8_t *at = frame->payload, *end = at + frame->length;
    if (memmem(at, frame->length, joined, sizeof joined - 1)) on_joined(client, conn);
    if (deliver_all(client, conn, frame, bytes, now_us) == 0) client->counters.other_pushes++;
    while (conn->state != CONN_CLOSED && (at = memmem(at, (size_t)(end - at), error, sizeof error - 1)) != NULL) {
        at += sizeof error - 1;
        on_error_reply(client, conn, at, (size_t)(end - at));
    }
}

static void on_other_text(client_t *client, conn_t *conn, const frame_t *frame, size_t bytes, uint64_t now_us) {
    static const char key[] = "\"type\":\"";
    const uint8_t *type = memmem(frame->payload, frame->length, key, sizeof key - 1);
    if (type == NULL) {
        client->counters.foreign++;
        return;
    }
    type += sizeof key - 1;
    size_t left = (size_t)(frame->payload + frame->length - type);
    if (type_is(type, left, "room_message")) {
        if (deliver_all(client, conn, frame, bytes, now_us) != 1) client->counters.foreign++;
    } else if (type_is(type, left, "batch")) {
        on_batch(client, conn, frame, bytes, now_us);
    } else if (type_is(type, left, "private_message")) {
        if (deliver_all(client, conn, frame, bytes, now_us) != 1) client->counters.foreign++;
    } else if (type_is(type, left, "pong") || type_is(type, left, "ack")) {
        on_reply(client, conn, bytes, now_us);
    } else if (type_is(type, left, "error")) {
        on_error_reply(client, conn, frame->payload, frame->length);
    } else if (type_is(type, left, "welcome")) {
        on_welcome(client, conn, frame->payload, frame->length);
    } else if (type_is(type, left, "room_joined")) {
        on_joined(client, conn);
    } else if (type_is(type, left, "gap")) {
        if (conn->slow) client->counters.slow_gaps++;
        else client->counters.gaps++;
    } else {
        client->counters.other_pushes++;
    }
}

#endif
