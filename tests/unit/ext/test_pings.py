"""A ping that is answered where it is read is answered as `worker.commands` would answer it, and charged alike."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.edge import Edge, Line, Pair
from helpers.rfc6455 import TEXT, client_frame, server_frames
from helpers.worker import Desk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuskws_fast_ext import tables
from tuskws_fast_ext.pings import Caller, Pings
from tuskws_fast_ext.tables import RateTable

OURS, ADDRESS = 7, 9
HOUR_US = 3_600_000_000.0


class Client(Caller):
    """A session that notes what is left to it."""

    connection: Any
    token_identity = None

    def __init__(self) -> None:
        self.rate_key = OURS
        self.left: list[bytes] = []

    def on_open(self) -> None: ...

    def on_message(self, payload: bytes, text: bool) -> None:
        self.left.append(payload)

    def on_pong(self) -> None: ...

    def on_closed(self, code: int) -> None: ...

    def on_failure(self, error: Exception) -> None:
        raise AssertionError("the connection swallowed an exception") from error


class Stage:
    def __init__(self) -> None:
        self.rates = RateTable(mmap.mmap(-1, tables.rates_bytes(64)))
        self.pings = Pings(self.rates, 0)
        self.client = Client()
        self.pair = Pair()
        self.edge = Edge(lambda address: self.client, 70_000)  # type: ignore[arg-type, return-value]
        self.edge.__enter__()
        self.line: Line = self.edge.connect(self.pair)
        self.edge.point.pings = self.pings

    def say(self, *messages: bytes) -> list[dict[str, Any]]:
        """The answers, decoded; what is not answered is in `client.left`."""
        self.line.wire = b""
        self.client.left.clear()
        self.line.receive(b"".join(client_frame(TEXT, message, mask=b"abcd") for message in messages))
        return [json.loads(payload) for _, payload in server_frames(self.line.wire)]

    def close(self) -> None:
        self.edge.__exit__(None, None, None)
        self.pair.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def test_the_forms_that_json_libraries_write_are_answered(stage: Stage) -> None:
    for extra in ({}, {"id": 0}, {"id": 987654321}, {"id": "a-7_.Z"}):
        ping: dict[str, object] = {"type": "ping", **extra}
        for separators in ((",", ":"), (", ", ": ")):
            (pong,) = stage.say(json.dumps(ping, separators=separators).encode())
            assert (pong["type"], pong.get("id")) == ("pong", ping.get("id"))
            assert not stage.client.left
    assert stage.pings.answered == 8


PIECES = st.sampled_from(
    ['{"type":', '"ping"', ',"id":', "}", "{", '"id":', '"type":', ":", ",", " ", '"', "0", "17", "-1", "1.5",
     "00", "1e3", '"a"', '""', '"é"', '"a b"', '"\\n"', '"<b>"', "null", "true", "[]", "\0", "x",
     '"' + "a" * 62 + '"', '"' + "a" * 63 + '"', '"' + "a" * 64 + '"', "9" * 15, "9" * 16, "9" * 17]
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(PIECES, max_size=7).map("".join),
    st.lists(PIECES, max_size=2).map(lambda parts: '{"type":"ping"' + "".join(parts) + "}"),
    st.lists(PIECES, max_size=2).map(lambda parts: '{"type":"ping","id":' + "".join(parts) + "}"),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_whatever_is_answered_here_is_answered_alike_by_the_commands(shared: Stage, text: str) -> None:
    answers = shared.say(text.encode())
    if not answers:
        assert shared.client.left == [text.encode()]
        return
    session, wire = Desk().connect()
    session.on_message(text.encode(), True)
    for answer in (answers[0], wire.sent[-1]):
        assert answer.pop("timestamp") > 0
    assert answers == [wire.sent[-1]]


def test_a_ping_ends_a_row_of_faults_and_of_refusals(stage: Stage) -> None:
    stage.client.faults = stage.client.refused_in_row = 9
    stage.say(b'{"type":"ping"}')
    assert (stage.client.faults, stage.client.refused_in_row) == (0, 0)


def test_a_ping_beyond_the_rate_is_left_to_the_commands_and_takes_nothing(stage: Stage) -> None:
    stage.pings.limit(HOUR_US, 3, 0.0, 0)
    assert len(stage.say(*[b'{"type":"ping"}'] * 5)) == 3
    assert len(stage.client.left) == 2
    stage.pings.limit(HOUR_US, 4, 0.0, 0)
    assert len(stage.say(b'{"type":"ping"}')) == 1


def test_a_stranger_pays_from_both_rates_or_from_none(stage: Stage) -> None:
    stage.client.address_key = ADDRESS
    stage.pings.limit(HOUR_US, 5, HOUR_US, 2)
    assert len(stage.say(*[b'{"type":"ping"}'] * 4)) == 2
    stage.client.address_key = 0
    assert len(stage.say(*[b'{"type":"ping"}'] * 4)) == 3
