"""What does it cost to put a batch of publications on the wire, once, for everyone?"""

from typing import Any

import pytest
from tuskws_fast_ext.frame import Frame

BODY = b'{"type":"room_message","room":"bench","message":"' + b"x" * 128 + b'","from":"user-1","timestamp":1.000}'


@pytest.mark.parametrize("count", [1, 64])
def test_frame_of_a_batch(benchmark: Any, count: int) -> None:
    bodies = [BODY] * count
    wire = benchmark(lambda: Frame(bodies).encoded())
    assert len(wire) == count * (len(BODY) + 4)


def test_batch_message_of_64(benchmark: Any) -> None:
    bodies = [BODY] * 64
    wire = benchmark(lambda: Frame(bodies, 1.0).encoded(batch=True))
    assert wire.count(b"room_message") == 64
