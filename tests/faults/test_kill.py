"""kill -9 under load: of a worker, of the broker, of the supervisor. What is asserted is what clients can see.

A publisher of the client library keeps publishing numbers and waits for each ack; listeners on every worker are plain
sockets, so that a connection that breaks is a failure and not repaired in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from helpers.clients import SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, started_server, wait_until

from tuskws_fast.client import Client
from tuskws_fast.client.state import Backoff
from tuskws_fast.ipc.records import worker_of

WORKERS = 4
RESTART_S = 1.0


@pytest.fixture
def server() -> Iterator[RunningServer]:
    flags = {"jwt_secret": SECRET, "disable_rate_limiting": True, "history_size": 100_000, "history_bytes": "64MiB"}
    with started_server(workers=WORKERS, **flags) as running:
        yield running
        # A killed process writes nothing; whoever is left may not stumble over its absence.
        assert "Traceback" not in running.log_text(), running.log_text()


async def on_thread(function: Any, *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def replaced(server: RunningServer, comm: str, old: int) -> float:
    """Wait for the successor of a killed process; the seconds it took to be there."""
    started = time.monotonic()

    def is_there() -> bool:
        return any(name == comm and pid != old for pid, name in server.descendants())

    await on_thread(wait_until, is_there, f"a new {comm}")
    return time.monotonic() - started


@contextlib.asynccontextmanager
async def publisher_on(server: RunningServer, worker: int | None) -> AsyncIterator[Client]:
    """A publishing client whose first connection is on that worker (None: on any)."""
    for _ in range(200):
        client = await Client(server.url, server.token("publisher"), backoff=Backoff(0.01, 0.2)).connect()
        if worker in (None, worker_of(int(client.welcome["connection_id"], 16))):
            try:
                yield client
            finally:
                await client.close()
            return
        await client.close()
    raise AssertionError(f"no connection ever came to worker {worker}")


class Load:
    """Publishes 1, 2, 3 … into `room`, one after the other, until told to stop."""

    def __init__(self, client: Client, room: str) -> None:
        self.acks: list[dict[str, Any]] = []
        self._client = client
        self._room = room
        self._stop = False
        self._moved = asyncio.Condition()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._stop:
            self.acks.append(await self._client.broadcast(self._room, len(self.acks) + 1))
            async with self._moved:
                self._moved.notify_all()

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(20), self._moved:
            await self._moved.wait_for(lambda: len(self.acks) >= count or self._task.done())
        if self._task.done():
            self._task.result()

    async def goes_on(self, more: int = 100) -> None:
        await self.reaches(len(self.acks) + more)

    async def stop(self) -> int:
        """The last number, which is acknowledged as all before it."""
        self._stop = True
        async with asyncio.timeout(20):
            await self._task
        return len(self.acks)


async def heard(listener: SpeakingClient, last: int) -> list[dict[str, Any]]:
    """All of the room's messages up to the one that says `last`, and gaps, in order."""
    found: list[dict[str, Any]] = []
    while not found or found[-1].get("message") != last:
        push = await listener.receive()
        if push["type"] in ("room_message", "gap"):
            found.append(push)
    return found


@on_loop
async def test_killed_worker_costs_others_nothing_and_its_own_clients_no_message(server: RunningServer) -> None:
    async with people(server) as crowd:
        listeners = {client.worker: client for client in await crowd.connect_on_workers("listener", WORKERS)}
        positions = {}
        for worker, client in listeners.items():
            positions[worker] = await client.request("join_room", room="room")
        victim = 1
        async with publisher_on(server, victim) as client:
            await client.join("room")
            load = Load(client, "room")
            await load.reaches(100)
            pid = server.worker_pids()[victim]
            os.kill(pid, signal.SIGKILL)
            took = await replaced(server, f"worker-{victim}", pid)
            await load.goes_on(200)
            last = await load.stop()
        assert took < RESTART_S

        for worker, listener in listeners.items():
            if worker == victim:
                assert await listener.closed_with() == 1006
                epoch = positions[worker]["epoch"]
                back = await crowd.connect("listener")
                joined = await back.request("join_room", room="room", since={"epoch": epoch, "offset": 0})
                assert joined["recovered"] is True
                pushes = list(joined["messages"])
                while joined.get("more") or (pushes and pushes[-1]["message"] != last):
                    joined = await back.receive()
                    pushes += joined.get("messages", [joined] if joined["type"] == "room_message" else [])
            else:
                pushes = await heard(listener, last)
            assert [push["message"] for push in pushes] == list(range(1, last + 1)), worker
            assert [push["offset"] for push in pushes] == list(range(1, last + 1)), worker
        assert [ack["offset"] for ack in load.acks] == list(range(1, last + 1))
        assert await _a_connection_lands_on(crowd, victim)


async def _a_connection_lands_on(crowd: Any, worker: int) -> bool:
    for _ in range(200):
        client = await crowd.connect("visitor")
        await client.close()
        if client.worker == worker:
            return True
    return False


