"""`/echo` has limits of its own: each is tripped here, and none of them is lent to the clients of `/ws`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from helpers.raw import RawClient
from helpers.server import RunningServer, started_server, wait_until

MIB = 1024 * 1024
ECHOES = 2
MESSAGE_MAX = 2 * MIB
FRAGMENTS_MAX = 2000
QUEUE_BYTES = MIB


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with started_server(
        workers=1,
        echo=True,
        echo_max_connections=ECHOES,
        echo_max_message_size=MESSAGE_MAX,
        echo_max_fragments=FRAGMENTS_MAX,
        queue_bytes_max=QUEUE_BYTES,
    ) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


def statuses(server: RunningServer, count: int) -> list[bytes]:
    """What so many clients get that want to be echoed at once."""
    clients = [RawClient(server.port, "/echo") for _ in range(count)]
    found = [client.response.split()[1] for client in clients]
    for client in clients:
        client.close()
    return found


@pytest.fixture
def echo(server: RunningServer) -> Iterator[RawClient]:
    """It reads little by little. Those before it may still be on their way out."""
    clients: list[RawClient] = []

    def is_in() -> bool:
        clients.append(RawClient(server.port, "/echo", receive_buffer=4096))
        return clients[-1].response.split()[1] == b"101"

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [client.close() for client in clients])
        wait_until(is_in, "room for an echo")
        yield clients[-1]


def test_a_message_may_be_as_long_as_said_and_no_longer(echo: RawClient) -> None:
    text = b"x" * MESSAGE_MAX
    echo.send_frame(text)
    assert echo.frame() == (1, text)
    echo.send_frame(text + b"x")
    assert echo.close_code() == 1009


def test_a_message_may_have_as_many_fragments_as_said_and_no_more(echo: RawClient) -> None:
    for fragments, answer in ((FRAGMENTS_MAX, 1), (FRAGMENTS_MAX + 1, 8)):
        echo.send_frame(b"", fin=False)
        for _ in range(fragments - 2):
            echo.send_frame(b"x", opcode=0, fin=False)
        echo.send_frame(b"", opcode=0)
        opcode, payload = echo.frame()
        assert opcode == answer
    assert payload[:2] == (1008).to_bytes(2, "big")


def test_who_does_not_read_its_echoes_is_closed_before_they_are_many(server: RunningServer, echo: RawClient) -> None:
    too_slow = server.figure("too_slow_closed")
    # One on its way, one more may wait; the kernel takes up to 4 MB for a socket.
    for _ in range(8):
        echo.send_frame(b"x" * MESSAGE_MAX)
    assert echo.close_code() == 4008
    wait_until(lambda: server.figure("too_slow_closed") == too_slow + 1, "the figure")


def test_so_many_echoes_at_once_and_their_places_are_given_back(server: RunningServer) -> None:
    refused = server.figure("refused_total")
    for _ in range(2):
        wait_until(
            lambda: statuses(server, ECHOES + 1) == [b"101"] * ECHOES + [b"503"], "room for all echoes and for no more"
        )
    wait_until(lambda: server.figure("refused_total") > refused, "the figure")
    with RawClient(server.port) as chat:
        assert chat.expect("welcome")


def test_other_clients_keep_the_limits_that_the_protocol_promises(server: RunningServer) -> None:
    with RawClient(server.port) as chat:
        chat.send_frame(b"x" * (64 * 1024 + 1))
        assert chat.close_code() == 1009


def test_without_the_option_there_is_no_echo() -> None:
    with started_server(workers=1) as server:
        assert RawClient(server.port, "/echo").response.split()[1] == b"404"
