"""The key that makes session tickets genuine, kept beside the journal: a ticket of before a restart is then known to be
old, and not taken for a forgery.

    DIR/ticket.key      32 random bytes, for the owner's eyes only

A file that is not a key (cut short by a crash) is replaced: no session of before the start could be resumed anyway.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from tuskws_fast.errors import BootError

FILE = "ticket.key"
KEY_BYTES = 32


def ticket_key(directory: Path) -> bytes:
    """The node's key, made if need be. The directory is claimed. Raises `BootError`."""
    path = directory / FILE
    try:
        with contextlib.suppress(FileNotFoundError):
            key = path.read_bytes()
            if len(key) == KEY_BYTES:
                return key
        key = secrets.token_bytes(KEY_BYTES)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except OSError as error:
        raise BootError(f"{path} cannot be read or made: {error.strerror}") from error
    return key
