"""The soak, tiny: whole rounds against a real node, and everything back afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from helpers.server import wait_until
from tuskws_bench.procfs import tree_cpu

SOAK = [sys.executable, "-m", "tuskws_bench", "soak"]


def test_a_node_holds_after_some_rounds_what_it_held_before(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    goals = ("--deliveries", "1000", "--connects", "100", "--rooms", "10", "--size", "50", "--interval", "0.2")
    done = subprocess.run(
        [*SOAK, *goals, "--json", str(file)], capture_output=True, text=True, timeout=100, check=False
    )
    assert file.exists(), done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["deliveries"] >= 1000
    assert found["connects"] >= 100
    assert found["rooms"] >= 10
    assert found["journal_entries"] > 0
    assert len(found["samples"]) == found["rounds"] >= 3
    # So few rounds are all warm-up: memory is not judged, everything else is.
    assert [fault for fault in found["faults"] if "grows" not in fault] == []


def test_who_ends_it_ends_its_node() -> None:
    soak = subprocess.Popen([*SOAK, "--size", "50"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def node() -> set[int]:
        return {pid for pid, each in tree_cpu(soak.pid).processes.items() if each.name.startswith(("tuskws", "worker"))}

    wait_until(lambda: len(node()) == 3, "a supervisor and two workers")
    started = node()
    soak.terminate()
    assert soak.wait(timeout=30) == 1
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "they have ended")
