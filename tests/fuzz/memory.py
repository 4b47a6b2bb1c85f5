"""Fuzz target `memory`: ring and table memory that a mad process wrote, through the extension's objects.

The C code below them is the native targets' (tests/fuzz/native), at a hundred times the speed. Here is what lies above:
`Consumer`, `Producer`, `inspect_ring`, `peek_records` (which reads a copy by eye and must survive anything) and the
three tables, attached to the same bytes. The copies are heap objects, so that AddressSanitizer sees one byte too far.

    byte 0     how it is used
    the rest   place, number, bytes; again and again: what is overwritten in a ring with ten records in it
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Hashable

from helpers.rings import AT_BUF, AT_HEAD, AT_TAIL
from tuskws_fast_ext import ring
from tuskws_fast_ext.ring import Consumer, Producer, RingError, RingPoisoned
from tuskws_fast_ext.tables import AdmissionTable, Counters, RateTable, TableError

CAPACITY = 4096
GENERATION = 3
PLACES = (0, 8, 16, 24, AT_TAIL, AT_HEAD, AT_BUF, AT_BUF + 4, AT_BUF + 8, AT_BUF + 16, AT_BUF + 40)
LINE = 128


class MemoryTarget:
    name = "memory"
    input_max = 2048

    def __init__(self) -> None:
        self.size = ring.ring_bytes(CAPACITY)
        # On a 128-byte line, whatever the allocator gives; what is behind the end belongs to AddressSanitizer.
        self.block = (ctypes.c_char * (self.size + LINE))()
        offset = -ctypes.addressof(self.block) % LINE
        self.view = memoryview(self.block).cast("B")[offset : offset + self.size]
        ring.format_ring(self.view, 0, CAPACITY, GENERATION)
        producer = Producer(self.view, 0, -1)
        for n in range(10):
            producer.push(n, b"payload " * n)
        producer.flush()
        producer.close()
        self.whole = bytes(self.view)

    def run(self, data: bytes) -> Hashable:
        mode = data[0] if data else 0
        self.view[:] = self.whole
        outcome: list[Hashable] = [mode & 3]
        at = 1
        while at + 4 < len(data):
            place = int.from_bytes(data[at : at + 2], "little") % self.size
            n = min(data[at + 2] % 16 + 1, self.size - place, len(data) - at - 3)
            self.view[place : place + n] = data[at + 3 : at + 3 + n]
            at += 3 + n
        outcome += [self._read(mode), self._peek(mode), self._write(mode), self._tables(mode)]
        return tuple(outcome)

    def _read(self, mode: int) -> Hashable:
        try:
            consumer = Consumer(self.view, 0, -1, None if mode & 1 else GENERATION)
        except (RingError, RingPoisoned) as error:
            return str(error)[:30]
        try:
            total = 0
            while records := consumer.drain(1 + mode % 7):
                total += sum(24 + len(payload) for _, payload in records)
                assert total <= CAPACITY, "more than a ring can hold"
            consumer.begin_sleep()
            assert consumer.pending >= 0
            return total.bit_length()
        except RingPoisoned as error:
            return str(error)[:20]
        finally:
            consumer.close()

    def _peek(self, mode: int) -> Hashable:
        copy = bytes(self.view)
        try:
            state = ring.inspect_ring(copy, 0)
            found = ring.peek_records(copy, 0, state.head, state.tail, 1000)
        except RingError as error:
            return str(error)[:20]
        assert sum(24 + len(record.payload) for record in found if record.fault is None) <= CAPACITY
        return tuple(sorted({str(record.fault) for record in found}))

    def _write(self, mode: int) -> Hashable:
        try:
            producer = Producer(self.view, 0, -1)
            pushed = [producer.push(1, b"x" * (100 * n), bool(mode & 4)) for n in range(12)]
            producer.flush()
            producer.want_space()
            producer.close()
            return sum(pushed)
        except (RingError, RingPoisoned) as error:
            return str(error)[:20]

    def _tables(self, mode: int) -> Hashable:
        told = []
        for kind in (lambda: AdmissionTable(self.view, 1, 3), lambda: RateTable(self.view), self._counters):
            try:
                table = kind()
            except TableError:
                told.append("refused")
                continue
            if isinstance(table, AdmissionTable):
                told.append(str(table.admit(mode, 3)))
                table.clear_column(1)
                assert table.count(mode) >= 0
            elif isinstance(table, RateTable):
                told.append(str(table.take(mode, mode << 20, 1, 1000.0, 5) > 0.0))
            else:
                told.append(str(table.sum_column(1) > 0))
            table.close()
            self.view[:8] = bytes(8)
        return tuple(told)

    def _counters(self) -> Counters:
        return Counters(self.view, 1, 5)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def seeds(self) -> list[bytes]:
        return [b"\0", b"\1" + AT_TAIL.to_bytes(2, "little") + b"\7" + b"\xff" * 8]

    def fresh(self, rng: random.Random) -> bytes:
        out = bytes([rng.randrange(256)])
        for _ in range(rng.randrange(1, 4)):
            place = (
                (rng.choice(PLACES) + rng.randrange(4)) if rng.random() < 0.7 else rng.randrange(AT_BUF, AT_BUF + 600)
            )
            n = rng.choice((1, 4, 8))
            value = rng.choice((rng.randbytes(n), (rng.randrange(600) * 8).to_bytes(8, "little")[:n], b"\xff" * n))
            out += place.to_bytes(2, "little") + bytes([n - 1]) + value
        return out + b"\0\0\0\0"
