"""Who gets the next connections: the weights, and the program that the kernel throws dice by."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tuskws_fast.supervisor.listeners import open_listeners
from tuskws_fast.supervisor.placing import LOOK_EVERY_S, Placing, weights_of


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    opened = open_listeners("127.0.0.1", 0, 3, 1024)
    yield opened
    for each in opened:
        each.close()


def accepted(listeners: list[socket.socket], count: int) -> list[int]:
    """How many of `count` new connections each listener has."""
    clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(count)]
    found = []
    for listener in listeners:
        found.append(0)
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            found[-1] += 1
    for client in clients:
        client.close()
    return found


@pytest.mark.parametrize("counts", [[0, 0, 0], [500, 500, 500], [None, None, None], [None, 7, 7]])
def test_even_loads_have_even_weights(counts: list[int | None]) -> None:
    assert len(set(weights_of(counts))) == 1


def test_who_lacks_connections_gets_most_and_nobody_nothing() -> None:
    low, high, other = weights_of([0, 4_000, 4_000])
    assert low > 8 * high
    assert high == other >= 1
    assert min(weights_of([0, *[1_000_000] * 511])) >= 1


def test_a_worker_that_is_away_is_not_taken_for_an_idle_one() -> None:
    away, light, full = weights_of([None, 100, 900])
    assert away == full < light


def test_the_kernel_follows_the_weights(listeners: list[socket.socket]) -> None:
    placing = Placing(listeners)
    placing.place([9_000, 0, 9_000], 0.0)
    first, second, third = accepted(listeners, 600)
    assert first + second + third == 600
    assert second > 400
    assert 0 < first < 150
    assert 0 < third < 150
    placing.place([500, 500, 500], 1.0)
    assert min(accepted(listeners, 600)) > 120


def test_it_looks_once_a_second_and_not_at_all_where_there_is_no_choice(listeners: list[socket.socket]) -> None:
    placing = Placing(listeners)
    assert placing.is_due(10.0)
    placing.place([1, 2, 3], 10.0)
    assert not placing.is_due(10.0 + LOOK_EVERY_S / 2)
    assert placing.is_due(10.0 + LOOK_EVERY_S)
    placing.hurry()
    assert placing.is_due(10.1)
    assert not Placing(listeners[:1]).is_due(10.0)


def test_where_the_kernel_cannot_do_it_nothing_else_changes(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socketpair()[0] as no_listener, socket.socket() as another:
        placing = Placing([no_listener, another])
        with caplog.at_level("INFO"):
            placing.place([0, 100], 0.0)
        assert "hash alone" in caplog.text
        assert not placing.is_due(100.0)
