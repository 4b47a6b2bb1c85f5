"""Inputs of the fuzz targets: kept on disk, changed at random, and kept again when they led somewhere new.

A corpus is a directory of files named by their hash. In the repository are `corpus/<target>/`, a few small inputs that
reach much of the code, and `findings/<target>/`, every input that ever was a finding, named by what was wrong.

    python tests/fuzz/corpus.py ENOUGH CORPUS MOST    CORPUS becomes MOST of the inputs in ENOUGH (scripts/fuzz --merge)
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
SMALL = 600
INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def kept(target: str) -> list[bytes]:
    """Every input in the repository for `target`."""
    return load(HERE / "corpus" / target) + load(HERE / "findings" / target)


def load(directory: Path) -> list[bytes]:
    """In an order that does not depend on the file system."""
    return [path.read_bytes() for path in sorted(directory.glob("*")) if path.is_file()]


def choose(enough: Path, home: Path, most: int) -> None:
    """Of the small inputs in `enough`, some of every size: what is in `home` from here on."""
    small = sorted((data for data in load(enough) if len(data) <= SMALL), key=len)
    for path in home.glob("*"):
        path.unlink()
    for i in range(min(most, len(small))):
        save(home, small[i * len(small) // min(most, len(small))])


def save(directory: Path, data: bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def near(rng: random.Random, places: tuple[int, ...], most: int) -> int:
    """A number close to one of `places`, where mistakes are."""
    return min(most, max(0, rng.choice(places) + rng.choice((-1, 0, 0, 1))))


def mutated(rng: random.Random, data: bytes, others: list[bytes], size_max: int) -> bytes:
    """`data` with a few random changes: bytes set, flipped, added, removed, repeated, or the end of another input."""
    out = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        at = rng.randrange(len(out) + 1)
        n = rng.choice((1, 1, 1, 2, 4, 8, rng.randrange(1, 33)))
        change = rng.randrange(7)
        if change == 0 and out:
            out[at % len(out)] = rng.choice((*INTERESTING, rng.randrange(256)))
        elif change == 1 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif change == 2:
            out[at:at] = rng.randbytes(n)
        elif change == 3:
            del out[at : at + n]
        elif change == 4:
            out[at:at] = out[at : at + n] * rng.choice((1, 1, 2, 16))
        elif change == 5:
            source = rng.choice(others) if others else b""
            out[at:] = source[rng.randrange(len(source) + 1) :]
        else:
            there = rng.randrange(len(out) + 1)
            out[at:at] = out[there : there + n]
    return bytes(out[:size_max])


if __name__ == "__main__":
    choose(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
