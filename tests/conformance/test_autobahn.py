"""Autobahn against the real server. `scripts/conformance` runs more of it, and lists what is not OK.

In a fresh clone kosoku runs every case. The original runs sections 1 to 10 besides, wherever a Python 2.7 is found: it
alone sees who ends the TCP connection. Sections 12 and 13 are shortened here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import autobahn
from helpers.autobahn import BASIC, COMPRESSION, Missing, examine


def test_every_basic_case_passes_by_kosoku() -> None:
    assert not examine("kosoku", BASIC).faults


def test_every_basic_case_passes_by_autobahn_itself() -> None:
    try:
        run = examine("wstest", BASIC)
    except Missing as missing:
        pytest.skip(str(missing))
    assert not run.faults


def test_every_compressed_case_passes_with_contexts_of_its_own() -> None:
    # By Autobahn itself only: kosoku calls an answer that is too short to be worth compressing an ERROR.
    try:
        run = examine("wstest", COMPRESSION, messages=10)
    except Missing as missing:
        pytest.skip(str(missing))
    assert not run.faults


def test_with_default_limits_only_the_fragment_floods_differ_and_end_with_their_code() -> None:
    assert not examine("kosoku", (9, 10), default_limits=True).faults


def test_a_missing_runner_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autobahn, "PYTHON2", tmp_path / "python")
    with pytest.raises(Missing, match="scripts/setup-autobahn"):
        autobahn.wstest("ws://127.0.0.1:9/echo", (10,), 1, 1.0)
