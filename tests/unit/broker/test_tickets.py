"""A session goes on as another: what is restored, what is checked again, what the others see of it (nothing)."""

from __future__ import annotations

import pytest
from helpers.engine import WALL_OFFSET, Client, Node

from tuskws_fast.ipc import records


@pytest.fixture
def node() -> Node:
    return Node(keep_alive_s=300.0, grace_s=10.0)


def in_room(node: Node, user: str, room: str = "r", worker: int = 0) -> tuple[Client, tuple[str, int]]:
    client = node.connect(user, worker)
    joined = client.join(room)
    return client, (joined["epoch"], joined["offset"])


def nobody_saw(client: Client) -> bool:
    return not [push for push in client.take() if push["type"] in ("member_left", "member_joined", "presence_update")]


@pytest.mark.parametrize("away_s", [0.0, 9.0, 11.0, 299.0])
def test_what_was_missed_comes_with_one_answer(node: Node, away_s: float) -> None:
    bob, _ = in_room(node, "bob")
    ann, at = in_room(node, "ann")
    ann.drop()
    node.advance(away_s)
    bob.say("r", "missed")
    again = node.connect("guest", 1)
    resumed = again.resume(ann.ticket, r=at)
    assert resumed["user"] == {"id": "ann", "username": "Ann", "roles": []}
    assert [each["message"] for each in resumed["rooms"]["r"]["messages"]] == ["missed"]
    bob.say("r", "live")
    assert again.heard("r") == ["live"]


def test_nobody_sees_a_resuming_user_go(node: Node) -> None:
    bob, _ = in_room(node, "bob")
    ann, at = in_room(node, "ann")
    node.advance(1.0)
    bob.take()
    ann.drop()
    node.advance(5.0)
    again = node.connect("guest", 1)
    again.resume(ann.ticket, r=at)
    node.advance(20.0)
    assert nobody_saw(bob)


def test_room_that_is_not_named_is_left(node: Node) -> None:
    bob, _ = in_room(node, "bob")
    ann, _ = in_room(node, "ann")
    ann.drop()
    bob.take()
    node.connect("guest").resume(ann.ticket)
    assert [push["type"] for push in bob.take()] == ["member_left"]


def test_session_can_be_resumed_again_and_again(node: Node) -> None:
    ann, at = in_room(node, "ann")
    ticket = ann.ticket
    for n in range(5):
        ann.drop()
        node.advance(1.0 if n % 2 else 20.0)
        ann = node.connect("guest", n % 2)
        assert ann.resume(ticket, r=at)["type"] == "resumed"
        assert ann.ticket == ticket
        at = ("", 0)  # whatever was missed, it is the same session


def test_session_is_forgotten_in_time(node: Node) -> None:
    ann, at = in_room(node, "ann")
    ann.drop()
    node.advance(310.5)
    assert node.connect("guest").resume(ann.ticket, r=at)["code"] == "token_expired"
    assert node.engine.census()["resumable"] == 0


def test_sessions_kept_are_bounded_and_the_oldest_goes() -> None:
    node = Node(resumable_max=2)
    tickets = []
    for user in ("a", "b", "c"):
        client = node.connect(user)
        tickets.append(client.ticket)
        client.close()
    assert node.engine.counters["resumable_max"] == 1
    answers = [node.connect("guest").resume(ticket) for ticket in tickets]
    assert [answer.get("code") for answer in answers] == ["token_expired", None, None]


def test_connected_session_is_let_go_of_first(node: Node) -> None:
    bob, _ = in_room(node, "bob")
    ann, at = in_room(node, "ann")
    bob.take()
    again = node.connect("guest", 1)
    assert again.resume(ann.ticket, r=at)["type"] == "resumed"
    assert ann.superseded
    assert nobody_saw(bob)
    assert bob.call("room_info", room="r")["member_count"] == 2


def test_worker_that_does_not_let_go_is_not_waited_for(node: Node) -> None:
    ann, at = in_room(node, "ann")
    again = node.connect("guest", 1)
    node.deaf = True
    conn, tag = node.new_number(1), node.fresh_tag()
    node.send(1, records.Resume(conn, tag, again.conn, ann.ticket, 1, None, {"r": list(at)}))
    second = node.connect("other", 1)
    assert second.resume(ann.ticket, r=at)["code"] == "unavailable"  # one at a time
    assert tag not in node.answers
    node.advance(1.0)
    assert node.answers.pop(tag)[0]["type"] == "resumed"
    assert node.engine.counters["takeover_s"] == 1


def test_death_of_either_worker_ends_the_wait(node: Node) -> None:
    ann, at = in_room(node, "ann", worker=0)
    node.deaf = True
    again = node.connect("guest", 1)
    conn, tag = node.new_number(1), node.fresh_tag()
    node.send(1, records.Resume(conn, tag, again.conn, ann.ticket, 1, None, {"r": list(at)}))
    node.kill_worker(0)
    assert node.answers.pop(tag)[0]["type"] == "resumed"


def test_worker_that_asked_and_died_leaves_the_session_to_be_resumed(node: Node) -> None:
    ann, at = in_room(node, "ann", worker=0)
    node.deaf = True
    again = node.connect("guest", 1)
    node.send(1, records.Resume(node.new_number(1), 99, again.conn, ann.ticket, 1, None, {"r": list(at)}))
    node.kill_worker(1)
    node.advance(2.0)
    node.deaf = False
    assert node.connect("guest", 0).resume(ann.ticket, r=at)["type"] == "resumed"


