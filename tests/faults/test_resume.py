"""Sessions through deaths: of the worker that held them, of the broker that knows them, of the whole node."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.clients import Message, People, SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, running_server, started_server, wait_until
from helpers.sockets import Closed
from helpers.waiting import pace

from tuskws_fast.client import Client
from tuskws_fast.client.state import Backoff
from tuskws_fast.ipc.records import worker_of

ROOM = "room"


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with started_server(workers=3, jwt_secret=SECRET) as running:
        yield running
        assert "Traceback" not in running.log_text(), running.log_text()


def ticket_of(client: SpeakingClient) -> str:
    return str(next(each["session"] for each in reversed(client.seen) if each.get("session")))


async def join(client: SpeakingClient) -> Message:
    joined = await client.request("join_room", room=ROOM)
    return {"epoch": joined["epoch"], "offset": joined["offset"]}


async def elsewhere(crowd: People, *workers: int) -> SpeakingClient:
    """A stranger on none of these workers."""
    for _ in range(200):
        client = await crowd.connect(None)
        if client.worker not in workers:
            return client
        await client.close()
    raise AssertionError("no connection ever came to another worker")


async def resume(client: SpeakingClient, ticket: str, **rooms: Any) -> Message:
    """Asked again as long as the server says that it is not ready yet."""
    while True:
        answer = await client.request("resume", session=ticket, rooms=rooms)
        if answer.get("code") != "unavailable":
            return answer
        await pace(answer["retry_after"])


@pytest.mark.parametrize("kind", ["websockets", "aiohttp", "node"])
def test_session_of_a_killed_worker_goes_on_on_another(server: RunningServer, kind: str) -> None:
    @on_loop
    async def scenario() -> None:
        async with people(server, kind) as crowd:
            ann = await crowd.connect("ann")
            at, ticket = await join(ann), ticket_of(ann)
            bob = await crowd.connect("bob")
            while bob.worker == ann.worker:
                await bob.close()
                bob = await crowd.connect("bob")
            await join(bob)
            bob.forget()
            os.kill(server.worker_pids()[ann.worker], signal.SIGKILL)
            with pytest.raises((Closed, AssertionError)):
                await ann.expect("never")
            await bob.request("broadcast", room=ROOM, message="missed")
            again = await elsewhere(crowd, ann.worker)
            resumed = await resume(again, ticket, **{ROOM: at})
            assert resumed["user"]["id"] == "ann"
            assert [each["message"] for each in resumed["rooms"][ROOM]["messages"]] == ["missed"]
            # Nobody saw it go: within the grace there is nothing to see.
            await bob.nothing_of("member_left")
            await bob.nothing_of("presence_update", status="offline")

    scenario()


@on_loop
async def test_after_the_brokers_death_live_sessions_are_known_and_the_others_over(server: RunningServer) -> None:
    async with people(server) as crowd:
        ann, gone = await crowd.connect("ann"), await crowd.connect("gone")
        await join(ann)
        tickets = ticket_of(ann), ticket_of(gone)
        # One that lives under another number than its first.
        moved = await elsewhere(crowd, ann.worker)
        assert (await resume(moved, tickets[0], **{ROOM: {"epoch": "", "offset": 0}}))["type"] == "resumed"
        await gone.close(1001)
        os.kill(server.broker_pid(), signal.SIGKILL)
        await moved.expect("gap")
        assert (await resume(await crowd.connect(None), tickets[1]))["code"] == "token_expired"
        again = await crowd.connect(None)
        resumed = await resume(again, tickets[0], **{ROOM: {"epoch": "", "offset": 0}})
        assert resumed["user"]["id"] == "ann"
        assert resumed["rooms"][ROOM]["recovered"] is False  # no journal: the room began anew, and says so
        assert resumed["rooms"][ROOM]["member_count"] == 1
        await moved.expect_close(4511)


@on_loop
async def test_with_a_journal_the_missed_messages_outlive_the_broker(tmp_path: Path) -> None:
    async with running_server(workers=2, jwt_secret=SECRET, data_dir=tmp_path) as server, people(server) as crowd:
        ann, bob = await crowd.connect("ann"), await crowd.connect("bob")
        at, ticket = await join(ann), ticket_of(ann)
        await join(bob)
        await bob.request("broadcast", room=ROOM, message="before")
        os.kill(server.broker_pid(), signal.SIGKILL)
        again = await crowd.connect(None)
        resumed = await resume(again, ticket, **{ROOM: at})
        assert [each["message"] for each in resumed["rooms"][ROOM]["messages"]] == ["before"]


@on_loop
async def test_ticket_of_before_a_restart_is_over_and_not_a_forgery(tmp_path: Path) -> None:
    async with running_server(workers=1, data_dir=tmp_path) as server, people(server) as crowd:
        ticket = ticket_of(await crowd.connect(None))
    async with running_server(workers=1, data_dir=tmp_path) as server, people(server) as crowd:
        assert (await resume(await crowd.connect(None), ticket))["code"] == "token_expired"


@on_loop
async def test_client_library_stays_the_same_guest_when_its_worker_is_killed() -> None:
    # A guest has no token: only the ticket can tell who it was.
    async with running_server(workers=2) as server, Client(server.url, backoff=Backoff(0.01, 0.2)) as client:
        room = await client.join(ROOM)
        me = client.user
        worker = worker_of(int(client.welcome["connection_id"], 16))
        os.kill(server.worker_pids()[worker], signal.SIGKILL)
        assert (await room.broadcast("still here"))["offset"] == 1
        async for push in client:
            if push["type"] == "room_message":
                break
        assert me is not None
        assert (client.user, push["from"]) == (me, me["id"])
        wait_until(lambda: server.figure("sessions_resumed") == 1, "the resumption is counted")


@on_loop
async def test_who_is_drained_resumes_on_the_successor_and_has_everything_once() -> None:
    """`reconnect`, 4010, `resume`: by plain sockets, from the first message of the session to the last."""
    options = {"drain_window": "1s", "history_size": 100_000, "disable_rate_limiting": True}
    async with running_server(workers=2, jwt_secret=SECRET, **options) as server, people(server) as crowd:
        bob = await crowd.connect("bob")
        at = await join(bob)
        heard: list[int] = []
        moves: list[int] = []
        restarting = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tuskws_fast", "restart", "--control-socket", str(server.control_socket)),
            stdout=asyncio.subprocess.DEVNULL,
        )

        async def publish() -> int:
            count = 0
            async with Client(server.url, server.token("ann"), backoff=Backoff(0.01, 0.2)) as ann:
                room = await ann.join(ROOM)
                while restarting.returncode is None:
                    count += 1
                    await room.broadcast(count)
                    await pace(0.005)
                await room.broadcast(0)
            return count

        publishing = asyncio.create_task(publish())
        told = 0
        while not heard or heard[-1] != 0:
            try:
                push = await bob.receive()
            except Closed as closed:
                moves.append(closed.code)
                worker, ticket = bob.worker, ticket_of(bob)
                bob = await elsewhere(crowd, worker)
                resumed = await resume(bob, ticket, **{ROOM: at})
                assert resumed["rooms"][ROOM]["recovered"] is True, resumed
                pushes = resumed["rooms"][ROOM]["messages"]
            else:
                told += push["type"] == "reconnect"
                assert push["type"] != "gap"
                pushes = [push] if push["type"] == "room_message" else []
            for each in pushes:
                assert each["offset"] == at["offset"] + 1, "nothing is missing, nothing comes twice"
                at["offset"] = each["offset"]
                heard.append(each["message"])
        count = await publishing
        assert restarting.returncode == 0
        assert heard == [*range(1, count + 1), 0]
        assert set(moves) == {4010}
        assert told == len(moves) >= 1
        wait_until(lambda: server.figure("sessions_resumed") >= len(moves), "counted")
