"""Coming back to a room: everything that was missed, in order and once, or the plain word that it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from helpers.clients import SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, running_server
from helpers.waiting import pace

from tuskws_fast.client import Client
from tuskws_fast.client.state import Backoff

Name = Callable[[str], str]


async def publish(client: SpeakingClient, room: str, messages: range) -> None:
    for n in messages:
        reply = await client.request("broadcast", room=room, message=n)
        assert reply["type"] == "ack", reply


async def rejoin(client: SpeakingClient, room: str, epoch: str, offset: int) -> dict[str, Any]:
    return await client.request("join_room", room=room, since={"epoch": epoch, "offset": offset})


@on_loop
async def test_join_since_gives_exactly_what_was_missed(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        epoch = (await ann.request("join_room", room=name("room")))["epoch"]
        await publish(ann, name("room"), range(1, 11))
        for last in (0, 3, 9, 10):
            bob = await crowd.connect(name("bob"))
            joined = await rejoin(bob, name("room"), epoch, last)
            assert joined["recovered"] is True
            assert [each["offset"] for each in joined["messages"]] == list(range(last + 1, 11))
            assert (joined["epoch"], joined["offset"]) == (epoch, 10)
            await bob.close()


@on_loop
async def test_what_cannot_be_proven_is_not_recovered(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        epoch = (await ann.request("join_room", room=name("room")))["epoch"]
        await publish(ann, name("room"), range(1, 4))
        for since_epoch, offset in (("another", 1), (epoch, 4), (epoch, 10**9), ("", 0)):
            bob = await crowd.connect(name("bob"))
            joined = await rejoin(bob, name("room"), since_epoch, offset)
            assert (joined["recovered"], joined["messages"]) == (False, []), (since_epoch, offset)
            assert (joined["epoch"], joined["offset"]) == (epoch, 3)
            await bob.close()


@on_loop
async def test_what_history_no_longer_holds_is_not_recovered_in_part() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, history_size=5) as server, people(server) as crowd:
        ann = await crowd.connect("ann")
        epoch = (await ann.request("join_room", room="room"))["epoch"]
        await publish(ann, "room", range(1, 11))
        for last, recovered, count in ((5, True, 5), (4, False, 0), (0, False, 0)):
            bob = await crowd.connect("bob")
            joined = await rejoin(bob, "room", epoch, last)
            assert (joined["recovered"], len(joined["messages"])) == (recovered, count), last
            await bob.close()


@on_loop
async def test_long_replay_comes_in_pages_and_live_messages_after_them(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann, bob = await crowd.connect(name("ann")), await crowd.connect(name("bob"))
        epoch = (await ann.request("join_room", room=name("room")))["epoch"]
        body = "x" * 10_000
        for n in range(1, 91):  # 900 KB: four pages of 256 KiB
            await ann.request("broadcast", room=name("room"), message=[n, body], echo=False)
        await bob.send(
            {"type": "join_room", "id": "back", "room": name("room"), "since": {"epoch": epoch, "offset": 0}}
        )
        first = await bob.expect_reply("back")
        assert (first["recovered"], first["more"]) == (True, True)
        talking = asyncio.create_task(publish(ann, name("room"), range(91, 100)))
        pages = [first]
        while pages[-1]["more"]:
            pages.append(await bob.expect_reply("back"))
            assert pages[-1]["type"] == "history"
        await talking
        live = [await bob.expect("room_message") for _ in range(9)]
        replayed = [each["offset"] for page in pages for each in page["messages"]]
        assert replayed + [each["offset"] for each in live] == list(range(1, 100))
        kinds = [message["type"] for message in bob.seen]
        assert kinds.index("room_message") > len(kinds) - 1 - kinds[::-1].index("history")
        assert len(pages) >= 4
        assert all(sum(len(each["message"][1]) for each in page["messages"]) <= 256 * 1024 for page in pages)


@on_loop
async def test_joining_while_others_publish_leaves_no_seam(server: RunningServer, name: Name) -> None:
    """Every message is in the reply or comes after it; none is in both, none in neither."""
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        epoch = (await ann.request("join_room", room=name("room")))["epoch"]
        done = asyncio.Event()

        async def talk() -> int:
            n = 0
            while not done.is_set():
                n += 1
                await ann.send({"type": "broadcast", "room": name("room"), "message": n, "echo": False})
                await pace(0.002)  # below the rate limit
            return n

        talking = asyncio.create_task(talk())
        last = 0
        for _ in range(20):
            bob = await crowd.connect(name("bob"))
            joined = await rejoin(bob, name("room"), epoch, last)
            if joined["recovered"] is False:  # more than history holds went by: allowed, but only as a whole
                assert joined["messages"] == []
                last = joined["offset"]
            offsets = [each["offset"] for each in joined["messages"]]
            offsets += [(await bob.expect("room_message"))["offset"] for _ in range(5)]
            assert offsets == list(range(last + 1, last + 1 + len(offsets)))
            last = offsets[-1]
            await bob.close()
        done.set()
        await talking


@on_loop
async def test_client_library_misses_nothing_over_many_lost_connections(server: RunningServer, name: Name) -> None:
    total = 200
    token = server.token(name("bob"))
    async with people(server) as crowd, Client(server.url, token, backoff=Backoff(0.001, 0.05)) as bob:
        await bob.join(name("room"))
        ann = await crowd.connect(name("ann"))
        await ann.request("join_room", room=name("room"))

        async def disturb() -> None:
            for n in range(1, total + 1):
                await ann.request("broadcast", room=name("room"), message=n)
                if n % 40 == 0 and bob._connection is not None:
                    bob._connection.transport.abort()

        disturbing = asyncio.create_task(disturb())
        heard = []
        async for push in bob:
            assert push["type"] != "gap", push
            if push["type"] == "room_message":
                heard.append(push["message"])
            if len(heard) == total:
                break
        await disturbing
        assert heard == list(range(1, total + 1))


@on_loop
async def test_client_library_publishes_once_over_many_lost_connections(server: RunningServer, name: Name) -> None:
    token = server.token(name("bob"))
    async with people(server) as crowd, Client(server.url, token, backoff=Backoff(0.001, 0.05)) as bob:
        ann = await crowd.connect(name("ann"))
        await ann.request("join_room", room=name("room"))
        room = await bob.join(name("room"))
        for n in range(10):
            publishing = asyncio.create_task(room.broadcast(n))
            await asyncio.sleep(0)
            if bob._connection is not None:
                bob._connection.transport.abort()
            assert (await publishing)["offset"] == n + 1
        assert [(await ann.expect("room_message"))["message"] for _ in range(10)] == list(range(10))
        await ann.nothing_of("room_message")
