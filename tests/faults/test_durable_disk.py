"""A disk that is full, refuses or lies, under a real node: what is promised is kept or refused, and it heals by itself.

Full is a tmpfs of a few MiB where one may be mounted; errors come from the build for tests (`audit.build`), below
which everything is real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit.build import Switches
from helpers.clients import SpeakingClient, on_loop, people
from helpers.durable import Load, heard_until, history, kill_all, node, on_thread, speaker, until
from helpers.server import RunningServer

QUICK_S = 0.5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs can only be mounted by root")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.fixture
def faults(tmp_path: Path) -> Switches:
    """What the disk of the nodes of this test refuses."""
    return Switches(tmp_path)


def fill(where: Path) -> Path:
    """Leave no room there."""
    filler = where / "filler"
    with filler.open("wb") as sink:
        block = bytes(64 * 1024)
        while True:
            try:
                sink.write(block)
                sink.flush()
            except OSError:
                return filler


def destroy(settings: Path) -> None:
    settings.write_bytes(b"\x55" * settings.stat().st_size)
    for suffix in ("-wal", "-shm"):
        settings.with_name(settings.name + suffix).unlink(missing_ok=True)


async def refused(client: SpeakingClient, level: str = "stored") -> bool:
    began = time.monotonic()
    answer = await client.request("broadcast", room="room", message="m", ack=level)
    assert time.monotonic() - began < QUICK_S
    return answer["type"] == "error" and answer["code"] == "unavailable"


async def degraded(client: SpeakingClient) -> None:
    """Publish until storing is refused."""
    for _ in range(20_000):
        answer = await client.request("broadcast", room="room", message="x" * 8000, ack="stored")
        if answer["type"] == "error":
            assert answer["code"] == "unavailable"
            return
    raise AssertionError("it never was")


async def check_that_delivery_goes_on(client: SpeakingClient, listener: SpeakingClient) -> dict[str, Any]:
    answer = await client.request("broadcast", room="room", message="live")
    assert answer["level"] == "accepted"
    assert await refused(client)
    assert await refused(client, "synced")
    while (push := await listener.receive()).get("message") != "live":
        assert push["type"] in ("room_message", "gap")
    assert push["epoch"] == answer["epoch"]
    return answer


async def check_that_it_healed(server: RunningServer, client: SpeakingClient) -> dict[str, Any]:
    await until(lambda: "messages can be stored again" in server.log_text(), "healed")
    answer: dict[str, Any] = {}

    async def stored() -> bool:
        nonlocal answer
        answer = await client.request("broadcast", room="room", message="again", ack="stored")
        return answer["type"] == "ack"

    for _ in range(500):
        if await stored():
            break
    assert answer["level"] == "stored"
    return answer


@on_loop
async def test_full_disk_refuses_what_it_cannot_store_and_heals_when_there_is_room(small_disk: Path) -> None:
    with node(small_disk / "data", journal_size="8MiB", history_size=10) as server:
        async with people(server) as crowd:
            client, listener = await crowd.connect_on_workers("ann", 2)
            for each in (client, listener):
                await each.request("join_room", room="room")
            first = await client.request("broadcast", room="room", message="before", ack="stored")
            filler = fill(small_disk)
            await degraded(client)
            live = await check_that_delivery_goes_on(client, listener)
            assert live["epoch"] != first["epoch"]
            assert live["offset"] > first["offset"]
            filler.unlink()
            again = await check_that_it_healed(server, client)
            assert (again["epoch"], again["offset"] > live["offset"]) == (live["epoch"], True)
        kill_all(server)
        assert "Traceback" not in server.log_text()
    with node(small_disk / "data", journal_size="8MiB", history_size=10) as server:
        kept = await history(server, "room")
        assert kept[-1]["message"] == "again"
        # What was only accepted meanwhile was written when it could be.
        assert "live" in [each["message"] for each in kept]


@on_loop
async def test_node_starts_on_a_full_disk_and_says_so(small_disk: Path) -> None:
    with node(small_disk / "data", journal_size="8MiB", history_size=10) as server:
        async with people(server) as crowd:
            client = await crowd.connect("ann")
            await client.request("join_room", room="room")
            await client.request("broadcast", room="room", message="kept", ack="stored")
        kill_all(server)
    filler = fill(small_disk)
    with node(small_disk / "data", journal_size="8MiB", history_size=10) as server:
        assert [each["message"] for each in await history(server, "room")] == ["kept"]
        async with people(server) as crowd:
            client, listener = await crowd.connect_on_workers("ann", 2)
            for each in (client, listener):
                await each.request("join_room", room="room")
            await degraded(client)
            assert "messages cannot be stored" in server.log_text()
            await check_that_delivery_goes_on(client, listener)
            filler.unlink()
            await check_that_it_healed(server, client)


@on_loop
async def test_failing_write_publishes_nothing_that_was_refused(tmp_path: Path, faults: Switches) -> None:
    with node(tmp_path / "data", build=tmp_path) as server:
        async with people(server) as crowd:
            client, listener = await crowd.connect_on_workers("ann", 2)
            for each in (client, listener):
                await each.request("join_room", room="room")
            first = await client.request("broadcast", room="room", message="before", ack="stored")
            faults.fail("write", "EIO")
            answer = await client.request("broadcast", room="room", message="refused", ack="stored")
            assert (answer["type"], answer["code"]) == ("error", "unavailable")
            await check_that_delivery_goes_on(client, listener)
            faults.heal()
            await check_that_it_healed(server, client)
            await client.close()
        kept = [each["message"] for each in await history(server, "room")]
        assert "refused" not in kept
        assert kept[0] == "before"
        assert first["level"] == "stored"
        # Not again and again: one broker ended, its successor waited until it could write.
        assert server.log_text().count("ended unexpectedly") == 1


@on_loop
async def test_broker_killed_on_a_bad_disk_never_gives_a_position_twice(tmp_path: Path, faults: Switches) -> None:
    with node(tmp_path / "data", build=tmp_path) as server:
        async with people(server) as crowd:
            client, listener = await crowd.connect_on_workers("ann", 2)
            for each in (client, listener):
                await each.request("join_room", room="room")
            said: dict[tuple[str, int], str] = {}
            faults.fail("write", "EIO")
            faults.fail("open", "EIO")
            for n in range(30):
                if n in (10, 20):
                    os.kill(server.broker_pid(), signal.SIGKILL)
                while True:
                    answer = await client.request("broadcast", room="room", message=f"m{n}")
                    if answer["type"] == "ack":
                        break
                position = (answer["epoch"], answer["offset"])
                assert position not in said
                said[position] = f"m{n}"
            while True:
                push = await listener.receive()
                if push["type"] == "room_message":
                    assert said[push["epoch"], push["offset"]] == push["message"]
                    if push["message"] == "m29":
                        break


@on_loop
async def test_failing_sync_answers_with_the_level_that_was_reached(tmp_path: Path, faults: Switches) -> None:
    with node(tmp_path / "data", build=tmp_path) as server:
        async with people(server) as crowd:
            client, listener = await crowd.connect_on_workers("ann", 2)
            for each in (client, listener):
                await each.request("join_room", room="room")
            assert (await client.request("broadcast", room="room", message=0, ack="synced"))["level"] == "synced"
            faults.fail("sync", "EIO")
            assert (await client.request("broadcast", room="room", message=1, ack="synced"))["level"] == "stored"
            await check_that_delivery_goes_on(client, listener)
            faults.heal()
            await check_that_it_healed(server, client)
            assert (await client.request("broadcast", room="room", message=2, ack="synced"))["level"] == "synced"


@on_loop
async def test_damaged_journal_is_told_and_everything_else_is_served(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with speaker(server) as client:
            for room in ("one", "two"):
                await client.join(room)
                for n in range(50):
                    ack = await client.broadcast(room, f"{room}-{n}")
        await on_thread(kill_all, server)
    (segment,) = list((tmp_path / "journal").glob("*.seg"))
    content = bytearray(segment.read_bytes())
    at = content.index(b'"one-25"')
    content[at] ^= 1
    segment.write_bytes(bytes(content))
    with node(tmp_path) as server:
        assert "the journal is damaged" in server.log_text()
        one = await history(server, "one")
        assert [each["message"] for each in one] == [f"one-{n}" for n in range(26, 50)]
        two = await history(server, "two", user="other")
        assert [each["message"] for each in two] == [f"two-{n}" for n in range(50)]
        # What came after the damage follows what was before it: proven, so its epoch stands.
        async with people(server) as crowd:
            back = await crowd.connect("back")
            since = {"epoch": ack["epoch"], "offset": 10}
            assert (await back.request("join_room", room="two", since=since))["recovered"] is True
            since = {"epoch": one[0]["epoch"], "offset": 10}
            assert (await back.request("join_room", room="one", since=since))["recovered"] is False
        assert list((tmp_path / "journal" / "damaged").iterdir())
        kill_all(server)
    with node(tmp_path) as server:
        assert "damaged" not in server.log_text()
        assert [each["message"] for each in await history(server, "two")] == [f"two-{n}" for n in range(50)]


@on_loop
async def test_lost_settings_close_the_doors(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with people(server) as crowd:
            owner = await crowd.connect("owner", permissions=["create"])
            await owner.request("create_room", room="private", settings={"public": False})
            await owner.request("join_room", room="private")
            await owner.request("broadcast", room="private", message="secret")
        kill_all(server)
    destroy(tmp_path / "settings.db")
    with node(tmp_path) as server:
        assert "settings are lost" in server.log_text()
        async with people(server) as crowd:
            stranger = await crowd.connect("stranger")
            assert (await stranger.request("join_room", room="private"))["code"] == "forbidden"
            chief = await crowd.connect("chief", roles=["admin"])
            assert (await chief.request("join_room", room="private", history=9))["messages"][0]["message"] == "secret"


@on_loop
async def test_journal_keeps_to_its_size_and_everything_kept_is_there(tmp_path: Path) -> None:
    size = 2 * 1024 * 1024
    with node(tmp_path, journal_size=size, history_size=50, dedupe_ids_max=100) as server:
        async with speaker(server) as client:
            await client.join("quiet")
            quiet = await client.broadcast("quiet", "still here")
            await client.join("busy")
            load = Load(client, "busy", width=50)
            await load.reaches(20_000)
            await load.stop()
            used = lambda: sum(path.stat().st_size for path in (tmp_path / "journal").glob("*.seg"))  # noqa: E731
            assert server.figure("journal_entries") * 150 > size
            await until(lambda: used() <= size + size // 4, "the journal to be within its size")
        kill_all(server)
    with node(tmp_path, journal_size=size, history_size=50) as server:
        (kept,) = await history(server, "quiet")
        assert (kept["message"], kept["offset"], kept["epoch"]) == ("still here", 1, quiet["epoch"])
        busy = await history(server, "busy", user="other")
        assert len(busy) == 50
        assert [each["offset"] for each in busy] == list(range(len(load.acks) - 49, len(load.acks) + 1))


@on_loop
async def test_heard_is_what_was_said_however_many_listen(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        async with people(server) as crowd, speaker(server) as client:
            (listener,) = await crowd.connect_on_workers("listener", 1)
            await listener.request("join_room", room="room")
            await client.join("room")
            for level in ("accepted", "stored", "synced"):
                assert (await client.broadcast("room", level, ack=level))["level"] == level
            assert [push["message"] for push in await heard_until(listener, 3)] == ["accepted", "stored", "synced"]
