"""The soak, tiny: whole rounds against a real node, and everything back afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_node_holds_after_some_rounds_what_it_held_before(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    goals = ("--deliveries", "1000", "--connects", "100", "--rooms", "10", "--size", "50", "--interval", "0.2")
    command = [sys.executable, "-m", "tuskws_bench", "soak", *goals, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert file.exists(), done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["deliveries"] >= 1000
    assert found["connects"] >= 100
    assert found["rooms"] >= 10
    assert found["journal_entries"] > 0
    assert len(found["samples"]) == found["rounds"] >= 3
    # So few rounds are all warm-up: memory is not judged, everything else is.
    assert [fault for fault in found["faults"] if "grows" not in fault] == []
