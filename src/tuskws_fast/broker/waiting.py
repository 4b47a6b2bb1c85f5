"""People without a session for whom messages wait, and who was the first to leave one.

A message may be sent to a name that nobody has, and waits as it would for anybody. So the place it takes is counted for
the sender: else one could use up what there is for all.
"""

from __future__ import annotations

from collections import Counter


class Waiting:
    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._places: Counter[str] = Counter()

    def add(self, user: str, sender: str) -> None:
        """Messages wait for `user`; `sender` left the first, "" is nobody who could be told from others."""
        if user not in self._first:
            self._first[user] = sender
            if sender:
                self._places[sender] += 1

    def discard(self, user: str) -> None:
        sender = self._first.pop(user, "")
        if sender:
            self._places[sender] -= 1
            if not self._places[sender]:
                del self._places[sender]

    def places_of(self, sender: str) -> int:
        return self._places[sender]

    def __contains__(self, user: str) -> bool:
        return user in self._first

    def __len__(self) -> int:
        return len(self._first)
