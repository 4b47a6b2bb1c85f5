"""What siblings must be told of each other: new links, deaths, and whose listener to serve.

born       both ends of every (worker, broker) pair get the same new memory and each other's bell
died       the survivor is rung, then told that the link is gone
away       a neighbour is lent the listener of a worker that stays away, and gives it back when it is ready
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from tuskws_fast.metrics import State
from tuskws_fast.supervisor.control import send_message
from tuskws_fast.supervisor.memory import NodeMemory
from tuskws_fast.supervisor.slots import Slot

log = logging.getLogger(__name__)


class Peers:
    """Borrows slots, listeners and memory from the supervisor."""

    def __init__(
        self, broker: Slot, workers: Sequence[Slot], listeners: Sequence[socket.socket], memory: NodeMemory
    ) -> None:
        self._broker = broker
        self._workers = workers
        self._listeners = listeners
        self._memory = memory

    def tell(self, slot: Slot, op: str, fields: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a control message if there is anybody to read it. One who does not read is killed."""
        if slot.process is None:
            return
        try:
            send_message(slot.process.control, op, fields, fds)
        except BlockingIOError:
            # Hundreds of unread messages: its loop has stood still for long.
            log.error("kill: does not read its control messages", extra={"child": slot.name})
            slot.process.kill()
        except OSError as error:
            # It has just ended; its pidfd says so.
            log.debug("cannot tell", extra={"child": slot.name, "op": op, "reason": os.strerror(error.errno or 0)})

    def link(self, born: Slot) -> None:
        """Link a process that was just born with its living peers; whoever of a pair comes second brings it about."""
        for worker in self._workers if born is self._broker else [born]:
            self._link(worker)

    def _link(self, worker: Slot) -> None:
        broker = self._broker
        if worker.process is None or broker.process is None:
            return
        worker.link_generation += 1
        if worker.link:
            worker.link.close()
            worker.link = None
        try:
            worker.link = self._memory.new_link(worker.link_generation)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            log.error("kill: no memory for its link", extra={"child": worker.name, "reason": reason})
            worker.process.kill()
            return
        fields = {"worker": worker.number, "generation": worker.link_generation}
        memory, worker_bell, broker_bell = worker.link.fd, worker.process.bell.fd, broker.process.bell.fd
        self.tell(broker, "link", fields, (memory, broker_bell, worker_bell))
        self.tell(worker, "link", fields, (memory, worker_bell, broker_bell))

    def tell_of_death(self, slot: Slot) -> None:
        """The survivor is rung first: what the dead process committed is valid, but its doorbell may not have come."""
        pairs = [(worker, worker) for worker in self._workers] if slot is self._broker else [(self._broker, slot)]
        for survivor, worker in pairs:
            if survivor.process:
                survivor.process.bell.ring()
                self.tell(survivor, "link_gone", {"worker": worker.number, "generation": worker.link_generation})

    def lend_listeners(self, now: float, after_s: float) -> None:
        count = len(self._workers)
        for slot in self._workers:
            away = slot.down_since is not None and now - slot.down_since > after_s
            if not away or slot.adopted_by or slot.listener is None:
                continue
            neighbours = (self._workers[(slot.number + step) % count] for step in range(1, count))
            heir = next((neighbour for neighbour in neighbours if neighbour.state is State.READY), None)
            if heir:
                slot.adopted_by = heir
                log.warning("lends its listener", extra={"child": slot.name, "to": heir.name})
                self.tell(heir, "adopt", {"slot": slot.number}, (self._listeners[slot.listener].fileno(),))

    def give_back_listener(self, slot: Slot) -> None:
        """`slot` serves its listener again."""
        if slot.adopted_by:
            self.tell(slot.adopted_by, "release", {"slot": slot.number})
            slot.adopted_by = None

    def forget_heir(self, dead: Slot) -> None:
        """What `dead` had adopted is adopted by nobody: the next `lend_listeners` finds another."""
        for slot in self._workers:
            if slot.adopted_by is dead:
                slot.adopted_by = None
