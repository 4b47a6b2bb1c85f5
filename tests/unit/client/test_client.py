"""The client over real sockets, against a server that breaks when told to (tests/helpers/fake_server.py)."""

from __future__ import annotations

import asyncio
import http
from typing import Any

import pytest
from helpers.fake_server import FakeServer, fake_server
from helpers.waiting import eventually
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from tuskws_fast.client import AuthError, Client, ClientClosed, CommandError, ConnectionLost, ConnectRefused
from tuskws_fast.client.state import Backoff


def run(test: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(limited())


def a_client(server: FakeServer, token: Any = "good", **options: Any) -> Client:
    return Client(server.url, token, backoff=Backoff(0.001, 0.01), **options)


async def take(client: Client, count: int, kind: str = "room_message") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async for push in client:
        if push["type"] == kind:
            found.append(push)
        if len(found) == count:
            break
    return found


def test_commands_await_their_own_answers() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            assert client.user == {"id": "ann"}
            room = await client.join("a")
            answers = await asyncio.gather(client.ping(), client.get_presence(users=["x"]), room.broadcast("hi"))
            assert answers[0] == 12.5
            assert answers[1][0]["userId"] == "x"
            assert answers[2]["offset"] == 1
            assert (await take(client, 1))[0]["message"] == "hi"
            assert room.position == ("e1", 1)
            await client.presence("away")
            assert server.got("presence")[0]["status"] == "away"
            assert (await room.history())["offset"] == 1
            await room.leave()
            assert room.position is None

    run(test())


def test_error_answer_is_raised_with_its_code() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            server.answer = lambda command: {"type": "error", "code": "forbidden", "message": "no", "retry_after": 2.0}
            with pytest.raises(CommandError, match="forbidden: no") as raised:
                await client.create_room("lobby", public=False)
            assert (raised.value.code, raised.value.retry_after) == ("forbidden", 2.0)
            with pytest.raises(CommandError):
                await client.join("a")
            server.answer = lambda command: None
            await client.join("a")
            with pytest.raises(CommandError, match="already_in_room"):
                await client.join("a")

    run(test())


def test_missed_messages_come_after_a_reconnection_in_order_and_once() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await client.join("a")
            await server.publish("a", 1)
            assert [push["message"] for push in await take(client, 1)] == [1]
            server.drop()
            for n in (2, 3, 4):
                await server.publish("a", n, deliver=False)
            await server.wait_for(lambda: len(server.got("join_room")) == 2)
            await server.publish("a", 5)
            assert [push["message"] for push in await take(client, 4)] == [2, 3, 4, 5]
            assert server.got("join_room")[1]["since"] == {"epoch": "e1", "offset": 1}
            assert len(server.got("auth")) == 2

    run(test())


def test_paged_replay_is_delivered_whole() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            server.page = 2
            await client.join("a")
            server.drop()
            for n in range(1, 8):
                await server.publish("a", n, deliver=False)
            assert [push["message"] for push in await take(client, 7)] == [1, 2, 3, 4, 5, 6, 7]

    run(test())


def test_application_hears_of_messages_that_are_gone() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await client.join("a")
            gaps: list[dict[str, Any]] = []
            client.on("gap", gaps.append)
            server.drop()
            server.restart_room("a", "e2")
            await server.publish("a", "new", deliver=False)
            await server.wait_for(lambda: len(server.got("join_room")) == 2)
            await server.publish("a", "newer")
            assert [push["message"] for push in await take(client, 1)] == ["newer"]
            assert [(gap["epoch"], gap["recovered"]) for gap in gaps] == [("e2", False)]

    run(test())


def test_publication_whose_ack_was_lost_is_published_once() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await client.join("a")
            server.swallow_acks = 1
            publishing = asyncio.create_task(client.broadcast("a", "once"))
            await server.wait_for(lambda: len(server.got("broadcast")) == 1)
            server.drop()
            answer = await publishing
            assert answer["duplicate"] is True
            first, second = server.got("broadcast")
            assert first["id"] == second["id"]
            assert len(server.room("a").log) == 1

    run(test())


def test_publication_refused_for_now_is_sent_again_when_the_server_said() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await client.join("a")
            refusals = [{"type": "error", "code": "unavailable", "message": "recovering", "retry_after": 0.02}] * 3
            server.answer = lambda command: refusals.pop() if command["type"] == "broadcast" and refusals else None
            assert (await client.broadcast("a", "patience"))["offset"] == 1
            assert len(server.got("broadcast")) == 4
            assert len({command["id"] for command in server.got("broadcast")}) == 1

    run(test())


def test_publications_made_while_disconnected_arrive_in_order() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await client.join("a")
            server.drop()
            await server.wait_for(lambda: not server.connections)
            await asyncio.gather(*(client.broadcast("a", n) for n in range(20)))
            assert [push["message"] for push in server.room("a").log] == list(range(20))

    run(test())


def test_request_in_flight_is_told_that_nobody_knows() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            release = asyncio.Event()

            async def never(connection: Any, command: Any) -> None:
                await release.wait()

            server._on_ping = never  # type: ignore[method-assign, assignment]
            pinging = asyncio.create_task(client.ping())
            await server.wait_for(lambda: bool(server.got("ping")))
            server.drop()
            with pytest.raises(ConnectionLost):
                await pinging
            release.set()

    run(test())


def test_refused_token_ends_the_client() -> None:
    async def test() -> None:
        async with fake_server() as server:
            with pytest.raises(AuthError) as raised:
                await a_client(server, "bad").connect()
            assert raised.value.code == "bad_token"
            assert server.opened == 1

    run(test())


def test_token_function_is_asked_on_every_connection() -> None:
    async def test() -> None:
        tokens = iter(["good", "fresh"])

        async def token() -> str:
            return next(tokens)

        async with fake_server() as server, a_client(server, token) as client:
            server.tokens["fresh"] = "ann"
            server.drop()
            await server.wait_for(lambda: len(server.got("auth")) == 2)
            await client.ping()
            assert [each["token"] for each in server.got("auth")] == ["good", "fresh"]

    run(test())


def test_token_function_may_answer_an_expired_token_with_a_fresh_one() -> None:
    async def test() -> None:
        tokens = iter(["stale", "good"])
        async with fake_server() as server:
            server.auth_error = "token_expired"
            async with a_client(server, lambda: next(tokens)) as client:
                assert client.user == {"id": "ann"}
            assert server.opened == 2

    run(test())


@pytest.mark.parametrize("code", [4500, 4503, 4509, 4510])
def test_close_code_that_forbids_reconnection_is_obeyed(code: int) -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await server.close_all(code)
            with pytest.raises(ConnectRefused) as raised:
                async for _ in client:
                    pass
            assert raised.value.code == code
            assert server.opened == 1
            with pytest.raises(ConnectRefused):
                await client.broadcast("a", 1)

    run(test())


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4001, 4002, 4003, 4008, 4010])
def test_other_close_codes_lead_to_a_new_connection(code: int) -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            await server.close_all(code)
            await server.wait_for(lambda: server.opened == 2)
            await client.ping()

    run(test())


