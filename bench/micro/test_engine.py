"""What does the engine take for one publication? (The broker is one process: this bounds the node's publications/s.)

Goal: below 6 us in a plain room with four interested workers, history on. Run: `pytest bench/micro --benchmark-enable`.
"""

from __future__ import annotations

import itertools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.ipc.records import Attach, Join, Leave, Private, Publish, first_conn
from tuskws_fast.rooms.permissions import EVERYTHING

WORKERS = 4
USERS = 1_000
PREFIX = b'{"type":"room_message","room":"chat","message":"' + b"x" * 128 + b'","from":"user-7"'
ALICE = first_conn(0, 1) + 1


def engine_with_room(members: int) -> Engine:
    numbers = itertools.count()
    engine = Engine(EngineLimits(), 0.0, lambda: f"epoch-{next(numbers)}")
    for worker in range(WORKERS):
        engine.worker_up(worker, 1)
    for n in range(members):
        worker = n % WORKERS
        conn = first_conn(worker, 1) + 1 + n // WORKERS
        engine.handle(worker, Attach(conn, f"user-{n}", f"User {n}", [], 1, "online"), 0.0, 0.0)
        engine.handle(worker, Join(conn, 1, 0, "chat", None, None, None), 0.0, 0.0)
    return engine


@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "acked"])
def test_publication_in_a_plain_room(benchmark: BenchmarkFixture, quiet: bool) -> None:
    engine = engine_with_room(USERS)
    record = Publish(ALICE, 0 if quiet else 7, 0, 0, True, quiet, "chat", "", PREFIX)

    out = benchmark(engine.handle, 0, record, 1.0, 1_700_000_000.0)

    assert len(out) == WORKERS + (not quiet)


def test_publication_with_an_idempotency_key(benchmark: BenchmarkFixture) -> None:
    engine = engine_with_room(USERS)
    keys = map("key-{}".format, itertools.count())

    def publish() -> int:
        record = Publish(ALICE, 7, 0, 0, True, False, "chat", next(keys), PREFIX)
        return len(engine.handle(0, record, 1.0, 1_700_000_000.0))

    assert benchmark(publish) == WORKERS + 1


def test_private_message(benchmark: BenchmarkFixture) -> None:
    engine = engine_with_room(USERS)
    record = Private(ALICE, 7, EVERYTHING, 0, False, "user-9", "", PREFIX)

    assert len(benchmark(engine.handle, 0, record, 1.0, 1_700_000_000.0)) == 2


@pytest.mark.parametrize("members", [100, 1_000])
def test_join_and_leave(benchmark: BenchmarkFixture, members: int) -> None:
    engine = engine_with_room(members)
    conn = first_conn(0, 1) + 1
    join = Join(conn, 1, 0, "other" if members == 1_000 else "chat", None, None, None)
    leave = Leave(conn, 1, join.room)
    engine.handle(0, leave, 1.0, 0.0)

    def join_and_leave() -> None:
        engine.handle(0, join, 1.0, 0.0)
        engine.handle(0, leave, 1.0, 0.0)

    benchmark(join_and_leave)
