"""The seed's programming surface on real processes: handlers, middleware, rooms from handlers, and their failures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers.raw import RawClient
from helpers.server import RunningServer, started_server


def greeted(server: RunningServer) -> RawClient:
    client = RawClient(server.port)
    client.user = client.expect("welcome")["user"]["id"]  # type: ignore[attr-defined]
    return client


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with started_server(workers=2, app="helpers.sample_app:plain") as running:
        yield running


def test_a_registered_handler_answers_its_command_and_the_protocol_goes_on(server: RunningServer) -> None:
    with greeted(server) as client:
        client.send({"type": "custom_action"})
        client.send({"type": "ping", "id": 1})
        assert client.message() == {"type": "custom_response", "data": "Action processed"}
        assert client.message()["id"] == 1


def test_a_failing_handler_costs_its_command_only_and_tells_nothing(server: RunningServer) -> None:
    with greeted(server) as client:
        client.send({"type": "fail", "id": "x"})
        assert client.message() == {"type": "error", "code": "internal", "message": "Internal error", "id": "x"}
        client.send({"type": "ping", "id": 2})
        assert client.message()["type"] == "pong"


def test_a_handler_may_refuse_with_a_code(server: RunningServer) -> None:
    with greeted(server) as client:
        client.send({"type": "refuse", "id": 1})
        assert client.message() == {"type": "error", "code": "forbidden", "message": "not today", "id": 1}


def test_rooms_from_handlers_reach_clients_on_every_worker(server: RunningServer) -> None:
    with greeted(server) as host, greeted(server) as guest:
        host.send({"type": "open_hall"})
        joined = host.message()
        assert (joined["type"], joined["room"]) == ("room_joined", "hall")
        push = host.message()
        assert (push["type"], push["message"], push["from"]) == ("room_message", "welcome", "server")
        assert host.message() == {"type": "hall", "members": 1, "offset": 1, "rooms": ["hall"]}
        guest.send({"type": "join_room", "room": "hall", "id": 1})
        assert guest.message()["code"] == "forbidden"
        host.send({"type": "invite", "user": guest.user})  # type: ignore[attr-defined]
        host.expect("invited")
        guest.send({"type": "join_room", "room": "hall", "id": 2})
        assert guest.expect("room_joined")["member_count"] == 2
        host.send({"type": "announce", "text": "hear"})
        assert guest.expect("announcement")["text"] == "hear"
        # A second `open_hall` meets the existing room: the broker's refusal is the handler's, and the client's answer.
        host.send({"type": "open_hall", "id": 9})
        assert host.expect("error")["code"] == "room_exists"


def test_middleware_and_an_overridden_handle_message_see_every_command_in_order() -> None:
    with started_server(workers=1, app="helpers.sample_app:strict") as server, greeted(server) as client:
        client.send({"type": "join_room", "room": "r"})
        client.send({"type": "who", "id": 1})
        client.send({"type": "broadcast", "room": "r", "message": "swear", "id": 2})
        client.send({"type": "broadcast", "room": "r", "message": "fine", "id": 3})
        assert client.expect("you")["trail"] == ["outer", "inner"]
        refused = client.expect("error")
        assert (refused["id"], refused["code"], refused["message"]) == (2, "moderated", "mind your language")
        assert client.expect("room_message")["message"] == "fine"


@pytest.mark.parametrize(
    "name", ["helpers.no_such_module:server", "helpers.sample_app:nothing", "helpers.sample_app:not_a_server"]
)
def test_an_application_that_cannot_be_loaded_stops_the_node_with_the_reason(name: str) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "tuskws_fast", "--port", "0", "--workers", "1", "--app", name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 3
    assert name in done.stderr
    assert "Traceback" not in done.stderr
