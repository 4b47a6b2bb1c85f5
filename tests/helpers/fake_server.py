"""A tiny server that speaks just enough of the protocol to test a client against, and misbehaves on request.

Real sockets, one process, no limits. A test may `drop()` every connection, publish while nobody is connected, forget
history, change the epoch, swallow an `ack`, or answer anything with an error of its choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tuskws_fast.protocol import codec

Message = dict[str, Any]


@dataclass
class FakeRoom:
    epoch: str = "e1"
    log: list[Message] = field(default_factory=list)
    first_kept: int = 1
    members: set[ServerConnection] = field(default_factory=set)

    def since(self, position: Message) -> list[Message] | None:
        """What `position` has not seen; None where that cannot be told."""
        if position["epoch"] != self.epoch or position["offset"] + 1 < self.first_kept:
            return None
        return self.log[position["offset"] :]


class FakeServer:
    def __init__(self) -> None:
        self.rooms: dict[str, FakeRoom] = {}
        self.received: list[Message] = []
        self.connections: list[ServerConnection] = []
        self.opened = 0
        self.tokens = {"good": "ann"}
        self.auth_error = "bad_token"
        self.page = 0  # messages a page of a replay, 0 = all at once
        self.answer: Callable[[Message], Message | None] = lambda command: None  # an error to answer with instead
        self.swallow_acks = 0
        self.url = ""
        self._done: dict[str, Message] = {}
        self._changed = asyncio.Condition()

    # -- what a test does to it ------------------------------------------------------------------------------------

    def room(self, name: str) -> FakeRoom:
        return self.rooms.setdefault(name, FakeRoom())

    async def publish(self, name: str, message: Any, *, deliver: bool = True) -> Message:
        room = self.room(name)
        push = {"type": "room_message", "room": name, "message": message, "from": "bob", "timestamp": 1.0}
        push |= {"epoch": room.epoch, "offset": len(room.log) + 1}
        room.log.append(push)
        if deliver:
            await self.push(push, room.members)
        return push

    async def push(self, message: Message, to: set[ServerConnection] | None = None) -> None:
        for connection in list(self.connections if to is None else to):
            await connection.send(codec.encode(message).decode())

    def restart_room(self, name: str, epoch: str) -> None:
        members = self.room(name).members
        self.rooms[name] = FakeRoom(epoch, members=members)

    def drop(self) -> None:
        """Every connection breaks as if the machine were gone."""
        for connection in self.connections:
            connection.transport.abort()

    async def close_all(self, code: int) -> None:
        for connection in list(self.connections):
            await connection.close(code)

    async def wait_for(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(fact)

    def got(self, kind: str) -> list[Message]:
        return [message for message in self.received if message["type"] == kind]

    # -- the protocol ------------------------------------------------------------------------------------------------

    async def handle(self, connection: ServerConnection) -> None:
        self.opened += 1
        self.connections.append(connection)
        await self._changed_now()
        try:
            await self._send(connection, {"type": "welcome", "authenticated": False, "protocol": 1})
            async for frame in connection:
                command = codec.decode(frame)
                self.received.append(command)
                await self._changed_now()
                await self._obey(connection, command)
                await self._changed_now()
        except ConnectionClosed:
            return  # drop() does that
        finally:
            self.connections.remove(connection)
            for room in self.rooms.values():
                room.members.discard(connection)
            await self._changed_now()

    async def _changed_now(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _send(self, connection: ServerConnection, message: Message) -> None:
        await connection.send(codec.encode(message).decode())

    async def _obey(self, connection: ServerConnection, command: Message) -> None:
        answer = self.answer(command)
        if answer is None:
            answer = await getattr(self, f"_on_{command['type']}", self._on_other)(connection, command)
        if answer is not None:
            await self._send(connection, answer if "id" not in command else {**answer, "id": command["id"]})

    async def _on_auth(self, connection: ServerConnection, command: Message) -> Message:
        user = self.tokens.get(command["token"])
        if user is None:
            return {"type": "auth_failed", "code": self.auth_error, "message": "Invalid token"}
        return {"type": "auth_success", "user": {"id": user}, "expires_at": None, "session": None}

    async def _on_join_room(self, connection: ServerConnection, command: Message) -> Message | None:
        room = self.room(command["room"])
        room.members.add(connection)
        answer: Message = {"type": "room_joined", "room": command["room"], "member_count": 1, "epoch": room.epoch}
        answer |= {
            "offset": len(room.log),
            "recovered": None,
            "messages": room.log[-command.get("history", 0) or 10**9 :],
        }
        if "since" in command:
            missed = room.since(command["since"])
            answer |= {"recovered": missed is not None, "messages": missed or []}
        if not self.page or len(answer["messages"]) <= self.page:
            return answer
        pages = [answer["messages"][i : i + self.page] for i in range(0, len(answer["messages"]), self.page)]
        await self._send(connection, {**answer, "id": command["id"], "messages": pages[0], "more": True})
        history = {"type": "history", "id": command["id"], "room": command["room"]}
        for page in pages[1:-1]:
            await self._send(connection, {**history, "messages": page, "more": True})
        await self._send(connection, {**history, "messages": pages[-1], "more": False})
        return None

    async def _on_history(self, connection: ServerConnection, command: Message) -> Message:
        room = self.room(command["room"])
        missed = room.since(command["since"]) if "since" in command else room.log
        answer: Message = {"type": "history", "room": command["room"], "epoch": room.epoch, "offset": len(room.log)}
        return {**answer, "recovered": missed is not None, "messages": missed or []}

    async def _on_broadcast(self, connection: ServerConnection, command: Message) -> Message | None:
        known = self._done.get(command["id"])
        if known is None:
            push = await self.publish(command["room"], command["message"])
            known = {"type": "ack", "offset": push["offset"], "epoch": push["epoch"], "level": "accepted"}
            self._done[command["id"]] = known
        else:
            known = {**known, "duplicate": True}
        if self.swallow_acks:
            self.swallow_acks -= 1
            return None
        return known

    async def _on_leave_room(self, connection: ServerConnection, command: Message) -> Message:
        self.room(command["room"]).members.discard(connection)
        return {"type": "room_left", "room": command["room"]}

    async def _on_get_presence(self, connection: ServerConnection, command: Message) -> Message:
        users = [{"userId": user, "status": "online", "last_seen": 1.0} for user in command.get("users", ["all"])]
        return {"type": "presence_state", "users": users}

    async def _on_ping(self, connection: ServerConnection, command: Message) -> Message:
        return {"type": "pong", "timestamp": 12.5}

    async def _on_other(self, connection: ServerConnection, command: Message) -> Message | None:
        return {"type": "ack"} if "id" in command else None


@asynccontextmanager
async def fake_server(**options: Any) -> AsyncIterator[FakeServer]:
    """`options` go to `websockets.serve` (for instance `process_request`)."""
    fake = FakeServer()
    server: Server
    async with serve(fake.handle, "127.0.0.1", 0, subprotocols=["tusk.v1"], **options) as server:  # type: ignore[list-item]
        fake.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        yield fake
