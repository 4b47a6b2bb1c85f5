"""What workers ask, brought to the engine: a bounded batch of each ring in turn, so that no worker starves another.

A drained batch is ordered by the engine, and what `handle` decided is collected. It is not sent here: the journal comes
between ordering and telling (`process`).
"""

from __future__ import annotations

import logging
from typing import cast

from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.outbox import Outbox
from tuskws_fast.ipc.link import LinkPoisoned
from tuskws_fast.ipc.records import DownRecord, Recover, Resume, UpRecord

# Records taken of one ring before the next has its turn.
DRAIN_MAX = 256

log = logging.getLogger(__name__)


class Inbox:
    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self.failed = 0
        self._engine = engine
        self._outbox = outbox

    def drain(
        self, worker: int, now: float, wall: float, decided: list[tuple[int, DownRecord]], dead: bool = False
    ) -> bool:
        """Order what `worker` sent, at most a batch, into `decided`. True: there may be more. Raises `LinkPoisoned`.

        `dead`: nobody is there to get a session that was asked for. Its client may have it on another worker already,
        from where it must not be taken.
        """
        link = self._outbox.links[worker]
        batch = cast(list[UpRecord], link.drain(DRAIN_MAX))
        handle = self._engine.handle
        for record in batch:
            if isinstance(record, Recover):
                self._outbox.asked(worker, record.room)
            elif dead and isinstance(record, Resume):
                continue
            try:
                decided += handle(worker, record, now, wall)
            except Exception:
                # A defect of ours must not take every room with it: this record costs what it asked for.
                self.failed += 1
                log.exception("a record cannot be handled", extra={"record": type(record).__name__})
        return len(batch) >= DRAIN_MAX

    def drain_all(self, worker: int, now: float, wall: float, decided: list[tuple[int, DownRecord]]) -> None:
        """Everything that a dead worker had committed: whatever is in its ring was sent by it."""
        try:
            while self.drain(worker, now, wall, decided, dead=True):
                pass
        except (LinkPoisoned, KeyError):
            # Its records end where the damage begins, or its link was given up before it died.
            return
