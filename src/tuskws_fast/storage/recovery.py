"""From the files to what they prove: every scope's position, what is kept of it, and whether it may go on as it was.

    read each segment ─▶ scan ─▶ Replay.take(number, entry) ─▶ Recovered

Proof. The *mark* says up to which number everything had been written. The same boot of the machine has lost nothing of
that (the page cache outlives processes), so there every entry up to the mark must be found. A scope keeps its epoch if
nothing is missing, or if what it published after the hole follows what came before it. After another boot nothing can
be proven that was not closed in order: what lay in the page cache may be gone, and nothing tells what that was, so
every scope must `renew` its epoch. Numbering goes on either way: a message keeps the epoch and the offset that it was
published with, and no position is ever given twice.

A hole in a scope. Within a boot the newer part is kept (a bad block, found long after). Where power was lost, the
older part: what was synced comes before what was not.

Damage never raises: it becomes `renew`, a line in `damage`, and bad files set aside for whoever wants to look.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuskws_fast.rooms.dedupe import digest_of
from tuskws_fast.rooms.shelf import Shelf
from tuskws_fast.storage.entries import (
    Closed,
    Confirmed,
    Ended,
    Entry,
    Opened,
    Published,
    Remembered,
    Snapshot,
    SnapshotEnd,
)
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.format import HEADER_BYTES, Header, Hole, scan, unpack_header, unpack_mark
from tuskws_fast.storage.segments import MARK, SPARE, Sealed, segment_number

DAMAGED = "damaged"


@dataclass(slots=True)
class ScopeState:
    """`kept` is (wall, body) of the publications `top - len(kept) + 1` … `top`, `shelf` what came before these and is
    too much for memory. `marks` as in `Shelf`. `renew`: the epoch must change."""

    epoch: str
    base: int
    top: int
    confirmed: int = 0
    kept: deque[tuple[float, bytes]] = field(default_factory=deque)
    kept_bytes: int = 0
    shelf: Shelf | None = None
    marks: deque[tuple[int, int]] = field(default_factory=deque)
    home: int = 0
    last_number: int = 0
    renew: bool = False
    # The part before a hole, until it is known whether that part or the newer one is to be believed.
    older: tuple[int, deque[tuple[float, bytes]]] | None = None

    def keep(self, offset: int, wall: float, body: bytes, segment: int, memory_max: float) -> None:
        """The next publication, found in `segment`."""
        self.top = offset
        self.kept.append((wall, body))
        self.kept_bytes += len(body)
        if not self.marks or self.marks[-1][1] != segment:
            self.marks.append((offset, segment))
        while self.kept_bytes > memory_max and len(self.kept) > 1:
            self._shelve()

    def _shelve(self) -> None:
        offset = self.top - len(self.kept) + 1
        wall, body = self.kept.popleft()
        self.kept_bytes -= len(body)
        if self.shelf is None:
            self.shelf = Shelf(offset, 0)
            # All of it is here: the deque goes on to grow with the state.
            self.shelf.marks = self.marks
        self.shelf.put(offset, wall, body)

    def forget_kept(self) -> None:
        self.kept = deque()
        self.kept_bytes = 0
        self.shelf = None
        self.marks = deque()

    def follow(self, before: ScopeState, first: int) -> None:
        """This is a snapshot whose first publication is `first`, and replaces what was known `before`; but what is
        older may be on the shelf still."""
        if self.shelf is not None or first > before.top + 1:
            return
        while before.top - len(before.kept) + 1 < first:
            before._shelve()
        shelf = before.shelf
        if shelf is None or shelf.last != first - 1:
            return
        self.shelf = shelf
        marks = deque(mark for mark in before.marks if mark[0] < first)
        marks.extend(self.marks)
        self.marks = shelf.marks = marks


@dataclass(slots=True)
class Recovered:
    """`ids` in the order in which they were made. `origins`: which command of this run became which publication.

    `damage` is for the operator. `rewrite`: write everything anew before going on, and let go of the old segments.
    """

    scopes: dict[str, ScopeState] = field(default_factory=dict)
    ids: list[Remembered] = field(default_factory=list)
    origins: dict[tuple[int, int], Published] = field(default_factory=dict)
    sealed: list[Sealed] = field(default_factory=list)
    homes: dict[str, int] = field(default_factory=dict)
    next_number: int = 1
    next_segment: int = 1
    entries: int = 0
    bytes: int = 0
    damage: list[str] = field(default_factory=list)
    power_lost: bool = False

    @property
    def rewrite(self) -> bool:
        return bool(self.damage) or self.power_lost


class Replay:
    """Entries in, in order; what follows from them out. `remember_after`: keys from before that time are over."""

    def __init__(self, run: bytes, remember_after: float, ids_max: int, memory_max: float = math.inf) -> None:
        self.scopes: dict[str, ScopeState] = {}
        self.origins: dict[tuple[int, int], Published] = {}
        self.damage: list[str] = []
        self.power_lost = False
        self._closed = True
        # Scopes whose first entry here is not their first, and its offset. Where a segment was retired that is as it
        # should be: what was in it is said again by a snapshot that is still to come.
        self._beginless: dict[str, int] = {}
        self._last_hole = 0
        self._run = run
        self._remember_after = remember_after
        # The last of a scope's publications with a key, and what a snapshot says of older ones.
        self._memory_max = memory_max
        self._ids: defaultdict[str, deque[tuple[int, Published | Remembered]]] = defaultdict(
            lambda: deque(maxlen=ids_max)
        )
        # Snapshots whose end has not come yet.
        self._pending: dict[str, tuple[Snapshot, ScopeState, list[tuple[int, Remembered]]]] = {}

    # -- what happened to the files --------------------------------------------------------------------------------

    def hole(self, number: int, where: str) -> None:
        """Entries from `number` on are missing. Whose they were is not known: a scope that is not heard of again may
        have lost its last."""
        self._last_hole = number
        self._pending.clear()
        self.damage.append(where)

    def reboot(self) -> None:
        """What follows was written after another boot of the machine."""
        self._pending.clear()
        if self._closed:
            for state in self.scopes.values():
                state.older = None
            return
        self.power_lost = True
        for scope, state in self.scopes.items():
            state.renew = True
            if state.older is not None:
                top, kept = state.older
                state.forget_kept()
                state.top, state.kept, state.kept_bytes = top, kept, sum(len(body) for _, body in kept)
                state.older = None
                # Whoever says one again that came behind what is missing is not told a place that it no longer has.
                ids = self._ids[scope]
                for each in [each for each in ids if each[1].offset > top]:
                    ids.remove(each)

    def end(self) -> None:
        for offset in self._beginless.values():
            self.damage.append(f"the beginning of a scope before offset {offset}")
        for state in self.scopes.values():
            if state.last_number < self._last_hole:
                state.renew = True

    # -- entries ---------------------------------------------------------------------------------------------------

    def take(self, number: int, entry: Entry, segment: int, run: bytes) -> None:
        self._closed = type(entry) is Closed
        if type(entry) is Published:
            self._publish(number, entry, segment)
            if entry.tag and run == self._run:
                self.origins[entry.conn, entry.tag] = entry
        elif type(entry) is Opened:
            self._open(number, entry, segment)
        elif type(entry) is Ended:
            self.scopes.pop(entry.scope, None)
            self._ids.pop(entry.scope, None)
            self._beginless.pop(entry.scope, None)
        elif type(entry) is Confirmed:
            state = self.scopes.get(entry.scope)
            if state is not None:
                state.confirmed = max(state.confirmed, entry.offset)
        elif type(entry) is Snapshot:
            state = ScopeState(entry.epoch, entry.base, entry.first - 1, entry.confirmed, home=segment)
            self._pending[entry.scope] = (entry, state, [])
        elif type(entry) is Remembered:
            if entry.scope in self._pending and entry.wall > self._remember_after:
                self._pending[entry.scope][2].append((number, entry))
        elif type(entry) is SnapshotEnd:
            self._end_snapshot(number, entry.scope)

    def _open(self, number: int, entry: Opened, segment: int) -> None:
        state = self.scopes.get(entry.scope)
        if state is None:
            self.scopes[entry.scope] = ScopeState(entry.epoch, entry.base, entry.base, home=segment, last_number=number)
            return
        state.epoch, state.base, state.last_number, state.renew = entry.epoch, entry.base, number, False
        if entry.base != state.top:
            self._break(state, entry.base)

    def _publish(self, number: int, entry: Published, segment: int) -> None:
        pending = self._pending.get(entry.scope)
        if pending is not None:
            state = pending[1]
        else:
            state = self._continued(entry, segment)
            state.last_number = number
            if entry.key and entry.wall > self._remember_after:
                self._ids[entry.scope].append((number, entry))
        # What is not confirmed yet has to be in memory, whatever it is.
        memory_max = self._memory_max if entry.scope[:1] != "\n" else math.inf
        state.keep(entry.offset, entry.wall, entry.body, segment, memory_max)

    def _continued(self, entry: Published, segment: int) -> ScopeState:
        """The scope's state, in which `entry` is the next publication."""
        state = self.scopes.get(entry.scope)
        if state is None:
            state = ScopeState(entry.epoch, entry.offset - 1, entry.offset - 1, home=segment, renew=True)
            self.scopes[entry.scope] = state
            self._beginless[entry.scope] = entry.offset
        elif entry.offset != state.top + 1:
            self._break(state, entry.offset - 1)
        elif entry.epoch != state.epoch:
            self.damage.append(f"a change of epoch before offset {entry.offset}")
            state.renew = True
        return state

    def _break(self, state: ScopeState, top: int) -> None:
        """Publications of this scope are missing before offset `top` + 1."""
        self.damage.append(f"publications between offsets {state.top} and {top + 1}")
        state.renew = True
        if state.older is None:
            state.older = (state.top, state.kept)
        state.forget_kept()
        state.top = top

    def _end_snapshot(self, number: int, scope: str) -> None:
        begun = self._pending.pop(scope, None)
        if begun is None:
            return  # its beginning is missing: what was known before stands, as something not proven
        head, state, ids = begun
        if state.top - head.first + 1 != head.kept or len(ids) > head.ids:
            self.damage.append("a snapshot is incomplete")
            return
        state.last_number = number
        before = self.scopes.get(scope)
        if before is not None and before.older is None:
            state.follow(before, head.first)
        self.scopes[scope] = state
        self._beginless.pop(scope, None)
        self._ids[scope].clear()
        self._ids[scope].extend(ids)

    def ids(self) -> list[Remembered]:
        found = [each for ids in self._ids.values() for each in ids]
        # A snapshot says them again much later: time decides, and the journal where that is the same.
        found.sort(key=lambda each: (each[1].wall, each[0]))
        return [entry if isinstance(entry, Remembered) else _remembered(entry) for _, entry in found]


