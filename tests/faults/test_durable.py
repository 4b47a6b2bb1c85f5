"""What is on the disk: kill -9 of the broker under load, of every process, at every step of a publication.

A publisher of the client library publishes 1, 2, 3 … and keeps the acks; listeners are plain sockets, which a broken
connection or a gap cannot hide from. The audit afterwards is what any client can do: ask for the history.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from audit import damage, power
from audit.build import BROKER_STEPS, Switches
from audit.disk import LOGS, SETTINGS
from audit.node import Node
from helpers.clients import on_loop, people
from helpers.durable import Load, heard_until, history, kill_all, node, on_thread, speaker, until
from helpers.server import RunningServer, wait_until

from tuskws_fast.client import Client

AGAIN_S = 2.0


@on_loop
async def test_killed_broker_costs_no_message_no_connection_and_no_epoch(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with people(server) as crowd, speaker(server) as client:
            listeners = await crowd.connect_on_workers("listener", 2)
            for listener in listeners:
                await listener.request("join_room", room="room")
            await client.join("room")
            load = Load(client, "room")
            outages = []
            for _ in range(3):
                await load.reaches(len(load.acks) + 300)
                killed_at = time.monotonic()
                os.kill(server.broker_pid(), signal.SIGKILL)
                await load.reaches(len(load.acks) + 50)
                outages.append(min(at for at in load.times.values() if at > killed_at + 0.02) - killed_at)
            await load.stop()

            total = len(load.acks)
            for listener in listeners:
                pushes = await heard_until(listener, total)
                assert [push["type"] for push in pushes] == ["room_message"] * total
                assert [push["offset"] for push in pushes] == list(range(1, total + 1))
                assert sorted(push["message"] for push in pushes) == list(range(1, total + 1))
                assert len({push["epoch"] for push in pushes}) == 1
            assert sorted(ack["offset"] for ack in load.acks.values()) == list(range(1, total + 1))
            assert {ack["level"] for ack in load.acks.values()} == {"stored"}
            assert max(outages) < AGAIN_S, outages
            back = await crowd.connect("back")
            since = {"epoch": pushes[0]["epoch"], "offset": 0}
            assert (await back.request("join_room", room="room", since=since))["recovered"] is True
        assert "Traceback" not in server.log_text()


@on_loop
async def test_killed_broker_leaves_commands_without_a_string_id_done_once(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with people(server) as crowd:
            writer, listener = await crowd.connect_on_workers("writer", 2)
            for client in (writer, listener):
                await client.request("join_room", room="room")
            for n in range(200):
                await writer.send({"type": "broadcast", "room": "room", "message": n, "id": n})
            os.kill(server.broker_pid(), signal.SIGKILL)
            offsets: dict[int, int] = {}
            refused = 0
            while len(offsets) + refused < 200:
                answer = await writer.receive()
                if answer["type"] == "ack":
                    offsets[answer["id"]] = answer["offset"]
                elif answer["type"] == "error":
                    # It came while there was no broker: refused at once, and not done.
                    assert answer["code"] == "unavailable"
                    refused += 1
            pushes = await heard_until(listener, len(offsets))
            assert {push["message"]: push["offset"] for push in pushes} == offsets
            assert len(offsets) >= 1


@on_loop
async def test_what_was_stored_is_there_after_every_process_is_killed(tmp_path: Path) -> None:
    acks: dict[str, dict[int, dict[str, Any]]] = {}
    with node(tmp_path) as server:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(speaker(server))
            loads = {}
            for room in ("one", "two", "three"):
                await client.join(room)
                loads[room] = Load(client, room, width=5)
            for load in loads.values():
                await load.reaches(200)
            await on_thread(kill_all, server)
            acks = {room: load.abandon() for room, load in loads.items()}
    with node(tmp_path) as server:
        async with speaker(server) as client:
            for room, told in acks.items():
                found = {(each["epoch"], each["offset"]): each["message"] for each in await history(server, room)}
                for number, ack in told.items():
                    assert found.get((ack["epoch"], ack["offset"])) == number
                await client.join(room)
                ack = await client.broadcast(room, "on it goes")
                assert ack["epoch"] == next(iter(told.values()))["epoch"]
                assert ack["offset"] == len(found) + 1


@pytest.mark.parametrize("step", BROKER_STEPS)
@on_loop
async def test_death_at_any_step_of_a_publication_loses_and_doubles_nothing(tmp_path: Path, step: str) -> None:
    switches = Switches(tmp_path)
    with node(tmp_path / "data", build=tmp_path) as server:
        async with people(server) as crowd, speaker(server) as client:
            (listener,) = await crowd.connect_on_workers("listener", 1)
            await listener.request("join_room", room="room")
            await client.join("room")
            await client.broadcast("room", 1)
            pid = server.broker_pid()
            switches.arm(step)
            ack = await client.broadcast("room", 2)
            assert ack["offset"] == 2
            assert (await client.broadcast("room", 3))["offset"] == 3
            assert server.broker_pid() != pid
            pushes = await heard_until(listener, 3)
            assert [(push["offset"], push["message"]) for push in pushes] == [(1, 1), (2, 2), (3, 3)]
            assert len({push["epoch"] for push in pushes}) == 1


@on_loop
async def test_same_id_after_any_restart_is_published_once(tmp_path: Path) -> None:
    async def publish(server: RunningServer) -> dict[str, Any]:
        async with people(server) as crowd:
            client = await crowd.connect("ann")
            await client.request("join_room", room="room")
            await client.send({"type": "broadcast", "room": "room", "message": "once", "id": "the-id"})
            answer = await client.expect("ack")
            await client.send({"type": "broadcast", "room": "room", "message": "other", "id": "the-id"})
            assert (await client.expect("error"))["code"] == "bad_message"
            return answer

    with node(tmp_path) as server:
        first = await publish(server)
        os.kill(server.broker_pid(), signal.SIGKILL)
        await until(lambda: "is back" in server.log_text(), "a new broker")
        second = await publish(server)
        kill_all(server)
    with node(tmp_path) as server:
        third = await publish(server)
    assert "duplicate" not in first
    assert second == third == {**first, "duplicate": True}


@on_loop
async def test_settings_and_sanctions_are_there_after_every_process_is_killed(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with people(server) as crowd:
            owner = await crowd.connect("owner", permissions=["create"])
            settings = {"public": False, "password": "secret", "history_size": 7}
            created = await owner.request("create_room", room="private", settings=settings)
            assert created["type"] == "room_created"
            await owner.request("create_room", room="open")
            await owner.request("ban", room="open", user="bob")
            await owner.request("mute", room="open", user="carl", seconds=3600)
            await owner.request("ban", room="open", user="dan")
            await owner.request("ban", room="open", user="dan", seconds=0)
        kill_all(server)
    with node(tmp_path) as server:
        async with people(server) as crowd:
            bob, carl, dan, owner = [await crowd.connect(name) for name in ("bob", "carl", "dan", "owner")]
            assert (await bob.request("join_room", room="private"))["code"] == "forbidden"
            assert (await bob.request("join_room", room="open"))["code"] == "forbidden"
            assert (await dan.request("join_room", room="open"))["type"] == "room_joined"
            await carl.request("join_room", room="open")
            assert (await carl.request("broadcast", room="open", message="hi"))["code"] == "moderated"
            info = await owner.request("room_info", room="private")
            assert (info["settings"]["history_size"], info["settings"]["password"]) == (7, True)


def test_doors_stay_closed_over_a_loss_of_power(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", 1, remembers=True, **damage.KEEP)
    node.start()
    try:
        node.wait_ready()
        damage.furnish(node)
        log, copy = node.data / LOGS[0], node.build / SETTINGS / LOGS[0]
        wait_until(lambda: copy.exists() and copy.read_bytes() == log.read_bytes(), "what was saved last is synced")
        node.kill_all()
        power.cut(node.data / "journal", node.build, lambda: False)
        power.cut_settings(node.data, node.build, lambda: False)
        node.start()
        node.wait_ready()
        for user, room in ((damage.STRANGER, damage.VAULT), (damage.BANNED, damage.ROOMS[0])):
            with damage.client(node, user) as outside:
                assert damage.ask(outside, "join_room", room=room, password=damage.PASSWORD)["code"] == "forbidden"
    finally:
        node.kill_all()


@on_loop
async def test_private_messages_wait_in_order_over_restarts_until_they_are_confirmed(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with speaker(server, "ann") as ann:
            for n in range(50):
                assert (await ann.private_message("bob", n))["level"] == "stored"
        kill_all(server)
    with node(tmp_path) as server:
        async with speaker(server, "ann") as ann:
            await ann.private_message("bob", 50)
        async with people(server) as crowd:
            bob = await crowd.connect("bob")
            pushes = [await bob.expect("private_message") for _ in range(51)]
            assert [push["message"] for push in pushes] == list(range(51))
            assert [push["offset"] for push in pushes] == list(range(1, 52))
            await bob.send({"type": "ack", "inbox": True, "offset": 30})
            # Answered by the broker, so what was sent before it has arrived there.
            assert (await bob.request("presence", status="away"))["type"] == "ack"
            os.kill(server.broker_pid(), signal.SIGKILL)
            await until(lambda: "is back" in server.log_text(), "a new broker")
            # The connection has them all: nothing comes twice.
            assert (await bob.request("presence", status="busy"))["type"] == "ack"
            await bob.nothing_of("private_message")
            kill_all(server)
    with node(tmp_path) as server:
        async with people(server) as crowd:
            bob = await crowd.connect("bob")
            pushes = [await bob.expect("private_message") for _ in range(21)]
            assert [push["offset"] for push in pushes] == list(range(31, 52))
            await bob.nothing_of("private_message")


@on_loop
async def test_client_library_confirms_what_its_application_has(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with speaker(server, "ann") as ann:
            for n in range(5):
                await ann.private_message("bob", n)
        got: list[int] = []
        bob = Client(server.url, server.token("bob"))
        bob.on("private_message", lambda push: got.append(push["message"]))
        async with bob:
            await until(lambda: len(got) >= 5, "all messages")
        async with people(server) as crowd:
            again = await crowd.connect("bob")
            await again.nothing_of("private_message")
        assert got == list(range(5))
