"""Who may do what: a claim is turned into a set of rights once, a room adds its own, nothing ever takes one away.

A session's claims live in its worker, a room's settings in the broker. So the worker sends with each command the
rights that the *claims* grant for that room (a small bit set), and the broker decides with what the room says:

    allowed(join)  =  rights & JOIN  or  the room is public  or  creator, invited

Pure; knows neither sockets nor records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

JOIN, PUBLISH, HISTORY, PRESENCE, CREATE, MODERATE = 1, 2, 4, 8, 16, 32
EVERYTHING = JOIN | PUBLISH | HISTORY | PRESENCE | CREATE | MODERATE

ACTIONS: Mapping[str, int] = {
    "join": JOIN,
    "publish": PUBLISH,
    "history": HISTORY,
    "presence": PRESENCE,
    "create": CREATE,
    "moderate": MODERATE,
}


def rights_of(names: Iterable[str]) -> int:
    """The bit set of action names; unknown names grant nothing."""
    rights = 0
    for name in names:
        rights |= ACTIONS.get(name, 0)
    return rights


def matches(pattern: str, room: str) -> bool:
    """A pattern is an exact room name, or a prefix ending in `*`."""
    return room.startswith(pattern[:-1]) if pattern.endswith("*") else room == pattern


class Grants:
    """What one identity's claims grant. Immutable; shared by the connections of a session."""

    __slots__ = ("everywhere", "patterns")

    def __init__(self, everywhere: int = 0, patterns: tuple[tuple[str, int], ...] = ()) -> None:
        self.everywhere = everywhere
        self.patterns = patterns

    @classmethod
    def from_claims(
        cls, roles: Iterable[str], permissions: Iterable[str], rooms: Mapping[str, Iterable[str]]
    ) -> Grants:
        if "admin" in roles:
            return cls(EVERYTHING)
        return cls(rights_of(permissions), tuple((pattern, rights_of(names)) for pattern, names in rooms.items()))

    def for_room(self, room: str) -> int:
        rights = self.everywhere
        for pattern, more in self.patterns:
            if matches(pattern, room):
                rights |= more
        return rights


NO_GRANTS = Grants()
