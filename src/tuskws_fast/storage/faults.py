"""A disk that fails on demand, and a process that dies on demand: for tests of the real processes, never for service.

The variable `TUSKWS_FAULTS` names a file; without it nothing here is used. While the file exists, each line of it is
a fault:

    write EIO          this operation of `Files` fails with this error
    die written        the process ends, as by SIGKILL, the next time this step is reached; the line is then used up
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tuskws_fast.storage.files import Files

VARIABLE = "TUSKWS_FAULTS"
KILLED = 137


class FaultyFiles(Files):
    def __init__(self, script: Path) -> None:
        self._script = script

    def _lines(self) -> list[str]:
        return self._script.read_text().splitlines() if self._script.exists() else []

    def _fail(self, operation: str) -> None:
        for line in self._lines():
            name, _, error = line.partition(" ")
            if name == operation:
                number = getattr(errno, error)
                raise OSError(number, os.strerror(number))

    def open(self, path: Path, size: int) -> int:
        self._fail("open")
        return super().open(path, size)

    def write(self, fd: int, data: bytes, at: int) -> None:
        self._fail("write")
        super().write(fd, data, at)

    def sync(self, fd: int) -> None:
        self._fail("sync")
        super().sync(fd)

    def reached(self, step: str) -> None:
        lines = self._lines()
        if f"die {step}" in lines:
            lines.remove(f"die {step}")
            self._script.write_text("\n".join(lines))
            os._exit(KILLED)


def files_to_use() -> Files:
    script = os.environ.get(VARIABLE)
    return FaultyFiles(Path(script)) if script else Files()
