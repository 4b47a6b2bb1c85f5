/* One connection of the load client: connect, secure, upgrade, send, close. Knows sockets and frames, not what is in them.
 *
 * Sends go straight to the socket. What it does not take waits in `conn->out`, bounded by OUT_BYTES_MAX: a server that
 * stops reading ends the connection in the report, not the client's memory.
 */
#ifndef TUSKWS_BENCH_CONN_H
#define TUSKWS_BENCH_CONN_H

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "state.h"
#include "tls.h"

/* The sample key of RFC 6455 section 1.3 and its answer, so that a wrong answer is seen without computing SHA-1. */
#define SAMPLE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define SAMPLE_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define COMPRESSION_OFFER \
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
#define UPGRADE_BYTES_MAX 16384
#define SMALL_BYTES_MAX 512

static void note_error(client_t *client, const char *what, size_t length) {
    if (client->first_error[0]) return;
    snprintf(client->first_error, TEXT_BYTES, "%.*s", (int)(length < TEXT_BYTES - 1 ? length : TEXT_BYTES - 1), what);
}

/* False when memory is short: the caller closes the connection. */
static bool append(uint8_t **bytes, uint32_t *length, uint32_t *capacity, const uint8_t *from, size_t count) {
    if (*length + count > *capacity) {
        uint32_t wanted = (uint32_t)(*length + count) * 2;
        uint8_t *grown = realloc(*bytes, wanted);
        if (grown == NULL) return false;
        *bytes = grown, *capacity = wanted;
    }
    memcpy(*bytes + *length, from, count);
    *length += (uint32_t)count;
    return true;
}

static void conn_watch(client_t *client, conn_t *conn, int operation, bool writing) {
    struct epoll_event event = {.events = (conn->paused ? 0 : EPOLLIN) | (writing ? EPOLLOUT : 0), .data.u32 = (uint32_t)(conn - client->conns)};
    epoll_ctl(client->epoll_fd, operation, conn->fd, &event);
    conn->wants_write = writing;
}

static void conn_release(client_t *client, conn_t *conn) {
    client->open--;
    if (conn->tls) tls.free(conn->tls);
    if (conn->fd >= 0) close(conn->fd);
    free(conn->in), free(conn->out), free(conn->text);
    conn->in = conn->out = conn->text = NULL;
    conn->in_length = conn->in_capacity = conn->out_length = conn->out_capacity = 0;
    conn->text_length = conn->text_capacity = 0;
    conn->joined = 0;
    conn->fd = -1;
    conn->tls = NULL;
    conn->wants_write = false;
}

static void conn_close(client_t *client, conn_t *conn, const char *why) {
    if (conn->state == CONN_CLOSED) return;
    if (!client->ending) {
        if (conn->slow && conn->state == CONN_READY) client->counters.slow_closed++; /* what a server may well do */
        else if (conn->state == CONN_READY) client->counters.closed_early++;
        else client->counters.failed++;
        if (!conn->slow || conn->state != CONN_READY) note_error(client, why, strlen(why));
    }
    if (conn->state != CONN_READY && conn->state != CONN_NEW) client->connecting--;
    conn->state = CONN_CLOSED;
    conn_release(client, conn);
}

