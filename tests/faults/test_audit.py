"""A short run of the auditor with everything it can do (see `tests/audit`).

The seed is fixed, `AUDIT_SEED` draws other faults. Long runs: `scripts/faults`.
"""

from __future__ import annotations

import os
from pathlib import Path

import uvloop
from audit import scenarios
from audit.scenarios import Outcome, Plan

SEED = int(os.environ.get("AUDIT_SEED", "7"))


def audit(plan: Plan, directory: Path) -> Outcome:
    uvloop.run(scenarios.run(plan, directory, f"scripts/faults {plan.name} --seed {plan.seed}"))
    return scenarios.judge(directory / "chronicle", plan.demands)


def test_nothing_is_lost_doubled_or_untold_whatever_is_done_to_the_node(tmp_path: Path) -> None:
    plan = scenarios.plan_for("mixed", SEED, 12.0, calm_s=1.0, workers=2, rooms=4, members=6)
    outcome = audit(plan, tmp_path)
    assert outcome.good, f"{outcome.verdict}\nscripts/faults mixed --seed {SEED}, chronicle in {tmp_path}"
    assert outcome.verdict.figures["heard"] > 1000
