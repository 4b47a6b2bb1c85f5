"""What members believe of who is in their rooms comes true again, whatever died: in the grace, or with one list."""

from __future__ import annotations

import random
from typing import Any

import pytest
from helpers.engine import Client, Node

from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import DownRecord
from tuskws_fast.rooms.presence import mark

GRACE_S = 10.0
ROOMS = ("r", "s")
USERS = ("ann", "bob", "carl", "dora", "eve")
STATUSES = ("online", "away", "busy", "offline")


class Net(Node):
    """A node whose broker may have told some workers, when it dies, less than others. Commands have no tags: what a
    client learns is all in its pushes. `views`: what each connection believes, room → user → status, or None where it
    was not told."""

    def __init__(self, **limits: Any) -> None:
        self.unheard: set[int] = set()
        self.views: dict[Client, dict[str, dict[str, str | None]]] = {}
        super().__init__(workers=2, **{"grace_s": GRACE_S, "keep_alive_s": 0.0, **limits})

    def deliver(self, out: list[tuple[int, DownRecord]]) -> None:
        super().deliver([each for each in out if each[0] not in self.unheard])

    def kill_broker(self, doors_closed: bool = False) -> None:
        self.unheard.clear()
        super().kill_broker(doors_closed)

    def enter(self, client: Client, room: str = "r") -> None:
        self.send(client.worker, records.Join(client.conn, 0, 0, room, None, None, None))

    def member(self, user: str, worker: int = 0, room: str = "r") -> Client:
        client = self.connect(user, worker)
        self.enter(client, room)
        return client

    def of(self, client: Client, room: str = "r") -> dict[str, str | None]:
        for each in self.clients():
            self._listen(each)
        return self.views[client][room]

    def clients(self) -> list[Client]:
        return [client for worker in self.workers.values() for client in worker.clients.values()]

    def _listen(self, client: Client) -> None:
        view = self.views.setdefault(client, {})
        for push in client.take():
            kind, room = push["type"], push.get("room", "")
            if kind in ("room_joined", "room_members"):
                view[room] = {each["userId"]: each["status"] for each in push["members"]}
                assert push["member_count"] == len(view[room])
            elif kind == "member_joined":
                view[room][push["user"]["id"]] = None
            elif kind == "member_left":
                view[room].pop(push["user"]["id"], None)
            elif kind == "presence_update":
                for users in view.values():
                    if push["userId"] in users:
                        users[push["userId"]] = push["status"]
            elif kind in ("room_left", "kicked"):
                view.pop(room, None)

    def check(self) -> None:
        """Every list is the truth."""
        for slot, worker in self.workers.items():
            for name, room in worker.rooms.items():
                rooms = [each.rooms[name] for each in self.workers.values() if name in each.rooms]
                there = {client.user for each in rooms for client in each.members.values()}
                state = self.server.call("get_presence", room=name)["users"]
                truth = {each["userId"]: each["status"] for each in state}
                assert truth.keys() == there
                for client in room.members.values():
                    view = self.of(client, name)
                    assert view.keys() == there, f"{client.user} on {slot} in {name}"
                    for user, status in view.items():
                        assert status in (None, truth[user]) or user == client.user, f"{client.user} of {user}"


@pytest.fixture
def net() -> Net:
    return Net()


def lists(client: Client) -> list[Any]:
    return client.take("room_members")


def test_who_joins_a_new_broker_is_shown_everybody(net: Net) -> None:
    net.member("ann", 1)
    bob = net.connect("bob")
    net.kill_broker()
    net.announce(0)
    net.enter(bob)
    assert bob.take() == []
    net.announce(1)
    assert net.of(bob).keys() == {"ann", "bob"}
    net.check()


@pytest.mark.parametrize("how", ["join", "leave", "close", "kick"])
def test_a_change_is_told_to_workers_that_announce_themselves_after_it(net: Net, how: str) -> None:
    bob, carl, _ = net.member("bob"), net.connect("carl"), net.member("ann", 1)
    net.kill_broker()
    net.announce(0)
    if how == "join":
        net.enter(carl)
    elif how == "leave":
        net.send(0, records.Leave(bob.conn, 0, "r"))
    elif how == "close":
        bob.close()
    else:
        net.send(0, records.Call(records.CONN_SERVER, 0, 0, "kick", {"room": "r", "user": "bob"}))
    net.announce(1)
    net.check()


