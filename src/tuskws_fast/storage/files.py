"""The few things the journal asks of the operating system, in one object, so that a test can put a bad disk there.

Everything raises `OSError`; nothing is retried and nothing is hidden. Paths are made by the caller.
"""

from __future__ import annotations

import os
from pathlib import Path


class Files:
    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, directory: Path) -> list[str]:
        return sorted(os.listdir(directory))

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def read_at(self, fd: int, length: int, at: int) -> bytes:
        return os.pread(fd, length, at)

    def open(self, path: Path, size: int) -> int:
        """The file, made if need be, with at least `size` bytes whose blocks are taken: writing them finds no full
        disk later."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            raise
        return fd

    def reopen(self, path: Path) -> int:
        """A file that is there, to sync what another process has written to it."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write(self, fd: int, data: bytes, at: int) -> None:
        """All of `data`, or an error; then some of it may have been written."""
        done = os.pwrite(fd, data, at)
        while done < len(data):
            more = os.pwrite(fd, data[done:], at + done)
            if more == 0:
                raise OSError(5, "nothing was written")
            done += more

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def close(self, fd: int) -> None:
        os.close(fd)
