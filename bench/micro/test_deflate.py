"""What does compression cost: a room message once for all its members, and a client's message on its way in?

The sizes and levels are those that decide the defaults of `compression_min_size` and `compression_level`
(docs/decisions/0005).
"""

import json
import random
from typing import Any

import pytest
from tuskws_fast_ext.deflate import CompressionPool, Deflater, Scratch

WORDS = [format(n * 2654435761 % 2**32, "x") for n in range(300)]


def message_of(size: int) -> bytes:
    """A room message of JSON, as compressible as people's and programs' are."""
    rng = random.Random(size)
    items: list[dict[str, Any]] = []
    text = b""
    while len(text) < size:
        items.append({"id": rng.randrange(10**6), "name": rng.choice(WORDS), "price": rng.randrange(10_000) / 100})
        text = json.dumps({"type": "room_message", "room": "lobby", "message": items, "from": "ann"}).encode()
    return text[:size]


@pytest.mark.parametrize("size", [128, 256, 512, 1024, 16 * 1024])
@pytest.mark.parametrize("level", [1, 3, 6])
def test_compress_a_message(benchmark: Any, size: int, level: int) -> None:
    deflater, message = Deflater(Scratch(), level, 1), message_of(size)
    payload = benchmark(deflater.encode, message)
    benchmark.extra_info["share"] = len(payload) / size
    assert len(payload) < size


@pytest.mark.parametrize("size", [256, 1024, 16 * 1024])
def test_inflate_a_message(benchmark: Any, size: int) -> None:
    message = message_of(size)
    compression = CompressionPool(1, 1, 5, 1e15, 1e15).open()
    payload = Deflater(Scratch(), 1, 1).encode(message)
    assert benchmark(compression.received, payload, size, 0.0) == message
