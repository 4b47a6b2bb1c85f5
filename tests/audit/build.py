"""The node with what a test needs inside it: `python -m audit.build --port …` instead of `python -m tuskws_fast`.

What is here wraps the seams of the real modules before the supervisor forks, so the package itself has no hook and no
branch for it. `AUDIT_BUILD` names a directory:

    switches            one page, shared: is there anything to look at? (one byte a step or operation, and the clock)
    die-STEP            the next process to reach STEP removes the file and is killed by SIGKILL, there and then
    fail-OPERATION      an operation on the journal's files fails with the error named in the file, while it is there
    disk/               what has reached the disk, for `power`; only where the directory exists
    boot                the boot that the broker believes in, where the file exists

The steps of a publication, in its order:

    worker   asked        the record is in the ring, not committed
             sent         committed: the broker can see it
    broker   taken        off the ring, not ordered
             ordered      it has its offset; nothing is written
             torn         half of the batch is written
             written      all of it, not the mark
             marked       written; nobody is told
             told         in the workers' rings, not committed there
             flushed      committed: the workers can see it
    worker   answered     off the ring; no client has been told
             queued       framed and queued for the members; not handed to the kernel
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

VARIABLE = "AUDIT_BUILD"
STEPS = ("asked", "sent", "taken", "ordered", "torn", "written", "marked", "told", "flushed", "answered", "queued")
BROKER_STEPS = STEPS[2:9]
OPERATIONS = ("open", "write", "sync")
_NAMES = (*STEPS, *OPERATIONS)
_CLOCK_AT = 1024
_PAGE = 4096


class Switches:
    """Both ends of the directory: the auditor sets, the processes look."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / "switches"
        if not path.exists():
            path.write_bytes(bytes(_PAGE))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _PAGE)

    # -- the auditor's end ---------------------------------------------------------------------------------------------

    def arm(self, step: str) -> None:
        (self.directory / f"die-{step}").touch()
        self._page[_NAMES.index(step)] = 1

    def armed(self, step: str) -> bool:
        return (self.directory / f"die-{step}").exists()

    def disarm(self, step: str) -> bool:
        """False: somebody has died of it."""
        self._page[_NAMES.index(step)] = 0
        try:
            (self.directory / f"die-{step}").unlink()
        except FileNotFoundError:
            return False
        return True

    def fail(self, operation: str, error: str) -> None:
        (self.directory / f"fail-{operation}").write_text(error)
        self._page[_NAMES.index(operation)] = 1

    def heal(self) -> None:
        for operation in OPERATIONS:
            self._page[_NAMES.index(operation)] = 0
            (self.directory / f"fail-{operation}").unlink(missing_ok=True)

    def set_clock(self, offset_s: float) -> None:
        self._page[_CLOCK_AT : _CLOCK_AT + 8] = struct.pack("<d", offset_s)

    # -- the processes' end --------------------------------------------------------------------------------------------

    def reached(self, step: str) -> None:
        if self._page[_NAMES.index(step)] and self.disarm(step):
            os.kill(os.getpid(), signal.SIGKILL)

    def waits(self, step: str) -> bool:
        return bool(self._page[_NAMES.index(step)]) and self.armed(step)

    def check(self, operation: str) -> None:
        if self._page[_NAMES.index(operation)]:
            try:
                number = getattr(errno, (self.directory / f"fail-{operation}").read_text())
            except FileNotFoundError:
                return  # it ended just now
            raise OSError(number, os.strerror(number))

    def clock(self) -> float:
        return struct.unpack_from("<d", self._page, _CLOCK_AT)[0]


def install(switches: Switches) -> None:
    """Wrap the seams. Before anything of the package is imported, because some take `time` by name."""
    real_time = time.time
    time.time = lambda: real_time() + switches.clock()
    _install_disk(switches)
    _install_broker_steps(switches)
    _install_worker_steps(switches)


def around(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """`owner.name` becomes `wrapper(original, self, …)`."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        return wrapper(original, self, *arguments, **options)

    setattr(owner, name, wrapped)


def _install_broker_steps(switches: Switches) -> None:
    from tuskws_fast.broker.outbox import Outbox
    from tuskws_fast.ipc.link import Link
    from tuskws_fast.ipc.records import Publish
    from tuskws_fast.storage.entries import Published
    from tuskws_fast.storage.segments import Segments

    # A publication was written in this batch, and its workers may not know yet.
    under_way = [False]

    def drain(original: Any, self: Any, *arguments: Any) -> Any:
        batch = original(self, *arguments)
        if self.role == "broker" and any(type(record) is Publish for record in batch):
            switches.reached("taken")
        return batch

    def commit(original: Any, self: Any, entries: list[Any], wall: float) -> int:
        under_way[0] = any(type(entry) is Published and entry.tag for entry in entries)
        if under_way[0]:
            switches.reached("ordered")
        number: int = original(self, entries, wall)
        if under_way[0]:
            switches.reached("marked")
        return number

    def flush(original: Any, self: Any) -> None:
        if under_way[0]:
            switches.reached("told")
        original(self)
        if under_way[0]:
            switches.reached("flushed")
            under_way[0] = False

    around(Link, "drain", drain)
    around(Segments, "commit", commit)
    around(Outbox, "flush", flush)


def _install_worker_steps(switches: Switches) -> None:
    from tuskws_fast.ipc.records import Publication, Publish
    from tuskws_fast.worker.hub import Hub
    from tuskws_fast.worker.inbox import Inbox
    from tuskws_fast.worker.outbox import Outbox

    under_way = [False]

    def ask(original: Any, self: Any, record: Any, session: Any = None) -> None:
        original(self, record, session)
        if type(record) is Publish:
            under_way[0] = True
            switches.reached("asked")

    def flush(original: Any, self: Any) -> None:
        original(self)
        if under_way[0]:
            under_way[0] = False
            switches.reached("sent")

    def apply(original: Any, self: Any, batch: list[Any], *until: float) -> Any:
        if any(type(record) is Publication for record in batch):
            switches.reached("answered")
        return original(self, batch, *until)

    def hub_flush(original: Any, self: Any) -> None:
        original(self)
        switches.reached("queued")

    around(Outbox, "ask", ask)
    around(Outbox, "flush", flush)
    around(Inbox, "apply", apply)
    around(Hub, "flush", hub_flush)


def _install_disk(switches: Switches) -> None:
    from audit.disk import AuditedFiles, AuditedSettings
    from tuskws_fast.broker import journal
    from tuskws_fast.broker import process as broker
    from tuskws_fast.storage.directory import boot_id

    def boot() -> bytes:
        path = switches.directory / "boot"
        return bytes.fromhex(path.read_text()) if path.exists() else boot_id()

    broker.Files = lambda: AuditedFiles(switches)
    journal.SettingsFile = lambda path, boot: AuditedSettings(path, boot, switches)
    broker.boot_id = boot


def main() -> None:
    switches = Switches(Path(os.environ[VARIABLE]))
    install(switches)
    from tuskws_fast.__main__ import main as run

    # Names of its own are given to the children by the supervisor; nobody reads this one.
    sys.argv[0] = "tuskws-fast"
    run()


if __name__ == "__main__":
    main()
