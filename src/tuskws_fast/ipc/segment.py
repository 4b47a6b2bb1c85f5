"""Shared memory of one node: anonymous, sealed, fully allocated. The only file of the project that maps memory.

A segment is a memfd, so it has no name in any directory: who has not inherited its descriptor (or been handed it over
a control socket) cannot open it, and it is gone with the last process that holds it. What can go wrong with shared
memory goes wrong at `create`, not later:

    all of it is allocated at once      a full machine is an error at start, not a SIGBUS in the middle of a write;
                                        and asked for first, because the kernel would rather kill others than refuse
    it can neither shrink nor grow      sealed: no peer can cut the memory off under us; `from_fd` insists on it
    only our own user may open it       a memfd is born 0777, and /proc/PID/fd would let the group in
    who is handed one maps all pages    no fault at each page's first use, and what was allocated is seen (PSS)

`buffer` is the whole memory. Rings and tables hold on to it until they are closed; then `close` succeeds.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from tuskws_fast.errors import TuskwsError

NAME_PREFIX = "tuskws-"
# Not executable for good, since Linux 6.3; Python has no name for it before 3.14.
_MFD_NOEXEC_SEAL = 0x0008
_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class SegmentError(TuskwsError):
    """The descriptor is no segment of ours."""


class Segment:
    """One piece of shared memory and its descriptor; both are the segment's until `close`."""

    def __init__(self, fd: int, size: int, flags: int = mmap.MAP_SHARED) -> None:
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.buffer = memoryview(self._map)

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """Zeroed memory of `size` bytes, shown as `/memfd:tuskws-<name>`. `OSError` when there is not enough."""
        available = _available_bytes()
        if size > available:
            raise OSError(errno.ENOMEM, f"segment {name} needs {size} bytes of memory, {available} are available")
        fd = _memfd(NAME_PREFIX + name)
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SIZE_SEALS | fcntl.F_SEAL_SEAL)
            return cls(fd, size)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def from_fd(cls, fd: int) -> Segment:
        """Maps a segment that another process created. The descriptor belongs to the segment only on success."""
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise SegmentError(f"descriptor {fd} is no memfd: {error.strerror}") from error
        if seals & _SIZE_SEALS != _SIZE_SEALS:
            raise SegmentError(f"descriptor {fd} is not sealed: its memory could vanish while it is used")
        return cls(fd, os.fstat(fd).st_size, mmap.MAP_SHARED | mmap.MAP_POPULATE)

    def close(self) -> None:
        """Unmaps and closes. `BufferError` while a ring or table still holds on to the memory. Twice does no harm."""
        self.buffer.release()
        self._map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _available_bytes() -> int:
    """What the kernel could give without swapping. A memfd has no limit of its own: `posix_fallocate` of too much ends
    not in ENOSPC but in the OOM killer, which takes processes that have nothing to do with it."""
    with open("/proc/meminfo", "rb") as meminfo:
        for line in meminfo:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError(errno.ENOSYS, "/proc/meminfo does not say what memory is available")


def _memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)
