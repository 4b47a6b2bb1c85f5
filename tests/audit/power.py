"""What a loss of power leaves in a data directory: all that was synced, and of the rest whatever the disk had come to.

`cut` is called when every process of the node is dead. What was synced is known from `disk`; of each block that differs
from it, and each name that is newer than the last sync of the directory, `choose()` decides whether it made it.

SQLite's log is treated alike, as its last `SettingsFile.sync` saw it. The database itself is left as it is: SQLite
syncs the log before it changes the database, and the database before it uses the log again. That it can be trusted with
this is not audited here; where it has just done so the log is left alone too.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

from audit.disk import LOGS, NAMES, SETTINGS, number_of
from tuskws_fast.storage.settings import FILE

BLOCK = 512


def cut(journal: Path, build: Path, choose: Callable[[], bool]) -> None:
    disk = build / "disk"
    synced_names: dict[str, str] = json.loads((disk / NAMES).read_text()) if (disk / NAMES).exists() else {}
    now = {each.name: number_of(each) for each in journal.iterdir() if each.is_file()}
    cached = {number: (journal / name).read_bytes() for name, number in now.items()}
    left: dict[str, tuple[str, bytes]] = {}
    for name in synced_names.keys() | now.keys():
        old, new = synced_names.get(name), now.get(name)
        number = new if old != new and choose() else old
        if number is not None:
            left[name] = (number, _content(disk / number, cached.get(number), choose))
    for name in now:
        (journal / name).unlink()
    for each in disk.iterdir():
        each.unlink()
    for name, (_, content) in left.items():
        (journal / name).write_bytes(content)
        (disk / number_of(journal / name)).write_bytes(content)
    (disk / NAMES).write_text(json.dumps({name: number_of(journal / name) for name in left}))
    (build / "boot").write_text(secrets.token_hex(16))


def cut_settings(data: Path, build: Path, choose: Callable[[], bool]) -> None:
    disk = build / SETTINGS
    copied = (disk / FILE).read_bytes() if (disk / FILE).exists() else None
    if not (data / FILE).exists() or copied not in (None, (data / FILE).read_bytes()):
        return
    disk.mkdir(exist_ok=True)
    for name in LOGS:
        if (data / name).exists():
            left = _content(disk / name, (data / name).read_bytes(), choose)
            (data / name).write_bytes(left)
            (disk / name).write_bytes(left)


def _content(copy: Path, cached: bytes | None, choose: Callable[[], bool]) -> bytes:
    synced = copy.read_bytes() if copy.exists() else b""
    if cached is None:
        # Removed, and the removal was not synced: nothing was written to it any more.
        return synced
    data = bytearray(cached)
    for at in range(0, len(data), BLOCK):
        old = synced[at : at + BLOCK].ljust(len(data[at : at + BLOCK]), b"\0")
        if data[at : at + BLOCK] != old and not choose():
            data[at : at + BLOCK] = old
    return bytes(data)
