"""A publication's way, client → worker → broker → journal → ack and fan-out, with deaths between any two steps.

One room. The speaker is on worker 0 and has `keys` to say: each text is a message and its idempotency key, a message in
brackets has none. The listener is on worker 1. What the broker decides is what `Engine`, `Ledger` and `Members` decide;
its turn is that of `broker/process`: a batch of one ring, one write, then the rings one after the other.

    dies        the broker, also in the middle of a write; a worker with its clients, who come back to its successor,
                join with `since`, and say again what has a key and was not acknowledged
    survives    what lay in the rings (a dead broker's is taken by the worker, a dead worker's by the broker), and the
                journal
    disk        (`disk`) cannot be written for a while, and is written to again

    never       a position that means two messages; a message acknowledged at `stored` that the journal does not give
                back; a message shown twice; one shown with another missing before it and no gap told
    at rest     everything with a key is acknowledged; the listener is where the room is; where the disk worked, nobody
                was ever told a gap, and the epoch is the first one

`broken` leaves out one thing of all that. Without `durable` there is no journal (`--data-dir none`): then who waits is
told `unavailable`, the next broker begins a new epoch, and the listener is told so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from model.explore import Broken

SPEAKER, LISTENER = 0, 1
BATCH = 2

Fault = Literal[
    "told before it is written",
    "keys not in the journal",
    "commands not known again",
    "commands not asked again",
    "position not announced",
    "gap not told",
    "since of any epoch",
    "same epoch while nothing is written",
    "same epoch after everything is lost",
]

Record = tuple[object, ...]
Position = tuple[int, int]  # epoch, offset
NOWHERE: Position = (0, 0)


class Room(NamedTuple):
    """`said` are the messages 1 … top. Epochs are numbers that are never given twice; `previous` ended at `base`, in
    the same broker's life."""

    epoch: int = 0
    base: int = 0
    previous: int = 0
    said: tuple[str, ...] = ()
    stored: bool = True


class Broker(NamedTuple):
    """`members`: the connection that is in the room, of each worker. `ids`, `origins`: key or command ─▶ offset."""

    alive: bool = True
    room: Room | None = None
    ids: frozenset[tuple[str, int]] = frozenset()
    origins: frozenset[tuple[int, int, int]] = frozenset()
    members: tuple[int, int] = (0, 0)
    writing: bool = True
    phase: Literal["idle", "ordered", "written"] = "idle"
    entries: tuple[Record, ...] = ()
    decided: tuple[tuple[int, Record], ...] = ()


class Worker(NamedTuple):
    """`conn`: its client's number, new with each life. `asked`: tag and record of what is not answered yet."""

    alive: bool = True
    reaped: bool = False
    linked: bool = True
    conn: int = 0
    tag: int = 0
    asked: tuple[tuple[int, Record], ...] = ()
    member: bool = False
    at: Position = NOWHERE
    up: tuple[Record, ...] = ()
    down: tuple[Record, ...] = ()


class Client(NamedTuple):
    """`open`: said and not acknowledged. `acks`: message, epoch, offset, level. `heard`: epoch, offset, message."""

    said: int = 0
    open: tuple[str, ...] = ()
    acks: tuple[tuple[str, int, int, bool], ...] = ()
    at: Position = NOWHERE
    heard: tuple[tuple[int, int, str], ...] = ()
    told: int = 0


class State(NamedTuple):
    broker: Broker
    workers: tuple[Worker, Worker]
    clients: tuple[Client, Client]
    journal: tuple[Record, ...]
    epochs: int
    # What may still happen: deaths of the broker and of each worker, and turns of the disk.
    deaths: tuple[int, int, int]
    disk: int


Steps = Iterator[tuple[str, State]]


def has_key(message: str) -> bool:
    return message[0] != "("


