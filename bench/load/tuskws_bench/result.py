"""Turn what the processes reported into one Result: rates, loss, latency, and what it cost on both sides.

Definitions, once (the README's table and `--json` use the same words):
    deliveries      what the run is about, within the measured interval: pushes (or echoes) that reached a member, each
                    message once a member; `presence` and `echo`: commands answered; `reconnect` and `handshake`:
                    connections that came back and were ready again. `unit` names it
    published       messages sent over the whole run; `accepted` those not refused; `broker_records` those that our
                    server's broker says it gave a place in a sequence
    lost            accepted messages x members, less what arrived, over the whole run, after the drain; of replies,
                    reconnects and handshakes: those that did not come
    latency         intended send time to arrival, of every message that was to leave within the interval, even if it
                    came after it: an overloaded server cannot hide its slowest ones (no coordinated omission in the
                    open loop; in the closed loop a slow server slows the sender, so it is a service time)
    opening         from when a connection was to open until it was ready (joined where it joins)
    server µs       utime + stime of the server's whole process tree in the interval, divided by deliveries
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tuskws_bench.loadclient import Histogram
from tuskws_bench.loadproc import Counters, Finished, Opened, Stopped
from tuskws_bench.plan import PLURALS, RESTING_KINDS, Scenario

SATURATED = 0.9
FOREIGN_LOAD_MAX = 0.25
# The kernel's figures are of the whole machine: of fewer connections they would mostly tell what others did.
KERNEL_CONNECTIONS_MIN = 500
CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999, 1.0)
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True)
class Interval:
    """CPU seconds spent between the two marks. `harness_cpu_s`: one figure a load process."""

    seconds: float
    server_cpu_s: float
    server_by_process: dict[str, float]
    harness_cpu_s: list[float]
    machine_cpu_s: float
    parent_cpu_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """All that was reported and sampled. `stopped` is empty where nothing was published; `pss`: before, after."""

    opened: list[Opened]
    opening_cpu_s: float
    interval: Interval
    pss: tuple[int, int]
    kernel: int | None
    records: int | None
    stopped: list[Stopped]
    finished: list[Finished]
    lost: int


@dataclass(frozen=True, slots=True)
class Result:
    """One run's figures. None: could not be measured (a server on another machine, nothing delivered)."""

    scenario: dict[str, Any]
    unit: str
    seconds: float
    connections: int
    deliveries: int
    deliveries_per_s: float
    messages_per_s: float
    deliveries_by_second: list[int]
    published: int
    accepted: int
    acks: int
    broker_records: int | None
    pushes_per_s: float
    lost: int
    duplicates: int
    out_of_order: int
    gaps: int
    foreign: int
    refused: int
    errors: dict[str, int]
    first_error: str
    closed_early: int
    latency_us: dict[str, int]
    latency_curve_us: list[tuple[float, int]]
    lateness_us: dict[str, int]
    opening_us: dict[str, int]
    side_commands: int
    side_replies_us: dict[str, int]
    slow_members: dict[str, int]
    compressed: int
    server_cpu_us_per_delivery: float | None
    server_cores: float | None
    server_cpu_s_by_process: dict[str, float]
    wire_bytes_per_delivery: float | None
    deliveries_per_read: float | None
    handshakes_per_s: float | None
    server_cpu_us_per_handshake: float | None
    pss_bytes: int
    pss_bytes_per_connection: float | None
    kernel_bytes_per_connection: float | None
    opening_share: list[float]
    harness_share: list[float]
    load_client_was_the_bottleneck: bool
    foreign_cores: float
    problems: list[str]

    @property
    def valid(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "valid": self.valid}


