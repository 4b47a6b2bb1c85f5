"""Planned change under load: `tuskws-fast restart`, and a drain seen by many clients. What is asserted is what clients
can see: no handshake fails, no message is lost or comes twice, everybody is told once and closed with the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers.certificates import make_pair, trusting
from helpers.clients import on_loop
from helpers.raw import RawClient
from helpers.server import SECRET, RunningServer, started_server
from helpers.waiting import eventually
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tuskws_fast.client import Client
from tuskws_fast.protocol import codec

ROOMS = ("red", "green", "blue")
LISTENERS_A_ROOM = 6
KEEPING = {"history_size": 100_000, "history_bytes": "64MiB"}


async def restart(server: RunningServer) -> tuple[int, list[str]]:
    """`tuskws-fast restart`: its exit code and what it printed."""
    command = (sys.executable, "-m", "tuskws_fast", "restart", "--control-socket", str(server.control_socket))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines()


@dataclass
class Listener:
    """A client of the library that only listens, and all it was given."""

    numbers: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    epochs: set[str] = field(default_factory=set)
    others: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)

    def hear(self, push: dict[str, Any]) -> None:
        if push["type"] == "room_message":
            self.numbers.append(push["message"])
            self.offsets.append(push["offset"])
            self.epochs.add(push["epoch"])
        elif push["type"] in ("gap", "room_lost", "kicked"):
            self.others.append(push)
        elif push["type"] == "member_left":
            self.left.append(push)


class Visitors:
    """Handshakes without a pause: each connects, is welcomed, asks something, leaves."""

    def __init__(self, url: str, count: int) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._url = url
        self._stop = False
        self._tasks = [asyncio.create_task(self._come_and_go()) for _ in range(count)]

    async def _come_and_go(self) -> None:
        while not self._stop:
            try:
                async with connect(self._url, open_timeout=20) as visitor:
                    assert codec.decode(await visitor.recv())["type"] == "welcome"
                    await visitor.send('{"type":"ping"}')
                    while codec.decode(await visitor.recv())["type"] != "pong":
                        pass
                self.done += 1
            except (OSError, ConnectionClosed, TimeoutError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_loop
async def test_a_rolling_restart_under_load_fails_no_handshake_loses_nothing_and_repeats_nothing(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**KEEPING}
    if tls:
        pair = make_pair(tmp_path, "served")
        options |= {"tls": trusting(pair.certificate), "ssl_cert": pair.certificate, "ssl_key": pair.key}
        # Whom clients trust who say nothing about it.
        monkeypatch.setenv("SSL_CERT_FILE", str(pair.certificate))
    with started_server(workers=2, jwt_secret=SECRET, disable_rate_limiting=True, drain_window="1s", **options) as node:
        listeners = {room: [Listener() for _ in range(LISTENERS_A_ROOM)] for room in ROOMS}
        before, broker = node.worker_pids(), node.broker_pid()
        async with contextlib.AsyncExitStack() as stack:
            for room in ROOMS:
                for n, listener in enumerate(listeners[room]):
                    client = await stack.enter_async_context(Client(node.url, node.token(f"{room}-{n}")))
                    client.on("*", listener.hear)
                    await client.join(room)
            acks: dict[str, list[dict[str, Any]]] = {room: [] for room in ROOMS}
            stopping = asyncio.Event()

            async def publish(room: str) -> None:
                async with Client(node.url, node.token(f"publisher-{room}")) as client:
                    await client.join(room)
                    while not stopping.is_set():
                        acks[room].append(await client.broadcast(room, len(acks[room]) + 1))

            publishers = [asyncio.create_task(publish(room)) for room in ROOMS]
            visitors = Visitors(node.url, 3)
            code, lines = await restart(node)
            assert (code, lines[-1]) == (0, "done: 2 workers replaced")
            # Who moves is a member all the while: nobody was told that somebody had left.
            assert not [push for room in ROOMS for one in listeners[room] for push in one.left]
            stopping.set()
            await asyncio.gather(*publishers)
            await visitors.stop()

            async def all_heard() -> bool:
                return all(len(one.numbers) >= len(acks[room]) for room in ROOMS for one in listeners[room])

            await eventually(all_heard, "everybody has heard everything")

        assert visitors.failures == []
        assert visitors.done > 20
        for room in ROOMS:
            expected = list(range(1, len(acks[room]) + 1))
            assert len(expected) > 50, "there was load"
            assert [ack["offset"] for ack in acks[room]] == expected
            assert len({ack["epoch"] for ack in acks[room]}) == 1
            for listener in listeners[room]:
                assert listener.numbers == expected
                assert listener.offsets == expected
                assert listener.epochs == {acks[room][0]["epoch"]}
                assert listener.others == []
        after = node.worker_pids()
        assert len(after) == 2
        assert not set(after) & set(before)
        assert node.broker_pid() == broker
        log = node.log_text()
        assert "Traceback" not in log
        assert "ended unexpectedly" not in log
        print(f"{visitors.done} handshakes, {sum(map(len, acks.values()))} messages, 0 failed, 0 lost, 0 twice")


@on_loop
async def test_private_messages_to_those_who_are_moved_are_not_lost() -> None:
    """A room has positions, by which a client recovers; an inbox has none: whatever is sent to a connection on its way
    out is gone, unless the worker sees to it."""
    with started_server(workers=2, jwt_secret=SECRET, disable_rate_limiting=True, drain_window="500ms") as node:
        heard: list[list[int]] = [[] for _ in range(20)]
        sent = [0] * len(heard)
        stopping = asyncio.Event()

        async def write_to(n: int) -> None:
            async with Client(node.url, node.token(f"writer-{n}")) as client:
                while not stopping.is_set():
                    await client.private_message(f"reader-{n}", sent[n] + 1)
                    sent[n] += 1

        async with contextlib.AsyncExitStack() as stack:
            for n, numbers in enumerate(heard):
                client = await stack.enter_async_context(Client(node.url, node.token(f"reader-{n}")))
                client.on("private_message", lambda push, numbers=numbers: numbers.append(push["message"]))
            writing = [asyncio.create_task(write_to(n)) for n in range(len(heard))]
            for _ in range(2):
                assert (await restart(node))[0] == 0
            stopping.set()
            await asyncio.gather(*writing)

            async def all_heard() -> bool:
                return [numbers[-1] if numbers else 0 for numbers in heard] == sent

            await eventually(all_heard, "everybody has heard the last message")
        assert heard == [list(range(1, count + 1)) for count in sent]


# -- a successor that cannot start -------------------------------------------------------------------------------------


APPLICATION = """
from tuskws_fast import WebSocketServer

