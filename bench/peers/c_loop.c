/* The machine's limit: a bare epoll loop that broadcasts pre-built frames, with no protocol, order, history or checks.
 *
 * A client connects to /<room>. Each data frame it sends is unmasked, framed once, and sent to every member of that
 * room, the sender too. A connection to /echo gets its own frames back. That is the whole raw protocol (README.md).
 *
 *     c_loop --port P               one send() a member and message: what a server without coalescing costs
 *     c_loop --port P --coalesce    what one turn of the loop brought to a room leaves in one send() a member
 *
 *     c_loop --processes N          N processes on one port, each with its own members; what one reads it passes on to the
 *                                   others as it would send it to members (at once, or the turn's in one write)
 *
 * Replies to one read are always written at once on /echo. A member whose socket is full gets a backlog of its own;
 * at BACKLOG_MAX it is dropped. One thread a process; ends at SIGTERM or SIGINT. Prints "ready <port>" once it listens.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sha1.h"

#define READ_MAX (256 * 1024)
#define FRAME_MAX (1024 * 1024)
#define BACKLOG_MAX (64 * 1024 * 1024)
#define EVENTS_MAX 1024
#define PATH_BYTES 120
#define ROOM_BUCKETS 65536
#define PROCESSES_MAX 64
#define PASS_BYTES (FRAME_MAX / 2)

typedef struct {
    uint8_t *bytes;
    size_t length, capacity;
} buffer_t;

typedef struct room room_t;

typedef struct {
    int fd;
    uint32_t seat; /* index in room->members */
    room_t *room;  /* NULL until the upgrade is done, and for an echo connection */
    bool upgraded, wants_write, closed;
    bool process; /* another process of ours, not a client */
    buffer_t in, out; /* an incomplete request or frame; what the socket did not take */
} conn_t;

struct room {
    char path[PATH_BYTES];
    conn_t **members;
    uint32_t count, capacity;
    buffer_t pending; /* frames of this turn (--coalesce) */
    buffer_t passing; /* those of them that came from our own members: the other processes lack them */
    bool dirty;
    room_t *next;
};

static bool coalesce;
static int epoll_fd;
static volatile sig_atomic_t stopping;
static room_t *buckets[ROOM_BUCKETS];
static room_t **dirty_rooms;
static size_t dirty_count, dirty_capacity, room_count;
static uint8_t input[FRAME_MAX + READ_MAX + 4096];
static conn_t *others[PROCESSES_MAX];
static int other_count;
static buffer_t replies;
static conn_t *graveyard[EVENTS_MAX + 1]; /* freed after the turn: its events may still name them */
static size_t buried;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *resized(void *memory, size_t bytes) {
    void *result = realloc(memory, bytes);
    if (result == NULL) die("realloc");
    return result;
}

static void buffer_add(buffer_t *buffer, const void *bytes, size_t length) {
    if (buffer->length + length > buffer->capacity) {
        buffer->capacity = (buffer->length + length) * 2;
        buffer->bytes = resized(buffer->bytes, buffer->capacity);
    }
    memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
}

static void watch(conn_t *conn, bool writing) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = conn};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &event) < 0) die("epoll_ctl");
    conn->wants_write = writing;
}

/* ---- rooms ---- */

static room_t *room_of_path(const char *path) {
    uint32_t hash = 2166136261u;
    for (const char *at = path; *at; at++) hash = (hash ^ (uint8_t)*at) * 16777619u;
    room_t **slot = &buckets[hash % ROOM_BUCKETS];
    for (room_t *room = *slot; room; room = room->next)
        if (strcmp(room->path, path) == 0) return room;
    room_t *room = calloc(1, sizeof *room);
    if (room == NULL) die("calloc");
    strcpy(room->path, path);
    room->next = *slot;
    *slot = room;
    if (++room_count > dirty_capacity) {
        dirty_capacity = room_count * 2;
        dirty_rooms = resized(dirty_rooms, dirty_capacity * sizeof *dirty_rooms);
    }
    return room;
}

