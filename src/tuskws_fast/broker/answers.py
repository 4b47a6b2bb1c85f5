"""The bodies of replies and pushes that the engine makes, one function a message; and how a command is refused.

All are complete encoded objects without an `id`: the worker that knows the command adds it. Messages of histories are
encoded already and are spliced in as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuskws_fast.ipc.records import Level
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode, error_body
from tuskws_fast.rooms.history import paged

# What a page's head may grow by after it was measured: `"more":false`, an empty `"messages":[]`, and the id.
_PAGE_SLACK = 512
_LEVELS = {Level.ACCEPTED: "accepted", Level.STORED: "stored", Level.SYNCED: "synced"}


class Refused(Exception):
    """The command is answered with an error and has changed nothing: raise it before the first effect."""

    def __init__(self, code: ErrorCode, text: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.text = text
        self.retry_after = retry_after


def error(refused: Refused) -> bytes:
    return error_body(refused.code, refused.text, refused.retry_after)


def ack(room: str) -> bytes:
    return codec.encode({"type": "ack", "room": room})


def presence_ack() -> bytes:
    return b'{"type":"ack"}'


def publication_ack(room: str, epoch: str, offset: int, duplicate: bool, level: Level) -> bytes:
    fields: dict[str, Any] = {"type": "ack", "room": room, "epoch": epoch, "offset": offset, "level": _LEVELS[level]}
    if duplicate:
        fields["duplicate"] = True
    return codec.encode(fields)


def private_ack(offset: int, delivered: int, duplicate: bool, level: Level) -> bytes:
    """`delivered` is -1 where the sender may not know."""
    fields: dict[str, Any] = {"type": "ack", "offset": offset, "level": _LEVELS[level]}
    if delivered >= 0:
        fields["delivered"] = delivered
        fields["queued"] = delivered == 0
    if duplicate:
        fields["duplicate"] = True
    return codec.encode(fields)


def room_left(room: str) -> bytes:
    return codec.encode({"type": "room_left", "room": room})


def room_deleted(room: str) -> bytes:
    return codec.encode({"type": "room_deleted", "room": room})


def room_settings(kind: str, room: str, settings: Mapping[str, Any]) -> bytes:
    return codec.encode({"type": kind, "room": room, "settings": settings})


def receipt(ref: str, room: str, offset: int, delivered: int, acked: int, final: bool) -> bytes:
    named = {"ref": ref} if ref else {}
    counts = {"delivered": delivered, "acked": acked, "final": final}
    return codec.encode({"type": "receipt", **named, "room": room, "offset": offset, **counts})


def kicked(room: str, reason: str) -> bytes:
    return codec.encode({"type": "kicked", "room": room, "reason": reason})


def member_push(kind: str, room: str, user: str, username: str, member_count: int) -> bytes:
    return codec.encode(
        {"type": kind, "room": room, "user": {"id": user, "username": username}, "member_count": member_count}
    )


def room_members(room: str, members: list[dict[str, Any]]) -> bytes:
    return codec.encode({"type": "room_members", "room": room, "member_count": len(members), "members": members})


def room_stats(room: str, member_count: int) -> bytes:
    return codec.encode({"type": "room_stats", "room": room, "member_count": member_count})


def presence_entry(user: str, status: str, last_seen: float | None) -> dict[str, Any]:
    return {"userId": user, "status": status, "last_seen": None if last_seen is None else round(last_seen, 3)}


def presence_update(user: str, status: str, last_seen: float | None, wall: float) -> bytes:
    fields = presence_entry(user, status, last_seen)
    return codec.encode({"type": "presence_update", **fields, "timestamp": round(wall, 3)})


def presence_reset() -> bytes:
    return codec.encode({"type": "presence_reset"})


def pages(
    head: dict[str, Any],
    next_head: dict[str, Any],
    bodies: Sequence[bytes],
    page_bytes: int,
    first_bytes: int | None = None,
) -> list[bytes]:
    """`head` with the messages `bodies`, and as many objects of `next_head` as it takes to keep pages small.
    `first_bytes`: of the first page, where that is to be smaller.

    Only an answer of several pages has `more`: true in all but the last.
    """
    first, following = codec.encode(head), codec.encode(next_head)
    free = page_bytes if first_bytes is None else first_bytes
    cut = paged(bodies, room_on(free, first), room_on(page_bytes, following))
    return headed(first, following, cut)


def room_on(page_bytes: int, head: bytes) -> int:
    """What a page with this head has for messages."""
    return page_bytes - len(head) - _PAGE_SLACK


def headed(first: bytes, following: bytes, cut: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Pages of messages with their heads, the first and that of all others."""
    if len(cut) == 1:
        return [codec.with_messages(first, cut[0])]
    answer = [codec.with_messages(_more(first, True), cut[0])]
    for i, page in enumerate(cut[1:], start=2):
        answer.append(codec.with_messages(_more(following, i < len(cut)), page))
    return answer


def _more(head: bytes, more: bool) -> bytes:
    return b'%b,"more":%b}' % (head[:-1], b"true" if more else b"false")