@pytest.mark.parametrize("op", ["get_presence", "room_info"])
def test_questions_wait_for_the_whole_answer(net: Net, op: str) -> None:
    ann, _ = net.member("ann"), net.member("bob", 1)
    net.kill_broker()
    net.announce(0)
    net.send(0, records.Call(ann.conn, 7, 0, op, {"room": "r"}))
    assert 7 not in net.answers
    net.announce(1)
    (answer,) = net.answers.pop(7)
    assert answer.get("member_count", len(answer.get("users", ()))) == 2


def test_what_follows_a_join_that_waits_is_carried_out_behind_it(net: Net) -> None:
    ann, _ = net.connect("ann"), net.member("bob", 1)
    net.kill_broker()
    net.announce(0)
    net.enter(ann)
    prefix = b'{"type":"room_message","room":"r","message":"x","from":"ann"'
    net.send(0, records.Publish(ann.conn, 5, 0, 0, True, False, "r", "", prefix))
    net.announce(1)
    assert net.answers.pop(5)[0]["type"] == "ack"
    assert ann.heard("r") == ["x"]


def test_the_application_speaks_in_a_room_that_only_a_silent_worker_knows(net: Net) -> None:
    ann, _ = net.member("ann", 1), net.member("bob", room="s")
    net.kill_broker()
    net.announce(0)
    for tag, room in enumerate(("r", "nowhere", "s"), start=5):
        prefix = b'{"type":"room_message","room":"%b","message":"x","from":""' % room.encode()
        net.send(0, records.Publish(records.CONN_SERVER, tag, 0, 0, True, False, room, "", prefix, True))
    assert not net.answers
    net.announce(1)
    assert ann.heard("r") == ["x"]
    assert [net.answers.pop(tag)[0].get("code") for tag in (5, 6, 7)] == [None, "no_such_room", None]


def test_a_worker_that_dies_meanwhile_takes_what_it_asked_with_it(net: Net) -> None:
    ann, bob = net.connect("ann"), net.member("bob", 1)
    net.kill_broker()
    net.announce(0)
    net.enter(ann)
    net.kill_worker(0)
    net.announce(1)
    net.advance(GRACE_S)
    assert net.of(bob).keys() == {"bob"}


def test_who_announces_too_late_has_joined_for_those_who_came_meanwhile(net: Net) -> None:
    late, carl = net.member("ann", 1), net.connect("carl")
    net.kill_broker()
    net.announce(0)
    net.enter(carl)
    net.advance(2.0)
    assert net.of(carl).keys() == {"carl"}
    net.announce(1)
    assert net.of(carl).keys() == {"ann", "carl"}
    net.advance(GRACE_S)
    assert net.of(late).keys() == {"ann", "carl"}
    net.check()


def test_a_broker_that_reads_its_journal_for_long_waits_for_the_workers_all_the_same(net: Net) -> None:
    bob, _ = net.connect("bob"), net.member("ann", 1)
    net.kill_broker()
    net.advance(5.0)
    net.announce(0)
    net.enter(bob)
    net.advance(1.9)
    assert bob.take() == []
    net.announce(1)
    assert net.of(bob).keys() == {"ann", "bob"}


def test_announcements_that_take_long_are_waited_for_to_their_end(net: Net) -> None:
    bob, ann = net.connect("bob"), net.member("ann", 1)
    net.kill_broker()
    net.announce(0)
    net.enter(bob)
    for _ in range(5):
        net.advance(1.9)
        net.send(1, ann.attachment())
    assert bob.take() == []
    net.announce(1)
    assert net.of(bob).keys() == {"ann", "bob"}
    # Who has said all prolongs nothing.
    net.kill_broker()
    net.announce(0)
    net.advance(1.9)
    bob.attach(status="busy")
    net.advance(0.1)
    assert not net.engine.announcing


def test_a_successor_in_the_slot_of_a_worker_that_was_waited_for(net: Net) -> None:
    bob, _ = net.connect("bob"), net.member("ann", 1)
    net.kill_broker()
    net.announce(0)
    net.enter(bob)
    net.start_worker(1, 2)
    assert net.of(bob).keys() == {"bob"}


def test_workers_that_come_and_go_put_off_nothing(net: Net) -> None:
    bob, ann = net.member("bob"), net.member("ann", 1)
    ann.drop()
    net.restart_broker()
    for generation in (2, 3, 4):
        net.advance(GRACE_S / 3)
        net.kill_worker(1)
        net.start_worker(1, generation)
        net.announce(1)
    net.advance(0.1)
    assert net.of(bob).keys() == {"bob"}


