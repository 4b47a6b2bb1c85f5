/* The load client's data: one client_t a load process, with its rooms, connections and publishers in flat arrays.
 *
 *     client ─┬─ rooms[]        name, publishers of the whole room, totals of the members that live in this process;
 *             │                 rooms with the same members stand one behind the other, their publishers' numbers too
 *             ├─ conns[]        socket, state, and one track_t for each publisher of its room: loss is seen at once
 *             └─ publishers[]   those whose connection lives in this process: next seq, window
 *
 * Ids are indexes, so nothing is searched: a stamp's publisher number minus the room's base finds the track.
 * A room may have members and publishers in other load processes; every count here is of this process alone.
 */
#ifndef TUSKWS_BENCH_STATE_H
#define TUSKWS_BENCH_STATE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "histogram.h"
#include "wire.h"

#define READ_BYTES (256 * 1024)
#define EVENTS_MAX 1024
#define OUT_BYTES_MAX (16 * 1024 * 1024)
#define ERRORS_MAX 16
#define TEXT_BYTES 240
#define NAME_BYTES 64
#define SIDE_SLOTS 256    /* commands of a side connection that may wait for replies */
#define REQUEST_SLOTS 1024 /* requests of a publisher in the open loop that may */

/* CLOSED counts in `failed` when it came before READY, in `closed_early` after it. */
enum conn_state { CONN_NEW, CONN_CONNECTING, CONN_SECURING, CONN_UPGRADING, CONN_WELCOME, CONN_JOINING, CONN_REFUSED, CONN_READY, CONN_CLOSED };

/* What a client speaks. RAW: text frames in, the same frames out. TUSK: version 1 of the server's protocol. The others
 * are those of peers (dialects.h). */
enum dialect { DIALECT_RAW, DIALECT_TUSK, DIALECT_NATS, DIALECT_SOCKETIO, DIALECT_NCHAN };

/* What publishers do: messages to the room; `ping` or `presence` (one reply each); messages to the next connection's
 * user; nothing, in the room or outside any. */
enum action { ACTION_PUBLISH, ACTION_PING, ACTION_PRESENCE, ACTION_PRIVATE, ACTION_JOIN, ACTION_NONE };

/* What one member has of one publisher. Bit i of `seen`: `last - i` has arrived. */
typedef struct {
    uint32_t last;
    uint64_t seen;
} track_t;

typedef struct {
    int fd;
    uint8_t state;
    bool wants_write;
    bool slow;   /* does not read while messages are published; what reaches it is counted apart */
    bool paused; /* it is not reading now */
    bool again;  /* it was dropped and comes back */
    void *tls;   /* SSL *, where the URL says wss */
    int32_t side; /* index in client->sides, or -1 */
    int32_t room;          /* the first of its rooms, or -1 */
    uint32_t rooms, joined; /* it is to be a member of so many, one after the other; of how many it is */
    int32_t publisher;     /* index in client->publishers, or -1; where it publishes in several rooms, one of them */
    track_t *tracks;
    uint64_t due_us;   /* when it was to be opened */
    uint8_t *in, *out; /* a frame's beginning; what the socket did not take. Allocated when first needed. */
    uint8_t *text;     /* NATS: the beginning of a protocol line or message that a frame left over */
    uint32_t in_length, in_capacity, out_length, out_capacity, text_length, text_capacity;
} conn_t;

/* One message on its way: how many members of this process still lack it (window), when it was to leave (pings). */
typedef struct {
    uint32_t seq, missing;
    uint64_t time_us;
} flight_t;

typedef struct {
    uint32_t conn, number; /* `number` is unique over all load processes */
    uint32_t room;         /* index of the room its messages go to: its connection's, or another's mailbox */
    uint32_t seq;          /* of the last message sent */
    uint32_t answered;     /* of the last request answered */
    uint32_t outstanding, refused, held;
    bool queued;
    flight_t *flights; /* ring of client->flight_mask + 1 */
} publisher_t;

