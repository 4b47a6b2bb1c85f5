"""Results as SVG files: throughput, CPU a delivery, the distribution of latency, and how these change as things grow.

The same figures give the same file, byte for byte, and text stays text. matplotlib is imported when the first picture
is drawn: load processes, and whoever wants no picture, do not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuskws_bench.plan import PLURALS
from tuskws_bench.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES = 9.0
# The first one drawn is who it is about; no two others look alike, as many as there are contenders.
FIRST = "#c44e52"
OTHERS = [
    *("#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#bcbd22", "#e377c2"),
    *("#7f7f7f", "#000080", "#006400", "#daa520", "#87ceeb", "#000000"),
]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tuskws-bench",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}


class PictureError(RuntimeError):
    """There is nothing to draw with; the text says what to install."""


def require() -> None:
    """Raises PictureError before minutes of measuring, not after them."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PictureError("pictures need matplotlib: pip install 'tuskws-fast[bench]'") from error


@contextmanager
def _chart(file: Path, title: str, height_inches: float) -> Iterator[Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        yield axes
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def draw(results: Mapping[str, Result], folder: Path, title: str) -> list[Path]:
    """One picture a figure; each of `results` is a bar or a line under its name. What nobody measured is left out."""
    unit = next(iter(results.values())).unit
    rates = {name: result.deliveries_per_s for name, result in results.items() if result.deliveries}
    costs = {name: result.server_cpu_us_per_delivery for name, result in results.items()}
    memory = {name: result.pss_bytes_per_connection for name, result in results.items() if not result.deliveries}
    return [
        *_bars(folder / "throughput.svg", f"{PLURALS[unit]} a second", title, rates),
        *_bars(folder / "cpu.svg", f"CPU of the server, µs a {unit}", title, costs),
        *_bars(folder / "memory.svg", "PSS of the server, bytes a connection", title, memory),
        *_latencies(folder / "latency.svg", "latency, ms", title, results),
    ]


def _bars(file: Path, what: str, title: str, values: Mapping[str, float | None]) -> list[Path]:
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return []
    with _chart(file, f"{what}\n{title}", 1.2 + 0.32 * len(known)) as axes:
        bars = axes.barh(list(known), list(known.values()), color=[FIRST, *["#7f8fa6"] * (len(known) - 1)])
        axes.bar_label(bars, [number(value) for value in known.values()], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.grid(axis="x")
    return [file]


def number(value: float) -> str:
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _latencies(file: Path, what: str, title: str, results: Mapping[str, Result]) -> list[Path]:
    curves = {name: result.latency_curve_us for name, result in results.items() if result.latency_curve_us}
    if not curves:
        return []
    with _chart(file, f"{what}\n{title}", 4.5) as axes:
        for name, curve in curves.items():
            _line(axes, range(len(curve)), [max(us, 1) / 1000 for _, us in curve], name)
        fractions = [fraction for fraction, _ in next(iter(curves.values()))]
        axes.set_xticks(range(len(fractions)), [f"{fraction * 100:g}" for fraction in fractions])
        axes.set_xlabel("per cent of the messages that were not slower")
        _logarithmic(axes)
    return [file]


def draw_growth(
    file: Path, title: str, axis: str, steps: Sequence[int], lines: Mapping[str, Sequence[float | None]]
) -> Path:
    """What becomes of a figure as something grows step by step; a step that failed is a gap in its line."""
    with _chart(file, title, 4.5) as axes:
        for name, values in lines.items():
            _line(axes, steps, [value or float("nan") for value in values], name)
        axes.set_xscale("log" if min(steps) > 0 else "symlog")
        axes.set_xticks(steps, [number(step) for step in steps])
        axes.minorticks_off()
        axes.set_xlabel(axis)
        _logarithmic(axes)
    return file


def _line(axes: Axes, x: Sequence[int], y: Sequence[float], name: str) -> None:
    drawn = len(axes.lines)
    color, width, above = (OTHERS[(drawn - 1) % len(OTHERS)], 1.2, 2) if drawn else (FIRST, 2.4, 3)
    axes.plot(x, y, label=name, marker=".", color=color, linewidth=width, zorder=above)


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
