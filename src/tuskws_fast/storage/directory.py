"""The data directory: one node at a time, readable by its owner alone.

DIR/lock          held (flock) by the node's supervisor, and by its children after it, as long as one of them lives
    settings.db   see `settings`; settings.mark beside it
    journal/      see `segments`
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from tuskws_fast.errors import BootError, ConfigError

LOCK = "lock"
JOURNAL = "journal"
# The children of a node that was killed hold the lock until the kernel has ended them too.
PATIENCE_S = 2.0
LOOK_AGAIN_S = 0.05
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def claim(directory: Path, patience_s: float = PATIENCE_S) -> int:
    """Make the directory if need be and lock it. Returns the lock: keep it open. Raises `BootError`, `ConfigError`."""
    try:
        (directory / JOURNAL).mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "`--data-dir none` keeps everything in memory"
        raise ConfigError(f"data_dir: {directory} cannot be used: {error.strerror} ({hint})") from error
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError as error:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise BootError(f"data_dir: {directory} is in use by another node") from error
        time.sleep(LOOK_AGAIN_S)


def boot_id() -> bytes:
    """Which boot of the machine this is: what the page cache held is there after the death of every process of one."""
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))
