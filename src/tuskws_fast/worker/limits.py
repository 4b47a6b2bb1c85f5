"""The limits that hold over all workers at once: connections in total, of an address, of a user; rates of both.

The figures live in shared memory (tuskws_fast_ext.tables); this file says what is counted under which key. Keys are
keyed hashes with the node's own secret: nobody outside can aim at somebody else's slot (`threats` L9). Admission is
exact: add, check, roll back. Rates are a token bucket (GCRA) that knows users, not connections, so that neither a
reconnect nor another worker refills it. Who is nobody's user yet, or a guest with a name of the moment, pays from its
address's bucket too, which is larger: many may share an address.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from dataclasses import dataclass, replace

from tuskws_fast_ext.pings import Pings
from tuskws_fast_ext.tables import AdmissionTable, RateTable


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second on average, `burst` at once after a pause; 0 a second = off."""

    per_s: float
    burst: int

    @property
    def interval_us(self) -> float:
        return 1e6 / self.per_s


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """0 = off, but for `connections`."""

    connections: int
    connections_per_ip: int
    connections_per_user: int
    commands: Rate  # of a user
    commands_per_ip: Rate  # of all strangers and guests of an address
    handshakes_per_ip: Rate
    refused_tokens_per_ip: Rate
    password_tries_per_ip: Rate  # of guests


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
        self._total_key = self.key("total", "")
        # A handshake asks for up to four of an address, and to parse and hash it costs 4 us.
        self._key_of_address = functools.lru_cache(maxsize=4096)(self._hash_address)

    def change_rates(self, limits: SharedLimits) -> None:
        """Count by the rates of `limits`. Its other figures stay as they are: what was admitted under one rule must be
        released under the same."""
        was = self.limits
        self.limits = replace(
            limits,
            connections=was.connections,
            connections_per_ip=was.connections_per_ip,
            connections_per_user=was.connections_per_user,
        )

    def bind(self, pings: Pings) -> None:
        """Have `pings` charge what it answers to the rates of commands."""
        rate, of_address = self.limits.commands, self.limits.commands_per_ip
        pings.limit(
            rate.interval_us if rate.per_s else 0.0,
            rate.burst,
            of_address.interval_us if of_address.per_s else 0.0,
            of_address.burst,
        )

    def key(self, kind: str, name: str) -> int:
        digest = hashlib.blake2b(f"{kind}\0{name}".encode(), key=self._secret, digest_size=8).digest()
        # 0 marks an empty slot.
        return int.from_bytes(digest, "little") or 1

    def _hash_address(self, kind: str, address: str) -> int:
        return self.key(kind, address_group(address))

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

    def address_key(self, address: str) -> int:
        """The key of `take_stranger`; 0 = its rate is off."""
        return self._key_of_address("commands", address) if self.limits.commands_per_ip.per_s else 0

    def take(self, rate_key: int, now: float) -> float:
        """Seconds to wait before a command of this key (a user, a connection) is allowed; 0.0 = allowed, and taken."""
        return self._take(self.limits.commands, rate_key, now)

    def take_stranger(self, address_key: int, now: float) -> float:
        """The same for a command of somebody who is only known by an address."""
        return self._take(self.limits.commands_per_ip, address_key, now)

    def take_handshake(self, address: str, now: float) -> float:
        return self._take_by_address("handshakes", self.limits.handshakes_per_ip, address, now)

    def take_password_try(self, address: str, now: float) -> float:
        return self._take_by_address("passwords", self.limits.password_tries_per_ip, address, now)

    def count_refused_token(self, address: str, now: float) -> None:
        self._take_by_address("tokens", self.limits.refused_tokens_per_ip, address, now)

    def wait_for_token(self, address: str, now: float) -> float:
        """Seconds to wait before another token of this address is looked at."""
        rate = self.limits.refused_tokens_per_ip
        if not rate.per_s:
            return 0.0
        key = self._key_of_address("tokens", address)
        return self._rates.wait(key, self._us(now), 1, rate.interval_us, rate.burst)

    def _take_by_address(self, kind: str, rate: Rate, address: str, now: float) -> float:
        return self._take(rate, self._key_of_address(kind, address), now) if rate.per_s else 0.0

    def _take(self, rate: Rate, key: int, now: float) -> float:
        if not rate.per_s:
            return 0.0
        return self._rates.take(key, self._us(now), 1, rate.interval_us, rate.burst)

    def _us(self, now: float) -> int:
        return int(now * 1e6) - self._started_us


# Parsing one costs 3 us, and most sockets in the door come from few.
@functools.lru_cache(maxsize=4096)
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
