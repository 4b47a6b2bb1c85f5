"""docs/tuning.md speaks of every option that trades something, and of no option that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuskws_fast.config import OPTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tuning.md"
TUNED = {"processes", "limits", "timeouts", "rooms", "performance"}
# Who the node runs as, and where it is spoken to: nothing is gained or lost by these.
NO_TRADE = {"user", "group", "control_socket"}
FLAG = re.compile(r"`(--[a-z][a-z-]*)")


def flags_of_the_page() -> set[str]:
    return set(FLAG.findall(PAGE.read_text()))


@pytest.mark.parametrize(
    "name", [each.name for each in OPTIONS.values() if each.section in TUNED and each.name not in NO_TRADE]
)
def test_what_an_option_trades_is_said(name: str) -> None:
    known = OPTIONS[name]
    assert {known.flag, known.off_flag} & flags_of_the_page(), f"{known.flag} is not in docs/tuning.md"


def test_no_option_is_described_that_there_is_not() -> None:
    known = {flag for each in OPTIONS.values() for flag in (each.flag, each.off_flag)}
    assert not flags_of_the_page() - known
