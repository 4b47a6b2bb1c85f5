"""Who is kept on which core, on machines this one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuskws_fast.supervisor.cores import Cores, cpu_quota


def layout(workers: int, allowed: list[int]) -> tuple[list[int], list[int]]:
    cores = Cores(workers, allowed)
    placed = [cores.of_worker(number) for number in range(workers)]
    assert all(len(each) == 1 for each in placed)
    return [min(each) for each in placed], sorted(cores.of_broker())


def test_with_cores_to_spare_each_worker_has_its_own_and_the_broker_the_rest() -> None:
    workers, broker = layout(8, list(range(64)))
    assert workers == list(range(8))
    assert broker == list(range(8, 64))


def test_two_cores() -> None:
    assert layout(1, [0, 1]) == ([0], [1])
    assert layout(2, [0, 1]) == ([0, 1], [0, 1])


def test_more_workers_than_cores_go_round_and_the_broker_is_kept_nowhere() -> None:
    assert layout(5, [0, 1]) == ([0, 1, 0, 1, 0], [0, 1])


def test_only_cores_that_the_node_may_use_are_given() -> None:
    assert layout(2, [7, 3, 5]) == ([3, 5], [7])


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        ("3:cpuset:/x\n2:cpu,cpuacct:/x\n0::/\n", {"cpu/x/cpu.cfs_quota_us": "-1"}, None),
        (
            "2:cpuacct,cpu:/x\n0::/\n",
            {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"},
            2.0,
        ),
    ],
)
def test_the_least_quota_of_the_groups_above_counts(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert cpu_quota(tmp_path / "own", tmp_path / "groups") == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) is None
