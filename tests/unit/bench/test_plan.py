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


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rooms_that_share_their_members_need_fewer_connections(processes):
    scenario = Scenario("rooms", rooms=24, rooms_each=4, members=10, publishers=2, processes=processes)
    shares = shares_of(scenario)
    assert scenario.connections == sum(share.connections for share in shares) == 60
    assert publisher_numbers(shares) == list(range(48))
    for share in shares:
        for first in range(0, len(share.rooms), 4):
            bases = [room.publisher_base for room in share.rooms[first : first + 4]]
            assert bases == [bases[0] + 2 * n for n in range(4)], "their numbers follow one another"
            assert [room.same_members for room in share.rooms[first : first + 4]] == [False, True, True, True]


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
        ({"kind": "private", "protocol": "raw"}, "needs --protocol tusk"),
        ({"kind": "rooms", "rooms": 10, "rooms_each": 3}, "multiple"),
        ({"kind": "mixed", "rooms": 4, "rooms_each": 2}, "--rooms-each is for"),
        ({"kind": "private", "members": 3, "processes": 2}, "two users"),
        ({"kind": "slow", "slow": 100.0}, "that read"),
        ({"kind": "slow", "slow": 101.0}, "per cent"),
        ({"kind": "reconnect", "drop": 0.0}, "per cent"),
        ({"kind": "rooms", "rooms": 2, "processes": 3}, "never split"),
        ({"kind": "mixed", "side": 3, "batch": True}, "--batch"),
        ({"level": "stored", "protocol": "raw"}, "--protocol tusk"),
        ({"level": "stored", "batch": True}, "--batch"),
        ({"connect_rate": -1.0}, "not negative"),
    ],
)
def test_contradictory_flags_are_refused_with_the_reason(flags, text):
    with pytest.raises(PlanError, match=text):
        shares_of(Scenario(**{"kind": "fanout", **flags}))


def test_a_token_does_not_appear_in_a_representation():
    assert "secret-token" not in repr(Scenario("fanout", token="secret-token"))


@pytest.mark.parametrize("processes", [1, 3])
def test_slow_members_are_spread_and_never_publish(processes):
    shares = shares_of(Scenario("slow", members=100, slow=30, publishers=3, processes=processes))
    assert sum(share.slow for share in shares) == 30
    for share in shares:
        for room in share.rooms:
            assert len(room.publishers) <= room.members - room.slow


def test_only_the_slow_scenario_has_slow_members():
    assert shares_of(Scenario("fanout", members=100, slow=30))[0].slow == 0


def test_a_private_message_has_a_mailbox_of_one():
    shares = shares_of(Scenario("private", members=5, processes=2))
    assert [len(share.rooms) for share in shares] == [3, 2]
    assert all(share.action == "private" and share.fans_out for share in shares)
    assert publisher_numbers(shares) == [0, 1, 2, 3, 4]


def test_a_presence_storm_asks_and_does_not_fan_out():
    share = shares_of(Scenario("presence", members=20, publishers=4, rate=8))[0]
    assert (share.action, share.fans_out, share.interval_ns) == ("presence", False, 125_000_000)


@pytest.mark.parametrize("processes", [1, 3])
def test_the_side_connections_of_a_mixed_chat_keep_their_rate(processes):
    shares = shares_of(Scenario("mixed", rooms=6, members=2, side=10, side_rate=50, rate=1, processes=processes))
    assert sum(share.side_connections for share in shares) == 10
    assert sum(1e9 / share.side_interval_ns for share in shares) == pytest.approx(50)
    assert sum(share.connections for share in shares) == 22


@pytest.mark.parametrize("processes", [1, 3])
def test_a_reconnect_storm_drops_its_part_at_its_rate(processes):
    shares = shares_of(Scenario("reconnect", rooms=4, members=10, drop=50, drop_rate=30, processes=processes))
    assert sum(share.drops for share in shares) == 20
    assert sum(1e9 / share.drop_interval_ns for share in shares) == pytest.approx(30)
    assert all(share.publisher_total == 0 for share in shares)


@pytest.mark.parametrize("processes", [1, 3])
def test_handshakes_are_of_connections_in_no_room(processes):
    shares = shares_of(Scenario("handshake", members=64, processes=processes))
    assert sum(share.connections for share in shares) == 64
    assert all(share.churn and not share.rooms and not share.fans_out for share in shares)


def test_a_storm_without_a_rate_is_all_at_once():
    assert shares_of(Scenario("reconnect", members=10))[0].drop_interval_ns == 0


@pytest.mark.parametrize("processes", [1, 3])
def test_the_ramp_of_opening_is_kept_however_connections_are_spread(processes):
    shares = shares_of(Scenario("idle", members=300, connect_rate=60, processes=processes))
    assert sum(1e9 / share.open_interval_ns for share in shares) == pytest.approx(60)


@pytest.mark.parametrize(
    ("protocol", "kind", "path"),
    [
        ("raw", "fanout", ""),
        ("raw", "echo", "/echo"),
        ("raw", "idle", "/idle"),
        ("nchan", "echo", ""),
        ("nats", "fanout", "/"),
        ("socketio", "idle", "/socket.io/?EIO=4&transport=websocket"),
        ("tusk", "fanout", "/ws"),
    ],
)
def test_each_protocol_has_its_path(protocol, kind, path):
    assert shares_of(Scenario(kind, protocol=protocol, url="ws://127.0.0.1:1/ws"))[0].path == path


def test_wss_is_tls_and_has_its_own_port():
    scenario = Scenario("idle", url="wss://127.0.0.1/")
    assert scenario.endpoint()[1] == 443
    assert shares_of(scenario)[0].tls
