"""The flags of each scenario make a scenario that can be run, and each of them reaches it."""

from dataclasses import fields

import click
import pytest
from tuskws_bench import flags
from tuskws_bench.cli import main
from tuskws_bench.plan import Kind, PlanError, Scenario

ELSEWHERE = {"json_file", "pictures", "progress", "control_socket"}


def given(kind: Kind, *words: str) -> dict[str, object]:
    command = main.commands[kind]
    return dict(command.make_context(kind, list(words)).params)


def scenario(kind: Kind, *words: str) -> Scenario:
    return flags.scenario_of(
        kind, {name: value for name, value in given(kind, *words).items() if name not in ELSEWHERE}
    )


@pytest.mark.parametrize("kind", flags.SCENARIOS)
def test_the_defaults_of_each_scenario_can_be_run(kind):
    made = scenario(kind)
    made.validate()
    assert made.kind == kind


@pytest.mark.parametrize("kind", flags.SCENARIOS)
def test_each_flag_is_a_field_of_the_scenario_or_read_elsewhere(kind):
    known = {field.name for field in fields(Scenario)}
    assert set(given(kind)) <= known | ELSEWHERE


@pytest.mark.parametrize("kind", flags.SCENARIOS)
def test_each_scenario_can_be_compared(kind):
    compare = main.commands["compare"]
    assert isinstance(compare, click.Group)
    assert kind in compare.commands


def test_flags_reach_the_scenario():
    made = scenario(
        "slow", "--slow", "25", "--members", "40", "--connect-rate", "100", "--cores", "1,2", "--compression"
    )
    assert (made.slow, made.slow_members(), made.connect_rate, made.cores) == (25.0, 10, 100.0, (1, 2))
    assert made.compression


@pytest.mark.parametrize("name", list(main.commands))
def test_the_overview_cuts_no_sentence_short(name):
    assert not main.commands[name].get_short_help_str(60).endswith("...")


def test_a_result_that_could_not_be_written_is_refused_before_the_run(tmp_path):
    with pytest.raises(click.BadParameter, match="no folder"):
        given("fanout", "--json", str(tmp_path / "none" / "x.json"))
    assert given("fanout", "--json", str(tmp_path / "x.json"))["json_file"] == tmp_path / "x.json"


@pytest.mark.parametrize("text", ["x", "1;2", "1.5", "-1"])
def test_what_is_no_list_of_numbers_is_named(text):
    with pytest.raises(PlanError, match="--cores is made of numbers"):
        flags.numbers("--cores", text)
    assert flags.numbers("--cores", "1, 2,") == (1, 2)
