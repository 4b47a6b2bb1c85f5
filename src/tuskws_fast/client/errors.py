"""What a call on a client can raise.

CommandError     the server answered this command with an error; the connection is fine
ConnectionLost   the answer to this command cannot come any more; the client is reconnecting by itself
AuthError        the server refuses the token; the client has ended
ConnectRefused   the server refuses the connection for good (HTTP 4xx, close 4500-4999); the client has ended
ClientClosed     `close()` was called
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Anything a client raises on purpose."""


class CommandError(ClientError):
    """`code` is one of the protocol's error codes; `retry_after` seconds, where the server named them."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = str(error.get("code", "internal"))
        self.retry_after: float | None = error.get("retry_after")
        super().__init__(f"{self.code}: {error.get('message', '')}")


class ConnectionLost(ClientError):
    """The command was sent or not, carried out or not: nobody can say. (Publications do not end this way.)"""


class AuthError(ClientError):
    def __init__(self, answer: dict[str, Any]) -> None:
        self.code = str(answer.get("code", "bad_token"))
        super().__init__(f"{self.code}: {answer.get('message', '')}")


class ConnectRefused(ClientError):
    """`code` is the HTTP status or the close code."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(f"{code} {reason}".strip())


class ClientClosed(ClientError):
    pass
