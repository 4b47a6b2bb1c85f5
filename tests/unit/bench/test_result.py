"""What a run's reports add up to, and when it counts as gone wrong."""

from dataclasses import replace

import pytest
from helpers.bench_runs import a_run
from tuskws_bench.plan import Scenario
from tuskws_bench.result import compose


def test_rates_are_those_of_the_interval_and_of_all_processes():
    result = compose(Scenario("fanout"), a_run())
    assert result.valid
    assert result.deliveries == 4000
    assert result.deliveries_per_s == 2000
    assert result.messages_per_s == 20
    assert result.server_cpu_us_per_delivery == pytest.approx(100)
    assert result.server_cores == pytest.approx(0.2)
    assert result.wire_bytes_per_delivery == 150
    assert result.deliveries_per_read == 20
    assert result.handshakes_per_s == 20
    assert result.server_cpu_us_per_handshake == pytest.approx(100)
    assert result.pss_bytes_per_connection == 5000


def test_latencies_of_all_processes_are_merged():
    latency = compose(Scenario("fanout"), a_run()).latency_us
    assert latency["count"] == 4
    assert latency["max"] == 2000
    assert latency["p50"] == 20


def test_a_load_process_over_ninety_percent_is_named_the_bottleneck():
    run = a_run()
    assert compose(Scenario("fanout"), run).load_client_was_the_bottleneck
    idle = replace(run, interval=replace(run.interval, harness_cpu_s=[0.5, 1.7]))
    assert not compose(Scenario("fanout"), idle).load_client_was_the_bottleneck


def test_cores_used_by_others_are_what_is_left_of_the_machine():
    assert compose(Scenario("fanout"), a_run()).foreign_cores == pytest.approx((3.5 - 0.4 - 2.4 - 0.1) / 2)


def test_without_a_server_on_this_machine_its_figures_are_unknown_not_zero():
    run = a_run()
    result = compose(Scenario("fanout"), replace(run, interval=replace(run.interval, server_by_process={})))
    assert result.server_cpu_us_per_delivery is None
    assert result.pss_bytes_per_connection is None
    assert result.server_cpu_us_per_handshake is None


@pytest.mark.parametrize("name", ["duplicates", "out_of_order", "gaps", "foreign", "closed_early", "refused"])
def test_whatever_goes_wrong_makes_the_run_invalid(name):
    result = compose(Scenario("fanout"), a_run(**{name: 3}))
    assert not result.valid
    assert "6 " in result.problems[0]


def test_loss_makes_the_run_invalid():
    assert compose(Scenario("fanout"), replace(a_run(), lost=2)).problems == ["2 deliveries lost"]


def test_a_rate_limit_is_named_with_the_flag_that_lifts_it():
    run = a_run(refused=4)
    run = replace(run, finished=[replace(each, error_codes={"rate_limited": 4}) for each in run.finished])
    assert "--disable-rate-limiting" in compose(Scenario("fanout"), run).problems[0]


def test_a_token_is_not_written_to_the_report():
    assert "secret-token" not in str(compose(Scenario("fanout", token="secret-token"), a_run()).as_json())


def test_accepted_is_published_less_refused_and_records_are_counted_apart():
    result = compose(Scenario("fanout"), replace(a_run(published=50, refused=3), records=94))
    assert (result.published, result.accepted, result.broker_records) == (100, 94, 94)


def test_deliveries_of_each_second_are_added_over_processes():
    assert compose(Scenario("fanout"), a_run()).deliveries_by_second == [2000, 2000]


def test_replies_and_reconnects_are_called_what_they_are():
    lost = replace(a_run(), lost=2)
    assert compose(Scenario("presence"), lost).problems == ["2 replies lost"]
    assert compose(Scenario("reconnect"), lost).problems == ["2 reconnects lost"]
    assert compose(Scenario("handshake"), lost).problems == ["2 handshakes lost"]


def test_a_connection_that_cannot_come_back_is_a_problem():
    assert compose(Scenario("reconnect"), a_run(failed=1)).problems == ["2 connections failed to open again"]


def test_what_became_of_slow_members_is_told_and_is_no_problem():
    run = a_run(slow_deliveries=5, slow_gaps=1, slow_closed=2)
    result = compose(Scenario("slow", members=40, slow=10), run)
    assert result.slow_members == {"members": 4, "delivered_late": 10, "gaps": 2, "closed": 4}
    assert result.valid
    assert compose(Scenario("fanout"), run).slow_members == {}


def test_the_kernels_memory_is_told_of_many_connections_only():
    run = a_run()
    assert compose(Scenario("idle"), run).kernel_bytes_per_connection is None
    many = [replace(each, counters={**each.counters, "ready": 1000}) for each in run.opened]
    assert compose(Scenario("idle"), replace(run, opened=many)).kernel_bytes_per_connection == 10


def test_while_nothing_is_sent_the_opening_may_saturate_the_client():
    run = a_run()
    busy = replace(run, opened=[replace(each, share=0.97) for each in run.opened])
    assert compose(Scenario("idle"), busy).load_client_was_the_bottleneck
    assert not compose(Scenario("idle"), run).load_client_was_the_bottleneck


def test_compression_that_never_came_is_a_problem():
    found = compose(Scenario("fanout", compression=True), a_run()).problems
    assert "no message came compressed" in found[0]
    assert compose(Scenario("fanout", compression=True), a_run(compressed=3)).valid


def test_the_curve_ends_with_the_slowest():
    curve = compose(Scenario("fanout"), a_run()).latency_curve_us
    assert curve[-1] == (1.0, 2000)
    assert [value for _, value in curve] == sorted(value for _, value in curve)
