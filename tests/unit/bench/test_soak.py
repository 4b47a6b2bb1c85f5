"""What a soak finds wrong, from samples that were never taken."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice

import pytest
from tuskws_bench.plan import Scenario
from tuskws_bench.soak import BOUNDED, RETURNING, STAY_ZERO, Sample, Soak, scenarios, take_peak

MIB = 1024 * 1024


def a_soak(rounds: int = 20) -> Soak:
    gauges = {**dict.fromkeys(RETURNING, 0), **dict.fromkeys(BOUNDED, 5)}
    samples = [
        Sample(
            at_s=10.0 * n,
            blocks={"broker 0": 10_000},
            rss={"broker 0": 50 * MIB},
            peak={"broker 0": 60 * MIB},
            files={"broker 0": 20},
            pss=90 * MIB,
            waiting=0,
            gauges=gauges,
        )
        for n in range(rounds)
    ]
    return Soak(gauges, samples, rounds=rounds, totals={**dict.fromkeys(STAY_ZERO, 0), "journal_entries": 1})


def with_last(soak: Soak, **changed: object) -> Soak:
    soak.samples[-1] = replace(soak.samples[-1], **changed)  # type: ignore[arg-type]
    return soak


def test_a_node_that_is_as_it_was_has_no_fault() -> None:
    assert a_soak().faults() == []


def test_a_gauge_that_did_not_come_back_is_named() -> None:
    soak = a_soak()
    with_last(soak, gauges={**soak.baseline, "members_current": 3})
    assert soak.faults() == ["members_current is 3, and was 0"]


@pytest.mark.parametrize("name", BOUNDED)
def test_what_has_a_bound_may_reach_it(name: str) -> None:
    soak = a_soak()
    with_last(soak, gauges={**soak.baseline, name: BOUNDED[name]})
    assert soak.faults() == []
    with_last(soak, gauges={**soak.baseline, name: BOUNDED[name] + 1})
    assert soak.faults() == [f"{name} is {BOUNDED[name] + 1}, and may be {BOUNDED[name]}"]


def test_what_waits_in_rings_and_files_that_stay_open_are_faults() -> None:
    assert with_last(a_soak(), waiting=24, files={"broker 0": 21}).faults() == [
        "24 bytes wait in rings",
        "broker 0 has 21 files open, and had 20",
    ]


@pytest.mark.parametrize("name", STAY_ZERO)
def test_counters_that_must_stay_0_are_asked(name: str) -> None:
    soak = a_soak()
    soak.totals[name] = 1
    assert soak.faults() == [f"{name} is 1"]


def test_memory_that_grows_after_the_warm_up_is_a_fault_and_before_it_is_none() -> None:
    soak = a_soak()
    for n in range(6):
        soak.samples[n] = replace(soak.samples[n], rss={"broker 0": 20 * MIB})
    assert soak.faults() == []
    for n in range(6, 20):
        soak.samples[n] = replace(soak.samples[n], rss={"broker 0": (50 + n) * MIB})
    (fault,) = soak.faults()
    assert fault.startswith("broker 0 grows: +360.00 MiB an hour")


def test_a_peak_that_goes_higher_is_a_fault() -> None:
    soak = a_soak()
    for n in range(20):
        soak.samples[n] = replace(soak.samples[n], peak={"broker 0": (60 + n) * MIB})
    (fault,) = soak.faults()
    assert fault.startswith("broker 0 peaks higher: +360.00 MiB an hour")


def test_a_peak_is_that_of_a_round() -> None:
    pid = os.getpid()
    take_peak(pid)
    burst = bytearray(b"x") * (64 * MIB)
    high = take_peak(pid)
    size = len(burst)
    del burst
    take_peak(pid)
    assert take_peak(pid) < high - size // 2


def test_what_is_allocated_may_not_grow_either() -> None:
    soak = a_soak()
    for n in range(20):
        soak.samples[n] = replace(soak.samples[n], blocks={"broker 0": 10_000 + 20 * n})
    (fault,) = soak.faults()
    assert fault.startswith("broker 0 allocates: +7,200 blocks an hour")


def test_the_rounds_are_of_every_kind_and_mostly_make_rooms() -> None:
    kinds = [scenario.kind for scenario in islice(scenarios(1000, 1.0), 60)]
    assert {"rooms", "fanout", "reconnect", "private", "mixed", "presence", "slow"} <= set(kinds)
    assert kinds.count("rooms") > len(kinds) / 2
    for scenario in islice(scenarios(100, 0.2), 40):
        assert isinstance(scenario, Scenario)
        scenario.validate()