def _remembered(entry: Published) -> Remembered:
    digest = digest_of(entry.body[: entry.prefix])
    return Remembered(
        entry.scope, entry.user, entry.key, digest, entry.epoch, entry.offset, entry.wall, entry.delivered
    )


def recover(
    files: Files,
    directory: Path,
    boot: bytes,
    run: bytes,
    remember_after: float,
    ids_max: int = 10_000,
    memory_max: float = math.inf,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Recovered:
    """What the journal in `directory` proves. Raises `OSError` only where the directory itself cannot be read.

    `boot` and `run` are those of now. `remember_after` and `ids_max`: how long and how many idempotency keys a scope
    keeps, as in `rooms.dedupe`. `memory_max`: bytes of a scope that are given, of the rest is said where it is.
    `progress(done, of)` is called before each segment.
    """
    found = Recovered()
    names = files.names(directory)
    for name in names:
        if name.startswith(SPARE):
            files.unlink(directory / name)
    numbered = sorted((number, name) for name in names if (number := segment_number(name)) is not None)
    mark = unpack_mark(_read(files, directory / MARK)) if MARK in names else 0
    replay = Replay(run, remember_after, ids_max, memory_max)
    expected, last_boot = 0, b""
    for done, (number, name) in enumerate(numbered):
        progress(done, len(numbered))
        path = directory / name
        data = _read(files, path)
        header = unpack_header(data[:HEADER_BYTES])
        if header is None:
            replay.hole(max(expected, 1), f"{name}: its header cannot be read")
            header = Header(number, max(expected, 1), last_boot, b"", 0.0)
        elif expected and header.first > expected:
            replay.hole(expected, f"{name}: entries {expected} to {header.first - 1} are missing before it")
        if last_boot and header.boot != last_boot:
            replay.reboot()
        last_boot = header.boot
        expected = max(expected, header.first)
        for each in scan(data, expected):
            if isinstance(each, Hole):
                replay.hole(each.number, f"{name}: entries from {each.number} on are missing, at byte {each.at}")
                continue
            replay.take(each.number, each.entry, number, header.run)
            expected = each.number + 1
            found.entries += 1
        found.bytes += len(data)
        found.sealed.append(Sealed(number, path, len(data), header.created))
    if numbered and last_boot != boot:
        replay.reboot()
    elif mark >= max(expected, 1):
        replay.hole(max(expected, 1), f"entries {expected} to {mark} had been written and are not there")
    replay.end()
    found.scopes, found.ids, found.origins = replay.scopes, replay.ids(), replay.origins
    found.homes = {scope: state.home for scope, state in replay.scopes.items()}
    # Beyond everything that may have been written: no number is used for two entries either.
    found.next_number = max(expected, mark + 1, 1)
    found.next_segment = numbered[-1][0] + 1 if numbered else 1
    found.damage, found.power_lost = replay.damage, replay.power_lost
    return found


def _read(files: Files, path: Path) -> bytes:
    try:
        return files.read(path)
    except OSError:
        # A disk that cannot read it: as good as damaged, and found missing by the numbers.
        return b""


def set_aside(files: Files, directory: Path, segments: Sequence[Sealed]) -> Path:
    """Move damaged segments out of the way, in place of those set aside before. Returns where they are now."""
    aside = directory / DAMAGED
    files.make_directory(aside)
    for name in files.names(aside):
        files.unlink(aside / name)
    for each in segments:
        files.rename(each.path, aside / each.path.name)
    return aside
