"""Every row of the protocol's table, through four kinds of client, against four workers.

The speaker of each row is the kind under test; those who listen are on other workers. Every message that any of them
gets is checked against the published schema.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from helpers.clients import People, SpeakingClient, on_loop, people
from helpers.server import RunningServer
from helpers.sockets import KINDS, Browser
from jsonschema import Draft202012Validator

from tuskws_fast.protocol.schema import build_schema

Name = Callable[[str], str]

_DOCUMENT = build_schema()
_FROM_SERVER = Draft202012Validator({"$ref": "#/$defs/from_server", "$defs": _DOCUMENT["$defs"]})


class Stage:
    """The speaker's kind, and websockets for everyone else."""

    def __init__(self, speakers: People, others: People) -> None:
        self.speakers = speakers
        self.others = others
        self.speaker_kind = speakers.kind

    async def speaker(self, user: str | None, **claims: Any) -> SpeakingClient:
        return await self.speakers.connect(user, **claims)

    async def other(self, user: str, beside: SpeakingClient, **claims: Any) -> SpeakingClient:
        """A connection on another worker than `beside`."""
        for _ in range(100):
            client = await self.others.connect(user, **claims)
            if client.worker != beside.worker:
                return client
            await client.close()
        raise AssertionError("every connection lands on the same worker")


@pytest.fixture(params=KINDS)
def stage(request: pytest.FixtureRequest, server: RunningServer) -> Callable[[], Any]:
    browser: Browser | None = request.getfixturevalue("browser") if request.param == "chromium" else None

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Stage]:
        async with people(server, request.param, browser) as speakers, people(server) as others:
            yield Stage(speakers, others)
            for client in speakers.clients + others.clients:
                for message in client.seen:
                    assert not list(_FROM_SERVER.iter_errors(message)), message

    return opened


async def join(client: SpeakingClient, room: str, **fields: Any) -> dict[str, Any]:
    reply = await client.request("join_room", room=room, **fields)
    assert reply["type"] == "room_joined", reply
    return reply


# -- open, hello, auth, resume, ping -----------------------------------------------------------------------------------


@on_loop
async def test_open_is_greeted(stage: Any) -> None:
    async with stage() as on:
        stranger = await on.speaker(None)
        welcome = stranger.seen[0]
        assert (welcome["protocol"], welcome["authenticated"], welcome["session"]) == (1, False, None)
        assert re.match(r"tuskws-fast", welcome["server"])
        assert welcome["heartbeat_interval"] == 30
        assert welcome["max_message_size"] == 16 * 1024
        assert welcome["connection_id"]


