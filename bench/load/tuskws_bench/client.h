/* The load client's loop: one epoll, one thread, one read buffer for all connections.
 *
 * client_run() works until a time or a goal and returns; the caller (loadclient.pyx) takes snapshots between runs, so
 * the loop itself knows nothing of warm-up, intervals or reports. A frame's beginning that a read left over is copied to
 * the connection and put in front of the next read: the parser always sees contiguous bytes and holds no state.
 */
#ifndef TUSKWS_BENCH_CLIENT_H
#define TUSKWS_BENCH_CLIENT_H

#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "storm.h"

enum goal { GOAL_TIME, GOAL_READY, GOAL_DELIVERED, GOAL_CLOSED };

/* ---- setting up ---- */

/* `host` is a literal address: names are resolved before. */
static bool client_address(client_t *client, const char *host, uint16_t port) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)&client->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&client->address;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET, v4->sin_port = htons(port);
        client->address_bytes = sizeof *v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1) return false;
    v6->sin6_family = AF_INET6, v6->sin6_port = htons(port);
    client->address_bytes = sizeof *v6;
    return true;
}

/* Allocate for the counts set in `client`. Rooms, connections and publishers are zero and filled in by the caller. */
static bool client_allocate(client_t *client) {
    client->rooms = calloc(client->room_count + 1, sizeof *client->rooms);
    client->conns = calloc(client->conn_count + 1, sizeof *client->conns);
    client->publishers = calloc(client->publisher_count + 1, sizeof *client->publishers);
    client->queue = calloc(client->publisher_count + 1, sizeof *client->queue);
    client->local_of = malloc((client->number_count + 1) * sizeof *client->local_of);
    client->filler = malloc(client->payload + 1);
    client->sides = calloc(client->side_count + 1, sizeof *client->sides);
    client->reopen = calloc(client->conn_count + 1, sizeof *client->reopen);
    client->arrived = calloc(client->conn_count + 1, sizeof *client->arrived);
    if (client->compression && (client->inflater = inflater_new()) == NULL) return false;
    client->input = malloc(FRAME_BYTES_MAX + READ_BYTES);
    client->output = malloc(BURST_BYTES + client->payload + COMMAND_BYTES_MAX);
    client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!client->rooms || !client->conns || !client->publishers || !client->queue || !client->local_of || !client->filler ||
        !client->input || !client->output || !client->sides || !client->reopen || !client->arrived || client->epoll_fd < 0)
        return false;
    memset(client->local_of, 0xFF, (client->number_count + 1) * sizeof *client->local_of);
    for (uint32_t i = 0; i < client->payload; i++) client->filler[i] = (char)('a' + (i * 7 + i / 26) % 26);
    for (uint32_t i = 0; i < client->conn_count; i++) {
        conn_t *conn = &client->conns[i];
        conn->fd = conn->room = conn->publisher = conn->side = -1;
    }
    stamp_tables();
    prctl(PR_SET_TIMERSLACK, 1000UL); /* the default of 50 µs would be most of an echo's latency */
    return true;
}

static uint32_t tracks_of(const client_t *client, const conn_t *conn) {
    return conn->rooms * client->rooms[conn->room].publisher_count;
}

/* After the rooms and publishers are known: the arrays whose sizes depend on them. */
static bool client_link(client_t *client) {
    uint64_t tracks = 0;
    for (uint32_t i = 0; i < client->conn_count; i++)
        if (client->conns[i].room >= 0) tracks += tracks_of(client, &client->conns[i]);
    client->tracks = calloc(tracks + 1, sizeof *client->tracks);
    if (client->tracks == NULL) return false;
    track_t *next = client->tracks;
    for (uint32_t i = 0; i < client->conn_count; i++) {
        conn_t *conn = &client->conns[i];
        if (conn->room < 0) continue;
        conn->tracks = next;
        next += tracks_of(client, conn);
    }
    for (uint32_t i = 0; i < client->publisher_count; i++) client->local_of[client->publishers[i].number] = (int32_t)i;
    if (!client->windowed && !asks(client)) return true;
    uint32_t slots = client->windowed ? 4 : REQUEST_SLOTS;
    while (client->windowed && slots < 2 * client->window) slots *= 2;
    client->flight_mask = slots - 1;
    client->flights = calloc((size_t)slots * client->publisher_count + 1, sizeof *client->flights);
    if (client->flights == NULL) return false;
    for (uint32_t i = 0; i < client->publisher_count; i++) client->publishers[i].flights = client->flights + (size_t)slots * i;
    return true;
}

static void client_free(client_t *client) {
    client->ending = true;
    for (uint32_t i = 0; client->conns && i < client->conn_count; i++)
        if (client->conns[i].state != CONN_NEW) conn_close(client, &client->conns[i], "");
    if (client->epoll_fd >= 0) close(client->epoll_fd);
    free(client->rooms), free(client->conns), free(client->publishers), free(client->queue), free(client->local_of);
    free(client->sides), free(client->reopen), free(client->arrived), inflater_free(client->inflater);
    if (client->tls) tls.context_free(client->tls);
    free(client->tracks), free(client->flights), free(client->filler), free(client->input), free(client->output);
    free(client);
}

/* ---- the loop ---- */

