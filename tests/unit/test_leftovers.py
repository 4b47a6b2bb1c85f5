"""What the interpreter keeps of a burst is given back, and only then is there a collection."""

from __future__ import annotations

import sys

from tuskws_fast.leftovers import BLOCKS_MIN, Leftovers


def test_after_a_fall_by_half_there_is_one_collection() -> None:
    leftovers = Leftovers()
    for blocks in (200_000, 600_000, 400_000, 301_000):
        leftovers.look(blocks)
    assert leftovers.collections == 0
    leftovers.look(300_000)
    leftovers.look(299_000)
    assert leftovers.collections == 1
    leftovers.look(900_000)
    leftovers.look(300_000)
    assert leftovers.collections == 2


def test_a_small_burst_is_not_worth_it() -> None:
    leftovers = Leftovers()
    leftovers.look(BLOCKS_MIN)
    leftovers.look(1)
    assert leftovers.collections == 0


def test_what_the_interpreter_keeps_for_itself_is_let_go_of() -> None:
    leftovers = Leftovers()
    # Tuples of twenty sizes, two thousand of each of which are kept when they are freed.
    leftovers.look(10 * BLOCKS_MIN)
    burst = [tuple(range(n % 20)) for n in range(60_000)]
    burst.clear()
    kept = sys.getallocatedblocks()
    leftovers.look(0)
    assert sys.getallocatedblocks() < kept - 20_000
