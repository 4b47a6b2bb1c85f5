"""Does a figure grow? A line through samples by least squares, how far it can be believed, and a verdict.

Samples that follow each other are alike: an allocator keeps what it took once, in steps. The residuals then know of
each other, and the usual interval would be too narrow; it is widened by what their correlation takes from the number of
samples. With few samples, Student's quantile stands for the normal one.

    holds    the slope's 95 % interval reaches down to 0, or all that was gained is less than NOISE of the figure

NOISE is for steps that are real and no leak: one object of 16 bytes for each of a million connections is 16 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

NOISE = 0.01
SAMPLES_MIN = 3
# 97.5 % of the normal distribution, and what Cornish and Fisher add for `n` degrees of freedom.
_Z = 1.959964


class Drift(NamedTuple):
    """`slope` and its interval are a unit of x; `gained` is what the line rises over all of it."""

    slope: float
    low: float
    high: float
    mean: float
    gained: float
    samples: int

    @property
    def holds(self) -> bool:
        return self.low <= 0 or self.gained <= NOISE * self.mean


def student(freedom: int) -> float:
    """The 97.5 % quantile; 1 % off with 3 degrees of freedom, which is none of our worries."""
    z = _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def drift(xs: Sequence[float], ys: Sequence[float]) -> Drift:
    """Raises `ValueError` for fewer samples than make a line with an error."""
    n = len(xs)
    if n < SAMPLES_MIN or len(ys) != n:
        raise ValueError(f"a slope needs {SAMPLES_MIN} samples, and as many of both: {n} and {len(ys)}")
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    spread = sum((x - mean_x) ** 2 for x in xs)
    if not spread:
        raise ValueError("all samples were taken at once")
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    residuals = [y - mean_y - slope * (x - mean_x) for x, y in zip(xs, ys, strict=True)]
    squares = sum(each**2 for each in residuals)
    alike = sum(a * b for a, b in pairwise(residuals)) / squares if squares else 0.0
    alike = min(max(alike, 0.0), 0.95)
    widened = math.sqrt((1 + alike) / (1 - alike))
    error = student(n - 2) * widened * math.sqrt(squares / (n - 2) / spread)
    return Drift(slope, slope - error, slope + error, mean_y, slope * (max(xs) - min(xs)), n)
