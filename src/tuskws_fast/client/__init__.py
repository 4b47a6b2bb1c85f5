"""The asyncio client: `async with Client(url, token) as client: room = await client.join("general")`."""

from tuskws_fast.client.client import Client
from tuskws_fast.client.errors import AuthError, ClientClosed, ClientError, CommandError, ConnectionLost, ConnectRefused
from tuskws_fast.client.room import Room

__all__ = [
    "AuthError",
    "Client",
    "ClientClosed",
    "ClientError",
    "CommandError",
    "ConnectRefused",
    "ConnectionLost",
    "Room",
]
