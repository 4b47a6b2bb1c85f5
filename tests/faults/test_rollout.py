"""A rolling restart of real processes that misbehave: what the supervisor does when one of the two fails its part. How
it looks to clients is in `test_rolling`."""

import os
import signal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from helpers.tiny_node import TinyNode, ask, tiny_node, wait_until

from tuskws_fast.supervisor import operators

PATIENCE_S = 20.0


def restart(path: Path) -> list[dict[str, Any]]:
    return list(operators.ask(path, "restart", timeout_s=PATIENCE_S))


@pytest.fixture
def door(tmp_path: Path) -> Path:
    return tmp_path / "x.sock"


class Restarting:
    """A restart that somebody waits for, while the test does something else."""

    def __init__(self, path: Path) -> None:
        self.steps: list[dict[str, Any]] = []
        self._thread = Thread(target=self._wait, args=(path,), daemon=True)
        self._thread.start()

    def _wait(self, path: Path) -> None:
        for step in operators.ask(path, "restart", timeout_s=PATIENCE_S):
            self.steps.append(step)

    def over(self) -> dict[str, Any]:
        self._thread.join(PATIENCE_S)
        return self.steps[-1]


def served_by(node: TinyNode, port: int) -> set[str]:
    return {ask(port, "who")[1] for _ in range(20)}


def test_each_worker_is_ready_before_the_one_it_replaces_is_told_to_go(door: Path) -> None:
    with tiny_node(workers=2, operators=str(door)) as node:
        port = node.start()["port"]
        steps = restart(door)
        assert [(step["event"], step.get("old"), step.get("new")) for step in steps] == [
            ("starting", "worker 0", "worker 2"),
            ("draining", "worker 0", "worker 2"),
            ("replaced", "worker 0", "worker 2"),
            ("starting", "worker 1", "worker 0"),
            ("draining", "worker 1", "worker 0"),
            ("replaced", "worker 1", "worker 0"),
            ("done", None, None),
        ]
        drain = node.expect("drain", "worker 0")
        assert drain["fields"]["reason"] == "restart"
        assert served_by(node, port) == {"0", "2"}
        # The broker heard of the end of the old one, or it would keep its connections for ever.
        node.expect("link_gone", "broker 0", fields={"worker": 0, "generation": 1})
        node.expect("link_gone", "broker 0", fields={"worker": 1, "generation": 1})
        # And again: every slot has been the spare one by now.
        assert restart(door)[-1] == {"event": "done", "workers": 2}
        assert restart(door)[-1] == {"event": "done", "workers": 2}
        node.signal(signal.SIGTERM)
        assert not any(node.expect("over")["restarts"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"never_ready": ["worker 2"], "boot_s": 1.0}, "worker 2 is not ready after 1 s"),
        ({"crash_at_boot": ["worker 2"]}, "worker 2: exit code 7"),
        ({"refuse": ["worker 2"]}, "worker 2: this machine is too small"),
        ({"silent": ["worker 2"], "boot_s": 0.5, "hang_s": 0.5}, "worker 2"),
    ],
)
def test_a_successor_that_does_not_come_up_leaves_everything_as_it_was(
    door: Path, settings: dict[str, Any], reason: str
) -> None:
    with tiny_node(workers=2, operators=str(door), **settings) as node:
        started = node.start()
        for _ in range(2):
            steps = restart(door)
            assert [step["event"] for step in steps] == ["starting", "aborted"]
            assert steps[-1]["reason"].startswith(reason)
            wait_until(lambda: _is_idle(door), "the successor is gone")
        assert served_by(node, started["port"]) == {"0", "1"}
        assert not [event for event in node.events if event["event"] == "drain"]
        node.signal(signal.SIGTERM)
        assert not any(node.expect("over")["restarts"])
        assert node.finish()[0] == 0


def _is_idle(door: Path) -> bool:
    [document] = operators.ask(door, "stats")
    return [process["state"] for process in document["processes"]].count("spare") == 1


