"""A revoked user, token or session is gone from every worker within a second, and stays out, over a restart too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from helpers.clients import People, SpeakingClient, on_loop, people
from helpers.durable import kill_all, node, on_thread
from helpers.server import RunningServer, wait_until

CLOSED_S = 1.0


async def revoke(server: RunningServer, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tuskws_fast", "revoke", "--control-socket", str(server.control_socket), *flags]
    done: subprocess.CompletedProcess[str] = await on_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    )
    return done


async def closed_in_time(clients: list[SpeakingClient], since: float) -> None:
    codes = await asyncio.gather(*(client.closed_with() for client in clients))
    assert codes == [4510] * len(clients)
    assert time.monotonic() - since < CLOSED_S + 3.0, "the command itself takes a second to start"


async def answer_to(crowd: People, token: str) -> dict[str, Any]:
    client = await crowd.connect()
    answer = await client.request("auth", token=token)
    await client.close()
    return answer


@on_loop
async def test_revoked_user_is_closed_everywhere_and_refused_until_there_is_a_new_token(tmp_path: Path) -> None:
    with node(tmp_path, workers=4) as server:
        old = server.token("ann")
        async with people(server) as crowd:
            bob = await crowd.connect("bob")
            tabs = await crowd.connect_on_workers("ann", 4)
            for client in (bob, *tabs):
                await client.request("join_room", room="room")
            (success,) = [message for message in tabs[0].seen if message["type"] == "auth_success"]
            began = time.monotonic()
            done = await revoke(server, "--user", "ann")
            assert (done.returncode, done.stdout) == (0, "revoked; 4 sessions ended\n"), done
            await closed_in_time(tabs, began)
            await bob.expect("member_left", user={"id": "ann", "username": "ann"})
            assert (await bob.request("broadcast", room="room", message="still here"))["type"] == "ack"
            refused = await answer_to(crowd, old)
            assert (refused["type"], refused["code"]) == ("auth_failed", "bad_token")
            back = await crowd.connect()
            resumed = await back.request("resume", session=success["session"], rooms={})
            assert resumed["code"] == "token_expired"
            new = server.token("ann", iat=int(time.time()) + 1)
            assert (await answer_to(crowd, new))["type"] == "auth_success"
            wait_until(lambda: server.figure("revoked_closed") == 4, "counted")
            wait_until(lambda: server.figure("revocations") == 1, "figures are a second old")
        kill_all(server)
    with node(tmp_path) as server:
        async with people(server) as crowd:
            assert (await answer_to(crowd, old))["code"] == "bad_token"
            assert (await answer_to(crowd, new))["type"] == "auth_success"


@on_loop
async def test_token_and_session_are_revoked_alone(tmp_path: Path) -> None:
    with node(tmp_path, workers=2) as server:
        async with people(server) as crowd:
            one, two = await crowd.connect("ann", jti="one"), await crowd.connect("ann", jti="two")
            (success,) = [message for message in two.seen if message["type"] == "auth_success"]
            began = time.monotonic()
            assert (await revoke(server, "--token", "one")).stdout == "revoked; 1 sessions ended\n"
            await closed_in_time([one], began)
            assert (await two.request("ping"))["type"] == "pong"
            assert (await answer_to(crowd, server.token("ann", jti="one")))["code"] == "bad_token"
            began = time.monotonic()
            assert (await revoke(server, "--session", success["session"])).returncode == 0
            await closed_in_time([two], began)
            assert (await answer_to(crowd, server.token("ann", jti="two")))["type"] == "auth_success"


@on_loop
async def test_killed_broker_and_killed_worker_forget_nothing(tmp_path: Path) -> None:
    for data_dir in (tmp_path, "none"):
        with node(Path(data_dir), workers=2) as server:
            old = server.token("ann")
            assert (await revoke(server, "--user", "ann")).returncode == 0

            for pid in (server.broker_pid(), server.worker_pids()[0]):
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: pid not in [p for p, _ in server.descendants()], "dead")  # type: ignore[misc]
                wait_until(lambda: len(server.worker_pids()) == 2 and server.get("/readyz")[0] == 200, "back")
            async with people(server) as crowd:
                answers = [await answer_to(crowd, old) for _ in range(8)]
            assert {answer.get("code") for answer in answers} == {"bad_token"}


@on_loop
async def test_what_names_nothing_is_refused_with_a_reason(tmp_path: Path) -> None:
    with node(tmp_path) as server:
        for flags in ((), ("--user", "ann", "--token", "x"), ("--session", "made-up"), ("--user", "")):
            done = await revoke(server, *flags)
            assert (done.returncode, done.stdout) == (1, ""), flags
            assert done.stderr.startswith("tuskws-fast: ")
            assert "Traceback" not in done.stderr
