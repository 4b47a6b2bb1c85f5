"""Who the client is when proxies stand in front: the rightmost hop of `X-Forwarded-For` that is no proxy of ours.

    X-Forwarded-For: <whatever the client wrote>, <seen by the first proxy>, <seen by the second> …   peer = last proxy

Each proxy appends whom it saw, so the list can be believed from the right, as long as one of our own proxies wrote the
entry: from the right the trusted are skipped, and the first who is not is the client. Everything left of it is the
client's own invention. Headers of a peer that is not trusted are not looked at at all, and an entry that is no address
means that the list is not what it should be: then the peer's own address counts, which can never be chosen by others.

Pure: header values and addresses in, a text or a fact out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Entries that are looked at: a chain of proxies is short, and each entry costs 2 µs to read.
HOPS_MAX = 16


class TrustedProxies:
    """Compiled from addresses and networks; raises `ValueError` for an entry that is neither."""

    __slots__ = ("_networks",)

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(map(ipaddress.ip_network, entries))

    def __contains__(self, address: str) -> bool:
        parsed = parse_hop(address.encode()) if self._networks else None
        return parsed is not None and self._trusts(parsed)

    def client_of(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """The client's address. `forwarded_for`: the values of every such header, in order; `peer` is trusted."""
        hops = b",".join(forwarded_for).rsplit(b",", HOPS_MAX)[-HOPS_MAX:]
        client = None
        for hop in reversed(hops):
            client = parse_hop(hop)
            if client is None:
                return peer
            if not self._trusts(client):
                return str(client)
        # None but our own: a client inside the trusted network, if the list ends where it was begun.
        return str(client) if client is not None and len(hops) < HOPS_MAX else peer

    def _trusts(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def came_by_tls(forwarded_proto: Sequence[bytes]) -> bool:
    """Does the page's own server speak TLS, by the word of the trusted proxy next to us? Its word stands last."""
    protos = b",".join(forwarded_proto).split(b",")
    return protos[-1].strip().lower() in (b"https", b"wss")


def parse_hop(text: bytes) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:1234`, `2001:db8::1`, `[2001:db8::1]:1234`, in quotes or not; None for anything else.

    An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`, what a dual-stack listener shows) is the IPv4 address; the
    zone of a link-local one (`fe80::1%eth0`) is no part of it.
    """
    host = text.strip().strip(b'"')
    if host.startswith(b"["):
        host, bracket, port = host[1:].partition(b"]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif host.count(b":") == 1:
        host, _, port = host.partition(b":")
        if not _is_port(b":" + port):
            return None
    try:
        address = ipaddress.ip_address(host.partition(b"%")[0].decode("ascii"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_port(text: bytes) -> bool:
    return text[:1] == b":" and text[1:].isdigit() and len(text) <= 6
