"""A reload of a real node: what changes does so in every worker and for clients that are connected; what is bad changes
nothing and says so; nobody is disconnected."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers.clients import SpeakingClient, on_loop, people
from helpers.server import SECRET, RunningServer, started_server, wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tuskws_fast.auth.tokens import make_token

OTHER_SECRET = "another-secret-for-tests-of-more-than-32-bytes"
WORKERS = 2


def reload(server: RunningServer) -> tuple[int, str]:
    """`tuskws-fast reload`: its exit code and what it printed, blanks made one."""
    command = [sys.executable, "-m", "tuskws_fast", "reload", "--control-socket", str(server.control_socket)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, " ".join(done.stdout.split())


@contextlib.asynccontextmanager
async def friends(server: RunningServer) -> AsyncIterator[list[SpeakingClient]]:
    """A client on every worker, which must outlive the test."""
    async with people(server) as crowd:
        found = await crowd.connect_on_workers(None, WORKERS)  # type: ignore[arg-type]
        yield found
        for client in found:
            assert (await client.request("ping"))["type"] == "pong"


@on_loop
async def test_a_new_secret_is_in_force_in_every_worker_and_who_is_connected_stays(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with started_server(workers=WORKERS, jwt_secret_file=secret) as server:

        async def status_of(token: str) -> int:
            try:
                async with connect(server.url, additional_headers={"Authorization": f"Bearer {token}"}):
                    return 101
            except InvalidStatus as refused:
                return refused.response.status_code

        old, new = make_token(SECRET, "ann"), make_token(OTHER_SECRET, "ann")
        async with friends(server):
            assert {await status_of(old) for _ in range(8)} == {101}
            assert {await status_of(new) for _ in range(8)} == {401}
            secret.write_text(OTHER_SECRET)
            assert reload(server) == (0, "in force: jwt_secret_file")
            assert {await status_of(old) for _ in range(8)} == {401}
            assert {await status_of(new) for _ in range(8)} == {101}
            secret.write_text("short")
            code, text = reload(server)
            assert (code, text) == (
                1,
                "left as it was: jwt_secret_file: the secret has 5 bytes, HS256 needs at least 32",
            )
            secret.unlink()
            assert reload(server)[0] == 1
            assert {await status_of(new) for _ in range(8)} == {101}


@on_loop
async def test_limits_times_and_origins_change_under_those_who_are_connected(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('message_rate_limit = 1000\nmessage_rate_burst = 1000\nallowed_origins = ["https://one.example"]\n')
    with started_server(workers=WORKERS, config=str(file)) as server:

        async def status_for(origin: str) -> int:
            try:
                async with connect(server.url, origin=origin):  # type: ignore[arg-type]
                    return 101
            except InvalidStatus as refused:
                return refused.response.status_code

        async with friends(server) as clients:
            file.write_text(
                "message_rate_limit = 1\nmessage_rate_burst = 20\nheartbeat_interval = 7\n"
                'allowed_origins = ["https://two.example"]\nhistory_size = 7\nmax_frame_size = "32KiB"\n'
            )
            code, text = reload(server)
            assert code == 0
            assert text == (
                # The rates of addresses and frames follow the rate of commands where they are not given.
                "in force: message_rate_limit, message_rate_burst, message_rate_limit_per_ip,"
                " message_rate_burst_per_ip, heartbeat_interval, allowed_origins"
                " with `tuskws-fast restart`: frame_rate_limit, max_frame_size with the next start only: history_size"
            )
            for client in clients:
                replies = [await client.request("ping") for _ in range(25)]
                assert 0 < sum(reply.get("code") == "rate_limited" for reply in replies) <= 6
            assert {await status_for("https://one.example") for _ in range(8)} == {403}
            assert {await status_for("https://two.example") for _ in range(8)} == {101}
            async with connect(server.url, origin="https://two.example") as fresh:  # type: ignore[arg-type]
                assert '"heartbeat_interval":7' in str(await fresh.recv())
            file.write_text('message_rate_limit = 100000\nmessage_rate_burst = 100000\nallowed_origins = ["x y"]\n')
            code, text = reload(server)
            assert (code, text.startswith("left as it was: allowed_origins:")) == (1, True)
            assert {await status_for("https://two.example") for _ in range(8)} == {101}
            file.write_text("message_rate_limit = 1\nmessage_rate_burst = 1000\n")
            assert reload(server)[0] == 0
            await asyncio.gather(*(client.request("ping") for client in clients))
        assert "Traceback" not in server.log_text()


@on_loop
async def test_what_workers_are_born_with_comes_with_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("max_message_size = 100\n")
    with started_server(workers=WORKERS, config=str(file), drain_window="0") as server:

        async def sizes() -> set[bool]:
            found = set()
            for _ in range(8):
                async with connect(server.url) as client:
                    found.add('"max_message_size":200' in str(await client.recv()))
            return found

        file.write_text("max_message_size = 200\n")
        assert reload(server) == (0, "with `tuskws-fast restart`: max_message_size")
        assert await sizes() == {False}
        command = [sys.executable, "-m", "tuskws_fast", "restart", "--control-socket", str(server.control_socket)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0
        assert await sizes() == {True}


def test_sighup_does_the_same_and_the_log_says_what(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("idle_timeout = 0\n")
    with started_server(workers=WORKERS, config=str(file)) as server:
        file.write_text("idle_timeout = 60\ndata_dir = '/elsewhere'\n")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: " reloaded " in server.log_text(), "the reload is over")
        [line] = [line for line in server.log_text().splitlines() if " reloaded " in line]
        # What a flag sets, as the test's own `data_dir`, goes before the file: so only one option has changed.
        assert line.endswith("changed=idle_timeout")


@pytest.mark.parametrize("times", [20])
def test_many_at_once_are_taken_one_after_the_other(tmp_path: Path, times: int) -> None:
    file = tmp_path / "node.toml"
    file.write_text("idle_timeout = 0\n")
    with started_server(workers=WORKERS, config=str(file)) as server:
        for n in range(times):
            file.write_text(f"idle_timeout = {n + 1}\n")
            os.kill(server.pid, signal.SIGHUP)
        assert reload(server)[0] == 0
        assert reload(server) == (0, "nothing has changed")
        assert "Traceback" not in server.log_text()
