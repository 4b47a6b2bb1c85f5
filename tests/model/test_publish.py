"""No death, wherever it comes, loses or doubles what was acknowledged: see `model.publish`.

Then the real parts are led along the same steps: sessions and connections, the worker's commands, outbox, inbox and
hub, both ends of the links and their rings, the broker's inbox, outbox and engine, the journal's files and recovery.
What clients are sent, where hubs and room stand, and what is still asked must be what the model says at every step.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
from helpers.journals import BOOT, RUN, WALL
from helpers.rfc6455 import server_frames
from helpers.worker import Desk
from model.explore import Walk, explore, walks
from model.publish import LISTENER, SPEAKER, Fault, Publish, State, has_key
from tuskws_fast_ext.connection import Connection, FlushPoint

from tuskws_fast.auth.tokens import Verifier, make_token
from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.inbox import Inbox as BrokerInbox
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.broker.outbox import Outbox as BrokerOutbox
from tuskws_fast.ipc import records
from tuskws_fast.ipc.link import Link, format_link, link_bytes
from tuskws_fast.ipc.records import DownRecord
from tuskws_fast.ipc.segment import Segment
from tuskws_fast.protocol import codec
from tuskws_fast.storage.files import Files
from tuskws_fast.storage.recovery import recover
from tuskws_fast.storage.segments import JournalLimits, Segments
from tuskws_fast.worker.process import Worker
from tuskws_fast.worker.session import Session

HOLDS = {
    "two broker deaths": Publish(deaths=(2, 0, 0)),
    "without keys": Publish(keys=("a", "(b)"), deaths=(1, 1, 0)),
    "broker and speaker's worker": Publish(deaths=(1, 1, 0)),
    "broker and listener's worker": Publish(deaths=(1, 0, 1)),
    "three messages": Publish(keys=("a", "b", "c")),
    "a disk that fails": Publish(deaths=(1, 0, 0), disk=2),
    "memory only": Publish(deaths=(1, 0, 1), durable=False),
}
SHOWS: dict[Fault, tuple[Publish, str]] = {
    "told before it is written": (Publish(), "the journal does not know it"),
    "keys not in the journal": (Publish(deaths=(1, 1, 0)), "shown twice"),
    "commands not known again": (Publish(keys=("(a)",)), "shown twice"),
    "commands not asked again": (Publish(), "never acknowledged"),
    "position not announced": (Publish(), "never did"),
    "gap not told": (Publish(durable=False), "never did"),
    "since of any epoch": (Publish(durable=False, deaths=(1, 0, 1)), "has missed nothing of epoch"),
    "same epoch while nothing is written": (Publish(disk=1), "means both"),
    "same epoch after everything is lost": (Publish(durable=False), "means both"),
}


@pytest.mark.parametrize("model", HOLDS.values(), ids=HOLDS.keys())
def test_no_death_loses_or_doubles_what_was_acknowledged(model: Publish) -> None:
    found = explore(model)
    assert found.fault is None, str(found.fault)
    assert found.states > 4_000


@pytest.mark.parametrize("broken", get_args(Fault))
def test_each_part_of_the_promise_is_needed(broken: Fault) -> None:
    model, text = SHOWS[broken]
    fault = explore(Publish(model.keys, model.deaths, disk=model.disk, durable=model.durable, broken=broken)).fault
    assert fault is not None
    assert text in fault.text, str(fault)


RING = 16 * 1024
SECRET = "s" * 32
USERS = ("speaker", "listener")
# What the model has, of all that goes up and down; identities, presence and counts go beside.
DOWN = (records.Publication, records.Joined, records.Recovered, records.Gap)


class Quick(Files):
    """Nothing here outlives the machine."""

    def sync(self, fd: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


class RealWorker:
    """A worker without sockets, and its one client. `frames` are all messages that client was sent."""

    def __init__(self, slot: int, generation: int) -> None:
        self.slot, self.generation = slot, generation
        self.desk = Desk(verifier=Verifier([SECRET], max_token_ttl_s=0), asks_again=True)
        self.desk.outbox.link = None
        numbers = itertools.count(records.first_conn(slot, generation) + 1)
        self.desk.identities._new_number = self.new_number = lambda: next(numbers)
        self.inbox = self.desk.inbox()
        self.point = FlushPoint(lambda callback: None, 1 << 20, 1000)
        self.segment: Segment | None = None
        self.session: Session | None = None

    def connect(self) -> None:
        self.session = Session(self.desk.commands, self.new_number(), "127.0.0.1", self.desk.now)
        self.session.connection = Connection(self.point, self.session, 65536, 1024)
        self.session.on_open()
        self.say(type="auth", token=make_token(SECRET, USERS[self.slot], now=self.desk.wall, ttl_s=1e6))

    def say(self, **command: Any) -> None:
        assert self.session is not None
        self.session.on_message(codec.encode(command), True)
        self.desk.outbox.flush()

    @property
    def frames(self) -> list[dict[str, Any]]:
        if self.session is None:
            return []
        wire = self.session.connection.waiting()
        return [cast(dict[str, Any], codec.decode(payload)) for _, payload in server_frames(wire)]

    def take(self) -> bool:
        """One record of the ring. Whether the model has it."""
        link = self.desk.outbox.link
        found = link.drain(1) if link is not None else []
        if not found:
            return False
        record = cast(DownRecord, found[0])
        self.inbox.apply([record])
        self.desk.outbox.flush()
        return isinstance(record, DOWN) or (isinstance(record, records.Reply) and b'"type":"ack"' in record.body)

    def take_one(self) -> None:
        """The next that the model has, and what comes before it."""
        while not self.take():
            assert self.desk.outbox.link is not None
            assert self.desk.outbox.link.pending, "the model has one more record"

    def relink(self, segment: Segment) -> None:
        """As the worker's process does when the supervisor brings a new link."""
        while self.desk.outbox.link is not None and self.desk.outbox.link.pending:
            assert not self.take(), "the model has taken all of it"
        self.desk.outbox.disconnect()
        self.leave()
        self.segment = segment
        self.desk.outbox.link = Link(segment, "worker", -1, -1)
        process = SimpleNamespace(
            _outbox=self.desk.outbox,
            _hub=self.desk.hub,
            _inbox=self.inbox,
            _sessions=self.desk.sessions,
            _identities=self.desk.identities,
            _context=SimpleNamespace(slot=self.slot),
        )
        Worker._announce(cast(Worker, process))

    def leave(self) -> None:
        if self.segment is not None:
            self.segment.close()
            self.segment = None

    def die(self) -> None:
        if self.desk.outbox.link is not None:
            self.desk.outbox.link.close()
            self.desk.outbox.link = None
        self.leave()