server = WebSocketServer()


@server.on("version")
async def version(conn, data):
    conn.send({"type": "version", "version": VERSION})
"""


async def version_of(node: RunningServer) -> int:
    async with connect(node.url) as client:
        await client.send('{"type":"version"}')
        while (answer := codec.decode(await client.recv()))["type"] != "version":
            pass
        return int(answer["version"])


@on_loop
async def test_a_successor_that_does_not_come_up_ends_the_restart_and_the_old_worker_serves_on(tmp_path: Path) -> None:
    app = tmp_path / "shop.py"
    app.write_text("VERSION = 1\n" + APPLICATION)
    sys.path.insert(0, str(tmp_path))
    try:
        with started_server(workers=2, app="shop:server", drain_window="0") as node:
            before = node.worker_pids()
            async with connect(node.url) as old_friend:
                app.write_text("VERSION = \n")
                code, lines = await restart(node)
                assert code == 1
                assert lines[0] == "1/2  worker 2 is starting, to take the place of worker 0"
                assert lines[-1].startswith("given up: worker 2: cannot load the application shop:server: SyntaxError")
                assert node.worker_pids() == before
                assert await version_of(node) == 1
                await old_friend.send('{"type":"ping"}')
                while codec.decode(await old_friend.recv())["type"] != "pong":
                    pass
            # Mended, the same command brings the new version: each worker imports the application anew.
            app.write_text("VERSION = 22\n" + APPLICATION)
            code, lines = await restart(node)
            assert (code, lines[-1]) == (0, "done: 2 workers replaced"), lines
            assert {await version_of(node) for _ in range(10)} == {22}
            assert node.get("/health")[0] == 200
    finally:
        sys.path.remove(str(tmp_path))


@on_loop
async def test_a_worker_that_is_killed_while_it_drains_costs_the_restart_nothing() -> None:
    with started_server(workers=2, drain_window="30s") as node:
        before = node.worker_pids()
        async with crowd(node, 6):
            restarting = asyncio.create_task(restart(node))

            async def first_drains() -> bool:
                return "rolling restart: draining" in node.log_text()

            await eventually(first_drains, "the first worker drains")
            os.kill(before[0], signal.SIGKILL)

            async def second_drains() -> bool:
                return node.log_text().count("rolling restart: draining") == 2

            await eventually(second_drains, "the second worker drains")
            os.kill(before[1], signal.SIGKILL)
            assert (await restarting)[0] == 0
        assert node.get("/health")[0] == 200


# -- a drain, seen by many ---------------------------------------------------------------------------------------------


@dataclass
class Guest:
    """A plain client that does nothing about what it is told."""

    connection: ClientConnection
    notices: list[dict[str, Any]] = field(default_factory=list)
    told_at: float = 0.0
    closed_at: float = 0.0
    welcomed: bool = False

    async def stay(self) -> int:
        """Read until the server closes; the code."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = codec.decode(await self.connection.recv())
                self.welcomed = self.welcomed or message["type"] == "welcome"
                if message["type"] == "reconnect":
                    self.notices.append(message)
                    self.told_at = loop.time()
        except ConnectionClosed:
            self.closed_at = loop.time()
            return self.connection.close_code or 0


