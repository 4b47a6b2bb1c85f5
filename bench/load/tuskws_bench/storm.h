/* Connections that come, go and come back: the pace of opening, reconnect storms, handshake after handshake, members that
 * stop reading.
 *
 * Each connection has a time at which it was to open (again): at the pace that was asked for, or at once. What counts is
 * from then until it is ready, joined where it joins, so a server that makes others wait cannot hide it.
 */
#ifndef TUSKWS_BENCH_STORM_H
#define TUSKWS_BENCH_STORM_H

#include "dialects.h"

static uint64_t open_due_ns(const client_t *client) {
    return client->counters.opened_ns + client->next_connect * client->open_interval_ns;
}

static void open_due(client_t *client) {
    uint64_t now = monotonic_ns();
    while (client->reopen_count && client->connecting < client->connect_burst)
        conn_open(client, &client->conns[client->reopen[--client->reopen_count]]);
    if (client->next_connect < client->conn_limit && client->counters.opened_ns == 0) client->counters.opened_ns = now;
    while (client->next_connect < client->conn_limit && client->connecting < client->connect_burst) {
        uint64_t due = client->open_interval_ns ? open_due_ns(client) : monotonic_ns();
        if (due > now && client->open_interval_ns) return;
        conn_t *conn = &client->conns[client->next_connect++];
        conn->due_us = (due - client->base_ns) / 1000;
        conn_open(client, conn);
    }
}

/* Gone without a word, as when a network ends: a reset, so that no port is kept waiting. */
static void conn_drop(client_t *client, uint32_t index, uint64_t due_ns) {
    static const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    conn_t *conn = &client->conns[index];
    if (conn->state != CONN_READY) return; /* it is on its way back, or was refused and is reported */
    setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    conn_release(client, conn);
    client->counters.ready--;
    client->counters.dropped++;
    conn->state = CONN_NEW;
    conn->again = true;
    conn->due_us = (due_ns - client->base_ns) / 1000;
    client->reopen[client->reopen_count++] = index;
}

static void drops_due(client_t *client, uint64_t now) {
    while (client->drop_count && client->publishing && client->drop_due_ns <= now) {
        conn_drop(client, client->next_drop++ % client->conn_count, client->drop_due_ns);
        client->drop_due_ns += client->drop_interval_ns;
        if (client->next_drop == client->drop_count) client->drop_count = 0;
    }
}

/* Who is in goes, to come again: handshakes are all that happens. */
static void churn_due(client_t *client, uint64_t now) {
    uint32_t count = client->arrived_count;
    client->arrived_count = 0;
    for (uint32_t i = 0; client->publishing && i < count; i++) conn_drop(client, client->arrived[i], now);
}

static void client_churn(client_t *client) {
    client->publishing = client->churning = true;
    for (uint32_t i = 0; i < client->conn_count; i++)
        if (client->conns[i].state == CONN_READY) client->arrived[client->arrived_count++] = i;
}

/* Drop `count` connections: all at once when `interval_ns` is 0, else one an interval, round and round. */
static void client_drop(client_t *client, uint64_t first_due_ns, uint64_t interval_ns, uint32_t count) {
    client->publishing = true;
    client->drop_due_ns = first_due_ns;
    client->drop_interval_ns = interval_ns;
    client->drop_count = count;
    client->next_drop = 0;
}

/* The slow members stop reading, or read again. */
static void client_pause(client_t *client, bool paused) {
    for (uint32_t i = 0; i < client->conn_count; i++) {
        conn_t *conn = &client->conns[i];
        if (!conn->slow || conn->state != CONN_READY) continue;
        conn->paused = paused;
        conn_watch(client, conn, EPOLL_CTL_MOD, conn->wants_write);
    }
}

#endif
