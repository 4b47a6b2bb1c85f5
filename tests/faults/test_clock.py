"""The wall clock jumps, by an hour forward and by two back, under a node that has clients.

Every process of the node starts with a `sitecustomize` of ours, which adds what stands in a file to `time.time`: all
wall time of the project comes from there (compiled code reads the monotonic clock alone, which the last test holds).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.clients import on_loop, people
from helpers.raw import RawClient
from helpers.server import SECRET, RunningServer, started_server
from helpers.waiting import eventually, pace

JUMPING_CLOCK = """
import os, time
_real, _path = time.time, os.environ["JUMP_FILE"]
def _jumped():
    with open(_path) as file:
        return _real() + float(file.read())
time.time = _jumped
"""
HOUR_S = 3600.0


class Clock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.jump_to(0.0)

    def jump_to(self, offset_s: float) -> None:
        """Replaced as a whole: whoever reads sees one or the other."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(offset_s))
        fresh.rename(self._path)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)
    monkeypatch.setenv("JUMP_FILE", str(tmp_path / "jump"))
    monkeypatch.syspath_prepend(tmp_path)
    return Clock(tmp_path / "jump")


@pytest.fixture
def server(clock: Clock) -> Iterator[RunningServer]:
    flags = {"heartbeat_interval": "1s", "heartbeat_timeout": "1s", "leave_grace": "2s", "idle_timeout": "30s"}
    with started_server(workers=1, jwt_secret=SECRET, max_token_ttl="1d", **flags) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


@on_loop
async def test_a_jump_disconnects_nobody_and_ends_nobodys_presence(server: RunningServer, clock: Clock) -> None:
    async with people(server) as crowd:
        ann, bob = await crowd.connect("ann", ttl_s=8 * HOUR_S), await crowd.connect("bob", ttl_s=8 * HOUR_S)
        for client in (ann, bob):
            await client.request("join_room", room="a")
        processes, offset = sorted(server.descendants()), 0
        for jump in (HOUR_S, -HOUR_S, 0.0):
            clock.jump_to(jump)
            # Longer than a heartbeat and its answer, the grace of a departure, and several ticks.
            until = time.monotonic() + 3.0
            while time.monotonic() < until:
                reply = await ann.request("broadcast", room="a", message=jump)
                offset += 1
                assert (reply["type"], reply["offset"]) == ("ack", offset)
                push = await bob.expect("room_message", offset=offset)
                assert abs(push["timestamp"] - (time.time() + jump)) < 5
                await pace(0.2)
            assert len((await bob.request("get_presence", room="a"))["users"]) == 2
            await bob.nothing_of("presence_update", user="ann")
        history = await bob.request("history", room="a", since={"epoch": push["epoch"], "offset": 0})
        assert [each["offset"] for each in history["messages"]] == list(range(1, offset + 1))
        assert server.figure("heartbeat_missed") == server.figure("connections_closed") == 0
        assert sorted(server.descendants()) == processes


@on_loop
async def test_a_jump_moves_the_end_of_tokens_and_nothing_else(server: RunningServer, clock: Clock) -> None:
    async with people(server) as crowd:
        short, long = await crowd.connect("short", ttl_s=600.0), await crowd.connect("long", ttl_s=8 * HOUR_S)
        clock.jump_to(HOUR_S)
        await short.expect_close(4001)
        assert (await long.request("list_rooms"))["type"] == "rooms"
        clock.jump_to(-HOUR_S)
        token = server.token("late", ttl_s=600.0)
        late = await crowd.connect(None)
        # By the node's clock it is issued an hour from now: refused, as the rule is, and told so.
        assert (await late.request("auth", token=token))["code"] == "bad_token"
        clock.jump_to(0.0)
        assert (await late.request("auth", token=token))["type"] == "auth_success"


@on_loop
async def test_departures_take_their_grace_and_no_more(server: RunningServer, clock: Clock) -> None:
    async with people(server) as crowd:
        bob = await crowd.connect("bob", ttl_s=8 * HOUR_S)
        await bob.request("join_room", room="a")
        with RawClient(server.port, headers=f"Authorization: Bearer {server.token('ann')}\r\n") as ann:
            ann.send({"type": "join_room", "room": "a"})
            ann.expect("room_joined")
            clock.jump_to(-HOUR_S)
        gone_at = time.monotonic()

        async def alone() -> bool:
            return len((await bob.request("get_presence", room="a"))["users"]) == 1

        await eventually(alone, "ann has left")
        assert 1.5 < time.monotonic() - gone_at < 6


def test_compiled_code_reads_the_monotonic_clock_alone() -> None:
    sources = [path for path in Path("ext/tuskws_fast_ext").iterdir() if path.suffix in (".pyx", ".pxd", ".h")]
    assert len(sources) > 20
    for path in sources:
        found = re.findall(r"CLOCK_\w+|\bgettimeofday\b|\btime\.time\b", path.read_text())
        # A pong tells clients the time of day; nothing is timed by it.
        told = {"CLOCK_REALTIME"} if path.name == "pings.pyx" else set()
        assert set(found) <= {"CLOCK_MONOTONIC", "CLOCK_MONOTONIC_COARSE"} | told, (path, found)
