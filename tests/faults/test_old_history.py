"""More history than memory: read from the journal, over any death of the broker and of the node, and as long as the
room's bounds and the journal's size say."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from helpers.clients import SpeakingClient, on_loop, people
from helpers.durable import kill_all, node, on_thread, until

COUNT = 3_000
BODY = "x" * 500
DEEP = {"history_memory": "64KiB", "history_size": 100_000, "history_bytes": "16MiB", "history_ttl": "1h"}


async def fill(client: SpeakingClient, room: str, count: int = COUNT) -> str:
    """Publishes 1 … `count`; the room's epoch."""
    epoch: str = (await client.request("join_room", room=room))["epoch"]
    for start in range(1, count + 1, 100):
        for n in range(start, start + 100):
            await client.send({"type": "broadcast", "room": room, "message": [n, BODY], "echo": False, "id": n})
        for n in range(start, start + 100):
            assert (await client.expect_reply(n))["type"] == "ack"
    return epoch


async def whole(client: SpeakingClient, kind: str, **fields: Any) -> tuple[bool | None, list[int]]:
    """What an answer in pages says."""
    page = await client.request(kind, id="whole", **fields)
    recovered, found = page["recovered"], page["messages"]
    while page.get("more"):
        page = await client.expect_reply("whole")
        found += page["messages"]
    return recovered, [each["message"][0] for each in found]


@on_loop
async def test_all_that_the_room_keeps_is_served_wherever_it_is_and_whatever_died(tmp_path: Path) -> None:
    everything = list(range(1, COUNT + 1))
    with node(tmp_path, **DEEP) as server:
        async with people(server) as crowd:
            ann = await crowd.connect("ann")
            epoch = await fill(ann, "room")
            bob = await crowd.connect("bob")
            assert await whole(bob, "join_room", room="room", since={"epoch": epoch, "offset": 0}) == (True, everything)
            assert await whole(bob, "history", room="room") == (None, everything)
            middle = {"epoch": epoch, "offset": 1_000}
            assert await whole(bob, "history", room="room", since=middle, limit=7) == (True, everything[1_000:1_007])
            await until(lambda: server.figure("history_shelved_bytes") > COUNT * len(BODY) * 0.9, "most is shelved")
            assert await on_thread(server.figure, "history_bytes") <= 64 * 1024

            os.kill(server.broker_pid(), signal.SIGKILL)
            carl = await crowd.connect("carl")
            async with asyncio.timeout(10):
                while True:
                    joined = await carl.request("join_room", room="room", since={"epoch": epoch, "offset": COUNT})
                    if joined["type"] == "room_joined":
                        break
            assert joined["recovered"] is True
            assert await whole(carl, "history", room="room", since={"epoch": epoch, "offset": 0}) == (True, everything)
        kill_all(server)
    with node(tmp_path, **DEEP) as server:
        async with people(server) as crowd:
            dora = await crowd.connect("dora")
            since = {"epoch": epoch, "offset": 0}
            assert await whole(dora, "join_room", room="room", since=since) == (True, everything)
            assert (await dora.request("broadcast", room="room", message=[COUNT + 1], id="next"))["offset"] == COUNT + 1
        assert server.figure("history_fetches_failed") == 0
        assert "Traceback" not in server.log_text()


@on_loop
async def test_journal_s_size_bounds_what_is_on_the_disk_alone_and_that_is_told(tmp_path: Path) -> None:
    with node(tmp_path, **DEEP, journal_size="2MiB") as server:
        async with people(server) as crowd:
            ann = await crowd.connect("ann")
            epoch = await fill(ann, "room", 9_000)
            await until(lambda: server.figure("history_forgone") > 0, "the oldest go with their segments")
            await until(lambda: server.figure("journal_bytes") <= 3 * 1024**2, "the journal is as large as was said")
            bob = await crowd.connect("bob")
            assert await whole(bob, "join_room", room="room", since={"epoch": epoch, "offset": 0}) == (False, [])
            _, kept = await whole(bob, "history", room="room")
            assert kept == list(range(kept[0], 9_001)), "what is kept has no hole"
            assert len(kept) > 500
            since = {"epoch": epoch, "offset": kept[0] - 1}
            carl = await crowd.connect("carl")
            assert await whole(carl, "join_room", room="room", since=since) == (True, kept)
        kill_all(server)
    with node(tmp_path, **DEEP, journal_size="2MiB") as server:
        async with people(server) as crowd:
            dora = await crowd.connect("dora")
            assert await whole(dora, "join_room", room="room", since=since) == (True, kept), "the same after a start"


@on_loop
async def test_while_old_messages_are_read_others_are_served(tmp_path: Path) -> None:
    with node(tmp_path, **DEEP) as server:
        async with people(server) as crowd:
            ann = await crowd.connect("ann")
            epoch = await fill(ann, "deep")
            await ann.request("join_room", room="live")
            readers = [await crowd.connect(f"reader{n}") for n in range(5)]
            waits = []
            asked = [
                asyncio.create_task(whole(each, "join_room", room="deep", since={"epoch": epoch, "offset": n}))
                for n, each in enumerate(readers)
            ]
            while not all(task.done() for task in asked):
                began = time.monotonic()
                assert (await ann.request("broadcast", room="live", message=1))["type"] == "ack"
                waits.append(time.monotonic() - began)
            for n, task in enumerate(asked):
                assert task.result() == (True, list(range(n + 1, COUNT + 1)))
            # What is read beside the loop costs the others the sending of it, 1.5 MB a reader.
            assert max(waits) < 1.0
        assert server.figure("history_fetches") <= 2, "five readers of one room share what is read"