def test_claims_of_the_session_open_its_private_rooms(node: Node) -> None:
    node.server.call("create_room", room="club", settings={"public": False})
    ann = node.connect("ann", rights=1 | 2 | 4, claims=[None, 0, [["cl*", 1 | 2 | 4]], None, None])
    joined = ann.join("club")
    ann.drop()
    at = (joined["epoch"], joined["offset"])
    assert node.connect("guest").resume(ann.ticket, club=at)["rooms"]["club"]["recovered"] is True


def test_newer_token_counts_instead(node: Node) -> None:
    node.server.call("create_room", room="club", settings={"public": False})
    ann = node.connect("ann", rights=1, claims=[None, 0, [["cl*", 1]], None, None])
    joined = ann.join("club")
    ann.drop()
    at = (joined["epoch"], joined["offset"])
    again = node.connect("ann")
    resumed = again.resume(ann.ticket, ["ann", "Ann II", ["x"], [None, 0, [], None, None]], club=at)
    assert resumed["rooms"]["club"]["code"] == "forbidden"
    assert resumed["user"] == {"id": "ann", "username": "Ann II", "roles": ["x"]}


def test_session_of_an_expired_token_is_over(node: Node) -> None:
    ann = node.connect("ann", claims=[node.now + WALL_OFFSET + 5.0, 0, [], None, None])
    ann.drop()
    node.advance(4.0)
    ann2 = node.connect("guest")
    assert ann2.resume(ann.ticket)["type"] == "resumed"
    ann2.drop()
    node.advance(1.0)
    assert node.connect("guest").resume(ann.ticket)["code"] == "token_expired"


def test_live_sessions_outlive_the_broker_and_others_are_refused(node: Node) -> None:
    bob, _ = in_room(node, "bob")
    ann, _ = in_room(node, "ann", worker=1)
    carl, at_carl = in_room(node, "carl")
    dora = node.connect("guest")
    dora.resume(carl.ticket, r=at_carl)  # lives under a number that is not its ticket's
    gone, _ = in_room(node, "gone")
    gone.drop()
    node.kill_broker()
    early = node.connect("early")
    number = node.new_number(0)
    node.send(0, records.Resume(number, 77, early.conn, gone.ticket, 0, None, {}))
    node.announce(0)
    assert 77 not in node.answers  # it may be announced yet
    node.announce(1)
    assert node.answers.pop(77)[0]["code"] == "token_expired"
    assert node.connect("guest").resume(gone.ticket)["code"] == "token_expired"
    for session in (ann, dora):
        resumed = node.connect("guest", 1).resume(session.ticket, r=("", 0))
        assert resumed["rooms"]["r"]["recovered"] is False  # without a journal the room began anew
    assert bob.call("room_info", room="r")["member_count"] == 3


@pytest.mark.parametrize(
    "claims",
    [
        [],
        [1, 2],
        [None, 0, []],
        ["x", 0, [], None, None],
        [None, 0, [["a"]], None, None],
        [None, 0, [[1, 1]], None, None],
        [None, "1", [], None, None],
        [None, 0, [], 1, None],
        [None, 0, [], None, "1"],
    ],
)
def test_claims_that_no_worker_makes_change_nothing(node: Node, claims: list[object]) -> None:
    ann, _ = in_room(node, "ann")
    ann.drop()
    again = node.connect("guest")
    before = node.engine.census()
    assert again.resume(ann.ticket, ["ann", "Ann", [], claims])["code"] == "bad_message"
    assert node.engine.census() == before


def test_session_of_another_user_is_refused_and_stays_what_it_was(node: Node) -> None:
    ann, at = in_room(node, "ann", worker=0)
    ann.drop()
    bob = node.connect("bob")
    assert bob.resume(ann.ticket, ["bob", "Bob", [], None], r=at)["code"] == "forbidden"
    assert node.connect("guest").resume(ann.ticket, r=at)["rooms"]["r"]["recovered"] is True


def test_rooms_that_the_session_was_not_in_stay_closed(node: Node) -> None:
    ann, at = in_room(node, "ann", worker=0)
    other = node.connect("bob").join("other")
    ann.drop()
    rooms = node.connect("guest").resume(ann.ticket, r=at, other=(other["epoch"], other["offset"]))["rooms"]
    assert (rooms["r"]["type"], rooms["other"]["code"]) == ("room_joined", "not_in_room")


def test_session_that_goes_on_is_not_kept_beside_itself(node: Node) -> None:
    ann, at = in_room(node, "ann", worker=0)
    ann.drop()
    again = node.connect("guest", 1)
    again.resume(ann.ticket, r=at)
    resumable = node.engine.gauges()["sessions_resumable"]
    node.advance(node.limits.grace_s + 1.0)
    # The guest that the connection was may come back too.
    assert node.engine.gauges()["sessions_resumable"] == resumable <= 1
    again.drop()
    node.advance(node.limits.keep_alive_s / 2)
    assert node.connect("guest").resume(ann.ticket, r=at)["user"]["id"] == "ann"
