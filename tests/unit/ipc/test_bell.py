"""A bell stays rung until it is cleared, however often it was rung."""

from __future__ import annotations

import os
import select

from tuskws_fast.ipc.bell import Bell, Lookout


def is_readable(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_bell_is_readable_from_ring_to_clear() -> None:
    bell = Bell.create()
    assert not is_readable(bell)
    bell.ring()
    bell.ring()
    assert is_readable(bell)
    assert bell.clear()
    assert not is_readable(bell)
    assert not bell.clear()
    bell.close()


def test_a_bell_that_cannot_count_further_is_still_rung() -> None:
    bell = Bell.create()
    os.eventfd_write(bell.fd, 2**64 - 2)
    bell.ring()
    assert bell.clear()
    bell.close()


def test_close_may_come_twice() -> None:
    bell = Bell.create()
    bell.close()
    bell.close()
    assert bell.fileno() == -1


def test_a_late_bell_is_not_a_lost_one() -> None:
    lookout = Lookout()
    assert not lookout.is_lost(True)
    lookout.woken()
    assert not lookout.is_lost(True)
    assert not lookout.is_lost(False)
    assert not lookout.is_lost(True)


def test_records_that_lie_there_for_a_whole_interval_were_never_rung_for() -> None:
    lookout = Lookout()
    assert not lookout.is_lost(True)
    assert lookout.is_lost(True)
