"""`resume`: one command brings back identity, rooms and what was missed, on any worker, or says why not."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.clients import Message, People, SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, running_server, started_server, wait_until
from helpers.sockets import KINDS, Browser

Name = Callable[[str], str]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with started_server(workers=4, jwt_secret=SECRET, leave_grace="1s") as running:
        yield running


@pytest.fixture(scope="module")
def open_server() -> Iterator[RunningServer]:
    """Anybody is a guest."""
    with started_server(workers=2) as running:
        yield running


async def join(client: SpeakingClient, room: str, **fields: Any) -> Message:
    joined = await client.request("join_room", room=room, **fields)
    assert joined["type"] == "room_joined", joined
    return joined


async def say(client: SpeakingClient, room: str, message: str) -> int:
    ack = await client.request("broadcast", room=room, message=message)
    assert ack["type"] == "ack", ack
    return int(ack["offset"])


def position(joined: Message) -> Message:
    return {"epoch": joined["epoch"], "offset": joined["offset"]}


def heard(joined: Message) -> list[str]:
    return [str(each["message"]) for each in joined["messages"]]


async def signed_in(crowd: People, user: str, **claims: Any) -> tuple[SpeakingClient, str]:
    client = await crowd.connect(user, **claims)
    (success,) = [message for message in client.seen if message["type"] == "auth_success"]
    ticket = success["session"]
    assert isinstance(ticket, str)
    return client, ticket


async def on_another_worker(crowd: People, than: SpeakingClient) -> SpeakingClient:
    for _ in range(100):
        client = await crowd.connect(None)
        if client.worker != than.worker:
            return client
        await client.close()
    raise AssertionError("the kernel never gave a connection to another worker")


@pytest.mark.parametrize("kind", KINDS)
def test_one_command_brings_everything_back_on_another_worker(
    server: RunningServer, name: Name, kind: str, request: pytest.FixtureRequest
) -> None:
    browser: Browser | None = request.getfixturevalue("browser") if kind == "chromium" else None
    a, b = name("a"), name("b")

    @on_loop
    async def scenario() -> None:
        async with people(server) as crowd, people(server, kind, browser) as theirs:
            bob = await crowd.connect(name("bob"))
            await join(bob, a)
            await join(bob, b)
            ann, ticket = await signed_in(theirs, name("ann"), roles=["editor"])
            at_a, at_b = position(await join(ann, a)), position(await join(ann, b))
            await ann.request("presence", status="busy")
            await bob.expect("presence_update", userId=name("ann"), status="busy")
            await ann.close(4000)
            await say(bob, a, "one")
            await say(bob, a, "two")
            await say(bob, b, "three")
            again = await on_another_worker(theirs, ann)
            resumed = await again.request("resume", session=ticket, rooms={a: at_a, b: at_b})
            assert resumed["type"] == "resumed", resumed
            assert resumed["user"] == {"id": name("ann"), "username": name("ann"), "roles": ["editor"]}
            assert resumed["session"] == ticket
            assert (resumed["rooms"][a]["recovered"], heard(resumed["rooms"][a])) == (True, ["one", "two"])
            assert (resumed["rooms"][b]["recovered"], heard(resumed["rooms"][b])) == (True, ["three"])
            # It is a member like any other: hears, speaks, and nobody saw it go.
            await say(bob, a, "four")
            assert (await again.expect("room_message", room=a))["offset"] == 3
            await say(again, b, "five")
            assert (await bob.expect("room_message", room=b, message="five"))["from"] == name("ann")
            await bob.nothing_of("member_left")
            await bob.nothing_of("member_joined", member_count=3)
            await bob.nothing_of("presence_update", status="offline")
            state = await bob.request("get_presence", users=[name("ann")])
            assert state["users"][0]["status"] == "busy"

    scenario()


@on_loop
async def test_after_the_grace_the_session_is_still_there(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        bob = await crowd.connect(name("bob"))
        await join(bob, name("room"))
        ann, ticket = await signed_in(crowd, name("ann"))
        at = position(await join(ann, name("room")))
        await ann.close(1001)
        await say(bob, name("room"), "missed")
        await bob.expect("member_left", room=name("room"))
        again = await crowd.connect(None)
        resumed = await again.request("resume", session=ticket, rooms={name("room"): at})
        assert heard(resumed["rooms"][name("room")]) == ["missed"]
        await bob.expect("member_joined", room=name("room"))


@on_loop
async def test_guest_stays_the_same_guest(open_server: RunningServer, name: Name) -> None:
    async with people(open_server) as crowd:
        guest = await crowd.connect(None)
        ticket = guest.seen[0]["session"]
        at = position(await join(guest, name("room")))
        await say(guest, name("room"), "a room without a history would end with its last member")
        await guest.close()  # 1000: the rooms end, the session does not
        again = await crowd.connect(None)
        stranger = again.user["id"]
        resumed = await again.request("resume", session=ticket, rooms={name("room"): at})
        assert resumed["user"] == guest.user != stranger
        assert resumed["rooms"][name("room")]["recovered"] is True
        await again.close()
        third = await crowd.connect(None)
        assert (await third.request("resume", session=ticket, rooms={}))["user"] == guest.user


@on_loop
async def test_session_that_is_connected_is_taken_over(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        bob = await crowd.connect(name("bob"))
        await join(bob, name("room"))
        ann, ticket = await signed_in(crowd, name("ann"))
        at = position(await join(ann, name("room")))
        await bob.expect("member_joined")
        again = await on_another_worker(crowd, ann)
        resumed = await again.request("resume", session=ticket, rooms={name("room"): at})
        assert resumed["type"] == "resumed", resumed
        await ann.expect_close(4511)
        await bob.nothing_of("member_left")
        await bob.nothing_of("member_joined")
        assert resumed["rooms"][name("room")]["member_count"] == 2


@on_loop
async def test_takeover_counts_the_user_once() -> None:
    flags = {"jwt_secret": SECRET, "max_connections_per_user": 1}
    async with running_server(workers=2, **flags) as server, people(server) as crowd:
        ann, ticket = await signed_in(crowd, "ann")
        for _ in range(3):
            again = await on_another_worker(crowd, ann)
            assert (await again.request("resume", session=ticket, rooms={}))["type"] == "resumed"
            await ann.expect_close(4511)
            ann = again
        second = await crowd.connect(None)
        await second.send({"type": "auth", "token": server.token("ann")})
        await second.expect_close(4509)


@on_loop
async def test_each_room_is_authorised_again(server: RunningServer, name: Name) -> None:
    def room(n: int) -> str:
        return f"{name('room')}-{n}"

    async with people(server) as crowd:
        boss = await crowd.connect(name("boss"), roles=["admin"])
        for n in (1, 2, 3, 4):
            settings = {"password": "sesame"} if n in (2, 3) else {}
            assert (await boss.request("create_room", room=room(n), settings=settings))["type"] == "room_created"
        ann, ticket = await signed_in(crowd, name("ann"))
        at = {}
        for n in (1, 2, 3):
            at[room(n)] = position(await join(ann, room(n), password="sesame"))
        at[room(4)] = {"epoch": "e", "offset": 0}
        await ann.close(1001)
        await boss.request("ban", room=room(1), user=name("ann"))
        await boss.request("update_room", room=room(3), settings={"password": "another"})
        again = await crowd.connect(None)
        rooms = (await again.request("resume", session=ticket, rooms=at))["rooms"]
        assert rooms[room(1)]["code"] == "not_in_room"  # a ban removes at once
        assert rooms[room(2)]["type"] == "room_joined"  # shown once, and still the same
        assert rooms[room(3)]["code"] == "bad_password"
        assert rooms[room(4)]["code"] == "not_in_room"  # it never was
        # What it was not resumed into it may join as anybody may.
        await join(again, room(3), password="another")


@on_loop
async def test_ban_after_the_grace_is_found(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        boss = await crowd.connect(name("boss"), roles=["admin"])
        await boss.request("create_room", room=name("room"))
        await join(boss, name("room"))
        ann, ticket = await signed_in(crowd, name("ann"))
        at = position(await join(ann, name("room")))
        await ann.close(1000)
        await boss.expect("member_left")
        await boss.request("ban", room=name("room"), user=name("ann"))
        again = await crowd.connect(None)
        resumed = await again.request("resume", session=ticket, rooms={name("room"): at})
        assert resumed["rooms"][name("room")]["code"] == "forbidden"


@on_loop
async def test_what_is_no_ticket_is_refused(server: RunningServer, open_server: RunningServer, name: Name) -> None:
    async with people(server) as crowd, people(open_server) as others:
        _, ticket = await signed_in(crowd, name("ann"))
        foreign = (await others.connect(None)).seen[0]["session"]
        raw = bytearray(base64.urlsafe_b64decode(ticket))
        raw[10] ^= 1
        forged = base64.urlsafe_b64encode(raw).decode()
        stranger = await crowd.connect(None)
        for text in (forged, foreign, "x", ticket[:-4], ticket.lower()):
            refusal = await stranger.request("resume", session=text, rooms={})
            assert refusal["code"] == "bad_token", text
        await stranger.expect_close(4500)  # the fifth in a row, as with tokens


@on_loop
async def test_other_users_session_is_refused_and_ones_own_is_not(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann, ticket = await signed_in(crowd, name("ann"))
        await ann.close(1001)
        bob, _ = await signed_in(crowd, name("bob"))
        assert (await bob.request("resume", session=ticket, rooms={}))["code"] == "forbidden"
        await bob.request("presence", status="busy")  # still bob, unharmed
        own, own_ticket = await signed_in(crowd, name("ann"))
        assert (await own.request("resume", session=ticket, rooms={}))["session"] == ticket
        assert (await own.request("resume", session=ticket, rooms={}))["code"] == "bad_message"
        assert own_ticket != ticket


@on_loop
async def test_session_ends_with_its_token(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann, ticket = await signed_in(crowd, name("ann"), exp=int(time.time()) + 2)
        await ann.expect_close(4001)
        again = await crowd.connect(None)
        assert (await again.request("resume", session=ticket, rooms={}))["code"] == "token_expired"


@on_loop
async def test_session_is_kept_for_so_long_and_no_longer() -> None:
    flags = {"jwt_secret": SECRET, "leave_grace": "200ms", "keep_alive_timeout": "3s"}
    async with running_server(workers=1, **flags) as server, people(server) as crowd:
        ann, ticket = await signed_in(crowd, "ann")
        await ann.close(1001)
        # Each success would start the time anew: wait, and try once.
        watcher = await crowd.connect("watcher")
        wait_until(lambda: server.figure("sessions_resumable") == 1, "the grace is over")
        wait_until(lambda: server.figure("sessions_resumable") == 0, "the session is forgotten")
        assert (await watcher.request("resume", session=ticket, rooms={}))["code"] == "token_expired"


@on_loop
async def test_turned_off_there_are_no_tickets() -> None:
    async with running_server(workers=1, keep_alive_timeout=0) as server, people(server) as crowd:
        guest = await crowd.connect(None)
        assert guest.seen[0]["session"] is None
        assert (await guest.request("resume", session="s", rooms={}))["code"] == "unavailable"


@on_loop
async def test_long_replays_of_several_rooms_come_in_pages(server: RunningServer, name: Name) -> None:
    rooms = [f"{name('room')}-{n}" for n in range(3)]
    async with people(server) as crowd:
        bob = await crowd.connect(name("bob"))
        ann, ticket = await signed_in(crowd, name("ann"))
        at = {}
        for room in rooms:
            await join(bob, room)
            at[room] = position(await join(ann, room))
        await ann.close(1001)
        for room in rooms:
            for n in range(40):
                await say(bob, room, f"{n:03d}" * 4_000)
                await bob.expect("room_message")
        again = await crowd.connect(None)
        resumed = await again.request("resume", session=ticket, rooms=at)
        got = {room: list(resumed["rooms"][room]["messages"]) for room in rooms}
        open_rooms = {room for room in rooms if resumed["rooms"][room].get("more")}
        assert len(open_rooms) == 3
        while open_rooms:
            page = await again.expect("history")
            assert page["id"] == resumed["id"]
            got[page["room"]] += page["messages"]
            if not page["more"]:
                open_rooms.remove(page["room"])
        for room in rooms:
            assert [each["offset"] for each in got[room]] == list(range(1, 41))
