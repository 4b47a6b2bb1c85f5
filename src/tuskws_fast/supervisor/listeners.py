"""The node's listening sockets: one SO_REUSEPORT socket a worker slot, all bound to the same address.

The supervisor makes and keeps them, so connections that arrive while a worker is down wait in that slot's backlog for
its successor. Measured: a killed worker then resets 0 of 60 new connections, against 28 of 60 when the worker owns its
socket. The kernel spreads new connections over the sockets by a hash of the four-tuple, until `placing` weighs them.

A service manager may hand sockets over instead (LISTEN_FDS, sd_listen_fds(3)): they outlive the node, so what connects
while it is being restarted waits. One a worker is as good as our own; fewer are shared, worker n taking the n-th,
round and round. Whoever shares a socket takes what it can get, and a burst goes to whoever wakes first.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping

from tuskws_fast.errors import BootError


def open_listeners(host: str, port: int, count: int, backlog: int) -> list[socket.socket]:
    """`count` non-blocking listening sockets on one address; port 0 takes a free port. Raises `BootError`."""
    family, address = _resolve(host, port)
    if port:
        _refuse_if_taken(family, address)
    listeners: list[socket.socket] = []
    try:
        for _ in range(count):
            listeners.append(_listen(family, address, backlog))
            # Port 0: the others share the port that the first one got.
            address = listeners[0].getsockname()
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise _boot_error(address, error) from error
    return listeners


FIRST_INHERITED_FD = 3


def inherited_listeners(environ: MutableMapping[str, str], count: int) -> list[socket.socket] | None:
    """One for each of `count` workers, of the sockets that the service manager opened; None if there are none.

    Takes the variables out of `environ`: they are for this process alone. Raises `BootError`.
    """
    pid, number = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not number.isdigit() or number == "0":
        return None
    if int(number) > count:
        raise BootError(f"{number} sockets were handed over for {count} workers: those beyond would never be served")
    sockets = [_inherited(FIRST_INHERITED_FD + n) for n in range(int(number))]
    # A copy a worker, as if each had its own: any of them may be closed without the others.
    listeners = [sockets[n % len(sockets)].dup() for n in range(count)]
    for sock in sockets:
        sock.close()
    return listeners


def bound_receive_buffers(listeners: list[socket.socket], size: int) -> None:
    """Have what is accepted by `listeners` hold at most `size` bytes that were not read (the kernel doubles that for
    its own books, and has a maximum, net.core.rmem_max); 0 leaves it to the kernel.

    The kernel would give a client 128 KiB, and up to 32 MiB for being read quickly. What a client wrote beyond the room
    that there was then comes in while it is read, and so in the worker's time.
    """
    if size:
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _inherited(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise BootError(f"descriptor {fd}, handed over in LISTEN_FDS: {os.strerror(error.errno or 0)}") from error
    if not listens or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise BootError(f"descriptor {fd}, handed over in LISTEN_FDS, is no listening TCP socket")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def shown_address(listener: socket.socket) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """The first address of a name, IPv4 before IPv6 (a node listens on one address; `::` takes both families)."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BootError(f"cannot listen on {host}: {getattr(error, 'strerror', None) or error}") from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _refuse_if_taken(family: socket.AddressFamily, address: tuple[object, ...]) -> None:
    """SO_REUSEPORT lets a second node of the same user share the port in silence, and take half of its clients; a
    socket without it is refused when anybody listens there."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            _prepare(probe)
            probe.bind(address)
        except OSError as error:
            raise _boot_error(address, error) from error


def _listen(family: socket.AddressFamily, address: tuple[object, ...], backlog: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        _prepare(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _prepare(sock: socket.socket) -> None:
    # A port whose last connections are in TIME_WAIT is free.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6 and socket.has_dualstack_ipv6():
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)


def _boot_error(address: tuple[object, ...], error: OSError) -> BootError:
    host, port = address[:2]
    where = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return BootError(f"cannot listen on {where}: another process uses the port")
    if error.errno == errno.EACCES:
        return BootError(f"cannot listen on {where}: this user may not (ports below 1024 need CAP_NET_BIND_SERVICE)")
    return BootError(f"cannot listen on {where}: {os.strerror(error.errno or 0)}")
