"""A node without processes: an engine, a clock that only the test moves, and workers that do what real ones do.

    node = Node()
    alice, bob = node.connect("alice"), node.connect("bob", worker=1)
    alice.join("chat")
    bob.join("chat")
    alice.say("chat", "hello")
    assert bob.heard("chat") == ["hello"]

Every record the engine returns goes through `pack_record` and `unpack_record`, then to the worker it is for. A worker
holds the members of its rooms as the real hub does, so what a client here receives is what a socket would get; and it
checks what no engine may ever break: per room and worker, offsets follow one another without hole and repetition.
"""

from __future__ import annotations

from typing import Any

from tuskws_fast.broker.engine import Engine
from tuskws_fast.broker.fetching import Fetch
from tuskws_fast.broker.ledger import Awaiting
from tuskws_fast.broker.limits import EngineLimits
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import DownRecord, UpRecord
from tuskws_fast.protocol import codec
from tuskws_fast.rooms.shelf import Chunk
from tuskws_fast.storage.entries import Entry, Published
from tuskws_fast.storage.recovery import Recovered, Replay

Object = dict[str, Any]
WALL_OFFSET = 1_700_000_000.0


class Client:
    """One connection. `pushes` is what it was sent and has not `take`n yet, decoded, in order."""

    def __init__(self, node: Node, conn: int, worker: int, user: str, rights: int) -> None:
        self.node = node
        self.conn = conn
        self.worker = worker
        self.user = user
        self.rights = rights
        self.mode = int(records.PresenceMode.ROOMS)
        self.status = "online"
        self.pushes: list[Object] = []
        self.inbox_at = 0
        self.inbox_epoch = ""
        # A moment after all that happened so far.
        self.told_at = node.now + 0.1
        self.ticket = conn
        # Who is named so is one, as in a real worker.
        self.claims: records.Claims | None = None if user.startswith("guest") else [None, 0, [], None, None]
        self.superseded = False

    # -- commands: each returns its reply, decoded; a long one as the list of its pages ------------------------------

    def join(
        self,
        room: str,
        password: str | None = None,
        since: tuple[str, int] | None = None,
        history: int | None = None,
    ) -> Object:
        return self.ask(lambda tag: records.Join(self.conn, tag, self.rights, room, password, since, history))[0]

    def join_paged(self, room: str, since: tuple[str, int]) -> list[Object]:
        return self.ask(lambda tag: records.Join(self.conn, tag, self.rights, room, None, since, None))

    def leave(self, room: str) -> Object:
        return self.ask(lambda tag: records.Leave(self.conn, tag, room))[0]

    def say(
        self, room: str, message: object, key: str = "", echo: bool = True, level: int = 0, receipt: bool = False
    ) -> Object:
        prefix = codec.encode({"type": "room_message", "room": room, "message": message, "from": self.user})[:-1]
        return self.ask(
            lambda tag: records.Publish(
                self.conn, tag, self.rights, level, echo, False, room, key, prefix, False, receipt
            )
        )[0]

    def tell(self, to: str, message: object, key: str = "", level: int = 0) -> Object:
        prefix = codec.encode({"type": "private_message", "message": message, "from": self.user})[:-1]
        return self.ask(lambda tag: records.Private(self.conn, tag, self.rights, level, False, to, key, prefix))[0]

    def call(self, op: str, **args: Any) -> Object:
        return self.call_paged(op, **args)[0]

    def call_paged(self, op: str, **args: Any) -> list[Object]:
        return self.ask(lambda tag: records.Call(self.conn, tag, self.rights, op, args))

    def resume(self, ticket: int, known: list[Any] | None = None, **rooms: tuple[str, int]) -> Object:
        """This connection goes on as the session `ticket`, under a new number; `self.conn` is that from here on."""
        conn = self.node.new_number(self.worker)
        tag = self.node.fresh_tag()
        at = {name: list(position) for name, position in rooms.items()}
        self.node.send(self.worker, records.Resume(conn, tag, self.conn, ticket, self.mode, known, at))
        return self.node.answers.pop(tag)[0]

    def confirm(self, offset: int, epoch: str = "") -> None:
        self.node.send(self.worker, records.Confirm(self.conn, epoch, offset))

    def ask(self, record_of: Any) -> list[Object]:
        """Send the record made for a fresh tag; returns the decoded answers under that tag."""
        tag = self.node.fresh_tag()
        self.node.send(self.worker, record_of(tag))
        return self.node.answers.pop(tag)

    # -- the connection ----------------------------------------------------------------------------------------------

    def attach(
        self,
        user: str | None = None,
        mode: int | None = None,
        status: str | None = None,
        claims: records.Claims | None = None,
    ) -> None:
        self.user = self.user if user is None else user
        self.mode = self.mode if mode is None else mode
        self.status = self.status if status is None else status
        self.claims = self.claims if claims is None else claims
        self.node.send(self.worker, self.attachment())

    def attachment(self) -> records.Attach:
        ticket = 0 if self.ticket == self.conn else self.ticket
        return records.Attach(
            self.conn, self.user, self.user.title(), [], self.mode, self.status, 0, self.claims, ticket, self.told_at
        )

    def close(self) -> None:
        """A clean end: close 1000."""
        self._end(True)

    def drop(self) -> None:
        """The network lost the connection."""
        self._end(False)

    def _end(self, clean: bool) -> None:
        worker = self.node.workers[self.worker]
        worker.forget(self)
        self.node.send(self.worker, records.Detach(self.conn, clean))

    # -- what it was sent --------------------------------------------------------------------------------------------

    def take(self, kind: str | None = None) -> list[Object]:
        """All pushes since the last `take`, or those of one type (the others stay)."""
        taken = [push for push in self.pushes if kind in (None, push["type"])]
        self.pushes = [push for push in self.pushes if kind not in (None, push["type"])]
        return taken

    def heard(self, room: str) -> list[Any]:
        """The messages of `room` since the last time, in order."""
        return [push["message"] for push in self.take("room_message") if push["room"] == room]


