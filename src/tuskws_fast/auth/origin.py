"""Which browser pages may connect: the defence against cross-site WebSocket hijacking (a browser sends `Origin`).

The allow-list is compiled once, into a set of exact origins and a map of wildcard suffixes, so that a decision is two
look-ups and nothing about an earlier request is remembered.

    https://app.example.com        scheme, host and port, all three equal (443 is https's own and may be left out)
    https://*.example.com          one or more whole labels in front: a.example.com, a.b.example.com;
                                   neither example.com itself nor badexample.com
    app.example.com                no scheme: https

What passes besides: a request without `Origin` (not a browser: it could write any `Origin` it likes), and the page's
own server, recognised by the `Host` header. Behind TLS an own page must be https, or whoever owns the network could
serve one over http; without TLS both schemes pass, because a proxy in front may end it.
What never does: `null` (sandboxed frames and local files: anyone can make one), and anything that is not an origin.
A host with a trailing dot is another host, for browsers and here. Names are compared in ASCII, as browsers send them;
one configured in Unicode is converted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_ORIGIN_CHARS = 512
MAX_ALLOWED = 1_000

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^/?#@\[\]:\s]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^/?#@\[\]:\s]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\.?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """`port` 0: the scheme has no default port and none was given."""

    scheme: str
    host: str
    port: int


def parse_origin(text: str) -> Origin:
    """Raises `ValueError` for what is not scheme://host[:port], `null` included. Case-insensitive, as the RFCs say."""
    match = _ORIGIN.fullmatch(text) if len(text) <= MAX_ORIGIN_CHARS and text.isascii() else None
    if match is None:
        raise ValueError("not an origin (scheme://host[:port])")
    scheme, host, port = match.groups()
    scheme = scheme.lower()
    return Origin(scheme, _canonical_host(host), _port(port, _PORTS.get(scheme, 0)))


class OriginPolicy:
    """Compiled from the configured list; raises `ValueError`, fit for an operator, for an entry it cannot read."""

    __slots__ = ("_exact", "_suffixes")

    def __init__(self, allowed: Iterable[str]) -> None:
        exact: set[Origin] = set()
        suffixes: dict[tuple[str, int], set[str]] = {}
        for entry in allowed:
            origin, wildcard = _compile(entry)
            if wildcard:
                suffixes.setdefault((origin.scheme, origin.port), set()).add(origin.host)
            else:
                exact.add(origin)
        if len(exact) + sum(map(len, suffixes.values())) > MAX_ALLOWED:
            raise ValueError(f"more than {MAX_ALLOWED} allowed origins")
        self._exact = frozenset(exact)
        self._suffixes = {key: frozenset(hosts) for key, hosts in suffixes.items()}

    def allows(self, origin: str | None, host: str | None, secure: bool = False) -> bool:
        """May a request with these `Origin` and `Host` headers upgrade? `secure`: it came over our own TLS."""
        if origin is None:
            return True
        try:
            parsed = parse_origin(origin)
        except ValueError:
            return False
        return parsed in self._exact or self._under_wildcard(parsed) or is_own(parsed, host, secure)

    def _under_wildcard(self, origin: Origin) -> bool:
        hosts = self._suffixes.get((origin.scheme, origin.port))
        if not hosts:
            return False
        # Whole labels only: cut at each dot, so that `badexample.com` never meets `example.com`.
        rest = origin.host.partition(".")[2]
        while rest:
            if rest in hosts:
                return True
            rest = rest.partition(".")[2]
        return False


def is_own(origin: Origin, host: str | None, secure: bool) -> bool:
    """Was the page served under the very `Host` that this request names?"""
    default_port = _PORTS.get(origin.scheme)
    if host is None or default_port is None or (secure and origin.scheme != "https"):
        return False
    match = _AUTHORITY.fullmatch(host) if host.isascii() else None
    if match is None:
        return False
    try:
        return (_canonical_host(match[1]), _port(match[2], default_port)) == (origin.host, origin.port)
    except ValueError:
        return False


def _compile(entry: str) -> tuple[Origin, bool]:
    scheme, separator, rest = entry.strip().rpartition("://")
    wildcard = rest.startswith("*.")
    host = rest[2:] if wildcard else rest
    if host.lower() == "null":
        raise ValueError(f"allowed origin {entry!r}: any page can have this origin")
    if "*" in host:
        raise ValueError(
            f"allowed origin {entry!r}: a star may only be the whole first label, as in https://*.example.com"
        )
    if not host.isascii():
        name, colon, port = host.partition(":")
        try:
            host = name.encode("idna").decode() + colon + port
        except UnicodeError as error:
            raise ValueError(f"allowed origin {entry!r} is not a host name: {error}") from error
    try:
        origin = parse_origin(f"{scheme if separator else 'https'}://{host}")
    except ValueError as error:
        raise ValueError(f"allowed origin {entry!r} is {error}") from error
    if wildcard and ("." not in origin.host and origin.host != "localhost"):
        raise ValueError(f"allowed origin {entry!r} would allow a whole top-level domain")
    return origin, wildcard


def _canonical_host(host: str) -> str:
    host = host.lower()
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    if not _HOST.fullmatch(host):
        raise ValueError("not an origin (scheme://host[:port])")
    return host


def _port(text: str | None, default: int) -> int:
    if text is None:
        return default
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError("not an origin (the port is out of range)")
    return port
