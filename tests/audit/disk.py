"""The journal's files on a disk that fails when it is told to, tears a write in two, and remembers what was synced.

Where `AUDIT_BUILD/disk` exists it holds what a loss of power would leave for certain: a copy of each file as its last
sync saw it (by a number that the file carries as an attribute), and in `names` the directory as its last sync saw it.
A write counts as synced if it was done before the sync *began*. The copies outlive the process that made them, so what
a killed broker had not synced is not synced for its successor either.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tuskws_fast.storage.files import Files
from tuskws_fast.storage.format import MARK_MAGIC
from tuskws_fast.storage.settings import FILE, MARK, SettingsFile

if TYPE_CHECKING:
    from audit.build import Switches

ATTRIBUTE = "user.audit"
NAMES = "names"
# Beside `disk`: the settings' log and mark as their last sync saw them, and the database as it was then.
SETTINGS = "disk-settings"
LOGS = (f"{FILE}-wal", MARK)


def number_of(path: Path | int) -> str:
    """Which file this is, over renames; an inode's number is used again."""
    try:
        return os.getxattr(path, ATTRIBUTE).decode()
    except OSError:
        number = secrets.token_hex(8)
        os.setxattr(path, ATTRIBUTE, number.encode())
        return number


class AuditedSettings(SettingsFile):
    def __init__(self, path: Path, boot: bytes, switches: Switches) -> None:
        super().__init__(path, boot)
        self._disk = switches.directory / SETTINGS
        self._remembers = (switches.directory / "disk").exists()

    def sync(self) -> None:
        if not self._remembers:
            super().sync()
            return
        # The mark is written by what is called; how it was is what is certain until it returns.
        log, database = (self._path.with_name(name).read_bytes() for name in (LOGS[0], FILE))
        super().sync()
        self._disk.mkdir(exist_ok=True)
        for name, content in ((LOGS[0], log), (FILE, database)):
            fresh = self._disk / f"{name}.new"
            fresh.write_bytes(content)
            fresh.rename(self._disk / name)


class AuditedFiles(Files):
    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._disk = switches.directory / "disk"
        self._remembers = self._disk.exists()
        # What this process wrote to each file since its last sync: (at, length).
        self._unsynced: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._numbers: dict[int, str] = {}

    def open(self, path: Path, size: int) -> int:
        self._switches.check("open")
        fd = super().open(path, size)
        if self._remembers:
            self._numbers[fd] = number_of(fd)
            # What others wrote to it before us, and when they synced it, is not known here.
            self._unsynced[fd] = [(0, os.fstat(fd).st_size)]
        return fd

    def reopen(self, path: Path) -> int:
        fd = super().reopen(path)
        if self._remembers:
            self._numbers[fd] = number_of(fd)
            self._unsynced[fd] = [(0, os.fstat(fd).st_size)]
        return fd

    def write(self, fd: int, data: bytes, at: int) -> None:
        self._switches.check("write")
        is_mark = data[: len(MARK_MAGIC)] == MARK_MAGIC
        if is_mark:
            self._switches.reached("written")
        elif self._switches.waits("torn"):
            os.pwrite(fd, data[: len(data) // 2], at)
            self._switches.reached("torn")
        super().write(fd, data, at)
        if self._remembers:
            self._unsynced[fd].append((at, len(data)))

    def sync(self, fd: int) -> None:
        self._switches.check("sync")
        if not self._remembers:
            super().sync(fd)
            return
        written, self._unsynced[fd] = self._unsynced[fd], []
        pieces = [(at, os.pread(fd, length, at)) for at, length in written]
        size = os.fstat(fd).st_size
        super().sync(fd)
        copy = os.open(self._disk / self._numbers[fd], os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for at, data in pieces:
                os.pwrite(copy, data, at)
            if os.fstat(copy).st_size < size:
                os.ftruncate(copy, size)
        finally:
            os.close(copy)

    def sync_directory(self, path: Path) -> None:
        names = {}
        if self._remembers:
            names = {each.name: number_of(each) for each in path.iterdir() if each.is_file()}
        super().sync_directory(path)
        if self._remembers:
            fresh = self._disk / f"{NAMES}.new"
            fresh.write_text(json.dumps(names))
            fresh.rename(self._disk / NAMES)
