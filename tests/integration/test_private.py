"""Private messages: to all connections of a user, wherever they are, in one order, and to nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from helpers.clients import on_loop, people
from helpers.server import RunningServer
from helpers.waiting import eventually

Name = Callable[[str], str]


@on_loop
async def test_every_connection_on_every_worker_gets_all_in_one_order(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        senders = [await crowd.connect(name(f"sender{n}")) for n in range(3)]
        tabs = await crowd.connect_on_workers(name("bob"), 4)
        stranger = await crowd.connect(name("stranger"))

        async def write(sender_number: int) -> None:
            for n in range(20):
                message = [sender_number, n]
                await senders[sender_number].send({"type": "private_message", "to": name("bob"), "message": message})

        await asyncio.gather(*map(write, range(3)))
        orders = []
        for tab in tabs:
            pushes = [await tab.expect("private_message") for _ in range(60)]
            orders.append([(push["offset"], push["message"]) for push in pushes])
        assert [offset for offset, _ in orders[0]] == list(range(1, 61))
        assert all(order == orders[0] for order in orders)
        for sender_number in range(3):
            own = [message[1] for _, message in orders[0] if message[0] == sender_number]
            assert own == list(range(20))
        await stranger.nothing_of("private_message")
        for sender in senders:
            await sender.nothing_of("private_message")


@on_loop
async def test_message_to_oneself_reaches_all_ones_tabs(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        one, other = await crowd.connect_on_workers(name("ann"), 2)
        await one.request("private_message", to=name("ann"), message="note")
        for tab in (one, other):
            assert (await tab.expect("private_message"))["from"] == name("ann")


@on_loop
async def test_answer_does_not_tell_a_stranger_who_exists_or_is_here(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        await crowd.connect(name("here"))
        answers = []
        for to in (name("here"), name("never-seen")):
            answer = await ann.request("private_message", to=to, message="hi")
            answers.append({key: value for key, value in answer.items() if key != "id"})
        assert answers[0] == answers[1]


@on_loop
async def test_answer_tells_who_shares_a_room_how_many_got_it(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        tabs = await crowd.connect_on_workers(name("bob"), 2)
        for client in (ann, *tabs):
            await client.request("join_room", room=name("room"))
        assert (await ann.request("private_message", to=name("bob"), message="hi"))["delivered"] == 2
        await tabs[0].close()

        async def reaches_one() -> bool:
            return (await ann.request("private_message", to=name("bob"), message="hi"))["delivered"] == 1

        # The close and the message reach the broker from two workers.
        await eventually(reaches_one, "the tab that was closed is not counted")


@on_loop
async def test_permission_presence_also_tells_how_many_got_it(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        seer = await crowd.connect(name("seer"), permissions=["presence"])
        await crowd.connect(name("bob"))
        assert (await seer.request("private_message", to=name("bob"), message="hi"))["delivered"] == 1
        assert (await seer.request("private_message", to=name("nobody"), message="hi"))["delivered"] == 0


@on_loop
async def test_same_id_to_another_user_is_another_message(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        bob, carl = await crowd.connect(name("bob")), await crowd.connect(name("carl"))
        for to, client in ((name("bob"), bob), (name("carl"), carl)):
            answer = await ann.request("private_message", id="same", to=to, message="hi")
            assert "duplicate" not in answer
            assert (await client.expect("private_message"))["ref"] == "same"
        again = await ann.request("private_message", id="same", to=name("bob"), message="hi")
        assert again["duplicate"] is True
        other = await ann.request("private_message", id="same", to=name("bob"), message="changed")
        assert other["code"] == "bad_message"
        await bob.nothing_of("private_message")


@on_loop
async def test_level_that_cannot_be_met_delivers_nothing(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann, bob = await crowd.connect(name("ann")), await crowd.connect(name("bob"))
        answer = await ann.request("private_message", to=name("bob"), message="hi", ack="stored")
        assert answer["code"] == "unavailable"
        await bob.nothing_of("private_message")
