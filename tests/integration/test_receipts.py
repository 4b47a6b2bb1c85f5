"""Delivery receipts, over workers and through deaths: the publisher learns how many have it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from helpers.clients import People, SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, started_server
from helpers.sockets import KINDS, Browser

Name = Callable[[str], str]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with started_server(workers=4, jwt_secret=SECRET) as running:
        yield running


async def members(crowd: People, name: Name, count: int) -> list[SpeakingClient]:
    found = await crowd.connect_on_workers(name("member"), count)
    for client in found:
        assert (await client.request("join_room", room=name("room")))["type"] == "room_joined"
    return found


async def publisher(crowd: People, name: Name) -> SpeakingClient:
    client = await crowd.connect(name("ann"))
    await client.request("join_room", room=name("room"))
    return client


@pytest.mark.parametrize("kind", KINDS)
def test_all_confirm_on_three_workers(
    server: RunningServer, name: Name, kind: str, request: pytest.FixtureRequest
) -> None:
    browser: Browser | None = request.getfixturevalue("browser") if kind == "chromium" else None

    @on_loop
    async def scenario() -> None:
        async with people(server, kind, browser) as crowd:
            ann = await publisher(crowd, name)
            others = await members(crowd, name, 3)
            ack = await ann.request("broadcast", id="m-1", room=name("room"), message="hi", receipt=True)
            for each in others:
                push = await each.expect("room_message")
                await each.send({"type": "ack", "room": name("room"), "offset": push["offset"]})
            receipt = await ann.expect("receipt", final=True)
            assert receipt == {
                "type": "receipt",
                "ref": "m-1",
                "room": name("room"),
                "offset": ack["offset"],
                "delivered": 3,
                "acked": 3,
                "final": True,
            }
            await ann.nothing_of("receipt")
            for each in others:
                await each.nothing_of("receipt")

    scenario()


@on_loop
async def test_who_is_not_in_the_room_confirms_nothing(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        stranger = await crowd.connect(name("stranger"))
        await stranger.send({"type": "ack", "room": name("room"), "offset": 1})
        await stranger.expect_error("not_in_room")


@on_loop
async def test_worker_that_dies_is_not_waited_for(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await publisher(crowd, name)
        others = [each for each in await members(crowd, name, 3) if each.worker != ann.worker]
        await ann.request("broadcast", room=name("room"), message="hi", receipt=True)
        receipt = await ann.expect("receipt")
        assert (receipt["final"], receipt["acked"]) == (False, 0)
        dead, *alive = others
        os.kill(server.worker_pids()[dead.worker], signal.SIGKILL)
        for each in alive:
            await each.send({"type": "ack", "room": name("room"), "offset": 1})
        # The dead one counts as delivered, for it was; so the sums say that somebody has not confirmed.
        receipt = await ann.expect("receipt", acked=len(alive))
        assert receipt["delivered"] > receipt["acked"]


@on_loop
async def test_receipts_go_on_after_the_death_of_the_broker(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await publisher(crowd, name)
        others = await members(crowd, name, 2)
        await ann.request("broadcast", id="m-1", room=name("room"), message="hi", receipt=True)
        await others[0].send({"type": "ack", "room": name("room"), "offset": 1})
        await ann.expect("receipt", acked=1)
        os.kill(server.broker_pid(), signal.SIGKILL)
        # Without a journal a new epoch begins, in which nobody can confirm the message: what is known stays known.
        await others[1].expect("gap")
        receipt = await ann.expect("receipt", ref="m-1")
        assert (receipt["delivered"], receipt["acked"], receipt["final"]) == (2, 1, False)
