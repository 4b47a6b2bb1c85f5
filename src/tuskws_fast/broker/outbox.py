"""The broker's way to its workers: decided records out, in order, without ever waiting for one of them.

A worker whose ring is full loses publications, never anything else (ipc/link). For each room that lost one it is told
where the room stands (`Position`), once, until it asks for what it missed; so a dropped *last* message is found too,
by the one process that knows that it dropped it. A worker that lets even the overflow fill is reported, to be replaced.
"""

from __future__ import annotations

from collections.abc import Callable

from tuskws_fast.ipc.link import Link, LinkOverrun, LinkPoisoned
from tuskws_fast.ipc.records import DownRecord, Position


class Outbox:
    """`position(room)` is the room's (epoch, offset) now; `give_up(worker, reason)` is called for a hopeless link."""

    def __init__(
        self,
        position: Callable[[str], tuple[str, int] | None],
        give_up: Callable[[int, str], None],
    ) -> None:
        self.links: dict[int, Link] = {}
        self.drops = 0
        self.full = 0
        self._position = position
        self._give_up = give_up
        self._unflushed: set[int] = set()
        self._told: dict[int, set[str]] = {}

    def send(self, decided: list[tuple[int, DownRecord]]) -> None:
        """Queue what the engine decided; `flush` lets the workers see it."""
        links, unflushed = self.links, self._unflushed
        for worker, record in decided:
            link = links.get(worker)
            if link is None:
                # Between a worker's death and its successor: its connections are gone, nobody is there to hear.
                continue
            try:
                if not link.send(record):
                    self.drops += 1
            except (LinkOverrun, LinkPoisoned) as error:
                self._lose(worker, str(error))
                continue
            unflushed.add(worker)

    def flush(self) -> None:
        """Publish what was sent: one store and at most one wake-up a worker, however many records."""
        unflushed, self._unflushed = self._unflushed, set()
        for worker in unflushed:
            link = self.links.get(worker)
            if link is None:
                continue
            try:
                for room in link.take_dropped_rooms():
                    self._tell_position(worker, link, room)
                link.flush()
                if link.congested:
                    self.full += 1
            except (LinkOverrun, LinkPoisoned) as error:
                self._lose(worker, str(error))

    def wake(self) -> None:
        """A bell rang: some worker may have made room for what waits."""
        self._unflushed.update(worker for worker, link in self.links.items() if link.congested)

    def asked(self, worker: int, room: str) -> None:
        """The worker asks what it missed of `room`: the next loss there is news again."""
        self._told.get(worker, set()).discard(room)

    def drop_worker(self, worker: int) -> None:
        self.links.pop(worker, None)
        self._told.pop(worker, None)
        self._unflushed.discard(worker)

    def _tell_position(self, worker: int, link: Link, room: str) -> None:
        told = self._told.setdefault(worker, set())
        position = self._position(room)
        if room not in told and position is not None:
            told.add(room)
            link.send(Position(room, *position))

    def _lose(self, worker: int, reason: str) -> None:
        self.drop_worker(worker)
        self._give_up(worker, reason)
