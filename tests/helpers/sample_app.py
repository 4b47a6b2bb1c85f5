"""An application with one of everything: handlers, middleware, an overridden `handle_message`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tuskws_fast import Client, CommandRefused, WebSocketServer
from tuskws_fast.protocol.codes import ErrorCode

Message = dict[str, Any]
Next = Callable[[Client, Message], Awaitable[None]]

plain = WebSocketServer()


@plain.on("custom_action")
async def custom_action(conn: Client, data: Message) -> None:
    plain.send(conn, {"type": "custom_response", "data": "Action processed"})


@plain.on("fail")
async def fail(conn: Client, data: Message) -> None:
    raise ValueError("nobody outside may read this")


@plain.on("refuse")
async def refuse(conn: Client, data: Message) -> None:
    raise CommandRefused(ErrorCode.FORBIDDEN, "not today")


@plain.on("open_hall")
async def open_hall(conn: Client, data: Message) -> None:
    await plain.rooms.create_room("hall", {"public": False})
    await plain.rooms.join_room(conn, "hall")
    info = await plain.rooms.get_room_info("hall")
    ack = await plain.broadcast_to_room("hall", "welcome", exclude=conn if data.get("not_me") else None)
    conn.send({"type": "hall", "members": info["member_count"], "offset": ack["offset"], "rooms": sorted(conn.rooms)})


@plain.on("invite")
async def invite(conn: Client, data: Message) -> None:
    await plain.rooms.invite("hall", data["user"])
    conn.send({"type": "invited"})


@plain.on("announce")
async def announce(conn: Client, data: Message) -> None:
    plain.broadcast_to_all({"type": "announcement", "text": data["text"]}, exclude=conn)


class Strict(WebSocketServer):
    """Sees every command: counts them, and answers one by itself."""

    async def handle_message(self, conn: Client, data: Message) -> None:
        if data["type"] == "who":
            conn.send({"type": "you", "id": data.get("id"), "user": conn.user_id, "trail": data["trail"]})
        else:
            await super().handle_message(conn, data)


strict = Strict()


async def outer(conn: Client, data: Message, call_next: Next) -> None:
    data["trail"] = ["outer"]
    await call_next(conn, data)


async def inner(conn: Client, data: Message, call_next: Next) -> None:
    if data["type"] == "broadcast" and data.get("message") == "swear":
        raise CommandRefused(ErrorCode.MODERATED, "mind your language")
    data["trail"].append("inner")
    await call_next(conn, data)


strict.add_middleware(outer)
strict.add_middleware(inner)
not_a_server = object()
