"""What does it cost the broker to write a publication before it is told?

A batch is what one wake-up brought: 1 when little happens, dozens under load. Compare with test_engine's figure for a
publication that is not written. Goal: below 1.5 us a publication in a batch of 32. Run: `pytest bench/micro
--benchmark-enable`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tuskws_fast.storage.entries import Published
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.recovery import recover
from tuskws_fast.storage.segments import JournalLimits, Segments

BODY = b'{"type":"room_message","room":"chat","message":"' + b"x" * 128 + b'","from":"user-7","timestamp":1.000}'
BOOT, RUN = b"b" * 16, b"r" * 16


def published(offset: int, key: str = "") -> Published:
    return Published("chat", "abcdefgh", offset, 1.7e9, 1 << 40, offset, "user-7", key, len(BODY) - 20, -1, BODY)


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_commit(benchmark: BenchmarkFixture, tmp_path: Path, batch: int) -> None:
    limits = JournalLimits(segment_bytes=64 * 1024 * 1024)
    segments = Segments(Files(), tmp_path, limits, BOOT, RUN)
    segments.open(0.0)
    entries = [published(n) for n in range(batch)]

    benchmark(segments.commit, entries, 0.0)

    segments.close()


def test_recovery_of_ten_thousand(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    segments = Segments(Files(), tmp_path, JournalLimits(), BOOT, RUN)
    segments.open(0.0)
    for first in range(1, 10_001, 100):
        segments.commit([published(n, f"key-{n}") for n in range(first, first + 100)], 0.0)
    segments.close()

    recovered = benchmark(recover, Files(), tmp_path, BOOT, RUN, 0.0)

    assert recovered.entries == 10_000
