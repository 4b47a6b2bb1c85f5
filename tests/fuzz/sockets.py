"""Fuzz target `sockets`: the worker's own sockets with clients that do as they like.

    the input is a program: a step, and what it needs. Clients connect, send, read, shut down, go; the server writes,
    pauses, ends its output, closes, aborts; the poller turns. A step may be put off to the middle of a callback. Unix
    sockets: nothing is ever on its way, so that what is due has come or is lost.

Checked: what a socket hears is what its client sent, in order, and a client gets what was written for it, all of it
where nobody cut it short, and the end behind it where there is one; the end of each is told once, and never out of a
call; no failure is reported; `open` and `half_open` are right after each turn; nothing is left. Buffers are small, so
that writes wait often.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Hashable

from fuzz.structure import Source
from helpers.turns import Turns
from tuskws_fast_ext.gate import Inlet
from tuskws_fast_ext.sockets import Poller, Socket

CLIENTS_MAX = 4
# As many as there are clients who can each have the time of one.
SILENCE_TURNS = 5
# Some four kilobytes go out in a turn, and a turn may have time for others only.
TURNS_MAX = 4_000
STEPS_MAX = 40
SIZES = (1, 10, 700, 3_000, 9_000, 40_000)
# Any pattern that has no short period; which one is in a byte says where in the stream it was.
STREAM = random.Random(1).randbytes(1 << 20)
# What each client sends: its number, so that the server knows whom it hears, and the stream.
SENT = tuple(bytes([number]) + STREAM for number in range(CLIENTS_MAX))


class Client:
    """The other end, and what the model knows of both."""

    def __init__(self, number: int, address: bytes) -> None:
        self.number = number
        self.end = socket.socket(socket.AF_UNIX)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.end.connect(address)
        self.end.setblocking(False)
        self.sent = 0
        self.got = b""
        self.is_gone = self.is_shut = self.is_cut = self.is_told_the_end = False

    def send(self, size: int) -> None:
        data = SENT[self.number][self.sent : self.sent + size]
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.sent += self.end.send(data)

    def read(self) -> None:
        try:
            data = self.end.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            self.is_cut = True
            return
        self.got += data
        self.is_told_the_end = not data

    def go(self) -> None:
        self.is_gone = True
        self.end.close()


class Peer:
    """The protocol of one socket."""

    def __init__(self, world: World, sock: Socket, first: bytes) -> None:
        self.world = world
        self.sock = sock
        self.heard = first
        self.written = 0
        self.is_ended = self.is_aborted = self.was_paused = False
        self.losses = 0

    def buffer_updated(self, nbytes: int) -> None:
        assert not self.losses, "bytes for one that is lost"
        assert not self.sock.is_closing(), "bytes for one that closes"
        self.heard += bytes(self.world.inlet.view[:nbytes])
        self.world.react()

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.world.is_in_call, "an end is told out of a call"
        self.losses += 1
        self.world.react()

    def write(self, size: int) -> None:
        if not self.sock.is_closing() and not self.is_ended:
            data = STREAM[self.written : self.written + size]
            self.sock.write(data)
            self.written += len(data)


class World:
    def __init__(self) -> None:
        self.loop = Turns()
        self.inlet = Inlet(4096, self.loop.call_soon)
        self.poller = Poller(self.loop, self.inlet, 1000)  # type: ignore[arg-type]
        self.poller.owner = self
        self.listener = socket.socket(socket.AF_UNIX)
        # Any name that is free, in no file system.
        self.listener.bind("")
        self.listener.listen(CLIENTS_MAX)
        self.listener.setblocking(False)
        self.poller.listen(self.listener)
        self.clients: list[Client] = []
        self.peers: dict[int, Peer] = {}
        self.put_off: list[tuple[int, int]] = []
        self.is_in_call = False
        self.waiting: set[Socket] = set()

    def on_waiting(self, sock: Socket) -> None:
        assert sock not in self.waiting, "told twice that it waits"
        self.waiting.add(sock)

    def on_settled(self, sock: Socket) -> None:
        self.waiting.remove(sock)

    def on_first_bytes(self, sock: Socket, data: bytes) -> None:
        peer = self.peers[data[0]] = Peer(self, sock, data)
        sock.set_protocol(peer)
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.react()

    def on_crowded(self, sock: Socket) -> None:
        raise AssertionError("there was room")

    def on_shortage(self, error: int) -> None:
        raise AssertionError(os.strerror(error))

    def react(self) -> None:
        """In the middle of a callback: what was put off until one."""
        if self.put_off:
            self.serve(*self.put_off.pop())

    def serve(self, what: int, who: int) -> None:
        """One call of the server's, for one of the sockets it has."""
        if who not in self.peers:
            return
        peer = self.peers[who]
        before, self.is_in_call = self.is_in_call, True
        if what < 6:
            peer.write(SIZES[what])
        elif what == 6:
            peer.sock.close()
        elif what == 7:
            peer.is_aborted = True
            peer.sock.abort()
        elif what == 8:
            peer.was_paused = True
            peer.sock.pause_reading()
        elif what == 9:
            peer.sock.resume_reading()
        else:
            peer.is_ended = True
            peer.sock.write_eof()
        self.is_in_call = before

    def turn(self) -> None:
        self.loop.turn()
        assert self.loop.reported == [], self.loop.reported
        silent = sum(client.number not in self.peers for client in self.clients)
        alive = sum(not peer.losses for peer in self.peers.values())
        assert alive <= self.poller.open <= alive + silent
        assert self.poller.half_open == self.poller.open, "no handshake of these was ever done"
        heard = self.poller.half_open - self.poller.unheard
        assert len(self.waiting) == heard, "who waits is told, and who does no more"

    def settle(self) -> None:
        """Everybody reads, until nothing comes any more. A turn without a word means nothing: strangers have a share of
        its time, and it may have been over before they spoke."""
        silence = 0
        for _ in range(TURNS_MAX):
            before = self._moved()
            self.turn()
            for client in self.clients:
                if not client.is_gone:
                    client.read()
            silence = silence + 1 if before == self._moved() else 0
            if silence == SILENCE_TURNS:
                return

    def _moved(self) -> list[int]:
        return [len(client.got) for client in self.clients] + [len(peer.heard) for peer in self.peers.values()]

    def close(self) -> None:
        self.put_off.clear()
        for client in self.clients:
            client.end.close()
        for _ in range(3):
            self.turn()
            for peer in self.peers.values():
                peer.sock.abort()
        self.poller.close()
        self.listener.close()


