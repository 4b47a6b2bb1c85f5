"""What does a read cost from the socket's buffer to the session: the gate, picows and the message layer together?

A read of 64 small commands is what a busy client makes, one frame of 128 bytes what most make, one of 32 KiB what goes
past picows. The session here only counts, so all that is measured is the way to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.edge import HEAD, EchoAll, Edge, Pair
from helpers.rfc6455 import TEXT, client_frame

MASK = b"\x01\x02\x03\x04"
READS = {
    "64 frames of 64 bytes": client_frame(TEXT, b"x" * 64, mask=MASK) * 64,
    "1 frame of 128 bytes": client_frame(TEXT, b"x" * 128, mask=MASK),
    "1 frame of 32 KiB": client_frame(TEXT, b"x" * 32_768, mask=MASK),
    "32 KiB in 64 fragments": b"".join(
        client_frame(TEXT if n == 0 else 0, b"x" * 512, fin=n == 63, mask=MASK) for n in range(64)
    ),
}


class Counting(EchoAll):
    heard = 0

    def on_message(self, payload: bytes, text: bool) -> None:
        self.heard += 1


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("name", READS)
def test_read(benchmark: Any, pair: Pair, name: str) -> None:
    session, wire = Counting(), READS[name]
    with Edge(lambda address: session, 65_536, buffer_bytes=65_536) as edge:
        protocol = edge.connect(pair, head=HEAD).protocol
        buffer = protocol.get_buffer(-1)

        def read() -> None:
            # As uvloop does it; the copy stands for the kernel's and costs 1 us at 32 KiB.
            buffer[: len(wire)] = wire
            protocol.buffer_updated(len(wire))

        benchmark(read)
    assert session.heard > 0
    assert not session.closed
