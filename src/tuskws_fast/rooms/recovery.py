"""Can a returning member be given exactly what it missed? Yes, no, or it did not ask.

    since       none              (e1, 40)                  (e1, 12)              (e0, 40)
    room        at (e1, 46), keeps 42…46, so 41 is the last position from which nothing is missing
    recovered   None: a newcomer  False: 41 is not kept     False                 False: another epoch

A position proves continuity only within one epoch. There is no partial replay: it is everything, or `False` and
nothing, so that a client never has to guess what it did not get.
"""

from __future__ import annotations

from typing import NamedTuple

from tuskws_fast.rooms.history import History


class Position(NamedTuple):
    epoch: str
    offset: int


class Replay(NamedTuple):
    """What protocol §4 calls `recovered`, and the pushes that go with it."""

    recovered: bool | None
    bodies: list[bytes]


def replay_since(
    history: History, epoch: str, base: int, since: tuple[str, int] | None, newest: int, now: float, shelf_bytes: int
) -> Replay:
    """The replay for `since`; without one, the `newest` last publications and no verdict. The epoch began after offset
    `base`: what is kept from before it belongs to another. At most `shelf_bytes` may have to be fetched: what needs
    more is not recovered. Raises `OnShelf`."""
    if since is None:
        return Replay(None, history.last(newest, now, shelf_bytes) if newest > 0 else [])
    if since[0] != epoch or since[1] < base or history.shelved_from(since[1] + 1) > shelf_bytes:
        return Replay(False, [])
    bodies = history.replay(since[1], now)
    return Replay(False, []) if bodies is None else Replay(True, bodies)


def page_since(
    history: History, epoch: str, base: int, since: tuple[str, int], limit: int | None, now: float, shelf_bytes: int
) -> tuple[Replay, int]:
    """The *oldest* publications after `since`, `limit` at most, and of what has to be fetched as much as `shelf_bytes`
    allow; and the offset of the last of them. Raises `OnShelf`."""
    if since[0] != epoch or since[1] < base:
        return Replay(False, []), history.top
    last = history.top if limit is None else min(history.top, since[1] + limit)
    if history.shelf is not None and since[1] + 1 < history.oldest_offset:
        reach = history.shelf.last_within(since[1] + 1, shelf_bytes)
        last = min(last, reach) if reach < history.shelf.last else last
    bodies = history.between(since[1] + 1, last, now) if since[1] <= last else None
    return (Replay(False, []), history.top) if bodies is None else (Replay(True, bodies), last)
