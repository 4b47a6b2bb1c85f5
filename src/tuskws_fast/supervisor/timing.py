"""How patient the supervisor is, and how gently it sends clients away: the options of `processes`, as it needs them."""

from __future__ import annotations

from dataclasses import dataclass

from tuskws_fast.supervisor.backoff import BackoffRule

DEFAULT_BACKOFF = BackoffRule()


@dataclass(frozen=True, slots=True)
class Timing:
    """Replaced whole by a reload; who has begun something keeps to what it began with.

    `drain_margin_s`: beyond the window of a worker that is replaced, for its last client to answer the Close (it has
    5 s), and for the worker to end.
    """

    hang_s: float = 5.0
    boot_s: float = 30.0
    drain_s: float = 10.0
    drain_delay_s: float = 0.0
    drain_window_s: float = 5.0
    drain_rate: int = 1000
    drain_margin_s: float = 8.0
    adopt_after_s: float = 1.0
    backoff: BackoffRule = DEFAULT_BACKOFF
