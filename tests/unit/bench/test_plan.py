"""How a scenario is dealt out to load processes: nobody forgotten, nobody twice, the rate kept."""

import pytest
from tuskws_bench.plan import PlanError, Scenario


def shares_of(scenario: Scenario):
    return scenario.shares(address="127.0.0.1", run=1, name="bench-x", base_ns=0)


def publisher_numbers(shares):
    return sorted(
        room.publisher_base + number for share in shares for room in share.rooms for number in room.publishers
    )


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_one_room_is_spread_over_all_processes(processes):
    shares = shares_of(Scenario("fanout", members=1000, publishers=5, processes=processes))
    assert sum(share.connections for share in shares) == 1000
    assert max(share.connections for share in shares) - min(share.connections for share in shares) <= 1
    assert publisher_numbers(shares) == [0, 1, 2, 3, 4]
    assert {room.name for share in shares for room in share.rooms} == {"bench-x-000000"}


def test_many_rooms_are_never_split():
    shares = shares_of(Scenario("rooms", rooms=10, members=4, publishers=2, processes=3))
    names = [room.name for share in shares for room in share.rooms]
    assert len(names) == len(set(names)) == 10
    assert publisher_numbers(shares) == list(range(20))


def test_echo_gives_each_connection_a_room_of_its_own():
    shares = shares_of(Scenario("echo", members=5, protocol="raw", processes=2))
    assert [share.connections for share in shares] == [3, 2]
    assert publisher_numbers(shares) == [0, 1, 2, 3, 4]
    assert {share.path for share in shares} == {"/echo"}


def test_idle_connections_join_nothing():
    shares = shares_of(Scenario("idle", members=11, processes=2))
    assert [share.loose_connections for share in shares] == [6, 5]
    assert all(share.rooms == [] and share.action == "none" for share in shares)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_rate_of_a_room_is_kept_however_its_publishers_are_spread(processes):
    shares = shares_of(Scenario("fanout", members=100, publishers=4, rate=200, processes=processes))
    assert sum(1e9 / share.interval_ns for share in shares) == pytest.approx(200)
    assert all(share.window == 0 for share in shares)


def test_each_of_many_rooms_gets_the_rate():
    shares = shares_of(Scenario("rooms", rooms=30, members=2, rate=10, processes=2))
    assert sum(1e9 / share.interval_ns for share in shares) == pytest.approx(300)


@pytest.mark.parametrize(("wire", "payload"), [(18, 16), (127, 125), (130, 126), (200, 196), (70_000, 69_990)])
def test_the_wire_length_of_a_raw_frame_includes_its_head(wire, payload):
    assert Scenario("fanout", protocol="raw", wire=wire).payload_bytes() == payload


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"payload": 15}, "stamp"),
        ({"wire": 100}, "--wire"),
        ({"members": 2, "publishers": 3}, "--publishers"),
        ({"window": 0}, "--window"),
        ({"processes": 2000}, "more load processes"),
        ({"url": "http://127.0.0.1/"}, "--url"),
        ({"members": 2, "publishers": 2, "processes": 2, "rooms": 0}, "at least 1"),
    ],
)
def test_contradictory_flags_are_refused_with_the_reason(flags, text):
    with pytest.raises(PlanError, match=text):
        shares_of(Scenario("fanout", **flags))


def test_a_token_does_not_appear_in_a_representation():
    assert "secret-token" not in repr(Scenario("fanout", token="secret-token"))
