"""Client sockets of our own: one epoll instance for all of a worker, which the loop turns.

    loop ─(epoll descriptor is readable)─▶ Poller.turn ─┬▶ who is in: the gate, without a call through Python
                                                        ├▶ the door, for a while: accept, a `Socket` each, and
                                                        │    its first bytes to owner.on_first_bytes(socket, data)
                                                        ├▶ outcasts, now and then
                                                        └▶ end of the turn: what was put off to it, then the ends

A transport of the loop's costs 20 us of CPU from accept to close beside the kernel's share, and 1.1 KB (measured,
docs/decisions/0007); a C program has neither, and the issue here is to be near one. A `Socket` offers as much of
`asyncio.Transport` as connections use, with the same meaning: writes leave at once or wait in order, `close` sends what
waits first, `connection_lost` comes once, later, never out of a call. TLS has a transport of its own (worker/tls).

Out of descriptors. One is kept in reserve: closed, it makes room to accept one client, who is told 503 (or is shown how
the node is) and let go of before the turn ends, and then it is the reserve again. So nobody is left waiting and the loop
never spins on a listener that it cannot serve; where even the reserve is not to be had, the listener rests for a moment.

Who is in goes first. Listeners, and handshakes whose request is not here at once, wait in an epoll instance of their
own, the door: a turn serves all connections that are ready (those that said very much when they were read last behind
the others, for a share), and then strangers, one by one, until their share is over (ext/pace). So ten thousand of them
cost a connection no more than a few do (docs/decisions/0007). Who broke a rule is cast out: a megabyte that it is still
writing is thirty reads, and there may be hundreds of such peers. What they send is dropped for a share of a turn, and
then not looked at for a while: the kernel has them wait.

Everything is level-triggered: what a turn leaves over, the next one finds. Those who are accepted and not heard yet are in
no epoll instance: for them a descriptor that is always readable, and told of once, has the next turn come, behind whatever
else the loop has to do. Ends are told after the turn's events, so
a descriptor is not used again while events of its last owner may be in the same batch; `birth` catches the rest.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, EPERM, ECONNRESET, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strlen
from tuskws_fast_ext.gate cimport Gate, Inlet
from tuskws_fast_ext.pace cimport SHARE_US, exact_monotonic

import os

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLONESHOT
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SHUT_WR
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    ssize_t recv(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    int c_shutdown "shutdown"(int fd, int how)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        in_addr sin_addr
    struct sockaddr_in6:
        in6_addr sin6_addr

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* out, socklen_t size)

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
    int eventfd(unsigned int initval, int flags)

cdef enum:
    # Events of one turn; the rest waits for the next, behind whatever else the loop has to do.
    EVENTS_MAX = 256
    # Crowded sockets that may wait for their request to come: somebody who asks how the node is.
    CROWDED_MAX = 8
    # New clients that wait to be heard: as many as are served in the time that a turn has for them.
    ACCEPTS_MAX = 4
    # Shares of a turn (ext/pace) for strangers while nobody who is in says anything: with one, what a turn itself costs
    # is a tenth of a handshake more.
    DOOR_SHARES = 2
    ADDRESS_MAX = 46

# A listener is told from a socket by its birth, which no socket has.
cdef uint32_t LISTENER = 0xFFFFFFFF
# Seconds after which those who are in count as silent.
cdef double SILENT_AFTER_S = 1.0
# How long outcasts are left alone between two shares: so a tenth of the time is theirs. One alone, as an honest client
# may be, still writes its megabyte in some hundredths of a second.
cdef double OUTCASTS_PAUSE_S = 0.001
# How long to leave the listeners alone when there is no descriptor left; the kernel's queue holds who comes.
cdef double OUT_OF_FILES_PAUSE_S = 0.1


cdef object system_error(int number):
    return OSError(number, os.strerror(number))


cdef object address_of(sockaddr_storage* address):
    cdef:
        char text[ADDRESS_MAX]
        Py_ssize_t size = 0
    if address.ss_family == AF_INET:
        size = put_ipv4(text, <unsigned char*>&(<sockaddr_in*>address).sin_addr)
    elif address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6*>address).sin6_addr, text, ADDRESS_MAX)
        size = strlen(text)
    return PyUnicode_DecodeASCII(text, size, NULL)


cdef Py_ssize_t put_ipv4(char* text, const unsigned char* octets) noexcept nogil:
    """As inet_ntop does, at a tenth of its price: that is printf's."""
    cdef:
        char* at = text
        int i
    for i in range(4):
        if octets[i] >= 100:
            at[0] = 48 + octets[i] // 100
            at += 1
        if octets[i] >= 10:
            at[0] = 48 + octets[i] // 10 % 10
            at += 1
        at[0] = 48 + octets[i] % 10
        at[1] = 46
        at += 2
    # The last dot is none of it.
    return at - 1 - text


