"""After a burst: give back what the interpreter keeps of it.

CPython does not free the last thousands of tuples, lists, dicts and floats that are let go of: it keeps them for the
next ones. They lie wherever the burst had put them, and a single one holds an arena of a mebibyte. So a broker in which
8,000 people had come and gone again took 20 MiB more than before, or 30, or 10. A full collection empties these lists.
"""

from __future__ import annotations

import gc

# A collection looks at all that lives: where that is less than half of what lived once, it costs less than that did.
FALL = 0.5
# A burst of a few megabytes leaves nothing to speak of.
BLOCKS_MIN = 50_000


class Leftovers:
    """`look(blocks)` once a second, with the number of memory blocks that are in use (`sys.getallocatedblocks`)."""

    def __init__(self) -> None:
        self._peak = 0
        self.collections = 0

    def look(self, blocks: int) -> None:
        self._peak = max(self._peak, blocks)
        if self._peak - blocks >= BLOCKS_MIN and blocks <= FALL * self._peak:
            self._peak = blocks
            self.collections += 1
            gc.collect()
