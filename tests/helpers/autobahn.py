"""Autobahn's 517 cases against a WebSocket echo: two programs that run them, and one judge.

    kosoku      Autobahn's own case files under a runner in Rust; a package like any other
    wstest      the original, for Python 2.7: `scripts/setup-autobahn` makes its environment where a Python 2.7 is.
                It alone sees whether the server ends the TCP connection, as it should, or leaves that to the client

Their exit status says nothing: wstest's is 0 when cases fail, and when nobody listens. What counts is the index they
write. Every case that was asked for must be in it, and both its verdicts (of the messages and of the close) are judged.
A compression that was not agreed upon is UNIMPLEMENTED, and that is a failure like any other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers.server import started_server
from helpers.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PYTHON2 = ROOT / "build" / "autobahn" / "bin" / "python"
RUN = ROOT / "tests" / "conformance" / "run_cases.py"

SECTIONS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}
"""How many cases each section of the suite has."""
BASIC = (1, 2, 3, 4, 5, 6, 7, 9, 10)
COMPRESSION = (12, 13)

MESSAGES_FULL = 1000
MESSAGES_SHORT = 50
"""How many messages a case of sections 12 and 13 sends: as Autobahn has it, and where there is no time for that."""

FRAGMENT_FLOODS = ("9.3.1", "9.3.2", "9.4.1", "9.4.2")
"""The cases beyond the default limits of an echo: 4 MiB in fragments of 64 and of 256 bytes, 65,536 and 16,384 of them.
(The next has 4,096, and wstest sends an empty one behind them.)"""
POLICY = 1008

NON_STRICT_MAX = 3
_COMPLAINT = re.compile(r" (WARNING|ERROR|CRITICAL) |Traceback")


@dataclass(frozen=True)
class Verdict:
    case: str
    behavior: str
    close: str
    close_code: int | None
    duration_ms: int

    @property
    def is_good(self) -> bool:
        """INFORMATIONAL is a case to which every answer is right."""
        return {self.behavior, self.close} <= {"OK", "INFORMATIONAL"}

    @property
    def is_non_strict(self) -> bool:
        """Right in the end, only not at the first byte that could have told: the RFC allows it."""
        return self.behavior == "NON-STRICT" and self.close == "OK"

    def __str__(self) -> str:
        return f"{self.case}: {self.behavior}, close {self.close} (code {self.close_code}, {self.duration_ms} ms)"


# -- running ---------------------------------------------------------------------------------------------------------


class Missing(Exception):
    """What a runner needs is not here; says what."""


def kosoku(
    url: str, sections: Collection[int], messages: int = MESSAGES_SHORT, timeout_s: float = 300
) -> list[Verdict]:
    arguments = [f"--include={section}.*" for section in sections]
    return _run([sys.executable, str(RUN), "kosoku", str(messages), url.removeprefix("ws://"), *arguments], timeout_s)


def wstest(
    url: str, sections: Collection[int], messages: int = MESSAGES_SHORT, timeout_s: float = 300
) -> list[Verdict]:
    if not PYTHON2.exists():
        raise Missing("no Autobahn for Python 2.7: run scripts/setup-autobahn, it says what it needs")
    cases = [f"{section}.*" for section in sections]
    return _run([str(PYTHON2), str(RUN), "wstest", str(messages), url, *cases], timeout_s)


RUNNERS: dict[str, Callable[[str, Collection[int], int, float], list[Verdict]]] = {"kosoku": kosoku, "wstest": wstest}


def _run(command: list[str], timeout_s: float) -> list[Verdict]:
    with tempfile.TemporaryDirectory(prefix="tuskws-autobahn-") as scratch:
        # Python 2 must not be told where our packages are.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        log = Path(scratch, "log")
        with log.open("wb") as sink:
            subprocess.run(
                command,
                cwd=scratch,
                env=environment,
                stdout=sink,
                stderr=sink,
                timeout=timeout_s * PATIENCE,
                check=False,
            )
        index = Path(scratch, "reports", "index.json")
        if not index.exists():
            raise AssertionError(f"{command[2]} wrote no index:\n{log.read_text(errors='replace')[-2000:]}")
        return read_index(json.loads(index.read_text()))


def read_index(index: dict[str, dict[str, dict[str, object]]]) -> list[Verdict]:
    """The verdicts of the one server that was tested, in the order of the suite."""
    found = [
        Verdict(
            case,
            str(entry["behavior"]),
            str(entry["behaviorClose"]),
            code if isinstance(code := entry["remoteCloseCode"], int) else None,
            duration if isinstance(duration := entry["duration"], int) else 0,
        )
        for cases in index.values()
        for case, entry in cases.items()
    ]
    return sorted(found, key=lambda verdict: [int(part) for part in verdict.case.split(".")])


# -- judging ---------------------------------------------------------------------------------------------------------


def faults(verdicts: Iterable[Verdict], sections: Collection[int], refused: Collection[str] = ()) -> list[str]:
    """What is wrong with a run of these sections, one line each; none if it passed. The cases `refused` must have ended
    with 1008, whatever the suite thinks of that."""
    verdicts = list(verdicts)
    found = []
    counts = Counter(int(verdict.case.split(".")[0]) for verdict in verdicts)
    for section in sections:
        if counts[section] != SECTIONS[section]:
            found.append(f"section {section}: {counts[section]} cases ran, not {SECTIONS[section]}")
    non_strict = [verdict for verdict in verdicts if verdict.is_non_strict]
    if len(non_strict) > NON_STRICT_MAX:
        found.append(f"{len(non_strict)} cases are NON-STRICT, more than {NON_STRICT_MAX}")
    for verdict in verdicts:
        if verdict.case in refused:
            if verdict.close_code != POLICY:
                found.append(f"{verdict}: over the limits, so that {POLICY} was due")
        elif not (verdict.is_good or verdict.is_non_strict):
            found.append(str(verdict))
    return found


def summary(verdicts: Iterable[Verdict]) -> str:
    """How many cases got which pair of verdicts, on a line."""
    counts = Counter(
        verdict.behavior if verdict.behavior == verdict.close else f"{verdict.behavior}/{verdict.close}"
        for verdict in verdicts
    )
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())


# -- a whole run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    verdicts: list[Verdict]
    faults: list[str]


def examine(
    runner: str,
    sections: Collection[int] = BASIC,
    messages: int = MESSAGES_SHORT,
    default_limits: bool = False,
    timeout_s: float = 300,
) -> Run:
    """Start a server, run these sections against its echo, judge; what the server's log complains of is a fault too."""
    flags: dict[str, object] = {"echo": True} if default_limits else {"profile": "conformance"}
    if set(sections) & set(COMPRESSION):
        # Only contexts of their own can keep to the smaller windows that 13.3 and 13.5 demand.
        flags["enable_compression"] = "dedicated"
    with started_server(workers=1, **flags) as server:
        verdicts = RUNNERS[runner](f"ws://127.0.0.1:{server.port}/echo", sections, messages, timeout_s)
        found = faults(verdicts, sections, FRAGMENT_FLOODS if default_limits else ())
        if server.get("/readyz")[0] != 200:
            found.append("the server is not ready any more")
        found += [f"log: {line}" for line in server.log_text().splitlines() if _COMPLAINT.search(line)]
    return Run(verdicts, found)
