"""Tokens that are not good any more though they have not expired: what every worker knows of them.

    a user     every token of the user that was issued up to then, or does not say when
    a token    the token with this `jti`

An entry is known for as long as a token that it concerns could still be shown (`until`, Unix time; None: for good), and
that bounds the table. The broker decides, keeps what it decided (`broker.revoking`) and tells every worker.
"""

from __future__ import annotations

import math
from typing import NamedTuple

USER, TOKEN, SESSION = "user", "token", "session"


class Revocation(NamedTuple):
    before: float
    until: float | None


class Revocations:
    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Revocation] = {}
        # When the first of them is over.
        self._due = math.inf

    def __len__(self) -> int:
        return len(self._known)

    def add(self, what: str, name: str, revocation: Revocation) -> None:
        self._known[what, name] = revocation
        self._due = min(self._due, _end(revocation))

    def refuse(self, user: str, token_id: str | None, issued_at: float | None, now: float) -> bool:
        """Whether what was issued to `user` at `issued_at` is revoked."""
        known = self._known
        if not known:
            return False
        found = known.get((USER, user))
        if found is not None and concerns(found, issued_at) and _is_in_force(found, now):
            return True
        found = known.get((TOKEN, token_id)) if token_id is not None else None
        return found is not None and _is_in_force(found, now)

    def expire(self, now: float) -> None:
        """Forget what no token can be shown against any more."""
        if now < self._due:
            return
        for key in [key for key, found in self._known.items() if not _is_in_force(found, now)]:
            del self._known[key]
        self._due = min((_end(found) for found in self._known.values()), default=math.inf)


def concerns(revocation: Revocation, issued_at: float | None) -> bool:
    """Whether a token that was issued then is one of those that are revoked with their user. `iat` has whole seconds:
    of the second in which it was decided, all are."""
    return issued_at is None or issued_at <= revocation.before


def _is_in_force(revocation: Revocation, now: float) -> bool:
    return now < _end(revocation)


def _end(revocation: Revocation) -> float:
    return math.inf if revocation.until is None else revocation.until
