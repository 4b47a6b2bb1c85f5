/* `mixed`: connections that are no members of a measured room and do what else people do in a chat.
 *
 * Each goes through the same round of commands, one at each of its turns, whatever the server does (open loop): join a
 * measured room, turn busy, ask who is there and what was said, leave, turn online, ping. The server answers each, in
 * order, so that the n-th reply belongs to the n-th command and latency needs no id.
 */
#ifndef TUSKWS_BENCH_SIDE_H
#define TUSKWS_BENCH_SIDE_H

#include "traffic.h"

static const char *const SIDE_COMMANDS[] = {
    "{\"type\":\"join_room\",\"room\":\"%s\",\"id\":1}",
    "{\"type\":\"presence\",\"status\":\"busy\",\"id\":2}",
    "{\"type\":\"get_presence\",\"room\":\"%s\",\"id\":3}",
    "{\"type\":\"history\",\"room\":\"%s\",\"limit\":5,\"id\":4}",
    "{\"type\":\"leave_room\",\"room\":\"%s\",\"id\":5}",
    "{\"type\":\"presence\",\"status\":\"online\",\"id\":6}",
    "{\"type\":\"ping\",\"id\":7}",
};
#define SIDE_STEPS (sizeof SIDE_COMMANDS / sizeof *SIDE_COMMANDS)

static const char *const SIDE_REPLIES[] = {"room_joined", "ack", "presence_state", "history", "room_left", "pong", "error"};

static void side_send(client_t *client, uint32_t index, uint64_t due_ns) {
    side_t *side = &client->sides[index];
    conn_t *conn = &client->conns[side->conn];
    if (conn->state != CONN_READY) return;
    if (side->sent - side->answered == SIDE_SLOTS) {
        conn_close(client, conn, "more commands without a reply than the load client remembers");
        return;
    }
    char text[COMMAND_BYTES_MAX];
    /* Another room each round, spread over the connections. */
    uint32_t room = (uint32_t)((side->sent / SIDE_STEPS * client->side_count + index) % client->room_count);
    int length = snprintf(text, sizeof text, SIDE_COMMANDS[side->sent % SIDE_STEPS], client->rooms[room].name);
    side->due_us[side->sent++ % SIDE_SLOTS] = (due_ns - client->base_ns) / 1000;
    client->counters.side_commands++;
    conn_send_frame(client, conn, OP_TEXT, text, (size_t)length);
}

static void sides_due(client_t *client, uint64_t now) {
    while (client->publishing && client->side_interval_ns && client->side_due_ns <= now) {
        side_send(client, client->next_side, client->side_due_ns);
        client->next_side = (client->next_side + 1) % client->side_count;
        client->side_due_ns += client->side_interval_ns;
    }
}

static void on_side_text(client_t *client, conn_t *conn, const frame_t *frame, uint64_t now_us) {
    static const char key[] = "\"type\":\"";
    side_t *side = &client->sides[conn->side];
    const uint8_t *type = memmem(frame->payload, frame->length, key, sizeof key - 1);
    if (type == NULL) {
        client->counters.foreign++;
        return;
    }
    type += sizeof key - 1;
    size_t left = (size_t)(frame->payload + frame->length - type);
    if (conn->state == CONN_WELCOME && type_is(type, left, "welcome")) {
        on_welcome(client, conn, frame->payload, frame->length);
        return;
    }
    for (unsigned i = 0; i < sizeof SIDE_REPLIES / sizeof *SIDE_REPLIES; i++) {
        if (!type_is(type, left, SIDE_REPLIES[i])) continue;
        if (side->answered == side->sent) {
            client->counters.foreign++;
            return;
        }
        if (type_is(type, left, "error")) {
            client->counters.side_refused++;
            count_error(client, frame->payload, frame->length);
        }
        uint64_t due_us = side->due_us[side->answered++ % SIDE_SLOTS];
        client->counters.side_replies++;
        if (due_us >= client->measure_from_us && due_us < client->measure_until_us)
            histogram_add(&client->replies, now_us > due_us ? now_us - due_us : 0);
        return;
    }
    client->counters.other_pushes++;
}

#endif
