"""The journal's files: one is written to, one lies ready, the older ones wait to be retired.

    DIR/journal/  0000000000000007.seg   sealed: full, or too old to go on with
                  0000000000000008.seg   current: a batch of entries is one `pwrite` at its end
                  spare-9                preallocated: changing segments costs a rename
                  mark                   up to which number everything was written (see `recovery`)

A batch is durable against the death of every process when `commit` returns: it is in the page cache. Against loss of
power it is durable after a sync that began later. Disk space is taken when a spare is made, so a full disk is known
(`short`) while there is still room for what is being ordered, and nobody has to be told that a message which has an
offset is lost after all.

A segment is retired when every scope that needs it was written again as a snapshot, and that was synced: `homes` says
in which segment begins what a scope needs.

Not thread-safe but for `make_spare` and `run_sync`, which touch nothing that the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tuskws_fast_ext.journal import note_homes

from tuskws_fast.storage.entries import Closed, Ended, Entry, Published, Snapshot
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.format import (
    HEADER_BYTES,
    MARK_SLOT_BYTES,
    Header,
    frame_batch,
    pack_header,
    pack_mark,
)

SUFFIX = ".seg"
SPARE = "spare-"
MARK = "mark"
ZEROS_BYTES = 1024 * 1024
# Of a segment: with less than this left and no spare, the journal is `short`.
RESERVE_SHARE = 4


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """`bytes_max` is what all segments together should not exceed, but for what is still needed."""

    segment_bytes: int = 16 * 1024 * 1024
    bytes_max: int = 128 * 1024 * 1024
    age_max_s: float = 3600.0


class Sealed(NamedTuple):
    """A segment that is not written to any more. `since` is Unix time."""

    number: int
    path: Path
    bytes: int
    since: float


class SyncJob(NamedTuple):
    """What has to reach the disk so that everything up to `number` is safe. `closing`: not needed afterwards."""

    number: int
    fds: tuple[int, ...]
    closing: tuple[int, ...]
    directory: bool


def segment_name(number: int) -> str:
    return f"{number:016d}{SUFFIX}"


def segment_number(name: str) -> int | None:
    stem, suffix = name[: -len(SUFFIX)], name[-len(SUFFIX) :]
    return int(stem) if suffix == SUFFIX and stem.isdecimal() else None


class Segments:
    """`next_number` is what the next entry gets; `sealed` and `homes` are what recovery found. `inherited`: a sync has
    to cover `sealed` too. A predecessor that was killed may not have synced it, and what is synced behind a hole is as
    good as lost."""

    def __init__(
        self,
        files: Files,
        directory: Path,
        limits: JournalLimits,
        boot: bytes,
        run: bytes,
        next_number: int = 1,
        next_segment: int = 1,
        sealed: Sequence[Sealed] = (),
        homes: dict[str, int] | None = None,
        inherited: bool = False,
    ) -> None:
        self.homes = homes if homes is not None else {}
        self.sealed = list(sealed)
        self.next_number = next_number
        self.current = next_segment - 1
        self._files = files
        self._directory = directory
        self._limits = limits
        self._boot = boot
        self._run = run
        self._fd = -1
        self._at = 0
        self._size = 0
        self._began = 0.0
        self._spare: tuple[int, Path, int] | None = None
        self._spares = next_segment - 1
        self._mark_fd = -1
        self._mark_turn = 0
        # Sealed descriptors that hold what no sync has covered yet.
        self._unsynced: list[int] = []
        self._inherited = [each.path for each in sealed] if inherited else []
        self._directory_changed = False

    # -- life ------------------------------------------------------------------------------------------------------

    def open(self, wall: float) -> None:
        """Begin a segment of our own; its header is on the disk before anything depends on it. Raises `OSError`."""
        if self._mark_fd < 0:
            self._mark_fd = self._files.open(self._directory / MARK, 2 * MARK_SLOT_BYTES)
        while self._inherited:
            self._unsynced.append(self._files.reopen(self._inherited[-1]))
            self._inherited.pop()
        self._change(wall, 0)
        self._files.sync(self._fd)
        self._files.sync_directory(self._directory)
        self._directory_changed = False

    def close(self) -> None:
        """Let go of every file; `open` may be called again."""
        spare = [self._spare[0]] if self._spare is not None else []
        for fd in (self._fd, self._mark_fd, *spare, *self._unsynced):
            if fd >= 0:
                self._files.close(fd)
        self._fd = self._mark_fd = -1
        self._spare = None
        self._unsynced.clear()

    def _change(self, wall: float, frame_bytes: int) -> None:
        """Go on in another segment, which has room for an entry of `frame_bytes` at least."""
        if self._spare is None or self._spare[2] < HEADER_BYTES + frame_bytes:
            self.adopt_spare(self.make_spare(frame_bytes, at_once=True))
        spare = self._spare
        assert spare is not None
        fd, path, size = spare
        number = self.current + 1
        header = pack_header(Header(number, self.next_number, self._boot, self._run, wall))
        self._files.write(fd, header, 0)
        self._files.rename(path, self._directory / segment_name(number))
        self._seal(wall)
        self._spare = None
        self._fd, self._at, self._size, self._began = fd, HEADER_BYTES, size, wall
        self.current = number
        self._directory_changed = True

    def _seal(self, wall: float) -> None:
        if self._fd >= 0:
            path = self._directory / segment_name(self.current)
            self.sealed.append(Sealed(self.current, path, self._size, wall))
            self._unsynced.append(self._fd)
            self._fd = -1

    # -- the segment that lies ready -------------------------------------------------------------------------------

    @property
    def has_spare(self) -> bool:
        return self._spare is not None

    @property
    def short(self) -> bool:
        """Nothing lies ready for when the current segment is full, and it soon will be."""
        return self._spare is None and self._size - self._at < self._size // RESERVE_SHARE

    def make_spare(self, frame_bytes: int = 0, at_once: bool = False) -> tuple[int, Path, int]:
        """Take the disk space of another segment. Raises `OSError`; may run in a thread of its own.

        Written once, a page costs a batch its copy and no more (0.2 us a publication instead of 1.4), and a sync has no
        blocks to settle. `at_once`: somebody waits, and does without.
        """
        self._spares += 1
        path = self._directory / f"{SPARE}{self._spares}"
        size = max(self._limits.segment_bytes, HEADER_BYTES + frame_bytes)
        fd = -1
        try:
            fd = self._files.open(path, size)
            if not at_once:
                zeros = bytes(min(size, ZEROS_BYTES))
                for at in range(0, size, len(zeros)):
                    self._files.write(fd, zeros[: size - at], at)
                self._files.sync(fd)
        except OSError:
            if fd >= 0:
                self._files.close(fd)
            self._files.unlink(path)
            raise
        return fd, path, size

    def adopt_spare(self, spare: tuple[int, Path, int]) -> None:
        """Have it lie ready, unless one does already that was made meanwhile."""
        if self._spare is not None:
            self._files.close(self._spare[0])
            self._files.unlink(self._spare[1])
        self._spare = spare

    # -- writing ---------------------------------------------------------------------------------------------------

    def commit(self, entries: list[Entry], wall: float) -> int:
        """Write `entries` and return the number of the last. Raises `OSError`: then nobody may be told of any."""
        self._write(entries, wall)
        self._mark_turn += 1
        mark = pack_mark(self.next_number - 1, self._mark_turn)
        self._files.write(self._mark_fd, mark, (self._mark_turn & 1) * MARK_SLOT_BYTES)
        return self.next_number - 1

    def _write(self, entries: list[Entry], wall: float) -> None:
        """As many as fit go here, the rest into the next segments."""
        data = frame_batch(entries, self.next_number)
        if self._at + len(data) > self._size:
            if len(entries) > 1:
                # Halves, and halves of these: all that fits is written before the segment is changed.
                middle = len(entries) // 2
                self._write(entries[:middle], wall)
                self._write(entries[middle:], wall)
                return
            self._change(wall, len(data))
        self._files.write(self._fd, data, self._at)
        self._at += len(data)
        self.next_number += len(entries)
        homes, segment = self.homes, self.current
        if note_homes(entries, Published, homes, segment):
            return
        for entry in entries:
            if type(entry) is Ended:
                homes.pop(entry.scope, None)
            elif type(entry) is Snapshot:
                homes[entry.scope] = segment
            elif not isinstance(entry, Closed):
                homes.setdefault(entry.scope, segment)

    # -- to the disk -----------------------------------------------------------------------------------------------

    @property
    def wants_sync(self) -> bool:
        """Descriptors of sealed segments are held until a sync has covered them."""
        return bool(self._unsynced)

    def begin_sync(self) -> SyncJob:
        unsynced = tuple(self._unsynced)
        directory, self._directory_changed = self._directory_changed, False
        return SyncJob(self.next_number - 1, (*unsynced, self._fd), unsynced, directory)

    def run_sync(self, job: SyncJob) -> None:
        """May run in a thread of its own. Raises `OSError`: nothing is known to be safe then."""
        for fd in job.fds:
            self._files.sync(fd)
        if job.directory:
            self._files.sync_directory(self._directory)

    def end_sync(self, job: SyncJob) -> None:
        for fd in job.closing:
            self._unsynced.remove(fd)
            self._files.close(fd)

    # -- retirement ------------------------------------------------------------------------------------------------

    @property
    def bytes_used(self) -> int:
        return sum(each.bytes for each in self.sealed) + self._size

    def rotate_old(self, wall: float) -> None:
        """Do not go on in a segment that is too old: what is in it could never be retired. Raises `OSError`."""
        if self._at > HEADER_BYTES and wall - self._began > self._limits.age_max_s:
            self._change(wall, 0)

    def paths(self, first: int) -> list[Path]:
        """The segments from number `first` on, to be read."""
        sealed = [each.path for each in self.sealed if each.number >= first]
        return [*sealed, self._directory / segment_name(self.current)]

    def retirable(self, wall: float, needed_bytes: int, held_from: int | None = None) -> Sealed | None:
        """The oldest segment, where it is too old or all are too many. `needed_bytes` is what a snapshot of everything
        would take: less than twice that would only be copied round in circles. `held_from`: the first segment that has
        something which is nowhere else; age is no reason to let go of that."""
        if not self.sealed:
            return None
        oldest = self.sealed[0]
        limit = max(self._limits.bytes_max, 2 * needed_bytes + 2 * self._limits.segment_bytes)
        if self.bytes_used + self._limits.segment_bytes > limit:
            return oldest
        is_held = held_from is not None and held_from <= oldest.number
        return oldest if wall - oldest.since > self._limits.age_max_s and not is_held else None

    def scopes_in(self, upto: int) -> list[str]:
        """The scopes that need a segment up to this one: to be written again before it can go."""
        return [scope for scope, home in self.homes.items() if home <= upto]

    def retire(self, upto: int) -> None:
        """Remove the segments up to this one, which no scope needs any more. Raises `OSError`."""
        while self.sealed and self.sealed[0].number <= upto:
            self._files.unlink(self.sealed[0].path)
            del self.sealed[0]
