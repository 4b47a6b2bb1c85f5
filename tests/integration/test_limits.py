"""Each limit, alone, trips where it should and says so in the documented way; what is below it passes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from typing import Any

import pytest
from helpers.clients import SpeakingClient, on_loop, people
from helpers.raw import RawClient, masked
from helpers.server import SECRET, RunningServer, running_server, started_server, wait_until
from helpers.sockets import Closed
from helpers.waiting import eventually, pace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus


async def opened(stack: contextlib.AsyncExitStack, server: RunningServer) -> ClientConnection:
    return await stack.enter_async_context(connect(server.url))


async def refusal(server: RunningServer) -> Any:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(server.url):
            pass
    return refused.value.response


async def eventually_opens(server: RunningServer) -> None:
    """A place is free again as soon as the server has seen the close, which nobody announces."""

    async def opens() -> bool:
        try:
            async with connect(server.url):
                return True
        except InvalidStatus:
            return False

    await eventually(opens, "a free place")


@on_loop
async def test_connections_in_total_over_all_workers() -> None:
    async with running_server(workers=4, max_connections=10) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            last = await opened(stack, server)
        response = await refusal(server)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
        assert server.get("/health")[0] == 200
        await last.close()
        await eventually_opens(server)


@on_loop
async def test_connections_of_an_address_over_all_workers() -> None:
    async with running_server(workers=4, max_connections_per_ip=8) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            last = await opened(stack, server)
        for _ in range(8):
            response = await refusal(server)
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) > 0
        await last.close()
        await eventually_opens(server)


@on_loop
async def test_connections_of_a_user_over_all_workers() -> None:
    flags = {"max_connections_per_user": 3, "jwt_secret": SECRET}
    async with running_server(workers=4, **flags) as server, people(server) as crowd:
        tabs = [await crowd.connect("ann") for _ in range(3)]
        for _ in range(5):
            one_too_many = await crowd.connect(None)
            await one_too_many.send({"type": "auth", "token": server.token("ann")})
            await one_too_many.expect_close(4509)
        await crowd.connect("bob")
        assert (await tabs[0].request("auth", token=server.token("ann")))["type"] == "auth_success"  # a refresh is none
        await tabs[0].close()
        async with asyncio.timeout(10):
            while True:
                again = await crowd.connect(None)
                await again.send({"type": "auth", "token": server.token("ann")})
                message = await _answer_or_close(again)
                if message is not None:
                    break
        assert message["type"] == "auth_success"


async def _answer_or_close(client: SpeakingClient) -> dict[str, Any] | None:
    try:
        return await client.receive()
    except Closed:
        return None


@on_loop
async def test_message_rate_is_a_users_over_connections_and_workers_and_survives_reconnection() -> None:
    flags = {"message_rate_limit": 10, "message_rate_burst": 20, "jwt_secret": SECRET}
    async with running_server(workers=4, **flags) as server, people(server) as crowd:
        tabs = await crowd.connect_on_workers("ann", 2)
        started = time.monotonic()
        accepted = 0
        for n in range(60):
            answer = await tabs[n % 2].request("ping", id=n + 1000)
            accepted += answer["type"] == "pong"
            if answer["type"] == "error":
                assert answer["code"] == "rate_limited"
                assert 0 < answer["retry_after"] <= 3
        elapsed = time.monotonic() - started
        assert accepted <= 20 + 10 * elapsed + 1
        # A new connection finds the bucket as the old ones left it (authenticating is a command too).
        token = {"Authorization": f"Bearer {server.token('ann')}"}
        async with connect(server.url, additional_headers=token) as fresh:
            await fresh.recv()
            answers = []
            for _ in range(20):
                await fresh.send('{"type":"ping"}')
                answers.append(json.loads(await fresh.recv())["type"])
        assert answers.count("error") >= 10
        # And other users do not pay for it.
        bob = await crowd.connect("bob")
        assert (await bob.request("ping"))["type"] == "pong"


@on_loop
async def test_guests_of_an_address_share_a_rate_that_survives_reconnecting() -> None:
    """However many connections and workers: no more than the rate, times the time, and one burst."""
    flags = {"message_rate_limit_per_ip": 20, "message_rate_burst_per_ip": 40}
    async with running_server(workers=2, **flags) as server:
        started, accepted, refused = time.monotonic(), 0, 0
        for _ in range(50):
            async with connect(server.url) as socket:
                await socket.recv()
                for _ in range(4):
                    await socket.send('{"type":"ping"}')
                    answer = json.loads(await socket.recv())
                    accepted += answer["type"] == "pong"
                    refused += answer.get("code") == "rate_limited"
        assert accepted <= 40 + 20 * (time.monotonic() - started) + 1
        assert accepted + refused == 200
        await eventually(lambda: grown(server, "rate_limited_per_ip", refused), "the figure")
        # Others do not pay for it.
        with RawClient(server.port, source="127.0.0.9") as neighbour:
            neighbour.expect("welcome")
            neighbour.send({"type": "ping"})
            assert neighbour.message()["type"] == "pong"


async def grown(server: RunningServer, figure: str, to: int) -> bool:
    return server.figure(figure) >= to


@on_loop
async def test_handshakes_of_an_address_have_a_rate() -> None:
    flags = {"handshake_rate_limit": 1, "handshake_rate_burst": 10}
    async with running_server(workers=2, **flags) as server:
        for _ in range(10):
            async with connect(server.url):
                pass
        response = await refusal(server)
        assert response.status_code == 429
        assert 0 < int(response.headers["Retry-After"]) <= 10
        assert server.get("/health")[0] == 200
        await eventually(lambda: grown(server, "refused_handshake_rate", 1), "the figure")
        RawClient(server.port, source="127.0.0.9").close()
        await eventually_opens(server)


@on_loop
async def test_refused_tokens_of_an_address_are_bounded_whoever_sends_them() -> None:
    flags = {"auth_failures_per_ip": 10, "jwt_secret": SECRET}
    async with running_server(workers=2, **flags) as server, people(server) as crowd:
        token = server.token("ann")
        await crowd.connect("bob")
        seen = []
        for n in range(14):
            with RawClient(server.port, headers=f"Authorization: Bearer {token[:-2]}{n:02d}\r\n") as client:
                seen.append(int(client.response[9:12]))
        assert seen == [401] * 10 + [429] * 4
        stranger = await crowd.connect(None)
        assert (await stranger.request("auth", token=token))["code"] == "rate_limited"
        await eventually(lambda: grown(server, "refused_token_rate", 5), "the figure")
        with RawClient(server.port, source="127.0.0.9", headers=f"Authorization: Bearer {token}\r\n") as neighbour:
            assert neighbour.expect("welcome")["authenticated"]


@on_loop
async def test_guests_that_come_again_and_again_do_not_guess_more_passwords() -> None:
    flags = {"password_tries_per_ip": 6, "jwt_secret": SECRET, "no_require_auth": True}
    async with running_server(workers=2, **flags) as server, people(server) as crowd:
        ann = await crowd.connect("ann", permissions=["create"])
        made = await ann.request("create_room", room="vault", settings={"password": "s3cret"})
        assert made["type"] != "error", made
        codes = []
        for n in range(9):
            guest = await crowd.connect()
            codes.append((await guest.request("join_room", room="vault", password=f"guess {n}"))["code"])
            await guest.close()
        assert codes == ["bad_password"] * 6 + ["rate_limited"] * 3
        await eventually(lambda: grown(server, "password_tries_limited", 3), "the figure")
        bob = await crowd.connect("bob")
        assert (await bob.request("join_room", room="vault", password="s3cret"))["type"] == "room_joined"


@pytest.mark.parametrize(
    ("flags", "data", "figure"),
    [
        ({"frame_rate_limit": 1024}, masked(b'{"type":"ping"}') * 1_100, "frame_rate_closed"),
        (
            {"byte_rate_limit": "128KiB"},
            masked(b"x" * 60_000) * 3,
            "byte_rate_closed",
        ),
        ({"ping_rate_limit": 2}, masked(b"", opcode=9) * 17, "ping_rate_closed"),
    ],
)
def test_a_connection_that_sends_too_fast_is_closed_1008(flags: dict[str, Any], data: bytes, figure: str) -> None:
    with started_server(workers=1, **flags) as server:  # noqa: SIM117
        with RawClient(server.port) as hasty, RawClient(server.port) as calm:
            for client in (hasty, calm):
                client.expect("welcome")
            hasty.socket.sendall(data)
            assert hasty.close_code() == 1008
            calm.send({"type": "ping"})
            assert calm.expect("pong")
            wait_until(lambda: server.figure(figure) == 1, figure)
    with started_server(workers=1, disable_rate_limiting=True, **flags) as server:  # noqa: SIM117
        with RawClient(server.port) as hasty:
            hasty.expect("welcome")
            hasty.socket.sendall(data)
            hasty.send({"type": "hello", "id": "still here"})
            while b"still here" not in (answer := hasty.frame())[1]:
                assert answer[0] != 8


def test_of_unfinished_handshakes_the_oldest_gives_way() -> None:
    with started_server(workers=1, max_half_open_per_ip=3, max_half_open=5) as server, contextlib.ExitStack() as stack:

        def begin(source: str) -> socket.socket:
            sock = stack.enter_context(socket.socket())
            sock.settimeout(10)
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(b"GET /ws HTTP/1.1\r\n")
            return sock

        mine = [begin("127.0.0.1") for _ in range(4)]
        assert mine[0].recv(100).startswith(b"HTTP/1.1 429 ")
        with RawClient(server.port) as through:
            assert through.response.startswith(b"HTTP/1.1 101 ")
        others = [begin(f"127.0.0.{n}") for n in (2, 3, 4)]
        # Of the whole worker: first who waits longest, wherever it comes from.
        assert mine[1].recv(100).startswith(b"HTTP/1.1 429 ")
        wait_until(lambda: server.figure("half_open") == 5, "five wait")
        assert server.figure("refused_half_open") >= 2
        others[-1].sendall(b"\r\n")
        assert others[-1].recv(100).startswith(b"HTTP/1.1 426 ")


@on_loop
async def test_retry_after_is_enough() -> None:
    flags = {"message_rate_limit": 20, "message_rate_burst": 1, "jwt_secret": SECRET}
    async with running_server(workers=1, **flags) as server, people(server) as crowd:
        ann = await crowd.connect("ann")
        while (answer := await ann.request("ping"))["type"] == "pong":
            pass
        await pace(answer["retry_after"])
        assert (await ann.request("ping"))["type"] == "pong"


@on_loop
async def test_every_command_of_a_batch_is_counted() -> None:
    flags = {"message_rate_limit": 1, "message_rate_burst": 10, "jwt_secret": SECRET}
    async with running_server(workers=1, **flags) as server, people(server) as crowd:
        ann = await crowd.connect("ann")
        await ann.send({"type": "batch", "messages": [{"type": "ping", "id": n} for n in range(100)]})
        answers = [await ann.expect_reply(n) for n in range(100)]
        assert sum(answer["type"] == "pong" for answer in answers) <= 11


@on_loop
async def test_rate_limiting_can_be_turned_off() -> None:
    flags = {"message_rate_limit": 1, "message_rate_burst": 1, "disable_rate_limiting": True}
    async with running_server(workers=1, **flags) as server, people(server) as crowd:
        guest = await crowd.connect()
        for _ in range(200):
            assert (await guest.request("ping"))["type"] == "pong"


@on_loop
async def test_size_of_a_message_is_that_of_its_encoded_value(server: RunningServer) -> None:
    limit = 16 * 1024
    async with people(server) as crowd:
        ann = await crowd.connect("ann-sizes")
        await ann.request("join_room", room="sizes")
        exact = "x" * (limit - 2)
        assert (await ann.request("broadcast", room="sizes", message=exact))["type"] == "ack"
        assert (await ann.request("broadcast", room="sizes", message=exact + "x"))["code"] == "message_too_large"
        assert (await ann.request("broadcast", room="sizes", message="é" * (limit // 2)))["code"] == "message_too_large"
        refused = await ann.request("private_message", to="bob", message=["x" * limit])
        assert refused["code"] == "message_too_large"
        assert (await ann.expect("room_message"))["message"] == exact


@on_loop
async def test_frame_above_the_limit_closes_and_one_at_the_limit_does_not(server: RunningServer) -> None:
    limit = 64 * 1024
    async with people(server) as crowd:
        ann = await crowd.connect("ann-frames")
        frame = '{"type":"ping","id":1,"pad":""}'
        await ann.socket.send_text(frame[:-2] + "x" * (limit - len(frame)) + frame[-2:])
        assert (await ann.expect_reply(1))["type"] == "pong"
        await ann.socket.send_text("x" * (limit + 1))
        await ann.expect_close(1009)


@on_loop
async def test_members_of_a_room_are_users_not_connections() -> None:
    async with running_server(workers=4, max_room_members=2, jwt_secret=SECRET) as server, people(server) as crowd:
        for user in ("ann", "bob"):
            for tab in await crowd.connect_on_workers(user, 2):
                assert (await tab.request("join_room", room="a"))["type"] == "room_joined"
        carl = await crowd.connect("carl")
        assert (await carl.request("join_room", room="a"))["code"] == "room_full"
        assert (await carl.request("join_room", room="b"))["type"] == "room_joined"


@on_loop
async def test_rooms_of_a_user_over_all_its_connections() -> None:
    async with running_server(workers=4, max_rooms_per_user=3, jwt_secret=SECRET) as server, people(server) as crowd:
        one, other = await crowd.connect_on_workers("ann", 2)
        for client, room in ((one, "a"), (other, "b"), (one, "c"), (other, "a")):
            assert (await client.request("join_room", room=room))["type"] == "room_joined"
        assert (await other.request("join_room", room="d"))["code"] == "too_many_rooms"
        await one.request("leave_room", room="c")
        assert (await other.request("join_room", room="d"))["type"] == "room_joined"


@on_loop
async def test_history_is_bounded_by_count_and_by_bytes() -> None:
    async with running_server(workers=1, history_size=5, history_bytes="1KiB") as server, people(server) as crowd:
        guest = await crowd.connect()
        await guest.request("join_room", room="small")
        await guest.request("join_room", room="large")
        for n in range(8):
            await guest.request("broadcast", room="small", message=n)
            await guest.request("broadcast", room="large", message="x" * 300)
        small = await guest.request("history", room="small")
        assert [each["offset"] for each in small["messages"]] == [4, 5, 6, 7, 8]
        large = await guest.request("history", room="large")
        assert 1 <= len(large["messages"]) <= 3
        assert large["messages"][-1]["offset"] == 8


@on_loop
async def test_idle_connection_is_closed_and_ping_does_not_count() -> None:
    async with running_server(workers=1, idle_timeout="1s") as server, people(server) as crowd:
        pinging, busy = await crowd.connect(), await crowd.connect()
        closing = asyncio.create_task(pinging.closed_with())
        for _ in range(8):
            if not closing.done():
                await pinging.send({"type": "ping"})
            await busy.request("list_rooms")
            await pace(0.3)
        assert await closing == 4002
        assert (await busy.request("list_rooms"))["type"] == "rooms"


def test_connection_that_answers_no_ping_is_closed() -> None:
    flags = {"heartbeat_interval": "1s", "heartbeat_timeout": "1s"}
    with started_server(workers=1, **flags) as server:  # noqa: SIM117
        with RawClient(server.port) as silent, RawClient(server.port) as alive:
            for client in (silent, alive):
                assert client.expect("welcome")["heartbeat_interval"] == 1
            opcode, payload = alive.frame()
            assert opcode == 9
            alive.send_frame(payload, opcode=10)
            started = time.monotonic()
            assert silent.close_code() == 4003
            assert time.monotonic() - started < 6
            opcode, _ = alive.frame()
            assert opcode == 9  # the next heartbeat, not a close


def test_half_a_handshake_is_ended_in_time_however_it_drips() -> None:
    with started_server(workers=1, connection_timeout="1s") as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        silent = stack.enter_context(socket.create_connection(address, timeout=10))
        dripping = stack.enter_context(socket.create_connection(address, timeout=0.2))
        dripping.sendall(b"GET /ws HTTP/1.1\r\n")
        started = time.monotonic()
        answer = b""
        while not answer and time.monotonic() - started < 8:
            with contextlib.suppress(TimeoutError):
                answer = dripping.recv(4096)
            if not answer:
                dripping.sendall(b"X-Drip: 1\r\n")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert silent.recv(4096).startswith(b"HTTP/1.1 408 ")


@on_loop
async def test_more_open_files_than_allowed_is_answered_not_dropped() -> None:
    """Every connection over the limit gets its 503, and the server recovers by itself."""
    async with running_server(workers=1, max_connections=20) as server:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                await opened(stack, server)
            answers = await asyncio.gather(*(refusal(server) for _ in range(40)))
            assert {answer.status_code for answer in answers} == {503}
        await eventually_opens(server)