static void room_join(room_t *room, conn_t *conn) {
    if (room->count == room->capacity) {
        room->capacity = room->capacity ? room->capacity * 2 : 8;
        room->members = resized(room->members, room->capacity * sizeof *room->members);
    }
    conn->room = room;
    conn->seat = room->count;
    room->members[room->count++] = conn;
}

static void room_leave(conn_t *conn) {
    room_t *room = conn->room;
    conn_t *last = room->members[--room->count];
    room->members[conn->seat] = last;
    last->seat = conn->seat;
    conn->room = NULL;
}

/* ---- sending ---- */

static void conn_close(conn_t *conn) {
    if (conn->closed) return;
    conn->closed = true;
    if (conn->room) room_leave(conn);
    close(conn->fd);
    free(conn->in.bytes);
    free(conn->out.bytes);
    conn->in = conn->out = (buffer_t){0};
    graveyard[buried++] = conn;
}

/* False: the member's socket failed or its backlog is full. The caller closes it where the member list allows. */
static bool conn_send(conn_t *conn, const uint8_t *bytes, size_t length) {
    if (conn->out.length == 0) {
        ssize_t sent = send(conn->fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return false;
        size_t taken = sent < 0 ? 0 : (size_t)sent;
        if (taken == length) return true;
        bytes += taken, length -= taken;
    }
    if (conn->out.length + length > BACKLOG_MAX) return false;
    buffer_add(&conn->out, bytes, length);
    if (!conn->wants_write) watch(conn, true);
    return true;
}

static void conn_drain(conn_t *conn) {
    ssize_t sent = send(conn->fd, conn->out.bytes, conn->out.length, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) conn_close(conn);
        return;
    }
    conn->out.length -= (size_t)sent;
    memmove(conn->out.bytes, conn->out.bytes + sent, conn->out.length);
    if (conn->out.length == 0) watch(conn, false);
}

static void room_send(room_t *room, const uint8_t *bytes, size_t length) {
    /* From the end: a member that fails swaps the last one into its seat, and that one has been served already. */
    for (uint32_t i = room->count; i-- > 0;)
        if (!conn_send(room->members[i], bytes, length)) {
            shutdown(room->members[i]->fd, SHUT_RDWR); /* the next turn reads 0 and closes it */
            room_leave(room->members[i]);
        }
}

