"""The engine against a model so simple that it can be believed, over any sequence of what can happen to a node.

    order        every member of a room gets the same messages, each once, none missing: what the room's log says
    join         what the reply replays and what is pushed afterwards meet without hole and without overlap
    counts       members are users with a live session or one in its grace, and everyone in the room knows how many
    interest     the engine sends a room's publications to exactly the workers that have a live member there
    presence     a user's status is the best of its leases, and who watches all has been told it
    dedupe       one key is one publication; offsets are never given twice
    ends         when all have gone and time has passed, nothing is left

The model knows users, sessions and logs; it knows nothing of shards, workers' records or timers. (Workers check one
more thing by themselves, see `helpers.engine`: offsets on each ring follow one another.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from helpers.engine import Client, Node
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tuskws_fast.ipc.records import PresenceMode

USERS = ("alice", "bob", "carol")
ROOMS = ("one", "two")
HISTORY_SIZE = 5
GRACE_S = 10.0
WINDOW_S = 40.0
RANK = ("offline", "away", "online", "busy")
WATCHED_WORKER = 2


@dataclass
class Log:
    """A room's messages of one epoch: `entries[n]` has offset n + 1 and says who was left out."""

    epoch: str
    entries: list[tuple[Any, Client | None]] = field(default_factory=list)

    @property
    def top(self) -> int:
        return len(self.entries)


@dataclass
class Seat:
    """What one member connection has been given of a room, and what it has been told about its size."""

    expected: list[Any]
    heard: list[Any]
    member_count: int | None


@dataclass
class Ghost:
    user: str
    status: str
    rooms: set[str]
    ends: float


