"""What happened, in the order in which the auditor saw it: one JSON array a line, `[kind, t, …]`, t in microseconds.

    run      t, {seed, scenario, keep …}                         the first line
    phase    t, name                                             `calm`, `faults`, `quiet` …
    fault    t, what, target                                     `kill`, "worker 1"; done by us at t
    dark     t, powerless                                        every process is dead (true: and the power is off)
    cut      t                                                   what was not synced is gone; the node starts again
    damage   t, what                                             a file of the journal is not what it was
    alarm    t                                                   … and the node that started on it says so
    open     t, conn, user, worker                               a connection is welcomed; `conn` counts through the run
    close    t, conn, code                                       it is gone (1006: without a Close)
    say      t, conn, room, key, level                           a publication is sent, with `key` as its id
    ack      t, conn, room, key, epoch, offset, level            … is acknowledged
    refuse   t, conn, room, key, code                            … is refused
    join     t, conn, room, since, epoch, offset, recovered      `since` is [epoch, offset] or null
    leave    t, conn, room
    old      t, conn, room, epoch, offset, key                   a message replayed after `join`
    hear     t, conn, room, epoch, offset, key                   a message pushed
    gap      t, conn, room, epoch, from, to
    status   t, conn, status                                     presence that this connection has been granted
    write    t, conn, to, key, level                             a private message is sent
    posted   t, conn, to, key, offset, level                     … is acknowledged
    returned t, conn, to, key, code                              … is refused
    post     t, conn, epoch, offset, key                         … is pushed to its user
    confirm  t, conn, epoch, offset                              its user says that it has all up to this one
    inbox    t, user, [[epoch, offset, key] …]                   all that a new connection of the user is sent
    ban      t, room, user                                       is acknowledged
    door     t, room, user, code                                 what who was banned hears, "" if they may join
    kept     t, room, epoch, offset, [[epoch, offset, key] …]    all of the room's history, as the server gives it
    pass     t, user, room                                       somebody comes who joins the room and does nothing
    gone     t, user                                             … and is cut off, for good
    members  t, room, [[user, status] …]                         who is in the room, as the server says
    view     t, conn, room, [[user, status] …]                   the same as this connection was told, push by push
                                                                 (null: no status was told)
    odd      t, conn, text                                       what no server should ever send

Text, because a failing run is read by people with `grep`; arrays, because there are ten million of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

FLUSH_LINES = 2_000


class Chronicle:
    """Writes to `path`. Room names, keys and epochs need no escaping in JSON, which `hear` makes use of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._lines: list[bytes] = []
        self._began = time.monotonic()

    def now(self) -> int:
        return int((time.monotonic() - self._began) * 1e6)

    def write(self, kind: str, *fields: Any) -> None:
        self._lines.append(orjson.dumps((kind, self.now(), *fields)))
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def hear(self, t: int, conn: int, room: str, epoch: str, offset: int, key: str) -> None:
        """As `write("hear", …)`, which is what nearly all lines are."""
        self._lines.append(
            b'["hear",%d,%d,"%b","%b",%d,"%b"]' % (t, conn, room.encode(), epoch.encode(), offset, key.encode())
        )
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._file.write(b"\n".join(lines) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()


def events(path: Path) -> Iterator[list[Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)
