"""Who is in one room, counted in users; and which workers have to hear about it.

    users      alice → (conn 5, conn 9)     two tabs are one member: only the first and the last session matter
    ghosts     {9}                          its connection was lost, the grace is running: still a member,
    interest   worker 0 → 1                 … but no socket of worker 1 wants this room's publications any more

`workers` is `interest` as a tuple, made when a worker's first member joins or its last one leaves, because fan-out
reads it for every publication and membership changes far less often.

A user's sessions are a tuple, not a set: it is one in nearly every case, and 48 bytes instead of 216.
"""

from __future__ import annotations


class Membership:
    __slots__ = ("_interest", "ghosts", "users", "workers")

    def __init__(self) -> None:
        self.users: dict[str, tuple[int, ...]] = {}
        self.ghosts: set[int] = set()
        self.workers: tuple[int, ...] = ()
        self._interest: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.users)

    def __contains__(self, user: str) -> bool:
        return user in self.users

    def join(self, user: str, conn: int, worker: int) -> bool:
        """`conn` is a session of `user` from here on. True: it is the user's first in this room."""
        conns = self.users.get(user, ())
        assert conn not in conns, "a session joins a room once"
        self.users[user] = (*conns, conn)
        count = self._interest.get(worker, 0)
        self._interest[worker] = count + 1
        if count == 0:
            self.workers = tuple(self._interest)
        return not conns

    def leave(self, user: str, conn: int, worker: int) -> bool:
        """`conn` (a session of `user` here, live or ghost) is out. True: it was the user's last."""
        if conn in self.ghosts:
            self.ghosts.discard(conn)
        else:
            self._lose_interest(worker)
        rest = tuple(other for other in self.users[user] if other != conn)
        if rest:
            self.users[user] = rest
            return False
        del self.users[user]
        return True

    def lose(self, conn: int, worker: int) -> None:
        """The connection of `conn` is gone but its membership stays for the grace."""
        if conn not in self.ghosts:
            self.ghosts.add(conn)
            self._lose_interest(worker)

    def _lose_interest(self, worker: int) -> None:
        count = self._interest[worker] - 1
        if count:
            self._interest[worker] = count
        else:
            del self._interest[worker]
            self.workers = tuple(self._interest)

    def interest(self) -> dict[int, int]:
        """Live sessions by worker."""
        return dict(self._interest)