@contextlib.asynccontextmanager
async def crowd(node: RunningServer, count: int) -> AsyncIterator[list[Guest]]:
    async with contextlib.AsyncExitStack() as stack:
        guests = []
        for _ in range(count):
            guests.append(Guest(await stack.enter_async_context(connect(node.url, ping_interval=None))))
            assert codec.decode(await guests[-1].connection.recv())["type"] == "welcome"
        yield guests


def check_even(moments_s: list[float], window_s: float) -> None:
    """Each quarter of the window has its quarter of the clients, and no single moment is crowded."""
    assert 0 <= min(moments_s) <= max(moments_s) <= window_s
    quarters = [sum(n * window_s / 4 <= moment < (n + 1) * window_s / 4 for moment in moments_s) for n in range(4)]
    average = len(moments_s) / 4
    assert all(0.8 * average <= quarter <= 1.2 * average for quarter in quarters), quarters


@on_loop
async def test_sigterm_tells_every_client_once_its_own_delay_and_closes_all_with_1001() -> None:
    with started_server(workers=2, drain_window="2s", shutdown_timeout="10s") as node:
        async with crowd(node, 200) as guests:
            # The counters that the window is made of are a second old at most.
            staying = [asyncio.create_task(guest.stay()) for guest in guests]
            node.process.send_signal(signal.SIGTERM)
            codes = await asyncio.gather(*staying)
        assert set(codes) == {1001}
        assert [len(guest.notices) for guest in guests] == [1] * 200
        assert {guest.notices[0]["reason"] for guest in guests} == {"shutdown"}
        delays = [guest.notices[0]["after_ms"] / 1000 for guest in guests]
        check_even(delays, 2.0)
        # Who came one after the other does not go so.
        assert abs(statistics.correlation(list(range(200)), delays)) < 0.3
        early = [guest for guest, delay in zip(guests, delays, strict=True) if guest.closed_at - guest.told_at < delay]
        assert early == [], "nobody is closed before its time"
        assert node.process.wait(10) == 0


