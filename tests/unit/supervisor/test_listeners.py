"""Listening sockets: one a worker on one address, and never a port shared by accident."""

import select
import socket

import pytest

from tuskws_fast.errors import BootError
from tuskws_fast.supervisor.listeners import bound_receive_buffers, open_listeners, shown_address


def close(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


def test_all_workers_listen_on_the_same_free_port() -> None:
    listeners = open_listeners("127.0.0.1", 0, 3, 16)
    try:
        assert len({listener.getsockname() for listener in listeners}) == 1
        assert not any(listener.getblocking() for listener in listeners)
        with socket.create_connection(listeners[0].getsockname()):
            pass
    finally:
        close(listeners)


def test_what_is_accepted_holds_as_much_as_its_listener_says() -> None:
    for size, held in ((64 * 1024, 128 * 1024), (0, None)):
        (listener,) = open_listeners("127.0.0.1", 0, 1, 8)
        untouched = listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        bound_receive_buffers([listener], size)
        with listener, socket.create_connection(listener.getsockname()):
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            assert poll.poll(1_000)
            with listener.accept()[0] as accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == (held or untouched)


def test_a_port_that_another_node_uses_is_refused_although_it_could_be_shared() -> None:
    listeners = open_listeners("127.0.0.1", 0, 2, 16)
    port = listeners[0].getsockname()[1]
    try:
        with pytest.raises(BootError, match=rf"cannot listen on 127\.0\.0\.1:{port}: another process uses the port"):
            open_listeners("127.0.0.1", port, 2, 16)
    finally:
        close(listeners)


def test_a_port_whose_connections_are_just_closed_is_free() -> None:
    listeners = open_listeners("127.0.0.1", 0, 1, 16)
    address = listeners[0].getsockname()
    client = socket.create_connection(address)
    listeners[0].setblocking(True)
    accepted, _ = listeners[0].accept()
    accepted.close()  # first, so that TIME_WAIT is on the server's side
    client.close()
    close(listeners)
    close(open_listeners("127.0.0.1", address[1], 2, 16))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_and_how_addresses_are_shown() -> None:
    listeners = open_listeners("::1", 0, 1, 16)
    port = listeners[0].getsockname()[1]
    assert shown_address(listeners[0]) == f"[::1]:{port}"
    close(listeners)
    listeners = open_listeners("::", 0, 2, 16)
    port = listeners[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("::1", port)):
        pass
    close(listeners)


def test_a_name_with_both_families_is_its_ipv4_address() -> None:
    listeners = open_listeners("localhost", 0, 1, 16)
    assert shown_address(listeners[0]).startswith("127.0.0.1:")
    close(listeners)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "999.1.1.1", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_refused_with_a_reason(host: str) -> None:
    with pytest.raises(BootError, match="cannot listen on "):
        open_listeners(host, 0, 1, 16)
