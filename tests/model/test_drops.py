"""Who drops tells the position, and that is enough: see `model.drops`. Then the real parts along every step of it.

Real are the engine, the broker's inbox and outbox, both ends of the link with its rings, and the worker's hub with
its connections. What the model decides is only when a publication finds the ring full.
"""

from __future__ import annotations

from typing import cast, get_args

import pytest
from helpers.engine import Client, Node
from model.drops import Drops, Fault, State
from model.explore import Walk, explore, walks
from tuskws_fast_ext.connection import Connection, FlushPoint

from tuskws_fast.broker.inbox import Inbox
from tuskws_fast.broker.outbox import Outbox
from tuskws_fast.ipc import records
from tuskws_fast.ipc.link import Link, Record, format_link, link_bytes
from tuskws_fast.ipc.records import DownRecord
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.protocol import codec
from tuskws_fast.worker.hub import Hub

RING = 16 * 1024


@pytest.mark.parametrize("model", [Drops(), Drops(messages=4, changes=0), Drops(messages=3, changes=2)])
def test_no_member_misses_a_message_unseen(model: Drops) -> None:
    found = explore(model)
    assert found.fault is None, str(found.fault)
    assert found.states > 1_000


@pytest.mark.parametrize("broken", get_args(Fault))
def test_each_part_of_the_rule_is_needed(broken: Fault) -> None:
    fault = explore(Drops(broken=broken)).fault
    assert fault is not None
    expected = {"told again and again": "positions pile up", "holes passed on": "is shown, and"}
    assert expected.get(broken, "hears of no more") in fault.text


def test_a_position_must_be_answered_by_a_member_who_stays_too() -> None:
    fault = explore(Drops(messages=4, changes=0, broken="no answer where nothing is missing")).fault
    assert fault is not None
    assert "hears of no more" in fault.text


class Leaky(Link):
    """A link whose ring is full when it is told so."""

    is_full = False

    def send(self, record: Record) -> bool:
        if self.is_full and isinstance(record, records.Publication):
            self._drop(record)
            return False
        return super().send(record)


class Real:
    """A speaker on worker 1, whose records go by no ring, and the worker 0 of the model."""

    def __init__(self) -> None:
        self.segment = Segment.create("test-drops", link_bytes(RING, RING))
        format_link(self.segment, 1, RING, RING)
        self.broker_end = Leaky(self.segment, "broker", -1, -1)
        self.worker_end = Link(self.segment, "worker", -1, -1)
        self.node = Node(workers=2)
        self.speaker = self.node.connect("speaker", worker=1)
        self.epoch = self.speaker.join("room")["epoch"]
        self.outbox = Outbox(self.node.engine.position, lambda worker, reason: pytest.fail(reason))
        self.outbox.links[0] = self.broker_end
        self.inbox = Inbox(self.node.engine, self.outbox)
        self.decided: list[tuple[int, DownRecord]] = []
        self.hub = Hub(lambda: 0.0, self.ask, 0.0, lambda delay, callback: None, lambda: 0.0)
        self.point = FlushPoint(lambda callback: None, 1 << 20, 1000)
        self.member: tuple[Client, Connection] | None = None
        self.enter(self.node.connect("member"))
        self.shown = 0

    def close(self) -> None:
        self.broker_end.close()
        self.worker_end.close()
        self.segment.close()

    def enter(self, client: Client) -> None:
        joined = client.join("room")
        self.be_member(client, joined["offset"])

    def be_member(self, client: Client, offset: int) -> None:
        connection = Connection(self.point, object(), 65536, 1024)  # type: ignore[arg-type]
        self.hub.join(connection, "room", self.epoch, offset)
        self.member = (client, connection)
        self.shown = offset

    def ask(self, room: str, epoch: str, offset: int) -> None:
        self.worker_end.send(records.Recover(room, epoch, offset))
        self.worker_end.flush()

    # -- the model's steps -------------------------------------------------------------------------------------------

    def step(self, label: str, before: State, after: State) -> None:
        who, what = label.split(": ", 1)
        if who == "broker":
            self.broker(what, before)
        elif what.startswith("takes"):
            (record,) = self.worker_end.drain(1)
            self.apply(cast(DownRecord, record))
        elif what == "its member goes":
            assert self.member is not None
            client, connection = self.member
            self.member = None
            self.hub.leave(connection, "room")
            del self.node.workers[0].clients[client.conn]
            self.send(records.Detach(client.conn, True))
        else:
            self.joiner = self.node.connect(f"member {after.changes}")
            self.send(records.Join(self.joiner.conn, 0, 0, "room", None, None, None))

    def broker(self, what: str, before: State) -> None:
        now, wall = self.node.now, self.node.wall
        if what == "orders a message":
            prefix = codec.encode({"type": "room_message", "message": before.top + 1})[:-1]
            publish = records.Publish(self.speaker.conn, 1, 0, 0, True, True, "room", "", prefix)
            self.decide(self.node.engine.handle(1, publish, now, wall))
        elif what.startswith("takes"):
            self.take(now, wall)
        elif what.startswith(("pushes", "drops")):
            self.broker_end.is_full = what.startswith("drops")
            self.outbox.send([self.decided.pop(0)])
            self.broker_end.is_full = False
        elif what == "flushes":
            self.outbox.flush()

    def take(self, now: float, wall: float) -> None:
        """One record of the up ring, as `Inbox.drain` takes many."""
        whole, self.broker_end.drain = self.broker_end.drain, lambda n: whole(1)  # type: ignore[method-assign]
        out: list[tuple[int, DownRecord]] = []
        try:
            self.inbox.drain(0, now, wall, out)
        finally:
            del self.broker_end.drain
        self.decide(out)

    def decide(self, out: list[tuple[int, DownRecord]]) -> None:
        """Presence and counts, which go to all, are no part of the model."""
        self.decided += [(worker, record) for worker, record in out if worker == 0 and isinstance(record, SEQUENCED)]

    def send(self, record: records.UpRecord) -> None:
        self.worker_end.send(record)
        self.worker_end.flush()

    def apply(self, record: DownRecord) -> None:
        if isinstance(record, records.Publication):
            self.hub.publish(record.room, record.offset, record.body, None)
        elif isinstance(record, records.Position):
            self.hub.check(*record)
        elif isinstance(record, records.Recovered):
            self.hub.recovered(*record)
        elif isinstance(record, records.Joined):
            self.be_member(self.joiner, record.offset)
        else:
            raise AssertionError(f"the model knows nothing of {record}")
        self.hub.flush()

    def compare(self, state: State) -> None:
        assert self.node.engine.position("room") == (self.epoch, state.top)
        room = self.hub.rooms.get("room")
        assert (room is not None) == state.member
        if room is not None and self.member is not None:
            assert (room.offset, room.recovering) == (state.offset, state.recovering)
            waiting = self.member[1].waiting()
            assert waiting.count(b'"type":"room_message"') == state.offset - self.shown


SEQUENCED = (records.Publication, records.Position, records.Recovered, records.Joined)


def replay(walk: Walk[State], model: Drops) -> None:
    real = Real()
    try:
        state = model.initial()
        for label, after in walk:
            real.step(label, state, after)
            state = after
            real.compare(state)
    finally:
        real.close()


def test_the_real_parts_take_every_step_of_the_model() -> None:
    model = Drops(messages=3, changes=1)
    walked = 0
    for walk in walks(model, seed=1, share=0.95):
        replay(walk, model)
        walked += len(walk)
    assert walked > 10_000
