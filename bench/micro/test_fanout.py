"""What does a delivery cost above the system call: queue a frame for each of 1,000 members and forget it again?"""

from typing import Any

from tuskws_fast_ext.connection import Connection, FlushPoint
from tuskws_fast_ext.fanout import fan_out
from tuskws_fast_ext.frame import Frame

MEMBERS = 1_000


def test_fan_out_to_a_thousand_members(benchmark: Any) -> None:
    point = FlushPoint(lambda callback: None, 1 << 30, 1 << 30)
    frame = Frame([b"x" * 200])

    def fresh() -> tuple[tuple[dict[Connection, None], Frame], dict[str, Any]]:
        return ({Connection(point, None, 65536, 1024): None for _ in range(MEMBERS)}, frame), {}  # type: ignore[arg-type]

    reached = benchmark.pedantic(fan_out, setup=fresh, rounds=100)
    assert reached == MEMBERS
