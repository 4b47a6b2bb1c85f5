"""How targets are judged, and what is shown."""

import io
from dataclasses import replace

import pytest
from helpers.bench_runs import a_run
from rich.console import Console
from tuskws_bench import report, suite
from tuskws_bench.plan import Scenario
from tuskws_bench.result import Result, compose
from tuskws_bench.suite import BARE, COALESCING, OURS, PLAIN


def result(**changes: object) -> Result:
    return replace(compose(Scenario("fanout"), a_run()), **{"foreign_cores": 0.0, **changes})


def case(name: str) -> suite.Case:
    return next(each for each in suite.cases() if each.name == name)


def verdicts(name: str, results: dict[str, Result]) -> list[bool]:
    return [target.verdict(results)[1] == suite.PASS for target in case(name).targets]


def shown(what: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize(("rate", "met"), [(1.5e6, True), (1.49e6, False)])
def test_the_saturated_rate_has_a_floor(rate, met):
    results = {OURS: result(deliveries_per_s=rate), COALESCING: result(deliveries_per_s=1e6)}
    assert verdicts("fanout-closed", results) == [met, True, True]


@pytest.mark.parametrize(("rate", "met"), [(400_000, True), (399_999, False)])
def test_the_rate_of_pings_has_a_floor(rate, met):
    assert verdicts("echo-32", {OURS: result(deliveries_per_s=rate)}) == [met]


@pytest.mark.parametrize(("ours", "met"), [(7e6, True), (6.9e6, False)])
def test_the_saturated_rate_is_judged_as_a_ratio_to_the_coalescing_loop(ours, met):
    results = {OURS: result(deliveries_per_s=ours), COALESCING: result(deliveries_per_s=1e7)}
    assert verdicts("fanout-closed", results) == [True, met, True]


@pytest.mark.parametrize(("ours", "met"), [(80.0, True), (79.0, False)])
def test_one_ping_at_a_time_is_judged_as_a_ratio_to_the_plain_loop(ours, met):
    assert verdicts("echo-1", {OURS: result(deliveries_per_s=ours), PLAIN: result(deliveries_per_s=100.0)}) == [met]


@pytest.mark.parametrize("wrong", [{"lost": 1}, {"duplicates": 1}, {"problems": ["closed"]}])
def test_a_fast_run_that_lost_something_does_not_pass(wrong):
    results = {OURS: result(deliveries_per_s=9e6, **wrong), COALESCING: result(deliveries_per_s=9e6)}
    assert verdicts("fanout-closed", results) == [True, True, False]


@pytest.mark.parametrize(("ours", "met"), [(1.5, True), (1.51, False), (None, False)])
def test_a_handshake_is_judged_against_a_bare_protocol(ours, met):
    results = {OURS: result(server_cpu_us_per_delivery=ours), BARE: result(server_cpu_us_per_delivery=1.0)}
    assert verdicts("handshake", results) == [met]


@pytest.mark.parametrize(("p99", "met"), [(1500, True), (1510, False)])
def test_the_slowest_messages_are_judged_by_the_plain_loop(p99, met):
    results = {OURS: result(latency_us={"p99": p99}), PLAIN: result(latency_us={"p99": 1000})}
    assert verdicts("fanout-100", results) == [True, met]


@pytest.mark.parametrize(("ours", "met"), [(1.05, True), (1.06, False), (None, False)])
def test_cpu_is_judged_as_a_ratio_to_the_plain_loop(ours, met):
    results = {
        OURS: result(server_cpu_us_per_delivery=ours),
        PLAIN: result(server_cpu_us_per_delivery=1.0),
        COALESCING: result(server_cpu_us_per_delivery=0.1),
    }
    assert verdicts("fanout-100", results) == [met, True]


@pytest.mark.parametrize(("size", "met"), [(5000.0, True), (5001.0, False), (None, False)])
def test_memory_has_a_ceiling(size, met):
    assert verdicts("idle", {OURS: result(pss_bytes_per_connection=size)}) == [met]


def test_a_missed_target_shows_and_decides_the_outcome():
    slow = {"fanout-closed": {OURS: result(deliveries_per_s=1.0), COALESCING: result(deliveries_per_s=2.0)}}
    table, met = suite.targets_table([case("fanout-closed")], slow)
    assert not met
    assert "FAIL" in shown(table)


def test_a_row_gives_ratios_and_what_makes_it_no_evidence():
    measured = {
        "rooms": {OURS: result(deliveries_per_s=10.0), COALESCING: result(deliveries_per_s=40.0, foreign_cores=0.9)}
    }
    text = shown(suite.results_table(measured))
    assert "0.25" in text
    assert "others used 0.90 cores" in text
    assert "load client saturated" in text


def test_a_report_names_the_bottleneck_and_the_problems():
    console = Console(file=io.StringIO(), width=200)
    report.show(console, result(problems=["3 deliveries lost"]))
    text = console.file.getvalue()
    assert "the load client was the bottleneck" in text
    assert "! 3 deliveries lost" in text
    assert "100.000 µs" in text


def test_a_report_of_a_server_elsewhere_shows_no_invented_figures():
    unknown = {"server_cpu_us_per_delivery": None, "server_cores": None, "pss_bytes_per_connection": None}
    console = Console(file=io.StringIO(), width=200)
    report.show(console, result(**unknown, server_cpu_us_per_handshake=None, latency_us={}))
    assert "None" not in console.file.getvalue()


def disturbed_verdict(name: str, **ours: object) -> str:
    peer = result(server_cpu_us_per_delivery=1.0, foreign_cores=1.0)
    return case(name).targets[0].verdict({OURS: result(**ours), PLAIN: peer})[1]


def test_a_ratio_taken_under_foreign_load_is_no_evidence_either_way():
    assert disturbed_verdict("fanout-100", server_cpu_us_per_delivery=0.5) == suite.NO_EVIDENCE
    assert disturbed_verdict("fanout-100", server_cpu_us_per_delivery=2.0) == suite.NO_EVIDENCE


def test_a_floor_reached_in_spite_of_foreign_load_is_reached():
    assert disturbed_verdict("fanout-closed", deliveries_per_s=2e6) == suite.PASS
    assert disturbed_verdict("fanout-closed", deliveries_per_s=1e6) == suite.NO_EVIDENCE


def test_memory_is_judged_whatever_others_do():
    assert disturbed_verdict("idle", pss_bytes_per_connection=5001.0) == suite.FAIL
