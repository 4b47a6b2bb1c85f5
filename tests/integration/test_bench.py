"""The load harness as its users start it: against the C loop, against our server, and against one that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.unruly import UnrulyServer
from tuskws_bench.contenders import CONTENDERS, BareUvloop, CLoop, Contender, OurServer, Setting
from tuskws_bench.loadclient import DELIVERED, READY, Histogram, LoadClient
from tuskws_bench.plan import Scenario
from tuskws_bench.result import Result
from tuskws_bench.run import RunError, run
from tuskws_bench.spread import measure

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
    assert result["deliveries"] > 5_000
    assert result["wire_bytes_per_delivery"] == 200
    assert result["server_cpu_us_per_delivery"] > 0
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] <= result["latency_us"]["max"]
    assert list(result["server_cpu_s_by_process"]) == [f"c_loop {c_loop.pid}"]


@pytest.mark.alone
def test_the_open_loop_keeps_its_rate(c_loop: Contender) -> None:
    scenario = Scenario("fanout", url=c_loop.url, protocol="raw", members=20, publishers=4, rate=400, **SHORT)
    result = run(scenario)
    assert result.valid, result.problems
    assert result.messages_per_s == pytest.approx(400, rel=0.2)
    assert result.latency_us["count"] == pytest.approx(0.5 * 400 * 20, rel=0.1)


@pytest.mark.alone
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


@pytest.mark.alone
def test_batched_pushes_of_our_server_are_counted_one_by_one(our_server: Contender) -> None:
    result = run(Scenario("rooms", url=our_server.url, rooms=5, members=4, window=16, batch=True, **SHORT))
    assert result.valid, result.problems
    assert result.deliveries_per_s == pytest.approx(4 * result.messages_per_s, rel=0.1)


def test_the_suite_measures_both_and_prints_verdicts() -> None:
    done = bench("suite", "--quick", "--only", "rooms")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "C loop, coalescing" in done.stdout
    assert "pass" in done.stdout


def test_a_stall_of_the_server_is_in_the_latency_of_all_that_was_to_leave_meanwhile() -> None:
    stall = threading.Event()

    def deliver(count: int, push: str) -> list[str]:
        if count == 40:
            stall.wait(0.3)
        return [push]

    with UnrulyServer(deliver) as server:
        result = small(server)
    # 300 ms of 500: an honest clock has most messages wait, one that starts when a message is sent has only one.
    assert result.latency_us["p50"] > 50_000
    assert result.latency_us["max"] > 250_000


def test_a_load_client_that_is_late_itself_counts_from_when_a_message_was_to_leave(c_loop: Contender) -> None:
    base_ns = time.monotonic_ns() - 10_000_000_000  # stamps count from here: it lies before all that is to leave
    scenario = Scenario("fanout", url=c_loop.url, protocol="raw", members=2, rate=100)
    (share,) = scenario.shares(address="127.0.0.1", run=1, name="late", base_ns=base_ns)
    client = LoadClient(share)
    client.open_up_to(2)
    client.run(base_ns + 15_000_000_000, READY)
    late_ns, now_ns = 400_000_000, time.monotonic_ns()
    client.measure(now_ns - late_ns, now_ns)
    client.publish(now_ns - late_ns, share.interval_ns)
    client.expect(80)
    client.run(now_ns + 5_000_000_000, DELIVERED)
    latency = Histogram(client.latency())
    assert latency.count == pytest.approx(80, abs=2)
    assert latency.percentile(0.5) >= 150_000
    assert latency.max >= 390_000


def ours(contender: Contender, kind: Any, **flags: Any) -> Result:
    scenario = Scenario(kind, **{**SHORT, "url": contender.url, "server_pid": contender.pid, **flags})
    result = run(scenario, control_socket=contender.control_socket)
    assert result.valid, (result.problems, result.first_error)
    return result


def test_the_broker_has_a_record_of_each_accepted_message(our_server: Contender) -> None:
    result = ours(our_server, "fanout", members=10, window=4)
    assert result.broker_records == result.accepted == result.published > 0


def test_every_message_is_acknowledged_at_the_level_that_is_asked_for(our_server: Contender) -> None:
    flags = {**SHORT, "url": our_server.url, "members": 20, "window": 8}
    assert run(Scenario("fanout", **flags)).acks == 0
    result = run(Scenario("fanout", level="accepted", **flags))
    assert result.valid, result.problems
    assert result.acks == result.accepted > 0
    # This server keeps messages in memory only.
    refused = run(Scenario("fanout", level="stored", **flags))
    assert refused.errors.keys() == {"unavailable"}
    assert refused.acks == 0


def test_private_messages_reach_the_next_user_and_are_recorded(our_server: Contender) -> None:
    result = ours(our_server, "private", members=9, window=2, processes=2)
    assert result.deliveries > 100
    assert result.broker_records == result.accepted


@pytest.mark.parametrize("pace", [{"window": 1}, {"rate": 100.0}], ids=["closed", "open"])
def test_each_change_of_presence_is_answered_and_pushed(our_server: Contender, pace: dict[str, Any]) -> None:
    result = ours(our_server, "presence", members=10, publishers=3, **pace)
    assert result.unit == "reply"
    assert result.pushes_per_s > 0
    assert result.lost == 0


@pytest.mark.alone
def test_a_mixed_chat_answers_the_commands_beside_its_messages(our_server: Contender) -> None:
    result = ours(our_server, "mixed", rooms=4, members=3, rate=10, side=6, side_rate=200)
    assert result.side_replies_us["count"] == pytest.approx(100, rel=0.2)
    assert result.deliveries_per_s == pytest.approx(4 * 3 * 10, rel=0.3)


@pytest.mark.alone
def test_rooms_that_share_their_members_lose_nothing_either(our_server: Contender) -> None:
    flags = {"rooms": 12, "rooms_each": 4, "members": 3, "publishers": 2, "processes": 2}
    for pace in ({"window": 2}, {"rate": 20.0}):
        result = ours(our_server, "rooms", **flags, **pace)
        assert result.connections == 9
        assert result.deliveries_per_s == pytest.approx(3 * result.messages_per_s, rel=0.2)
        assert result.published > 12 * 2


def test_members_that_do_not_read_cost_the_others_nothing(our_server: Contender) -> None:
    result = ours(our_server, "slow", members=20, slow=25, window=64, payload=1000, duration_s=1.0)
    assert result.slow_members["members"] == 5
    # What the socket held was read late; what it did not hold ended the connection or was told as a gap.
    assert result.slow_members["delivered_late"] > 0
    assert result.slow_members["gaps"] + result.slow_members["closed"] > 0


@pytest.mark.alone
def test_a_join_storm_keeps_its_ramp(our_server: Contender) -> None:
    result = ours(our_server, "join", members=100, connect_rate=200, settle_s=0.1)
    assert result.opening_us["count"] == 100
    assert result.handshakes_per_s is not None
    assert result.handshakes_per_s == pytest.approx(200, rel=0.15)


@pytest.mark.parametrize("pace", [{}, {"drop_rate": 100.0}], ids=["at once", "at a rate"])
def test_after_a_reconnect_storm_all_are_back(our_server: Contender, pace: dict[str, Any]) -> None:
    result = ours(our_server, "reconnect", rooms=3, members=20, drop=50, **pace)
    assert result.latency_us["count"] == 30
    assert result.unit == "reconnect"


def test_who_is_let_in_goes_and_comes_again(our_server: Contender) -> None:
    result = ours(our_server, "handshake", members=8)
    assert result.deliveries > 8 * 10
    assert (result.unit, result.messages_per_s) == ("handshake", 0)
    assert result.server_cpu_us_per_delivery is not None


def test_a_peer_that_only_answers_handshakes_is_compared_by_them() -> None:
    with BareUvloop(()) as contender:
        result = run(Scenario("handshake", url=contender.url, protocol="raw", members=8, processes=2, **SHORT))
    assert result.valid, result.problems
    assert result.deliveries > 8 * 10


def test_compressed_pushes_are_inflated_and_checked(our_server: Contender) -> None:
    plain = ours(our_server, "fanout", members=10, window=4, payload=600)
    packed = ours(our_server, "fanout", members=10, window=4, payload=600, compression=True)
    assert plain.compressed == 0
    assert packed.compressed > 0
    assert packed.wire_bytes_per_delivery is not None
    assert plain.wire_bytes_per_delivery is not None
    assert packed.wire_bytes_per_delivery < 0.7 * plain.wire_bytes_per_delivery


def test_a_server_that_does_not_compress_is_named() -> None:
    with CLoop() as contender, pytest.raises(RunError, match="does not compress"):
        run(Scenario("fanout", url=contender.url, protocol="raw", members=2, compression=True, **SHORT))


def test_messages_go_round_over_tls() -> None:
    with OurServer(tls=True) as contender:
        assert contender.url.startswith("wss:")
        result = ours(contender, "fanout", members=10, window=16, payload=5000)
    assert result.deliveries > 100


def test_tls_to_a_server_without_it_is_an_error(our_server: Contender) -> None:
    with pytest.raises(RunError, match="TLS handshake failed"):
        run(Scenario("idle", url=our_server.url.replace("ws:", "wss:"), members=2, **SHORT))


PEERS = [name for name, make in CONTENDERS.items() if name != "ours" and make(Setting()).cannot("fanout") is None]


def test_a_server_that_only_answers_handshakes_is_measured_by_them() -> None:
    with CONTENDERS["bare-uvloop"](Setting()) as contender:
        result = run(Scenario("idle", url=contender.url, protocol="raw", members=20, **SHORT))
    assert result.handshakes_per_s is not None
    assert result.handshakes_per_s > 0


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_delivers_everything_in_order_and_echoes(name: str) -> None:
    contender = CONTENDERS[name](Setting())
    if missing := contender.missing():
        pytest.skip(f"{name} is not installed: {missing} (scripts/setup-peers)")
    with contender:
        flags = {**SHORT, "url": contender.url, "protocol": contender.protocol, "duration_s": 0.3}
        spread = run(Scenario("rooms", rooms=3, members=4, publishers=2, window=4, **flags))
        echo = run(Scenario("echo", members=2, window=3, **flags))
    for result in (spread, echo):
        # On a busy machine nothing may fall into so short an interval; what is checked is the whole run.
        wrong = {
            name: getattr(result, name) for name in ("lost", "duplicates", "out_of_order", "foreign", "closed_early")
        }
        assert wrong == dict.fromkeys(wrong, 0), result.first_error
        assert result.published > 0


def test_a_comparison_names_who_takes_no_part(tmp_path: Path) -> None:
    file = tmp_path / "compare.json"
    done = bench(
        *("compare", "idle", "--with", "ours,c-coalescing,websockets", "--clients", "20", "--runs", "1", "--tls"),
        *("--repeats", "0", "--duration", "0.2", "--settle", "0.1"),
        *("--json", str(file), "--picture", str(tmp_path / "pictures")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert list(found["results"]) == ["ours"]
    assert found["not_run"] == dict.fromkeys(("c-coalescing", "websockets"), "runs without TLS here")
    assert "c-coalescing" in done.stdout
    assert (tmp_path / "pictures" / "memory.svg").exists()


def test_a_comparison_tells_the_ratio_to_the_baseline(tmp_path: Path) -> None:
    file = tmp_path / "compare.json"
    done = bench(
        *("compare", "fanout", "--with", "ours,c-plain", "--baseline", "c-plain", "--members", "20", "--runs", "1"),
        *("--repeats", "0", "--duration", "0.5", "--warmup", "0.1", "--json", str(file)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    figures = {name: found["results"][name]["deliveries_per_s"] for name in ("ours", "c-plain")}
    assert found["ratios"]["ours"]["rate"] == pytest.approx(figures["ours"] / figures["c-plain"], rel=0.01)
    assert found["ratios"]["c-plain"]["rate"] == 1.0
    # The peer's frames are as long as our pushes were.
    wire = {name: found["results"][name]["wire_bytes_per_delivery"] for name in ("ours", "c-plain")}
    assert wire["c-plain"] == pytest.approx(wire["ours"], abs=1)


def test_growth_is_drawn_step_by_step(tmp_path: Path) -> None:
    done = bench(
        *("scale", "members", "--steps", "5,20", "--with", "c-coalescing", "--duration", "0.3", "--warmup", "0.1"),
        *("--repeats", "0", "--picture", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"members-cpu.svg", "members-rate.svg", "members-p99.svg"}


def test_connections_lie_evenly_again_after_a_death_and_after_a_restart() -> None:
    found = {each.moment: each for each in measure(1_000, 2, ("--drain-window", "2s"))}
    assert [sum(each.counts) for each in found.values()] == [1_000] * 3
    # The kernel's hash alone makes it 1.2 to 1.5 after a death, 1.3 after a restart.
    assert found["killed"].fullest < 1.25
    assert found["restarted"].fullest < 1.2
