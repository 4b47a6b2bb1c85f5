"""Old messages that only the journal holds, brought back for who asks for them; and who waits, for them or for workers.

    handle(record) ──OnShelf──▶ park(record) ──▶ wanted: [Fetch …]          taken by the process, read beside the loop
                                                     │
    run the record again ◀── fetched(window) ◀───────┘

A record that needs what is on a shelf has changed nothing yet (reading comes first, everywhere). It is put aside, with
whatever its connection says behind it, and run again as if it had only just come. All who ask for the same messages
while they are being read, and for `fetched_s` after that, share one `Window`: so the files are read once a room,
however many come back to it at once. Other connections notice nothing.

What needs to know everybody waits in the same way for the workers to announce themselves (`hold`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.state import Core
from tuskws_fast.broker.timers import Timer
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import UpRecord
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms.history import History
from tuskws_fast.rooms.shelf import Chunk, OnShelf, Window

# Whose it is: of a connection of a worker, or a worker's own question about a room.
Key = tuple[int, int | str]

# How often one command may need something else fetched: a session that is resumed has a room each time.
ROUNDS_MAX = 64
_RETRY_S = 0.25
_ORDERED = (
    records.Publish,
    records.Private,
    records.Join,
    records.Leave,
    records.Call,
    records.Attach,
    records.Detach,
    records.Confirm,
    records.Restore,
    records.Resume,
)


class Fetch(NamedTuple):
    """Read `chunks` of `scope`, in order, of which nothing is in an earlier segment than `segment`."""

    scope: str
    segment: int
    chunks: list[tuple[int, int, int]]  # first, last, checksum
    window: Window


class Parked(NamedTuple):
    """`rounds`: how often it was put aside before."""

    worker: int
    record: UpRecord
    rounds: int


class Fetching:
    def __init__(self, core: Core) -> None:
        self._core = core
        # For the process to take.
        self.wanted: list[Fetch] = []
        self.parked: dict[Key, deque[Parked]] = {}
        self._windows: OrderedDict[Window, History] = OrderedDict()
        self._waiting: dict[Window, list[Key]] = {}
        self._armed = False
        self._held: list[Key] = []

    @staticmethod
    def key_of(worker: int, record: UpRecord) -> Key | None:
        """Records with the same key are carried out in order. None: of this kind none ever waits."""
        if isinstance(record, _ORDERED):
            return worker, record.conn
        return (worker, record.room) if isinstance(record, records.Recover) else None

    def follows_parked(self, worker: int, record: UpRecord) -> bool:
        """True: it has to wait behind another, and does. Raises `Refused`."""
        key = self.key_of(worker, record)
        parked = self.parked.get(key) if key is not None else None
        if parked is None:
            return False
        if len(parked) >= self._core.limits.parked_max and not isinstance(record, records.Detach):
            self._core.counters["parked_max"] += 1
            raise Refused(ErrorCode.OVERLOADED, "Too many commands wait for old messages to be read", _RETRY_S)
        parked.append(Parked(worker, record, 0))
        return True

    def park(self, worker: int, record: UpRecord, wish: OnShelf, rounds: int = 0) -> None:
        """Run `record` again when what it needs is there. Raises `Refused`."""
        key = self.key_of(worker, record)
        assert key is not None, "only what reads a history meets a shelf"
        if rounds >= ROUNDS_MAX:
            raise Refused(ErrorCode.OVERLOADED, "Too many old messages at once", _RETRY_S)
        window = self._window(wish)
        self.parked[key] = deque((Parked(worker, record, rounds + 1),))
        self._waiting[window].append(key)

    def hold(self, worker: int, record: UpRecord) -> None:
        """Run `record` when it is `take_held`, and what its connection says behind it."""
        key = self.key_of(worker, record)
        assert key is not None, "what is held is in the order of its connection"
        self.parked[key] = deque((Parked(worker, record, 0),))
        self._held.append(key)

    def take_held(self) -> list[Key]:
        held, self._held = self._held, []
        return [key for key in held if key in self.parked]

    def _window(self, wish: OnShelf) -> Window:
        """The window that will hold what is asked for; it is asked for if nobody has yet."""
        core = self._core
        room = core.room(wish.scope)
        assert room is not None, "a history that was read is a room's"
        history = room.history
        for window in history.windows:
            if not window.ready and window.first <= wish.first <= window.last:
                return window
        shelf = history.shelf
        assert shelf is not None, "what is not on the shelf is in memory or over"
        if len(self._waiting) >= core.limits.fetches_max:
            core.counters["fetches_max"] += 1
            raise Refused(ErrorCode.UNAVAILABLE, "Too many old messages are being read", _RETRY_S)
        chunks = shelf.covering(wish.first, wish.last)
        window = Window(chunks[0].first, chunks[-1].last)
        history.windows = [*history.windows, window]
        self._windows[window] = history
        self._waiting[window] = []
        core.counters["fetches"] += 1
        self.wanted.append(Fetch(wish.scope, shelf.segment_of(window.first), [_named(each) for each in chunks], window))
        return window

    def fetched(self, window: Window, entries: list[tuple[float, bytes]] | None) -> list[Key]:
        """The messages of `window`, or None: they cannot be read. Returns whose records can go on."""
        core = self._core
        if entries is None:
            core.counters["fetches_failed"] += 1
            self._windows[window].lose_from_shelf(window.last)
            self._close(window)
        else:
            window.fill(entries)
            window.until = core.now + core.limits.fetched_s
            self._windows.move_to_end(window)
            self._make_room()
            self._arm()
        return self._waiting.pop(window)

    def _make_room(self) -> None:
        held = sum(window.bytes for window in self._windows)
        for window in list(self._windows)[:-1]:
            if held <= self._core.limits.fetched_bytes_max:
                return
            if window.ready:
                held -= window.bytes
                self._core.counters["fetched_bytes_max"] += 1
                self._close(window)

    def _close(self, window: Window) -> None:
        history = self._windows.pop(window)
        history.windows = [each for each in history.windows if each is not window]

    def expire(self) -> None:
        self._armed = False
        for window in [each for each in self._windows if each.ready and each.until <= self._core.now]:
            self._close(window)
        self._arm()

    def _arm(self) -> None:
        due = min((window.until for window in self._windows if window.ready), default=None)
        if due is not None and not self._armed:
            self._armed = True
            self._core.timers.add(due, Timer.WINDOW)

    def everything(self, scope: str) -> Fetch | None:
        """All that is on the shelf of `scope`, to be read at once: nobody waits for it."""
        room = self._core.room(scope)
        shelf = room.history.shelf if room is not None else None
        if shelf is None:
            return None
        chunks = [_named(each) for each in shelf.chunks]
        return Fetch(scope, shelf.oldest_segment, chunks, Window(chunks[0][0], shelf.last))

    def lose(self, scope: str) -> None:
        room = self._core.room(scope)
        if room is not None and room.history.shelf is not None:
            self._core.counters["fetches_failed"] += 1
            room.history.lose_from_shelf(room.history.shelf.last)

    def take(self, key: Key) -> deque[Parked]:
        """What waits under `key`, in order; it waits no more."""
        return self.parked.pop(key, deque())

    def drop(self, worker: int) -> None:
        """The worker is gone; what its connections asked for concerns nobody."""
        for key in [key for key in self.parked if key[0] == worker]:
            del self.parked[key]


def _named(chunk: Chunk) -> tuple[int, int, int]:
    return chunk.first, chunk.last, chunk.crc
