"""Presence tells the truth through deaths: nobody is offline who is there, nobody is there for long who is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from helpers.clients import SpeakingClient, on_loop, people
from helpers.server import SECRET, running_server
from helpers.waiting import eventually, pace

ROOM = "room"
GHOST_S = 15.0


async def in_room(client: SpeakingClient) -> SpeakingClient:
    assert (await client.request("join_room", room=ROOM))["type"] == "room_joined"
    return client


async def status_of(user: str, seen_by: SpeakingClient) -> str:
    return str((await seen_by.request("get_presence", users=[user]))["users"][0]["status"])


@on_loop
async def test_ghosts_of_a_killed_worker_are_gone_within_fifteen_seconds() -> None:
    # With the defaults, for it is the default grace that has to be short enough.
    async with running_server(workers=2, jwt_secret=SECRET) as server, people(server) as crowd:
        bob = await in_room(await crowd.connect("bob"))
        ann = await in_room(await crowd.connect("ann"))
        while ann.worker == bob.worker:
            await ann.close()
            ann = await in_room(await crowd.connect("ann"))
        bob.forget()
        os.kill(server.worker_pids()[ann.worker], signal.SIGKILL)
        killed = time.monotonic()
        assert await status_of("ann", bob) == "online"  # the grace: it may be back in a moment

        async def is_gone() -> bool:
            return await status_of("ann", bob) == "offline"

        await eventually(is_gone, "the ghost is gone", GHOST_S)
        assert time.monotonic() - killed > 9.0
        await bob.expect("member_left", member_count=1)
        await bob.expect("presence_update", userId="ann", status="offline")


@on_loop
async def test_second_tab_on_another_worker_keeps_a_user_online_for_good() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, leave_grace="1s") as server, people(server) as crowd:
        one, other = await crowd.connect_on_workers("ann", 2)
        await in_room(one)
        await in_room(other)
        bob = await in_room(await crowd.connect("bob"))
        while bob.worker == one.worker:
            await bob.close()
            bob = await in_room(await crowd.connect("bob"))
        bob.forget()
        os.kill(server.worker_pids()[one.worker], signal.SIGKILL)
        await pace(2.5)  # more than the grace: what could go wrong has gone wrong by then
        await bob.nothing_of("presence_update", userId="ann", status="offline")
        await bob.nothing_of("member_left")
        assert await status_of("ann", bob) == "online"


@on_loop
async def test_brokers_death_makes_nobody_offline() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, leave_grace="1s") as server, people(server) as crowd:
        bob = await in_room(await crowd.connect("bob"))
        tabs = [await in_room(each) for each in await crowd.connect_on_workers("ann", 2)]
        await tabs[0].request("presence", status="busy")
        await bob.expect("presence_update", userId="ann", status="busy")

        async def knows_the_room() -> bool:
            return (await bob.request("room_info", room=ROOM))["type"] == "room_info"

        for _ in range(2):
            os.kill(server.broker_pid(), signal.SIGKILL)
            await bob.expect("gap")
            await eventually(knows_the_room, "a new broker answers")
        await pace(2.5)
        await bob.nothing_of("presence_update", userId="ann")
        await bob.nothing_of("member_left")
        assert await status_of("ann", bob) == "busy"


@on_loop
async def test_flapping_connection_is_no_news() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, leave_grace="2s") as server, people(server) as crowd:
        bob = await in_room(await crowd.connect("bob"))
        ann = await in_room(await crowd.connect("ann"))
        await bob.expect("presence_update", userId="ann", status="online")
        bob.forget()
        for _ in range(20):
            await ann.close(1001)
            ann = await in_room(await crowd.connect("ann"))
        await pace(3.0)  # every lease but the last has ended by then
        for kind in ("member_joined", "member_left", "presence_update"):
            await bob.nothing_of(kind)
        assert await status_of("ann", bob) == "online"


@on_loop
async def test_lost_for_longer_than_the_grace_is_told_once_and_back_again_once() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, leave_grace="1s") as server, people(server) as crowd:
        bob = await in_room(await crowd.connect("bob"))
        ann = await in_room(await crowd.connect("ann"))
        await bob.expect("presence_update", userId="ann", status="online")
        for _ in range(2):
            bob.forget()
            await ann.close(1001)
            await bob.expect("presence_update", userId="ann", status="offline")
            ann = await in_room(await crowd.connect("ann"))
            await bob.expect("presence_update", userId="ann", status="online")
            await bob.nothing_of("presence_update")


@on_loop
async def test_broker_that_dies_with_who_was_in_the_grace_leaves_no_ghost_in_any_list() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, leave_grace="2s") as server, people(server) as crowd:
        bob = await in_room(await crowd.connect("bob"))
        carl = await in_room(await crowd.connect("carl"))
        watcher = await crowd.connect("wendy", permissions=["presence"])
        await watcher.request("hello", presence="all")
        ann = await in_room(await crowd.connect("ann"))
        await watcher.expect("presence_update", userId="ann", status="online")
        await ann.close(1001)
        await pace(0.3)  # the broker knows that she is lost
        os.kill(server.broker_pid(), signal.SIGKILL)
        for member in (bob, carl):
            told = await member.expect("room_members", room=ROOM, member_count=2)
            assert {each["userId"] for each in told["members"]} == {"bob", "carl"}
        await watcher.expect("presence_reset")
        assert await status_of("ann", watcher) == "offline"


@on_loop
async def test_list_given_by_a_new_broker_is_whole_though_a_worker_has_yet_to_announce_itself() -> None:
    async with running_server(workers=2, jwt_secret=SECRET) as server, people(server) as crowd:
        ann = await in_room(await crowd.connect("ann"))
        bob = await crowd.connect("bob")
        while bob.worker == ann.worker:
            await bob.close()
            bob = await crowd.connect("bob")

        async def answers() -> bool:
            return (await bob.request("private_message", to="zed", message=1))["type"] == "ack"

        slow = server.worker_pids()[ann.worker]
        os.kill(slow, signal.SIGSTOP)
        try:
            os.kill(server.broker_pid(), signal.SIGKILL)
            await eventually(answers, "a new broker takes messages", 5.0)
            joining = asyncio.ensure_future(bob.request("join_room", room=ROOM))
            await pace(0.5)
        finally:
            os.kill(slow, signal.SIGCONT)
        joined = await joining
        assert {each["userId"] for each in joined["members"]} == {"ann", "bob"}
        await ann.expect("member_joined", member_count=2)
