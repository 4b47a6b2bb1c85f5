"""A room as its members hold it: the client's calls, with the room's name already said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuskws_fast.client.state import Message

if TYPE_CHECKING:
    from tuskws_fast.client.client import Client


class Room:
    """A room the client is in. `joined` is the server's first answer: `members`, `messages` (history), `epoch` …"""

    def __init__(self, client: Client, joined: Message) -> None:
        self._client = client
        self.joined = joined
        self.name: str = joined["room"]

    @property
    def position(self) -> tuple[str, int] | None:
        """(epoch, offset) of the last message given to the application; None once the room is left or lost."""
        state = self._client.state.rooms.get(self.name)
        return None if state is None or state.epoch is None else (state.epoch, state.offset)

    async def broadcast(self, message: Any, **options: Any) -> Message:
        return await self._client.broadcast(self.name, message, **options)

    async def ack(self, offset: int | None = None) -> None:
        """Confirm everything up to `offset`, or all that the application was given."""
        at = self.position
        if offset is not None or at is not None:
            await self._client.ack(self.name, offset if offset is not None else at[1] if at is not None else 0)

    async def history(self, **options: Any) -> Message:
        return await self._client.history(self.name, **options)

    async def leave(self) -> None:
        await self._client.leave(self.name)
