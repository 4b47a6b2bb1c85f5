"""A full down ring drops publications, and who drops tells where the room stands (docs/decisions/0002).

One room, one worker with at most one member in it, a broker that orders `messages` publications of others. Any of them
may find the ring full when it is sent: that is more than can happen, so nothing leans on when a ring is full. Control
records are never dropped, and both ways keep their order (ipc/link). The broker's turn is `Inbox.drain`, `Outbox.send`,
`Outbox.flush`; the worker's steps are those of `Hub`. The member may go, and another come.

    never      a member is shown a message with one missing before it
    at rest    every member has been shown all that was published since it joined
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from model.explore import Broken

# A turn of the broker takes as many records at most: two, so that each order of two comes.
TURN = 2
# A worker that asked because of a hole may be told once more before it could ask because of the first position.
POSITIONS_MAX = 2

Fault = Literal[
    "no position",
    "told for ever",
    "told again and again",
    "no answer where nothing is missing",
    "no answer where nobody is left",
    "holes passed on",
]

Record = tuple[str | int, ...]


class State(NamedTuple):
    # The broker: how far the room is, whether the worker has a member there, and the turn it is in.
    top: int = 0
    interest: bool = True
    handled: int = 0
    sending: bool = False
    decided: tuple[Record, ...] = ()
    dropped: bool = False
    told: bool = False
    # The rings: pushed but not published yet, on the way down, on the way up.
    unflushed: tuple[Record, ...] = ()
    down: tuple[Record, ...] = ()
    up: tuple[Record, ...] = ()
    # The worker.
    member: bool = True
    joining: bool = False
    offset: int = 0
    recovering: bool = False
    changes: int = 1


Steps = Iterator[tuple[str, State]]


@dataclass(frozen=True)
class Drops:
    """`changes`: how often the member goes and another comes."""

    messages: int = 3
    changes: int = 1
    broken: Fault | None = None

    def initial(self) -> State:
        return State(changes=self.changes)

    def steps(self, state: State) -> Steps:
        yield from self._broker(state)
        yield from self._worker(state)

    def wrong(self, state: State) -> str | None:
        positions = [record for record in (*state.unflushed, *state.down) if record[0] == "position"]
        return "positions pile up for a worker that does not read" if len(positions) > POSITIONS_MAX else None

    def unfinished(self, state: State) -> str | None:
        if state.member and (state.offset != state.top or state.recovering):
            return f"the member was shown {state.offset} of {state.top} messages, and hears of no more"
        return None

    # -- the broker --------------------------------------------------------------------------------------------------

    def _broker(self, state: State) -> Steps:
        if not state.sending:
            if state.handled < TURN:
                if state.top < self.messages:
                    yield "broker: orders a message", self._order(state)
                if state.up:
                    yield f"broker: takes {state.up[0]}", self._take(state)
            if state.handled:
                yield "broker: sends", state._replace(sending=True)
        elif state.decided:
            record, rest = state.decided[0], state.decided[1:]
            yield f"broker: pushes {record}", state._replace(decided=rest, unflushed=(*state.unflushed, record))
            if record[0] == "message":
                yield f"broker: drops {record}", state._replace(decided=rest, dropped=True)
        else:
            yield "broker: flushes", self._flush(state)

    def _order(self, state: State) -> State:
        top = state.top + 1
        sent: tuple[Record, ...] = (("message", top),) if state.interest else ()
        return state._replace(top=top, handled=state.handled + 1, decided=state.decided + sent)

    def _take(self, state: State) -> State:
        record, top = state.up[0], state.top
        state = state._replace(up=state.up[1:], handled=state.handled + 1)
        match record:
            case ("recover", offset):
                told = state.told and self.broken == "told for ever"
                return state._replace(told=told, decided=(*state.decided, ("recovered", offset, top)))
            case ("join",):
                return state._replace(interest=True, decided=(*state.decided, ("joined", top)))
        return state._replace(interest=False)

    def _flush(self, state: State) -> State:
        unflushed, told = state.unflushed, state.told
        again = self.broken == "told again and again"
        if state.dropped and (not told or again) and self.broken != "no position":
            unflushed, told = (*unflushed, ("position", state.top)), True
        return state._replace(
            handled=0, sending=False, dropped=False, told=told, unflushed=(), down=state.down + unflushed
        )

    # -- the worker --------------------------------------------------------------------------------------------------

    def _worker(self, state: State) -> Steps:
        if state.down:
            yield f"worker: takes {state.down[0]}", self._apply(state._replace(down=state.down[1:]), state.down[0])
        if state.changes and state.member:
            left = state._replace(member=False, recovering=False, offset=0, up=(*state.up, ("detach",)))
            yield "worker: its member goes", left
        if state.changes and not state.member and not state.joining:
            joining = state._replace(joining=True, changes=state.changes - 1, up=(*state.up, ("join",)))
            yield "worker: another member joins", joining

    def _apply(self, state: State, record: Record) -> State:
        kind, at = str(record[0]), int(record[1])
        if kind == "joined":
            return state._replace(member=True, joining=False, offset=at)
        if kind == "position":
            return self._check(state, at)
        if not state.member:
            return state
        if kind == "message":
            if state.recovering or at <= state.offset:
                return state
            if at != state.offset + 1 and self.broken != "holes passed on":
                return self._ask(state._replace(recovering=True), state.offset)
            return self._show(state, at - 1, at)
        return self._show(state._replace(recovering=False), at, int(record[2]))

    def _check(self, state: State, at: int) -> State:
        """The broker says no more of the room until it is asked: so it is asked, whatever is known here."""
        if not state.member:
            return state if self.broken == "no answer where nobody is left" else self._ask(state, at)
        if state.recovering:
            return state
        if state.offset < at:
            return self._ask(state._replace(recovering=True), state.offset)
        return state if self.broken == "no answer where nothing is missing" else self._ask(state, state.offset)

    @staticmethod
    def _ask(state: State, offset: int) -> State:
        return state._replace(up=(*state.up, ("recover", offset)))

    @staticmethod
    def _show(state: State, after: int, upto: int) -> State:
        """The messages after `after` have come: those that are new are shown."""
        if upto <= state.offset:
            return state
        if after > state.offset:
            raise Broken(f"message {after + 1} is shown, and {state.offset + 1} never was")
        return state._replace(offset=upto)
