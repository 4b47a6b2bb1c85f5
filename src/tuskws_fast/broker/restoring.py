"""From what recovery proved to rooms and inboxes, and from these to snapshots: the two directions between the engine's
tables and the journal.

Order matters on the way in: rooms first, empty; then the facts (a room that keeps 10,000 messages must know so before
it is given them); then what was kept. Times of the journal are Unix time, the engine's are monotonic: a message is as
old as the wall clock says, and never from the future.

`doors_closed`: settings are lost. Which rooms were private, or who was banned from them, is not known then, also where
something is (it may be out of date). So every room is private, until somebody who may moderate it says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from tuskws_fast.broker.keeping import Keeping
from tuskws_fast.broker.ledger import ORIGINS_S, Sequence
from tuskws_fast.broker.state import Core, Inbox, Person, Room
from tuskws_fast.broker.timers import Timer
from tuskws_fast.rooms import names
from tuskws_fast.rooms.dedupe import First
from tuskws_fast.rooms.shelf import Shelf
from tuskws_fast.storage.entries import Ended, Entry, Published, Remembered, Snapshot, SnapshotEnd
from tuskws_fast.storage.recovery import Recovered, ScopeState

# How long a recovered room that nobody is in and that keeps nothing waits for its members to come back.
EMPTY_ROOM_S = 60.0


def restore(core: Core, keeping: Keeping, recovered: Recovered, facts: Mapping[str, Any], doors_closed: bool) -> None:
    """Before the first record. Facts that cannot be understood are closed doors too (see `Keeping.restore`)."""
    sequences: list[tuple[Room | Inbox, ScopeState]] = []
    for scope, state in recovered.scopes.items():
        try:
            sequence = _restored(core, scope, state)
        except ValueError:
            # Written when other names were allowed: it cannot be reached any more.
            core.counters["facts_damaged"] += 1
            continue
        sequences.append((sequence, state))
        sequence.base = state.base
        sequence.history.top = state.top
        sequence.stored = sequence.history.written = not state.renew
        if state.renew:
            core.renew(sequence)
    keeping.restore(facts)
    if doors_closed:
        for room in [room for shard in core.shards for room in shard.rooms()]:
            core.apply_settings(room, room.settings.closed())
            keeping.keep_room(room, [])
    for sequence, state in sequences:
        _fill(core, sequence, state)
    for each in recovered.ids:
        if core.room(each.scope) is not None or each.scope[:1] == "\n":
            first = First(_monotonic(core, each.wall), each.epoch, each.offset, each.digest, each.delivered)
            core.dedupe.add(each.scope, each.user, each.key, first)
    core.arm_dedupe()
    if recovered.origins:
        core.ledger.origins = recovered.origins
        core.timers.add(core.now + ORIGINS_S, Timer.ORIGINS)


def _restored(core: Core, scope: str, state: ScopeState) -> Room | Inbox:
    if scope[:1] != "\n":
        return core.add_room(names.room_name(scope), state.epoch)
    inbox = core.add_inbox(core.known_person(names.user_id(scope[1:])), state.epoch)
    inbox.confirmed = inbox.delivered = state.confirmed
    return inbox


def _fill(core: Core, sequence: Room | Inbox, state: ScopeState) -> None:
    if sequence.history.keeps:
        if state.shelf is not None and sequence.history.reaches:
            sequence.history.shelve(_shifted(core, state.shelf))
        sequence.history.fill([(_monotonic(core, wall), body) for wall, body in state.kept], core.now)
    if isinstance(sequence, Room):
        core.arm_room_sweep(sequence)
        if sequence.sweep_at is None:
            sequence.sweep_at = core.now + EMPTY_ROOM_S
            core.timers.add(sequence.sweep_at, Timer.SWEEP_ROOM, sequence.name)
    else:
        sequence.history.confirm(sequence.confirmed)
        person = _owner(core, sequence)
        core.arm_inbox_sweep(person, sequence)
        core.absent.stay(person)


def _shifted(core: Core, shelf: Shelf) -> Shelf:
    """With times of the engine's clock."""
    for chunk in shelf.chunks:
        chunk.newest_at = _monotonic(core, chunk.newest_at)
    return shelf


def _owner(core: Core, inbox: Inbox) -> Person:
    return core.known_person(inbox.scope[1:])


def _monotonic(core: Core, wall: float) -> float:
    return core.now - max(core.wall - wall, 0.0)


# -- the other way ---------------------------------------------------------------------------------------------------


def _sequence(core: Core, scope: str) -> Sequence | None:
    if scope[:1] != "\n":
        return core.room(scope)
    person = core.person(scope[1:])
    return person.inbox if person is not None else None


def snapshot(core: Core, scope: str, shelved: Collection[tuple[float, bytes]] = ()) -> list[Entry]:
    """Everything the journal has to know of the scope, as entries in one piece; its end, where it is not to be kept.

    `shelved`, (wall, body) of all that is on its shelf, is written again too; without it, that stays where it is."""
    sequence = _sequence(core, scope)
    if sequence is None or not sequence.history.keeps:
        return [Ended(scope)]
    sequence.stored = sequence.history.written = True
    kept = sequence.history.entries(core.now)
    first = sequence.history.top - len(kept) + 1
    if sequence.history.shelf is not None:
        first -= len(shelved)
        sequence.history.shelf.mark(first, core.stacks.segment)
    ids = core.dedupe.of_scope(scope)
    confirmed = sequence.confirmed if isinstance(sequence, Inbox) else 0
    entries: list[Entry] = [
        Snapshot(scope, sequence.epoch, sequence.base, first, confirmed, len(shelved) + len(kept), len(ids))
    ]
    since = core.wall - core.now
    timed = chain(shelved, ((since + at, body) for at, body in kept))
    for offset, (wall, body) in enumerate(timed, start=first):
        entries.append(Published(scope, sequence.epoch, offset, wall, 0, 0, "", "", 0, -1, body))
    for user, key, made in ids:
        at, epoch, offset, digest, delivered = made
        entries.append(Remembered(scope, user, key, digest, epoch, offset, float(since + at), delivered))
    entries.append(SnapshotEnd(scope))
    return entries


def _sequences(core: Core) -> Iterator[Sequence]:
    for shard in core.shards:
        yield from (room for room in shard.rooms() if room.history.keeps)
        yield from (person.inbox for person in shard.people.values() if person.inbox is not None)


def scopes(core: Core) -> list[str]:
    """Of everything that is to be kept."""
    return [sequence.scope for sequence in _sequences(core)]


def unwritten(core: Core, known: Iterable[str]) -> list[str]:
    """Scopes of which a journal that knows `known` does not know all, and those it knows and should not."""
    live = {sequence.scope: sequence.stored for sequence in _sequences(core)}
    known = set(known)
    return [s for s, stored in live.items() if not stored or s not in known] + [s for s in known if s not in live]
