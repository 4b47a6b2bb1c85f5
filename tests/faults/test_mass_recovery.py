"""Everybody is cut at once and comes back at once: all that was missed, within seconds, read once and not once a head.

With MULTITUDE=10000 it is ten thousand of them, all from one address; that needs `ulimit -n 20000`, and a minute:

    MULTITUDE=10000 scripts/test -s tests/faults/test_mass_recovery.py -k all_come_back      shows the figures
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from helpers.clients import people
from helpers.durable import node
from helpers.multitude import CLIENTS, ask_for_files, in_percent, multitude, on_fast_loop
from helpers.server import wait_until

MISSED = 40
RECOVERED_S = 10.0


@pytest.mark.parametrize(("workers", "rooms"), [(1, 1), (2, 1), (2, 20)])
@on_fast_loop
async def test_all_come_back_with_what_they_missed_and_the_history_is_read_once(
    tmp_path: Path, workers: int, rooms: int
) -> None:
    ask_for_files()
    names = [f"room-{n}" for n in range(rooms)]
    with node(tmp_path, workers=workers, jwt_secret=None) as server:
        async with people(server) as crowd, multitude(server.port, CLIENTS, names) as clients:
            publisher = await crowd.connect()
            since = {}
            for room in names:
                joined = await publisher.request("join_room", room=room)
                since[room] = {"epoch": joined["epoch"], "offset": 10}
                for n in range(MISSED + 10):
                    await publisher.request("broadcast", room=room, message=[n, "x" * 200], id=f"m{n}")
            made = server.figure("replays_made")
            pids = server.worker_pids()
            cut = time.monotonic()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await clients.come_back(since, spread_s=1.0)
            took = time.monotonic() - cut
            assert {member.recovered for member in clients.members} == {True}
            assert clients.missed() == {tuple(range(11, MISSED + 11))}
            assert took < RECOVERED_S
        wait_until(lambda: server.figure("replays_shared") >= CLIENTS - 4 * rooms, "shared")
        read = server.figure("replays_made") - made
        assert read <= 4 * rooms, "a page is made anew when heads have grown by 4 KiB"
        print(
            f"{CLIENTS} clients in {rooms} rooms cut at once, {workers} workers: all back after {took:.2f} s,"
            f" p50 {in_percent(clients.took_s, 0.5):.2f} s, p99 {in_percent(clients.took_s, 0.99):.2f} s;"
            f" read {read} times, shared {server.figure('replays_shared')} times; {clients.tried_again} tries more"
        )


@on_fast_loop
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
            await clients.come_back({"room": {"epoch": epoch, "offset": 10}}, spread_s=0.5)
            assert clients.missed() == {tuple(range(11, 401))}
        wait_until(lambda: server.figure("history_fetches") > 0, "figures are a second old")
        assert server.figure("history_fetches") <= 2
