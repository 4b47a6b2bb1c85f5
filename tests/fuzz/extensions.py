"""Fuzz target `extensions`: the lines of a Sec-WebSocket-Extensions header, through `negotiate`.

    byte 0     the server's policy: contexts of one's own (1), their windows (the rest)
    the rest   what the client offers; a line break begins another line of the header

Checked against a second reading of the same bytes (helpers/rfc7692): malformed is what is malformed there; an answer is
one that the client may accept for an offer that was legal, says what both sides then do, and is made of our own words;
what is declined is declined for a reason that holds.
"""

from __future__ import annotations

import random
from collections.abc import Hashable

from helpers.rfc7692 import allows, is_legal, offers_in

from tuskws_fast.protocol.extensions import (
    HEADER_BYTES_MAX,
    OFFERS_MAX,
    Agreement,
    MalformedHeaderError,
    Offer,
    Policy,
    negotiate,
)

WORDS = (
    *(b"permessage-deflate", b"server_no_context_takeover", b"client_no_context_takeover", b"server_max_window_bits"),
    *(
        b"client_max_window_bits",
        b"x",
        b"8",
        b"9",
        b"15",
        b"16",
        b"08",
        b'"12"',
        b'"\\1\\5"',
        b'"',
        b"\\",
        b"\t",
        b"\0",
    ),
    *(b";", b"; ", b",", b", ", b"=", b" = ", b" ", b"\xff", b"\r\n", b"a" * 200),
)
SEEDS = (
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    b"permessage-deflate; client_max_window_bits=9; server_max_window_bits=10",
    b'permessage-deflate; server_max_window_bits="1\\0"\nother; a=b , ,permessage-deflate',
)


class ExtensionsTarget:
    name = "extensions"
    input_max = 1200

    def run(self, data: bytes) -> Hashable:
        mode, lines = (data[0] if data else 0), data[1:].split(b"\n")
        policy = Policy(bool(mode & 1), 9 + (mode >> 1) % 7)
        header = b", ".join(lines)
        is_long = len(header) > HEADER_BYTES_MAX
        offers = offers_in(header)
        try:
            agreement = negotiate(lines, policy)
        except MalformedHeaderError as error:
            assert offers is None, f"{header!r} is in order"
            assert not is_long, "what is too long is not read"
            return str(error)
        assert offers is not None or is_long, f"{header!r} is malformed"
        if agreement is not None:
            assert offers is not None
            check(agreement, offers, policy)
            return (policy.dedicated, agreement.header)
        legal = [] if is_long or offers is None or len(offers) > OFFERS_MAX else [o for o in offers if is_legal(o)]
        # Our own reasons: a window for the server of 8 bits, or one smaller than the window that all share.
        assert all(b"server_max_window_bits" in dict(offer.parameters) for offer in legal), legal
        return (policy.dedicated, is_long, offers is not None and len(offers), len(legal))

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        return [bytes([mode]) + header for header in SEEDS for mode in (0, 1, 13)]

    def fresh(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            parameters = [rng.choice(WORDS[1:5]) + rng.choice((b"", b"", b"=9", b"=15", b"=16")) for _ in range(3)]
            return bytes([rng.randrange(14)]) + b"; ".join([WORDS[0], *parameters[: rng.randrange(4)]])
        words = [rng.choice(WORDS) for _ in range(rng.randrange(1, 16))]
        return bytes([rng.randrange(14)]) + rng.choice((b"", b"permessage-deflate; ")) + b"".join(words)


def check(agreement: Agreement, offers: list[Offer], policy: Policy) -> None:
    answers = offers_in(agreement.header.encode())
    assert answers is not None
    assert len(answers) == 1
    assert is_legal(answers[0])
    assert any(is_legal(offer) and allows(offer, answers[0]) for offer in offers)
    told = dict(answers[0].parameters)
    assert agreement.server_takeover == (b"server_no_context_takeover" not in told)
    assert agreement.client_takeover == (b"client_no_context_takeover" not in told)
    assert agreement.server_window_bits == int(told.get(b"server_max_window_bits") or 15)
    assert agreement.client_window_bits == int(told.get(b"client_max_window_bits") or 15)
    assert agreement.server_window_bits >= 9, "zlib has no such window"
    most = policy.window_bits if policy.dedicated else 0
    assert not agreement.server_takeover or agreement.server_window_bits <= most
    assert not agreement.client_takeover or agreement.client_window_bits <= most
