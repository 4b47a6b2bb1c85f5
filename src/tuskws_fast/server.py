"""The server as a Python object: the programming surface of the seed, running on the whole node.

    server = WebSocketServer(port=8080, max_connections=1000)

    @server.on("custom_action")
    async def custom_action(conn, data):
        conn.send({"type": "custom_response", "data": "Action processed"})

    server.start()

Options are those of the command line, under their configuration names. What is registered here (handlers, middleware,
an overridden `handle_message`) is built once in the starting process and runs, after fork, in every worker: state kept
in plain attributes is a worker's own. What concerns others goes through the room and broadcast methods, which reach
all workers.

Handlers may raise `CommandRefused(code, text)` to answer with an `error`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuskws_fast.config import Config, load
from tuskws_fast.rooms import names
from tuskws_fast.worker.handlers import Application, Client, Handler, Handlers, Message, Middleware


class WebSocketServer(Application):
    """`options` are configuration names (`host`, `port`, `max_connections`, …), also accepted as one mapping first.

    Raises `ConfigError` for an unknown option or a value that cannot be used.
    """

    def __init__(self, options: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        super().__init__()
        self.options: dict[str, Any] = {**(options or {}), **more}
        self.config: Config = load(flags=self.options)
        self.rooms = RoomManager(self)

    def start(self) -> None:
        """Run the node: supervisor here, broker and workers as its children. Returns when it was told to stop, and
        raises `SystemExit` with the node's exit code when it could not start, or not end as it should."""
        from tuskws_fast.node import run_node

        code = run_node(self.config, self)
        if code:
            raise SystemExit(code)

    # -- what is registered before `start` -----------------------------------------------------------------------------

    def on(self, kind: str) -> Callable[[Handler], Handler]:
        """Register the handler of commands of type `kind`; one of the protocol's own types is replaced by it."""

        def register(handler: Handler) -> Handler:
            self.handlers[kind] = handler
            return handler

        return register

    def add_middleware(self, middleware: Middleware) -> None:
        """`await middleware(conn, data, call_next)` sees every command, the first added outermost; it goes on with
        `await call_next(conn, data)`, or answers by itself."""
        self.middleware.append(middleware)

    # -- in handlers ---------------------------------------------------------------------------------------------------

    @property
    def _bound(self) -> Handlers:
        if self.bound is None:
            raise RuntimeError("only handlers, which run in the workers, can reach clients and rooms")
        return self.bound

    def send(self, conn: Client, message: Message) -> None:
        """Send one JSON object to one client."""
        conn.send(message)

    async def broadcast_to_room(self, room: str, message: object, exclude: Client | None = None) -> Message:
        """Publish in `room`, in order with everybody's messages and kept in its history. An object with a `type` is
        pushed as it is, with room, timestamp and offset stamped; any other value becomes a `room_message` from
        `server`. Returns the `ack`: {room, epoch, offset, level}. Raises `CommandRefused`."""
        return await self._bound.publish(names.room_name(room), message, exclude)

    def broadcast_to_all(self, message: Message, exclude: Client | None = None) -> None:
        """Push one JSON object to every connection of the node. Not kept, not acknowledged."""
        self._bound.push_to_all(message, exclude)

    async def revoke(self, *, user: str | None = None, token: str | None = None) -> int:
        """Let go of everybody who is connected as `user`, or by the token with this `jti`, on every worker (4510), and
        refuse their tokens of until now for as long as they would be good. Returns how many sessions ended."""
        return int((await self._bound.call("revoke", {"user": user, "token": token}))["sessions"])


class RoomManager:
    """Rooms, in the server's own name: every right, no membership needed. Use it in handlers (`server.rooms`).

    All methods reach the broker and raise `CommandRefused`, with the protocol's codes, for what is not possible.
    """

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server

    async def _call(self, op: str, **args: Any) -> Message:
        return await self._server._bound.call(op, args)

    async def create_room(self, room: str, settings: Mapping[str, Any] | None = None) -> Message:
        """Settings: max_members, public, moderated, password, history_size, history_ttl. Returns `room_created`."""
        return await self._call("create_room", room=names.room_name(room), settings=dict(settings or {}))

    async def update_room(self, room: str, settings: Mapping[str, Any]) -> Message:
        return await self._call("update_room", room=names.room_name(room), settings=dict(settings))

    async def delete_room(self, room: str) -> Message:
        return await self._call("delete_room", room=names.room_name(room))

    async def join_room(self, conn: Client, room: str) -> Message:
        """Make `conn` a member; it is sent `room_joined`."""
        return await self._call("server_join", conn=int(conn.id, 16), room=names.room_name(room))

    async def leave_room(self, conn: Client, room: str) -> Message:
        """End the membership of `conn`; it is sent `room_left`."""
        return await self._call("server_leave", conn=int(conn.id, 16), room=names.room_name(room))

    async def get_room_info(self, room: str) -> Message:
        """`{room, member_count, creator, settings}`"""
        return await self._call("room_info", room=names.room_name(room))

    async def list_rooms(self) -> list[Message]:
        """`[{room, member_count}…]`"""
        found: list[Message] = (await self._call("list_rooms"))["rooms"]
        return found

    async def get_room_count(self) -> int:
        return int((await self._call("room_count"))["count"])

    async def invite(self, room: str, user: str) -> Message:
        """Let `user` join a private room."""
        return await self._call("invite", room=names.room_name(room), user=user)

    async def kick(self, room: str, user: str) -> Message:
        return await self._call("kick", room=names.room_name(room), user=user)

    async def ban(self, room: str, user: str, seconds: float | None = None) -> Message:
        return await self._call("ban", room=names.room_name(room), user=user, **_seconds(seconds))

    async def mute(self, room: str, user: str, seconds: float | None = None) -> Message:
        return await self._call("mute", room=names.room_name(room), user=user, **_seconds(seconds))


def _seconds(seconds: float | None) -> dict[str, float]:
    return {} if seconds is None else {"seconds": seconds}
