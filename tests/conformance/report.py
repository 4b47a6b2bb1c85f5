"""What `scripts/conformance` runs: Autobahn's cases by both runners, verdicts counted, all that is not OK listed.

The exit status is 0 if every run passed by the rules of `helpers.autobahn.faults`.
"""

from __future__ import annotations

import argparse
import sys
import time

from helpers.autobahn import (
    BASIC,
    COMPRESSION,
    MESSAGES_FULL,
    MESSAGES_SHORT,
    RUNNERS,
    SECTIONS,
    Missing,
    examine,
    summary,
)

TIMEOUT_S, TIMEOUT_FULL_S = 600, 3600


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description="Autobahn's cases against the server.")
    parser.add_argument(
        "--full",
        action="store_true",
        help=f"{MESSAGES_FULL} messages a case of sections 12 and 13, not {MESSAGES_SHORT} (10 to 20 minutes)",
    )
    parser.add_argument("--sections", default="", help="only these, e.g. 6,9 (default: all that this build has)")
    parser.add_argument("--runner", choices=sorted(RUNNERS), help="only this one (default: each that is there)")
    parser.add_argument(
        "--default-limits",
        action="store_true",
        help="not the conformance profile: the floods of fragments must be closed 1008, all else must pass",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parsed(arguments)
    sections = [int(section) for section in options.sections.split(",")] if options.sections else [*BASIC, *COMPRESSION]
    passed = True
    for runner in [options.runner] if options.runner else sorted(RUNNERS):
        # Compression has a server of its own: the other sections are judged as most clients will meet it.
        for part in (sorted(set(sections) - set(COMPRESSION)), sorted(set(sections) & set(COMPRESSION))):
            # kosoku calls an answer that is too short to be worth compressing an ERROR; Autobahn itself does not.
            if part and not (runner == "kosoku" and set(part) <= set(COMPRESSION)):
                passed &= report(runner, part, options)
    return 0 if passed else 1


def report(runner: str, sections: list[int], options: argparse.Namespace) -> bool:
    messages, timeout_s = (MESSAGES_FULL, TIMEOUT_FULL_S) if options.full else (MESSAGES_SHORT, TIMEOUT_S)
    expected = sum(SECTIONS[section] for section in sections)
    print(f"{runner}: sections {','.join(map(str, sections))}, {expected} cases", flush=True)
    began = time.monotonic()
    try:
        run = examine(runner, sections, messages, options.default_limits, timeout_s)
    except Missing as missing:
        print(f"    not run: {missing}")
        return options.runner is None and not options.full
    print(f"    {len(run.verdicts)} ran in {time.monotonic() - began:.0f} s: {summary(run.verdicts)}")
    for verdict in run.verdicts:
        if (verdict.behavior, verdict.close) != ("OK", "OK"):
            print(f"    {verdict}")
    for fault in run.faults:
        print(f"    WRONG {fault}")
    print("    passed" if not run.faults else f"    {len(run.faults)} faults", flush=True)
    return not run.faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
