"""The facts that are no publications (settings of rooms, bans, mutes, invitations): one row each, in SQLite.

SQLite keeps a file whole over crashes, but not over a disk that lies: a flipped bit in a page is read as data. So each
row carries the CRC32C of what it says, and one row the count and the sum of all others; what does not fit is told as
damage, and the reader decides what to be careful about (`broker.keeping`: towards closed doors).

And to SQLite a damaged page of the write-ahead log is the log's end: everything saved behind it is gone without a word.
So saves are counted, in that one row and in a file of its own, the *mark*: a database of fewer saves than the mark
knows has lost some. It is told of two numbers: which saves are on the disk (`sync`), and, at once, which were made in
this boot of the machine, whose page cache outlives every process. After another boot only the first counts: power may
have been lost in between.

SQLite itself syncs its log only when it moves it into the database, every 4 MB. A loss of power took what it liked
until then: private rooms came back public, with the history that the journal had synced. So `sync` is called after each
save, and before the journal's own.

One process has it open (`locking_mode=EXCLUSIVE`): then the write-ahead log needs no shared memory file, and a full
disk does not keep anyone from reading.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuskws_fast_ext.ring import crc32c

from tuskws_fast.protocol import codec
from tuskws_fast.storage.format import MARK_SLOT_BYTES, pack_mark, unpack_mark

FILE = "settings.db"
VERSION = 2
MARK = "settings.mark"
_TALLY = "\0tally"
# Where in the mark the saves of this boot are: behind those that are on the disk.
_MADE_AT = 2 * MARK_SLOT_BYTES
# Errors of the machine, which say nothing about the file.
_NOT_NOW = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class SettingsError(Exception):
    """The file cannot be written (or, at `open`, not be read) now."""


@dataclass(slots=True)
class Facts:
    """`values`: None where the row is damaged. `lost`: rows are missing, or say another key; nothing tells which."""

    values: dict[str, Any] = field(default_factory=dict)
    damaged: int = 0
    lost: bool = False


def _crc(key: str, value: str) -> int:
    return crc32c(f"{key}\0{value}".encode())


class SettingsFile:
    def __init__(self, path: Path, boot: bytes = b"") -> None:
        """`boot` as in `storage.format.Header`."""
        self._path = path
        self._boot = int.from_bytes(boot[:8], "little")
        self._mark = path.with_name(MARK)
        self._saves = 0
        self._synced = 0
        self._connection: sqlite3.Connection | None = None
        self._crcs: dict[str, int] = {}

    def open(self) -> Facts:
        """Read everything. A file that is no database any more is set aside. Raises `SettingsError`."""
        try:
            return self._open()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # The latter where SQLite quotes what it cannot read.
            self.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_NOW:
                raise SettingsError(str(error)) from error
        aside = self._path.with_suffix(".damaged")
        try:
            self._path.rename(aside)
            for suffix in ("-wal", "-shm", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            facts = self._open()
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(str(error)) from error
        facts.lost = True
        return facts

    def _open(self) -> Facts:
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None)
        self._connection = connection
        # Text that is none is damage, found by its checksum, and no reason to stop reading.
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        self._path.chmod(0o600)
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL)"
            " WITHOUT ROWID"
        )
        return self._read(connection)

    def _read(self, connection: sqlite3.Connection) -> Facts:
        facts = Facts()
        tally = ""
        self._crcs.clear()
        for key, value, crc in connection.execute("SELECT key, value, crc FROM fact"):
            whole = isinstance(key, str) and isinstance(value, str) and crc == _crc(key, value)
            if key == _TALLY:
                tally = value if whole else "damaged"
                continue
            if not whole:
                facts.damaged += 1
            if isinstance(key, str) and isinstance(crc, int):
                facts.values[key] = codec.decode(value) if whole else None
                self._crcs[key] = crc
        rows, _, saves = tally.rpartition(" ")
        self._saves = int(saves) if saves.isdecimal() else 0
        self._synced, made = self._marked()
        marked = max(self._synced, made)
        missing = rows != self._rows() and bool(self._crcs or tally)
        facts.lost = missing or facts.damaged > 0 or self._saves < marked
        # What is saved from now on must not look older than what was lost.
        self._saves = max(self._saves, marked)
        return facts

    def _rows(self) -> str:
        """How many there are and the sum of their checksums: a row that vanished is missed."""
        return f"{VERSION} {len(self._crcs)} {sum(self._crcs.values()) & 0xFFFFFFFF}"

    def _marked(self) -> tuple[int, int]:
        """How many saves the mark knows to be on the disk, and to have been made in this boot. One that cannot be read
        knows none, and is no reason not to serve."""
        try:
            mark = self._mark.read_bytes()
        except OSError:
            return 0, 0
        return unpack_mark(mark), unpack_mark(mark[_MADE_AT:], self._boot)

    @property
    def unsynced(self) -> bool:
        return self._saves > self._synced

    def sync(self) -> None:
        """All that was saved outlives a loss of power when this returns. Waits for the disk, in any thread; raises
        `OSError`. The log alone: who opens and closes the database besides SQLite takes its lock from it."""
        saves = self._saves
        self._sync_file(self._path.with_name(self._path.name + "-wal"))
        self._write_mark(0, saves, saves)
        self._sync_file(self._path.parent)
        self._synced = max(self._synced, saves)

    @staticmethod
    def _sync_file(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _write_mark(self, at: int, saves: int, turn: int) -> None:
        fd = os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, pack_mark(saves, turn), at + (saves & 1) * MARK_SLOT_BYTES)
        finally:
            os.close(fd)

    def save(self, changes: Iterable[tuple[str, Any | None]]) -> None:
        """All of them or none; None forgets the key. Raises `SettingsError`."""
        before = dict(self._crcs)
        encoded = [(key, None if value is None else codec.encode(value).decode()) for key, value in changes]
        connection = self._connection
        if connection is None:
            raise SettingsError("it is not open")
        try:
            connection.execute("BEGIN IMMEDIATE")
            for key, value in encoded:
                if value is None:
                    self._crcs.pop(key, None)
                    connection.execute("DELETE FROM fact WHERE key = ?", (key,))
                else:
                    self._put(connection, key, value)
            tally = f"{self._rows()} {self._saves + 1}"
            connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?, ?)", (_TALLY, tally, _crc(_TALLY, tally)))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._crcs = before
            if connection.in_transaction:
                connection.rollback()
            raise SettingsError(str(error)) from error
        self._saves += 1
        # Where that fails it is saved all the same; `sync` writes to the same file, and says so.
        with contextlib.suppress(OSError):
            self._write_mark(_MADE_AT, self._saves, self._boot)

    def _put(self, connection: sqlite3.Connection, key: str, value: str) -> None:
        self._crcs[key] = _crc(key, value)
        connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?, ?)", (key, value, self._crcs[key]))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
