"""What each axis changes, and that a step which could not be run is shown."""

import io

import pytest
from helpers.bench_runs import a_run
from rich.console import Console
from tuskws_bench import scale
from tuskws_bench.contenders import Setting
from tuskws_bench.plan import Scenario
from tuskws_bench.result import compose


@pytest.mark.parametrize("name", ["members", "publishers", "payload"])
def test_an_axis_changes_its_own_field(name):
    scenario, _ = scale.at(name, 77, Scenario("fanout"), Setting())
    assert getattr(scenario, name) == 77


def test_a_large_payload_lifts_the_limits_of_our_server():
    _, setting = scale.at("payload", 65_536, Scenario("fanout"), Setting(flags=("--no-demo",)))
    assert setting.flags == ("--no-demo", "--max-message-size", "66560", "--max-frame-size", "73728")


def test_workers_are_of_the_server():
    scenario, setting = scale.at("workers", 3, Scenario("fanout"), Setting())
    assert (scenario, setting.workers) == (Scenario("fanout"), 3)


@pytest.mark.parametrize(("rooms", "each"), [(2, 1), (100, 1), (1_000, 10), (100_000, 1_000)])
def test_beyond_a_thousand_connections_rooms_share_their_members(rooms, each):
    scenario, setting = scale.at("rooms", rooms, Scenario("rooms", members=10, rate=5_000), Setting())
    assert (scenario.rooms, scenario.rooms_each, scenario.members) == (rooms, each, 10)
    assert scenario.connections == min(1_000, 10 * rooms)
    assert scenario.rate * rooms == pytest.approx(5_000)
    assert "--max-rooms-per-user" in setting.flags


def test_members_that_do_not_read_are_an_axis():
    scenario, _ = scale.at("slow", 10, Scenario("slow", members=200), Setting())
    assert scenario.slow_members() == 20


def test_a_step_that_was_not_run_stands_in_the_table_with_the_reason():
    result = compose(Scenario("fanout"), a_run())
    table = scale.table_of("members", [10, 20], {"ours": {10: result}}, {"ours": {20: "too many\nconnections"}})
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert "too many connections" in console.file.getvalue()
    assert "2,000" in console.file.getvalue()
