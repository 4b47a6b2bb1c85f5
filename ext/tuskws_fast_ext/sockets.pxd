from libc.stdint cimport uint32_t, uint64_t

from tuskws_fast_ext.gate cimport Gate, Inlet


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data


cdef enum:
    TOLD_MAX = 16


cdef class Watch:
    """An epoll instance of those who wait for a share of a turn."""
    cdef:
        int fd
        epoll_event _told[TOLD_MAX]       # what the kernel told,
        int _next                         # from here on
        int _end                          # to here, and there was no time for yet

    cdef epoll_event* next(self) noexcept
    cdef void forget(self) noexcept


cdef class Poller:
    cdef:
        int _fd                           # of the epoll instance
        Watch _door                       # listeners and unfinished handshakes
        Watch _outcasts                   # who broke a rule: what it still sends is only dropped
        int _nudge                        # a descriptor that has the loop turn it
        int _reserve                      # a descriptor to close when there is no other; -1: it is in use
        Inlet _inlet
        object _loop
        public object owner               # gets on_first_bytes(socket, data), on_crowded(socket) and so on
        list _sockets                     # by descriptor; None: no socket of ours
        list _fresh                       # accepted, and not heard or not watched yet, the oldest first
        list _listeners
        list _soon                        # what waits for the end of this turn
        list _dead                        # sockets whose end is still to be told
        list _crowd                       # crowded sockets that are here still, the oldest first
        int _loud_first                   # of the loud ones, who is served first in the next turn
        uint32_t _births
        bint _in_turn
        readonly Py_ssize_t sockets_max   # from here on a new one is `crowded`
        readonly Py_ssize_t open          # sockets that exist
        readonly Py_ssize_t half_open     # those of them whose handshake is not over

    cdef int _fill_reserve(self) noexcept
    cdef int _watch_also(self, int operation, int fd, uint32_t events) except -1
    cdef int _serve_ready(self) except -1
    cdef int _serve_door(self) except -1
    cdef int _serve_outcasts(self) except -1
    cdef bint _is_loud(self, epoll_event* event) except -1
    cdef int _serve_loud(self, epoll_event* events, int* loud, int louds) except -1
    cdef bint _serve_stranger(self, epoll_event* event) except -1
    cdef int _serve(self, epoll_event* event) except -1
    cdef int _tell(self, Socket socket, uint32_t events) except -1
    cdef int _enroll(self, Socket socket, int epoll) except -1
    cdef bint _accept(self, int listener) except -1
    cdef int _accept_by_reserve(self, int listener, int error) except -1
    cdef int _hear(self, Socket socket) except -1
    cdef int _admit(self, Socket socket, bint may_wait) except -1
    cdef Socket _take(self, int fd, object address, bint is_crowded)
    cdef int _bury(self, Socket socket) except -1
    cdef bint _reap(self) except -1
    cdef int _end_turn(self) except -1
    cdef int _run_soon(self) except -1
    cdef int _report(self, error) except -1


cdef class Socket:
    cdef:
        Poller _poller
        int _fd
        uint32_t _birth                   # tells this socket from an earlier one of the same descriptor
        uint32_t _interest                # what the kernel was asked to watch
        int _epoll                        # by which instance; -1: by none yet
        Gate _gate                        # the protocol after the upgrade
        object _protocol                  # the protocol before, if the first read was not enough
        bytearray _pending                # what the kernel did not take
        int _errno                        # why it ended; 0: nothing failed, or `_error`
        object _error                     # what was raised while it was served
        bint _is_half_open
        bint _was_asked                   # it was heard, and had said nothing
        bint _is_waiting                  # the owner was told that it waits
        bint _paused
        bint _closing
        bint _ending_output
        bint _buried
        readonly bint is_crowded          # there is no room for it to stay
        readonly object address           # text, "" for a Unix socket

    cdef int _on_events(self, uint32_t events) except -1
    cdef int _read(self) except -1
    cdef int _write_pending(self) except -1
    cdef int _watch(self) except -1
    cdef int _break(self, int error) except -1
    cdef int _lost(self) except -1
