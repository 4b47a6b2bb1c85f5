"""A short run of the auditor with everything it can do (see `tests/audit`).

The seed is fixed, `AUDIT_SEED` draws other faults. Long runs: `scripts/faults`.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import uvloop
from audit import scenarios
from audit.chronicle import Chronicle
from audit.crowd import Crowd, Passer
from audit.node import Node
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


def test_who_comes_by_last_and_stays_long_is_gone_before_anybody_is_asked(tmp_path: Path) -> None:
    uvloop.run(_pass_by_late(tmp_path))
    outcome = scenarios.judge(tmp_path / "chronicle", [])
    assert outcome.good, f"{outcome.verdict}"
    assert outcome.verdict.figures["passed_by"] == 1


async def _pass_by_late(directory: Path) -> None:
    node, chronicle = Node(directory, 1, leave_grace="0.2s"), Chronicle(directory / "chronicle")
    chronicle.write("run", {"keep": 100})
    node.start()
    try:
        await asyncio.get_running_loop().run_in_executor(None, node.wait_ready)
        crowd = Crowd(node, chronicle, random.Random(1), rooms=1, members=2, publishers=0, readers=0)
        await crowd.open()
        await Passer(crowd, "late", crowd.rooms[0], 2.0).pass_by()
        await crowd.hush()
        await crowd.tell(0.7)
        await crowd.close()
    finally:
        node.stop()
        chronicle.close()
