"""A user's presence is that of the best of its connections: two tabs, on two workers, through every way of leaving."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from helpers.clients import SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, running_server, started_server

Name = Callable[[str], str]


@pytest.fixture(scope="module")
def quick() -> Iterator[RunningServer]:
    """A grace of a second, so that a test can see its end."""
    with started_server(workers=4, jwt_secret=SECRET, leave_grace="1s") as running:
        yield running


async def in_room(client: SpeakingClient, room: str) -> SpeakingClient:
    assert (await client.request("join_room", room=room))["type"] == "room_joined"
    return client


async def status_of(user: str, seen_by: SpeakingClient) -> str:
    answer = await seen_by.request("get_presence", users=[user])
    return str(answer["users"][0]["status"])


@on_loop
async def test_first_tab_that_closes_takes_nobody_offline(quick: RunningServer, name: Name) -> None:
    async with people(quick) as crowd:
        bob = await in_room(await crowd.connect(name("bob")), name("room"))
        one, other = await crowd.connect_on_workers(name("ann"), 2)
        await in_room(one, name("room"))
        await bob.expect("member_joined", room=name("room"), member_count=2)
        await in_room(other, name("room"))
        # Changes within a tenth of a second are told as one, so this one is waited for.
        await other.request("presence", status="busy")
        await bob.expect("presence_update", userId=name("ann"), status="busy")
        await one.close()
        await other.barrier()
        await bob.nothing_of("member_joined")
        await bob.nothing_of("member_left")
        await bob.nothing_of("presence_update", userId=name("ann"), status="offline")
        assert await status_of(name("ann"), bob) == "busy"
        await other.close()
        left = await bob.expect("member_left", room=name("room"))
        assert (left["user"]["id"], left["member_count"]) == (name("ann"), 1)
        await bob.expect("presence_update", userId=name("ann"), status="offline")


@on_loop
async def test_status_is_the_most_present_of_the_tabs(quick: RunningServer, name: Name) -> None:
    async with people(quick) as crowd:
        bob = await in_room(await crowd.connect(name("bob")), name("room"))
        one, other = await crowd.connect_on_workers(name("ann"), 2)
        await in_room(one, name("room"))
        await in_room(other, name("room"))
        for mine, yours, together in (
            ("away", "online", "online"),
            ("away", "away", "away"),
            ("busy", "away", "busy"),
            ("busy", "online", "busy"),
            ("offline", "away", "away"),
            ("offline", "offline", "offline"),
            ("online", "offline", "online"),
        ):
            assert (await one.request("presence", status=mine))["type"] == "ack"
            assert (await other.request("presence", status=yours))["type"] == "ack"
            assert await status_of(name("ann"), bob) == together, (mine, yours)


@on_loop
async def test_lost_connection_keeps_its_place_for_the_grace(quick: RunningServer, name: Name) -> None:
    async with people(quick) as crowd:
        bob = await in_room(await crowd.connect(name("bob")), name("room"))
        ann = await in_room(await crowd.connect(name("ann")), name("room"))
        await bob.expect("member_joined")
        await ann.close(1001)  # what a browser sends when the page is reloaded
        again = await in_room(await crowd.connect(name("ann")), name("room"))
        await again.barrier()
        await bob.nothing_of("member_left")
        await bob.nothing_of("presence_update", userId=name("ann"), status="offline")
        await bob.nothing_of("member_joined")
        await again.close(1001)
        left = await bob.expect("member_left", room=name("room"))  # when the grace is over
        assert left["member_count"] == 1


@on_loop
async def test_clean_end_is_seen_at_once() -> None:
    async with running_server(workers=2, jwt_secret=SECRET, leave_grace="1h") as server, people(server) as crowd:
        bob = await in_room(await crowd.connect("bob"), "room")
        ann = await in_room(await crowd.connect("ann"), "room")
        await ann.close(1000)
        await bob.expect("member_left", member_count=1)
        assert await status_of("ann", bob) == "offline"


@on_loop
async def test_stranger_learns_nothing(quick: RunningServer, name: Name) -> None:
    async with people(quick) as crowd:
        ann = await in_room(await crowd.connect(name("ann")), name("room"))
        stranger = await in_room(await crowd.connect(name("stranger")), name("elsewhere"))
        nobody = await stranger.request("get_presence", users=[name("nobody")])
        hidden = await stranger.request("get_presence", users=[name("ann")])
        del nobody["id"], hidden["id"]
        same = json.dumps(hidden).replace(name("ann"), name("nobody"))
        assert json.loads(same) == nobody  # offline, unknown and hidden look alike
        for status in ("away", "online"):
            await ann.request("presence", status=status)
        await ann.close()
        await stranger.nothing_of("presence_update")
        assert (await stranger.request("get_presence", room=name("room")))["type"] == "error"


@on_loop
async def test_invisible_user_is_a_member_that_looks_offline(quick: RunningServer, name: Name) -> None:
    async with people(quick) as crowd:
        ann = await crowd.connect(name("ann"))
        await ann.request("presence", status="offline")
        await in_room(ann, name("room"))
        joined = await (await crowd.connect(name("bob"))).request("join_room", room=name("room"))
        assert {each["userId"]: each["status"] for each in joined["members"]} == {
            name("ann"): "offline",
            name("bob"): "online",
        }


@on_loop
async def test_hello_chooses_whose_presence_one_hears_of(quick: RunningServer, name: Name) -> None:
    async with people(quick) as crowd:
        ann = await in_room(await crowd.connect(name("ann")), name("room"))
        deaf = await crowd.connect(name("deaf"))
        await deaf.request("hello", presence="none")
        await in_room(deaf, name("room"))
        watcher = await crowd.connect(name("watcher"), permissions=["presence"])
        member = await in_room(await crowd.connect(name("member")), name("room"))
        await watcher.request("hello", presence="all")
        await ann.request("presence", status="busy")
        for client in (watcher, member):
            await client.expect("presence_update", userId=name("ann"), status="busy")
        await deaf.nothing_of("presence_update", userId=name("ann"))


@on_loop
async def test_large_room_tells_counts_instead_of_names() -> None:
    flags = {"presence_full_max": 3, "jwt_secret": SECRET}
    async with running_server(workers=2, **flags) as server, people(server) as crowd:
        first = await in_room(await crowd.connect("u0"), "room")
        for n in range(1, 3):
            await in_room(await crowd.connect(f"u{n}"), "room")
            assert (await first.expect("member_joined"))["member_count"] == n + 1
        fourth = await (await crowd.connect("u3")).request("join_room", room="room")
        assert "members" not in fourth
        assert fourth["member_count"] == 4
        assert (await first.expect("room_stats", room="room"))["member_count"] == 4
        await first.nothing_of("member_joined")
