"""How many have a publication and how many have confirmed it, told to the publisher who asked.

    Publish(receipt) ─▶ Watch to each worker of the room ─▶ Seen: sums of its members ─▶ `receipt`, once a second

No member is known here by name: a worker counts its own, whatever their number, and sends two sums. The last `receipt`
(`final`) comes when all members who were handed the message have confirmed it, or after `receipt_s` with what is known
then. A receipt belongs to the connection that asked, ends with it, or moves to the one that publishes the same again.

After the broker's death the workers say again what they count. The time starts anew then, so that what was open is
ended as late as that, and never left hanging.
"""

from __future__ import annotations

from collections import Counter

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.state import Core, Out, Room
from tuskws_fast.broker.timers import Timer
from tuskws_fast.ipc.records import Seen, Tell, Unwatch, Watch
from tuskws_fast.protocol.codes import ErrorCode

# Stands among the workers that have not spoken yet, while a new broker does not know which there are.
_ANYBODY = -1


class Receipt:
    """`silent`: workers that have not said anything yet. `sums`: (delivered, acked) by worker."""

    __slots__ = ("conn", "due", "epoch", "offset", "ref", "room", "silent", "sums", "told", "told_at", "until")

    def __init__(self, room: str, epoch: str, offset: int, conn: int, ref: str, silent: set[int]) -> None:
        self.room = room
        self.epoch = epoch
        self.offset = offset
        self.conn = conn
        self.ref = ref
        self.silent = silent
        self.sums: dict[int, tuple[int, int]] = {}
        self.until = 0.0
        self.due: float | None = None
        self.told: tuple[int, int] | None = None
        self.told_at = 0.0

    @property
    def total(self) -> tuple[int, int]:
        return sum(each[0] for each in self.sums.values()), sum(each[1] for each in self.sums.values())

    @property
    def is_complete(self) -> bool:
        delivered, acked = self.total
        return not self.silent and acked >= delivered


def _key(room: str, epoch: str, offset: int) -> str:
    return f"{room}\n{epoch}\n{offset}"


class Receipts:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: dict[str, Receipt] = {}
        self._of_room: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def check_capacity(self, room: Room) -> None:
        """Before anything is published."""
        limits, counters = self._core.limits, self._core.counters
        if len(self._open) >= limits.receipts_max:
            counters["receipts_max"] += 1
            raise Refused(ErrorCode.OVERLOADED, "Too many receipts are open", limits.receipt_interval_s)
        if self._of_room[room.name] >= limits.receipts_room_max:
            counters["receipts_room_max"] += 1
            raise Refused(ErrorCode.OVERLOADED, "Too many receipts are open in this room", limits.receipt_interval_s)

    def open(self, room: Room, offset: int, conn: int, ref: str, out: Out) -> None:
        """The publication with this offset is about to go out."""
        workers = room.members.workers
        key = _key(room.name, room.epoch, offset)
        receipt = self._add(key, Receipt(room.name, room.epoch, offset, conn, ref, set(workers)))
        self._due(key, receipt, self._core.now + self._core.limits.receipt_interval_s)
        watch = Watch(room.name, room.epoch, offset, conn, ref)
        for worker in workers:
            out.append((worker, watch))

    def _add(self, key: str, receipt: Receipt) -> Receipt:
        receipt.until = self._core.now + self._core.limits.receipt_s
        self._core.timers.add(receipt.until, Timer.RECEIPT, key)
        self._open[key] = receipt
        self._of_room[receipt.room] += 1
        return receipt

    def follow(self, room: Room, offset: int, conn: int) -> None:
        """The same was published again, by another connection of its publisher."""
        receipt = self._open.get(_key(room.name, room.epoch, offset))
        if receipt is not None:
            receipt.conn = conn

    # -- what is counted -------------------------------------------------------------------------------------------

    def seen(self, worker: int, record: Seen, announcing: bool, out: Out) -> None:
        key = _key(record.room, record.epoch, record.offset)
        receipt = self._open.get(key)
        if receipt is None:
            if not announcing or len(self._open) >= self._core.limits.receipts_max:
                return  # it is over
            found = Receipt(record.room, record.epoch, record.offset, record.conn, record.ref, {_ANYBODY})
            receipt = self._add(key, found)
        receipt.silent.discard(worker)
        receipt.sums[worker] = (record.delivered, record.acked)
        self._changed(key, receipt, out)

    def lost(self, worker: int, out: Out) -> None:
        """What a dead worker counted last stays counted."""
        self._heard(worker, out)

    def all_announced(self, out: Out) -> None:
        self._heard(_ANYBODY, out)

    def _heard(self, worker: int, out: Out) -> None:
        for key, receipt in list(self._open.items()):
            if worker in receipt.silent:
                receipt.silent.discard(worker)
                self._changed(key, receipt, out)

    # -- what is told ----------------------------------------------------------------------------------------------

    def _changed(self, key: str, receipt: Receipt, out: Out) -> None:
        if _ANYBODY in receipt.silent:
            return
        at = receipt.told_at + self._core.limits.receipt_interval_s
        if receipt.is_complete and (receipt.told is None or self._core.now >= at):
            self._tell(key, receipt, True, out)
        elif receipt.is_complete or receipt.total != receipt.told:
            self._due(key, receipt, at)

    def _due(self, key: str, receipt: Receipt, at: float) -> None:
        if receipt.due is None:
            receipt.due = max(at, self._core.now)
            self._core.timers.add(receipt.due, Timer.RECEIPT, key)

    def on_timer(self, key: str, out: Out) -> None:
        receipt, now = self._open.get(key), self._core.now
        if receipt is None:
            return
        if now >= receipt.until:
            self._tell(key, receipt, True, out)
        elif receipt.due is not None and now >= receipt.due:
            receipt.due = None
            self._tell(key, receipt, receipt.is_complete, out)

    def _tell(self, key: str, receipt: Receipt, final: bool, out: Out) -> None:
        session = self._core.sessions.get(receipt.conn)
        gone = session is None or session.lost
        if session is not None and not gone:
            receipt.told, receipt.told_at = receipt.total, self._core.now
            body = answers.receipt(receipt.ref, receipt.room, receipt.offset, *receipt.told, final)
            out.append((session.worker, Tell(receipt.conn, body)))
        if final:
            unwatch = Unwatch(receipt.room, receipt.epoch, receipt.offset)
            out += [(worker, unwatch) for worker in receipt.sums]
            del self._open[key]
            self._of_room[receipt.room] -= 1
            if not self._of_room[receipt.room]:
                del self._of_room[receipt.room]
