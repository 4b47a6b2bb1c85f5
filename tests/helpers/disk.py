"""Disks that do what disks do: forget what was not synced, refuse, and lie.

`PowerCutFiles` is a real directory of which it also knows what has reached the disk. `cut(choose)` leaves there what a
loss of power may leave: what was synced, and of what was not, any blocks that `choose` picks; of names that no
`sync_directory` covered, any.

`FailingFiles` refuses every operation whose name is in `failing` with that error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from tuskws_fast.storage.files import Files

BLOCK = 512


class PowerCutFiles(Files):
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Content on the disk, by inode, and the names on the disk.
        self._contents: dict[int, bytes] = {}
        self._names: dict[str, int] = {}

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self._contents[os.fstat(fd).st_ino] = os.pread(fd, os.fstat(fd).st_size, 0)

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        if path == self._directory:
            self._names = self._now()

    def _now(self) -> dict[str, int]:
        return {entry.name: entry.stat().st_ino for entry in self._directory.iterdir() if entry.is_file()}

    def cut(self, choose: Callable[[], bool]) -> None:
        """The power goes. `choose` decides for each thing that may or may not have reached the disk."""
        now = {entry.name: (entry.stat().st_ino, entry.read_bytes()) for entry in self._directory.iterdir()}
        content_of = dict(now.values())
        left: dict[str, bytes] = {}
        for name in {**self._names, **now}:
            old, new = self._names.get(name), now.get(name, (None, b""))[0]
            inode = new if old != new and choose() else old
            if inode is not None and (inode in content_of or inode in self._contents):
                left[name] = self._content(inode, content_of.get(inode, b""), choose)
        for name in now:
            (self._directory / name).unlink()
        for name, data in left.items():
            (self._directory / name).write_bytes(data)

    def _content(self, inode: int, cached: bytes, choose: Callable[[], bool]) -> bytes:
        synced = self._contents.get(inode, b"")
        data = bytearray(cached or synced)
        for at in range(0, len(data), BLOCK):
            old = synced[at : at + BLOCK].ljust(len(data[at : at + BLOCK]), b"\0")
            if data[at : at + BLOCK] != old and not choose():
                data[at : at + BLOCK] = old
        return bytes(data)


class FailingFiles(Files):
    def __init__(self) -> None:
        self.failing: dict[str, int] = {}

    def _check(self, name: str) -> None:
        if name in self.failing:
            number = self.failing[name]
            raise OSError(number, os.strerror(number))

    def open(self, path: Path, size: int) -> int:
        self._check("open")
        return super().open(path, size)

    def write(self, fd: int, data: bytes, at: int) -> None:
        self._check("write")
        super().write(fd, data, at)

    def sync(self, fd: int) -> None:
        self._check("sync")
        super().sync(fd)

    def full(self) -> None:
        self.failing["open"] = errno.ENOSPC