static void on_readable(client_t *client, conn_t *conn) {
    size_t have = conn->in_length, at = 0;
    if (have) memcpy(client->input, conn->in, have);
    ssize_t got = conn_read(conn, client->input + have, READ_BYTES);
    client->counters.reads++;
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        conn_close(client, conn, got == 0 ? "closed by the server without a Close frame" : strerror(errno));
        return;
    }
    client->counters.bytes += (uint64_t)got;
    have += (size_t)got;
    conn->in_length = 0;
    uint64_t now_us = (monotonic_ns() - client->base_ns) / 1000;
    if (conn->state == CONN_UPGRADING) {
        at = take_response(client, conn, client->input, have);
        if (at) {
            conn->state = CONN_WELCOME;
            if (client->dialect == DIALECT_RAW || client->dialect == DIALECT_NCHAN) become_ready(client, conn);
        }
    }
    while (at < have && conn->state > CONN_UPGRADING && conn->state != CONN_CLOSED) {
        frame_t frame;
        int64_t used = frame_parse(client->input + at, have - at, &frame, client->compression);
        if (used == 0) break;
        if (used < 0) {
            conn_close(client, conn, "a frame that no server may send");
            return;
        }
        on_frame(client, conn, &frame, (size_t)used, now_us);
        at += (size_t)used;
    }
    if (at < have && conn->state != CONN_CLOSED &&
        !append(&conn->in, &conn->in_length, &conn->in_capacity, client->input + at, have - at))
        conn_close(client, conn, "no memory");
}

static int wait_events(client_t *client, struct epoll_event *events, uint64_t timeout_ns) {
#ifdef SYS_epoll_pwait2
    struct timespec timeout = {(time_t)(timeout_ns / 1000000000ULL), (long)(timeout_ns % 1000000000ULL)};
    long count = syscall(SYS_epoll_pwait2, client->epoll_fd, events, EVENTS_MAX, &timeout, NULL, 0);
    if (count >= 0 || errno != ENOSYS) return (int)count;
#endif
    return epoll_wait(client->epoll_fd, events, EVENTS_MAX, (int)(timeout_ns / 1000000)); /* before Linux 5.11: by the ms */
}

/* What had to wait for the next run: joins that were rate limited, places in a window that refusals took. */
static void release_held(client_t *client) {
    if (client->counters.throttled_joins)
        for (uint32_t i = 0; i < client->conn_count; i++)
            if (client->conns[i].state == CONN_REFUSED) send_join(client, &client->conns[i]);
    if (client->counters.refused == 0) return;
    for (uint32_t i = 0; i < client->publisher_count; i++) {
        publisher_t *publisher = &client->publishers[i];
        if (publisher->held == 0) continue;
        publisher->outstanding -= publisher->held;
        publisher->held = 0;
        queue_publisher(client, publisher);
    }
}

static bool reached(const client_t *client, enum goal goal) {
    const counters_t *counters = &client->counters;
    switch (goal) {
        case GOAL_READY: return counters->ready + counters->failed + counters->closed_early >= client->conn_count;
        case GOAL_DELIVERED: return counters->deliveries >= client->expected;
        case GOAL_CLOSED: return client->open == 0;
        default: return false;
    }
}

static void client_run(client_t *client, uint64_t until_ns, enum goal goal) {
    struct epoll_event events[EVENTS_MAX];
    release_held(client);
    for (;;) {
        if (client->churning) churn_due(client, monotonic_ns());
        open_due(client);
        uint64_t now = monotonic_ns();
        drops_due(client, now);
        send_due(client, now);
        sides_due(client, now);
        fill_windows(client);
        if (now >= until_ns || reached(client, goal)) return;
        uint64_t wake = until_ns;
        if (client->publishing && client->interval_ns && client->next_due_ns < wake) wake = client->next_due_ns;
        if (client->publishing && client->side_interval_ns && client->side_due_ns < wake) wake = client->side_due_ns;
        if (client->publishing && client->drop_count && client->drop_due_ns < wake) wake = client->drop_due_ns;
        if (client->open_interval_ns && client->next_connect < client->conn_limit && open_due_ns(client) < wake &&
            client->connecting < client->connect_burst)
            wake = open_due_ns(client);
        if (client->reopen_count && client->connecting < client->connect_burst) wake = now;
        int count = wait_events(client, events, wake > now ? wake - now : 0);
        for (int i = 0; i < count; i++) {
            conn_t *conn = &client->conns[events[i].data.u32];
            if (conn->state == CONN_CONNECTING || conn->state == CONN_SECURING) {
                if (conn->state == CONN_CONNECTING) on_connected(client, conn);
                else conn_secure(client, conn);
                continue;
            }
            if (conn->state != CONN_CLOSED && (events[i].events & EPOLLOUT) && conn->out_length) conn_flush(client, conn);
            if (conn->state != CONN_CLOSED && (events[i].events & ~EPOLLOUT)) on_readable(client, conn);
        }
    }
}

/* Begin to publish: closed loop when `interval_ns` is 0, else one message each interval, round robin. Side connections send
 * one command each side interval. */
static void client_publish(client_t *client, uint64_t first_due_ns, uint64_t interval_ns, uint64_t side_interval_ns) {
    client->publishing = client->publisher_count > 0 || client->side_count > 0;
    client->interval_ns = client->publisher_count ? interval_ns : 0;
    client->next_due_ns = client->side_due_ns = first_due_ns;
    client->side_interval_ns = client->side_count && client->room_count ? side_interval_ns : 0;
    for (uint32_t i = 0; client->windowed && i < client->publisher_count; i++) queue_publisher(client, &client->publishers[i]);
}

/* Say goodbye on every connection; the caller runs to GOAL_CLOSED. What is closed from now on is no error. */
static void client_goodbye(client_t *client) {
    static const uint8_t normal[2] = {1000 >> 8, 1000 & 0xFF};
    client->publishing = false;
    client->ending = true;
    client->reopen_count = 0;
    client->conn_limit = client->next_connect;
    for (uint32_t i = 0; i < client->conn_count; i++)
        if (client->conns[i].state > CONN_UPGRADING) conn_send_frame(client, &client->conns[i], OP_CLOSE, normal, 2);
}

#endif
