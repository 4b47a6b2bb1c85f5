"""Whether members still believe the truth about who is in their rooms, when a broker has died.

    Push(…, told) ─▶ worker keeps `told` ─▶ Restore(…, told) ─▶ claim ─▶ the grace ─▶ not what is: `room_members`

Who was waiting in its grace, or lost with a worker, died with the broker's memory; a push may have reached one worker
and not another. No process knows what was told; but each worker knows the sum of it (`rooms.presence.mark`), and where
the new broker's sum is the same, so are the lists. Where it is not, those who are missing have the grace to come back
in; then the room's members are told the whole list. That costs nothing where nothing was lost, whatever the number of
rooms.

Who watches everybody is treated in the same way, with one sum over all users. The whole list may be very long, and most
of it was never asked for: so they are told that they have to ask again.
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
        # Worker → what those there were told last who watch everybody.
        self._of_watchers: dict[int, int] = {}
        self._armed = False

    def claim(self, room: Room, worker: int, told: int) -> None:
        self._claims.setdefault(room.name, {})[worker] = told

    def claim_watchers(self, worker: int, told: int) -> None:
        self._of_watchers[worker] = told

    @property
    def told_watchers(self) -> int:
        """As `told`, of those who watch everybody."""
        return 0 if self._of_watchers else self._core.told

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
        watched = {w: told for w, told in self._of_watchers.items() if w in core.watchers}
        self._of_watchers = watched if any(told != core.told for told in watched.values()) else {}
        # One who announces itself later does not put off what others wait for.
        self._arm(core.limits.grace_s)

    def wrong(self) -> Iterator[tuple[Room, list[int]]]:
        """Now it is time. The rooms, each once, and which workers' members believe something else."""
        self._armed = False
        while self._claims:
            name, claims = self._claims.popitem()
            room = self._core.room(name)
            if room is None:
                continue
            workers = [w for w, told in claims.items() if told != room.told and w in room.members.workers]
            if workers:
                yield room, workers

    def wrong_watchers(self) -> list[int]:
        """As `wrong`: the workers where somebody watches everybody and believes something else."""
        core = self._core
        claims, self._of_watchers = self._of_watchers, {}
        return [w for w, told in claims.items() if told != core.told and w in core.watchers]

    def go_on_later(self) -> None:
        self._arm(self._core.limits.presence_tick_s)

    def _arm(self, delay_s: float) -> None:
        if (self._claims or self._of_watchers) and not self._armed:
            self._armed = True
            self._core.timers.add(self._core.now + delay_s, Timer.VIEWS)
