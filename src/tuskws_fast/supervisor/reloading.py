"""Reloads: what a new configuration changes, told to every process; over when the last of them has taken it.

    SIGHUP ─▶ node reads and checks everything ─▶ Reloaded ─▶ "reload" to each child ─▶ "reloaded" from each ─▶ over

Nothing is told to anybody before the whole configuration, the keys and the certificates have been read and found good;
what is bad leaves the old in force. A child that dies meanwhile owes no answer: its successor starts with the new.
One reload at a time: who asks during one gets the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuskws_fast.metrics import State
from tuskws_fast.supervisor.notify import Notifier
from tuskws_fast.supervisor.peers import Peers
from tuskws_fast.supervisor.slots import Slot

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading everything again.

    `fields` go to every child as they are; None: there is nothing to tell. `changed`: options that are in force now;
    `at_restart`: those that fresh workers will have; `at_start`: those that need a new node. `problems`: what was bad.
    """

    fields: Mapping[str, Any] | None = None
    changed: Sequence[str] = ()
    at_restart: Sequence[str] = ()
    at_start: Sequence[str] = ()
    problems: Sequence[str] = ()


class Reloads:
    """`reread` reads and checks; it never raises."""

    def __init__(self, slots: Sequence[Slot], peers: Peers, reread: Callable[[], Reloaded], notifier: Notifier) -> None:
        self._slots = slots
        self._peers = peers
        self._reread = reread
        self._notifier = notifier
        self._outcome: Reloaded | None = None
        self._problems: list[str] = []
        self._waiting: set[Slot] = set()
        self._reports: list[Report] = []
        self._next: list[Report] = []

    def ask(self, report: Report) -> None:
        """Reload; `report` gets the outcome."""
        self._next.append(report)
        if self._outcome is None:
            self._begin()

    def _begin(self) -> None:
        log.info("reloading")
        self._notifier.reloading()
        self._reports, self._next = self._next, []
        self._outcome = self._reread()
        self._problems = list(self._outcome.problems)
        # One that starts was forked with what was in force then, and reads the message when it can.
        fields = self._outcome.fields
        if fields is not None:
            self._waiting = {slot for slot in self._slots if slot.process and slot.state is not State.DRAINING}
            for slot in list(self._waiting):
                self._peers.tell(slot, "reload", fields)
        self._look()

    def taken(self, slot: Slot, problem: str) -> None:
        """A child has done its part; `problem` says what it could not do."""
        if slot in self._waiting and problem:
            self._problems.append(f"{slot.name}: {problem}")
        self.lost(slot)

    def lost(self, slot: Slot) -> None:
        """The child has ended."""
        self._waiting.discard(slot)
        self._look()

    def _look(self) -> None:
        """It is over when nobody is waited for."""
        outcome = self._outcome
        if self._waiting or outcome is None:
            return
        self._outcome = None
        found = {
            "changed": list(outcome.changed),
            "at_restart": list(outcome.at_restart),
            "at_start": list(outcome.at_start),
            "problems": self._problems,
        }
        level = logging.ERROR if self._problems else logging.INFO
        log.log(level, "reloaded", extra={name: "; ".join(texts) for name, texts in found.items() if texts})
        self._notifier.ready("serving" if not self._problems else f"serving; the last reload: {self._problems[0]}")
        for report in self._reports:
            report(found)
        if self._next:
            self._begin()
