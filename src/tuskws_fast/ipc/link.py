"""One end of the pair of rings between one worker and the broker, in one segment: records in, records out.

    segment   0                       ring_bytes(up)
              ├───────────────────────┼──────────────────────────┐
              │ up: worker ─▶ broker  │ down: broker ─▶ worker   │
              └───────────────────────┴──────────────────────────┘

Both ends are built alike and differ only in which ring they write. The owner calls, on its bell or each loop turn,
`drain`, then whatever `send`s follow from that, then `flush`; before it blocks, `begin_sleep`.

Nothing is lost but what may be. A record that finds the ring full waits in the overflow, and all after it queue
behind it, so order holds. The one exception is a droppable record (`records.DROPPABLE`, publications on their way
down): it is given up, and its room is noted, because history can replay it. So nothing that goes up is ever dropped,
and a worker whose link is `congested` must stop reading from its clients. The overflow is bounded in bytes; a peer
that lets it grow beyond that is not alive in any useful sense, and `LinkOverrun` asks for its end.

A record longer than the ring takes at once goes in pieces: `_PIECE` records, then one of the real type with the rest.
Pieces of one record are never interleaved with another.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from tuskws_fast_ext.ring import (
    Consumer,
    Producer,
    RingError,
    RingPoisoned,
    format_ring,
    inspect_ring,
    payload_max,
    ring_bytes,
)

from tuskws_fast.errors import TuskwsError
from tuskws_fast.ipc.records import PACKINGS, DownRecord, Publication, UpRecord, unpack_record
from tuskws_fast.ipc.segment import Segment

Role = Literal["worker", "broker"]
Record = UpRecord | DownRecord

OVERFLOW_BYTES_MAX: Final = 64 * 1024 * 1024
DRAIN_RECORDS: Final = 256
_PIECE: Final = 0xFFFF
# What Python itself keeps for a queued record; without it a million empty records would count as nothing.
_QUEUED_BYTES: Final = 100


class LinkPoisoned(TuskwsError):
    """The peer wrote what no peer of ours writes. Its process must be replaced and the link with it."""


class LinkOverrun(TuskwsError):
    """The peer has let the overflow grow to its bound. Its process must be replaced and the link with it."""


def link_bytes(up_capacity: int, down_capacity: int) -> int:
    """Size of the segment for a link; capacities are powers of two."""
    return ring_bytes(up_capacity) + ring_bytes(down_capacity)


def format_link(segment: Segment, generation: int, up_capacity: int, down_capacity: int) -> None:
    """Makes an empty link in a new segment, before anybody else has it."""
    format_ring(segment.buffer, 0, up_capacity, generation)
    format_ring(segment.buffer, ring_bytes(up_capacity), down_capacity, generation)


class Link:
    """One end of a link. `generation`, where given, is what the segment must have been made for."""

    def __init__(
        self,
        segment: Segment,
        role: Role,
        own_bell_fd: int,
        peer_bell_fd: int,
        *,
        generation: int | None = None,
        overflow_bytes_max: int = OVERFLOW_BYTES_MAX,
    ) -> None:
        self.role: Role = role
        self.own_bell_fd = own_bell_fd
        self.overflow_bytes_max = overflow_bytes_max
        self.sent = 0
        self.received = 0
        self.dropped = 0
        self.full = 0
        self._overflow: deque[tuple[int, bytes]] = deque()
        self._overflow_bytes = 0
        self._dropped_rooms: set[str] = set()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._damage: str | None = None
        try:
            up, down = 0, ring_bytes(inspect_ring(segment.buffer, 0).capacity)
            mine, theirs = (up, down) if role == "worker" else (down, up)
            self._producer = Producer(segment.buffer, mine, peer_bell_fd, generation)
            self._consumer = Consumer(segment.buffer, theirs, peer_bell_fd, generation)
            if self._producer.generation != self._consumer.generation:
                raise RingError("its two rings are of different generations")
        except (RingError, RingPoisoned) as error:
            raise LinkPoisoned(f"this segment holds no link for the {role}: {error}") from error
        self.generation = self._producer.generation
        self._piece_bytes = payload_max(self._producer.capacity)

    # -- out ---------------------------------------------------------------------------------------------------

    def send(self, record: Record) -> bool:
        """Takes the record, to be seen by the peer after `flush`. False: it was dropped and its room noted."""
        kind, pack, droppable = PACKINGS[type(record)]
        payload = pack(record)
        try:
            if len(payload) > self._piece_bytes:
                self._send_pieces(kind, payload)
            elif self._overflow or not self._producer.push(kind, payload, not droppable):
                if droppable:
                    self._drop(record)
                    return False
                self._queue(kind, payload)
        except RingPoisoned as error:
            raise LinkPoisoned(str(error)) from error
        self.sent += 1
        return True

    def flush(self) -> None:
        """Moves what it can from the overflow into the ring, publishes everything and wakes the peer if it sleeps.

        While an overflow remains, the peer rings our bell whenever it has made room; then flush again.
        """
        try:
            while True:
                self._refill()
                self._producer.flush()
                if not self._overflow or self._producer.want_space():
                    return
        except RingPoisoned as error:
            raise LinkPoisoned(str(error)) from error

    @property
    def congested(self) -> bool:
        """Something waits outside the ring. A worker then stops reading from its clients."""
        return bool(self._overflow)

    @property
    def overflow_bytes(self) -> int:
        return self._overflow_bytes

    def take_dropped_rooms(self) -> set[str]:
        """Rooms that lost a publication on this link since the last call; each is owed a `Position`."""
        rooms, self._dropped_rooms = self._dropped_rooms, set()
        return rooms

    def _send_pieces(self, kind: int, payload: bytes) -> None:
        last = (len(payload) - 1) // self._piece_bytes * self._piece_bytes
        for at in range(0, last, self._piece_bytes):
            self._push_or_queue(_PIECE, payload[at : at + self._piece_bytes])
        self._push_or_queue(kind, payload[last:])

    def _push_or_queue(self, kind: int, payload: bytes) -> None:
        if self._overflow or not self._producer.push(kind, payload, True):
            self._queue(kind, payload)

    def _queue(self, kind: int, payload: bytes) -> None:
        self.full += 1
        self._overflow_bytes += len(payload) + _QUEUED_BYTES
        if self._overflow_bytes > self.overflow_bytes_max:
            raise LinkOverrun(f"{self._overflow_bytes} bytes wait for a peer that does not read")
        self._overflow.append((kind, payload))

    def _refill(self) -> None:
        while self._overflow:
            kind, payload = self._overflow[0]
            if not self._producer.push(kind, payload, True):
                return
            self._overflow.popleft()
            self._overflow_bytes -= len(payload) + _QUEUED_BYTES

    def _drop(self, record: Record) -> None:
        assert isinstance(record, Publication), "only what history can replay may be dropped"
        self._producer.count_dropped()
        self.dropped += 1
        self._dropped_rooms.add(record.room)

    # -- in ----------------------------------------------------------------------------------------------------

    def drain(self, max_records: int = DRAIN_RECORDS) -> list[Record]:
        """What the peer has flushed, in order, at most `max_records`; fewer mean that the ring was found empty.

        Records before a bad one are handed out first; the next call raises `LinkPoisoned`.
        """
        records: list[Record] = []
        try:
            while self._damage is None and len(records) < max_records:
                wanted = max_records - len(records)
                found = self._consumer.drain(wanted)
                for kind, payload in found:
                    if kind == _PIECE:
                        self._keep_piece(payload)
                    else:
                        records.append(unpack_record(kind, self._joined(payload) if self._pieces else payload))
                if len(found) < wanted:
                    break
        except (RingPoisoned, ValueError) as error:
            self._damage = str(error)
        if self._damage is not None and not records:
            raise LinkPoisoned(self._damage)
        self.received += len(records)
        return records

    @property
    def pending(self) -> bool:
        """There is something to drain, or to be told about."""
        return self._damage is not None or self._consumer.pending != 0

    def begin_sleep(self) -> bool:
        """Before blocking on the bell. False: there is more to drain, do not block."""
        return self._damage is None and self._consumer.begin_sleep()

    def end_sleep(self) -> None:
        self._consumer.end_sleep()

    def _keep_piece(self, payload: bytes) -> None:
        self._pieces.append(payload)
        self._pieces_bytes += len(payload)
        if self._pieces_bytes > self.overflow_bytes_max:
            raise ValueError(f"a record of more than {self.overflow_bytes_max} bytes")

    def _joined(self, payload: bytes) -> bytes:
        whole = b"".join([*self._pieces, payload])
        self._pieces, self._pieces_bytes = [], 0
        return whole

    def close(self) -> None:
        """Lets go of the segment, which stays the caller's. Records not flushed, and the overflow, are gone."""
        self._producer.close()
        self._consumer.close()
        self._overflow.clear()
