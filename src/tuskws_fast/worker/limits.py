"""The limits that hold over all workers at once: connections in total, of an address, of a user; commands of a user.

The figures live in shared memory (tuskws_fast_ext.tables); this file says what is counted under which key. Keys are
keyed hashes with the node's own secret: nobody outside can aim at somebody else's slot (`threats` L9). Admission is
exact: add, check, roll back. Rates are a token bucket (GCRA) that knows users, not connections, so that neither a
reconnect nor another worker refills it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from tuskws_fast_ext.tables import AdmissionTable, RateTable


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """0 = off, but for `connections`."""

    connections: int
    connections_per_ip: int
    connections_per_user: int
    rate_per_s: float
    rate_burst: int


class Limits:
    """`started_us` is the node's start on the monotonic clock: all workers count microseconds from there."""

    def __init__(
        self,
        limits: SharedLimits,
        secret: bytes,
        admission: AdmissionTable,
        rates: RateTable,
        started_us: int,
    ) -> None:
        self.limits = limits
        self._secret = secret
        self._admission = admission
        self._rates = rates
        self._started_us = started_us
        self._interval_us = 1e6 / limits.rate_per_s if limits.rate_per_s else 0.0
        self._total_key = self.key("total", "")

    def key(self, kind: str, name: str) -> int:
        digest = hashlib.blake2b(f"{kind}\0{name}".encode(), key=self._secret, digest_size=8).digest()
        # 0 marks an empty slot.
        return int.from_bytes(digest, "little") or 1

    # -- admission -------------------------------------------------------------------------------------------------

    def admit_connection(self) -> bool:
        return self._admission.admit(self._total_key, self.limits.connections)

    def release_connection(self) -> None:
        self._admission.release(self._total_key)

    def admit_address(self, address: str) -> bool:
        limit = self.limits.connections_per_ip
        return not limit or self._admission.admit(self.key("ip", address_group(address)), limit)

    def release_address(self, address: str) -> None:
        if self.limits.connections_per_ip:
            self._admission.release(self.key("ip", address_group(address)))

    def admit_user(self, user: str) -> bool:
        limit = self.limits.connections_per_user
        return not limit or self._admission.admit(self.key("user", user), limit)

    def release_user(self, user: str) -> None:
        if self.limits.connections_per_user:
            self._admission.release(self.key("user", user))

    @property
    def slots_lost(self) -> int:
        """Keys that the tables had no place for, of the whole node."""
        return self._rates.evicted + self._admission.refused

    # -- rates -----------------------------------------------------------------------------------------------------

    def take(self, rate_key: int, now: float, cost: int = 1) -> float:
        """Seconds to wait before `cost` commands of this key are allowed; 0.0 = allowed, and taken."""
        if not self._interval_us:
            return 0.0
        return self._rates.take(
            rate_key, int(now * 1e6) - self._started_us, cost, self._interval_us, self.limits.rate_burst
        )


def address_group(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one (a single host owns all of it)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