def test_who_was_in_the_grace_when_the_broker_died_is_gone_after_it(net: Net) -> None:
    bob, ann = net.member("bob"), net.member("ann", 1)
    ann.drop()
    net.restart_broker()
    net.advance(GRACE_S - 0.1)
    assert net.of(bob).keys() == {"ann", "bob"}
    net.advance(0.1)
    assert net.of(bob).keys() == {"bob"}


def test_who_comes_back_in_the_grace_costs_no_list(net: Net) -> None:
    bob, _ = net.member("bob"), net.member("ann", 1)
    net.advance(1.0)
    net.kill_worker(1)
    net.kill_broker()
    net.start_worker(1, 2)
    net.announce(0)
    net.announce(1)
    net.member("ann", 1)
    net.advance(GRACE_S)
    assert lists(bob) == []
    net.check()


def test_a_worker_that_died_with_the_broker_and_never_comes_back(net: Net) -> None:
    bob, _ = net.member("bob"), net.member("ann", 1)
    net.unheard.add(0)  # nobody was told
    net.kill_worker(1)
    net.kill_broker()
    net.announce(0)
    net.advance(2.0 + GRACE_S)
    assert net.of(bob).keys() == {"bob"}


def test_nothing_is_told_again_where_nothing_was_lost(net: Net) -> None:
    members = [net.member(user, n % 2) for n, user in enumerate(USERS)]
    members[0].attach(status="busy")
    net.advance(1.0)
    members[1].close()
    net.restart_broker()
    net.advance(GRACE_S)
    assert [lists(each) for each in members] == [[]] * len(members)
    net.check()


def test_a_status_that_was_not_told_any_more(net: Net) -> None:
    bob, ann = net.member("bob"), net.member("ann", 1)
    net.advance(1.0)
    ann.attach(status="busy")  # a tick would tell
    net.restart_broker()
    net.advance(GRACE_S)
    assert net.of(bob)["ann"] == "busy"


def test_a_join_that_one_worker_was_not_told_of(net: Net) -> None:
    bob = net.member("bob")
    net.unheard.add(0)
    net.member("ann", 1)
    net.restart_broker()
    net.advance(GRACE_S)
    assert net.of(bob).keys() == {"ann", "bob"}


def test_a_join_whose_own_worker_did_not_tell_the_others_there(net: Net) -> None:
    bob, ann = net.member("bob"), net.connect("ann")
    node_deliver = net.deliver
    net.deliver = lambda out: node_deliver(out[:1])  # type: ignore[method-assign]
    net.enter(ann)
    net.deliver = node_deliver  # type: ignore[method-assign]
    assert [push["type"] for push in ann.pushes] == ["room_joined"]
    net.restart_broker()
    net.advance(GRACE_S)
    assert net.of(bob).keys() == {"ann", "bob"}


def test_two_deaths_in_one_grace(net: Net) -> None:
    bob, ann = net.member("bob"), net.member("ann", 1)
    ann.drop()
    net.restart_broker()
    net.member("carl", 1)  # told with no sum: that of the new broker hides who is missing
    net.restart_broker()
    net.advance(GRACE_S)
    assert net.of(bob).keys() == {"bob", "carl"}
    net.check()


def watching(net: Net, worker: int = 0) -> Client:
    return net.connect("wendy", worker, mode=int(records.PresenceMode.ALL))


def resets(client: Client) -> int:
    return len(client.take("presence_reset"))


@pytest.mark.parametrize("lost", ["in its grace", "with its worker", "untold"])
def test_who_watches_everybody_is_told_to_ask_again_when_somebody_was_lost(net: Net, lost: str) -> None:
    wendy, bob, ann = watching(net), net.connect("bob"), net.connect("ann", 1)
    net.advance(1.0)
    if lost == "in its grace":
        ann.drop()
    elif lost == "with its worker":
        net.kill_worker(1)
        net.start_worker(1, 2)
    else:
        net.unheard.add(0)
        ann.close()
    net.restart_broker()
    net.advance(GRACE_S - 0.1)
    assert resets(wendy) == 0, "who is missing has the grace to come back"
    net.advance(0.1)
    assert (resets(wendy), resets(bob)) == (1, 0)
    bob.attach(status="away")
    net.advance(1.0)
    net.restart_broker()
    net.advance(GRACE_S)
    assert resets(wendy) == 0, "once is enough"


