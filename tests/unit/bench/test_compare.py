"""Who takes part in a comparison, why others do not, the ratios, and that nobody is left out in silence."""

import io
from dataclasses import replace

import pytest
from helpers.bench_runs import a_run
from rich.console import Console
from tuskws_bench import compare
from tuskws_bench.contenders import CONTENDERS, OurServer, Setting
from tuskws_bench.plan import PlanError, Scenario
from tuskws_bench.result import Result, compose


def result(**changes: object) -> Result:
    return replace(compose(Scenario("fanout"), a_run()), **{"foreign_cores": 0.0, **changes})


def shown(found: dict[str, Result], not_run: dict[str, str] | None = None, runs: int = 3) -> str:
    console = Console(file=io.StringIO(), width=250)
    counted = dict.fromkeys(found, runs)
    console.print(compare.table_of(Scenario("fanout"), found, not_run or {}, "ours", counted))
    return console.file.getvalue()


def test_ratios_are_this_one_divided_by_the_baseline():
    ours = result(deliveries_per_s=100.0, server_cpu_us_per_delivery=2.0, pss_bytes_per_connection=4000.0)
    peer = result(deliveries_per_s=50.0, server_cpu_us_per_delivery=5.0, pss_bytes_per_connection=1000.0)
    assert compare.ratios(Scenario("fanout"), peer, ours) == {"rate": 0.5, "cpu": 2.5, "pss": 0.25, "p99": 1.0}


def test_what_was_not_measured_has_no_ratio():
    peer = result(server_cpu_us_per_delivery=None, latency_us={})
    found = compare.ratios(Scenario("fanout"), peer, result())
    assert (found["cpu"], found["p99"]) == (None, None)
    assert compare.ratios(Scenario("fanout"), peer, None) == {}


def test_idle_compares_handshakes_and_memory():
    scenario = Scenario("idle")
    found = compare.ratios(scenario, result(handshakes_per_s=10.0), result(handshakes_per_s=40.0))
    assert found["rate"] == 0.25


def test_a_row_names_the_foreign_load_and_a_saturated_client():
    text = shown({"ours": result(foreign_cores=0.7, harness_share=[0.95], load_client_was_the_bottleneck=True)})
    assert "others used 0.70 cores, no run of 3 was quiet" in text
    assert "load client saturated" in text


def test_who_did_not_run_stands_in_the_table_with_the_reason():
    text = shown({"ours": result()}, {"bun": "not installed: bun", "nats": "nats did not start:\nport\nno such file"})
    assert "not installed: bun" in text
    assert "nats did not start: no such file" in text


def test_all_could_fail_and_there_is_still_a_table():
    assert "no compiler" in shown({}, {"ours": "no compiler"})


@pytest.mark.parametrize(
    ("scenario", "metric"),
    [
        (Scenario("fanout"), "deliveries_per_s"),
        (Scenario("fanout", rate=10), "server_cpu_us_per_delivery"),
        (Scenario("idle"), "pss_bytes_per_connection"),
        (Scenario("join"), "handshakes_per_s"),
    ],
)
def test_the_median_is_of_what_the_scenario_is_about(scenario, metric):
    assert compare.metric_of(scenario)(result()) == getattr(result(), metric)


@pytest.mark.parametrize(
    ("names", "baseline", "runs", "text"),
    [
        (["ours", "nobody"], "ours", 1, "nobody"),
        (["c-plain"], "ours", 1, "takes no part"),
        ([], "ours", 1, "--with"),
        (["ours"], "ours", 0, "--runs"),
    ],
)
def test_wrong_flags_are_refused(names, baseline, runs, text):
    with pytest.raises(PlanError, match=text):
        compare.check(names, baseline, runs, 0)


def why_not(name: str, scenario: Scenario, setting: Setting) -> str:
    return compare.why_not(CONTENDERS[name](setting), setting, scenario)


def test_peers_have_no_part_in_what_they_cannot_do():
    assert "our protocol" in why_not("c-plain", Scenario("private"), Setting())
    assert "TLS" in why_not("c-plain", Scenario("fanout"), Setting(tls=True))
    assert "compression" in why_not("c-plain", Scenario("fanout", compression=True), Setting())
    assert why_not("ours", Scenario("private", compression=True), Setting(tls=True)) == ""


def flags(**changes: object) -> dict[str, object]:
    given = {"server_cores": "", "no_pin": False, "cores": "", "workers": 1, "tls": False, "server_flags": ()}
    return {**given, **changes}


def test_servers_and_load_have_cores_of_their_own_unless_told_otherwise():
    setting, given = compare.setting_of(flags(server_cores="0", cores="1,2"))
    assert (setting.cores, given["cores"]) == ((0,), "1,2")
    setting, given = compare.setting_of(flags(no_pin=True, server_cores="0", cores="1"))
    assert (setting.cores, given["cores"]) == ((), "")


def test_where_a_variant_stores_is_its_own_unless_it_is_said_outright():
    for place, at_the_end in (("journal", "journal"), ("/tmp/kept", "/tmp/kept"), ("none", "none")):
        command = OurServer(flags=("--pin", "--data-dir", place, "--room-tick", "0")).command()
        assert command.count("--data-dir") == 1
        assert command[command.index("--data-dir") + 1].endswith(at_the_end)
        assert command[-3:] == ["--pin", "--room-tick", "0"]


def test_a_variant_is_our_server_with_more_flags():
    setting = Setting(workers=2, flags=("--no-pin",))
    (entry,) = compare.changed(["--room-tick 0 --app 'a b:c'"], setting, Scenario("fanout"))
    assert entry.name == "ours --room-tick 0 --app 'a b:c'"
    assert entry.make().command()[-5:] == ["--no-pin", "--room-tick", "0", "--app", "a b:c"]
