"""The broker's journal as a process runs it: recovered at the start, a batch a wake-up, synced beside the loop.

    start        recover ─▶ engine.restore ─▶ a segment of our own (after damage or loss of power: everything anew)
    commit       ledger ─▶ one write ─▶ whoever called may tell the workers
    beside       sync (for `synced`, and behind every full segment), the next spare, the oldest segment's retirement

What can go wrong, and what is done:

    no space for the next segment        `writing` ends while there is still room for what was ordered: levels above
                                         `accepted` are refused, live delivery goes on, a space is tried for each second
    a sync fails                         the same; who waited is told `stored`, and everything is written anew after it
    a write fails                        messages have offsets that must not count: the process ends here, as if killed.
                                         Nobody was told of them; workers ask its successor again, which starts refusing
    damage at the start                  an alarm, new epochs, the bad files set aside

A fault is in the log once when it begins and once when it ends, and in the figures all the time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, NamedTuple

from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.fetching import Fetch
from tuskws_fast.broker.ledger import Awaiting, Fact
from tuskws_fast.errors import BootError, ExitCode
from tuskws_fast.ipc.records import DownRecord
from tuskws_fast.metrics import Metric
from tuskws_fast.rooms.shelf import Window
from tuskws_fast.storage.directory import JOURNAL
from tuskws_fast.storage.entries import Closed
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.lookup import look_up
from tuskws_fast.storage.recovery import Recovered, recover, set_aside
from tuskws_fast.storage.segments import JournalLimits, Sealed, Segments, SyncJob
from tuskws_fast.storage.settings import FILE, SettingsError, SettingsFile

if TYPE_CHECKING:
    from tuskws_fast_ext.tables import Counters

log = logging.getLogger(__name__)

HEAL_EVERY_S = 1.0
# After a write that failed: its disk may fail again at once, and each time costs everybody a new broker.
HEAL_AFTER_BREAK_S = 10.0
# Scopes that are written anew before the loop has its turn.
SLICE = 32
_DAMAGE_LINES = 20

Tell = Callable[[list[tuple[int, DownRecord]]], None]


class Place(NamedTuple):
    """Where the journal is, and how large. `boot` and `run` as in `storage.format.Header`."""

    directory: Path
    limits: JournalLimits
    boot: bytes
    run: bytes
    dedupe_window_s: float
    dedupe_ids_max: int
    history_memory: int


class Journal:
    """`tell(decided)` sends answers that had to wait for the disk."""

    def __init__(
        self,
        place: Place,
        files: Files,
        engine: Engine,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        tell: Tell,
    ) -> None:
        self._place = place
        self._files = files
        self._engine = engine
        self._counters = counters
        self._loop = loop
        self._tell = tell
        self._directory = place.directory / JOURNAL
        self._settings = SettingsFile(place.directory / FILE, place.boot)
        self._segments: Segments
        self._threads = ThreadPoolExecutor(2, "journal")
        self._awaiting: deque[tuple[int, list[Awaiting]]] = deque()
        self._syncing = False
        self._settings_syncing = False
        self._spare_wanted = False
        self._no_space = False
        # Facts that the file could not take: the newest of each key.
        self._unsaved: dict[str, Fact] = {}
        # Scopes to write anew, and up to which segment nothing is needed when they are.
        self._anew: deque[str] = deque()
        self._retire_upto = 0
        self._retire_after = 0
        self._set_aside: list[Sealed] = []
        self._heal_at = 0.0
        self._segment = 0
        # One at a time: what is read is in memory until it is told.
        self._readers = ThreadPoolExecutor(1, "history")

    # -- the start -------------------------------------------------------------------------------------------------

    def start(self, beat: Callable[[], None]) -> None:
        """Recover, and be ready to write. Raises `BootError` for what only an operator can mend."""
        began, wall = perf_counter(), time()
        recovered = self._recover(wall, beat)
        try:
            facts = self._settings.open()
        except SettingsError as error:
            raise BootError(f"{self._place.directory / FILE} cannot be read: {error}") from error
        if facts.lost:
            log.critical("settings are lost: rooms of the journal are private now", extra={"damaged": facts.damaged})
        # The one before this may have died between a save and its sync.
        self._sync_settings()
        now = self._loop.time()
        self._engine.restore(recovered, facts.values, facts.lost, now, wall)
        place = self._place
        self._segments = Segments(
            self._files,
            self._directory,
            place.limits,
            place.boot,
            place.run,
            recovered.next_number,
            recovered.next_segment,
            recovered.sealed,
            recovered.homes,
            inherited=not recovered.rewrite,
        )
        self._engine.write_to(self._segments.current, self._segments.homes)
        self._counters.set(Metric.JOURNAL_WRITING, 1)
        if recovered.rewrite:
            self._anew.extend(recovered.scopes)
            self._retire_upto = recovered.next_segment - 1
            self._set_aside = list(recovered.sealed) if recovered.damage else []
        self._begin(wall, now)
        self._log_start(recovered, perf_counter() - began)

    def _begin(self, wall: float, now: float) -> None:
        broken_at = self._counters.get(Metric.JOURNAL_BROKEN_AT) / 1000
        if broken_at and now - broken_at < HEAL_AFTER_BREAK_S:
            self._degrade("a write failed", now, HEAL_AFTER_BREAK_S)
            return
        try:
            self._segments.open(wall)
        except OSError as error:
            self._degrade(f"no segment can be begun: {error.strerror}", now)
            return
        self.commit()
        if self._anew:
            # Before anybody is served: what was recovered is proven only as long as the old segments are there.
            while self._anew:
                scope = self._anew.popleft()
                self._engine.ledger.entries += self._engine.snapshot(scope, self._read_shelf(scope))
                self.commit()
            self._retire_after = self._segments.next_number - 1
            self._sync()

    def _read_shelf(self, scope: str) -> list[tuple[float, bytes]]:
        """What is in no memory: it has to leave the old segments too."""
        fetch = self._engine.shelf(scope)
        if fetch is None:
            return []
        found = look_up(self._files, self._segments.paths(fetch.segment), scope, fetch.chunks)
        if found is None:
            self._engine.lose_shelf(scope)
        return found or []

    def _recover(self, wall: float, beat: Callable[[], None]) -> Recovered:
        said = perf_counter()

        def progress(done: int, of: int) -> None:
            nonlocal said
            beat()
            if perf_counter() - said >= 1.0:
                said = perf_counter()
                log.info("recovering", extra={"segments": of, "done": done})

        place = self._place
        # Nothing made here is garbage, and looking for some in a million new objects takes longer than making them.
        gc.disable()
        try:
            return recover(
                self._files,
                self._directory,
                place.boot,
                place.run,
                wall - place.dedupe_window_s,
                place.dedupe_ids_max,
                place.history_memory,
                progress,
            )
        except OSError as error:
            raise BootError(f"{self._directory} cannot be read: {error.strerror}") from error
        finally:
            gc.enable()

    def _log_start(self, recovered: Recovered, took_s: float) -> None:
        log.info(
            "recovered",
            extra={
                "scopes": len(recovered.scopes),
                "entries": recovered.entries,
                "bytes": recovered.bytes,
                "seconds": round(took_s, 3),
            },
        )
        if recovered.power_lost:
            log.warning("the machine ended before the node did: every room has a new epoch")
        if recovered.damage:
            self._counters.add(Metric.JOURNAL_DAMAGED, len(recovered.damage))
            aside = str(self._directory / "damaged")
            extra = {"faults": len(recovered.damage), "first": recovered.damage[:_DAMAGE_LINES], "set_aside": aside}
            log.critical("the journal is damaged: what cannot be proven has a new epoch", extra=extra)

    # -- writing ---------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Write what the engine decided. When this returns, the workers may be told."""
        ledger = self._engine.ledger
        if ledger.facts:
            self._save(ledger.facts)
            ledger.facts = []
        awaiting, ledger.awaiting = ledger.awaiting, []
        if ledger.entries:
            self._write()
        if awaiting:
            self._awaiting.append((self._segments.next_number - 1, awaiting))
            self._sync()

    def _write(self) -> None:
        ledger = self._engine.ledger
        entries, ledger.entries = ledger.entries, []
        if not ledger.writing:
            return
        try:
            self._segments.commit(entries, time())
        except OSError as error:
            self._break(error)
        if self._segments.current != self._segment:
            self._segment = self._segments.current
            self._engine.write_to(self._segment, self._segments.homes)
        self._counters.add(Metric.JOURNAL_ENTRIES, len(entries))
        if not self._segments.has_spare:
            self._make_spare()
            self._check_space()

    def _check_space(self) -> None:
        """While a spare is being made nothing is known yet; one that is needed at once is made by `commit` itself."""
        if self._no_space and self._segments.short:
            self._degrade("there is no space for another segment", self._loop.time())

    def _save(self, facts: list[Fact]) -> None:
        for fact in facts:
            self._unsaved[fact.key] = fact
        try:
            self._settings.save(self._unsaved.values())
            self._unsaved.clear()
        except SettingsError as error:
            self._counters.add(Metric.SETTINGS_FAILED)
            log.error("settings cannot be saved: they hold until the broker ends", extra={"reason": str(error)})
            return
        self._sync_settings()

    def _sync_settings(self) -> None:
        if self._settings_syncing or not self._settings.unsynced:
            return  # it starts again when it ends
        self._settings_syncing = True
        self._loop.run_in_executor(self._threads, self._settings.sync).add_done_callback(self._settings_synced)

    def _settings_synced(self, done: asyncio.Future[None]) -> None:
        self._settings_syncing = False
        error = done.exception()
        if isinstance(error, OSError):
            self._counters.add(Metric.SETTINGS_FAILED)
            log.error("settings are not synced: a loss of power would cost them", extra={"reason": error.strerror})
        elif error is not None:
            raise error
        else:
            self._sync_settings()

    def _break(self, error: OSError) -> None:
        """Offsets were given that must not count. The journal and the workers know all that does."""
        self._counters.set(Metric.JOURNAL_BROKEN_AT, int(1000 * self._loop.time()))
        log.critical("the journal cannot be written: the broker starts over", extra={"reason": str(error)})
        logging.shutdown()
        os._exit(ExitCode.FAILED)

    # -- beside the loop -------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        if self._syncing:
            return  # it starts again when it ends
        self._syncing = True
        job = self._segments.begin_sync()
        future = self._loop.run_in_executor(self._threads, self._run_sync, job)
        future.add_done_callback(lambda done: self._synced(job, done))

    def _run_sync(self, job: SyncJob) -> None:
        """A message must not outlive what closed the doors of its room before it was said."""
        if self._settings.unsynced:
            self._settings.sync()
        self._segments.run_sync(job)

    def _synced(self, job: SyncJob, done: asyncio.Future[None]) -> None:
        self._syncing = False
        error = done.exception()
        if isinstance(error, OSError):
            self._anew.extend(self._engine.scopes())
            self._retire_upto = self._segments.current
            self._degrade(f"a sync failed: {error.strerror}", self._loop.time())
            return
        if error is not None:
            raise error
        self._segments.end_sync(job)
        self._counters.add(Metric.JOURNAL_SYNCS)
        answers: list[tuple[int, DownRecord]] = []
        while self._awaiting and self._awaiting[0][0] <= job.number:
            answers += [(each.worker, each.reply) for each in self._awaiting.popleft()[1]]
        if answers:
            self._tell(answers)
        if self._retire_upto and not self._anew:
            self._retire(job.number)
        if self._awaiting:
            self._sync()

    def _make_spare(self) -> None:
        if self._spare_wanted:
            return
        self._spare_wanted = True
        future = self._loop.run_in_executor(self._threads, self._segments.make_spare)
        future.add_done_callback(self._spare_made)

    def _spare_made(self, done: asyncio.Future[tuple[int, Path, int]]) -> None:
        self._spare_wanted = False
        error = done.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        self._no_space = error is not None
        if error is None:
            self._segments.adopt_spare(done.result())
        self._check_space()

    # -- retirement ------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """About once a second."""
        wall = time()
        if self._unsaved:
            self._save([])
        if not self._engine.ledger.writing:
            if now >= self._heal_at:
                self._heal(now, wall)
            return
        self._counters.set(Metric.JOURNAL_BYTES, self._segments.bytes_used)
        if not self._segments.has_spare:
            self._make_spare()
        try:
            self._segments.rotate_old(wall)
        except OSError as error:
            self._degrade(f"no segment can be begun: {error.strerror}", now)
            return
        if self._segments.wants_sync:
            self._sync()
        self._begin_retirement(wall)

    def _begin_retirement(self, wall: float) -> None:
        if self._retire_upto:
            return
        oldest = self._segments.retirable(wall, self._engine.needed_bytes, self._engine.oldest_shelved)
        if oldest is not None:
            self._retire_upto = oldest.number
            self._anew.extend(self._segments.scopes_in(oldest.number))
            self._write_anew()

    def _write_anew(self) -> None:
        """A slice of what has to be said again; then, when all was said and is on the disk, the old can go."""
        if not self._engine.ledger.writing:
            return
        for _ in range(min(SLICE, len(self._anew))):
            self._engine.ledger.entries += self._engine.snapshot(self._anew.popleft())
        self.commit()
        if self._anew:
            self._loop.call_soon(self._write_anew)
        elif self._retire_upto:
            self._retire_after = self._segments.next_number - 1
            self._sync()

    def _retire(self, synced: int) -> None:
        if synced < self._retire_after:
            self._sync()
            return
        upto, self._retire_upto = self._retire_upto, 0
        aside, self._set_aside = self._set_aside, []
        try:
            if aside:
                set_aside(self._files, self._directory, aside)
            self._engine.retire(upto)
            self._segments.retire(upto)
        except OSError as error:
            log.error("old segments cannot be removed", extra={"reason": str(error)})
            return
        self._begin_retirement(time())

    # -- reading -------------------------------------------------------------------------------------------------

    def fetch(self, fetch: Fetch, done: Callable[[Window, list[tuple[float, bytes]] | None], None]) -> None:
        """Read old messages beside the loop; `done` gets them as (when, body) on the loop's clock."""
        paths = self._segments.paths(fetch.segment)
        future = self._loop.run_in_executor(self._readers, look_up, self._files, paths, fetch.scope, fetch.chunks)

        def on_done(read: asyncio.Future[list[tuple[float, bytes]] | None]) -> None:
            if read.cancelled() or self._loop.is_closed():
                return
            # Whatever went wrong: somebody waits for the answer.
            error = read.exception()
            entries = None if error is not None else read.result()
            if entries is None:
                log.error("old messages cannot be read: they are given up", exc_info=error, extra={"room": fetch.scope})
                done(fetch.window, None)
            else:
                shift = self._loop.time() - time()
                done(fetch.window, [(wall + shift, body) for wall, body in entries])

        future.add_done_callback(on_done)

    # -- faults ----------------------------------------------------------------------------------------------------

    def _degrade(self, reason: str, now: float, heal_after_s: float = HEAL_EVERY_S) -> None:
        ledger = self._engine.ledger
        self._heal_at = now + heal_after_s
        answers: list[tuple[int, DownRecord]] = []
        while self._awaiting:
            answers += [(each.worker, each.otherwise) for each in self._awaiting.popleft()[1]]
        if answers:
            self._tell(answers)
        if not ledger.writing:
            return
        ledger.writing = False
        ledger.entries.clear()
        self._counters.add(Metric.JOURNAL_FAILED)
        self._counters.set(Metric.JOURNAL_WRITING, 0)
        log.critical("messages cannot be stored: delivered, and kept in memory", extra={"reason": reason})

    def _heal(self, now: float, wall: float) -> None:
        """A segment of our own again, and in it every scope of which the journal does not know all."""
        if self._syncing or self._spare_wanted:
            self._heal_at = now
            return
        try:
            self._segments.adopt_spare(self._segments.make_spare())
            self._segments.open(wall)
        except OSError as error:
            self._heal_at = now + HEAL_EVERY_S
            log.debug("the journal cannot be written yet", extra={"reason": str(error)})
            return
        ledger = self._engine.ledger
        ledger.writing = True
        self._no_space = False
        self._counters.set(Metric.JOURNAL_WRITING, 1)
        log.warning("messages can be stored again")
        self._anew.extend(self._engine.unwritten(self._segments.homes))
        self._write_anew()

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """In order: everything is on the disk, and the next start can prove it."""
        # No further segment will be needed, and nobody is left to make one ready.
        self._spare_wanted = True
        self._threads.shutdown(wait=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        ledger = self._engine.ledger
        if ledger.writing:
            ledger.entries.append(Closed(time()))
            self.commit()
            try:
                self._segments.run_sync(self._segments.begin_sync())
            except OSError as error:
                log.error("the journal is not synced at the end", extra={"reason": str(error)})
        self._segments.close()
        try:
            if self._settings.unsynced:
                self._settings.sync()
        except OSError as error:
            log.error("settings are not synced at the end", extra={"reason": str(error)})
        self._settings.close()
