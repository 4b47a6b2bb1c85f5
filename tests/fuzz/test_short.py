"""Every fuzz target for a moment, so that none rots: its corpus, all that ever was a finding, and some new inputs.

`scripts/fuzz` runs them for as long as one likes, under sanitizers. Here the question is whether targets, corpora and
oracles still fit the code, the same way each time: new inputs come from a fixed seed. The C targets are built by gcc
with sanitizers, with a mutation loop in libFuzzer's place.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import corpus, loop
from fuzz.run import TARGETS, make

ROOT = Path(__file__).parents[2]
NATIVE = ("ring", "tables")
EXECUTIONS = 500
NATIVE_EXECUTIONS = 20_000
FLAGS = ("-g", "-O1", "-std=gnu11", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FINDINGS = sorted(path for name in TARGETS for path in (corpus.HERE / "findings" / name).glob("*"))


@pytest.fixture(autouse=True)
def our_log() -> Iterator[None]:
    """Targets listen to the log by themselves; the tests behind them want it as it was."""
    log = logging.getLogger("tuskws_fast")
    handlers, propagate = list(log.handlers), log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate


@pytest.mark.parametrize("name", TARGETS)
def test_target_in_python(name: str) -> None:
    target = make(name)
    replayed = len(target.seeds()) + len(corpus.kept(name))
    tally = loop.fuzz(target, seconds=100.0, executions=replayed + EXECUTIONS)
    assert tally.executions == replayed + EXECUTIONS
    assert tally.outcomes > 10, "a target to which all inputs are alike tests nothing"


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_stays_mended(path: Path) -> None:
    make(path.parent.name).run(path.read_bytes())


@pytest.mark.parametrize("name", NATIVE)
def test_native_target(name: str, tmp_path: Path) -> None:
    native = ROOT / "tests" / "fuzz" / "native"
    program = tmp_path / name
    sources = [native / "driver.c", native / f"{name}_fuzz.c"]
    includes = [f"-I{ROOT / 'ext' / 'tuskws_fast_ext'}", f"-I{native}"]
    # Not in the sanitized environment, if this is one: the program brings its own runtime.
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "ASAN_OPTIONS")}
    subprocess.run(
        [os.environ.get("CC", "gcc"), *FLAGS, *includes, *sources, "-o", program], check=True, env=environment
    )

    def run(*arguments: str | Path) -> str:
        ran = subprocess.run(
            [program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    for path in sorted((corpus.HERE / "findings" / name).glob("*")):
        run(path)
    kept = len(corpus.load(corpus.HERE / "corpus" / name))
    assert kept > 20, "the corpus is not where the target looks for it"
    told = run(corpus.HERE / "corpus" / name, str(NATIVE_EXECUTIONS))
    assert told == f"executions: {NATIVE_EXECUTIONS + kept}\n"
