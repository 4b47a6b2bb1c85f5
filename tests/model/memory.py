"""Shared memory as C11 lets processes see it: what was stored is a list of messages, and a thread may lag behind.

    cell      messages in modification order: (value, what a reader learns, glued to the one before it)
    view      up to which message of each cell somebody knows: a thread reads that one or any later one
    thread    knows (`now`), would know after an acquire fence (`then`), had known at its last fence (`before`)

A release store carries the thread's view, an acquire load takes it over; relaxed ones carry only what was known at the
last fence, and take nothing but the cell itself. A seq_cst fence exchanges views with every such fence before it. An
exchange reads the newest message it may and nothing comes between (`glued`). A plain access to memory that the other
side touches without having been told of it is a race, whatever the CPU: `touch` raises. So what holds here holds on ARM
as on x86, where most missing fences would not show. (This is the view machine of "promising semantics" without
promises: loads are not delayed beyond later stores, but a plain read that a later relaxed store ought to publish is
caught as a race.)

Timestamps are indices into a cell. What everybody knows to be over is cut off (`trimmed`), so equal situations are
equal states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from model.explore import Broken

View = tuple[int, ...]
Message = tuple[int, View, bool]


class Thread(NamedTuple):
    now: View
    then: View
    before: View


class Memory(NamedTuple):
    cells: tuple[tuple[Message, ...], ...]
    threads: tuple[Thread, ...]
    fences: View


def fresh(cells: int, threads: int) -> Memory:
    """All zero, and known to all."""
    zero = (0,) * cells
    return Memory((((0, zero, False),),) * cells, (Thread(zero, zero, zero),) * threads, zero)


def join(one: View, other: View) -> View:
    return tuple(map(max, one, other))


def _at(view: View, cell: int, time: int) -> View:
    return view if view[cell] >= time else (*view[:cell], time, *view[cell + 1 :])


def _with(memory: Memory, number: int, thread: Thread) -> Memory:
    threads = memory.threads
    return memory._replace(threads=(*threads[:number], thread, *threads[number + 1 :]))


def _read(memory: Memory, number: int, cell: int, time: int, acquire: bool) -> tuple[int, Memory]:
    value, told, _ = memory.cells[cell][time]
    now, then, before = memory.threads[number]
    now = _at(now, cell, time)
    then = join(join(then, now), told)
    if acquire:
        now = join(now, told)
    return value, _with(memory, number, Thread(now, then, before))


def load(memory: Memory, number: int, cell: int, acquire: bool) -> Iterator[tuple[int, Memory]]:
    for time in range(memory.threads[number].now[cell], len(memory.cells[cell])):
        value, after = _read(memory, number, cell, time, acquire)
        yield value, trimmed(after)


def store(memory: Memory, number: int, cell: int, value: int, release: bool) -> Iterator[Memory]:
    """Anywhere in the modification order behind what the thread knows of."""
    messages = memory.cells[cell]
    for time in range(memory.threads[number].now[cell] + 1, len(messages) + 1):
        if time == len(messages) or not messages[time][2]:
            yield trimmed(_insert(memory, number, cell, time, value, release, False))


def exchange(memory: Memory, number: int, cell: int, value: int) -> Iterator[tuple[int, Memory]]:
    """Relaxed. What it carries is what the message it read carried, too (a release sequence)."""
    messages = memory.cells[cell]
    for time in range(memory.threads[number].now[cell], len(messages)):
        if time + 1 == len(messages) or not messages[time + 1][2]:
            old, after = _read(memory, number, cell, time, False)
            told = after.cells[cell][time][1]
            after = _insert(after, number, cell, time + 1, value, False, True)
            cells = list(after.cells)
            mine = cells[cell][time + 1]
            told = _shifted(told, cell, time + 1)
            cells[cell] = (*cells[cell][: time + 1], (mine[0], join(mine[1], told), True), *cells[cell][time + 2 :])
            yield old, trimmed(after._replace(cells=tuple(cells)))


def fence(memory: Memory, number: int) -> Memory:
    """Sequentially consistent."""
    now, then, _ = memory.threads[number]
    now = join(join(now, then), memory.fences)
    return trimmed(_with(memory, number, Thread(now, now, now))._replace(fences=now))


def learn(memory: Memory, number: int, told: View) -> Memory:
    """The kernel brought word (a bell, a control message): everything before it has happened."""
    now, then, before = memory.threads[number]
    return trimmed(_with(memory, number, Thread(join(now, told), join(then, told), before)))


def touch(memory: Memory, number: int, cell: int, what: str) -> None:
    """A plain access: somebody else's last one must be known."""
    if memory.threads[number].now[cell] != len(memory.cells[cell]) - 1:
        raise Broken(f"race: {what}")


def plain_store(memory: Memory, number: int, cell: int, value: int) -> Memory:
    (after,) = store(memory, number, cell, value, False)
    return after


def newest(memory: Memory, cell: int) -> int:
    return memory.cells[cell][-1][0]


def _shifted(view: View, cell: int, time: int) -> View:
    """`view`, after a message was put into the order at `time`."""
    return (*view[:cell], view[cell] + 1, *view[cell + 1 :]) if view[cell] >= time else view


def _insert(memory: Memory, number: int, cell: int, time: int, value: int, release: bool, glued: bool) -> Memory:
    cells = tuple(
        tuple((old, _shifted(told, cell, time), stuck) for old, told, stuck in messages) for messages in memory.cells
    )
    threads = tuple(Thread(*(_shifted(view, cell, time) for view in thread)) for thread in memory.threads)
    memory = Memory(cells, threads, _shifted(memory.fences, cell, time))
    now, then, before = memory.threads[number]
    now, then = _at(now, cell, time), _at(then, cell, time)
    told = _at(now if release else before, cell, time)
    messages = memory.cells[cell]
    messages = (*messages[:time], (value, told, glued), *messages[time:])
    cells = (*memory.cells[:cell], messages, *memory.cells[cell + 1 :])
    return _with(memory._replace(cells=cells), number, Thread(now, then, before))


def trimmed(memory: Memory) -> Memory:
    over = tuple(map(min, *(thread.now for thread in memory.threads)))
    if not any(over):
        return memory

    def cut(view: View) -> View:
        return tuple(max(time - gone, 0) for time, gone in zip(view, over, strict=True))

    cells = tuple(
        tuple((value, cut(told), glued and at > 0) for at, (value, told, glued) in enumerate(messages[gone:]))
        for messages, gone in zip(memory.cells, over, strict=True)
    )
    threads = tuple(Thread(*map(cut, thread)) for thread in memory.threads)
    return Memory(cells, threads, cut(memory.fences))


def agreed(memory: Memory) -> Memory:
    """Everybody knows all of it."""
    known = fresh(len(memory.cells), len(memory.threads))
    return known._replace(cells=tuple(((messages[-1][0], known.fences, False),) for messages in memory.cells))