class SocketsTarget:
    name = "sockets"
    input_max = 200

    def run(self, data: bytes) -> Hashable:
        world, source, told = World(), Source(data), set()
        for _ in range(STEPS_MAX):
            if source.is_empty:
                break
            told.add(self._step(world, source.byte(), source.byte()))
        world.put_off.clear()
        world.settle()
        for client in world.clients:
            told.add(self._check(client, world.peers.get(client.number)))
        world.close()
        assert world.poller.open == 0, "somebody is left"
        assert all(peer.losses == 1 for peer in world.peers.values()), "an end is told once"
        return frozenset(told)

    def _step(self, world: World, step: int, what: int) -> Hashable:
        who = step & 3
        client = world.clients[who] if who < len(world.clients) else None
        kind = step >> 2 & 7
        if kind == 0 and client is None:
            world.clients.append(Client(len(world.clients), world.listener.getsockname()))
        elif kind <= 1 and client is not None and not client.is_gone and not client.is_shut:
            client.send(SIZES[what % len(SIZES)])
        elif kind == 2 and client is not None and not client.is_gone:
            client.read()
        elif kind == 3 and client is not None and not client.is_gone:
            if what & 3 == 0:
                client.go()
            elif what & 3 == 1:
                client.is_shut = True
                with contextlib.suppress(OSError):
                    client.end.shutdown(socket.SHUT_WR)
        elif kind == 4:
            world.put_off.append((what % 11, who))
        elif kind == 5:
            world.turn()
        else:
            world.serve(what % 11, who)
        return kind

    def _check(self, client: Client, peer: Peer | None) -> Hashable:
        sent = SENT[client.number][: client.sent]
        if peer is None:
            return "silent"
        assert sent.startswith(peer.heard), "heard what was not sent"
        assert len(client.got) <= peer.written, "read more than was written"
        assert STREAM.startswith(client.got), "read what was not written"
        if not peer.was_paused and not peer.sock.is_closing() and not client.is_gone:
            assert peer.heard == sent, f"{len(peer.heard)} bytes of {len(sent)} are heard"
        # A socket that ends with bytes unread is reset by the kernel, and what was on its way may be lost.
        is_whole = peer.heard == sent and not peer.is_aborted and not client.is_gone and not client.is_cut
        if is_whole:
            assert len(client.got) == peer.written, f"{len(client.got)} bytes of {peer.written} arrive"
            assert client.is_told_the_end == (peer.is_ended or peer.losses == 1), "the end comes behind the last byte"
        return (is_whole, peer.losses, peer.is_ended, client.is_cut, len(client.got).bit_length() // 4)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        hello = bytes([0, 0, 4, 1, 20, 0])
        return [
            hello,
            *(hello + bytes([24, what, 20, 0]) for what in range(11)),
            *(hello + bytes([24, 5, 24, 5, 24, what, 20, 0, 8, 0, 20, 0]) for what in range(11)),
            *(hello + bytes([16, what, 4, 2, 20, 0]) for what in range(11)),
            *(hello + bytes([24, 5, 12, what, 20, 0]) for what in (0, 1, 4)),
        ]

    def fresh(self, rng: random.Random) -> bytes:
        return bytes([0, 0, 4, 1, 1, 0, 5, 2, 20, 0]) + rng.randbytes(rng.choice((10, 30, 70)))