cdef class Watch:
    def __cinit__(self):
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise system_error(errno)

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    cdef epoll_event* next(self) noexcept:
        """The next event; NULL: there is none. The kernel puts what it told of behind what waits, and what there was no
        time for comes first in the next turn: so each has its turn."""
        if self._next == self._end:
            self._next = 0
            self._end = max(0, epoll_wait(self.fd, self._told, TOLD_MAX, 0))
            if self._end == 0:
                return NULL
        self._next += 1
        return &self._told[self._next - 1]

    cdef void forget(self) noexcept:
        """What was told before is no more true; the rest is told again."""
        self._next = self._end = 0


cdef class Poller:
    """`owner.on_first_bytes(socket, data)` gets what a new socket says first. A socket beyond `sockets_max`
    `is_crowded`: it may be answered, not upgraded. Only a few of these may take their time, and the oldest gives way
    to one more: `owner.on_crowded(socket)` sends it away. `owner.on_waiting(socket)` hears of one whose handshake is
    not over as soon as it is accepted, and `owner.on_settled(socket)` when that one is upgraded or ends.
    `owner.on_shortage(errno)` hears that there was no descriptor for a client. The owner is set before the first
    `listen`."""

    def __cinit__(self):
        self._fd = -1
        self._nudge = -1
        self._reserve = -1

    def __init__(self, loop, Inlet inlet not None, Py_ssize_t sockets_max):
        self._fd = epoll_create1(EPOLL_CLOEXEC)
        if self._fd < 0:
            raise system_error(errno)
        self._door = Watch()
        self._outcasts = Watch()
        self._nudge = eventfd(1, EFD_CLOEXEC)
        if self._nudge < 0:
            raise system_error(errno)
        self._watch_also(EPOLL_CTL_ADD, self._door.fd, EPOLLIN)
        self._watch_also(EPOLL_CTL_ADD, self._outcasts.fd, EPOLLIN | EPOLLONESHOT)
        self._watch_also(EPOLL_CTL_ADD, self._nudge, 0)
        self._loop = loop
        self._inlet = inlet
        self._sockets = []
        self._fresh = []
        self._listeners = []
        self._soon = []
        self._dead = []
        self._crowd = []
        self.sockets_max = sockets_max
        self._fill_reserve()
        loop.add_reader(self._fd, self.turn)

    def __dealloc__(self):
        if self._fd >= 0:
            c_close(self._fd)
        if self._nudge >= 0:
            c_close(self._nudge)
        if self._reserve >= 0:
            c_close(self._reserve)

    cdef int _watch_also(self, int operation, int fd, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.u64 = <uint64_t>LISTENER << 32 | <uint32_t>fd
        if epoll_ctl(self._fd, operation, fd, &event) < 0:
            raise system_error(errno)
        return 0

    cdef int _fill_reserve(self) noexcept:
        """Any descriptor will do; without one more to be had, there is no reserve until the next turn."""
        if self._reserve < 0:
            self._reserve = eventfd(0, EFD_CLOEXEC)
        return 0

    def close(self):
        """Turn no more. Sockets that are open stay as they are; a process that does this is about to end."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            c_close(self._fd)
            self._fd = -1

    def listen(self, listener):
        """Accept from `listener`, a non-blocking listening socket, until `silence`."""
        cdef epoll_event event
        self._listeners.append(listener)
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>LISTENER << 32 | <uint32_t><int>listener.fileno()
        if epoll_ctl(self._door.fd, EPOLL_CTL_ADD, listener.fileno(), &event) < 0:
            raise system_error(errno)

    def silence(self, listener):
        """Accept no more from `listener`; it stays its owner's."""
        if listener in self._listeners:
            self._listeners.remove(listener)
            epoll_ctl(self._door.fd, EPOLL_CTL_DEL, listener.fileno(), NULL)
            self._door.forget()

    @property
    def unheard(self):
        """Sockets that are accepted and nobody had time to hear yet."""
        return PyList_GET_SIZE(self._fresh)

    def call_soon(self, callback):
        """At the end of this turn, after all of its reads; without one, as the loop's."""
        if self._in_turn:
            self._soon.append(callback)
        else:
            self._loop.call_soon(callback)

    def turn(self):
        """Serve what is ready."""
        self._in_turn = True
        self._inlet.until = exact_monotonic() + SHARE_US * 1e-6
        try:
            self._serve_ready()
        finally:
            try:
                self._end_turn()
            finally:
                self._in_turn = False
                self._fill_reserve()

    cdef int _serve_ready(self) except -1:
        """All who are in, the loud ones behind the rest, and then the others."""
        cdef:
            epoll_event events[EVENTS_MAX]
            int loud[EVENTS_MAX]
            int louds = 0
            int i
            bint knocked = False
            bint cast_out = False
        for i in range(epoll_wait(self._fd, events, EVENTS_MAX, 0)):
            if <uint32_t>(events[i].data.u64 >> 32) != LISTENER:
                if self._is_loud(&events[i]):
                    loud[louds] = i
                    louds += 1
                else:
                    self._serve(&events[i])
            elif <int>(events[i].data.u64 & 0xFFFFFFFF) == self._outcasts.fd:
                cast_out = True
            else:
                knocked = True
        if louds:
            self._serve_loud(events, loud, louds)
        if knocked:
            # Who is in has its answers before.
            self._run_soon()
            self._serve_door()
        if cast_out:
            self._serve_outcasts()
        return 0

    cdef bint _is_loud(self, epoll_event* event) except -1:
        cdef object found = <object>PyList_GET_ITEM(self._sockets, <int>(event.data.u64 & 0xFFFFFFFF))
        return found is not None and (<Socket>found)._gate is not None and (<Socket>found)._gate.is_loud

    cdef int _serve_loud(self, epoll_event* events, int* loud, int louds) except -1:
        """One after the other, for a while; another one is the first in each turn."""
        cdef:
            double until = exact_monotonic() + SHARE_US * 1e-6
            int i = 0
        for i in range(louds):
            self._serve(&events[loud[(self._loud_first + i) % louds]])
            if exact_monotonic() >= until:
                break
        # Behind the last one that was served, as long as these are the same.
        self._loud_first = (self._loud_first + i + 1) % louds
        return 0

    cdef int _serve_door(self) except -1:
        """One stranger after the other, for a while. New clients are taken some at a time and heard in turn: most requests
        come some microseconds behind their connection, and one that is here when its turn comes is never filed as
        unfinished. Who there is no time for is heard in the next turn."""
        cdef:
            epoll_event* event
            double now = exact_monotonic()
            bint is_silent = now - self._inlet.heard_at >= SILENT_AFTER_S
            double until = now + (DOOR_SHARES if is_silent else 1) * SHARE_US * 1e-6
        while now < until:
            if PyList_GET_SIZE(self._fresh):
                self._hear(self._fresh.pop(0))
            else:
                event = self._door.next()
                if event == NULL or not self._serve_stranger(event):
                    break
            now = exact_monotonic()
        if PyList_GET_SIZE(self._fresh):
            self._watch_also(EPOLL_CTL_MOD, self._nudge, EPOLLIN | EPOLLONESHOT)
        return 0

    cdef int _serve_outcasts(self) except -1:
        """Some of them, and no more until `_look_at_outcasts`: the kernel tells of them once (EPOLLONESHOT)."""
        cdef:
            epoll_event* event
            double now = exact_monotonic()
            double until = now + SHARE_US * 1e-6
        while now < until:
            event = self._outcasts.next()
            if event == NULL:
                break
            self._serve(event)
            now = exact_monotonic()
        self._loop.call_later(OUTCASTS_PAUSE_S, self._look_at_outcasts)
        return 0

    def _look_at_outcasts(self):
        if self._fd >= 0:
            self._watch_also(EPOLL_CTL_MOD, self._outcasts.fd, EPOLLIN | EPOLLONESHOT)

    cdef bint _serve_stranger(self, epoll_event* event) except -1:
        """False: there is no descriptor for who comes next."""
        if <uint32_t>(event.data.u64 >> 32) != LISTENER:
            self._serve(event)
            return True
        try:
            return self._accept(<int>(event.data.u64 & 0xFFFFFFFF))
        except Exception as error:
            self._report(error)
            return True

    cdef int _serve(self, epoll_event* event) except -1:
        cdef:
            object found = <object>PyList_GET_ITEM(self._sockets, <int>(event.data.u64 & 0xFFFFFFFF))
            Socket socket
        if found is not None:
            socket = <Socket>found
            if socket._birth == <uint32_t>(event.data.u64 >> 32):
                self._tell(socket, event.events)
        return 0

    cdef int _enroll(self, Socket socket, int epoll) except -1:
        """Have the socket watched by `epoll` from now on."""
        cdef epoll_event event
        event.events = socket._interest
        event.data.u64 = <uint64_t>socket._birth << 32 | <uint32_t>socket._fd
        if socket._epoll >= 0:
            epoll_ctl(socket._epoll, EPOLL_CTL_DEL, socket._fd, NULL)
        socket._epoll = epoll
        if epoll_ctl(epoll, EPOLL_CTL_ADD, socket._fd, &event) < 0:
            socket._break(errno)
        return 0

    cdef int _tell(self, Socket socket, uint32_t events) except -1:
        """What fails costs the socket it fails for."""
        try:
            socket._on_events(events)
        except Exception as error:
            socket._error = error
            socket.abort()
            self._report(error)
        return 0

    cdef int _end_turn(self) except -1:
        """What was put off, and the ends; either may bring about more of the other."""
        cdef bint is_time_left = True
        self._run_soon()
        while self._dead and is_time_left:
            is_time_left = self._reap()
            self._run_soon()
        return 0

    cdef int _run_soon(self) except -1:
        cdef list soon
        while self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                try:
                    callback()
                except Exception as error:
                    self._report(error)
        return 0

    cdef int _report(self, error) except -1:
        self._loop.call_exception_handler({"message": "serving a socket fails", "exception": error})
        return 0

    cdef bint _accept(self, int listener) except -1:
        """Take some clients. False: there was no descriptor for one of them, and who comes next has to wait for the next
        turn."""
        cdef:
            sockaddr_storage address
            socklen_t size
            int fd
        while PyList_GET_SIZE(self._fresh) < ACCEPTS_MAX:
            size = sizeof(address)
            fd = accept4(listener, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self._fresh.append(self._take(fd, address_of(&address), self.open + 1 >= self.sockets_max))
            elif errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                self._accept_by_reserve(listener, errno)
                return False
            else:
                if errno not in (EAGAIN, EINTR, ECONNABORTED, EPROTO, EPERM):
                    self._report(system_error(errno))
                break
        return True

    cdef int _hear(self, Socket socket) except -1:
        """What does a new socket say? One that says nothing yet is asked again behind the others, once."""
        cdef bint is_silent
        self._tell(socket, EPOLLIN)
        is_silent = socket._gate is None and socket._protocol is None and not socket._closing
        if is_silent and not socket._was_asked and PyList_GET_SIZE(self._fresh):
            socket._was_asked = True
            self._fresh.append(socket)
            return 0
        try:
            self._admit(socket, True)
        except Exception as error:
            self._report(error)
        return 0

    cdef int _accept_by_reserve(self, int listener, int error) except -1:
        """Accept one client in place of the reserve, only to answer it. Any others have their turn in the next one."""
        cdef:
            sockaddr_storage address
            socklen_t size = sizeof(address)
            Socket socket
            int fd = -1
        self.owner.on_shortage(error)
        if self._reserve >= 0:
            c_close(self._reserve)
            self._reserve = -1
            fd = accept4(listener, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            socket = self._take(fd, address_of(&address), True)
            self._tell(socket, EPOLLIN)
            self._admit(socket, False)
        else:
            self._pause(listener)
        return 0

    cdef int _admit(self, Socket socket, bint may_wait) except -1:
        """Have a new socket watched for what it says from now on."""
        if socket._buried:
            return 0
        self._enroll(socket, self._door.fd if socket._is_half_open else self._fd)
        if socket.is_crowded and not socket._closing:
            self._crowd.append(socket)
            if not may_wait:
                self.owner.on_crowded(self._crowd.pop())
            elif PyList_GET_SIZE(self._crowd) > CROWDED_MAX:
                self.owner.on_crowded(self._crowd.pop(0))
        if socket._is_half_open and not socket._buried:
            socket._is_waiting = True
            self.owner.on_waiting(socket)
        return 0

    def _pause(self, int fd):
        """Without a pause the loop would spin on a listener that cannot be served."""
        epoll_ctl(self._door.fd, EPOLL_CTL_DEL, fd, NULL)
        self._door.forget()
        self._loop.call_later(OUT_OF_FILES_PAUSE_S, self._resume, fd)

    def _resume(self, int fd):
        for listener in self._listeners:
            if listener.fileno() == fd:
                self._listeners.remove(listener)
                self.listen(listener)
                return

    cdef Socket _take(self, int fd, object address, bint is_crowded):
        """A new socket, which no epoll instance watches yet."""
        cdef Socket socket = Socket.__new__(Socket)
        while PyList_GET_SIZE(self._sockets) <= fd:
            self._sockets.append(None)
        self._births += 1
        if self._births == LISTENER:
            self._births = 1
        socket._poller = self
        socket._fd = fd
        socket._birth = self._births
        socket._interest = EPOLLIN
        socket._epoll = -1
        socket._is_half_open = True
        socket.address = address
        socket.is_crowded = is_crowded
        self._sockets[fd] = socket
        self.open += 1
        self.half_open += 1
        return socket

    cdef int _bury(self, Socket socket) except -1:
        if socket._buried:
            return 0
        socket._buried = True
        socket._closing = True
        socket._pending = None
        if not self._dead and not self._in_turn:
            self._loop.call_soon(self.reap)
        self._dead.append(socket)
        return 0

    def reap(self):
        """Tell the ends that came about outside of a turn, or that a turn had no time for. Whether these were all."""
        return self._reap()

    cdef bint _reap(self) except -1:
        """Tell ends, for a while. Whether that were all; the others have their turn when the loop comes round."""
        cdef:
            double until = exact_monotonic() + SHARE_US * 1e-6
            Py_ssize_t told = 0
        while told < PyList_GET_SIZE(self._dead):
            try:
                (<Socket>self._dead[told])._lost()
            except Exception as error:
                self._report(error)
            told += 1
            if exact_monotonic() >= until:
                break
        del self._dead[:told]
        if self._dead:
            self._loop.call_soon(self.reap)
        return not self._dead


cdef class Socket:
    """One accepted socket; made by a `Poller`. Its end is told to the protocol by `connection_lost`."""

    # -- who listens -------------------------------------------------------------------------------------------------

    def set_protocol(self, protocol not None):
        """From now on reads go to `protocol`; a `Gate` means that the handshake is over."""
        if isinstance(protocol, Gate):
            self._gate = <Gate>protocol
            self._protocol = None
            self._end_handshake()
        else:
            self._protocol = protocol

    def _end_handshake(self):
        if self._is_half_open:
            self._is_half_open = False
            self._poller.half_open -= 1
            if self._epoll == self._poller._door.fd and not self._buried:
                self._poller._enroll(self, self._poller._fd)
        if self._is_waiting:
            self._is_waiting = False
            self._poller.owner.on_settled(self)

    def fileno(self):
        return self._fd

    def get_extra_info(self, name, default=None):
        """Nothing but the peer's address, in the shape that transports give it."""
        return (self.address, 0) if name == "peername" else default

    # -- in ------------------------------------------------------------------------------------------------------------

    cdef int _on_events(self, uint32_t events) except -1:
        if self._buried:
            return 0
        if self._interest & EPOLLIN:
            if events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                self._read()
        elif events & (EPOLLERR | EPOLLHUP):
            # Nobody reads, and there is nobody left to write to.
            return self._break(ECONNRESET)
        if events & EPOLLOUT and not self._buried:
            self._write_pending()
        return 0

    cdef int _read(self) except -1:
        cdef:
            Inlet inlet = self._poller._inlet
            char* memory = PyByteArray_AS_STRING(inlet.memory)
            ssize_t size = recv(self._fd, memory, PyByteArray_GET_SIZE(inlet.memory), MSG_DONTWAIT)
        if size > 0:
            if self._gate is not None:
                self._gate._pass(<const unsigned char*>memory, size)
                if self._gate._connection.is_failed and self._epoll == self._poller._fd and not self._buried:
                    self._poller._enroll(self, self._poller._outcasts.fd)
            elif self._protocol is not None:
                self._protocol.buffer_updated(size)
            else:
                self._poller.owner.on_first_bytes(self, PyBytes_FromStringAndSize(memory, size))
        elif size == 0:
            # A peer that stops sending has nothing more to say to us either (ext/gate).
            self.close()
        elif errno != EAGAIN and errno != EINTR:
            self._break(errno)
        return 0

    def pause_reading(self):
        self._paused = True
        self._watch()

    def resume_reading(self):
        self._paused = False
        self._watch()

    cdef int _watch(self) except -1:
        """Ask the kernel for what matters now."""
        cdef:
            epoll_event event
            uint32_t interest = 0
        if self._buried:
            return 0
        if not self._paused and not self._closing:
            interest |= EPOLLIN
        if self._pending is not None:
            interest |= EPOLLOUT
        if interest != self._interest:
            self._interest = interest
            event.events = interest
            event.data.u64 = <uint64_t>self._birth << 32 | <uint32_t>self._fd
            if self._epoll >= 0 and epoll_ctl(self._epoll, EPOLL_CTL_MOD, self._fd, &event) < 0:
                self._break(errno)
        return 0

    # -- out -----------------------------------------------------------------------------------------------------------

    def write(self, bytes data not None):
        """Send `data` behind what waits already; what the kernel does not take waits here."""
        cdef ssize_t sent
        if self._closing or self._ending_output or not PyBytes_GET_SIZE(data):
            return
        if self._pending is not None:
            self._pending += data
            return
        sent = c_send(self._fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
                self._break(errno)
                return
            sent = 0
        if sent < PyBytes_GET_SIZE(data):
            self._pending = bytearray(data[sent:])
            self._watch()

    cdef int _write_pending(self) except -1:
        cdef ssize_t sent
        if self._pending is None:
            return 0
        sent = c_send(
            self._fd,
            PyByteArray_AS_STRING(self._pending),
            PyByteArray_GET_SIZE(self._pending),
            MSG_DONTWAIT | MSG_NOSIGNAL,
        )
        if sent < 0:
            if errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
                self._break(errno)
            return 0
        if sent < PyByteArray_GET_SIZE(self._pending):
            del self._pending[:sent]
            return 0
        self._pending = None
        if self._closing:
            return self._poller._bury(self)
        if self._ending_output:
            c_shutdown(self._fd, SHUT_WR)
        self._watch()
        if self._gate is not None:
            self._gate.resume_writing()
        return 0

    def get_write_buffer_size(self):
        return 0 if self._pending is None else PyByteArray_GET_SIZE(self._pending)

    # -- the end -------------------------------------------------------------------------------------------------------

    def can_write_eof(self):
        return True

    def write_eof(self):
        """Nothing more is written; the peer is told behind what waits."""
        if self._closing or self._ending_output:
            return
        self._ending_output = True
        if self._pending is None:
            c_shutdown(self._fd, SHUT_WR)

    def is_closing(self):
        return self._closing

    def close(self):
        """Read no more, send what waits, then end."""
        if self._closing:
            return
        self._closing = True
        if self._pending is None:
            self._poller._bury(self)
        else:
            self._watch()

    def abort(self):
        """End at once; what waits is dropped."""
        self._poller._bury(self)

    cdef int _break(self, int error) except -1:
        self._errno = error
        return self._poller._bury(self)

    cdef int _lost(self) except -1:
        cdef Gate gate = self._gate
        protocol, self._protocol = self._protocol, None
        self._gate = None
        self._end_handshake()
        self._poller._sockets[self._fd] = None
        self._poller.open -= 1
        if self.is_crowded and self in self._poller._crowd:
            self._poller._crowd.remove(self)
        # Leaves the epoll set by itself: the descriptor has no duplicate.
        c_close(self._fd)
        self._fd = -1
        if gate is not None:
            gate.lost()
        elif protocol is not None:
            protocol.connection_lost(system_error(self._errno) if self._errno else self._error)
        return 0