class RealBroker:
    def __init__(self, real: Real) -> None:
        self.real = real
        # It waits for no worker: the model has no joins that do (tests/unit/broker/test_views.py has).
        self.engine = Engine(EngineLimits(shards=2), 1000.0, real.next_epoch, durable=True)
        found = recover(real.files, real.directory, BOOT, RUN, 0.0)
        assert not found.damage
        self.engine.restore(found, {}, False, 1000.0, WALL)
        self.journal = Segments(
            real.files,
            real.directory,
            real.limits,
            BOOT,
            RUN,
            found.next_number,
            found.next_segment,
            found.sealed,
            found.homes,
        )
        self.journal.open(WALL)
        self.outbox = BrokerOutbox(self.engine.position, lambda worker, reason: pytest.fail(reason))
        self.inbox = BrokerInbox(self.engine, self.outbox)
        self.decided: list[tuple[int, DownRecord]] = []
        self.segments: dict[int, Segment] = {}

    def link(self, worker: RealWorker) -> Segment:
        """New memory for the two; returns the worker's view of it."""
        self.unlink(worker.slot)
        segment = Segment.create("test-publish", link_bytes(RING, RING))
        format_link(segment, worker.generation, RING, RING)
        theirs = Segment(os.dup(segment.fd), segment.size)
        self.segments[worker.slot] = segment
        self.outbox.links[worker.slot] = Link(segment, "broker", -1, -1)
        self.outbox.send(self.engine.worker_up(worker.slot, worker.generation))
        return theirs

    def unlink(self, slot: int) -> None:
        link = self.outbox.links.get(slot)
        if link is not None:
            self.outbox.drop_worker(slot)
            link.close()
            self.segments.pop(slot).close()

    def order(self, slot: int, count: int) -> None:
        """So many records of the model: what a worker announces is one of them."""
        link = self.outbox.links[slot]
        while count:
            (record,) = link.drain(1)
            whole, link.drain = link.drain, lambda n, one=record: [one]  # type: ignore[method-assign, misc]
            try:
                self.inbox.drain(slot, 1000.0, WALL, self.decided)
            finally:
                link.drain = whole  # type: ignore[method-assign]
            count -= isinstance(record, records.Publish | records.Join | records.Restore)
        assert not self.inbox.failed

    def bury(self, slot: int) -> None:
        self.inbox.drain_all(slot, 1000.0, WALL, self.decided)
        self.unlink(slot)
        self.decided += self.engine.worker_lost(slot, 1000.0)

    def write(self, count: int | None = None) -> None:
        entries = self.engine.ledger.entries[:count]
        self.engine.ledger.entries = []
        if entries:
            self.journal.commit(entries, WALL)

    def turn(self, works: bool) -> None:
        """What `broker/journal` does when it cannot write, and when it can again."""
        ledger = self.engine.ledger
        ledger.writing = works
        ledger.entries = []
        if works:
            for scope in self.engine.unwritten(self.journal.homes):
                ledger.entries += self.engine.snapshot(scope)
            self.write()

    def tell(self, slot: int) -> None:
        self.outbox.send([each for each in self.decided if each[0] == slot])
        self.decided = [each for each in self.decided if each[0] != slot]
        if slot in self.outbox.links:
            self.outbox.links[slot].flush()

    def die(self) -> None:
        for slot in list(self.segments):
            self.unlink(slot)
        self.journal.close()


