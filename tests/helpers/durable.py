"""Nodes with a data directory, a load on them, and the audit that any client can do.

with node(tmp_path) as server:
    async with speaker(server) as client:
        load = Load(client, "room")
        await load.reaches(300)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from helpers.clients import SpeakingClient, people
from helpers.server import SECRET, RunningServer, started_server, wait_until

from tuskws_fast.client import Client
from tuskws_fast.client.state import Backoff

KEEP = {"history_size": 100_000, "history_bytes": "64MiB", "history_ttl": "1h", "journal_size": "64MiB"}
POLL_S = 0.005


@contextlib.contextmanager
def node(data_dir: Path, workers: int = 2, **flags: Any) -> Iterator[RunningServer]:
    options = {"jwt_secret": SECRET, "disable_rate_limiting": True, **KEEP, **flags}
    with started_server(workers=workers, data_dir=data_dir, **options) as running:
        yield running


def kill_all(server: RunningServer) -> None:
    """SIGKILL for the supervisor: its children die with it."""
    pids = [pid for pid, _ in server.descendants()]
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and _lives(pid) for pid in pids), "all dead")


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


@contextlib.asynccontextmanager
async def speaker(server: RunningServer, name: str = "publisher", **options: Any) -> AsyncIterator[Client]:
    async with Client(server.url, server.token(name), backoff=Backoff(0.01, 0.2), **options) as client:
        yield client


async def history(server: RunningServer, room: str, user: str = "auditor") -> list[dict[str, Any]]:
    """All that the room keeps, whatever its epoch."""
    async with people(server) as crowd:
        client = await crowd.connect(user)
        page = await client.request("join_room", room=room, history=1_000_000)
        messages = list(page["messages"])
        while page.get("more"):
            page = await client.receive()
            messages += page.get("messages", ())
        await client.close()
    return messages


async def until(fact: Any, what: str, timeout_s: float = 20.0) -> None:
    """As `wait_until`, while the loop goes on."""
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


async def on_thread(function: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


class Load:
    """Publishes 1, 2, 3 … into a room, `width` at a time, until told to stop. `times[n]`: when n was acknowledged."""

    def __init__(self, client: Client, room: str, width: int = 20, **options: Any) -> None:
        self.acks: dict[int, dict[str, Any]] = {}
        self.times: dict[int, float] = {}
        self._client, self._room, self._options = client, room, options
        self._next = 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(width)]

    async def _run(self) -> None:
        while not self._stop:
            self._next += 1
            number = self._next
            self.acks[number] = await self._client.broadcast(self._room, number, **self._options)
            self.times[number] = time.monotonic()

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.acks) < count:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        self._stop = True
        async with asyncio.timeout(30):
            await asyncio.gather(*self._tasks)

    def abandon(self) -> dict[int, dict[str, Any]]:
        """Stop without waiting for anything; what was acknowledged."""
        for task in self._tasks:
            task.cancel()
        return dict(self.acks)


async def heard_until(listener: SpeakingClient, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        push = await listener.receive()
        if push["type"] in ("room_message", "gap"):
            found.append(push)
    return found
