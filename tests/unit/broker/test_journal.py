"""The journal as a process runs it, with real files: how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from helpers.waiting import eventually
from tuskws_fast_ext.tables import Counters, counters_bytes

from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.journal import Journal, Place
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.storage.directory import JOURNAL
from tuskws_fast.storage.entries import Published
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.format import HEADER_BYTES
from tuskws_fast.storage.recovery import recover
from tuskws_fast.storage.segments import JournalLimits

SEGMENT_BYTES = 8192
OVERHEAD = 20 + 43
BOOT, OTHER_BOOT, RUN = b"b" * 16, b"c" * 16, b"r" * 16


def published(offset: int, body_bytes: int) -> Published:
    return Published("chat", "e1", offset, 1.0, 0, 0, "", "", 0, -1, b"x" * body_bytes)


def test_end_that_needs_another_segment_is_an_end_in_order(tmp_path: Path) -> None:
    """Threads that would make a spare are gone by then."""
    (tmp_path / JOURNAL).mkdir()

    async def write_and_close() -> None:
        engine = Engine(EngineLimits(), 0.0, lambda: "e1", durable=True)
        place = Place(tmp_path, JournalLimits(SEGMENT_BYTES, 1 << 20), BOOT, RUN, 60.0, 10, 1 << 20)
        counters = Counters(Segment.create("test", counters_bytes(8, 128)).buffer, 1, 128)
        loop = asyncio.get_running_loop()
        journal = Journal(place, Files(), engine, counters, loop, lambda answers: None)
        journal.start(lambda: None)
        # One entry that leaves eight bytes of the segment: what says that the end was in order does not fit.
        head = OVERHEAD + len("chat") + len("e1")
        engine.ledger.entries.append(published(1, SEGMENT_BYTES - HEADER_BYTES - head - 8))
        journal.commit()

        async def is_ready() -> bool:
            return journal._segments.has_spare

        await eventually(is_ready, "the next segment")
        journal.close()

    asyncio.run(write_and_close())
    recovered = recover(Files(), tmp_path / JOURNAL, OTHER_BOOT, RUN, 0.0)
    assert recovered.entries == 2
    assert not recovered.power_lost
