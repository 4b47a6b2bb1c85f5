"""A line through samples, believed as far as it can be."""

from __future__ import annotations

import random

import pytest
from tuskws_bench.drift import drift, student

SAMPLES = 80


def noise(seed: int, alike: float = 0.0) -> list[float]:
    """`alike`: how much of each the next one keeps."""
    rng, found, last = random.Random(seed), [], 0.0
    for _ in range(SAMPLES):
        last = alike * last + rng.gauss(0, 1)
        found.append(last)
    return found


def hours() -> list[float]:
    return [n / SAMPLES for n in range(SAMPLES)]


def test_noise_is_no_growth() -> None:
    verdicts = [drift(hours(), [1000 + each for each in noise(seed)]).low <= 0 for seed in range(200)]
    # One side of a 95 % interval: 5 of 200 are expected to miss.
    assert verdicts.count(False) <= 15


def test_growth_is_found_in_noise_and_measured() -> None:
    found = drift(hours(), [100 + 30 * x + each for x, each in zip(hours(), noise(1), strict=True)])
    assert not found.holds
    assert found.low < 30 < found.high
    assert found.gained == pytest.approx(30, rel=0.1)


def test_what_is_gained_within_a_hundredth_is_no_leak() -> None:
    found = drift(hours(), [1000 + 9 * x for x in hours()])
    assert found.low > 0
    assert found.holds
    assert not drift(hours(), [1000 + 11 * x for x in hours()]).holds


def test_samples_that_follow_each_other_are_believed_less() -> None:
    # A random walk's slope is nothing but noise: with the plain interval nearly every one would be taken for growth.
    missed = sum(not drift(hours(), [10 + each for each in noise(seed, 0.9)]).low <= 0 for seed in range(200))
    assert missed <= 60
    widths = [found.high - found.low for found in (drift(hours(), noise(1, alike)) for alike in (0.0, 0.9))]
    assert widths[1] > 2 * widths[0]


def test_a_shrinking_figure_holds() -> None:
    assert drift(hours(), [1000 - 500 * x for x in hours()]).holds


@pytest.mark.parametrize(("freedom", "quantile"), [(5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_students_quantile(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=0.005)


@pytest.mark.parametrize("xs", [[1.0, 2.0], [1.0, 1.0, 1.0]])
def test_too_few_samples_are_refused(xs: list[float]) -> None:
    with pytest.raises(ValueError):
        drift(xs, xs)