@on_loop
async def test_a_rolling_restart_closes_who_stays_with_4010_and_tells_nobody_twice() -> None:
    with started_server(workers=2, drain_window="1s") as node:
        async with crowd(node, 40) as guests:
            staying = [asyncio.create_task(guest.stay()) for guest in guests]
            assert (await restart(node))[0] == 0
            assert set(await asyncio.gather(*staying)) == {4010}
        assert [len(guest.notices) for guest in guests] == [1] * 40
        assert {guest.notices[0]["reason"] for guest in guests} == {"restart"}
        assert (node.figure("reconnect_told"), node.figure("drain_closed")) == (40, 40)


class Latecomer(RawClient):
    """Connects, and takes its time to ask for the upgrade."""

    def handshake(self, path: str) -> bytes:
        return b""

    def ask(self) -> bytes:
        return super().handshake("/ws")


@on_loop
async def test_a_handshake_that_the_old_worker_has_begun_is_finished_there_and_told_as_all_others() -> None:
    with (
        started_server(workers=1, drain_window="1s", connection_timeout="20s") as node,
        contextlib.ExitStack() as stack,
    ):
        late = [stack.enter_context(Latecomer(node.port)) for _ in range(10)]

        async def accepted() -> bool:
            return len(os.listdir(f"/proc/{node.worker_pids()[0]}/fd")) > 10 + 10

        await eventually(accepted, "the worker has accepted them")
        restarting = asyncio.create_task(restart(node))

        async def drains() -> bool:
            return "rolling restart: draining" in node.log_text()

        await eventually(drains, "the old worker drains")
        for client in late:
            assert client.ask().startswith(b"HTTP/1.1 101")
        for client in late:
            assert client.expect("welcome")["connection_id"]
            assert client.expect("reconnect")["after_ms"] <= 1000
            assert client.close_code() == 4010
            client.close()
        assert (await restarting)[0] == 0


@on_loop
async def test_an_end_in_the_middle_of_a_restart_hurries_those_who_were_told_and_tells_them_nothing_more() -> None:
    with started_server(workers=2, drain_window="60s", shutdown_timeout="4s") as node:
        async with crowd(node, 40) as guests:
            staying = [asyncio.create_task(guest.stay()) for guest in guests]
            restarting = asyncio.create_task(restart(node))

            async def some_are_told() -> bool:
                return any(guest.notices for guest in guests)

            await eventually(some_are_told, "somebody is told to move")
            moved = [guest for guest in guests if guest.notices]
            node.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*staying)
            code, lines = await restarting
        assert (code, lines[-1]) == (1, "given up: the node is told to end")
        assert [len(guest.notices) for guest in guests] == [1] * 40
        assert {guest.notices[0]["reason"] for guest in moved} == {"restart"}
        assert {guest.connection.close_code for guest in guests} == {1001, 4010}
        assert node.process.wait(10) == 0


@on_loop
async def test_a_second_sigterm_closes_everybody_at_once_and_still_in_order() -> None:
    with started_server(workers=2, drain_window="100s", shutdown_timeout="300s") as node:
        async with crowd(node, 20) as guests:
            staying = [asyncio.create_task(guest.stay()) for guest in guests]
            node.process.send_signal(signal.SIGTERM)

            async def all_are_told() -> bool:
                return all(guest.notices for guest in guests)

            await eventually(all_are_told, "everybody is told to go")
            node.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert set(await asyncio.gather(*staying)) == {1001}
        assert [len(guest.notices) for guest in guests] == [1] * 20
        assert node.process.wait(10) == 0


@on_loop
async def test_balancers_see_it_first_and_clients_are_still_accepted_for_the_delay() -> None:
    with started_server(workers=2, drain_window="0", drain_delay="2s", shutdown_timeout="10s") as node:
        node.process.send_signal(signal.SIGTERM)

        async def not_ready() -> bool:
            return node.get("/readyz")[0] == 503

        await eventually(not_ready, "/readyz says 503")
        assert node.get("/livez")[0] == 200
        guests = [Guest(await connect(node.url)) for _ in range(8)]
        assert {await guest.stay() for guest in guests} == {1001}
        assert all(guest.welcomed and len(guest.notices) == 1 for guest in guests)
        assert node.process.wait(10) == 0
