"""Run one target written in Python, in the environment of scripts/sanitize (scripts/fuzz does both).

    python -m fuzz.run frames --seconds 600 --keep build/fuzz/corpus/frames
    python -m fuzz.run frames --guided …      by atheris: led by the coverage of Python and of compiled code
    python -m fuzz.run frames --input FILE    one input again, with its traceback

Prints how many executions there were (`executions: N`, or libFuzzer's statistics). A finding ends it with another code
than 0, and its input is in the directory `findings` beside the corpus.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fuzz import corpus, loop

TARGETS = {
    "sockets": "SocketsTarget",
    "sends": "SendsTarget",
    "frames": "FramesTarget",
    "deflate": "DeflateTarget",
    "extensions": "ExtensionsTarget",
    "handshake": "HandshakeTarget",
    "commands": "CommandsTarget",
    "records": "RecordsTarget",
    "memory": "MemoryTarget",
}


def make(name: str) -> loop.Target:
    target: loop.Target = getattr(importlib.import_module(f"fuzz.{name}"), TARGETS[name])()
    return target


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz.run")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="directory in which inputs that led somewhere new are kept")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--merge", type=Path, help="the smallest input of each outcome in --keep, into here")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.guided:
        return guided(args)
    target = make(args.target)
    if args.merge is not None:
        merge(target, args.keep, args.merge)
        return 0
    if args.input is not None:
        print(target.run(args.input.read_bytes()))
        return 0
    beside = args.keep.parent if args.keep is not None else None
    try:
        tally = loop.fuzz(
            target, args.seconds, args.runs, args.seed, args.keep, beside and beside / f"pending-{args.target}"
        )
    except loop.Finding as finding:
        traceback.print_exception(finding.__cause__)
        data = loop.smallest(target, finding.data)
        path = corpus.save((beside or Path()) / "findings", data)
        print(f"{args.target}: {data!r:.1000}\n{path} ({len(data)} bytes) makes it fail again", file=sys.stderr)
        return 1
    print(f"executions: {tally.executions}, outcomes: {tally.outcomes}, seconds: {tally.seconds:.0f}")
    return 0


def merge(target: loop.Target, source: Path, home: Path) -> None:
    smallest: dict[Hashable, bytes] = {}
    for data in sorted(corpus.load(source), key=len):
        smallest.setdefault(target.run(data), data)
    for data in smallest.values():
        corpus.save(home, data)


def guided(args: argparse.Namespace) -> int:
    """By atheris, which is libFuzzer fed with the coverage of Python code, and here of compiled code as well."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["tuskws_fast"]):
        target = make(args.target)

    def once(data: bytes) -> None:
        target.run(data)

    directory = args.keep or Path("build/fuzz/corpus") / args.target
    findings = directory.parent / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    options = [f"-max_len={target.input_max}", "-rss_limit_mb=4096", "-timeout=20", "-print_final_stats=1"]
    for data in [*target.seeds(), *corpus.kept(target.name)]:
        corpus.save(directory, data)
    options += [f"-max_total_time={args.seconds:.0f}", f"-seed={args.seed}"]
    options.append(f"-artifact_prefix={findings}/{args.target}-")
    if args.runs is not None:
        options.append(f"-runs={args.runs}")
    atheris.Setup([sys.argv[0], *options, str(directory)], once)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