def test_a_worker_that_does_not_end_its_drain_is_killed(door: Path) -> None:
    with tiny_node(workers=2, operators=str(door), never_drained=["worker 0"], drain_margin_s=0.2) as node:
        node.start()
        # After the first round slot 0 has a process again, which does not obey either.
        assert restart(door)[-1] == {"event": "done", "workers": 2}
        node.signal(signal.SIGKILL)
        assert "kill: does not end its drain" in node.finish()[1]


def test_a_worker_that_dies_before_its_successor_is_there_is_not_missed(door: Path) -> None:
    with tiny_node(workers=1, operators=str(door), never_ready=["worker 1"], boot_s=3.0) as node:
        started = node.start()
        restarting = Restarting(door)
        node.expect("listening", "worker 1")
        os.kill(started["pids"]["worker 0"], signal.SIGKILL)
        node.expect("born", "worker 0", generation=2)
        assert restarting.over()["reason"] == "worker 1 is not ready after 3 s"
        wait_until(lambda: _is_idle(door), "the successor is gone")
        assert served_by(node, started["port"]) == {"0"}


def test_more_clients_than_the_rate_allows_make_the_window_longer(door: Path) -> None:
    with tiny_node(workers=1, operators=str(door), drain_rate=1, drain_s=1.0) as node:
        port = node.start()["port"]
        ask(port, "hold")
        assert restart(door)[-1]["event"] == "done"
        assert node.expect("drain", "worker 0")["fields"]["window_s"] == 1.0
        ask(port, "hold")
        node.signal(signal.SIGTERM)
        assert node.expect("drain", "worker 1")["fields"]["window_s"] == 0.5
        code, log = node.finish()
        assert code == 0
        assert "more clients a second are sent away than drain_rate: shutdown_timeout is short" in log


def test_one_restart_at_a_time(door: Path) -> None:
    with tiny_node(workers=2, operators=str(door), never_ready=["worker 2"]) as node:
        node.start()
        first = Restarting(door)
        node.expect("born", "worker 2")
        assert restart(door) == [{"event": "aborted", "reason": "a rolling restart is under way"}]
        node.signal(signal.SIGTERM)
        assert first.over() == {"event": "aborted", "reason": "the node is told to end"}
        assert node.finish()[0] == 0


def test_a_node_that_starts_or_ends_is_not_restarted(door: Path) -> None:
    with tiny_node(workers=1, operators=str(door), never_ready=["worker 0"], never_drained=["broker 0"]) as node:
        node.expect("listening", "worker 0")
        assert restart(door)[-1]["reason"] == "the node is still starting"
        node.signal(signal.SIGTERM)
        node.expect("drain", "broker 0")
        assert restart(door)[-1]["reason"] == "the node is ending"


def test_the_broker_may_die_in_the_middle_of_it(door: Path) -> None:
    with tiny_node(workers=2, operators=str(door), never_drained=["worker 0"], drain_margin_s=2.0) as node:
        started = node.start()
        restarting = Restarting(door)
        node.expect("drain", "worker 0")
        os.kill(started["pids"]["broker 0"], signal.SIGKILL)
        # Both of the two, and the other one, are linked to its successor.
        for slot in (0, 1, 2):
            node.expect("link", "broker 0", fields={"worker": slot, "generation": 2})
        assert restarting.over()["event"] == "done"


def test_a_reload_is_over_when_every_process_has_taken_it(door: Path) -> None:
    with tiny_node(workers=2, operators=str(door)) as node:
        started = node.start()
        [outcome] = operators.ask(door, "reload", timeout_s=PATIENCE_S)
        assert outcome == {"changed": ["log_level"], "at_restart": [], "at_start": [], "problems": []}
        # One that stands still is waited for until it is known to be gone.
        os.kill(started["pids"]["worker 1"], signal.SIGSTOP)
        answers: list[dict[str, Any]] = []

        def wait() -> None:
            answers.extend(operators.ask(door, "reload", timeout_s=PATIENCE_S))

        waiting = Thread(target=wait, daemon=True)
        waiting.start()
        node.expect("reload", "worker 0")
        node.expect("reload", "worker 0")
        assert answers == []
        os.kill(started["pids"]["worker 1"], signal.SIGKILL)
        waiting.join(PATIENCE_S)
        assert [answer["problems"] for answer in answers] == [[]]
