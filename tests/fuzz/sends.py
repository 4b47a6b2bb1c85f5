"""Fuzz target `sends`: a worker whose sends go to the kernel together (ext/uring.h), beside one that sends one by one.

    byte 0     how many members (below), and how much may wait for one
    the rest   a program: a step, and what it needs. Something is said to all, to some, to one; members read, ping,
               close, go without a word; the server closes, aborts, loses patience, runs short of memory; io_uring is
               taken away in the middle

Both workers have real sockets of their own (ext/sockets, over Unix sockets, whose buffers are small and always take the
same), and the same program runs on both. Checked after each step: every connection is in the same state in both, and
so are the figures; in the end each member has read the same bytes, which are whole frames in the order in which they
were said, and everybody is let go of. A send that is cut, refused, met by a reset or not tried may make no difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Hashable

from fuzz.structure import Source
from helpers.edge import StillLoop
from helpers.rfc6455 import CLOSE, PING, client_frame, server_frames
from helpers.turns import Turns
from tuskws_fast_ext.connection import Connection, FlushPoint
from tuskws_fast_ext.frame import Feed, Frame
from tuskws_fast_ext.gate import Gate, Inlet
from tuskws_fast_ext.parser import FrameParser
from tuskws_fast_ext.sockets import Poller, Socket

from tuskws_fast.worker.frames import picows_protocol

# Fewer than go together; just enough; more; more than fit into one submission (URING_BATCH, rarely: it takes a while).
MEMBERS = (3, 8, 9, 12, 16, 20, 40, 260)
QUEUE_BYTES = (20_000, 1 << 30)
STEPS_MAX = 30
SIZES = (1, 120, 126, 900, 2_000, 3_500, 9_000, 70_000)
FRAME_MAX = 4096
# What the flush point has counted: the same in both.
FIGURES = ("messages_out", "bytes_out", "too_slow", "left_out", "gaps", "protocol_errors")


class Silence:
    """A session that has nothing to say by itself."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def on_open(self) -> None: ...

    def on_message(self, payload: bytes, text: bool) -> None: ...

    def on_pong(self) -> None: ...

    def on_closed(self, code: int) -> None:
        self.closed.append(code)

    def on_failure(self, error: Exception) -> None:
        raise error


class Member:
    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.connection: Connection
        self.session = Silence()
        self.got = b""
        self.is_gone = False

    def read(self, size: int = 1 << 17) -> bool:
        """Whether anything came."""
        if self.is_gone:
            return False
        try:
            data = self.end.recv(size)
        except (BlockingIOError, ConnectionError):
            return False
        self.got += data
        return bool(data)

    def send(self, data: bytes) -> None:
        if not self.is_gone:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self.end.send(data)

    def go(self) -> None:
        self.is_gone = True
        self.end.close()

    def state(self) -> Hashable:
        c = self.connection
        return (c.queued_bytes, c.queued_messages, c.is_closing, c.is_failed, c.is_lost, tuple(self.session.closed))


class World:
    """One worker with its members. `together`: by io_uring, if there is one."""

    def __init__(self, size: int, queue_bytes_max: int, together: bool, parser: FrameParser) -> None:
        self.loop = Turns()
        self.inlet = Inlet(4096, self.loop.call_soon)
        self.poller = Poller(self.loop, self.inlet, 10_000)  # type: ignore[arg-type]
        self.poller.owner = self
        self.point = FlushPoint(self.poller.call_soon, queue_bytes_max, 64)
        self.parser = parser
        self.feed = Feed(b'{"type":"gap"', False)
        self.has_ring = together and self.point.send_together() == 0
        self.members: list[Member] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")
            listener.listen(16)
            listener.setblocking(False)
            self.poller.listen(listener)
            for _ in range(size):
                self._let_in(listener.getsockname())
            self.poller.silence(listener)

    def _let_in(self, address: bytes) -> None:
        end = socket.socket(socket.AF_UNIX)
        end.connect(address)
        end.send(b"?")
        end.setblocking(False)
        self.members.append(Member(end))
        self.loop.turn()
        while self.poller.unheard:
            self.loop.turn()

    # -- the poller's owner --------------------------------------------------------------------------------------------

    def on_first_bytes(self, sock: Socket, data: bytes) -> None:
        member = self.members[-1]
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        member.connection = Connection(self.point, member.session, FRAME_MAX, 100)
        sock.set_protocol(Gate(self.parser, member.connection, self.inlet, FRAME_MAX))
        member.connection.open(sock, sock.fileno(), b"")

    def on_crowded(self, sock: Socket) -> None:
        raise AssertionError("there was room")

    def on_shortage(self, error: int) -> None:
        raise AssertionError(os.strerror(error))

    def on_waiting(self, sock: Socket) -> None: ...

    def on_settled(self, sock: Socket) -> None: ...

    # -- what happens --------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """And all ends, for which a turn might have no time: both worlds have to be equally far."""
        self.loop.turn()
        while not self.poller.reap():
            pass
        assert self.loop.reported == [], self.loop.reported

    def expire(self) -> None:
        """For as many turns as it takes."""
        self.point.expire(time.monotonic() + 100.0, 1.0)
        while self.loop.soon:
            self.loop.run_soon()

    def say(self, number: int, size: int, every: int, is_left_out: bool) -> None:
        body = b"%d " % number + b"x" * size
        frame = Frame([body], feed=self.feed, first_offset=number) if is_left_out else Frame([body])
        for member in self.members[::every]:
            member.connection.send(frame)

    def end_ring(self) -> None:
        """The next submission is refused: what its descriptor stands for is no ring any more."""
        if not self.has_ring:
            return
        self.has_ring = False
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]":
                    os.dup2(nothing, int(name), inheritable=False)
        os.close(nothing)

    def state(self) -> Hashable:
        figures = tuple(getattr(self.point, name) for name in FIGURES)
        return (figures, len(self.point.blocked), [member.state() for member in self.members])

    def settle(self) -> None:
        """Everybody reads, until nothing comes any more."""
        while True:
            self.turn()
            came = [member.read() for member in self.members]
            if not any(came):
                return

    def close(self) -> None:
        for member in self.members:
            member.end.close()
        for _ in range(3):
            for member in self.members:
                member.connection.abort()
            self.turn()
        self.poller.close()


