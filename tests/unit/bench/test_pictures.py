"""Pictures are files of their own: complete, the same for the same figures, and without what nobody measured."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from helpers.bench_runs import a_run
from tuskws_bench import pictures
from tuskws_bench.contenders import CONTENDERS
from tuskws_bench.plan import Scenario
from tuskws_bench.result import compose

RESULT = compose(Scenario("fanout"), a_run())


def text_of(file):
    return " ".join(ElementTree.parse(file).getroot().itertext())


def test_each_figure_has_a_picture_that_names_everybody(tmp_path):
    files = pictures.draw(
        {"ours": RESULT, "bun": replace(RESULT, deliveries_per_s=2e6)}, tmp_path, "fanout, 10 members"
    )
    assert [file.name for file in files] == ["throughput.svg", "cpu.svg", "latency.svg"]
    for file in files:
        text = text_of(file)
        assert "ours" in text
        assert "bun" in text
        assert "fanout, 10 members" in text
    assert "2 M" in text_of(tmp_path / "throughput.svg")


def test_the_same_figures_give_the_same_file(tmp_path):
    first, second = (pictures.draw({"ours": RESULT}, tmp_path / name, "t") for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_no_two_lines_look_alike(tmp_path):
    names = list(CONTENDERS)
    pictures.draw_growth(tmp_path / "grow.svg", "cost", "members", [1, 2], {name: [1.0, 2.0] for name in names})
    strokes = set(re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: (?:1.2|2.4)", (tmp_path / "grow.svg").read_text()))
    assert len(strokes) == len(names)


def test_what_nobody_measured_has_no_picture(tmp_path):
    unknown = replace(RESULT, server_cpu_us_per_delivery=None, latency_curve_us=[])
    assert [file.name for file in pictures.draw({"ours": unknown}, tmp_path, "t")] == ["throughput.svg"]


def test_resting_connections_have_a_picture_of_their_memory(tmp_path):
    idle = replace(RESULT, deliveries=0, latency_curve_us=[], server_cpu_us_per_delivery=None)
    assert [file.name for file in pictures.draw({"ours": idle}, tmp_path, "t")] == ["memory.svg"]


def test_growth_has_a_line_each_and_gaps_where_a_step_failed(tmp_path):
    lines = {"ours": [1.0, None, 3.0], "c": [0.5, 0.4, 0.3]}
    file = pictures.draw_growth(tmp_path / "new" / "grow.svg", "cost", "members", [10, 100, 1000], lines)
    text = text_of(file)
    assert "members" in text
    assert "1,000" in text


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (12345.6, "12,346"), (2_500_000, "2.5 M")])
def test_numbers_are_short(value, text):
    assert pictures.number(value) == text
