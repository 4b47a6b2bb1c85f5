"""What bounds the connections of one kind: how long a message may be, what may wait, what may be inflated.

A worker has a lane for its clients and, with `--echo`, one for echoes: they share no queue's bound and no budget, so a
diagnosis with messages of 16 MiB lends nothing of its room to who is in rooms, and takes nothing of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuskws_fast_ext.connection import FlushPoint
from tuskws_fast_ext.deflate import CompressionPool


@dataclass(frozen=True, slots=True)
class Lane:
    frame_max: int
    fragments_max: int
    point: FlushPoint
    pool: CompressionPool
