"""When a process that died may be born again: at once almost, then ever later, and not at all if it cannot boot.

    died after living long enough   first_s again
    died sooner                     twice the last delay, up to most_s
    failed to boot                  also counts as such; `boot_failures_max` in a row end the node

Long enough is ten times the last delay (`forgiven_after_s` at most): so a slot that keeps dying is away for a tenth of
the time at most, and one that an operator kills now and then is always back at once.

Pure: `now` is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffRule:
    first_s: float = 0.1
    most_s: float = 10.0
    forgiven_after_s: float = 30.0
    forgiven_factor: float = 10.0
    boot_failures_max: int = 5


class Backoff:
    """The record of one slot."""

    __slots__ = ("boot_failures", "delay_s", "rule")

    def __init__(self, rule: BackoffRule) -> None:
        self.rule = rule
        self.delay_s = 0.0
        self.boot_failures = 0

    def died(self, *, lived_s: float, boot_failed: bool) -> float:
        """Seconds to wait before the next birth. `boot_failed`: it ended of itself before it was ready."""
        self.boot_failures = self.boot_failures + 1 if boot_failed else 0
        long_enough_s = min(self.delay_s * self.rule.forgiven_factor, self.rule.forgiven_after_s)
        if not self.delay_s or (not boot_failed and lived_s >= long_enough_s):
            self.delay_s = self.rule.first_s
        else:
            self.delay_s = min(self.delay_s * 2, self.rule.most_s)
        return self.delay_s

    @property
    def hopeless(self) -> bool:
        return self.boot_failures >= self.rule.boot_failures_max
