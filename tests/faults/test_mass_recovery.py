"""Everybody is cut at once and comes back at once: all that was missed, within seconds, read once and not once a head.

With MULTITUDE=10000 it is ten thousand of them (`ulimit -n 20000`, `pytest -s` shows the figures).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from helpers.clients import on_loop, people
from helpers.durable import node
from helpers.multitude import CLIENTS, ask_for_files, in_percent, multitude
from helpers.server import wait_until

MISSED = 40
RECOVERED_S = 10.0


@on_loop
async def test_all_come_back_with_what_they_missed_and_the_history_is_read_once(tmp_path: Path) -> None:
    ask_for_files()
    with node(tmp_path, workers=2, jwt_secret=None) as server:
        async with people(server) as crowd, multitude(server.port, CLIENTS) as clients:
            publisher = await crowd.connect()
            epoch = (await publisher.request("join_room", room="room"))["epoch"]
            for n in range(MISSED + 10):
                await publisher.request("broadcast", room="room", message=[n, "x" * 200], id=f"m{n}")
            made = server.figure("replays_made")
            pids = server.worker_pids()
            cut = time.monotonic()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await clients.come_back({"epoch": epoch, "offset": 10}, spread_s=1.0)
            took = time.monotonic() - cut
            assert {member.recovered for member in clients.members} == {True}
            assert clients.missed() == {tuple(range(11, MISSED + 11))}
            assert took < RECOVERED_S
        wait_until(lambda: server.figure("replays_shared") >= CLIENTS * 0.99, "shared")
        assert server.figure("replays_made") - made <= 4, "a page is made anew when heads have grown by 4 KiB"
        print(
            f"{CLIENTS} clients cut at once: all back after {took:.2f} s, p50 {in_percent(clients.took_s, 0.5):.2f} s,"
            f" p99 {in_percent(clients.took_s, 0.99):.2f} s; read {server.figure('replays_made') - made} times,"
            f" shared {server.figure('replays_shared')} times"
        )


@on_loop
async def test_what_only_the_disk_has_is_read_once_for_all_too(tmp_path: Path) -> None:
    ask_for_files()
    deep = {"history_memory": "64KiB", "history_bytes": "16MiB"}
    with node(tmp_path, workers=2, jwt_secret=None, **deep) as server:
        async with people(server) as crowd, multitude(server.port, CLIENTS // 4) as clients:
            publisher = await crowd.connect()
            epoch = (await publisher.request("join_room", room="room"))["epoch"]
            for n in range(400):
                await publisher.request("broadcast", room="room", message=[n, "x" * 400], id=f"m{n}")
            for pid in server.worker_pids():
                os.kill(pid, signal.SIGKILL)
            await clients.come_back({"epoch": epoch, "offset": 10}, spread_s=0.5)
            assert clients.missed() == {tuple(range(11, 401))}
        wait_until(lambda: server.figure("history_fetches") > 0, "figures are a second old")
        assert server.figure("history_fetches") <= 2
