"""Who is in one room, counted in users; and which workers have to hear about it.

    _conns     alice → 5, bob → (6, 9)      two tabs are one member: only the first and the last session matter
    ghosts     {9}                          its connection was lost, the grace is running: still a member,
    interest   worker 0 → 1                 … but no socket of worker 1 wants this room's publications any more

`workers` holds the workers that have one, because fan-out reads it for every publication; `_counts` how many each.

There may be 100,000 of these, most of them small: what holds one or two things is a tuple (48 bytes, against 224 of a
dict and 216 of a set), equal tuples of small rooms are one, and a user's only session needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

# The same few tuples again and again. One that is pushed out is merely not shared any more.
_shared: Callable[[tuple[int, ...]], tuple[int, ...]] = lru_cache(maxsize=4096)(tuple)


class Membership:
    __slots__ = ("_conns", "_counts", "_ghosts", "workers")

    def __init__(self) -> None:
        self._conns: dict[str, int | tuple[int, ...]] = {}
        self._ghosts: set[int] | None = None
        self.workers: tuple[int, ...] = ()
        self._counts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._conns)

    def __contains__(self, user: str) -> bool:
        return user in self._conns

    def __iter__(self) -> Iterator[str]:
        """Users, in the order in which they came."""
        return iter(self._conns)

    def conns_of(self, user: str) -> tuple[int, ...]:
        """The user's sessions here, ghosts among them; none of who is no member."""
        conns = self._conns.get(user, ())
        return conns if isinstance(conns, tuple) else (conns,)

    def join(self, user: str, conn: int, worker: int) -> bool:
        """`conn` is a session of `user` from here on. True: it is the user's first in this room."""
        conns = self.conns_of(user)
        assert conn not in conns, "a session joins a room once"
        self._conns[user] = (*conns, conn) if conns else conn
        self._count(worker, 1)
        return not conns

    def leave(self, user: str, conn: int, worker: int) -> bool:
        """`conn` (a session of `user` here, live or ghost) is out. True: it was the user's last."""
        if self._ghosts is not None and conn in self._ghosts:
            self._ghosts.remove(conn)
            self._ghosts = self._ghosts or None
        else:
            self._count(worker, -1)
        rest = tuple(other for other in self.conns_of(user) if other != conn)
        if rest:
            self._conns[user] = rest if len(rest) > 1 else rest[0]
            return False
        del self._conns[user]
        return True

    def lose(self, conn: int, worker: int) -> None:
        """The connection of `conn` is gone but its membership stays for the grace."""
        if self._ghosts is None:
            self._ghosts = set()
        if conn not in self._ghosts:
            self._ghosts.add(conn)
            self._count(worker, -1)

    def _count(self, worker: int, more: int) -> None:
        """The worker has `more` live sessions here. A worker is one of few, so looking for it is cheap."""
        workers, counts = self.workers, self._counts
        if worker not in workers:
            assert more > 0, "only what joined can leave"
            self.workers, self._counts = _shared((*workers, worker)), _shared((*counts, more))
            return
        at = workers.index(worker)
        count = counts[at] + more
        if count:
            self._counts = (*counts[:at], count, *counts[at + 1 :])
        else:
            self.workers = _shared(workers[:at] + workers[at + 1 :])
            self._counts = _shared(counts[:at] + counts[at + 1 :])

    @property
    def ghosts(self) -> frozenset[int]:
        return frozenset(self._ghosts or ())

    def interest(self) -> dict[int, int]:
        """Live sessions by worker."""
        return dict(zip(self.workers, self._counts, strict=True))
