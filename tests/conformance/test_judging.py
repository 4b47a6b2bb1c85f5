"""The judge of Autobahn's verdicts: what must not pass, does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers.autobahn import SECTIONS, Limits, Verdict, code_beyond, faults, read_index

LIMITS = Limits(message_max=65_536, fragments_max=1_024)


def passed(*sections: int) -> list[Verdict]:
    return [
        Verdict(f"{section}.{n + 1}", "OK", "OK", 1000, 1) for section in sections for n in range(SECTIONS[section])
    ]


def with_first(verdicts: list[Verdict], **changes: Any) -> list[Verdict]:
    return [replace(verdicts[0], **changes), *verdicts[1:]]


def test_a_run_in_which_all_is_well_has_no_faults() -> None:
    assert faults(passed(1, 2), (1, 2)) == []
    assert faults(with_first(passed(7), behavior="INFORMATIONAL", close="INFORMATIONAL"), (7,)) == []


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda run: [], id="nobody listened"),
        pytest.param(lambda run: run[1:], id="a case did not end"),
        pytest.param(lambda run: with_first(run, behavior="FAILED"), id="failed"),
        pytest.param(lambda run: with_first(run, close="FAILED"), id="failed at the close"),
        pytest.param(lambda run: with_first(run, close="FAILED BY CLIENT"), id="the client had to end the connection"),
        pytest.param(lambda run: with_first(run, close="WRONG CODE"), id="wrong code"),
        pytest.param(lambda run: with_first(run, close="UNCLEAN"), id="unclean"),
        pytest.param(lambda run: with_first(run, behavior="UNIMPLEMENTED"), id="compression was not agreed upon"),
        pytest.param(lambda run: with_first(run, behavior="NON-STRICT", close="FAILED"), id="non-strict and unclean"),
        pytest.param(lambda run: [replace(v, behavior="NON-STRICT") for v in run[:4]] + run[4:], id="four non-strict"),
    ],
)
def test_a_fault_is_seen(spoil: Callable[[list[Verdict]], list[Verdict]]) -> None:
    assert faults(spoil(passed(1, 2)), (1, 2))


def test_three_cases_may_be_told_late() -> None:
    run = passed(6)
    assert faults([replace(verdict, behavior="NON-STRICT") for verdict in run[:3]] + run[3:], (6,)) == []


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("1.1.1", None),
        ("9.1.1", None),
        ("9.1.2", 1009),
        ("9.3.1", 1008),  # 1,024 fragments of 64 bytes are exactly as big as a message may be
        ("9.3.2", 1009),
        ("9.3.9", 1009),
        ("9.4.1", 1008),
        ("9.6.6", 1009),
        ("9.7.1", None),
    ],
)
def test_the_limits_say_which_cases_end_early_and_how(case: str, code: int | None) -> None:
    assert code_beyond(case, LIMITS) == code


def test_only_the_fragment_floods_are_over_limits_that_let_16_mib_pass() -> None:
    sizes = {1: 6, 2: 6, 3: 9, 4: 9, 5: 6, 6: 6}
    cases = [f"9.{group}.{n}" for group, size in sizes.items() for n in range(1, size + 1)]
    limits = Limits(message_max=16 * 1024**2, fragments_max=4_096)
    assert [case for case in cases if code_beyond(case, limits)] == ["9.3.1", "9.3.2", "9.4.1", "9.4.2"]


def test_a_case_over_the_limits_must_be_refused_with_its_code() -> None:
    run = passed(9)
    refused = replace(run[0], case="9.1.2", behavior="FAILED", close="FAILED", close_code=1009)
    assert faults([refused, *run[1:]], (9,), LIMITS) == []
    assert faults([replace(refused, close_code=1011), *run[1:]], (9,), LIMITS)
    assert faults([replace(refused, behavior="OK", close="OK", close_code=1000), *run[1:]], (9,), LIMITS)
    assert faults([refused, *run[1:]], (9,))


def test_the_index_is_read_in_the_order_of_the_suite() -> None:
    entry = {"behavior": "OK", "behaviorClose": "UNCLEAN", "duration": 5, "remoteCloseCode": None}
    index = {"server": {"10.1.1": dict(entry), "9.1.1": dict(entry, remoteCloseCode=1000)}}
    assert read_index(index) == [
        Verdict("9.1.1", "OK", "UNCLEAN", 1000, 5),
        Verdict("10.1.1", "OK", "UNCLEAN", None, 5),
    ]