class SendsTarget:
    name = "sends"
    input_max = 120

    def __init__(self) -> None:
        # picows asks for the running loop while its parts are made.
        asyncio._set_running_loop(StillLoop())  # type: ignore[arg-type]
        self.parser = FrameParser(picows_protocol)
        asyncio._set_running_loop(None)

    def run(self, data: bytes) -> Hashable:
        mode, source, told = (data[0] if data else 0), Source(data[1:]), set[Hashable]()
        size, queue_max = MEMBERS[mode & 7], QUEUE_BYTES[mode >> 3 & 1]
        worlds = [World(size, queue_max, together, self.parser) for together in (False, True)]
        for number in range(STEPS_MAX):
            if source.is_empty:
                break
            step, what = source.byte(), source.byte()
            for world in worlds:
                told.add(self._step(world, number, step, what))
            plain, together = (world.state() for world in worlds)
            assert plain == together, f"step {number}, {step} {what}: {plain!r:.600} is not {together!r:.600}"
        for world in worlds:
            world.settle()
        for one, other in zip(*(world.members for world in worlds), strict=True):
            assert one.got == other.got, "together, a member reads something else"
            assert one.state() == other.state(), "together, a connection ends otherwise"
            self._check(one)
        told.add((size >= 8, worlds[1].has_ring, *(getattr(worlds[1].point, name) > 0 for name in FIGURES)))
        for world in worlds:
            world.close()
            assert world.poller.open == 0, "somebody is left"
            assert (world.point.blocked, world.point.closing) == (set(), set())
            assert all(len(member.session.closed) == 1 for member in world.members), "an end is told once"
        return frozenset(told)

    def _step(self, world: World, number: int, step: int, what: int) -> Hashable:
        kind, member = step >> 4, world.members[what % len(world.members)]
        if kind < 6:
            # To all, or to some; the kinds differ in how often it is left to wait for more.
            world.say(number, SIZES[what & 7], 1 + (step & 3 if kind & 1 else 0), bool(what & 8))
            if kind < 4:
                world.turn()
        elif kind == 6:
            member.connection.send(Frame([b"%d alone" % number]))
        elif kind == 7:
            for each in world.members[:: 1 + (step & 7)]:
                each.read()
            world.turn()
        elif kind == 8:
            member.read(700)
            world.turn()
        elif kind == 9:
            member.go()
        elif kind == 10:
            member.connection.close(1000, b"")
        elif kind == 11:
            member.connection.abort()
        elif kind == 12:
            member.send(client_frame(PING, b"%d" % number) if step & 1 else client_frame(CLOSE, b"\x03\xe8"))
            world.turn()
        elif kind == 13:
            if step & 1:
                world.expire()
            else:
                # Of those for whom as much waits, any may be let go of first: so all.
                world.point.shed(1 << 40)
        elif kind == 14 and step & 15 == 0:
            world.end_ring()
        else:
            world.turn()
        return kind

    def _check(self, member: Member) -> None:
        """Whole frames, but for one at the end of a connection that was cut off; each once, in the order of steps."""
        frames = server_frames(member.got, may_be_cut=True)
        said = [int(payload.split()[0]) for opcode, payload in frames if opcode == 1 and payload[:1].isdigit()]
        assert said == sorted(said), f"out of order: {said}"
        assert len(said) == len(set(said)), f"twice: {said}"

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        programs = (
            bytes([0x00, 3] * 9 + [0x70, 0] * 3),
            bytes([0x00, 6, 0x00, 6, 0x70, 0, 0x00, 7, 0xD1, 0, 0x00, 1]),
            bytes([0x40, 4, 0x90, 1, 0x00, 4, 0x00, 1]),
            bytes([0x40, 4, 0xB0, 2, 0x00, 4, 0xA0, 3, 0x00, 1]),
            bytes([0x00, 1, 0xE0, 0, 0x00, 2, 0x00, 3]),
            bytes([0x00, 0x0E] * 12 + [0x70, 0] * 4 + [0x00, 9]),
            bytes([0xC1, 1, 0x00, 6, 0xC0, 1, 0x00, 6, 0xD0, 255]),
        )
        return [bytes([mode]) + program for program in programs for mode in (0, 1, 3, 9, 12)] + [
            bytes([7]) + programs[0]
        ]

    def fresh(self, rng: random.Random) -> bytes:
        # Those of many members are one in twenty.
        mode = rng.choice((*range(7),) * 3) | rng.choice((0, 8)) if rng.random() < 0.95 else rng.choice((7, 15))
        return bytes([mode]) + rng.randbytes(rng.choice((8, 24, 60)))