static size_t frame_head(uint8_t head[10], uint8_t opcode, size_t length) {
    head[0] = 0x80 | opcode;
    if (length < 126) {
        head[1] = (uint8_t)length;
        return 2;
    }
    if (length < 65536) {
        head[1] = 126, head[2] = (uint8_t)(length >> 8), head[3] = (uint8_t)length;
        return 4;
    }
    head[1] = 127;
    for (unsigned i = 0; i < 8; i++) head[2 + i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
    return 10;
}

/* What processes tell each other: a head, the room's path, frames. */
typedef struct {
    uint32_t path_bytes, length;
} passed_t;

static void pass_on(room_t *room) {
    if (room->passing.length == 0) return;
    passed_t head = {(uint32_t)strlen(room->path), (uint32_t)room->passing.length};
    static buffer_t record;
    record.length = 0;
    buffer_add(&record, &head, sizeof head);
    buffer_add(&record, room->path, head.path_bytes);
    buffer_add(&record, room->passing.bytes, room->passing.length);
    room->passing.length = 0;
    for (int i = 0; i < other_count; i++)
        if (!conn_send(others[i], record.bytes, record.length)) die("a process does not keep up");
}

static void room_changed(room_t *room) {
    if (!coalesce) {
        pass_on(room);
        room_send(room, room->pending.bytes, room->pending.length);
        room->pending.length = 0;
    } else if (!room->dirty) {
        room->dirty = true;
        dirty_rooms[dirty_count++] = room;
    }
}

static void publish(conn_t *conn, uint8_t opcode, uint8_t *payload, size_t length) {
    room_t *room = conn->room;
    buffer_t *target = room ? &room->pending : &replies;
    uint8_t head[10];
    size_t head_bytes = frame_head(head, opcode, length);
    buffer_add(target, head, head_bytes);
    buffer_add(target, payload, length);
    if (room == NULL) return;
    if (other_count) {
        if (room->passing.length + head_bytes + length > PASS_BYTES) pass_on(room);
        buffer_add(&room->passing, head, head_bytes);
        buffer_add(&room->passing, payload, length);
    }
    room_changed(room);
}

/* As take_frame. */
static ssize_t take_passed(uint8_t *bytes, size_t length) {
    passed_t head;
    char path[PATH_BYTES];
    if (length < sizeof head) return 0;
    memcpy(&head, bytes, sizeof head);
    if (head.path_bytes >= PATH_BYTES) return -1;
    size_t size = sizeof head + head.path_bytes + head.length;
    if (length < size) return 0;
    memcpy(path, bytes + sizeof head, head.path_bytes);
    path[head.path_bytes] = 0;
    room_t *room = room_of_path(path);
    buffer_add(&room->pending, bytes + sizeof head + head.path_bytes, head.length);
    room_changed(room);
    return (ssize_t)size;
}

/* ---- receiving ---- */

/* Bytes consumed, 0 while the request is incomplete, -1 for one that is refused. */
static ssize_t upgrade(conn_t *conn, uint8_t *bytes, size_t length) {
    uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (end == NULL) return length > 16384 ? -1 : 0;
    *end = 0; /* the request line and headers are one C string now */
    char *request = (char *)bytes, path[PATH_BYTES];
    char *key = strcasestr(request, "\r\nSec-WebSocket-Key:");
    if (key == NULL || sscanf(request, "GET %119s HTTP/1.1", path) != 1) return -1;
    key += strlen("\r\nSec-WebSocket-Key:");
    while (*key == ' ') key++;
    if (strlen(key) < KEY_BYTES) return -1;
    char reply[256], accept[ACCEPT_BYTES];
    accept_of_key(key, accept);
    int size = snprintf(reply, sizeof reply,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %.*s\r\n\r\n",
                        ACCEPT_BYTES, accept);
    if (!conn_send(conn, (uint8_t *)reply, (size_t)size)) return -1;
    conn->upgraded = true;
    if (strcmp(path, "/echo") != 0) room_join(room_of_path(path), conn);
    return end + 4 - bytes;
}

static void unmask(uint8_t *payload, size_t length, const uint8_t key[4]) {
    uint64_t wide;
    uint8_t twice[8];
    memcpy(twice, key, 4), memcpy(twice + 4, key, 4);
    memcpy(&wide, twice, 8);
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word;
        memcpy(&word, payload + i, 8);
        word ^= wide;
        memcpy(payload + i, &word, 8);
    }
    for (; i < length; i++) payload[i] ^= key[i & 3];
}

/* As `upgrade`: bytes of one whole frame, 0 = incomplete, -1 = close the connection. */
static ssize_t take_frame(conn_t *conn, uint8_t *bytes, size_t length) {
    if (length < 6) return 0;
    size_t size = bytes[1] & 0x7F, head = 2;
    if (size == 126) {
        size = (size_t)bytes[2] << 8 | bytes[3], head = 4;
    } else if (size == 127) {
        if (length < 10) return 0;
        size = 0, head = 10;
        for (unsigned i = 0; i < 8; i++) size = size << 8 | bytes[2 + i];
    }
    if (!(bytes[0] & 0x80) || !(bytes[1] & 0x80) || size > FRAME_MAX - 14) return -1;
    if (length < head + 4 + size) return 0;
    uint8_t opcode = bytes[0] & 0x0F, *payload = bytes + head + 4;
    unmask(payload, size, bytes + head);
    uint8_t reply[10 + 125];
    if (opcode == 1 || opcode == 2) {
        publish(conn, opcode, payload, size);
    } else if (opcode == 8 || opcode == 9) {
        if (size > 125) return -1;
        size_t at = frame_head(reply, opcode == 8 ? 8 : 10, size);
        memcpy(reply + at, payload, size);
        if (!conn_send(conn, reply, at + size) || opcode == 8) return -1;
    }
    return (ssize_t)(head + 4 + size);
}