def test_who_watches_everybody_asks_nothing_where_nobody_was_lost(net: Net) -> None:
    wendy, ann, bob, ghost = watching(net, 1), net.connect("ann"), net.connect("bob"), net.connect("carl")
    net.advance(1.0)
    ghost.attach(status="offline")
    net.advance(1.0)
    bob.close()
    net.restart_broker()
    ann.attach(status="busy")
    net.advance(1.0)
    net.restart_broker()
    net.advance(GRACE_S)
    ann.drop()
    net.restart_broker()
    net.advance(1.0)
    net.connect("ann").attach(status="busy")
    net.advance(GRACE_S)
    assert resets(wendy) == 0
    assert wendy.take("presence_update")[-1]["status"] == "busy"


def test_another_death_does_not_hide_who_is_missing_from_those_who_watch(net: Net) -> None:
    wendy, ann = watching(net), net.connect("ann", 1)
    net.advance(1.0)
    ann.drop()
    net.restart_broker()
    net.connect("carl", 1)
    net.advance(1.0)  # told with no sum
    net.restart_broker()
    net.advance(GRACE_S)
    assert resets(wendy) == 1


def test_lists_are_told_again_a_few_at_a_time() -> None:
    net = Net(views_bytes=200)
    bob, ann = net.connect("bob"), net.connect("ann", 1)
    for n in range(9):
        net.enter(bob, f"r{n}")
        net.enter(ann, f"r{n}")
    ann.drop()
    net.restart_broker()
    net.advance(GRACE_S)
    told = len(lists(bob))
    assert 0 < told < 9
    net.advance(1.0)
    assert told + len(lists(bob)) == 9
    assert net.engine.counters["views_bytes"] > 0


def test_a_large_room_is_told_its_size() -> None:
    net = Net(presence_full_max=2)
    members = [net.connect(user) for user in USERS]
    for each in members:
        net.enter(each)
    members[-1].drop()
    net.restart_broker()
    net.advance(GRACE_S + 1.0)
    assert members[0].take("room_stats")[-1]["member_count"] == len(USERS) - 1
    assert lists(members[0]) == []


def test_each_status_of_each_user_has_a_number_of_its_own() -> None:
    assert len({mark(user, status) for user in (*USERS, "") for status in STATUSES}) == 6 * 4
    assert mark("ann", "busy") == 55586039355289855  # the same in every process, and on every machine


@pytest.mark.parametrize("seed", range(150))
def test_any_history_of_faults(seed: int) -> None:
    """Blows drawn from a seed; then a grace without any."""
    rng, net, generation = random.Random(seed), Net(), 1
    for _ in range(rng.randrange(5, 40)):
        clients = net.clients()
        client = rng.choice(clients) if clients else None
        what = rng.choices(
            ["connect", "enter", "leave", "status", "close", "drop", "wait", "broker", "worker", "both", "unheard"],
            [6, 8, 3, 3, 2, 3, 4, 2, 1, 1, 2],
        )[0]
        if what == "connect" or client is None:
            if net.workers:
                net.connect(rng.choice(USERS), rng.choice(list(net.workers)), status=rng.choice(STATUSES))
        elif what == "enter":
            net.enter(client, rng.choice(ROOMS))
        elif what == "leave":
            net.send(client.worker, records.Leave(client.conn, 0, rng.choice(ROOMS)))
        elif what == "status":
            client.attach(status=rng.choice(STATUSES))
        elif what in ("close", "drop"):
            (client.close if what == "close" else client.drop)()
        elif what == "wait":
            net.advance(rng.choice((0.05, 0.2, 1.0, 5.0)))
        elif what == "unheard":
            net.unheard.add(rng.randrange(2))
        if what in ("worker", "both"):
            generation += 1
            slot = rng.choice(list(net.workers))
            net.kill_worker(slot)
            if what == "worker":
                net.start_worker(slot, generation)
        if what in ("broker", "both") or net.unheard:
            # A worker that is not told everything hears of nothing before the next broker.
            if what == "unheard" and client is not None:
                for _ in range(2):
                    rng.choice((client.attach, lambda c=client: net.enter(c, rng.choice(ROOMS))))()
            net.kill_broker()
            if what == "both":
                net.start_worker(slot, generation)
            slots = list(net.workers)
            rng.shuffle(slots)
            for n, slot in enumerate(slots):
                net.announce(slot)
                there = [each for each in net.clients() if each.worker in slots[: n + 1]]
                if there and rng.random() < 0.7:
                    each = rng.choice(there)
                    rng.choice((each.drop, each.close, lambda c=each: net.enter(c, "r")))()
                if rng.random() < 0.2:
                    net.advance(2.5)
    net.advance(2.0 + GRACE_S + 1.0)
    net.check()
