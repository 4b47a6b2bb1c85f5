"""Control messages: boundaries kept, descriptors carried, nonsense refused, nobody waits."""

import os
import socket
from collections.abc import Iterator

import pytest

from tuskws_fast.errors import ControlError
from tuskws_fast.supervisor.control import Message, receive_message, send_message, socket_pair

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket_pair()
    with ours, theirs:
        yield ours, theirs


def test_messages_arrive_one_by_one(pair: Pair) -> None:
    send_message(pair[0], "link", {"worker": 1, "generation": 2})
    send_message(pair[0], "reload", {})
    assert receive_message(pair[1]) == Message("link", {"worker": 1, "generation": 2}, ())
    assert receive_message(pair[1]) == Message("reload", {}, ())


def test_descriptors_come_along_in_order_and_close_on_exec(pair: Pair) -> None:
    reader, writer = os.pipe()
    send_message(pair[0], "adopt", {"slot": 0}, (reader, writer))
    os.close(reader)
    os.close(writer)
    message = receive_message(pair[1])
    assert message is not None
    copied_reader, copied_writer = message.fds
    os.write(copied_writer, b"x")
    assert os.read(copied_reader, 1) == b"x"
    assert not os.get_inheritable(copied_reader)
    os.close(copied_reader)
    os.close(copied_writer)


def test_reading_and_writing_never_wait(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        receive_message(pair[1])
    with pytest.raises(BlockingIOError):
        send_many(pair[0])


def send_many(sock: socket.socket) -> None:
    for _ in range(100_000):
        send_message(sock, "reload", {})


def test_the_end_of_the_peer_is_none(pair: Pair) -> None:
    send_message(pair[0], "ready", {})
    pair[0].close()
    assert receive_message(pair[1]) == Message("ready", {}, ())
    assert receive_message(pair[1]) is None


@pytest.mark.parametrize("packet", [b"not json", b"[]", b"7", b"{}", b'{"o":1}', b"null"])
def test_what_is_no_control_message_is_refused(pair: Pair, packet: bytes) -> None:
    pair[0].send(packet)
    with pytest.raises(ControlError):
        receive_message(pair[1])


def test_a_message_that_was_cut_is_refused(pair: Pair) -> None:
    pair[0].send(b'{"op":"link","filler":"' + b"x" * 70_000 + b'"}')
    with pytest.raises(ControlError, match="cut short"):
        receive_message(pair[1])
