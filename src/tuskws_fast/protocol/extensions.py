"""The negotiation of permessage-deflate (RFC 7692 §7): which offer is accepted, and the header that says so.

    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, permessage-deflate
                              └──────────────── offer ────────────────┘  └──── offer ─────┘

Offers come in the client's order of preference, and the first one that this server can keep to the letter is accepted.
An offer with a parameter that is unknown, given twice, or out of range is declined, never mended (§5, §7.1).

What is agreed depends on the policy. *Shared*: neither side takes its context over from message to message, so one
compressed form of a message serves everybody and a connection keeps no memory for it; a smaller window for the server
would need a form of its own and is declined. *Dedicated*: contexts a connection, with windows of at most
`Policy.window_bits`; where a client cannot be told that bound, it may not take its context over.

Pure: header values in, agreement out. A header that breaks the grammar of RFC 6455 §9.1 is an error of the handshake;
one that is only too long is as good as absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NAME = b"permessage-deflate"
WINDOW_BITS_MAX = 15
# zlib makes no raw deflate stream with a window of 8 bits, so a client that demands one of the server is declined.
SERVER_WINDOW_BITS_MIN = 9
OFFERS_MAX = 4
HEADER_BYTES_MAX = 1024

# No two ways to match the same text in either, so there is nothing to go back to: time grows with the length alone.
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SPACE = re.compile(rb"[ \t]*")
_WINDOW_BITS = re.compile(rb"[89]|1[0-5]")

Parameter = tuple[bytes, bytes | None]


class MalformedHeaderError(ValueError):
    """The header is not what RFC 6455 §9.1 says it must be; then the handshake fails."""


@dataclass(frozen=True, slots=True)
class Offer:
    name: bytes
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the server is ready to agree to. `window_bits` bounds the windows of dedicated contexts."""

    dedicated: bool = False
    window_bits: int = WINDOW_BITS_MAX


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides keep to from here on; `header` is the value of the answer's Sec-WebSocket-Extensions.

    `server_window_bits` bounds the distances in what the server sends, `client_window_bits` in what it receives.
    """

    header: str
    server_takeover: bool
    client_takeover: bool
    server_window_bits: int
    client_window_bits: int


def negotiate(values: Sequence[bytes], policy: Policy) -> Agreement | None:
    """Answer the values of all Sec-WebSocket-Extensions lines; None: nothing is agreed. Raises `MalformedHeaderError`.

    The lines are one list (RFC 6455 §9.1). Over 1 KiB or 4 offers, of whatever extensions, none is looked at.
    """
    if not values or sum(map(len, values)) + 2 * (len(values) - 1) > HEADER_BYTES_MAX:
        return None
    offers = parse(b", ".join(values))
    if len(offers) > OFFERS_MAX:
        return None
    for offer in offers:
        if offer.name == NAME:
            agreement = _accept(offer, policy)
            if agreement is not None:
                return agreement
    return None


def _accept(offer: Offer, policy: Policy) -> Agreement | None:
    """The agreement on this offer, None to decline it."""
    wanted = dict(offer.parameters)
    if len(wanted) != len(offer.parameters):
        return None
    try:
        server_takeover = not _flag(wanted, b"server_no_context_takeover")
        client_takeover = not _flag(wanted, b"client_no_context_takeover")
        server_bits = _bits(wanted, b"server_max_window_bits", needs_value=True)
        client_bits = _bits(wanted, b"client_max_window_bits", needs_value=False)
    except ValueError:
        return None
    if wanted:
        return None
    if policy.dedicated:
        return _dedicated(server_takeover, client_takeover, server_bits, client_bits, policy.window_bits)
    if server_bits is not None and server_bits < WINDOW_BITS_MAX:
        return None
    return _agree(False, False, server_bits, None)


def _dedicated(
    server_takeover: bool, client_takeover: bool, server_bits: int | None, client_bits: int | None, most: int
) -> Agreement | None:
    if server_bits is not None and server_bits < SERVER_WINDOW_BITS_MIN:
        return None
    if server_takeover:
        # §7.1.2.1: a server may tell its bound whether it was asked to or not.
        server_bits = min(most, server_bits or WINDOW_BITS_MAX)
    if client_bits is None:
        # §7.1.2.2: only a client that says it can be bounded may be.
        client_takeover = client_takeover and most == WINDOW_BITS_MAX
    elif client_takeover:
        return _agree(server_takeover, True, server_bits, min(most, client_bits))
    return _agree(server_takeover, client_takeover, server_bits, None)


def _agree(server_takeover: bool, client_takeover: bool, server_bits: int | None, client_bits: int | None) -> Agreement:
    """Bits of None are not mentioned in the answer and stand for 15 (§7.1.2)."""
    parts = [NAME.decode()]
    if not server_takeover:
        parts.append("server_no_context_takeover")
    if not client_takeover:
        # §7.1.1.2: a server may ask for it whether it was offered or not.
        parts.append("client_no_context_takeover")
    if server_bits is not None:
        parts.append(f"server_max_window_bits={server_bits}")
    if client_bits is not None:
        parts.append(f"client_max_window_bits={client_bits}")
    return Agreement(
        "; ".join(parts),
        server_takeover,
        client_takeover,
        server_bits or WINDOW_BITS_MAX,
        client_bits or WINDOW_BITS_MAX,
    )


def _flag(wanted: dict[bytes, bytes | None], name: bytes) -> bool:
    """Take a parameter that has no value. Raises `ValueError` if it has one."""
    if name not in wanted:
        return False
    if wanted.pop(name) is not None:
        raise ValueError(name)
    return True


def _bits(wanted: dict[bytes, bytes | None], name: bytes, needs_value: bool) -> int | None:
    """Take a size of a window, 8 to 15 without leading zeros; None if it is absent."""
    if name not in wanted:
        return None
    value = wanted.pop(name)
    if value is None and not needs_value:
        return WINDOW_BITS_MAX
    if value is None or not _WINDOW_BITS.fullmatch(value):
        raise ValueError(name)
    return int(value)


# -- the grammar ---------------------------------------------------------------------------------------------------


def parse(value: bytes) -> list[Offer]:
    """The elements of a Sec-WebSocket-Extensions list (RFC 6455 §9.1). Raises `MalformedHeaderError`.

    Empty elements are passed over, as RFC 9110 §5.6.1.2 wants of every list.
    """
    offers: list[Offer] = []
    at = 0
    while True:
        at = _skip_space(value, at)
        if at < len(value) and value[at : at + 1] != b",":
            offer, at = _read_offer(value, at)
            offers.append(offer)
        if at == len(value):
            break
        at += 1
    if not offers:
        raise MalformedHeaderError("no extension is named")
    return offers


def _read_offer(value: bytes, at: int) -> tuple[Offer, int]:
    """An extension with its parameters, up to the comma behind it or the end."""
    name, at = _read_token(value, at)
    parameters: list[Parameter] = []
    at = _skip_space(value, at)
    while value[at : at + 1] == b";":
        key, at = _read_token(value, _skip_space(value, at + 1))
        at = _skip_space(value, at)
        given = None
        if value[at : at + 1] == b"=":
            given, at = _read_value(value, _skip_space(value, at + 1))
            at = _skip_space(value, at)
        parameters.append((key, given))
    if value[at : at + 1] not in (b",", b""):
        raise MalformedHeaderError("an extension is followed by neither ; nor ,")
    return Offer(name, tuple(parameters)), at


def _read_token(value: bytes, at: int) -> tuple[bytes, int]:
    match = _TOKEN.match(value, at)
    if match is None:
        raise MalformedHeaderError("a name is missing")
    return match[0], match.end()


def _read_value(value: bytes, at: int) -> tuple[bytes, int]:
    """A token, or a quoted string whose content is one: "the value after quoted-string unescaping MUST conform to the
    'token' ABNF"."""
    if value[at : at + 1] != b'"':
        return _read_token(value, at)
    found = bytearray()
    at += 1
    while (char := value[at : at + 1]) != b'"':
        if char == b"\\":
            at += 1
            char = value[at : at + 1]
        if not char:
            raise MalformedHeaderError("a quoted value does not end")
        found += char
        at += 1
    if not _TOKEN.fullmatch(found):
        raise MalformedHeaderError("a quoted value is no token")
    return bytes(found), at + 1


def _skip_space(value: bytes, at: int) -> int:
    match = _SPACE.match(value, at)
    assert match is not None, "it matches nothing at all too"
    return match.end()
