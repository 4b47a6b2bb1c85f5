"""Control messages between the supervisor and one child: a SEQPACKET socket pair, one JSON object a packet.

A packet keeps its boundary and carries descriptors (SCM_RIGHTS): the only way in which a process that already runs gets
new memory, doorbells or a listener. Packets are tiny and rare; both ends are non-blocking and never wait for the other.

    supervisor → child                                          child → supervisor
    link {worker, generation} + [segment, own bell, peer bell]  ready
    link_gone {worker, generation}                              boot_failed {reason}
    adopt {slot} + [listener]      release {slot}               poisoned {worker, reason}
    reload {options, certificates}                              reloaded {problem}
    drain {reason, lead_s, window_s, deadline_s}   stop         drained
    revoke {asked, args}                                        revoked {asked, problem, sessions}

The receiver owns the descriptors of a message and closes them.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tuskws_fast.errors import ControlError
from tuskws_fast.protocol import codec

PACKET_BYTES_MAX = 64 * 1024
FDS_MAX = 8
FD_BYTES = array.array("i").itemsize


class Message(NamedTuple):
    op: str
    fields: Mapping[str, Any]
    fds: tuple[int, ...]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """(the supervisor's end, the child's end), both non-blocking and close-on-exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def send_message(sock: socket.socket, op: str, fields: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Raises `BlockingIOError` when the peer has not read for hundreds of packets, `OSError` when it is gone."""
    packet = codec.encode({"op": op, **fields})
    assert len(packet) <= PACKET_BYTES_MAX, f"control message {op} has {len(packet)} bytes"
    if fds:
        socket.send_fds(sock, [packet], list(fds))
    else:
        sock.send(packet)


def receive_message(sock: socket.socket) -> Message | None:
    """The next message; None when the peer has closed its end. Raises `BlockingIOError` when none waits."""
    # Not `socket.recv_fds`: it forgets the flags that it is given, and the descriptors would outlive an exec.
    room = socket.CMSG_SPACE(FDS_MAX * FD_BYTES)
    packet, ancillary, flags, _ = sock.recvmsg(PACKET_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) // FD_BYTES * FD_BYTES])
    if not packet:
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ControlError("a control message was cut short")
    try:
        fields = codec.decode(packet)
        op = fields.pop("op")
    except (codec.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ControlError(f"not a control message: {packet[:80]!r}") from error
    return Message(op, fields, tuple(fds))
