"""tuskws-fast: a multi-process WebSocket server with rooms, presence, private messages, order and recovery.

Public names are those of `__all__`; everything else may change. They are imported when first used, so that
`import tuskws_fast` is quick and needs no event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tuskws_fast.errors import BootError, ConfigError, TuskwsError
    from tuskws_fast.server import RoomManager, WebSocketServer
    from tuskws_fast.worker.handlers import Client, CommandRefused, Middleware

__all__ = [
    "BootError",
    "Client",
    "CommandRefused",
    "ConfigError",
    "Middleware",
    "RoomManager",
    "TuskwsError",
    "WebSocketServer",
    "__version__",
]

_HOMES = {
    "BootError": "tuskws_fast.errors",
    "Client": "tuskws_fast.worker.handlers",
    "CommandRefused": "tuskws_fast.worker.handlers",
    "ConfigError": "tuskws_fast.errors",
    "Middleware": "tuskws_fast.worker.handlers",
    "RoomManager": "tuskws_fast.server",
    "TuskwsError": "tuskws_fast.errors",
    "WebSocketServer": "tuskws_fast.server",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
