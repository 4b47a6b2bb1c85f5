"""Whether members still believe the truth about who is in their rooms, when a broker has died.

    Push(…, told) ─▶ worker keeps `told` ─▶ Restore(…, told) ─▶ claim ─▶ the grace ─▶ not what is: `room_members`

Who was waiting in its grace, or lost with a worker, died with the broker's memory; a push may have reached one worker
and not another. No process knows what was told; but each worker knows the sum of it (`rooms.presence.mark`), and where
the new broker's sum is the same, so are the lists. Where it is not, those who are missing have the grace to come back
in; then the room's members are told the whole list. That costs nothing where nothing was lost, whatever the number of
rooms.
"""

from __future__ import annotations

from collections.abc import Iterator

from tuskws_fast.broker.state import Core, Room
from tuskws_fast.broker.timers import Timer


class Views:
    def __init__(self, core: Core) -> None:
        self._core = core
        # Room → worker → what its members were told last. From `compare` on: of rooms that were found to be different.
        self._claims: dict[str, dict[int, int]] = {}
        self._due = 0.0

    def claim(self, room: Room, worker: int, told: int) -> None:
        self._claims.setdefault(room.name, {})[worker] = told

    def told(self, room: Room) -> int:
        """What members know who have been told everything until now; 0 where some may have been told something else."""
        return 0 if room.name in self._claims else room.told

    def compare(self) -> None:
        """Workers have claimed everything: keep in mind which rooms are to be looked at again."""
        core = self._core
        for name, claims in list(self._claims.items()):
            room = core.room(name)
            if room is None or all(told == room.told for told in claims.values()):
                del self._claims[name]
        if self._claims:
            self._due = core.now + core.limits.grace_s
            core.timers.add(self._due, Timer.VIEWS)

    def wrong(self) -> Iterator[tuple[Room, list[int]]]:
        """The rooms, each once, and which workers' members believe something else; none before it is time."""
        core = self._core
        while self._claims and core.now >= self._due:
            name, claims = self._claims.popitem()
            room = core.room(name)
            if room is None:
                continue
            workers = [w for w, told in claims.items() if told != room.told and w in room.members.workers]
            if workers:
                yield room, workers

    def go_on_later(self) -> None:
        if self._claims:
            self._core.timers.add(self._core.now + self._core.limits.presence_tick_s, Timer.VIEWS)
