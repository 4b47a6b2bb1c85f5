"""Session tickets: how a client names, on a new connection, the session it had on another.

    ticket  =  base64url( run | session | MAC )        40 characters, the same as long as the session lasts

A ticket holds no claims and proves no more than that this node issued it; whose session it is, and whether that may
still be resumed, the broker knows. It is a bearer's: who has it is the user, until `keep_alive_timeout` after the
session's last connection. So it is not logged, and who resumes a session that is connected closes that connection,
which the robbed one sees.

`run` is the life of a node. The key outlives it where there is a data directory, its sessions do not: a ticket of an
earlier life is genuine and over (`token_expired`), where a forged one is `bad_token`.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode
from binascii import Error, b2a_base64

from tuskws_fast.auth.tokens import TokenError
from tuskws_fast.protocol.codes import ErrorCode

KEY_BYTES = 32
_RUN_BYTES, _NUMBER_BYTES, _MAC_BYTES = 6, 8, 16
_BYTES = _RUN_BYTES + _NUMBER_BYTES + _MAC_BYTES
CHARS = _BYTES * 4 // 3
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Tickets:
    """`key` makes tickets genuine, `secret` is this life's of the node."""

    def __init__(self, key: bytes, secret: bytes) -> None:
        # Copied for each ticket: that spares the setting up of the key.
        self._mac = hashlib.blake2b(key=key, digest_size=_MAC_BYTES, person=b"session-ticket")
        self._run = hashlib.blake2b(secret, digest_size=_RUN_BYTES, person=b"ticket-run").digest()

    def issue(self, session: int) -> str:
        named = self._run + session.to_bytes(_NUMBER_BYTES, "big")
        # As `urlsafe_b64encode`, which takes two calls more: one is issued for each handshake.
        return b2a_base64(named + self._mac_of(named), newline=False).translate(_URL_SAFE).decode()

    def session_of(self, ticket: str) -> int:
        """The session that `ticket` names. Raises `TokenError`."""
        try:
            raw = urlsafe_b64decode(ticket) if len(ticket) == CHARS and ticket.isascii() else b""
        except Error:
            raw = b""
        named, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        # The decoder skips what is not in its alphabet: what it took must be what was sent.
        if len(raw) != _BYTES or not hmac.compare_digest(mac, self._mac_of(named)):
            raise TokenError(ErrorCode.BAD_TOKEN, "Not a session of this server")
        if not hmac.compare_digest(named[:_RUN_BYTES], self._run):
            raise TokenError(ErrorCode.TOKEN_EXPIRED, "The session is over")
        return int.from_bytes(named[_RUN_BYTES:], "big")

    def _mac_of(self, named: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(named)
        return mac.digest()
