"""What Python objects weigh: the memory that a function leaves behind, by the interpreter's own account."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable


def bytes_left_by(work: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