@on_loop
async def test_user_of_a_killed_worker_leaves_its_rooms_after_the_grace() -> None:
    flags = {"jwt_secret": SECRET, "leave_grace": "1s"}
    with started_server(workers=2, **flags) as server:
        async with people(server) as crowd:
            ann, bob = await crowd.connect("ann"), await crowd.connect("bob")
            while ann.worker == bob.worker:
                await bob.close()
                bob = await crowd.connect("bob")
            for client in (bob, ann):
                await client.request("join_room", room="room")
            os.kill(server.worker_pids()[ann.worker], signal.SIGKILL)
            left = await bob.expect("member_left", room="room")
            assert (left["user"]["id"], left["member_count"]) == ("ann", 1)


@on_loop
async def test_killed_broker_is_replaced_and_everyone_goes_on_on_the_same_socket(server: RunningServer) -> None:
    async with people(server) as crowd:
        listeners = await crowd.connect_on_workers("listener", WORKERS)
        epoch = ""
        for client in listeners:
            epoch = (await client.request("join_room", room="room"))["epoch"]
        async with publisher_on(server, None) as client:
            await client.join("room")
            load = Load(client, "room")
            await load.reaches(100)
            pid = server.broker_pid()
            os.kill(pid, signal.SIGKILL)
            took = await replaced(server, "broker-0", pid)
            await load.goes_on(200)
            last = await load.stop()
            assert client.welcome["connection_id"]
        assert took < RESTART_S

        for listener in listeners:
            check_order(await heard(listener, last), epoch, load.acks)
            # And everything else works again, on the sockets that never closed.
            assert (await listener.request("join_room", room="room"))["code"] == "already_in_room"
            assert (await listener.request("join_room", room="another"))["type"] == "room_joined"
        info = await listeners[0].request("room_info", room="room")
        assert info["member_count"] in (1, 2)  # the publisher's clean end may be on its way
        await listeners[0].request("private_message", to="listener", message="psst")
        for listener in listeners:
            assert (await listener.expect("private_message"))["message"] == "psst"


def check_order(pushes: list[dict[str, Any]], epoch: str, acks: list[dict[str, Any]]) -> None:
    """In each epoch the offsets have no hole; a new epoch is announced; no acknowledged message is lost untold."""
    position = 0
    numbers = {}
    for push in pushes:
        if push["type"] == "gap":
            if push["epoch"] != epoch:
                epoch, position = push["epoch"], push["to"]
            else:
                assert push["from"] <= position + 1, push
                position = max(position, push["to"])
            continue
        assert push.get("epoch", epoch) == epoch, f"a new epoch without a gap: {push}"
        assert push["offset"] == position + 1, push
        position += 1
        numbers.setdefault(epoch, []).append(push["message"])
    assert len(numbers) == 2, numbers.keys()
    before, after = numbers.values()
    # Each epoch is in order; what the dead broker ordered without an answer is ordered again by the new one.
    assert before == list(range(1, len(before) + 1))
    assert after == list(range(after[0], after[-1] + 1))
    first_acked_after = next(i for i, ack in enumerate(acks) if ack["epoch"] == epoch) + 1
    assert after[0] <= first_acked_after
    assert after[0] <= before[-1] + 2  # at most the one publication that was in flight is known to the gap alone


@on_loop
async def test_broker_killed_again_and_again_hangs_nobody(server: RunningServer) -> None:
    async with people(server) as crowd, publisher_on(server, None) as client:
        listener = await crowd.connect("listener")
        await listener.request("join_room", room="room")
        await client.join("room")
        load = Load(client, "room")
        for _ in range(3):
            await load.goes_on()
            pid = server.broker_pid()
            os.kill(pid, signal.SIGKILL)
            await replaced(server, "broker-0", pid)
        await load.goes_on()
        last = await load.stop()
        await heard(listener, last)


@on_loop
async def test_random_workers_killed_in_a_row_lose_no_acknowledged_message(server: RunningServer) -> None:
    async with people(server) as crowd, publisher_on(server, None) as client:
        token = server.token("listener")
        async with Client(server.url, token, backoff=Backoff(0.01, 0.2)) as listener:
            numbers: list[int] = []
            listener.on("room_message", lambda push: numbers.append(push["message"]))
            gaps: list[dict[str, Any]] = []
            listener.on("gap", gaps.append)
            await listener.join("room")
            await client.join("room")
            load = Load(client, "room")
            for victim in (0, 3, 1, 2, 0):
                await load.goes_on(50)
                pid = {name: pid for pid, name in server.descendants()}[f"worker-{victim}"]
                os.kill(pid, signal.SIGKILL)
                await replaced(server, f"worker-{victim}", pid)
            await load.goes_on(50)
            last = await load.stop()
            async with asyncio.timeout(20):
                while not numbers or numbers[-1] < last:
                    await listener.ping()
            assert numbers == list(range(1, last + 1))
            assert gaps == []
        assert (await (await crowd.connect("visitor")).request("ping"))["type"] == "pong"


def test_killed_supervisor_leaves_no_process_and_a_free_port(server: RunningServer) -> None:
    children = [pid for pid, _ in server.descendants()]
    assert len(children) == WORKERS + 1
    with socket.create_connection(("127.0.0.1", server.port)):
        server.process.kill()
        server.process.wait()

        def all_gone() -> bool:
            return not any(_is_alive(pid) for pid in children)

        wait_until(all_gone, "every process has ended")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
