"""The child's line to the supervisor, in one process: messages come through the loop, words go back."""

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from tuskws_fast.metrics import Metric, worker_row
from tuskws_fast.supervisor.child import ChildContext
from tuskws_fast.supervisor.control import Message, receive_message, send_message, socket_pair
from tuskws_fast.supervisor.memory import MemorySizes, NodeMemory

Line = tuple[ChildContext, socket.socket]


@pytest.fixture
def line() -> Iterator[Line]:
    memory = NodeMemory(1, MemorySizes(64, 65536, 65536))
    ours, theirs = socket_pair()
    counters = memory.counters(worker_row(0))
    yield ChildContext("worker", 0, 1, 1, theirs, memory, counters, -1, None), ours
    counters.close()
    ours.close()
    theirs.close()
    memory.close()


def test_messages_sent_before_and_after_connect_reach_the_child(line: Line) -> None:
    context, supervisor = line
    got: list[Message] = []
    send_message(supervisor, "link", {"worker": 0, "generation": 1}, (supervisor.fileno(),))

    async def live() -> None:
        done = asyncio.Event()

        def on_message(message: Message) -> None:
            got.append(message)
            if message.op == "drain":
                done.set()

        context.connect(asyncio.get_running_loop(), on_message)
        send_message(supervisor, "adopt", {"slot": 1})
        send_message(supervisor, "drain", {"deadline_s": 1.5})
        await asyncio.wait_for(done.wait(), 10)
        asyncio.get_running_loop().remove_reader(context.control)

    asyncio.run(live())
    assert [message.op for message in got] == ["link", "adopt", "drain"]
    assert got[2].fields == {"deadline_s": 1.5}
    assert len(got[0].fds) == 1
    os.close(got[0].fds[0])


def test_words_and_beats_reach_the_supervisor(line: Line) -> None:
    context, supervisor = line
    context.send("poisoned", worker=0, reason="bad length")
    assert receive_message(supervisor) == Message("poisoned", {"worker": 0, "reason": "bad length"}, ())
    context.beat()
    assert context.counters.get(Metric.BEAT) > 0
    assert context.name == "worker 0"