def compose(scenario: Scenario, run: Run) -> Result:
    interval = run.interval
    total = _sum([each.counters for each in run.finished])
    measured = _sum([each.after for each in run.stopped])
    measured.subtract(_sum([each.before for each in run.stopped]))
    errors: Counter[str] = Counter()
    for reported in run.finished:
        errors.update(reported.error_codes)
    shares = [round(cpu_s / interval.seconds, 3) for cpu_s in interval.harness_cpu_s]
    opening_shares = [round(each.share, 3) for each in run.opened]
    known = interval.server_cpu_s if interval.server_by_process else None
    deliveries = measured["deliveries"]
    own_s = sum(interval.harness_cpu_s) + interval.parent_cpu_s
    foreign = max(0.0, interval.machine_cpu_s - interval.server_cpu_s - own_s) / interval.seconds
    ready = sum(each.counters["ready"] for each in run.opened)
    grown = run.pss[1] - run.pss[0]
    described = {key: value for key, value in asdict(scenario).items() if key != "token"}
    return Result(
        scenario=described,
        unit=scenario.unit,
        seconds=round(interval.seconds, 3),
        connections=ready,
        deliveries=deliveries,
        deliveries_per_s=round(deliveries / interval.seconds, 1),
        messages_per_s=round(measured["published"] / interval.seconds, 1),
        deliveries_by_second=_add_up([each.by_second for each in run.stopped]),
        published=total["published"],
        accepted=total["published"] - total["refused"],
        acks=total["acks"],
        broker_records=run.records,
        pushes_per_s=round(measured["other_pushes"] / interval.seconds, 1),
        lost=run.lost,
        duplicates=total["duplicates"],
        out_of_order=total["out_of_order"],
        gaps=total["gaps"],
        foreign=total["foreign"],
        refused=total["refused"],
        errors=dict(errors),
        first_error=next((each.first_error for each in run.finished if each.first_error), ""),
        closed_early=total["closed_early"],
        latency_us=_percentiles([each.latency for each in run.finished]),
        latency_curve_us=_curve([each.latency for each in run.finished]),
        lateness_us=_percentiles([each.lateness for each in run.finished]) if scenario.open_loop else {},
        opening_us=_percentiles([each.opening for each in run.finished]),
        side_commands=total["side_commands"],
        side_replies_us=_percentiles([each.replies for each in run.finished]),
        slow_members=_slow(scenario, total),
        compressed=total["compressed"],
        server_cpu_us_per_delivery=_ratio(known, deliveries, 1e6),
        server_cores=_ratio(known, interval.seconds),
        server_cpu_s_by_process={name: round(spent, 3) for name, spent in interval.server_by_process.items()},
        wire_bytes_per_delivery=_ratio(measured["delivery_bytes"], deliveries),
        deliveries_per_read=_ratio(deliveries, measured["reads"]),
        handshakes_per_s=_handshakes_per_s(run.opened),
        server_cpu_us_per_handshake=_ratio(run.opening_cpu_s if known is not None else None, ready, 1e6),
        pss_bytes=run.pss[1],
        pss_bytes_per_connection=_ratio(grown if known is not None else None, ready),
        kernel_bytes_per_connection=_ratio(run.kernel if ready >= KERNEL_CONNECTIONS_MIN else None, ready),
        opening_share=opening_shares,
        harness_share=shares,
        load_client_was_the_bottleneck=max(shares if scenario.kind not in RESTING_KINDS else opening_shares)
        > SATURATED,
        foreign_cores=round(foreign, 3),
        problems=_problems(scenario, run, total, deliveries),
    )


def _sum(counters: list[Counters]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counters:
        total.update(each)
    return total


def _ratio(value: float | None, count: float, scale: float = 1.0) -> float | None:
    return None if value is None or not count else round(value / count * scale, 4)


def _add_up(columns: list[list[int]]) -> list[int]:
    return [sum(second) for second in zip(*columns, strict=True)]


def _slow(scenario: Scenario, total: Counter[str]) -> dict[str, int]:
    """What became of the members that did not read; empty where all did."""
    members = scenario.rooms * scenario.slow_members()
    names = {"delivered_late": "slow_deliveries", "gaps": "slow_gaps", "closed": "slow_closed"}
    return {"members": members, **{name: total[counter] for name, counter in names.items()}} if members else {}


def _merged(histograms: list[bytes]) -> Histogram:
    merged = Histogram()
    for data in histograms:
        merged.merge(data)
    return merged


def _curve(histograms: list[bytes]) -> list[tuple[float, int]]:
    """The distribution as a picture needs it: denser towards 1, where the slow ones are."""
    merged = _merged(histograms)
    return [(fraction, merged.percentile(fraction)) for fraction in CURVE] if merged.count else []


def _percentiles(histograms: list[bytes]) -> dict[str, int]:
    merged = _merged(histograms)
    figures = {name: merged.percentile(fraction) for name, fraction in PERCENTILES.items()}
    return {**figures, "max": merged.max, "count": merged.count} if merged.count else {}


def _handshakes_per_s(opened: list[Opened]) -> float | None:
    """Connections that became ready (with `fanout` and `rooms`: that also joined) in the time it took to open them."""
    first_ns = min(each.counters["opened_ns"] for each in opened)
    last_ns = max(each.counters["last_ready_ns"] for each in opened)
    return _ratio(sum(each.counters["ready"] for each in opened), (last_ns - first_ns) / 1e9)


def _problems(scenario: Scenario, run: Run, total: Counter[str], deliveries: int) -> list[str]:
    found = []
    if total["refused"]:
        limited = any("rate_limited" in each.error_codes for each in run.finished)
        hint = ": start the server with --disable-rate-limiting" if limited else ""
        found.append(f"{total['refused']} commands were refused{hint}")
    if run.lost:
        found.append(f"{run.lost} {PLURALS[scenario.unit]} lost")
    if total["failed"]:
        found.append(f"{total['failed']} connections failed to open again")
    for name, text in (
        ("duplicates", "deliveries came twice"),
        ("out_of_order", "deliveries out of order"),
        ("gaps", "gaps announced by the server"),
        ("foreign", "messages that the harness does not know"),
        ("closed_early", "connections closed early"),
        ("side_refused", "commands of side connections were refused"),
    ):
        if total[name]:
            found.append(f"{total[name]} {text}")
    if scenario.kind not in RESTING_KINDS and not deliveries:
        found.append("nothing was delivered in the measured interval")
    if scenario.compression and scenario.publishes and not total["compressed"]:
        found.append(
            "compression was agreed but no message came compressed: is --payload below the server's least size?"
        )
    return found
