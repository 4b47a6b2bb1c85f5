"""RFC 7692 §7 and the grammar of RFC 6455 §9.1 as a server should read them: slow, plain, and written from the
text, not from our code. An oracle for tests, as rfc6455.py is.

    offers_in(header)      the offers in it; None: it is malformed
    is_legal(offer)        may a client offer that
    allows(offer, answer)  may a client that offered `offer` accept `answer`
"""

from __future__ import annotations

import re

from tuskws_fast.protocol.extensions import Offer

TOKEN = re.compile(rb"[0-9A-Za-z!#$%&'*+\-.^_`|~]+")
QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
SPACE = re.compile(rb"[ \t]+")
KNOWN = {
    b"server_no_context_takeover",
    b"client_no_context_takeover",
    b"server_max_window_bits",
    b"client_max_window_bits",
}


def offers_in(header: bytes) -> list[Offer] | None:
    """Words first, then the list of them: no word may stand where another is due."""
    words = _words(header)
    if words is None:
        return None
    offers: list[Offer] = []
    for element in _split(words, b","):
        if not element:
            # RFC 9110 §5.6.1.2: an empty element of a list counts for nothing.
            continue
        name, *parameters = _split(element, b";")
        read = [_parameter(parameter) for parameter in parameters]
        if len(name) != 1 or not TOKEN.fullmatch(name[0]) or None in read:
            return None
        offers.append(Offer(name[0], tuple(parameter for parameter in read if parameter is not None)))
    return offers or None


def _words(header: bytes) -> list[bytes] | None:
    words = []
    while header:
        match = TOKEN.match(header) or QUOTED.match(header) or SPACE.match(header) or re.match(rb"[;,=]", header)
        if match is None:
            return None
        if not match[0].isspace():
            words.append(match[0])
        header = header[match.end() :]
    return words


def _split(words: list[bytes], separator: bytes) -> list[list[bytes]]:
    parts: list[list[bytes]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _parameter(words: list[bytes]) -> tuple[bytes, bytes | None] | None:
    if not words or not TOKEN.fullmatch(words[0]):
        return None
    if len(words) == 1:
        return words[0], None
    if len(words) != 3 or words[1] != b"=":
        return None
    value = words[2]
    if value.startswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1], flags=re.DOTALL)
    return (words[0], value) if TOKEN.fullmatch(value) else None


def is_legal(offer: Offer) -> bool:
    """RFC 7692 §7.1, one sentence a line."""
    names = [key for key, _ in offer.parameters]
    values = dict(offer.parameters)
    if offer.name != b"permessage-deflate" or len(set(names)) != len(names) or not set(names) <= KNOWN:
        return False
    if any(values[name] is not None for name in names if name.endswith(b"takeover")):
        return False
    if b"server_max_window_bits" in values and values[b"server_max_window_bits"] is None:
        return False
    return all(re.fullmatch(rb"[89]|1[0-5]", value) for value in values.values() if value is not None)


def allows(offer: Offer, answer: Offer) -> bool:
    """The answer is one that a client may accept which made this offer."""
    wanted, given_back = dict(offer.parameters), dict(answer.parameters)
    if b"server_no_context_takeover" in wanted and b"server_no_context_takeover" not in given_back:
        return False
    most = wanted.get(b"server_max_window_bits")
    if most is not None and not 8 <= int(given_back.get(b"server_max_window_bits") or 99) <= int(most):
        return False
    if b"client_max_window_bits" in given_back:
        bound = wanted.get(b"client_max_window_bits", b"0") or b"15"
        return int(given_back[b"client_max_window_bits"] or 99) <= int(bound)
    return True
