"""Who has to give way at the door, whose time is up, and what an address may still try."""

from __future__ import annotations

import time

import pytest

from tuskws_fast.auth.forwarded import TrustedProxies
from tuskws_fast.auth.tokens import Verifier, make_token
from tuskws_fast.worker.doorkeeper import Doorkeeper

SECRET = "a-secret-for-tests-of-more-than-32-bytes"


class Patience:
    """Stands where `Limits` does."""

    def __init__(self) -> None:
        self.handshake_wait = 0.0
        self.token_wait = 0.0

    def take_handshake(self, address: str, now: float) -> float:
        return self.handshake_wait

    def wait_for_token(self, address: str, now: float) -> float:
        return self.token_wait


@pytest.fixture
def patience() -> Patience:
    return Patience()


@pytest.fixture
def door(patience: Patience) -> Doorkeeper[str]:
    """Five in all, two of one address, five seconds each."""
    return Doorkeeper(patience, TrustedProxies(("10.0.0.1",)), 5.0, 5, 2)  # type: ignore[arg-type]


def test_of_one_address_the_oldest_gives_way(door: Doorkeeper[str]) -> None:
    assert [door.enter(name, "192.0.2.1", 0.0) for name in ("a", "b")] == [None, None]
    assert door.enter("other", "192.0.2.2", 0.0) is None
    assert door.enter("c", "192.0.2.1", 0.0) == "a"
    door.leave("a")
    assert door.half_open == 3
    assert door.enter("d", "192.0.2.1", 0.0) == "b"


def test_of_all_addresses_the_oldest_gives_way(door: Doorkeeper[str]) -> None:
    for n in range(5):
        assert door.enter(str(n), f"192.0.2.{n}", 0.0) is None
    assert door.enter("5", "192.0.2.5", 0.0) == "0"


def test_who_is_through_makes_room(door: Doorkeeper[str]) -> None:
    for n in range(100):
        assert door.enter(str(n), "192.0.2.1", 0.0) is None
        door.leave(str(n))
        door.leave(str(n))
    assert door.half_open == 0
    assert door._by_address == {}


def test_a_64_bit_network_is_one_address(door: Doorkeeper[str]) -> None:
    door.enter("a", "2001:db8::1", 0.0)
    door.enter("b", "2001:db8::2", 0.0)
    assert door.enter("c", "2001:db8::3", 0.0) == "a"


def test_sockets_of_trusted_proxies_count_in_all_and_not_by_address(door: Doorkeeper[str]) -> None:
    for n in range(5):
        assert door.enter(str(n), "10.0.0.1", 0.0) is None
    assert door.enter("5", "10.0.0.1", 0.0) == "0"


def test_time_runs_from_the_entrance(door: Doorkeeper[str]) -> None:
    for n in range(4):
        door.enter(str(n), f"192.0.2.{n}", float(n))
    assert door.overdue(4.9, 10) == []
    assert door.overdue(6.5, 10) == ["0", "1"]
    assert door.overdue(6.5, 1) == ["0"]
    door.leave("0")
    assert door.overdue(6.5, 1) == ["1"]


def test_who_comes_too_often_is_told_when_to_come_again(door: Doorkeeper[str], patience: Patience) -> None:
    assert door.check_pace("192.0.2.1", 0.0) is None
    patience.handshake_wait = 2.5
    refusal = door.check_pace("192.0.2.1", 0.0)
    assert refusal is not None
    assert (refusal.status, refusal.headers) == (429, {"Retry-After": "3"})


def test_after_too_many_bad_tokens_only_those_known_to_be_good_are_looked_at(
    door: Doorkeeper[str], patience: Patience
) -> None:
    verifier = Verifier([SECRET])
    good, unseen = make_token(SECRET, "ann"), make_token(SECRET, "bob")
    verifier.verify(good, time.time())
    assert door.check_token(verifier, unseen, "192.0.2.1", 0.0) is None
    patience.token_wait = 0.6
    assert door.check_token(verifier, good, "192.0.2.1", 0.0) is None
    for token in (unseen, "é" * 10, "x" * 1_000_000):
        refusal = door.check_token(verifier, token, "192.0.2.1", 0.0)
        assert refusal is not None
        assert (refusal.status, refusal.headers) == (429, {"Retry-After": "1"})
    assert door.check_token(None, good, "192.0.2.1", 0.0) is not None