/* A connection of `mixed` that is no member: it sends one command after another, and its replies come in that order. */
typedef struct {
    uint32_t conn, sent, answered;
    uint64_t due_us[SIDE_SLOTS];
} side_t;

typedef struct {
    char name[NAME_BYTES];
    uint32_t members;         /* in this process, those that do not read left out */
    uint32_t publisher_base;  /* number of the room's first publisher */
    uint32_t publisher_count; /* in all processes */
    uint64_t unique;          /* deliveries to the members of this process, each message once a member */
} room_t;

typedef struct {
    char code[32];
    uint64_t count;
} error_count_t;

typedef struct {
    uint64_t connected, ready, failed, closed_early;
    uint64_t published, refused, throttled_joins;
    uint64_t deliveries, duplicates, out_of_order, skipped, foreign;
    uint64_t gaps, errors, replies, acks, other_pushes, pings_answered;
    uint64_t slow_deliveries, slow_gaps, slow_closed, dropped, returned, compressed, side_commands, side_replies, side_refused;
    uint64_t frames, bytes, delivery_bytes, reads, sends, short_sends;
    uint64_t opened_ns, last_ready_ns; /* monotonic: first connect() and last READY */
} counters_t;

typedef struct {
    /* plan */
    struct sockaddr_storage address;
    socklen_t address_bytes;
    char authority[128], path[128], token[4096];
    char level[16]; /* "": no acknowledgement is asked for */
    int dialect, action;
    bool batch, windowed, compression;
    void *tls; /* SSL_CTX *, or NULL */
    unsigned run;
    uint32_t payload, window, connect_burst;
    uint64_t base_ns;

    room_t *rooms;
    conn_t *conns;
    publisher_t *publishers;
    track_t *tracks;
    flight_t *flights;
    int32_t *local_of; /* publisher number -> index in publishers, or -1: it lives in another load process */
    side_t *sides;
    uint32_t room_count, conn_count, publisher_count, number_count, side_count, flight_mask;

    /* run */
    int epoll_fd;
    uint32_t next_connect, conn_limit; /* the next to open, and how far to go now */
    uint64_t open_interval_ns;                 /* of the opening, 0: as fast as the burst allows */
    uint32_t connecting, open;
    bool publishing, ending;
    uint32_t drop_count, next_drop;            /* connections to drop, of all; the next one */
    uint64_t drop_due_ns, drop_interval_ns;
    uint32_t *reopen, reopen_count;            /* dropped, not opened again yet */
    bool churning;                             /* who becomes ready is dropped at once */
    uint32_t *arrived, arrived_count;          /* ready since the loop came round */
    uint64_t side_due_ns, side_interval_ns;    /* mixed: round robin over the side connections */
    uint32_t next_side;
    uint64_t expected;                         /* deliveries after which a run() may return; 0: never */
    uint64_t interval_ns, next_due_ns;         /* open loop: round robin over the local publishers */
    uint32_t next_publisher;
    uint64_t measure_from_us, measure_until_us; /* of the intended send time */
    size_t stamp_at;                           /* where the last stamp was found in a payload */
    uint32_t *queue;                           /* publishers that may have room in their window */
    uint32_t queue_count;
    uint32_t random;

    counters_t counters;
    error_count_t error_codes[ERRORS_MAX];
    char first_error[TEXT_BYTES];
    histogram_t latency, lateness; /* µs: message, and how late the client itself sent it */
    histogram_t opening, replies;  /* µs: from when a connection was to open until it is ready; commands of `mixed` */
    struct inflater *inflater;
    uint8_t *input;                /* one frame's beginning and one read */
    uint8_t *output;               /* the commands of one burst */
    size_t output_length, output_capacity;
    char *filler;
} client_t;

static inline uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

/* Masks only have to differ and not be zero: nobody attacks a benchmark through a cache. */
static inline uint32_t next_mask(client_t *client) {
    uint32_t x = client->random;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return client->random = x;
}

#endif