@on_loop
async def test_hello(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        reply = await ann.request("hello", batch=False, presence="rooms", client="test")
        assert reply == {"type": "ack", "id": reply["id"]}
        assert (await ann.request("hello", presence="all"))["code"] == "forbidden"
        watcher = await on.speaker(name("watcher"), permissions=["presence"])
        assert (await watcher.request("hello", presence="all"))["type"] == "ack"


@on_loop
async def test_auth_and_its_refresh(stage: Any, name: Name, server: RunningServer) -> None:
    async with stage() as on:
        ann = await on.speaker(None)
        await ann.send({"type": "auth", "token": server.token(name("ann"), username="Ann", roles=["staff"])})
        first = await ann.expect("auth_success")
        assert first["user"] == {"id": name("ann"), "username": "Ann", "roles": ["staff"]}
        assert "id" not in first
        assert isinstance(first["session"], str)
        again = await ann.request("auth", token=server.token(name("ann"), ttl_s=7200, username="Ann B."))
        assert again["expires_at"] > first["expires_at"]
        assert again["session"] == first["session"]
        assert again["user"]["username"] == "Ann B."
        other = await ann.request("auth", token=server.token(name("bob")))
        assert (other["type"], other["code"]) == ("auth_failed", "forbidden")
        assert (await join(ann, name("room")))["members"][0]["userId"] == name("ann")


@on_loop
async def test_ping_is_answered_with_and_without_an_id(stage: Any) -> None:
    async with stage() as on:
        stranger = await on.speaker(None)
        await stranger.send({"type": "ping"})
        assert "id" not in await stranger.expect("pong")
        for command_id in ("p1", 7, -1, "é" * 64):
            reply = await stranger.request("ping", id=command_id)
            assert reply["type"] == "pong"
            assert reply["timestamp"] == pytest.approx(reply["timestamp"], abs=1)


# -- rooms -------------------------------------------------------------------------------------------------------------


@on_loop
async def test_join_room(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"), username="Ann")
        bob = await on.other(name("bob"), ann, username="Bob")
        first = await join(ann, name("room"))
        assert (first["member_count"], first["offset"], first["recovered"], first["messages"]) == (1, 0, None, [])
        assert first["members"] == [{"userId": name("ann"), "username": "Ann", "status": "online"}]
        await bob.send({"type": "join_room", "room": name("room")})
        second = await bob.expect("room_joined", room=name("room"), member_count=2, epoch=first["epoch"])
        assert "id" not in second
        joined = await ann.expect("member_joined", room=name("room"))
        assert (joined["user"], joined["member_count"]) == ({"id": name("bob"), "username": "Bob"}, 2)
        assert (await ann.request("join_room", room=name("room")))["code"] == "already_in_room"


@on_loop
async def test_join_room_gives_history_or_what_was_missed(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bob = await on.other(name("bob"), ann)
        epoch = (await join(ann, name("room")))["epoch"]
        for n in range(1, 6):
            await ann.request("broadcast", room=name("room"), message=n)
        with_history = await join(bob, name("room"), history=2)
        assert [each["message"] for each in with_history["messages"]] == [4, 5]
        await bob.request("leave_room", room=name("room"))
        missed = await join(bob, name("room"), since={"epoch": epoch, "offset": 2})
        assert missed["recovered"] is True
        assert [(each["offset"], each["message"]) for each in missed["messages"]] == [(3, 3), (4, 4), (5, 5)]
        assert missed["messages"][0] == {**await ann.expect("room_message", offset=3), "epoch": epoch}


@on_loop
async def test_leave_room(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bob = await on.other(name("bob"), ann)
        await join(bob, name("room"))
        await join(ann, name("room"))
        await ann.send({"type": "leave_room", "room": name("room")})
        left = await ann.expect("room_left", room=name("room"))
        assert "id" not in left
        told = await bob.expect("member_left", room=name("room"), member_count=1)
        assert told["user"]["id"] == name("ann")
        assert (await ann.request("leave_room", room=name("room")))["code"] == "not_in_room"
        await bob.request("broadcast", room=name("room"), message="for those who stayed")
        await ann.nothing_of("room_message", room=name("room"))


@on_loop
async def test_broadcast(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bob = await on.other(name("bob"), ann)
        epoch = (await join(ann, name("room")))["epoch"]
        await join(bob, name("room"))
        message = {"text": "héllo <b>", "n": [1, 2.5, None, True]}
        ack = await ann.request("broadcast", id="b-1", room=name("room"), message=message)
        assert ack == {
            "type": "ack", "id": "b-1", "room": name("room"), "epoch": epoch, "offset": 1, "level": "accepted",
        }  # fmt: skip
        for client in (ann, bob):
            push = await client.expect("room_message", room=name("room"), offset=1)
            assert (push["message"], push["from"], push["ref"]) == (message, name("ann"), "b-1")
            assert "id" not in push
        await ann.request("broadcast", room=name("room"), message="quiet", echo=False)
        assert "ref" not in await bob.expect("room_message", message="quiet", offset=2)
        await ann.nothing_of("room_message", offset=2)
        await ann.send({"type": "broadcast", "room": name("room"), "message": "no id"})
        await bob.expect("room_message", message="no id", offset=3)
        await ann.nothing_of("ack")


@on_loop
async def test_broadcast_is_stamped_by_the_server(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        await join(ann, name("room"))
        spoof = {"from": "admin", "timestamp": 1, "offset": 99, "epoch": "x", "ref": "r", "type": "broadcast"}
        await ann.send({"room": name("room"), "message": "m", **spoof})
        push = await ann.expect("room_message", room=name("room"))
        assert (push["from"], push["offset"]) == (name("ann"), 1)
        assert push["timestamp"] > 1_700_000_000
        assert "ref" not in push
        assert push["epoch"] != "x"


@on_loop
async def test_string_id_publishes_once_and_integer_id_each_time(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        tab = await on.other(name("ann"), ann)
        await join(ann, name("room"))
        await join(tab, name("room"))
        first = await ann.request("broadcast", id="k", room=name("room"), message="m")
        again = await tab.request("broadcast", id="k", room=name("room"), message="m")
        assert again == {**first, "duplicate": True}
        assert (await ann.request("broadcast", id="k", room=name("room"), message="other"))["code"] == "bad_message"
        offsets = [(await ann.request("broadcast", id=7, room=name("room"), message="m"))["offset"] for _ in range(2)]
        assert offsets == [2, 3]


@on_loop
@pytest.mark.parametrize("level", ["stored", "synced"])
async def test_level_that_cannot_be_met_publishes_nothing(stage: Any, name: Name, level: str) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        await join(ann, name("room"))
        refused = await ann.request("broadcast", room=name("room"), message="m", ack=level)
        assert refused["code"] == "unavailable"
        assert (await ann.request("broadcast", room=name("room"), message="m", ack="accepted"))["offset"] == 1


@on_loop
async def test_history(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        epoch = (await join(ann, name("room")))["epoch"]
        for n in range(1, 6):
            await ann.request("broadcast", room=name("room"), message=n)
        whole = await ann.request("history", room=name("room"))
        assert (whole["epoch"], whole["offset"]) == (epoch, 5)
        assert [each["message"] for each in whole["messages"]] == [1, 2, 3, 4, 5]
        last = await ann.request("history", room=name("room"), limit=2)
        assert [each["message"] for each in last["messages"]] == [4, 5]
        since = await ann.request("history", room=name("room"), since={"epoch": epoch, "offset": 3})
        assert since["recovered"] is True
        assert [each["message"] for each in since["messages"]] == [4, 5]
        other = await ann.request("history", room=name("room"), since={"epoch": "other", "offset": 3})
        assert (other["recovered"], other["messages"]) == (False, [])


# -- people ------------------------------------------------------------------------------------------------------------


@on_loop
async def test_private_message_reaches_every_connection_of_its_user(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bobs = await on.others.connect_on_workers(name("bob"), 4)
        carl = await on.other(name("carl"), ann)
        ack = await ann.request("private_message", id="p-1", to=name("bob"), message="psst")
        assert (ack["type"], ack["offset"], ack["level"]) == ("ack", 1, "accepted")
        assert "delivered" not in ack  # who shares no room is not told who is here
        for bob in bobs:
            push = await bob.expect("private_message", offset=1)
            assert (push["from"], push["message"], push["ref"]) == (name("ann"), "psst", "p-1")
        await carl.nothing_of("private_message")
        again = await ann.request("private_message", id="p-1", to=name("bob"), message="psst")
        assert again["duplicate"] is True


@on_loop
async def test_presence_is_told_to_who_shares_a_room(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bob = await on.other(name("bob"), ann)
        stranger = await on.other(name("stranger"), ann)
        await join(ann, name("room"))
        await join(bob, name("room"))
        for status in ("away", "busy", "online", "offline"):
            assert (await ann.request("presence", status=status))["type"] == "ack"
            push = await bob.expect("presence_update", userId=name("ann"), status=status)
            assert push["timestamp"] >= push["last_seen"] - 1
        await stranger.nothing_of("presence_update", userId=name("ann"))


@on_loop
async def test_get_presence(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bob = await on.other(name("bob"), ann)
        await on.other(name("stranger"), ann)
        await join(ann, name("room"))
        await join(bob, name("room"))
        await bob.request("presence", status="busy")
        answer = await ann.request("get_presence", users=[name("bob"), name("stranger"), "nobody"])
        statuses = {each["userId"]: each["status"] for each in answer["users"]}
        assert statuses == {name("bob"): "busy", name("stranger"): "offline", "nobody": "offline"}
        in_room = await ann.request("get_presence", room=name("room"))
        assert {each["userId"] for each in in_room["users"]} == {name("ann"), name("bob")}
        seer = await on.speaker(name("seer"), permissions=["presence"])
        answer = await seer.request("get_presence", users=[name("stranger")])
        assert answer["users"][0]["status"] == "online"


# -- rooms with settings -----------------------------------------------------------------------------------------------


@on_loop
async def test_create_update_inspect_and_delete_a_room(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"), permissions=["create"])
        bob = await on.other(name("bob"), ann)
        settings = {"max_members": 2, "public": True, "moderated": False, "password": "pw", "history_size": 3}
        created = await ann.request("create_room", room=name("room"), settings=settings)
        assert (created["type"], created["room"]) == ("room_created", name("room"))
        assert (await ann.request("create_room", room=name("room"), settings={}))["code"] == "room_exists"
        assert (await bob.request("create_room", room=name("other"), settings={}))["code"] == "forbidden"
        assert (await bob.request("join_room", room=name("room"), password="no"))["code"] == "bad_password"
        assert (await bob.request("join_room", room=name("room")))["code"] == "bad_password"
        assert (await join(bob, name("room"), password="pw"))["member_count"] == 1  # its creator is not in it
        updated = await ann.request("update_room", room=name("room"), settings={"max_members": 1})
        assert updated["settings"]["max_members"] == 1
        carl = await on.other(name("carl"), ann)
        assert (await carl.request("join_room", room=name("room"), password="pw"))["code"] == "room_full"
        info = await bob.request("room_info", room=name("room"))
        assert (info["room"], info["member_count"]) == (name("room"), 1)
        assert "pw" not in str(info)
        assert (await bob.request("delete_room", room=name("room")))["code"] == "forbidden"
        assert (await ann.request("delete_room", room=name("room")))["type"] == "room_deleted"
        await bob.expect("room_deleted", room=name("room"))
        assert (await ann.request("room_info", room=name("room")))["code"] == "no_such_room"


@on_loop
async def test_list_rooms_shows_public_rooms_and_ones_own(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"), permissions=["create"])
        bob = await on.other(name("bob"), ann)
        await join(bob, name("open"))
        await ann.request("create_room", room=name("hidden"), settings={"public": False})
        await join(ann, name("hidden"))
        listed = {each["room"]: each["member_count"] for each in (await ann.request("list_rooms"))["rooms"]}
        assert (listed[name("open")], listed[name("hidden")]) == (1, 1)
        assert name("hidden") not in str(await bob.request("list_rooms"))
        assert (await bob.request("join_room", room=name("hidden")))["code"] == "forbidden"


@on_loop
async def test_kick_ban_and_mute(stage: Any, name: Name) -> None:
    async with stage() as on:
        mod = await on.speaker(name("mod"), rooms={name("room"): ["moderate"]})
        bob = await on.other(name("bob"), mod)
        carl = await on.other(name("carl"), mod)
        for client in (bob, carl):
            await join(client, name("room"))
        target = {"room": name("room"), "user": name("bob")}
        for command in ("kick", "ban", "mute"):
            assert (await carl.request(command, **target))["code"] == "forbidden"

        assert (await mod.request("mute", **target, seconds=60))["type"] == "ack"
        assert (await bob.request("broadcast", room=name("room"), message="m"))["code"] == "moderated"

        assert (await mod.request("kick", **target))["type"] == "ack"
        assert (await bob.expect("kicked", room=name("room")))["reason"]
        await carl.expect("member_left", room=name("room"), member_count=1)
        assert (await bob.request("broadcast", room=name("room"), message="m"))["code"] == "not_in_room"
        await join(bob, name("room"))

        assert (await mod.request("ban", **target, seconds=60))["type"] == "ack"
        await bob.expect("kicked", room=name("room"))
        assert (await bob.request("join_room", room=name("room")))["code"] == "forbidden"


@on_loop
async def test_moderated_room_is_for_moderators_to_speak_in(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"), permissions=["create"])
        bob = await on.other(name("bob"), ann)
        await ann.request("create_room", room=name("room"), settings={"moderated": True})
        await join(ann, name("room"))
        await join(bob, name("room"))
        assert (await bob.request("broadcast", room=name("room"), message="m"))["code"] == "moderated"
        assert (await ann.request("broadcast", room=name("room"), message="m"))["offset"] == 1
        await bob.expect("room_message", offset=1)


# -- ack, batch, resume -----------------------------------------------------------------------------------------------


@on_loop
async def test_delivery_confirmation_has_no_reply(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        await join(ann, name("room"))
        await ann.send({"type": "ack", "id": "c-1", "room": name("room"), "offset": 0})
        await ann.send({"type": "ack", "inbox": True, "offset": 0})
        await ann.nothing_of("error")
        assert not [message for message in ann.seen if message.get("id") == "c-1"]


@on_loop
async def test_batch_of_commands_is_answered_one_by_one_in_order(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        await join(ann, name("room"))
        commands: list[dict[str, Any]] = [
            {"type": "broadcast", "room": name("room"), "message": n, "id": f"b{n}"} for n in range(98)
        ]
        await ann.send(
            {"type": "batch", "messages": [*commands, {"type": "nonsense", "id": "x"}, {"type": "ping", "id": 1}]}
        )
        assert (await ann.expect_reply("x"))["code"] == "unknown_type"
        assert (await ann.expect_reply(1))["type"] == "pong"
        offsets = [(await ann.expect_reply(f"b{n}"))["offset"] for n in range(98)]
        assert offsets == list(range(1, 99))
        pushes = [await ann.expect("room_message") for _ in range(98)]
        assert [push["message"] for push in pushes] == list(range(98))


@on_loop
async def test_batch_that_is_too_long_or_nested_is_refused_as_a_whole(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        ping = {"type": "ping", "id": 5}
        for messages in ([ping] * 101, [ping, {"type": "batch", "messages": []}], [ping, None], "x"):
            await ann.send({"type": "batch", "id": 9, "messages": messages})
            assert (await ann.expect_reply(9))["code"] == "bad_message"
        await ann.barrier()
        assert not [message for message in ann.seen if message.get("id") == 5]


@on_loop
async def test_server_batches_only_for_who_asked(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        bob = await on.other(name("bob"), ann)
        await join(bob, name("room"))
        await ann.request("hello", batch=True)
        await ann.send({"type": "join_room", "room": name("room")})
        seen: list[dict[str, Any]] = []

        def flat() -> list[dict[str, Any]]:
            return [
                each for message in seen for each in (message["messages"] if message["type"] == "batch" else [message])
            ]

        while not any(each["type"] == "room_joined" for each in flat()):
            seen.append(await ann.receive())
        await bob.send(
            {
                "type": "batch",
                "messages": [{"type": "broadcast", "room": name("room"), "message": n} for n in range(50)],
            }
        )
        while sum(each["type"] == "room_message" for each in flat()) < 50:
            seen.append(await ann.receive())
        assert [each["message"] for each in flat() if each["type"] == "room_message"] == list(range(50))
        assert any(message["type"] == "batch" for message in seen)
        await bob.expect("room_message", message=49)
        assert not any(message["type"] == "batch" for message in bob.seen)


@on_loop
async def test_resume_of_no_session_is_refused(stage: Any, name: Name) -> None:
    async with stage() as on:
        ann = await on.speaker(name("ann"))
        answer = await ann.request("resume", session="s", rooms={})
        assert (answer["type"], answer["code"]) == ("error", "bad_token")


# -- all at once -------------------------------------------------------------------------------------------------------


@on_loop
async def test_four_kinds_of_client_on_four_workers_see_one_order(
    server: RunningServer, browser: Browser, name: Name
) -> None:
    messages_each = 50
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for kind in KINDS:
            crowd = await stack.enter_async_context(people(server, kind, browser))
            clients += await crowd.connect_on_workers(name(kind), 4)
        assert {client.worker for client in clients} == {0, 1, 2, 3}
        for client in clients:
            await join(client, name("room"))
        speakers = clients[::4]

        async def speak(speaker: SpeakingClient) -> None:
            for n in range(messages_each):
                await speaker.send({"type": "broadcast", "room": name("room"), "message": [speaker.name, n]})

        async def listen(client: SpeakingClient) -> list[tuple[int, Any]]:
            pushes = [await client.expect("room_message") for _ in range(messages_each * len(speakers))]
            return [(push["offset"], push["message"]) for push in pushes]

        orders = (await asyncio.gather(*map(listen, clients), *map(speak, speakers)))[: len(clients)]
        assert [offset for offset, _ in orders[0]] == list(range(1, messages_each * len(speakers) + 1))
        assert all(order == orders[0] for order in orders)
        for speaker in speakers:  # and what one client said is in the order in which it said it
            own = [message[1] for _, message in orders[0] if message[0] == speaker.name]
            assert own == list(range(messages_each))
