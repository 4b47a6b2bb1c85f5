"""Who may stand in the door, and how often an address may knock: the handshakes of a worker that are not done yet.

Deadline    From accept on, and progress does not move it: a dripping client gains nothing.
Half-open   A socket that is accepted and has not said what it wants costs a descriptor, a parser, under TLS some ten
            KiB more. Of one address, and in all, so many may wait; one more, and the oldest gives way. An honest
            handshake takes milliseconds, so those that give way are the ones that drip: a flood costs the flooder its
            own sockets, and who shares its address (NAT) still gets in.
Rates       So many handshakes a second, so many refused tokens a minute, of an address, over all workers (`limits`).
            Beyond that a token is not looked at any more, unless it is known to be good.

The address of a half-open socket is the peer's: whose name a trusted proxy brings is only known when the request is
here. So proxies' sockets count in all, and not by address.

A plain socket whose request came with it never waits here: the poller tells of those only that do. For how long sockets
are accepted before established connections get their turn again is not decided here (ext/sockets, `tls`).
"""

from __future__ import annotations

import itertools
import math
from http import HTTPStatus
from typing import Generic, TypeVar

from tuskws_fast.auth.forwarded import TrustedProxies
from tuskws_fast.auth.tokens import Verifier
from tuskws_fast.protocol.handshake import Refusal
from tuskws_fast.worker.limits import Limits, address_group

Attempt = TypeVar("Attempt")


class Doorkeeper(Generic[Attempt]):
    """`half_open_max` and `half_open_per_ip_max` are this worker's."""

    def __init__(
        self,
        limits: Limits,
        proxies: TrustedProxies,
        timeout_s: float,
        half_open_max: int,
        half_open_per_ip_max: int,
    ) -> None:
        self._limits = limits
        self._proxies = proxies
        self._timeout_s = timeout_s
        self._max = half_open_max
        self._per_ip_max = half_open_per_ip_max
        # Dicts for their order: the oldest stands first. The value is its deadline, and the address that it counts for
        # ("" = none).
        self._waiting: dict[Attempt, tuple[float, str]] = {}
        self._by_address: dict[str, dict[Attempt, None]] = {}

    @property
    def half_open(self) -> int:
        return len(self._waiting)

    def enter(self, attempt: Attempt, peer: str, now: float) -> Attempt | None:
        """`attempt` begins. Who has to give way for it: the caller ends that one, and it `leave`s."""
        group = "" if not peer or peer in self._proxies else address_group(peer)
        self._waiting[attempt] = (now + self._timeout_s, group)
        if group:
            others = self._by_address.setdefault(group, {})
            others[attempt] = None
            if len(others) > self._per_ip_max:
                return next(iter(others))
        return next(iter(self._waiting)) if len(self._waiting) > self._max else None

    def leave(self, attempt: Attempt) -> None:
        """It is upgraded, refused or gone. Nothing happens if it has not entered."""
        _, group = self._waiting.pop(attempt, (0.0, ""))
        if group:
            others = self._by_address[group]
            del others[attempt]
            if not others:
                del self._by_address[group]

    def overdue(self, now: float, most: int) -> list[Attempt]:
        """Whose time is up: the caller ends them. All have as much time, so the oldest stand in front."""
        oldest = itertools.islice(self._waiting.items(), most)
        return [attempt for attempt, (deadline, _) in oldest if deadline <= now]

    def check_pace(self, address: str, now: float) -> Refusal | None:
        """An upgrade is asked for: it costs a handshake of its address."""
        wait = self._limits.take_handshake(address, now)
        return too_many("Too many handshakes of this address", wait) if wait > 0.0 else None

    def check_token(self, verifier: Verifier | None, token: str, address: str, now: float) -> Refusal | None:
        """A token is to be looked at: not after too many bad ones, unless it was a good one before."""
        wait = self._limits.wait_for_token(address, now)
        if wait > 0.0 and verifier is not None and verifier.remembers(token):
            return None
        return too_many("Too many refused tokens of this address", wait) if wait > 0.0 else None


def too_many(text: str, wait_s: float) -> Refusal:
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, text, {"Retry-After": str(max(1, math.ceil(wait_s)))})