class Real:
    def __init__(self, directory: Path, model: Publish) -> None:
        self.directory, self.model = directory, model
        directory.mkdir()
        self.files, self.limits = Quick(), JournalLimits(segment_bytes=4096)
        self.epochs: list[str] = []
        self.broker: RealBroker | None = RealBroker(self)
        self.workers: list[RealWorker | None] = [RealWorker(SPEAKER, 1), RealWorker(LISTENER, 1)]
        self.generations = [1, 1]
        # Of clients whose worker died.
        self.before: list[list[dict[str, Any]]] = [[], []]
        for worker in self.workers:
            assert worker is not None
            worker.relink(self.broker.link(worker))
            worker.connect()
            worker.say(type="join_room", room="room")
            self.broker.order(worker.slot, 1)
            self.broker.write()
            for slot in (SPEAKER, LISTENER):
                self.broker.tell(slot)
            worker.take_one()

    def next_epoch(self) -> str:
        self.epochs.append(f"e{len(self.epochs) + 1}")
        return self.epochs[-1]

    def close(self) -> None:
        for worker in self.workers:
            if worker is not None:
                worker.die()
        if self.broker is not None:
            self.broker.die()

    # -- the model's steps -------------------------------------------------------------------------------------------

    def step(self, label: str, after: State) -> None:
        who, what = label.split(": ", 1)
        if who in USERS:
            self.client(USERS.index(who), what, after)
        elif who.startswith("worker"):
            self.worker(int(who.split()[1]), what, after)
        elif who == "disk":
            assert self.broker is not None
            self.broker.turn(what == "works again")
        else:
            self.broker_step(what)

    def client(self, slot: int, what: str, after: State) -> None:
        worker = self.workers[slot]
        assert worker is not None
        if what == "comes back":
            worker.connect()
            epoch, offset = after.clients[slot].at
            worker.say(type="join_room", room="room", since={"epoch": f"e{epoch}", "offset": offset})
        else:
            self.say(worker, what.removeprefix("says "))

    def say(self, worker: RealWorker, message: str) -> None:
        key = message if has_key(message) else 1 + self.model.keys.index(message)
        worker.say(type="broadcast", room="room", message=message, id=key)

    def worker(self, slot: int, what: str, after: State) -> None:
        worker = self.workers[slot]
        if what == "is born":
            self.generations[slot] += 1
            worker = self.workers[slot] = RealWorker(slot, self.generations[slot])
            if self.broker is not None:
                worker.relink(self.broker.link(worker))
            return
        assert worker is not None
        if what == "dies":
            self.before[slot] += worker.frames
            worker.die()
            self.workers[slot] = None
        elif what.startswith("tells"):
            assert self.broker is not None
            worker.relink(self.broker.link(worker))
        else:
            worker.take_one()
            if "'joined'" in what:
                for message in after.clients[slot].open:
                    self.say(worker, message)

    def broker_step(self, what: str) -> None:
        if what == "is born":
            self.broker = RealBroker(self)
            return
        broker = self.broker
        assert broker is not None
        words = what.split()
        if what.startswith("dies"):
            if len(words) > 1:
                broker.write(int(words[2]))
            broker.die()
            self.broker = None
        elif words[0] == "orders":
            broker.order(int(words[4]), int(words[1]))
        elif words[0] == "writes":
            assert len(broker.engine.ledger.entries) == int(words[1])
            broker.write()
        elif words[0] == "tells":
            broker.tell(int(words[2]))
        elif words[0] == "takes":
            broker.bury(int(words[4]))

    # -- what must agree ---------------------------------------------------------------------------------------------

    def compare(self, state: State) -> None:
        room = state.broker.room
        if self.broker is not None and room is not None:
            assert self.broker.engine.position("room") == (f"e{room.epoch}", len(room.said))
        for slot, worker in enumerate(self.workers):
            expected = state.workers[slot]
            assert (worker is not None) == expected.alive
            if worker is None:
                continue
            hub = worker.desk.hub.rooms.get("room")
            assert (hub is not None) == expected.member
            if hub is not None:
                assert (hub.epoch, hub.offset) == (f"e{expected.at[0]}", expected.at[1])
            assert len(worker.desk.outbox._asked) == len(expected.asked)
        sent = [self.before[slot] + (worker.frames if worker else []) for slot, worker in enumerate(self.workers)]
        self.compare_clients(state, sent)

    def compare_clients(self, state: State, sent: list[list[dict[str, Any]]]) -> None:
        texts = {text if has_key(text) else 1 + n: text for n, text in enumerate(self.model.keys)}
        acks = [each for each in sent[SPEAKER] if each["type"] == "ack"]
        assert [(texts[each["id"]], each["epoch"], each["offset"], each["level"] == "stored") for each in acks] == [
            (message, f"e{epoch}", offset, stored) for message, epoch, offset, stored in state.clients[SPEAKER].acks
        ]
        assert not [each for frames in sent for each in frames if each["type"] == "error"]
        for slot, frames in enumerate(sent):
            pushes = [
                push for each in frames for push in each.get("messages", [each]) if push["type"] == "room_message"
            ]
            assert [(push["epoch"], push["offset"], push["message"]) for push in pushes] == [
                (f"e{epoch}", offset, message) for epoch, offset, message in state.clients[slot].heard
            ]
            assert sum(each["type"] == "gap" for each in frames) == state.clients[slot].told


def replay(walk: Walk[State], model: Publish, directory: Path) -> None:
    real = Real(directory, model)
    try:
        state = model.initial()
        for label, after in walk:
            real.step(label, after)
            state = after
            real.compare(state)
    finally:
        real.close()
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("model", "share"),
    [
        (Publish(deaths=(1, 0, 0)), 0.5),
        (Publish(keys=("a", "(b)"), deaths=(1, 1, 0)), 0.1),
        (Publish(deaths=(1, 0, 1)), 0.1),
        (Publish(deaths=(1, 0, 0), disk=2), 0.1),
    ],
    ids=["broker", "broker and speaker's worker", "broker and listener's worker", "a disk that fails"],
)
def test_the_real_parts_do_what_the_model_does(model: Publish, share: float, tmp_path: Path) -> None:
    walked = 0
    for number, walk in enumerate(walks(model, seed=1, share=share)):
        replay(walk, model, tmp_path / str(number))
        walked += len(walk)
    assert walked > 1_000