static void on_readable(conn_t *conn) {
    size_t have = conn->in.length;
    if (have) memcpy(input, conn->in.bytes, have);
    ssize_t got = recv(conn->fd, input + have, READ_MAX, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (conn->process) exit(1); /* one process alone would serve a part of each room */
        conn_close(conn);
        return;
    }
    have += (size_t)got;
    size_t at = 0;
    ssize_t used = 1;
    while (at < have && used > 0) {
        if (conn->process) used = take_passed(input + at, have - at);
        else used = conn->upgraded ? take_frame(conn, input + at, have - at) : upgrade(conn, input + at, have - at);
        if (used > 0) at += (size_t)used;
    }
    if (replies.length && !conn_send(conn, replies.bytes, replies.length)) used = -1;
    replies.length = 0;
    conn->in.length = 0;
    if (used < 0) {
        conn_close(conn);
    } else if (at < have) {
        buffer_add(&conn->in, input + at, have - at);
    }
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) return;
            die("accept");
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        conn_t *conn = calloc(1, sizeof *conn);
        if (conn == NULL) die("calloc");
        conn->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
    }
}

static void turn(int listener) {
    static struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
    for (int i = 0; i < count; i++) {
        conn_t *conn = events[i].data.ptr;
        if (conn == NULL) {
            accept_all(listener);
            continue;
        }
        if (!conn->closed && (events[i].events & EPOLLOUT)) conn_drain(conn);
        if (!conn->closed && (events[i].events & ~EPOLLOUT)) on_readable(conn);
    }
    for (size_t i = 0; i < dirty_count; i++) {
        room_t *room = dirty_rooms[i];
        pass_on(room);
        room_send(room, room->pending.bytes, room->pending.length);
        room->pending.length = 0;
        room->dirty = false;
    }
    dirty_count = 0;
    while (buried) free(graveyard[--buried]);
}

static void on_signal(int number) {
    (void)number;
    stopping = 1;
}

static int listen_on(const char *host, int *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
    socklen_t size = sizeof address;
    if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0) die("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) die("getsockname");
    *port = ntohs(address.sin_port);
    return fd;
}

/* Returns the listener of this process. All listen before any is forked, so that none is missing when clients come. */
static int become_processes(const char *host, int *port, int count) {
    static int pairs[PROCESSES_MAX][PROCESSES_MAX], listeners[PROCESSES_MAX];
    for (int i = 0; i < count; i++) {
        listeners[i] = listen_on(host, port);
        for (int j = 0; j < i; j++) {
            int pair[2];
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) die("socketpair");
            pairs[i][j] = pair[0], pairs[j][i] = pair[1];
        }
    }
    int self = 0;
    pid_t parent = getpid();
    for (int i = 1; i < count && self == 0; i++) {
        pid_t child = fork();
        if (child < 0) die("fork");
        if (child == 0) self = i;
    }
    if (self && (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)) exit(1);
    for (int i = 0; i < count; i++) {
        if (i != self) close(listeners[i]);
        for (int j = 0; j < count; j++) {
            if (i == j) continue;
            if (i != self) {
                close(pairs[i][j]);
                continue;
            }
            conn_t *other = calloc(1, sizeof *other);
            if (other == NULL) die("calloc");
            other->fd = pairs[i][j], other->process = true;
            others[other_count++] = other;
        }
    }
    return listeners[self];
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'}, {"host", required_argument, NULL, 'h'}, {"coalesce", no_argument, NULL, 'c'},
        {"processes", required_argument, NULL, 'n'}, {0}};
    const char *host = "127.0.0.1";
    int port = 0, processes = 1, option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'p') port = atoi(optarg);
        if (option == 'h') host = optarg;
        if (option == 'c') coalesce = true;
        if (option == 'n') processes = atoi(optarg);
        if (option == '?' || processes < 1 || processes > PROCESSES_MAX) {
            fprintf(stderr, "usage: c_loop [--host 127.0.0.1] [--port 0] [--coalesce] [--processes 1]\n");
            return 2;
        }
    }
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0) die("getrlimit");
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0) die("setrlimit");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    int listener = become_processes(host, &port, processes);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll");
    for (int i = 0; i < other_count; i++) {
        struct epoll_event readable = {.events = EPOLLIN, .data.ptr = others[i]};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, others[i]->fd, &readable) < 0) die("epoll");
    }
    printf("ready %d\n", port);
    fflush(stdout);
    while (!stopping) turn(listener);
    return 0;
}