class EngineMachine(RuleBasedStateMachine):
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(
            workers=3,
            history_size=HISTORY_SIZE,
            history_ttl_s=1e6,
            history_ttl_max_s=1e6,
            offline_ttl_s=1.0,
            dedupe_window_s=WINDOW_S,
            grace_s=GRACE_S,
        )
        self.generations = {0: 1, 1: 1}
        self.watcher = self.node.connect("watcher", worker=WATCHED_WORKER, mode=PresenceMode.ALL)
        self.told_status: dict[str, str] = {}
        self.live: dict[Client, dict[str, Seat]] = {}
        self.ghosts: list[Ghost] = []
        self.logs: dict[str, Log] = {}
        self.positions: dict[str, list[tuple[str, int]]] = {room: [] for room in ROOMS}
        self.first: dict[tuple[str, str, str], tuple[float, str, int, int]] = {}
        self.spoken = 0

    # -- the model's views -------------------------------------------------------------------------------------------

    def users_in(self, room: str) -> set[str]:
        live = {client.user for client, seats in self.live.items() if room in seats}
        return live | {ghost.user for ghost in self.ghosts if room in ghost.rooms}

    def status_of(self, user: str) -> str:
        leases = [client.status for client in self.live if client.user == user]
        leases += [ghost.status for ghost in self.ghosts if ghost.user == user]
        return max(leases, key=RANK.index, default="offline")

    def vacate(self, room: str) -> None:
        """A room that nobody is in and nothing was said in does not exist."""
        log = self.logs.get(room)
        if log is not None and not log.entries and not self.users_in(room):
            del self.logs[room]

    def collect(self) -> None:
        """Take what every connection was pushed into account."""
        for client, seats in self.live.items():
            for push in client.take():
                seat = seats.get(push.get("room", ""))
                if push["type"] == "room_message":
                    assert seat is not None, "only members are sent messages"
                    seat.heard.append(push["message"])
                elif push["type"] in ("member_joined", "member_left"):
                    assert seat is not None, "only members hear of members"
                    seat.member_count = push["member_count"]
                elif push["type"] == "gap":
                    self.on_gap(push)
        for push in self.watcher.take("presence_update"):
            self.told_status[push["userId"]] = push["status"]

    def on_gap(self, push: dict[str, Any]) -> None:
        room = push["room"]
        log = self.logs.get(room)
        if log is None or log.epoch != push["epoch"]:
            self.logs[room] = Log(push["epoch"])

    # -- people ------------------------------------------------------------------------------------------------------

    @rule(
        target=clients,
        user=st.sampled_from(USERS),
        worker=st.sampled_from((0, 1)),
        status=st.sampled_from(("online", "online", "offline")),
    )
    def connect(self, user: str, worker: int, status: str) -> Client:
        client = self.node.connect(user, worker=worker, status=status)
        self.live[client] = {}
        return client

    @rule(client=clients, status=st.sampled_from(RANK))
    def change_status(self, client: Client, status: str) -> None:
        if client in self.live:
            client.status = status
            assert client.call("presence", status=status)["type"] == "ack"

    @rule(client=clients)
    def close(self, client: Client) -> None:
        if client in self.live:
            self.collect()
            rooms = self.live.pop(client)
            client.close()
            for room in rooms:
                self.vacate(room)

    @rule(client=clients)
    def drop(self, client: Client) -> None:
        if client in self.live:
            self.collect()
            self.haunt(client)
            client.drop()

    def haunt(self, client: Client) -> None:
        rooms = set(self.live.pop(client))
        self.ghosts.append(Ghost(client.user, client.status, rooms, self.node.now + GRACE_S))

    # -- rooms -------------------------------------------------------------------------------------------------------

    @rule(client=clients, room=st.sampled_from(ROOMS), back=st.none() | st.integers(0, 9), newest=st.integers(0, 9))
    def join(self, client: Client, room: str, back: int | None, newest: int) -> None:
        if client not in self.live:
            return
        self.collect()
        known = self.positions[room]
        since = known[-1 - back] if back is not None and back < len(known) else None
        reply = client.join(room, since=since, history=newest)
        if room in self.live[client]:
            assert reply["code"] == "already_in_room"
            return
        log = self.logs.setdefault(room, Log(reply["epoch"]))
        assert (reply["epoch"], reply["offset"]) == (log.epoch, log.top)
        messages = [message for message, _ in log.entries]
        kept = messages[-HISTORY_SIZE:]
        if since is None:
            expected, recovered = (kept[-newest:] if newest else []), None
        elif since[0] == log.epoch and since[1] >= log.top - len(kept):
            expected, recovered = messages[since[1] :], True
        else:
            expected, recovered = [], False
        assert reply["recovered"] is recovered
        assert [push["message"] for push in reply["messages"]] == expected
        self.live[client][room] = Seat([], [], reply["member_count"])

    @rule(client=clients, room=st.sampled_from(ROOMS))
    def leave(self, client: Client, room: str) -> None:
        if client not in self.live:
            return
        self.collect()
        reply = client.leave(room)
        if room not in self.live[client]:
            assert reply["code"] == "not_in_room"
            return
        assert reply["type"] == "room_left"
        del self.live[client][room]
        self.vacate(room)

    @rule(
        client=clients,
        room=st.sampled_from(ROOMS),
        echo=st.booleans(),
        key=st.sampled_from(("", "", "k1", "k2")),
        retry=st.booleans(),
    )
    def say(self, client: Client, room: str, echo: bool, key: str, retry: bool) -> None:
        if client not in self.live:
            return
        first = self.first.get((client.user, room, key)) if key else None
        if first is not None and (self.node.now - first[0] >= WINDOW_S or first[1] != self.epoch_of(room)):
            first = None
        self.spoken += 1
        message = first[3] if first is not None and retry else self.spoken
        reply = client.say(room, message, key=key, echo=echo)
        if room not in self.live[client]:
            assert reply["code"] == "not_in_room"
            return
        log = self.logs[room]
        if first is not None and not retry:
            assert reply["code"] == "bad_message"
        elif first is not None:
            assert (reply["duplicate"], reply["offset"]) == (True, first[2])
        else:
            self.published(client, room, log, message, echo, key, reply)

    def published(
        self, client: Client, room: str, log: Log, message: int, echo: bool, key: str, reply: dict[str, Any]
    ) -> None:
        log.entries.append((message, None if echo else client))
        assert (reply["epoch"], reply["offset"]) == (log.epoch, log.top)
        assert "duplicate" not in reply
        self.positions[room].append((log.epoch, log.top))
        if key:
            self.first[client.user, room, key] = (self.node.now, log.epoch, log.top, message)
        for member, seats in self.live.items():
            if room in seats and (echo or member is not client):
                seats[room].expected.append(message)

    def epoch_of(self, room: str) -> str | None:
        return self.logs[room].epoch if room in self.logs else None

    @rule(user=st.sampled_from(USERS), room=st.sampled_from(ROOMS))
    def kick(self, user: str, room: str) -> None:
        self.collect()
        was_in = user in self.users_in(room)
        reply = self.node.server.call("kick", room=room, user=user)
        if room not in self.logs:
            assert reply["code"] == "no_such_room"
            return
        assert reply.get("code") == (None if was_in else "not_in_room")
        for client, seats in self.live.items():
            if client.user == user:
                assert bool(client.take("kicked")) == (room in seats)
                seats.pop(room, None)
        for ghost in self.ghosts:
            if ghost.user == user:
                ghost.rooms.discard(room)
        self.vacate(room)

    # -- time and faults ---------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.05, 0.2, 4.0, 9.0, 11.0)))
    def advance(self, seconds: float) -> None:
        self.collect()
        self.node.advance(seconds)
        gone = [ghost for ghost in self.ghosts if ghost.ends <= self.node.now]
        self.ghosts = [ghost for ghost in self.ghosts if ghost.ends > self.node.now]
        for ghost in gone:
            for room in ghost.rooms:
                self.vacate(room)
        self.collect()
        if seconds >= 0.2:
            assert {user: self.told_status.get(user, "offline") for user in USERS} == {
                user: self.status_of(user) for user in USERS
            }

    @rule(slot=st.sampled_from((0, 1)))
    def kill_worker(self, slot: int) -> None:
        self.collect()
        for client in [client for client in self.live if client.worker == slot]:
            self.haunt(client)
        self.node.kill_worker(slot)
        self.generations[slot] += 1
        self.node.start_worker(slot, self.generations[slot])

    @rule(order=st.permutations((0, 1, WATCHED_WORKER)))
    def kill_broker(self, order: list[int]) -> None:
        self.collect()
        self.node.kill_broker()
        # Who was in its grace is not announced by anyone, and what was remembered is gone.
        self.ghosts.clear()
        self.first.clear()
        self.logs.clear()
        for slot in order:
            self.node.announce(slot)
        for seats in self.live.values():
            for seat in seats.values():
                seat.member_count = None
        self.collect()
        self.told_status = {user: self.status_of(user) for user in USERS}

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def every_member_heard_exactly_what_was_said(self) -> None:
        self.collect()
        for seats in self.live.values():
            for seat in seats.values():
                assert seat.heard == seat.expected

    @invariant()
    def counts_and_interest_are_those_of_the_members(self) -> None:
        self.collect()
        for room in ROOMS:
            users = self.users_in(room)
            info = self.node.server.call("room_info", room=room)
            if room not in self.logs:
                assert info["code"] == "no_such_room"
                continue
            assert info["member_count"] == len(users)
            interest: dict[int, int] = {}
            for client, seats in self.live.items():
                if room in seats:
                    interest[client.worker] = interest.get(client.worker, 0) + 1
                    assert seats[room].member_count in (None, len(users))
            found = self.node.engine._core.room(room)
            assert found is not None
            assert found.members.interest() == interest
            assert set(found.members.workers) == set(interest)

    @invariant()
    def presence_is_the_best_of_the_leases(self) -> None:
        entries = self.node.server.call("get_presence", users=list(USERS))["users"]
        assert {entry["userId"]: entry["status"] for entry in entries} == {user: self.status_of(user) for user in USERS}

    def teardown(self) -> None:
        for client in list(self.live):
            self.close(client)
        self.watcher.close()
        self.node.advance(3e6)
        census = self.node.engine.census()
        assert census == {**dict.fromkeys(census, 0), "workers": 3}


EngineMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
TestEngine = EngineMachine.TestCase