class LocalRoom:
    def __init__(self, epoch: str, offset: int, told: int) -> None:
        self.epoch = epoch
        self.offset = offset
        self.told = told
        self.members: dict[int, Client] = {}


class Worker:
    """What a worker does with the records of its down ring."""

    def __init__(self, slot: int, generation: int) -> None:
        self.slot = slot
        self.generation = generation
        self.clients: dict[int, Client] = {}
        self.rooms: dict[str, LocalRoom] = {}
        self.kept: dict[str, tuple[int, Any]] = {}
        self.told = 0
        self.revoked: list[tuple[str, str]] = []

    def forget(self, client: Client) -> None:
        del self.clients[client.conn]
        for name in [name for name, room in self.rooms.items() if client.conn in room.members]:
            self._remove(name, client.conn)

    def _remove(self, name: str, conn: int) -> None:
        room = self.rooms[name]
        room.members.pop(conn, None)
        if not room.members:
            del self.rooms[name]

    def apply(self, node: Node, record: DownRecord) -> None:
        getattr(self, f"_on_{type(record).__name__.lower()}")(node, record)

    def _on_reply(self, node: Node, record: records.Reply) -> None:
        node.answer(record.tag, record.body)

    def _on_joined(self, node: Node, record: records.Joined) -> None:
        client = self.clients.get(record.conn)
        for body in (record.body, *record.pages):
            if record.tag:
                node.answer(record.tag, body)
            elif client is not None:
                client.pushes.append(codec.decode(body))
        if client is None:
            return
        room = self.rooms.get(record.room)
        if room is None:
            room = self.rooms[record.room] = LocalRoom(record.epoch, record.offset, record.told)
        assert (room.epoch, room.offset) == (record.epoch, record.offset), "a join is a step in the room's order"
        room.members[record.conn] = client

    def _on_resumed(self, node: Node, record: records.Resumed) -> None:
        client = self.clients.get(record.via)
        if client is None:
            node.send(self.slot, records.Detach(record.conn, False))
            return
        self.forget(client)
        node.send(self.slot, records.Detach(record.via, True))
        client.conn, client.ticket, client.user = record.conn, record.ticket, record.user
        client.status, client.claims = record.status, record.claims
        self.clients[record.conn] = client
        rooms: Object = {name: codec.decode(body) for name, body in record.refused.items()}
        for name, epoch, offset, _, body, told in record.rooms:
            room = self.rooms.setdefault(name, LocalRoom(epoch, offset, told))
            assert (room.epoch, room.offset) == (epoch, offset), "entering a room is a step in its order"
            room.members[record.conn] = client
            rooms[name] = codec.decode(body)
        user = {"id": record.user, "username": record.username, "roles": record.roles}
        node.answer(record.tag, codec.encode({"type": "resumed", "user": user, "rooms": rooms}))

    def _on_supersede(self, node: Node, record: records.Supersede) -> None:
        client = self.clients.get(record.conn)
        if client is not None and not node.deaf:
            client.superseded = True
            client.drop()

    def _on_revoked(self, node: Node, record: records.Revoked) -> None:
        self.revoked.append((record.what, record.name))

    def _on_slowconsumer(self, node: Node, record: records.SlowConsumer) -> None:
        node.policies.append(record)

    def _on_watch(self, node: Node, record: records.Watch) -> None:
        node.watched.append((self.slot, record))

    def _on_unwatch(self, node: Node, record: records.Unwatch) -> None:
        node.unwatched.append((self.slot, record.offset))

    def _on_tell(self, node: Node, record: records.Tell) -> None:
        if record.conn in self.clients:
            self.clients[record.conn].pushes.append(codec.decode(record.body))

    def _on_left(self, node: Node, record: records.Left) -> None:
        if record.tag:
            node.answer(record.tag, record.body)
        elif record.conn in self.clients:
            self.clients[record.conn].pushes.append(codec.decode(record.body))
        if record.room in self.rooms:
            self._remove(record.room, record.conn)

    def _on_publication(self, node: Node, record: records.Publication) -> None:
        room = self.rooms.get(record.room)
        assert room is not None, f"worker {self.slot} has nobody in {record.room}: it should not be told"
        assert record.offset == room.offset + 1, f"offset {record.offset} follows {room.offset} in {record.room}"
        room.offset = record.offset
        push = codec.decode(record.body)
        assert (push["offset"], push["epoch"]) == (record.offset, room.epoch)
        for conn, client in room.members.items():
            if conn != record.exclude:
                client.pushes.append(push)

    def _on_push(self, node: Node, record: records.Push) -> None:
        room = self.rooms.get(record.room)
        if room is not None:
            room.told = record.told
            for conn, client in room.members.items():
                if conn != record.exclude:
                    client.pushes.append(codec.decode(record.body))

    def _on_presence(self, node: Node, record: records.Presence) -> None:
        self.told = record.told
        for name in record.rooms.keys() & self.rooms.keys():
            self.rooms[name].told = record.rooms[name]
        for client in self.clients.values():
            shares = any(client.conn in self.rooms[name].members for name in record.rooms if name in self.rooms)
            wants_all = client.mode == records.PresenceMode.ALL
            if client.user != record.user and (wants_all or (shares and client.mode == records.PresenceMode.ROOMS)):
                client.pushes.append(codec.decode(record.body))

    def _on_deliver(self, node: Node, record: records.Deliver) -> None:
        for conn in record.conns:
            if conn in self.clients:
                self.clients[conn].inbox_at, self.clients[conn].inbox_epoch = record.offset, record.epoch
                self.clients[conn].pushes.append(codec.decode(record.body))

    def _on_evict(self, node: Node, record: records.Evict) -> None:
        for conn in record.conns:
            if conn in self.clients:
                self.clients[conn].pushes.append(codec.decode(record.body))
                if record.room in self.rooms:
                    self._remove(record.room, conn)

    def _on_gone(self, node: Node, record: records.Gone) -> None:
        room = self.rooms.pop(record.room, None)
        if room is not None:
            for client in room.members.values():
                client.pushes.append(codec.decode(record.body))

    def _on_gap(self, node: Node, record: records.Gap) -> None:
        room = self.rooms[record.room]
        room.epoch, room.offset = record.epoch, record.last
        body = {"type": "gap", "room": record.room, "epoch": record.epoch, "from": record.first, "to": record.last}
        for client in room.members.values():
            client.pushes.append(body)

    def _on_recovered(self, node: Node, record: records.Recovered) -> None:
        node.recovered.append(record)
        room = self.rooms.get(record.room)
        if not node.durable or room is None:
            return
        assert room.epoch == record.epoch
        for offset, body in record.publications:
            if offset > room.offset:
                assert offset == room.offset + 1, "recovery leaves no hole"
                room.offset = offset
                for client in room.members.values():
                    client.pushes.append(codec.decode(body))

    def _on_keep(self, node: Node, record: records.Keep) -> None:
        if record.value is None:
            self.kept.pop(record.key, None)
        else:
            self.kept[record.key] = (record.version, record.value)

    def _on_allpush(self, node: Node, record: records.AllPush) -> None:
        for conn, client in self.clients.items():
            if conn != record.exclude:
                client.pushes.append(codec.decode(record.body))