static ssize_t conn_write(conn_t *conn, const uint8_t *bytes, size_t length) {
    return conn->tls ? tls_send(conn->tls, bytes, length) : send(conn->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t conn_read(conn_t *conn, uint8_t *bytes, size_t length) {
    return conn->tls ? tls_recv(conn->tls, bytes, length) : recv(conn->fd, bytes, length, 0);
}

static bool conn_send(client_t *client, conn_t *conn, const uint8_t *bytes, size_t length) {
    if (conn->state == CONN_CLOSED) return false;
    if (conn->out_length == 0) {
        ssize_t sent = conn_write(conn, bytes, length);
        client->counters.sends++;
        if (sent < 0 && errno != EAGAIN) {
            conn_close(client, conn, strerror(errno));
            return false;
        }
        size_t taken = sent < 0 ? 0 : (size_t)sent;
        if (taken == length) return true;
        client->counters.short_sends++;
        bytes += taken, length -= taken;
    }
    if (conn->out_length + length > OUT_BYTES_MAX ||
        !append(&conn->out, &conn->out_length, &conn->out_capacity, bytes, length)) {
        conn_close(client, conn, "the server does not read what a publisher sends");
        return false;
    }
    if (!conn->wants_write) conn_watch(client, conn, EPOLL_CTL_MOD, true);
    return true;
}

static void conn_flush(client_t *client, conn_t *conn) {
    ssize_t sent = conn_write(conn, conn->out, conn->out_length);
    if (sent < 0) {
        if (errno != EAGAIN) conn_close(client, conn, strerror(errno));
        return;
    }
    conn->out_length -= (uint32_t)sent;
    memmove(conn->out, conn->out + sent, conn->out_length);
    if (conn->out_length == 0) conn_watch(client, conn, EPOLL_CTL_MOD, false);
}

/* One small frame: a control frame, hello, join_room. */
static bool conn_send_frame(client_t *client, conn_t *conn, uint8_t opcode, const void *payload, size_t length) {
    uint8_t frame[14 + SMALL_BYTES_MAX];
    if (length > SMALL_BYTES_MAX) {
        conn_close(client, conn, "a command longer than this client ever sends");
        return false;
    }
    size_t head = mask_head_bytes(length);
    memcpy(frame + head, payload, length);
    frame_seal(frame, opcode, length, next_mask(client));
    return conn_send(client, conn, frame, head + length);
}

static void conn_request(client_t *client, conn_t *conn) {
    char request[5120];
    const char *path = client->path;
    char room_path[NAME_BYTES + 1];
    if (!path[0] && conn->room >= 0) {
        snprintf(room_path, sizeof room_path, "/%s", client->rooms[conn->room].name);
        path = room_path;
    }
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: " SAMPLE_KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s%s\r\n",
                          path[0] ? path : "/", client->authority,
                          client->dialect == DIALECT_TUSK ? "Sec-WebSocket-Protocol: tusk.v1\r\n" : "",
                          client->compression ? COMPRESSION_OFFER : "",
                          client->token[0] ? "Authorization: Bearer " : "", client->token, client->token[0] ? "\r\n" : "");
    conn->state = CONN_UPGRADING;
    conn_send(client, conn, (uint8_t *)request, (size_t)length);
}

/* One step of the TLS handshake; the request follows it, or at once where there is none. */
static void conn_secure(client_t *client, conn_t *conn) {
    if (client->tls == NULL) {
        conn_request(client, conn);
        return;
    }
    conn->state = CONN_SECURING;
    if (conn->tls == NULL) {
        char name[sizeof client->authority];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(client->authority, ":"), client->authority);
        conn->tls = tls.new(client->tls);
        if (conn->tls == NULL || !tls.set_fd(conn->tls, conn->fd)) {
            conn_close(client, conn, "no memory for TLS");
            return;
        }
        tls.control(conn->tls, TLS_CTRL_SNI, 0, name);
    }
    tls.clear();
    int result = tls.connect(conn->tls), error = result == 1 ? 0 : tls.error(conn->tls, result);
    if (result == 1) {
        if (conn->wants_write) conn_watch(client, conn, EPOLL_CTL_MOD, false);
        conn_request(client, conn);
    } else if (error == TLS_WANT_READ || error == TLS_WANT_WRITE) {
        if (conn->wants_write != (error == TLS_WANT_WRITE)) conn_watch(client, conn, EPOLL_CTL_MOD, error == TLS_WANT_WRITE);
    } else {
        conn_close(client, conn, "the TLS handshake failed");
    }
}

static void conn_open(client_t *client, conn_t *conn) {
    int on = 1;
    conn->fd = socket(client->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    conn->state = CONN_CONNECTING;
    client->connecting++;
    client->open++;
    if (conn->fd < 0) {
        conn_close(client, conn, strerror(errno));
        return;
    }
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int result = connect(conn->fd, (struct sockaddr *)&client->address, client->address_bytes);
    if (result < 0 && errno != EINPROGRESS) {
        conn_close(client, conn, strerror(errno));
        return;
    }
    conn_watch(client, conn, EPOLL_CTL_ADD, result < 0);
    if (result == 0) conn_secure(client, conn);
}

static void on_connected(client_t *client, conn_t *conn) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        conn_close(client, conn, strerror(error));
        return;
    }
    conn_watch(client, conn, EPOLL_CTL_MOD, false);
    conn_secure(client, conn);
}

/* Bytes of the response to the upgrade, 0 while it is incomplete; closes the connection when it is not a good 101. */
static size_t take_response(client_t *client, conn_t *conn, const uint8_t *bytes, size_t length) {
    const uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (end == NULL) {
        if (length > UPGRADE_BYTES_MAX) conn_close(client, conn, "no end of the upgrade's response");
        return 0;
    }
    size_t head = (size_t)(end + 4 - bytes);
    if (length < 12 || memcmp(bytes, "HTTP/1.1 101", 12) != 0) {
        const uint8_t *line = memchr(bytes, '\r', length);
        char text[TEXT_BYTES];
        snprintf(text, sizeof text, "upgrade refused: %.*s", (int)(line - bytes < 160 ? line - bytes : 160), (const char *)bytes);
        conn_close(client, conn, text);
        return 0;
    }
    if (memmem(bytes, head, SAMPLE_ACCEPT, sizeof SAMPLE_ACCEPT - 1) == NULL) {
        conn_close(client, conn, "wrong Sec-WebSocket-Accept");
        return 0;
    }
    if (client->compression && memmem(bytes, head, "permessage-deflate", 18) == NULL) {
        conn_close(client, conn, "the server does not compress: it left permessage-deflate out of its answer");
        return 0;
    }
    client->counters.connected++;
    return head;
}

#endif
