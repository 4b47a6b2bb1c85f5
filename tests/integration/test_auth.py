"""Who may in: tokens at the handshake and in band, refresh, refusal, expiry; and what strangers and guests may do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from helpers.clients import on_loop, people
from helpers.commands import EXAMPLES
from helpers.server import SECRET, RunningServer, running_server, started_server
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tuskws_fast.auth.tokens import make_token

Name = Callable[[str], str]


@pytest.fixture(scope="module")
def guests() -> Iterator[RunningServer]:
    """A server without a key."""
    with started_server(workers=2) as running:
        yield running


@on_loop
async def test_token_at_the_handshake_is_an_identity_at_once(server: RunningServer, name: Name) -> None:
    token = server.token(name("ann"), username="Ann")
    async with connect(server.url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        assert json.loads(await socket.recv())["authenticated"] is True
        await socket.send(json.dumps({"type": "join_room", "room": name("room")}))
        joined = json.loads(await socket.recv())
        assert joined["members"] == [{"userId": name("ann"), "username": "Ann", "status": "online"}]


@on_loop
async def test_bad_token_at_the_handshake_is_401(server: RunningServer, name: Name) -> None:
    forged = make_token("x" * 40, name("ann"))
    expired = server.token(name("ann"), ttl_s=-10)
    for token in (forged, expired, "a.b.c", "x" * 9_000, ""):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server.url, additional_headers={"Authorization": f"Bearer {token}"}):
                pass
        assert refused.value.response.status_code == 401


@on_loop
async def test_query_token_works_where_it_is_allowed() -> None:
    async with running_server(workers=1, jwt_secret=SECRET, allow_query_token=True) as server:
        async with connect(f"{server.url}?token={server.token('ann')}") as socket:
            assert json.loads(await socket.recv())["authenticated"] is True
        with pytest.raises(InvalidStatus):
            async with connect(f"{server.url}?token=canary-77"):
                pass
        assert "canary-77" not in server.log_text()


@on_loop
async def test_before_authentication_only_four_commands_are_accepted(server: RunningServer) -> None:
    async with people(server) as crowd:
        stranger = await crowd.connect(None)
        for kind, example in EXAMPLES.items():
            if kind in ("auth", "batch", "ack"):
                continue
            reply = await stranger.request(kind, **{key: example[key] for key in example.keys() - {"type", "id"}})
            expected = kind in ("hello", "ping", "resume")
            assert (reply.get("code") == "not_authenticated") is not expected, (kind, reply)
        await stranger.send({"type": "batch", "messages": [{"type": "list_rooms", "id": "inner"}]})
        assert (await stranger.expect_reply("inner"))["code"] == "not_authenticated"


@on_loop
async def test_fifth_failure_closes(server: RunningServer) -> None:
    async with people(server) as crowd:
        stranger = await crowd.connect(None)
        for n in range(5):
            await stranger.send({"type": "auth", "token": f"{n}.b.c"})
            failed = await stranger.expect("auth_failed")
            assert failed["code"] == "bad_token"
            assert failed["message"]
        await stranger.expect_close(4500)


@on_loop
async def test_expired_token_is_told_apart(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        stranger = await crowd.connect(None)
        failed = await stranger.request("auth", token=server.token(name("ann"), ttl_s=-10))
        assert (failed["type"], failed["code"]) == ("auth_failed", "token_expired")


@on_loop
async def test_another_sub_is_refused_and_the_identity_kept(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        await ann.request("join_room", room=name("room"))
        refused = await ann.request("auth", token=server.token(name("bob")))
        assert (refused["type"], refused["code"]) == ("auth_failed", "forbidden")
        await ann.request("broadcast", room=name("room"), message="still me")
        assert (await ann.expect("room_message"))["from"] == name("ann")


@on_loop
async def test_refresh_changes_what_one_may_do(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        ann = await crowd.connect(name("ann"))
        assert (await ann.request("create_room", room=name("room"), settings={}))["code"] == "forbidden"
        token = server.token(name("ann"), rooms={name("room"): ["create"]})
        assert (await ann.request("auth", token=token))["type"] == "auth_success"
        assert (await ann.request("create_room", room=name("room"), settings={}))["type"] == "room_created"


@on_loop
async def test_connection_ends_with_its_token_unless_refreshed(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        now = time.time()
        short = {"ttl_s": 2, "now": now}
        ends = await crowd.connect(name("ann"), **short)
        lives = await crowd.connect(name("ann"), **short)
        await lives.request("auth", token=server.token(name("ann"), ttl_s=600))
        await ends.expect_close(4001)
        assert int(now + 2) <= time.time() <= now + 6
        assert (await lives.request("ping"))["type"] == "pong"


@on_loop
async def test_authentication_must_come_in_time() -> None:
    async with running_server(workers=1, jwt_secret=SECRET, auth_timeout="500ms") as server, people(server) as crowd:
        silent = await crowd.connect(None)
        chatty = await crowd.connect(None)
        known = await crowd.connect("ann")
        await chatty.request("ping")
        started = time.monotonic()
        await silent.expect_close(4500)
        await chatty.expect_close(4500)
        assert time.monotonic() - started < 5
        assert (await known.request("ping"))["type"] == "pong"


@on_loop
async def test_claims_are_checked_against_issuer_and_audience() -> None:
    flags = {"jwt_secret": SECRET, "jwt_issuer": "https://id.example", "jwt_audience": "chat"}
    async with running_server(workers=1, **flags) as server, people(server) as crowd:
        await crowd.connect("ann", iss="https://id.example", aud=["chat", "mail"])
        stranger = await crowd.connect(None)
        for claims in ({}, {"iss": "https://id.example"}, {"iss": "https://id.example", "aud": "mail"}):
            failed = await stranger.request("auth", token=server.token("ann", **claims))
            assert failed["code"] == "bad_token"


# -- guests ------------------------------------------------------------------------------------------------------------


@on_loop
async def test_without_a_key_everyone_is_a_guest(guests: RunningServer, name: Name) -> None:
    async with people(guests) as crowd:
        one, other = await crowd.connect(), await crowd.connect()
        assert one.seen[0]["authenticated"] is True
        for guest in (one, other):
            assert (await guest.request("join_room", room=name("room")))["type"] == "room_joined"
        await one.request("broadcast", room=name("room"), message="hi")
        assert (await other.expect("room_message"))["from"].startswith("guest-")
        assert (await one.request("create_room", room=name("other"), settings={}))["code"] == "forbidden"
        assert (await one.request("auth", token="a.b.c"))["type"] == "auth_failed"


@on_loop
async def test_guest_may_sign_in_where_authentication_is_optional() -> None:
    async with running_server(workers=1, jwt_secret=SECRET, no_require_auth=True) as server, people(server) as crowd:
        guest = await crowd.connect()
        assert guest.seen[0]["authenticated"] is True
        reply = await guest.request("auth", token=server.token("ann"))
        assert reply["user"]["id"] == "ann"


# -- origins -----------------------------------------------------------------------------------------------------------


@on_loop
async def test_origin_is_checked_when_origins_are_given() -> None:
    async with running_server(workers=1, allowed_origins="https://app.example.com,https://*.wild.example") as server:
        own = f"http://127.0.0.1:{server.port}"
        for origin in (None, own, "https://app.example.com", "https://a.b.wild.example"):
            async with connect(server.url, origin=origin):  # type: ignore[arg-type]
                pass
        for origin in ("null", "https://evil.example", "http://app.example.com", "https://wild.example",
                       "https://app.example.com:8443", "https://app.example.com.evil.example"):  # fmt: skip
            with pytest.raises(InvalidStatus) as refused:
                async with connect(server.url, origin=origin):  # type: ignore[arg-type]
                    pass
            assert refused.value.response.status_code == 403


@on_loop
async def test_any_origin_may_connect_when_none_is_given(guests: RunningServer) -> None:
    async with connect(guests.url, origin="https://anywhere.example"):  # type: ignore[arg-type]
        pass
