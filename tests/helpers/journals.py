"""A journal being written, and what it says, known without reading it.

    with Scribe(directory) as scribe:
        scribe.publish("room", b"body")         # into the batch
        scribe.commit()
        recovered = scribe.recovered()

`Scribe.model` is what every reader must find of the committed entries; it knows no files.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

from tuskws_fast_ext.ring import crc32c

from tuskws_fast.storage.entries import (
    Closed,
    Confirmed,
    Ended,
    Entry,
    Opened,
    Published,
    Snapshot,
    SnapshotEnd,
    pack_entry,
)
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.recovery import Recovered, recover
from tuskws_fast.storage.segments import JournalLimits, Segments

BOOT, OTHER_BOOT, RUN = b"b" * 16, b"c" * 16, b"r" * 16
WALL = 1_700_000_000.0
SMALL = JournalLimits(segment_bytes=4096, bytes_max=16 * 1024, age_max_s=1e9)


@dataclass
class ModelScope:
    epoch: str
    base: int
    top: int
    confirmed: int = 0
    kept: dict[int, bytes] = field(default_factory=dict)


Model = dict[str, ModelScope]


def frame_slowly(entry: Entry | bytes, number: int) -> bytes:
    """The slow twin of `ext/journal`: the frame of an entry (or of what follows its checksum, made right)."""
    packed = entry if isinstance(entry, bytes) else pack_entry(entry, number)
    frame = crc32c(packed).to_bytes(4, "little") + packed
    return frame + bytes(-len(frame) % 8)


class Scribe:
    def __init__(
        self, directory: Path, files: Files | None = None, limits: JournalLimits = SMALL, boot: bytes = BOOT
    ) -> None:
        self.files = files or Files()
        self.directory = directory
        self.limits = limits
        self.boot = boot
        self.model: Model = {}
        self.said: set[tuple[str, str, int, bytes]] = set()
        self.batch: list[Entry] = []
        self.epochs = 0
        self.segments = Segments(self.files, directory, limits, boot, RUN)
        self.segments.open(WALL)

    def __enter__(self) -> Scribe:
        return self

    def __exit__(self, *_: object) -> None:
        self.segments.close()

    def succeed(self) -> None:
        """The process is killed; another one recovers, and goes on. What is not committed is gone."""
        self.commit()
        self.segments.close()
        found = self.recovered()
        numbers = found.next_number, found.next_segment
        self.segments = Segments(
            self.files, self.directory, self.limits, self.boot, RUN, *numbers, found.sealed, found.homes, inherited=True
        )
        self.segments.open(WALL)

    # -- entries of the next batch ---------------------------------------------------------------------------------

    def publish(self, scope: str, body: bytes, key: str = "", conn: int = 0, tag: int = 0) -> int:
        if scope not in self.model:
            self.open(scope)
        state = self.model[scope]
        state.top += 1
        state.kept[state.top] = body
        self.said.add((scope, state.epoch, state.top, body))
        self.batch.append(Published(scope, state.epoch, state.top, WALL, conn, tag, "ann", key, len(body), -1, body))
        return state.top

    def open(self, scope: str) -> None:
        self.epochs += 1
        epoch = f"e{self.epochs}"
        state = self.model.setdefault(scope, ModelScope(epoch, 0, 0))
        state.epoch, state.base = epoch, state.top
        self.batch.append(Opened(scope, epoch, state.top))

    def end(self, scope: str) -> None:
        if self.model.pop(scope, None) is not None:
            self.batch.append(Ended(scope))

    def confirm(self, scope: str) -> None:
        if scope in self.model:
            self.model[scope].confirmed = self.model[scope].top
            self.batch.append(Confirmed(scope, self.model[scope].top))

    def snapshot(self, scope: str, keep: int = 3) -> None:
        state = self.model[scope]
        state.kept = dict(list(state.kept.items())[-keep:])
        first = min(state.kept, default=state.top + 1)
        self.batch.append(Snapshot(scope, state.epoch, state.base, first, state.confirmed, len(state.kept), 0))
        for offset, body in state.kept.items():
            self.batch.append(Published(scope, state.epoch, offset, WALL, 0, 0, "", "", 0, -1, body))
        self.batch.append(SnapshotEnd(scope))

    def close_in_order(self) -> None:
        self.batch.append(Closed(WALL))

    # -- to the files ----------------------------------------------------------------------------------------------

    def commit(self) -> None:
        batch, self.batch = self.batch, []
        if batch:
            self.segments.commit(batch, WALL)

    def sync(self) -> None:
        job = self.segments.begin_sync()
        self.segments.run_sync(job)
        self.segments.end_sync(job)

    def retire(self) -> bool:
        """Let go of the oldest segment as the broker does: snapshots first, synced, then it."""
        self.commit()
        if not self.segments.sealed:
            return False
        oldest = self.segments.sealed[0].number
        for scope in self.segments.scopes_in(oldest):
            self.snapshot(scope)
        self.commit()
        self.sync()
        self.segments.retire(oldest)
        return True

    def recovered(self, boot: bytes | None = None, remember_after: float = 0.0) -> Recovered:
        return recover(Files(), self.directory, boot or self.boot, RUN, remember_after)

    def model_now(self) -> Model:
        return copy.deepcopy(self.model)


def shown(recovered: Recovered) -> Model:
    """What was recovered, in the model's words."""
    found: Model = {}
    for scope, state in recovered.scopes.items():
        first = state.top - len(state.kept) + 1
        kept = {first + n: body for n, (_, body) in enumerate(state.kept)}
        found[scope] = ModelScope(state.epoch, state.base, state.top, state.confirmed, kept)
    return found