class Node:
    """`workers` slots, all up. `server` asks as the application does, through worker 0.

    `durable`: what the engine wants written is kept in `written` and `facts`, and a new broker is given it, as by a
    journal. `disk(False)`: it cannot be written until `disk(True)`. Answers that wait for the disk come with `sync`.
    """

    def __init__(self, workers: int = 2, durable: bool = False, **limits: Any) -> None:
        self.durable = durable
        self.written: list[Entry] = []
        self.facts: dict[str, Any] = {}
        self.awaiting: list[Awaiting] = []
        self.now = 1_000.0
        self.limits = EngineLimits(**limits)
        self._epochs = 0
        self._tag = 0
        # Workers that do not let go of a session when they are told to.
        self.deaf = False
        self.policies: list[records.SlowConsumer] = []
        # What workers were asked to count; the test answers for them.
        self.watched: list[tuple[int, records.Watch]] = []
        self.unwatched: list[tuple[int, int]] = []
        self.answers: dict[int, list[Object]] = {}
        # What the engine wants read of the journal; it is read at once unless `reads` is False, and then by `read`.
        self.fetches: list[Fetch] = []
        self.reads = True
        self.recovered: list[records.Recovered] = []
        self.engine = Engine(self.limits, self.now, self._next_epoch, durable=durable)
        self.workers: dict[int, Worker] = {}
        self._numbers: dict[int, int] = {}
        for slot in range(workers):
            self.start_worker(slot)
        self.server = Client(self, records.CONN_SERVER, 0, "", 0)

    def _next_epoch(self) -> str:
        self._epochs += 1
        return f"e{self._epochs}"

    @property
    def wall(self) -> float:
        return self.now + WALL_OFFSET

    def fresh_tag(self) -> int:
        self._tag += 1
        return self._tag

    def answer(self, tag: int, body: bytes) -> None:
        self.answers.setdefault(tag, []).append(codec.decode(body))

    # -- time and records --------------------------------------------------------------------------------------------

    def send(self, worker: int, record: UpRecord) -> None:
        """What `worker` sends, handled at once; what the engine answers reaches the workers at once."""
        sent = records.unpack_record(records.type_of(record), records.pack_record(record))
        self.deliver(self.engine.handle(worker, sent, self.now, self.wall))  # type: ignore[arg-type]

    def write(self) -> None:
        """What a process does before it tells anybody anything."""
        ledger = self.engine.ledger
        if ledger.writing:
            self.written += ledger.entries
        for key, value in ledger.facts:
            if value is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = value
        self.awaiting += ledger.awaiting
        ledger.entries, ledger.facts, ledger.awaiting = [], [], []

    def sync(self, works: bool = True) -> None:
        """What waits for the disk is answered."""
        awaiting, self.awaiting = self.awaiting, []
        self.deliver([(each.worker, each.reply if works else each.otherwise) for each in awaiting])

    def disk(self, works: bool) -> None:
        ledger = self.engine.ledger
        ledger.writing = works
        if works:
            for scope in self.engine.unwritten(self.journal().homes):
                ledger.entries += self.engine.snapshot(scope)
            self.write()

    def journal(self) -> Recovered:
        """What recovery makes of all that was written."""
        replay = Replay(b"", 0.0, self.limits.dedupe_ids_max, self.limits.history_memory)
        for number, entry in enumerate(self.written, start=1):
            replay.take(number, entry, 1, b"")
        assert not replay.damage
        homes = dict.fromkeys(replay.scopes, 1)
        return Recovered(scopes=replay.scopes, ids=replay.ids(), origins=replay.origins, homes=homes)

    def publish_waiting(self, client: Client, room: str, message: object, level: int, key: str = "") -> int:
        """As `Client.say`, for an answer that comes later, in `answers`; returns its tag."""
        tag = self.fresh_tag()
        prefix = codec.encode({"type": "room_message", "room": room, "message": message, "from": client.user})[:-1]
        self.send(
            client.worker, records.Publish(client.conn, tag, client.rights, level, True, False, room, key, prefix)
        )
        return tag

    def deliver(self, out: list[tuple[int, DownRecord]]) -> None:
        self.write()
        for slot, record in out:
            received = records.unpack_record(records.type_of(record), records.pack_record(record))
            if slot in self.workers:
                self.workers[slot].apply(self, received)  # type: ignore[arg-type]
        self.fetches += self.engine.take_fetches()
        if self.reads:
            self.read()

    def read(self, works: bool = True) -> None:
        """What waits for old messages gets them, or (`works` False) the word that they cannot be read."""
        fetches, self.fetches = self.fetches, []
        for fetch in fetches:
            found = self._entries_of(fetch) if works else None
            self.deliver(self.engine.fetched(fetch.window, found, self.now, self.wall))

    def _entries_of(self, fetch: Fetch) -> list[tuple[float, bytes]]:
        found: dict[int, tuple[float, bytes]] = {}
        for entry in self.written:
            if isinstance(entry, Published) and entry.scope == fetch.scope:
                found[entry.offset] = (entry.wall - WALL_OFFSET, entry.body)
        for first, last, crc in fetch.chunks:
            assert Chunk.crc_of(found[offset][1] for offset in range(first, last + 1)) == crc
        return [found[offset] for offset in range(fetch.chunks[0][0], fetch.chunks[-1][1] + 1)]

    def advance(self, seconds: float) -> None:
        """Let time pass; the engine is called at each of its deadlines, and at no other time."""
        until = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.deliver(self.engine.tick(self.now, self.wall))
        self.now = until

    # -- people and processes ----------------------------------------------------------------------------------------

    def connect(self, user: str, worker: int = 0, rights: int = 0, **attach: Any) -> Client:
        slot, conn = self.workers[worker], self.new_number(worker)
        client = slot.clients[conn] = Client(self, conn, worker, user, rights)
        client.attach(**attach)
        return client

    def new_number(self, worker: int) -> int:
        self._numbers[worker] = self._numbers.get(worker, 0) + 1
        return records.first_conn(worker, self.workers[worker].generation) + self._numbers[worker]

    def start_worker(self, slot: int, generation: int = 1) -> None:
        self.workers[slot] = Worker(slot, generation)
        self.deliver(self.engine.worker_up(slot, generation))

    def kill_worker(self, slot: int) -> None:
        del self.workers[slot]
        self.deliver(self.engine.worker_lost(slot, self.now))

    def kill_broker(self, doors_closed: bool = False) -> None:
        """The broker dies and another one starts; the workers are connected but have told it nothing yet.
        `doors_closed`: it finds that settings are lost, beyond those in `facts`."""
        announcing = range(max(self.workers, default=-1) + 1)
        self.engine = Engine(self.limits, self.now, self._next_epoch, workers=announcing, durable=self.durable)
        if self.durable:
            self.engine.restore(self.journal(), dict(self.facts), doors_closed, self.now, self.wall)
            self.write()
        for slot, worker in self.workers.items():
            self.deliver(self.engine.worker_up(slot, worker.generation))

    def announce(self, slot: int) -> None:
        """A worker tells the new broker what it knows, all of it before it hears an answer."""
        worker = self.workers[slot]
        known: list[UpRecord] = [records.Kept(key, version, value) for key, (version, value) in worker.kept.items()]
        for client in worker.clients.values():
            known.append(client.attachment()._replace(inbox=client.inbox_at, inbox_epoch=client.inbox_epoch))
            for name, room in worker.rooms.items():
                if client.conn in room.members:
                    known.append(records.Restore(client.conn, name, room.epoch, room.offset, room.told))
        known.append(records.Announced(slot, worker.told))
        out: list[tuple[int, DownRecord]] = []
        for record in known:
            out += self.engine.handle(slot, record, self.now, self.wall)
        self.deliver(out)

    def restart_broker(self) -> None:
        self.kill_broker()
        for slot in self.workers:
            self.announce(slot)