def test_announced_reconnection_happens_even_if_the_server_forgets_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuskws_fast.client.client.PATIENCE_S", 0.05)

    async def test() -> None:
        async with fake_server() as server, Client(server.url, "good", backoff=Backoff(1000, 1000)) as client:
            await client.join("a")
            await server.push({"type": "reconnect", "after_ms": 20, "reason": "drain"})
            await server.wait_for(lambda: server.opened == 2)  # and not in 1000 s
            await server.wait_for(lambda: len(server.got("join_room")) == 2)

    run(test())


def test_before_a_planned_move_answers_still_come_and_what_is_asked_then_waits_for_the_next_connection() -> None:
    async def test() -> None:
        held, asked = asyncio.Event(), asyncio.Event()
        async with fake_server() as server, Client(server.url, "good", backoff=Backoff(1000, 1000)) as client:

            async def slowly(connection: ServerConnection, command: dict[str, Any]) -> dict[str, Any]:
                asked.set()
                await held.wait()
                return {"type": "room_info", "member_count": 7}

            server._on_room_info = slowly  # type: ignore[attr-defined]
            question = asyncio.create_task(client.request("room_info", room="a"))
            await asked.wait()
            await server.push({"type": "reconnect", "after_ms": 0, "reason": "restart"})

            async def moving() -> bool:
                return not client.connected

            await eventually(moving, "the client has begun to move")
            later = asyncio.create_task(client.ping())
            held.set()
            assert (await question)["member_count"] == 7
            assert server.got("ping") == []
            await server.close_all(4010)
            assert await later == 12.5
            assert server.opened == 2

    run(test())


@pytest.mark.parametrize("code", [1001, 1012, 4010])
def test_who_was_told_to_move_and_is_closed_first_returns_without_a_delay(code: int) -> None:
    async def test() -> None:
        async with fake_server() as server, Client(server.url, "good", backoff=Backoff(1000, 1000)) as client:
            told = asyncio.Event()
            client.on("reconnect", lambda push: told.set())
            await server.push({"type": "reconnect", "after_ms": 100_000, "reason": "restart"})
            await told.wait()
            await server.close_all(code)
            await server.wait_for(lambda: server.opened == 2)  # and not in 1000 s

    run(test())


def test_server_that_is_down_is_tried_until_it_is_up() -> None:
    async def test() -> None:
        attempts = 0

        def process_request(connection: ServerConnection, request: Request) -> Response | None:
            nonlocal attempts
            attempts += 1
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "full") if attempts < 4 else None

        backoff = Backoff(0.001, 0.01)
        async with (
            fake_server(process_request=process_request) as server,
            Client(server.url, "good", backoff=backoff) as client,
        ):
            assert await client.ping() == 12.5
            assert backoff.attempts == 0  # the next loss begins with short delays again
        assert attempts == 4

    run(test())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
def test_refused_upgrade_ends_the_client(status: int) -> None:
    async def test() -> None:
        async with fake_server(
            process_request=lambda connection, request: connection.respond(http.HTTPStatus(status), "no")
        ) as server:
            with pytest.raises(ConnectRefused) as raised:
                await a_client(server).connect()
            assert raised.value.code == status

    run(test())


def test_without_reconnection_the_first_loss_ends_the_client() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server, reconnect=False) as client:
            server.drop()
            with pytest.raises(ConnectionLost):
                async for _ in client:
                    pass
            assert server.opened == 1

    run(test())


def test_closing_is_clean_and_ends_what_waits() -> None:
    async def test() -> None:
        async with fake_server() as server:
            client = await a_client(server).connect()
            server.swallow_acks = 1
            await client.join("a")
            publishing = asyncio.create_task(client.broadcast("a", 1))
            iterating = asyncio.create_task(take(client, 99))
            await server.wait_for(lambda: len(server.got("broadcast")) == 1)
            (connection,) = server.connections
            await client.close()
            with pytest.raises(ClientClosed):
                await publishing
            assert len(await iterating) <= 1
            await connection.wait_closed()
            assert connection.close_code == 1000
            with pytest.raises(ClientClosed):
                await client.ping()

    run(test())


def test_message_that_json_cannot_say_fails_at_once_and_is_not_kept() -> None:
    async def test() -> None:
        async with fake_server() as server, a_client(server) as client:
            with pytest.raises(TypeError):
                await client.broadcast("a", object())
            assert client.state.outbox == {}

    run(test())
