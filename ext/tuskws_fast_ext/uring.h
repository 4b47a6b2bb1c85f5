/* Many sends in one system call: io_uring, used synchronously.
 *
 * A fan-out at low load is one small send a member, and a tenth of its cost is entering and leaving the kernel. Here up
 * to URING_BATCH sends are queued, submitted by one io_uring_enter and reaped before it is left: MSG_DONTWAIT makes each
 * complete at once, with what send would have returned, so nothing is ever in flight between two calls and no buffer has
 * to outlive one. The kernel may lack it, or a sandbox forbid it (seccomp): uring_open says so and sends go one by one.
 *
 * No liburing: these are three system calls and two rings (io_uring(7)), and a dependency would have to be there at
 * build time on every machine.
 */
#ifndef TUSKWS_URING_H
#define TUSKWS_URING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define URING_BATCH 256
/* No errno is that: the send was not tried. */
#define URING_UNSENT (-4096)

struct uring {
    int fd; /* -1: there is none */
    unsigned queued;
    unsigned *sq_tail, *sq_mask, *sq_array;
    unsigned *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    void *rings, *entries;
    size_t rings_size, entries_size;
};

static inline void uring_close(struct uring *u) {
    if (u->fd < 0)
        return;
    munmap(u->rings, u->rings_size);
    munmap(u->entries, u->entries_size);
    close(u->fd);
    u->fd = -1;
}

/* 0, or the errno that says why there is no ring. */
static inline int uring_open(struct uring *u) {
    struct io_uring_params params;
    size_t completions;
    char *rings;
    u->fd = -1;
    u->queued = 0;
    memset(&params, 0, sizeof params);
    u->fd = (int)syscall(SYS_io_uring_setup, URING_BATCH, &params);
    if (u->fd < 0) {
        u->fd = -1;
        return errno;
    }
    if (!(params.features & IORING_FEAT_SINGLE_MMAP)) { /* before Linux 5.4 */
        close(u->fd);
        u->fd = -1;
        return ENOSYS;
    }
    u->rings_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    completions = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    if (completions > u->rings_size)
        u->rings_size = completions;
    u->entries_size = params.sq_entries * sizeof(struct io_uring_sqe);
    u->rings = mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
    if (u->rings == MAP_FAILED) {
        close(u->fd);
        u->fd = -1;
        return ENOMEM;
    }
    u->entries = mmap(NULL, u->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQES);
    if (u->entries == MAP_FAILED) {
        munmap(u->rings, u->rings_size);
        close(u->fd);
        u->fd = -1;
        return ENOMEM;
    }
    rings = u->rings;
    u->sq_tail = (unsigned *)(rings + params.sq_off.tail);
    u->sq_mask = (unsigned *)(rings + params.sq_off.ring_mask);
    u->sq_array = (unsigned *)(rings + params.sq_off.array);
    u->cq_head = (unsigned *)(rings + params.cq_off.head);
    u->cq_tail = (unsigned *)(rings + params.cq_off.tail);
    u->cq_mask = (unsigned *)(rings + params.cq_off.ring_mask);
    u->cqes = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
    u->sqes = u->entries;
    return 0;
}

/* Queue the send number `queued`; there is room as long as that is below URING_BATCH. */
static inline void uring_send(struct uring *u, int fd, const void *data, size_t size) {
    unsigned tail = *u->sq_tail + u->queued; /* the kernel never writes the tail */
    unsigned slot = tail & *u->sq_mask;
    struct io_uring_sqe *sqe = &u->sqes[slot];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = fd;
    sqe->addr = (uint64_t)(uintptr_t)data;
    sqe->len = (uint32_t)size;
    sqe->msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    sqe->user_data = u->queued;
    u->sq_array[slot] = slot;
    u->queued++;
}

/* Carry out what is queued. `results[i]` is what send gave for number i: bytes, or -errno. Should the kernel refuse the
 * ring itself, which it has no reason to, the ring is gone: what it had not taken yet is URING_UNSENT, and what it had
 * taken and not told of (which it does at once) has failed (EIO). */
static inline void uring_submit(struct uring *u, int *results) {
    unsigned wanted = u->queued, submitted = 0, done = 0, i;
    int refused = 0;
    for (i = 0; i < wanted; i++)
        results[i] = URING_UNSENT;
    u->queued = 0;
    __atomic_store_n(u->sq_tail, *u->sq_tail + wanted, __ATOMIC_RELEASE);
    while (done < wanted && !refused) {
        long entered = syscall(SYS_io_uring_enter, u->fd, wanted - submitted, wanted - done, IORING_ENTER_GETEVENTS, NULL, 0);
        unsigned head = *u->cq_head, tail;
        refused = entered < 0 && errno != EINTR && errno != EAGAIN && errno != EBUSY;
        for (; entered > 0; entered--)
            results[submitted++] = -EIO;
        tail = __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++, done++) {
            struct io_uring_cqe *cqe = &u->cqes[head & *u->cq_mask];
            if (cqe->user_data < wanted)
                results[cqe->user_data] = cqe->res;
        }
        __atomic_store_n(u->cq_head, head, __ATOMIC_RELEASE);
    }
    if (refused)
        uring_close(u);
}

#endif
