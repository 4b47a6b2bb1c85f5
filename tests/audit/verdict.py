"""What the judge found: faults, each kind with the first few of them, and figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

# Texts of one kind of fault that are kept; all are counted.
SHOWN = 10


@dataclass(slots=True)
class Verdict:
    """`faults`: kind ─▶ how often; `texts`: the first of each."""

    faults: Counter[str] = field(default_factory=Counter)
    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.faults

    def fault(self, kind: str, t: int, text: str) -> None:
        self.faults[kind] += 1
        if len(self.texts[kind]) < SHOWN:
            self.texts[kind].append(f"{t / 1e6:.3f} s: {text}")

    def __str__(self) -> str:
        lines = [
            f"{kind}: {count}\n" + "".join(f"    {text}\n" for text in self.texts[kind])
            for kind, count in self.faults.items()
        ]
        return "".join(lines)


def percentile(counts: Counter[int], share: float) -> int:
    wanted, seen = counts.total() * share / 100, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= wanted:
            return value
    return 0


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))], 3)
