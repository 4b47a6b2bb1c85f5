"""When a process that died may be born again: at once almost, then ever later, and not at all if it cannot boot.

    died after living long enough   first_s again
    died sooner                     twice the last delay, up to most_s
    never came to `ready`           also counts a boot failure; `boot_failures_max` in a row end the node

Pure: `now` is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffRule:
    first_s: float = 0.1
    most_s: float = 10.0
    forgiven_after_s: float = 30.0
    boot_failures_max: int = 5


class Backoff:
    """The record of one slot."""

    __slots__ = ("boot_failures", "delay_s", "rule")

    def __init__(self, rule: BackoffRule) -> None:
        self.rule = rule
        self.delay_s = 0.0
        self.boot_failures = 0

    def died(self, *, lived_s: float, was_ready: bool) -> float:
        """Seconds to wait before the next birth."""
        self.boot_failures = 0 if was_ready else self.boot_failures + 1
        if not self.delay_s or (was_ready and lived_s >= self.rule.forgiven_after_s):
            self.delay_s = self.rule.first_s
        else:
            self.delay_s = min(self.delay_s * 2, self.rule.most_s)
        return self.delay_s

    @property
    def hopeless(self) -> bool:
        return self.boot_failures >= self.rule.boot_failures_max
