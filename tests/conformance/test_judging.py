"""The judge of Autobahn's verdicts: what must not pass, does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from helpers.autobahn import FRAGMENT_FLOODS, SECTIONS, Verdict, faults, read_index


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


def test_a_fragment_flood_must_be_refused_with_its_code() -> None:
    run = passed(9)
    refused = replace(run[0], case="9.3.1", behavior="FAILED", close="FAILED", close_code=1008)
    assert faults([refused, *run[1:]], (9,), FRAGMENT_FLOODS) == []
    assert faults([replace(refused, close_code=1009), *run[1:]], (9,), FRAGMENT_FLOODS)
    assert faults([replace(refused, behavior="OK", close="OK", close_code=1000), *run[1:]], (9,), FRAGMENT_FLOODS)
    assert faults([replace(refused, case="9.3.3"), *run[1:]], (9,), FRAGMENT_FLOODS)
    assert faults([refused, *run[1:]], (9,))


def test_the_index_is_read_in_the_order_of_the_suite() -> None:
    entry = {"behavior": "OK", "behaviorClose": "UNCLEAN", "duration": 5, "remoteCloseCode": None}
    index = {"server": {"10.1.1": dict(entry), "9.1.1": dict(entry, remoteCloseCode=1000)}}
    assert read_index(index) == [
        Verdict("9.1.1", "OK", "UNCLEAN", 1000, 5),
        Verdict("10.1.1", "OK", "UNCLEAN", None, 5),
    ]
