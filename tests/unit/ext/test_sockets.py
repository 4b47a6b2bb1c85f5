"""The worker's own sockets, over real TCP; the turns are taken by hand."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import gc
import os
import resource
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from helpers.edge import Talker
from helpers.rfc6455 import TEXT, client_frame
from helpers.server import wait_until
from helpers.turns import Turns
from tuskws_fast_ext.connection import Connection, FlushPoint
from tuskws_fast_ext.gate import Gate, Inlet
from tuskws_fast_ext.parser import FrameParser
from tuskws_fast_ext.sockets import Poller, Socket

from tuskws_fast.worker.frames import picows_protocol

DISCARD_WINDOW = 16_384
BIG = bytes(range(256)) * 32 * 1024  # more than two socket buffers hold


class Host:
    """The poller's owner, and the protocol of all its sockets."""

    def __init__(self, sockets_max: int = 1000) -> None:
        self.loop = Turns()
        self.inlet = Inlet(4096, self.loop.call_soon)
        self.poller = Poller(self.loop, self.inlet, sockets_max)  # type: ignore[arg-type]
        self.poller.owner = self
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.poller.listen(self.listener)
        self.sockets: list[Socket] = []
        self.heard = b""
        self.crowded: list[Socket] = []
        self.waiting: list[Socket] = []
        self.lost: list[Exception | None] = []
        self.shortages: list[int] = []
        self.takes_s = 0.0
        self.on_bytes: Callable[[Socket, bytes], object] = lambda sock, data: None

    def on_first_bytes(self, sock: Socket, data: bytes) -> None:
        self.sockets.append(sock)
        self.heard += data
        sock.set_protocol(self)
        self.on_bytes(sock, data)

    def on_crowded(self, sock: Socket) -> None:
        self.crowded.append(sock)
        sock.close()

    def on_waiting(self, sock: Socket) -> None:
        self.waiting.append(sock)

    def on_settled(self, sock: Socket) -> None:
        self.waiting.remove(sock)

    def on_shortage(self, error: int) -> None:
        self.shortages.append(error)

    def buffer_updated(self, nbytes: int) -> None:
        self.heard += bytes(self.inlet.view[:nbytes])
        self.take_time(self.takes_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self.take_time(self.takes_s)

    def take_time(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    def until(self, fact: Callable[[], object]) -> None:
        def look() -> bool:
            self.loop.turn()
            return bool(fact())

        wait_until(look, "something at the sockets")

    def in_time(self, fact: Callable[[], object]) -> None:
        """As `until`, while everything that is due later becomes due."""

        def look() -> object:
            self.loop.pass_time()
            return fact()

        self.until(look)

    def client(self, greeting: bytes = b"hello") -> tuple[socket.socket, Socket]:
        """A connected client and our end of it."""
        end = socket.create_connection(self.listener.getsockname())
        before = len(self.sockets)
        end.sendall(greeting)
        self.until(lambda: len(self.sockets) > before)
        return end, self.sockets[-1]


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    assert host.loop.reported == []
    for sock in host.sockets:
        sock.abort()
    host.loop.turn()
    assert (host.poller.open, host.poller.half_open) == (0, 0)
    host.poller.close()
    host.listener.close()


def take_in(host: Host, end: socket.socket, size: int) -> bytes:
    """Read `size` bytes at the client while our end goes on writing."""
    end.setblocking(False)
    got = bytearray()

    def look() -> bool:
        with contextlib.suppress(BlockingIOError):
            got.extend(end.recv(1 << 20))
        return len(got) >= size

    host.until(look)
    return bytes(got)


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def test_what_a_new_socket_says_first_goes_to_the_owner_and_the_rest_to_its_protocol(host: Host) -> None:
    end, sock = host.client(b"first ")
    assert sock.address == "127.0.0.1"
    assert sock.get_extra_info("peername")[0] == "127.0.0.1"
    end.sendall(b"second")
    host.until(lambda: host.heard == b"first second")


def test_an_ipv6_peer_has_its_address() -> None:
    host = Host()
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    listener.setblocking(False)
    host.poller.listen(listener)
    with listener, socket.create_connection(listener.getsockname()[:2]) as end:
        end.sendall(b"x")
        host.until(lambda: host.sockets)
        assert host.sockets[0].address == "::1"


def test_what_the_kernel_does_not_take_waits_in_order(host: Host) -> None:
    end, sock = host.client()
    sock.write(BIG)
    assert sock.get_write_buffer_size() > 0
    sock.write(b"the end")
    assert take_in(host, end, len(BIG) + 7) == BIG + b"the end"
    assert sock.get_write_buffer_size() == 0


def test_a_close_sends_what_waits_first_and_its_end_is_told_once(host: Host) -> None:
    end, sock = host.client()
    sock.write(BIG)
    sock.close()
    sock.close()
    assert sock.is_closing()
    sock.write(b"too late")
    assert take_in(host, end, len(BIG)) == BIG
    host.until(lambda: host.lost == [None])
    end.setblocking(True)
    assert end.recv(10) == b""


def test_an_end_is_never_told_out_of_the_call_that_brings_it_about(host: Host) -> None:
    _end, sock = host.client()
    sock.abort()
    assert host.lost == []
    host.loop.turn()
    assert host.lost == [None]
    assert sock.fileno() == -1


def test_an_end_inside_a_turn_is_told_when_the_turn_is_over(host: Host) -> None:
    seen: list[list[Exception | None]] = []

    def hang_up(sock: Socket, data: bytes) -> None:
        host.poller.call_soon(lambda: seen.append(list(host.lost)))
        sock.abort()
        seen.append(list(host.lost))

    host.on_bytes = hang_up
    host.client()
    assert seen == [[], []]
    assert host.lost == [None]


def test_who_sends_nothing_more_is_closed(host: Host) -> None:
    end, _sock = host.client()
    end.shutdown(socket.SHUT_WR)
    host.until(lambda: host.lost == [None])


def test_a_reset_is_told_as_what_it_is(host: Host) -> None:
    end, _sock = host.client()
    reset(end)
    host.until(lambda: host.lost)
    assert isinstance(host.lost[0], ConnectionResetError)


def test_a_socket_that_is_not_read_from_still_notices_its_end(host: Host) -> None:
    end, sock = host.client()
    sock.pause_reading()
    end.sendall(b" unread")
    host.loop.turn()
    assert host.heard == b"hello"
    reset(end)
    host.until(lambda: host.lost)


def test_reading_goes_on_where_it_was_paused(host: Host) -> None:
    end, sock = host.client()
    sock.pause_reading()
    end.sendall(b" unread")
    host.loop.turn()
    sock.resume_reading()
    host.until(lambda: host.heard == b"hello unread")


def test_the_output_ends_behind_what_waits_and_input_goes_on(host: Host) -> None:
    end, sock = host.client()
    sock.write(BIG)
    sock.write_eof()
    sock.write(b"too late")
    assert take_in(host, end, len(BIG)) == BIG
    end.setblocking(True)
    host.loop.turn()
    assert end.recv(10) == b""
    end.sendall(b" still here")
    host.until(lambda: host.heard == b"hello still here")


def test_who_ended_earlier_in_a_turn_gets_nothing_later_in_it(host: Host) -> None:
    ends = [host.client() for _ in range(2)]
    host.sockets.clear()
    host.heard = b""
    reads: list[int] = []

    class Rival:
        """Whoever is read first ends the other."""

        def __init__(self, number: int) -> None:
            self.number = number

        def buffer_updated(self, nbytes: int) -> None:
            reads.append(self.number)
            ends[1 - self.number][1].abort()

        def connection_lost(self, exc: Exception | None) -> None: ...

    for number, (end, sock) in enumerate(ends):
        sock.set_protocol(Rival(number))
        end.sendall(b"x")
    host.until(lambda: reads)
    assert len(reads) == 1
    ends[reads[0]][1].abort()
    host.loop.turn()


def test_a_new_socket_never_gets_the_events_of_the_one_whose_descriptor_it_has(host: Host) -> None:
    for _ in range(50):
        end, sock = host.client()
        fd = sock.fileno()
        end.sendall(b"late")
        sock.abort()
        with socket.create_connection(host.listener.getsockname()) as newcomer:
            host.heard = b""
            newcomer.sendall(b"new")
            host.until(lambda: host.heard)
            assert host.heard == b"new"
            assert host.sockets[-1].fileno() == fd or os.fstat(host.sockets[-1].fileno())
            host.sockets[-1].abort()
        end.close()
    host.loop.turn()


def test_what_fails_costs_the_socket_it_failed_for(host: Host) -> None:
    bystander, _ = host.client()

    def fail(sock: Socket, data: bytes) -> None:
        raise ValueError("a defect")

    host.on_bytes = fail
    host.client()
    assert [str(error) for error in host.loop.reported] == ["a defect"]
    host.loop.reported.clear()
    assert len(host.lost) == 1
    host.heard = b""
    bystander.sendall(b"fine")
    host.until(lambda: host.heard == b"fine")


def test_few_sockets_too_many_may_say_what_they_want_and_the_others_are_sent_away() -> None:
    host = Host(sockets_max=2)
    ends = [host.client()[0]]
    assert not host.sockets[0].is_crowded
    ends += [socket.create_connection(host.listener.getsockname()) for _ in range(9)]
    host.until(lambda: host.crowded)
    assert len(host.crowded) == 1
    assert ends[1].recv(10) == b"", "who waited longest gives way"
    assert sum(sock.is_crowded for sock in host.waiting) == 8
    ends[2].sendall(b" how are you?")
    host.until(lambda: host.heard == b"hello how are you?")
    assert host.sockets[1].is_crowded
    host.sockets[1].close()
    host.until(lambda: sum(sock.is_crowded for sock in host.waiting) == 7)
    ends.append(socket.create_connection(host.listener.getsockname()))
    host.until(lambda: sum(sock.is_crowded for sock in host.waiting) == 8)
    assert len(host.crowded) == 1
    for end in ends:
        end.close()
    host.until(lambda: host.poller.open == 0)


def test_who_waits_for_its_handshake_is_told_and_when_it_does_no_more(host: Host) -> None:
    silent = socket.create_connection(host.listener.getsockname())
    host.until(lambda: len(host.waiting) == 1)
    gone = socket.create_connection(host.listener.getsockname())
    host.until(lambda: len(host.waiting) == 2)
    gone.close()
    host.until(lambda: len(host.waiting) == 1)
    [late] = host.waiting
    late.close()
    host.until(lambda: not host.waiting)
    silent.close()


def upgrade(host: Host, sock: Socket) -> Talker:
    """Let the socket in; the session that hears it from now on."""

    async def parser() -> FrameParser:
        # picows asks for the running loop while its parts are made.
        return FrameParser(picows_protocol)

    talker = Talker()
    point = FlushPoint(host.poller.call_soon, 1 << 20, 1000)
    talker.connection = Connection(point, talker, 1000, 10)
    sock.set_protocol(Gate(asyncio.run(parser()), talker.connection, host.inlet, 1000))
    talker.connection.open(sock, sock.fileno(), b"in")
    return talker


def test_who_is_in_is_served_before_all_who_are_at_the_door(host: Host) -> None:
    slow = [host.client() for _ in range(40)]
    end, sock = host.client()
    talker = upgrade(host, sock)
    host.heard = b""
    host.takes_s = 0.000_05
    for stranger, _ in slow:
        stranger.sendall(b"x")
    end.sendall(client_frame(TEXT, b"first", mask=b"abcd"))
    host.loop.turn()
    assert [message.payload for message in talker.heard] == [b"first"]
    assert 1 <= len(host.heard) <= 4, "strangers have a tenth of a millisecond"
    host.until(lambda: len(host.heard) == 40)
    stranger, late = slow[0]
    heard = upgrade(host, late).heard
    for other, _ in slow[1:]:
        other.sendall(b"x")
    stranger.sendall(client_frame(TEXT, b"in, too", mask=b"abcd"))
    host.loop.turn()
    assert [message.payload for message in heard] == [b"in, too"]
    for other in (end, *(each for each, _ in slow)):
        other.close()
    host.until(lambda: host.poller.open == 0)


def test_of_who_comes_at_once_those_are_heard_that_there_is_time_for(host: Host) -> None:
    host.on_bytes = lambda sock, data: host.take_time(0.001)
    ends = [socket.create_connection(host.listener.getsockname()) for _ in range(3)]
    for end in ends:
        end.sendall(b"hello")
    host.loop.reader()
    assert (host.poller.open, host.poller.unheard, len(host.sockets)) == (3, 2, 1)
    for heard in (2, 3):
        assert host.loop.is_ready, "though the kernel has nothing new"
        host.loop.reader()
        assert (host.poller.unheard, len(host.sockets)) == (3 - heard, heard)
    assert not host.loop.is_ready
    for end in ends:
        end.close()


def test_who_says_nothing_yet_is_asked_again_behind_the_others(host: Host) -> None:
    slow, quick = (socket.create_connection(host.listener.getsockname()) for _ in range(2))
    host.on_bytes = lambda sock, data: slow.sendall(b"later") if len(host.sockets) == 1 else None
    quick.sendall(b"hello")
    host.loop.reader()
    assert host.heard == b"hellolater"
    slow.close()
    quick.close()


def test_a_failure_to_file_one_who_waits_leaves_nobody_unheard(host: Host) -> None:
    def fail(sock: Socket) -> None:
        raise RuntimeError("a defect")

    host.on_waiting = fail  # type: ignore[method-assign]
    host.on_settled = lambda sock: None  # type: ignore[method-assign]
    ends = [socket.create_connection(host.listener.getsockname()) for _ in range(3)]
    for end in ends[1:]:
        end.sendall(b"hello")
    host.until(lambda: host.heard == b"hellohello" and not host.poller.unheard)
    assert [str(error) for error in host.loop.reported] == 3 * ["a defect"]
    host.loop.reported.clear()
    for end in ends:
        end.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.10.200.9", "127.255.99.100"])
def test_an_address_is_told_as_everybody_writes_it(host: Host, address: str) -> None:
    end = socket.create_connection(host.listener.getsockname(), source_address=(address, 0))
    end.sendall(b"hello")
    host.until(lambda: host.sockets)
    assert host.sockets[0].address == address
    end.close()


def test_who_broke_the_protocol_cannot_push_what_is_only_dropped(host: Host) -> None:
    end, sock = host.client()
    talker = upgrade(host, sock)
    ours = socket.socket(fileno=os.dup(sock.fileno()))
    before = ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    end.sendall(b"\x83\x80\0\0\0\0")
    host.until(lambda: talker.connection.is_failed)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * DISCARD_WINDOW < before
    ours.close()
    end.close()


def outcast(host: Host) -> socket.socket:
    """A client who broke a rule."""
    end, sock = host.client()
    talker = upgrade(host, sock)
    end.sendall(b"\x83\x80\0\0\0\0")
    host.until(lambda: talker.connection.is_failed)
    return end


def unread(host: Host) -> list[int]:
    """Bytes that wait in each of our ends."""
    left = []
    for sock in host.sockets:
        size = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, size)
        left.append(size[0])
    return left


def test_what_is_only_dropped_is_read_for_a_while_now_and_then(host: Host) -> None:
    end, sock = host.client()
    talker = upgrade(host, sock)
    outcasts = [outcast(host) for _ in range(150)]
    for other in outcasts:
        other.sendall(bytes(12_000))
    end.sendall(client_frame(TEXT, b"meanwhile", mask=b"abcd"))
    before = unread(host)
    host.loop.pass_time()
    host.loop.turn()
    assert [message.payload for message in talker.heard] == [b"meanwhile"]
    assert 0 < (left := sum(unread(host)[1:])) < sum(before[1:]), "some, and not all of it"
    host.loop.turn()
    assert sum(unread(host)[1:]) == left, "and then they are left alone"
    host.in_time(lambda: not any(unread(host)))
    for other in (end, *outcasts):
        other.close()
    host.in_time(lambda: host.poller.open == 0)


def test_ends_have_a_while_in_each_turn_and_none_is_forgotten(host: Host) -> None:
    clients = [host.client() for _ in range(40)]
    end, sock = host.client()
    talker = upgrade(host, sock)
    host.takes_s = 0.000_05
    for _, ours in clients:
        ours.abort()
    end.sendall(client_frame(TEXT, b"meanwhile", mask=b"abcd"))
    host.loop.turn()
    assert 1 <= len(host.lost) <= 20, "a tenth of a millisecond now and then"
    host.until(lambda: len(host.lost) == 40)
    assert [message.payload for message in talker.heard] == [b"meanwhile"]
    for other in (end, *(each for each, _ in clients)):
        other.close()


def test_who_has_all_to_say_that_a_buffer_holds_is_read_in_turn_with_others(host: Host) -> None:
    """However much of it is there: others are read from in between."""
    loud, _ = host.client()
    calm, _ = host.client()
    host.heard = b""
    loud.sendall(b"x" * 5 * 4096)
    calm.sendall(b"calm")
    host.until(lambda: b"calm" in host.heard)
    assert host.heard.index(b"calm") <= 2 * 4096
    host.until(lambda: len(host.heard) == 5 * 4096 + 4)
    loud.close()
    calm.close()


def test_who_is_loud_is_served_behind_the_others_and_for_a_while(host: Host) -> None:
    said: list[str] = []

    def member(name: str) -> socket.socket:
        end, sock = host.client()
        hear = (talker := upgrade(host, sock)).on_message

        def on_message(payload: bytes, text: bool) -> None:
            hear(payload, text)
            said.append(name)
            host.take_time(0.000_2)

        talker.on_message = on_message  # type: ignore[method-assign]
        return end

    calm, *loud = ends = [member(name) for name in ("calm", "first", "second", "third")]
    for end in loud:
        end.sendall(client_frame(TEXT, bytes(1_000), mask=b"abcd") * 20)
    host.loop.turn()
    assert set(said) == {"first", "second", "third"}
    said.clear()
    calm.sendall(client_frame(TEXT, b"meanwhile", mask=b"abcd"))
    for _ in range(3):
        host.loop.turn()
    assert said[0] == "calm"
    assert len(said) <= 1 + 3 * 5, "one of them a turn"
    assert set(said) == {"calm", "first", "second", "third"}
    host.until(lambda: len(said) == 1 + 3 * 16)
    for end in ends:
        end.close()


def test_a_silenced_listener_keeps_its_connections(host: Host) -> None:
    end, _sock = host.client()
    host.poller.silence(host.listener)
    with socket.create_connection(host.listener.getsockname()) as waiting:
        waiting.sendall(b"anybody?")
        end.sendall(b" again")
        host.until(lambda: host.heard == b"hello again")
        assert host.poller.open == 1


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What is not collected yet might be closed in between; and below the limit there must be no hole.
    gc.collect()
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.dup(0)]
    while fillers[-1] < highest:
        fillers.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def test_out_of_descriptors_each_client_is_answered_and_sent_away(host: Host) -> None:
    ends = [socket.create_connection(host.listener.getsockname()) for _ in range(5)]
    for end in ends[:3]:
        end.sendall(b"?")
    host.on_bytes = lambda sock, data: (sock.write(b"full"), sock.close())
    with no_descriptor_left():
        for n in range(1, 6):
            host.loop.turn()
            assert (len(host.shortages), host.poller.open) == (n, 0), "one a turn, and none stays"
        host.loop.turn()
        assert host.loop.later == [], "who is answered need not be waited for"
    assert host.shortages == [errno.EMFILE] * 5
    assert [end.recv(10) for end in ends] == [b"full"] * 3 + [b""] * 2
    assert len(host.crowded) == 2, "who has not said anything is sent away"
    assert all(sock.is_crowded for sock in host.sockets + host.crowded)
    for end in ends:
        end.close()


def test_without_even_a_reserve_it_pauses_and_goes_on_by_itself(host: Host) -> None:
    greedy, end = [socket.create_connection(host.listener.getsockname()) for _ in range(2)]
    greedy.sendall(b"?")
    # More than the kernel takes: the answer keeps the socket, and with it the reserve.
    host.on_bytes = lambda sock, data: (sock.write(BIG), sock.close())
    with no_descriptor_left():
        host.until(lambda: host.loop.later)
        assert (len(host.shortages), host.poller.open) == (2, 1)
        host.loop.turn()
        assert len(host.shortages) == 2, "a paused listener is not looked at"
        take_in(host, greedy, len(BIG))
        assert host.poller.open == 0
    host.on_bytes = lambda sock, data: None
    host.heard = b""
    host.loop.pass_time()
    end.sendall(b"patient")
    host.until(lambda: host.heard == b"patient")
    assert not host.sockets[-1].is_crowded
    end.close()
    greedy.close()
