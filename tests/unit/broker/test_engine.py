"""Publications: order, acknowledgement, idempotency, who may; and that no record, however strange, ends the broker."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import Client, Node

from tuskws_fast.broker.engine import DUE_MAX, Engine
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import Level, Publication, Reply
from tuskws_fast.protocol import codec
from tuskws_fast.rooms.permissions import EVERYTHING, MODERATE


@pytest.fixture
def node() -> Node:
    return Node(workers=2)


@pytest.fixture
def alice(node: Node) -> Client:
    client = node.connect("alice")
    client.join("chat")
    return client


@pytest.fixture
def bob(node: Node, alice: Client) -> Client:
    client = node.connect("bob", worker=1)
    client.join("chat")
    return client


# -- order -----------------------------------------------------------------------------------------------------------


def test_all_members_hear_the_same_in_one_order(alice: Client, bob: Client) -> None:
    alice.say("chat", "one")
    bob.say("chat", "two")
    alice.say("chat", "three")
    assert alice.heard("chat") == bob.heard("chat") == ["one", "two", "three"]


def test_a_push_is_the_publishers_body_with_time_and_position(node: Node, alice: Client, bob: Client) -> None:
    ack = alice.say("chat", {"deep": ["value", 1]})
    (push,) = bob.take("room_message")
    assert push == {
        "type": "room_message",
        "room": "chat",
        "message": {"deep": ["value", 1]},
        "from": "alice",
        "timestamp": node.wall,
        "epoch": ack["epoch"],
        "offset": 1,
    }
    assert ack == {"type": "ack", "room": "chat", "epoch": ack["epoch"], "offset": 1, "level": "accepted"}


def test_without_echo_only_the_sending_connection_is_left_out(node: Node, alice: Client, bob: Client) -> None:
    other_tab = node.connect("alice")
    other_tab.join("chat")
    alice.say("chat", "quietly", echo=False)
    assert alice.heard("chat") == []
    assert other_tab.heard("chat") == bob.heard("chat") == ["quietly"]


def test_a_worker_gets_one_record_however_many_members_it_has(node: Node, alice: Client, bob: Client) -> None:
    for n in range(5):
        node.connect(f"guest-{n}", worker=1).join("chat")
    record = records.Publish(alice.conn, 0, 0, 0, True, True, "chat", "", b'{"type":"room_message","message":1')
    out = node.engine.handle(0, record, node.now, node.wall)
    assert [slot for slot, _ in out] == [0, 1]
    assert all(isinstance(sent, Publication) for _, sent in out)


def test_a_worker_without_members_is_not_told(node: Node, alice: Client) -> None:
    record = records.Publish(alice.conn, 0, 0, 0, True, True, "chat", "", b'{"type":"room_message","message":1')
    assert [slot for slot, _ in node.engine.handle(0, record, node.now, node.wall)] == [0]


@pytest.mark.parametrize(("tag", "quiet"), [(7, True), (0, False), (0, True)])
def test_success_is_silent_where_no_answer_is_wanted(node: Node, alice: Client, tag: int, quiet: bool) -> None:
    record = records.Publish(alice.conn, tag, 0, 0, True, quiet, "chat", "k", b'{"type":"room_message","message":1')
    for _ in range(2):
        out = node.engine.handle(0, record, node.now, node.wall)
        assert not any(isinstance(sent, Reply) for _, sent in out)


def test_an_error_is_told_even_where_no_answer_is_wanted(node: Node, alice: Client) -> None:
    record = records.Publish(alice.conn, 0, 0, 0, True, True, "elsewhere", "", b"{")
    ((slot, reply),) = node.engine.handle(0, record, node.now, node.wall)
    assert slot == 0
    assert isinstance(reply, Reply)
    assert (reply.conn, reply.tag, reply.ok) == (alice.conn, 0, False)


# -- who may ---------------------------------------------------------------------------------------------------------


def test_only_members_may_speak_and_a_room_elsewhere_looks_like_none(node: Node, alice: Client) -> None:
    carol = node.connect("carol")
    assert carol.say("chat", "hi")["code"] == "not_in_room"
    assert carol.say("no-such-room", "hi")["code"] == "not_in_room"
    assert alice.heard("chat") == []


def test_membership_is_the_connections_not_the_users(node: Node, alice: Client) -> None:
    other_tab = node.connect("alice")
    assert other_tab.say("chat", "hi")["code"] == "not_in_room"


def test_a_connection_without_identity_may_nothing(node: Node) -> None:
    stranger = Client(node, records.first_conn(0, 1) + 99, 0, "", EVERYTHING)
    assert stranger.say("chat", "hi")["code"] == "not_authenticated"
    assert stranger.join("chat")["code"] == "not_authenticated"
    assert stranger.tell("alice", "hi")["code"] == "not_authenticated"
    assert stranger.call("list_rooms")["code"] == "not_authenticated"


def test_in_a_moderated_room_only_moderators_speak(node: Node, alice: Client) -> None:
    node.server.call("update_room", room="chat", settings={"moderated": True})
    assert alice.say("chat", "hi")["code"] == "moderated"
    alice.rights = MODERATE
    assert alice.say("chat", "hi")["offset"] == 1


def test_in_a_private_room_speaking_is_a_right_of_its_own(node: Node, alice: Client) -> None:
    node.server.call("update_room", room="chat", settings={"public": False})
    assert alice.say("chat", "hi")["code"] == "forbidden"
    node.server.call("invite", room="chat", user="alice")
    assert alice.say("chat", "hi")["offset"] == 1


def test_the_server_speaks_without_being_a_member(node: Node, alice: Client, bob: Client) -> None:
    node.server.call("update_room", room="chat", settings={"moderated": True, "public": False})
    assert node.server.say("chat", "notice")["offset"] == 1
    assert alice.heard("chat") == bob.heard("chat") == ["notice"]
    assert node.server.say("no-such-room", "notice")["code"] == "no_such_room"


def test_the_application_leaves_out_whom_it_names(node: Node, alice: Client, bob: Client) -> None:
    body = b'{"type":"room_message","room":"chat","message":"from the app"'
    node.send(1, records.Publish(alice.conn, 0, 0, 0, True, True, "chat", "", body, server=True))
    assert alice.heard("chat") == []
    assert bob.heard("chat") == ["from the app"]


@pytest.mark.parametrize("level", [Level.STORED, Level.SYNCED])
def test_a_level_that_cannot_be_met_publishes_nothing(alice: Client, level: Level) -> None:
    assert alice.say("chat", "hi", level=level)["code"] == "unavailable"
    assert alice.tell("alice", "hi", level=level)["code"] == "unavailable"
    assert alice.take() == []
    assert alice.say("chat", "hi", level=Level.ACCEPTED)["offset"] == 1


# -- idempotency -----------------------------------------------------------------------------------------------------


def test_a_retry_gets_the_first_result_and_publishes_nothing(node: Node, alice: Client, bob: Client) -> None:
    first = alice.say("chat", "hi", key="k")
    alice.say("chat", "between")
    again = alice.say("chat", "hi", key="k")
    assert again == {**first, "duplicate": True}
    assert bob.heard("chat") == ["hi", "between"]


def test_a_retry_over_another_connection_is_the_same_retry(node: Node, alice: Client) -> None:
    first = alice.say("chat", "hi", key="k")
    alice.drop()
    back = node.connect("alice", worker=1)
    back.join("chat")
    assert back.say("chat", "hi", key="k") == {**first, "duplicate": True}


def test_a_key_with_another_message_is_refused(alice: Client) -> None:
    alice.say("chat", "hi", key="k")
    assert alice.say("chat", "ho", key="k")["code"] == "bad_message"
    assert alice.heard("chat") == ["hi"]


def test_keys_of_other_users_and_rooms_are_other_keys(node: Node, alice: Client, bob: Client) -> None:
    alice.join("other")
    assert alice.say("chat", "hi", key="k")["offset"] == 1
    assert bob.say("chat", "hi", key="k")["offset"] == 2
    assert alice.say("other", "hi", key="k")["offset"] == 1


def test_a_key_is_forgotten_after_its_window(node: Node, alice: Client) -> None:
    alice.say("chat", "hi", key="k")
    node.advance(299.0)
    assert alice.say("chat", "hi", key="k")["duplicate"] is True
    node.advance(2.0)
    assert node.engine.census()["dedupe_entries"] == 0
    assert alice.say("chat", "hi", key="k")["offset"] == 2


def test_a_refused_command_does_not_use_up_its_key(node: Node, alice: Client) -> None:
    node.server.call("update_room", room="chat", settings={"moderated": True})
    alice.say("chat", "hi", key="k")
    node.server.call("update_room", room="chat", settings={"moderated": False})
    ack = alice.say("chat", "hi", key="k")
    assert ack["offset"] == 1
    assert "duplicate" not in ack


# -- time and the server ---------------------------------------------------------------------------------------------


def test_an_idle_engine_has_nothing_due(node: Node) -> None:
    assert node.engine.next_deadline() is None
    client = node.connect("alice")
    node.advance(1.0)
    assert node.engine.next_deadline() is None, "a quiet connection needs no timer"
    client.close()
    node.advance(10_000.0)
    assert node.engine.next_deadline() is None


def test_nothing_is_left_when_everybody_has_gone(node: Node, alice: Client, bob: Client) -> None:
    alice.say("chat", "hi", key="k")
    alice.tell("bob", "hi", key="k")
    bob.tell("nobody", "hi")
    alice.close()
    bob.drop()
    node.advance(2 * node.limits.inbox_ttl_s)
    assert node.engine.census() == {**dict.fromkeys(node.engine.census(), 0), "workers": 2}


def test_a_push_to_all_reaches_every_worker(node: Node, alice: Client, bob: Client) -> None:
    node.send(0, records.All(alice.conn, b'{"type":"notice"}'))
    assert alice.take("notice") == []
    assert bob.take("notice") == [{"type": "notice"}]


def test_the_server_puts_a_connection_into_a_room_and_takes_it_out(node: Node, alice: Client, bob: Client) -> None:
    node.server.call("create_room", room="vip", settings={"public": False, "password": "x"})
    assert node.server.call("server_join", conn=bob.conn, room="vip") == {"type": "ack", "room": "vip"}
    (joined,) = bob.take("room_joined")
    assert joined["member_count"] == 1
    assert node.server.call("server_join", conn=bob.conn, room="vip")["code"] == "already_in_room"
    node.server.say("vip", "welcome")
    assert bob.heard("vip") == ["welcome"]
    node.server.call("server_leave", conn=bob.conn, room="vip")
    assert bob.take("room_left") == [{"type": "room_left", "room": "vip"}]
    assert node.server.call("server_leave", conn=bob.conn, room="vip")["code"] == "not_in_room"
    assert node.server.call("server_join", conn=12345, room="vip")["code"] == "not_authenticated"
    assert node.server.call("server_join", room="vip")["code"] == "bad_message"


@pytest.mark.parametrize("op", ["server_join", "server_leave", "invite", "room_count", "no_such_op"])
def test_what_only_the_server_may_ask_is_unknown_to_clients(alice: Client, op: str) -> None:
    alice.rights = EVERYTHING
    assert alice.call(op, conn=alice.conn, room="chat", user="bob")["code"] == "unknown_type"


def test_the_server_has_no_presence(node: Node) -> None:
    assert node.server.call("presence", status="busy")["code"] == "unknown_type"


# -- fences ----------------------------------------------------------------------------------------------------------


def test_a_worker_speaks_only_for_its_own_connections(node: Node, alice: Client) -> None:
    attach = records.Attach(records.first_conn(1, 1) + 50, "mallory", "M", [], 1, "online")
    assert node.engine.handle(0, attach, node.now, node.wall) == []
    node.send(1, records.Detach(alice.conn, True))
    assert node.engine.census()["sessions"] == 1


def test_a_successor_does_not_speak_for_the_connections_of_the_worker_before_it(node: Node, alice: Client) -> None:
    node.kill_worker(0)
    node.start_worker(0, generation=2)
    node.connect("bob")
    node.send(0, records.Attach(records.first_conn(0, 1) + 9, "mallory", "M", [], 1, "online"))
    assert node.engine.counters["fenced"] == 1
    assert node.engine.census()["sessions"] == 2


def test_a_connection_keeps_its_user_until_its_end(node: Node, alice: Client) -> None:
    alice.attach(user="mallory")
    alice.say("chat", "hi", key="k")
    assert node.server.call("get_presence", room="chat")["users"][0]["userId"] == "alice"


def test_rings_announced_twice_under_one_generation_cost_nobody_a_session(node: Node, alice: Client) -> None:
    node.engine.worker_up(0, 1)
    node.advance(60.0)
    assert node.engine.census()["sessions"] == 1
    node.engine.worker_up(0, 2)
    node.advance(60.0)
    assert node.engine.census()["sessions"] == 0


# -- strange records -------------------------------------------------------------------------------------------------

JUNK: list[Any] = [None, [], {}, [None], 0, -1, 2**63, 1.5, "x", "", True, {"a": 1}, ["e", "x"], ["e", 1]]


@pytest.mark.parametrize("kind", [kind for kind in records.UpType if kind != records.UpType.PUBLISH])
def test_junk_in_any_field_of_any_record_is_refused_or_ignored(node: Node, alice: Client, kind: int) -> None:
    gone = node.connect("gone")
    gone.drop()
    claims = [None, 0, [["a*", 1]], None, None]
    good: dict[int, list[Any]] = {
        records.UpType.ATTACH: [alice.conn, "alice", "Alice", [], 1, "online", 0, claims, 0, 0.0, ""],
        records.UpType.DETACH: [alice.conn, True],
        records.UpType.JOIN: [alice.conn, 1, 0, "room", None, None, None],
        records.UpType.LEAVE: [alice.conn, 1, "chat"],
        records.UpType.PRIVATE: [alice.conn, 1, 0, 0, False, "bob", "k", "{}"],
        records.UpType.CALL: [alice.conn, 1, 63, "history", {"room": "chat"}],
        records.UpType.ALL: [0, "{}"],
        records.UpType.RECOVER: ["chat", "e1", 0],
        records.UpType.RESTORE: [alice.conn, "other", "e0", 3, 0],
        records.UpType.KEPT: ["room\nx", 1, {}],
        records.UpType.ANNOUNCED: [0],
        records.UpType.CONFIRM: [alice.conn, "e1", 1],
        records.UpType.RESUME: [alice.conn + 1, 1, alice.conn, gone.ticket, 1, None, {"chat": ["e1", 0]}],
        records.UpType.SEEN: ["chat", "e1", 1, alice.conn, "k", 1, 1],
    }
    for position in range(len(good[kind])):
        for junk in JUNK:
            fields = list(good[kind])
            fields[position] = junk
            handle_if_it_unpacks(node, kind, fields)


@pytest.mark.parametrize(
    "op",
    [
        *("presence", "get_presence", "history", "create_room", "update_room", "delete_room", "room_info"),
        *("list_rooms", "kick", "ban", "mute", "invite", "server_join", "server_leave", "room_count"),
    ],
)
def test_junk_in_any_argument_of_any_call_is_answered(node: Node, alice: Client, op: str) -> None:
    for name in ("room", "user", "users", "status", "since", "limit", "settings", "seconds", "conn"):
        for junk in JUNK:
            for client in (alice, node.server):
                client.rights = EVERYTHING
                args = {"room": "chat", "user": "bob", name: junk}
                assert client.call(op, **args)["type"]


def handle_if_it_unpacks(node: Node, kind: int, fields: list[Any]) -> None:
    try:
        record = records.unpack_record(kind, codec.encode(fields))
    except ValueError:
        return
    node.engine.handle(0, record, node.now, node.wall)  # type: ignore[arg-type]
    node.engine.tick(node.now, node.wall)


def test_a_record_that_only_goes_down_is_ignored(node: Node) -> None:
    assert node.engine.handle(0, records.Gone("chat", b""), 0.0, 0.0) == []  # type: ignore[arg-type]
    assert node.engine.counters["refused_bad_message"] == 1


def test_what_is_due_for_very_many_is_done_a_part_at_a_time() -> None:
    node = Node(grace_s=10.0, keep_alive_s=0.0)
    for n in range(DUE_MAX + 10):
        node.connect(f"guest-{n}").join("chat")
    node.advance(1.0)
    node.kill_worker(0)
    node.engine.tick(node.now + 10.0, node.wall + 10.0)
    assert node.engine.census()["members"] == 10
    assert (node.engine.next_deadline() or 0.0) == node.now + 10.0
    node.engine.tick(node.now + 10.0, node.wall + 10.0)
    assert node.engine.census()["members"] == 0


def test_runs_repeat_exactly() -> None:
    def run() -> list[Any]:
        epochs = iter("abcdefgh")
        engine = Engine(EngineLimits(), 0.0, lambda: next(epochs))
        out: list[Any] = [engine.worker_up(0, 1)]
        conn = records.first_conn(0, 1) + 1
        for record in (
            records.Attach(conn, "alice", "Alice", [], 1, "online"),
            records.Join(conn, 1, 0, "chat", None, None, None),
            records.Publish(conn, 2, 0, 0, True, False, "chat", "k", b'{"message":1'),
            records.Detach(conn, False),
        ):
            out.append(engine.handle(0, record, 1.0, 2.0))
        out.append(engine.tick(100.0, 101.0))
        return out

    assert run() == run()