@dataclass(frozen=True)
class Publish:
    keys: tuple[str, ...] = ("a", "b")
    deaths: tuple[int, int, int] = (1, 0, 0)
    deaths_in_all: int = 2
    disk: int = 0
    durable: bool = True
    broken: Fault | None = None

    def initial(self) -> State:
        room = Room(epoch=1, stored=self.durable)
        worker = Worker(member=True, at=(1, 0))
        journal: tuple[Record, ...] = (("opened", 1, 0),) if self.durable else ()
        client = Client(at=(1, 0))
        return State(
            Broker(room=room, members=(1, 2), writing=self.durable),
            (worker._replace(conn=1), worker._replace(conn=2)),
            (client, client),
            journal,
            2,
            self.deaths,
            self.disk,
        )

    def steps(self, state: State) -> Steps:
        yield from self._speaker(state)
        for slot in (SPEAKER, LISTENER):
            yield from self._worker(state, slot)
        yield from self._broker(state)
        yield from self._faults(state)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def wrong(self, state: State) -> str | None:
        found: dict[Position, str] = {}
        speaker, listener = state.clients
        known = [(epoch, offset, message) for message, epoch, offset, _ in speaker.acks] + list(listener.heard)
        kept = _recovered(state.journal)
        if kept is not None:
            written = enumerate(kept.said[kept.base :], start=kept.base + 1)
            known += [(kept.epoch, offset, message) for offset, message in written]
        known += [(int(e[1]), int(e[2]), str(e[3])) for e in state.journal if e[0] == "published"]  # type: ignore[call-overload]
        for epoch, offset, message in known:
            if found.setdefault((epoch, offset), message) != message:
                return f"position {epoch}/{offset} means both {message} and {found[epoch, offset]}"
        for message, epoch, offset, stored in speaker.acks:
            if stored and (kept is None or len(kept.said) < offset or kept.said[offset - 1] != message):
                return f"{message} was stored at {epoch}/{offset}, and the journal does not know it"
        heard = [message for _, _, message in listener.heard]
        if self.durable and not self.disk and len(set(heard)) != len(heard):
            return f"a message was shown twice: {heard}"
        return None

    def unfinished(self, state: State) -> str | None:
        speaker, listener = state.clients
        room = state.broker.room
        if missing := [message for message in speaker.open if has_key(message)]:
            return f"{missing} was never acknowledged"
        if room is None or listener.at != (room.epoch, len(room.said)):
            return f"the listener is at {listener.at}, the room is not"
        if self.durable and not self.disk and (listener.told or room.epoch != 1):
            return "the listener was told of a gap, and nothing was lost"
        return None

    # -- clients -----------------------------------------------------------------------------------------------------

    def _speaker(self, state: State) -> Steps:
        worker, client = state.workers[SPEAKER], state.clients[SPEAKER]
        if worker.alive and worker.member and client.said < len(self.keys):
            message = self.keys[client.said]
            after = self._client(state, SPEAKER, client._replace(said=client.said + 1, open=(*client.open, message)))
            yield f"speaker: says {message}", self._ask(after, SPEAKER, ("publish", worker.conn, message))
        for slot in (SPEAKER, LISTENER):
            worker = state.workers[slot]
            if worker.alive and worker.linked and not worker.member and not worker.asked:
                name = ("speaker", "listener")[slot]
                yield (
                    f"{name}: comes back",
                    self._ask(state, slot, ("join", worker.conn, state.clients[slot].at)),
                )

    def _ask(self, state: State, slot: int, record: Record) -> State:
        """What a worker sends up, and keeps until it is answered. To a dead broker it goes in vain."""
        worker = state.workers[slot]
        tag = worker.tag + 1
        sent = (*worker.up, (*record[:2], tag, *record[2:])) if worker.linked else worker.up
        return self._set(state, slot, worker._replace(tag=tag, asked=(*worker.asked, (tag, record)), up=sent))

    @staticmethod
    def _client(state: State, slot: int, client: Client) -> State:
        clients = (client, state.clients[1]) if slot == 0 else (state.clients[0], client)
        return state._replace(clients=clients)

    @staticmethod
    def _set(state: State, slot: int, worker: Worker) -> State:
        workers = (worker, state.workers[1]) if slot == 0 else (state.workers[0], worker)
        return state._replace(workers=workers)

    # -- workers -----------------------------------------------------------------------------------------------------

    def _worker(self, state: State, slot: int) -> Steps:
        worker = state.workers[slot]
        if not worker.alive:
            if worker.reaped:
                fresh = Worker(conn=worker.conn + 2, linked=state.broker.alive)
                yield f"worker {slot}: is born", self._set(state, slot, fresh)
            return
        if worker.down:
            taken = self._set(state, slot, worker._replace(down=worker.down[1:]))
            yield f"worker {slot}: takes {worker.down[0]}", self._apply(taken, slot, worker.down[0])
        elif not worker.linked and state.broker.alive:
            yield f"worker {slot}: tells the new broker what it knows", self._announce(state, slot)

    def _announce(self, state: State, slot: int) -> State:
        worker = state.workers[slot]
        assert state.broker.room is not None or not self.durable
        at = worker.at if self.broken != "position not announced" else None
        known: tuple[Record, ...] = (("member", worker.conn, at),) if worker.member else ()
        if not self.durable:
            return self._unavailable(self._set(state, slot, worker._replace(linked=True, asked=(), up=known)), slot)
        again = [(*record[:2], tag, *record[2:]) for tag, record in worker.asked]
        if self.broken == "commands not asked again":
            again = []
        return self._set(state, slot, worker._replace(linked=True, up=(*known, *again)))

    def _unavailable(self, state: State, slot: int) -> State:
        """Who waited may say it again; what has no key is given up."""
        worker, client = state.workers[slot], state.clients[slot]
        state = self._client(state, slot, client._replace(open=tuple(filter(has_key, client.open))))
        if worker.member:
            for message in state.clients[slot].open:
                state = self._ask(state, slot, ("publish", worker.conn, message))
        return state

    def _apply(self, state: State, slot: int, record: Record) -> State:
        match record:
            case ("ack", int(conn), int(tag), str(message), int(epoch), int(offset), bool(stored)):
                return self._acknowledged(state, slot, conn, tag, (message, epoch, offset, stored))
            case ("joined", int(conn), int(tag), int(epoch), int(top), bool(recovered), tuple(missed)):
                return self._joined(state, slot, conn, tag, (epoch, top), recovered, missed)
            case ("published", int(offset), str(message)):
                return self._shown(state, slot, offset, (message,))
            case ("recovered", int(epoch), int(first), tuple(missed)):
                return self._shown(state, slot, first, missed) if state.workers[slot].at[0] == epoch else state
            case ("gap", int(epoch), _, int(last)):
                worker, client = state.workers[slot], state.clients[slot]
                if not worker.member:
                    return state
                state = self._client(state, slot, client._replace(at=(epoch, last), told=client.told + 1))
                return self._set(state, slot, worker._replace(at=(epoch, last)))
        raise AssertionError(record)

    def _acknowledged(self, state: State, slot: int, conn: int, tag: int, ack: tuple[str, int, int, bool]) -> State:
        worker, client = state.workers[slot], state.clients[slot]
        if conn != worker.conn or tag not in dict(worker.asked):
            return state
        state = self._set(state, slot, worker._replace(asked=tuple(each for each in worker.asked if each[0] != tag)))
        left = tuple(message for message in client.open if message != ack[0])
        return self._client(state, slot, client._replace(open=left, acks=(*client.acks, ack)))

    def _joined(
        self, state: State, slot: int, conn: int, tag: int, at: Position, recovered: bool, missed: tuple[str, ...]
    ) -> State:
        worker, client = state.workers[slot], state.clients[slot]
        if conn != worker.conn or worker.member:
            return state
        left = tuple(each for each in worker.asked if each[0] != tag)
        state = self._set(state, slot, worker._replace(member=True, at=at, asked=left))
        if recovered:
            if client.at[0] != at[0]:
                raise Broken(f"a client at {client.at} is told that it has missed nothing of epoch {at[0]}")
            heard = self._heard(client, at[0], at[1] - len(missed) + 1, missed)
            state = self._client(state, slot, heard._replace(at=at))
        else:
            state = self._client(state, slot, client._replace(at=at, told=client.told + 1))
        return self._unavailable(state, slot)

    def _shown(self, state: State, slot: int, first: int, messages: tuple[str, ...]) -> State:
        """Publications for the worker's member, as `Hub.publish` and `Hub.recovered`."""
        worker, client = state.workers[slot], state.clients[slot]
        epoch, offset = worker.at
        news = messages[max(offset + 1 - first, 0) :]
        if not worker.member or not news:
            return state
        if first > offset + 1:
            raise Broken(f"message {first} reaches the worker, and {offset + 1} never did")
        top = offset + len(news)
        state = self._set(state, slot, worker._replace(at=(epoch, top)))
        return self._client(state, slot, self._heard(client, epoch, offset + 1, news)._replace(at=(epoch, top)))

    @staticmethod
    def _heard(client: Client, epoch: int, first: int, messages: tuple[str, ...]) -> Client:
        if messages and client.at[0] == epoch and first != client.at[1] + 1:
            raise Broken(f"a client at {client.at} is shown {epoch}/{first}")
        news = tuple((epoch, offset, message) for offset, message in enumerate(messages, first))
        return client._replace(heard=client.heard + news)

    # -- the broker --------------------------------------------------------------------------------------------------

    def _broker(self, state: State) -> Steps:
        broker = state.broker
        if not broker.alive:
            yield "broker: is born", self._born(state)
        elif broker.phase == "idle":
            yield from self._turn(state)
        elif broker.phase == "ordered" and self.broken != "told before it is written":
            yield f"broker: writes {len(broker.entries)} entries", self._write(state, "written")
        elif broker.decided:
            for slot in sorted({slot for slot, _ in broker.decided}):
                yield f"broker: tells worker {slot}", self._tell(state, slot)
        elif broker.entries:
            yield f"broker: writes {len(broker.entries)} entries", self._write(state, "idle")
        else:
            yield "broker: goes on", state._replace(broker=broker._replace(phase="idle"))

    def _write(self, state: State, phase: Literal["idle", "written"], count: int | None = None) -> State:
        broker = state.broker
        written = broker.entries[:count]
        return state._replace(journal=state.journal + written, broker=broker._replace(entries=(), phase=phase))

    def _tell(self, state: State, slot: int) -> State:
        broker, worker = state.broker, state.workers[slot]
        mine = tuple(record for to, record in broker.decided if to == slot)
        others = tuple(each for each in broker.decided if each[0] != slot)
        state = state._replace(broker=broker._replace(decided=others))
        # Between a worker's death and its successor nobody hears; and its rings end with it.
        if not (worker.alive and worker.linked):
            return state
        return self._set(state, slot, worker._replace(down=worker.down + mine))

    def _turn(self, state: State) -> Steps:
        for slot in (SPEAKER, LISTENER):
            worker = state.workers[slot]
            if not worker.alive and not worker.reaped:
                yield f"broker: takes all that worker {slot} left", self._bury(state, slot)
            elif worker.linked:
                for count in range(1, min(len(worker.up), BATCH) + 1):
                    yield f"broker: orders {count} of worker {slot}", self._order(state, slot, count)

    def _order(self, state: State, slot: int, count: int) -> State:
        worker = state.workers[slot]
        state = self._set(state, slot, worker._replace(up=worker.up[count:]))
        for record in worker.up[:count]:
            state = self._handle(state, slot, record)
        return state._replace(broker=state.broker._replace(phase="ordered"))

    def _bury(self, state: State, slot: int) -> State:
        state = self._order(state, slot, len(state.workers[slot].up))
        state = self._set(state, slot, state.workers[slot]._replace(up=(), down=(), reaped=True))
        members = (0, state.broker.members[1]) if slot == 0 else (state.broker.members[0], 0)
        return state._replace(broker=state.broker._replace(members=members))

    def _born(self, state: State) -> State:
        room = _recovered(state.journal)
        if room is not None:
            ids, origins = _remembered(state.journal)
            broker = Broker(
                room=room,
                ids=frozenset() if self.broken == "keys not in the journal" else ids,
                origins=frozenset() if self.broken == "commands not known again" else origins,
            )
        else:
            broker = Broker(writing=False)
        for slot in (SPEAKER, LISTENER):
            worker = state.workers[slot]
            if not worker.alive:
                state = self._set(state, slot, worker._replace(reaped=True, up=(), down=()))
        return state._replace(broker=broker)

    def _handle(self, state: State, slot: int, record: Record) -> State:
        match record:
            case ("member", int(conn), at):
                return self._restore(state, slot, conn, at)  # type: ignore[arg-type]
            case ("join", int(conn), int(tag), (int(epoch), int(offset))):
                return self._join(self._existing(state), slot, conn, tag, (epoch, offset))
            case ("publish", int(conn), int(tag), str(message)):
                if state.broker.members[slot] != conn:
                    raise Broken(f"{message} is refused: its connection is no member")
                return self._publish(state, slot, conn, tag, message)
        raise AssertionError(record)

    def _existing(self, state: State) -> State:
        """A room that nobody knows of begins, with an epoch that nobody has."""
        if state.broker.room is not None:
            return state
        same = self.broken == "same epoch after everything is lost"
        room = Room(epoch=1 if same else state.epochs, stored=False)
        return state._replace(broker=state.broker._replace(room=room), epochs=state.epochs + 1)

    def _decide(self, state: State, *decided: tuple[int, Record], entries: tuple[Record, ...] = ()) -> State:
        broker = state.broker
        return state._replace(
            broker=broker._replace(decided=broker.decided + decided, entries=broker.entries + entries)
        )

    def _enter(self, state: State, slot: int, conn: int) -> State:
        members = (conn, state.broker.members[1]) if slot == 0 else (state.broker.members[0], conn)
        return state._replace(broker=state.broker._replace(members=members))

    def _restore(self, state: State, slot: int, conn: int, at: Position | None) -> State:
        """`Members.restore`: what the dead broker had written and not told this worker, or that there is a hole."""
        state = self._existing(state)
        room = state.broker.room
        assert room is not None
        state, top = self._enter(state, slot, conn), len(room.said)
        if at is not None and at == (room.previous, room.base):
            # The epoch began before this worker had spoken: it has missed nothing of the one before.
            state = self._decide(state, (slot, ("gap", room.epoch, room.base + 1, room.base)))
            at = (room.epoch, room.base)
        if at is None or at == (room.epoch, top):
            return state
        if at[0] == room.epoch and room.base <= at[1] < top:
            return self._decide(state, (slot, ("recovered", room.epoch, at[1] + 1, room.said[at[1] :])))
        if at[0] == room.epoch and at[1] > top:
            # Shown, and not written: only where it is told too early.
            return state
        if self.broken == "gap not told":
            return state
        return self._decide(state, (slot, ("gap", room.epoch, room.base + 1, top)))

    def _join(self, state: State, slot: int, conn: int, tag: int, since: Position) -> State:
        room = state.broker.room
        assert room is not None
        top = len(room.said)
        same = since[0] == room.epoch or self.broken == "since of any epoch"
        recovered = same and room.base <= since[1] <= top
        missed = room.said[since[1] :] if recovered else ()
        joined = ("joined", conn, tag, room.epoch, top, recovered, missed)
        return self._decide(self._enter(state, slot, conn), (slot, joined))

    def _publish(self, state: State, slot: int, conn: int, tag: int, message: str) -> State:
        """`Engine._publish`."""
        broker = state.broker
        room = broker.room
        assert room is not None
        first = next((offset for c, t, offset in broker.origins if (c, t) == (conn, tag)), None)
        if first is None and has_key(message):
            first = dict(broker.ids).get(message)
        if first is not None:
            level = room.stored and broker.writing
            return self._decide(state, (slot, ("ack", conn, tag, message, room.epoch, first, level)))
        if room.stored and not broker.writing and self.broken != "same epoch while nothing is written":
            state, room = self._forsake(state, room)
        offset = len(room.said) + 1
        ids = broker.ids | {(message, offset)} if has_key(message) else broker.ids
        told = room._replace(said=(*room.said, message))
        state = state._replace(broker=state.broker._replace(room=told, ids=ids))
        stored = room.stored and broker.writing
        entries: tuple[Record, ...] = (("published", room.epoch, offset, message, conn, tag),) if stored else ()
        out: list[tuple[int, Record]] = [
            (each, ("published", offset, message)) for each in (SPEAKER, LISTENER) if broker.members[each]
        ]
        out.append((slot, ("ack", conn, tag, message, room.epoch, offset, stored)))
        return self._decide(state, *out, entries=entries)

    def _forsake(self, state: State, room: Room) -> tuple[State, Room]:
        """The next publication is not written: it begins an epoch that the journal has never heard of."""
        top = len(room.said)
        room = room._replace(epoch=state.epochs, base=top, previous=room.epoch, stored=False)
        gaps = [(each, ("gap", room.epoch, top + 1, top)) for each in (SPEAKER, LISTENER) if state.broker.members[each]]
        return self._decide(state._replace(epochs=state.epochs + 1), *gaps), room

    # -- faults ------------------------------------------------------------------------------------------------------

    def _faults(self, state: State) -> Steps:
        broker, deaths = state.broker, state.deaths
        if sum(self.deaths) - sum(deaths) < self.deaths_in_all:
            if deaths[0] and broker.alive:
                fewer = state._replace(deaths=(deaths[0] - 1, *deaths[1:]))
                yield "broker: dies", self._broker_dies(fewer)
                if broker.phase == "ordered":
                    for count in range(1, len(broker.entries)):
                        torn = self._write(fewer, "idle", count)
                        yield f"broker: dies when {count} entries are written", self._broker_dies(torn)
            for slot in (SPEAKER, LISTENER):
                if deaths[1 + slot] and state.workers[slot].alive:
                    left = [*deaths]
                    left[1 + slot] -= 1
                    yield f"worker {slot}: dies", self._worker_dies(state._replace(deaths=tuple(left)), slot)  # type: ignore[arg-type]
        if state.disk and broker.alive and broker.phase == "idle" and broker.room is not None:
            turned = state._replace(disk=state.disk - 1)
            if broker.writing:
                yield "disk: fails", turned._replace(broker=broker._replace(writing=False))
            else:
                yield "disk: works again", self._heal(turned)

    def _heal(self, state: State) -> State:
        """The room is written as it stands, with its keys, before anything else."""
        broker = state.broker
        room = broker.room
        assert room is not None
        state = state._replace(broker=broker._replace(writing=True, room=room._replace(stored=True)))
        if room.stored:
            return state
        snapshot = ("snapshot", room.epoch, room.base, room.said, broker.ids)
        return state._replace(journal=(*state.journal, snapshot))

    def _broker_dies(self, state: State) -> State:
        for slot in (SPEAKER, LISTENER):
            state = self._set(state, slot, state.workers[slot]._replace(linked=False, up=()))
        return state._replace(broker=Broker(alive=False))

    def _worker_dies(self, state: State, slot: int) -> State:
        worker, client = state.workers[slot], state.clients[slot]
        # What has no key and was not answered: nobody knows, nobody says it again.
        state = self._client(state, slot, client._replace(open=tuple(filter(has_key, client.open))))
        dead = Worker(alive=False, conn=worker.conn, up=worker.up, linked=worker.linked)
        return self._set(state, slot, dead)


# -- the journal -------------------------------------------------------------------------------------------------------


def _recovered(journal: tuple[Record, ...]) -> Room | None:
    room: Room | None = None
    for entry in journal:
        match entry:
            case ("opened", int(epoch), int(base)):
                room = Room(epoch, base)
            case ("snapshot", int(epoch), int(base), tuple(said), _):
                room = Room(epoch, base, said=said)
            case ("published", int(epoch), int(offset), str(message), _, _):
                assert room is not None
                room = room._replace(said=(*room.said[: offset - 1], message))
    return room


def _remembered(journal: tuple[Record, ...]) -> tuple[frozenset[tuple[str, int]], frozenset[tuple[int, int, int]]]:
    ids: frozenset[tuple[str, int]] = frozenset()
    origins: set[tuple[int, int, int]] = set()
    for entry in journal:
        match entry:
            case ("snapshot", _, _, _, frozenset(known)):
                ids = known
            case ("published", _, int(offset), str(message), int(conn), int(tag)):
                origins.add((conn, tag, offset))
                if has_key(message):
                    ids |= {(message, offset)}
    return ids, frozenset(origins)
