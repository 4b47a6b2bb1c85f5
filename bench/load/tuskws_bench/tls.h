/* TLS of the load client: OpenSSL's shared library, looked up when the first wss:// URL is used.
 *
 * It is loaded by name and not linked, so that nobody needs OpenSSL's headers to build the harness. The few functions
 * used have had these types since OpenSSL 1.1. Certificates are not verified: a load test talks to a server of one's own,
 * mostly with a certificate it made itself. Sessions are not resumed: each handshake is a full one.
 */
#ifndef TUSKWS_BENCH_TLS_H
#define TUSKWS_BENCH_TLS_H

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Of openssl/ssl.h and openssl/tls1.h. */
enum { TLS_CTRL_MODE = 33, TLS_CTRL_SNI = 55, TLS_MODES = 1 | 2 /* partial writes, from a moving buffer */ };
enum { TLS_WANT_READ = 2, TLS_WANT_WRITE = 3, TLS_ZERO_RETURN = 6 };

static struct {
    const void *(*client_method)(void);
    void *(*context_new)(const void *method);
    void (*context_free)(void *context);
    long (*context_control)(void *context, int command, long number, void *pointer);
    void *(*new)(void *context);
    void (*free)(void *ssl);
    int (*set_fd)(void *ssl, int fd);
    long (*control)(void *ssl, int command, long number, void *pointer);
    int (*connect)(void *ssl);
    int (*read)(void *ssl, void *bytes, int length);
    int (*write)(void *ssl, const void *bytes, int length);
    int (*error)(const void *ssl, int result);
    int (*pending)(const void *ssl);
    void (*clear)(void);
} tls;

/* False where there is no such library. */
static bool tls_load(void) {
    static const char *const names[] = {"libssl.so.3", "libssl.so.1.1", "libssl.so"};
    static const struct {
        const char *name;
        void **target;
    } wanted[] = {
        {"TLS_client_method", (void **)&tls.client_method}, {"SSL_CTX_new", (void **)&tls.context_new},
        {"SSL_CTX_free", (void **)&tls.context_free},       {"SSL_CTX_ctrl", (void **)&tls.context_control},
        {"SSL_new", (void **)&tls.new},                     {"SSL_free", (void **)&tls.free},
        {"SSL_set_fd", (void **)&tls.set_fd},               {"SSL_ctrl", (void **)&tls.control},
        {"SSL_connect", (void **)&tls.connect},             {"SSL_read", (void **)&tls.read},
        {"SSL_write", (void **)&tls.write},                 {"SSL_get_error", (void **)&tls.error},
        {"SSL_pending", (void **)&tls.pending},             {"ERR_clear_error", (void **)&tls.clear},
    };
    void *library = NULL;
    for (unsigned i = 0; library == NULL && i < sizeof names / sizeof *names; i++) library = dlopen(names[i], RTLD_NOW);
    if (library == NULL) return false;
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if ((*wanted[i].target = dlsym(library, wanted[i].name)) == NULL) return false; /* also of what it depends on */
    return true;
}

/* NULL where there is no OpenSSL. */
static void *tls_context(void) {
    if (tls.clear == NULL && !tls_load()) return NULL;
    void *context = tls.context_new(tls.client_method());
    if (context) tls.context_control(context, TLS_CTRL_MODE, TLS_MODES, NULL);
    return context;
}

/* As send() and recv() on a socket that does not block: -1 with EAGAIN when it must wait, 0 at the end. */
static ssize_t tls_result(void *ssl, int result) {
    if (result > 0) return result;
    int error = tls.error(ssl, result);
    if (error == TLS_ZERO_RETURN) return 0;
    errno = error == TLS_WANT_READ || error == TLS_WANT_WRITE ? EAGAIN : EPROTO;
    return -1;
}

static ssize_t tls_send(void *ssl, const void *bytes, size_t length) {
    tls.clear();
    return tls_result(ssl, tls.write(ssl, bytes, (int)(length < (1 << 30) ? length : 1 << 30)));
}

/* Until `length` is full or the socket is empty: what stays inside the library would wake no epoll. */
static ssize_t tls_recv(void *ssl, uint8_t *bytes, size_t length) {
    size_t have = 0;
    while (have < length) {
        tls.clear();
        ssize_t got = tls_result(ssl, tls.read(ssl, bytes + have, (int)(length - have)));
        if (got <= 0) return have ? (ssize_t)have : got;
        have += (size_t)got;
    }
    return (ssize_t)have;
}

#endif
