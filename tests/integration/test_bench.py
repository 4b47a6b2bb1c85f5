"""The load harness as its users start it: against the C loop, against our server, and against one that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.unruly import UnrulyServer
from tuskws_bench.contenders import CLoop, Contender, OurServer
from tuskws_bench.plan import Scenario
from tuskws_bench.result import Result
from tuskws_bench.run import run

SHORT: dict[str, Any] = {"duration_s": 0.5, "warmup_s": 0.1, "drain_timeout_s": 0.3, "server_pid": -1}


def bench(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tuskws_bench", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def fanout_json(contender: Contender, folder: Path, *flags: str) -> dict[str, Any]:
    file = folder / "result.json"
    done = bench(
        *("fanout", "--url", contender.url, "--protocol", contender.protocol, "--members", "100"),
        *("--duration", "1", "--warmup", "0.2", "--json", str(file), *flags),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(file.read_text()))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "coalescing"])
def c_loop(request: pytest.FixtureRequest) -> Iterator[Contender]:
    with CLoop(coalesce=request.param) as contender:
        yield contender


def test_fanout_on_the_c_loop_loses_nothing_and_measures_the_server(c_loop: Contender, tmp_path: Path) -> None:
    result = fanout_json(c_loop, tmp_path, "--wire", "200", "--processes", "2", "--publishers", "2")
    assert result["valid"]
    assert result["lost"] == result["duplicates"] == result["out_of_order"] == 0
    assert result["deliveries"] > 10_000
    assert result["wire_bytes_per_delivery"] == 200
    assert result["server_cpu_us_per_delivery"] > 0
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] <= result["latency_us"]["max"]
    assert list(result["server_cpu_s_by_process"]) == [f"c_loop {c_loop.pid}"]


def test_the_open_loop_keeps_its_rate(c_loop: Contender) -> None:
    scenario = Scenario("fanout", url=c_loop.url, protocol="raw", members=20, publishers=4, rate=400, **SHORT)
    result = run(scenario)
    assert result.valid, result.problems
    assert result.messages_per_s == pytest.approx(400, rel=0.1)
    assert result.latency_us["count"] == pytest.approx(0.5 * 400 * 20, rel=0.1)


def test_many_rooms_keep_apart(c_loop: Contender) -> None:
    result = run(Scenario("rooms", url=c_loop.url, protocol="raw", rooms=20, members=5, window=4, processes=2, **SHORT))
    assert result.valid, result.problems
    assert result.deliveries_per_s == pytest.approx(5 * result.messages_per_s, rel=0.1)


@pytest.mark.parametrize("payload", [16, 126, 70_000])
def test_every_frame_length_comes_back_whole(c_loop: Contender, payload: int) -> None:
    scenario = Scenario("echo", url=c_loop.url, protocol="raw", members=3, window=4, payload=payload, **SHORT)
    result = run(scenario)
    assert result.valid, result.problems
    assert result.wire_bytes_per_delivery == payload + (2 if payload < 126 else 4 if payload < 65536 else 10)


def test_idle_connections_are_counted_and_let_go(c_loop: Contender) -> None:
    flags = {**SHORT, "settle_s": 0.1, "server_pid": c_loop.pid}
    result = run(Scenario("idle", url=c_loop.url, protocol="raw", members=500, **flags))
    assert result.valid, result.problems
    assert result.connections == 500
    assert result.pss_bytes > 0
    assert result.handshakes_per_s is not None


def small(server: UnrulyServer, **flags: Any) -> Result:
    return run(Scenario("fanout", url=server.url, members=4, **{"rate": 200.0, **SHORT, **flags}))


def test_a_well_behaved_server_passes() -> None:
    with UnrulyServer() as server:
        assert small(server).valid
        assert small(server, rate=0.0, window=3).valid


def test_a_lost_message_is_seen() -> None:
    with UnrulyServer(lambda count, push: [] if count == 5 else [push]) as server:
        result = small(server)
    assert (result.lost, result.duplicates, result.out_of_order) == (1, 0, 0)


def test_the_last_message_of_all_is_seen_to_be_lost() -> None:
    with UnrulyServer(lambda count, push: [push] if count <= 20 else []) as server:
        assert small(server).lost > 50


def test_a_repeated_message_is_seen() -> None:
    with UnrulyServer(lambda count, push: [push, push] if count == 5 else [push]) as server:
        result = small(server)
    assert (result.lost, result.duplicates, result.out_of_order) == (0, 1, 0)


def test_swapped_messages_are_seen() -> None:
    held: list[str] = []

    def swap(count: int, push: str) -> list[str]:
        if count == 5:
            held.append(push)
            return []
        return [push, held.pop()] if held else [push]

    with UnrulyServer(swap) as server:
        result = small(server)
    assert (result.lost, result.duplicates, result.out_of_order) == (0, 0, 1)


@pytest.mark.parametrize("pace", [{"rate": 200.0}, {"rate": 0.0, "window": 4}], ids=["open", "closed"])
def test_refused_messages_are_refused_not_lost(pace: dict[str, Any]) -> None:
    with UnrulyServer(refuse=lambda count: "rate_limited" if count % 3 == 0 else None) as server:
        result = small(server, **pace)
    assert result.lost == 0
    assert result.refused == result.errors["rate_limited"] > 0
    assert "--disable-rate-limiting" in result.problems[0]


def test_a_connection_that_the_server_closes_is_reported_with_its_code() -> None:
    with UnrulyServer(hang_up_at=5) as server:
        result = small(server)
    assert result.closed_early == 1
    assert "4008 too slow" in result.first_error


def test_ping_and_pong_are_counted() -> None:
    with UnrulyServer() as server:
        result = run(Scenario("echo", url=server.url, members=3, window=2, **SHORT))
    assert result.valid, result.problems
    assert result.deliveries > 0


def test_a_port_where_nobody_listens_is_an_error_with_its_own_status() -> None:
    done = bench("fanout", "--url", "ws://127.0.0.1:1/", "--server-pid", "-1", "--members", "2")
    assert done.returncode == 3
    assert "refused" in done.stderr


def test_contradictory_flags_are_a_usage_error() -> None:
    done = bench("fanout", "--members", "2", "--publishers", "3")
    assert done.returncode == 2
    assert "--publishers" in done.stderr


@pytest.fixture(scope="module")
def our_server() -> Iterator[Contender]:
    with OurServer(workers=2) as contender:
        yield contender


def test_fanout_on_our_server_loses_nothing(our_server: Contender, tmp_path: Path) -> None:
    result = fanout_json(our_server, tmp_path)
    assert result["lost"] == result["duplicates"] == result["gaps"] == 0
    assert result["deliveries"] > 10_000
    processes = {name.rsplit(" ", 1)[0] for name in result["server_cpu_s_by_process"]}
    assert processes >= {"worker-0", "worker-1", "broker-0"}


def test_ping_and_pong_on_our_server(our_server: Contender) -> None:
    result = run(Scenario("echo", url=our_server.url, members=8, window=4, **SHORT))
    assert result.valid, result.problems


def test_batched_pushes_of_our_server_are_counted_one_by_one(our_server: Contender) -> None:
    result = run(Scenario("rooms", url=our_server.url, rooms=5, members=4, window=16, batch=True, **SHORT))
    assert result.valid, result.problems
    assert result.deliveries_per_s == pytest.approx(4 * result.messages_per_s, rel=0.1)


def test_the_suite_measures_both_and_prints_verdicts() -> None:
    done = bench("suite", "--quick", "--only", "rooms")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "C loop, coalescing" in done.stdout
    assert "pass" in done.stdout
