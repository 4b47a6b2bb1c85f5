"""What integration tests share: one server a module, one browser a run, and names nobody else has used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from helpers.server import SECRET, RunningServer, started_server
from helpers.sockets import Browser, started_browser

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Four workers, tokens required; the log must be free of tracebacks when the module is through with it."""
    with started_server(workers=4, jwt_secret=SECRET, message_rate_burst=1000, message_rate_limit=1000) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with started_browser() as running:
        yield running


@pytest.fixture
def name() -> Callable[[str], str]:
    """`name("ann")` is the same all through a test, and nobody's in any other."""
    number = next(_NUMBERS)
    return lambda stem: f"{stem}-{number}"
