"""Every bad input has its documented answer, costs its sender at most its own connection, and leaves no traceback.

What answer a shape of message deserves is stated by hand in tests/unit/protocol/test_messages.py; here the checker is
the oracle, and the question is whether a running server, with a broker behind it, gives that answer and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from helpers.clients import SpeakingClient, on_loop, people
from helpers.commands import EXAMPLES, faults
from helpers.raw import RawClient
from helpers.server import RunningServer
from helpers.waiting import pace
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tuskws_fast.protocol.messages import COMMANDS, MessageFault, check, id_of

Name = Callable[[str], str]


@contextlib.asynccontextmanager
async def undisturbed(server: RunningServer, name: Name) -> AsyncIterator[None]:
    """Two people talk all the while; not a word of theirs may be lost, or come out of order."""
    async with people(server) as crowd:
        speaker, listener = await crowd.connect(name("speaker")), await crowd.connect(name("listener"))
        for client in (speaker, listener):
            await client.request("join_room", room=name("quiet-corner"))
        done = asyncio.Event()

        async def talk() -> int:
            said = 0
            while not done.is_set() or said < 5:
                said = (await speaker.request("broadcast", room=name("quiet-corner"), message=said + 1))["offset"]
                heard = await listener.expect("room_message")
                assert (heard["offset"], heard["message"]) == (said, said)
                await pace(0.01)
            return said

        talking = asyncio.create_task(talk())
        try:
            yield
        finally:
            done.set()
            assert await talking >= 5


# -- shapes ------------------------------------------------------------------------------------------------------------


@on_loop
@pytest.mark.parametrize("kind", EXAMPLES)
async def test_null_list_list_of_null_zero_and_x_at_every_position(
    server: RunningServer, name: Name, kind: str
) -> None:
    async with undisturbed(server, name), people(server) as crowd:
        client = await crowd.connect(name("user"), roles=["admin"])
        await client.request("join_room", room="general")
        tried = 0
        for command_kind, path, _, command in faults():
            if command_kind == kind and path:
                tried += 1
                # Another id each time, unless the id is the fault: the same again means "the same again".
                again = {"id": f"{kind}-{tried}"} if path != ("id",) and "id" in command else {}
                if kind == "resume":
                    # Its ticket is nobody's, and who shows five such is sent away.
                    client = await crowd.connect(name(f"user-{tried}"))
                await answer_is_right(client, {**command, **again})
        assert tried >= 5


async def answer_is_right(client: SpeakingClient, command: dict[str, Any]) -> None:
    """The documented answer came, or none where there is none; and then the connection still answers."""
    await client.send(command)
    code = code_of(command)
    command_id = id_of(command)
    if code is not None:
        error = await client.expect_error(code)
        assert error.get("id") == command_id, (command, error)
        assert error["message"]
    elif command_id is not None and COMMANDS[command["type"]].reply is not None:
        reply = await client.expect_reply(command_id)
        expected = {COMMANDS[command["type"]].reply, "error", "auth_failed"}
        assert reply["type"] in expected, (command, reply)
        assert reply.get("code") not in ("internal", "bad_json", "bad_message"), (command, reply)
    await client.barrier()  # also a valid command, which ends the row of faults
    client.forget()


def code_of(command: dict[str, Any]) -> str | None:
    try:
        check(copy.deepcopy(command))
    except MessageFault as fault:
        return fault.code
    return None


NOT_A_COMMAND = {
    "null": "null",
    "list": "[]",
    "list of null": "[null]",
    "list of a command": '[{"type":"ping"}]',
    "number": "0",
    "string": '"x"',
    "true": "true",
    "empty": "",
    "blank": "   ",
    "half": '{"type":"ping"',
    "trailing bytes": '{"type":"ping"}x',
    "two values": '{"type":"ping"}{"type":"ping"}',
    "NaN": '{"type":"ping","id":NaN}',
    "Infinity": '{"type":"ping","id":Infinity}',
    "overflowing number": '{"type":"broadcast","room":"a","message":1e999}',
    "lone surrogate": '{"type":"ping","id":"\\ud800"}',
    "lone surrogate in a key": '{"type":"ping","\\udfff":1}',
    "byte order mark": '\ufeff{"type":"ping"}',
    "NUL at the end": '{"type":"ping"}\0',
    "control character in a string": '{"type":"ping","id":"\n"}',
    "single quotes": "{'type':'ping'}",
    "deep": "[" * 5_000,
    "deep and closed": '{"type":' + "[" * 5_000 + "]" * 5_000 + "}",
}
NO_TYPE = {
    "no type": "{}",
    "type is null": '{"type":null}',
    "type is a number": '{"type":1}',
    "type is a list": '{"type":["ping"]}',
    "type is an object": '{"type":{}}',
}


@on_loop
@pytest.mark.parametrize("case", [*NOT_A_COMMAND, *NO_TYPE])
async def test_text_that_is_no_command(server: RunningServer, name: Name, case: str) -> None:
    async with people(server) as crowd:
        client = await crowd.connect(name("user"))
        await client.socket.send_text({**NOT_A_COMMAND, **NO_TYPE}[case])
        error = await client.expect_error("bad_json" if case in NOT_A_COMMAND else "bad_message")
        assert "id" not in error
        await client.barrier()


@on_loop
async def test_unknown_type_has_its_own_code_and_is_no_fault(server: RunningServer, name: Name) -> None:
    async with people(server) as crowd:
        client = await crowd.connect(name("user"))
        for n in range(30):
            reply = await client.request(("x", "", "Ping", "__proto__", "constructor", "batch ")[n % 6])
            assert reply["code"] == "unknown_type"


@on_loop
async def test_tenth_fault_in_a_row_closes(server: RunningServer, name: Name) -> None:
    async with undisturbed(server, name), people(server) as crowd:
        client = await crowd.connect(name("user"))
        for _ in range(10):
            await client.socket.send_text("{")
        for _ in range(10):
            await client.expect_error("bad_json")
        await client.expect_close(1008)


@on_loop
async def test_any_valid_command_ends_a_row_of_faults_and_unknown_types_do_not(
    server: RunningServer, name: Name
) -> None:
    async with people(server) as crowd:
        client = await crowd.connect(name("user"))
        for _ in range(3):
            for _ in range(9):
                await client.send({"type": "join_room"})
                await client.expect_error("bad_message")
            await client.request("ping")
        for _ in range(9):
            await client.send([])
            await client.send({"type": "nonsense"})
        await client.send([])
        await client.expect_close(1008)


@on_loop
async def test_long_strings_and_many_keys(server: RunningServer, name: Name) -> None:
    async with undisturbed(server, name), people(server) as crowd:
        client = await crowd.connect(name("user"))
        assert (await client.request("join_room", room="a" * 10_000))["code"] == "bad_room_name"
        assert (await client.request("private_message", to="b" * 10_000, message=1))["code"] == "bad_message"
        assert (await client.request("ping", **{f"k{n}": n for n in range(4_000)}))["type"] == "pong"
        assert (await client.request("get_presence", users=["u"] * 1_001))["code"] == "bad_message"
        await client.send({"type": "ping", "id": "x" * 65})
        assert "id" not in await client.expect_error("bad_message")
        await client.socket.send_text('{"type":"ping","id":' + "9" * 5_000 + "}")
        await client.expect_error("bad_json")
        await client.socket.send_text('{"type":"list_rooms","type":"ping","id":1}')  # the last of two names counts
        assert (await client.expect_reply(1))["type"] == "pong"


# -- frames ------------------------------------------------------------------------------------------------------------


@on_loop
async def test_binary_frame_of_json_is_a_command_like_any_other(server: RunningServer) -> None:
    async with connect(server.url) as socket:
        await socket.recv()
        await socket.send(b'{"type":"ping","id":"\xc3\xa9"}')
        answer = await socket.recv()
        assert isinstance(answer, str)
        assert json.loads(answer)["id"] == "é"
        await socket.send(b"\xff\xfe")
        assert json.loads(await socket.recv())["code"] == "bad_json"


@pytest.mark.parametrize(
    "payload", [b"\xff", b'{"type":"ping","id":"\xed\xa0\x80"}', b"\xc0\xaf", b'"\xf4\x90\x80\x80"']
)
def test_text_frame_that_is_not_utf_8_closes_1007(server: RunningServer, payload: bytes) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.send_frame(payload)
        assert client.close_code() == 1007


FRAMES_REFUSED = {
    "unmasked": (b"\x81\x02{}", 1002),
    "reserved opcode": (b"\x83\x80\0\0\0\0", 1002),
    "reserved control opcode": (b"\x8b\x80\0\0\0\0", 1002),
    "RSV1 without compression": (b"\xc1\x80\0\0\0\0", 1002),
    "RSV2": (b"\xa1\x80\0\0\0\0", 1002),
    "RSV3": (b"\x91\x80\0\0\0\0", 1002),
    "fragmented ping": (b"\x09\x80\0\0\0\0", 1002),
    "ping of 126 bytes": (b"\x89\xfe\x00\x7e" + b"\0" * 130, 1002),
    "continuation of nothing": (b"\x80\x80\0\0\0\0", 1002),
    "new message inside a message": (b"\x01\x80\0\0\0\0\x01\x80\0\0\0\0", 1002),
    "close of one byte": (b"\x88\x81\0\0\0\0\x03", 1002),
    "length of 2^62": (b"\x81\xff\x40" + b"\0" * 7 + b"\0" * 4, 1009),
    "one byte over the frame limit": (b"\x81\xff" + (64 * 1024 + 1).to_bytes(8, "big") + b"\0" * 4, 1009),
}


@pytest.mark.parametrize("case", FRAMES_REFUSED)
def test_frame_that_breaks_the_rules_closes(server: RunningServer, case: str) -> None:
    data, code = FRAMES_REFUSED[case]
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.socket.sendall(data)
        assert client.close_code() == code


def test_close_is_answered_and_ends_the_stream(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.send_frame((1000).to_bytes(2, "big"), opcode=8)
        assert client.close_code() == 1000
        with pytest.raises(EOFError):
            client.frame()


def test_fragments_with_a_ping_between_are_one_command(server: RunningServer) -> None:
    with RawClient(server.port) as client:
        client.expect("welcome")
        client.send_frame(b'{"type":"pi', fin=False)
        client.send_frame(b"still here?", opcode=9)
        assert client.frame() == (10, b"still here?")
        client.send_frame(b'ng","id":1}', opcode=0)
        assert client.expect("pong")["id"] == 1


# -- before the upgrade ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200), ("/ws", 426), ("/health", 200), ("/livez", 200), ("/readyz", 200), ("/other", 404), ("/ws/x", 404),
        ("//ws", 404), ("/../ws", 404), ("/%77s", 404), ("/ws?token=canary", 426),
    ],
)  # fmt: skip
def test_plain_request(server: RunningServer, path: str, status: int) -> None:
    assert server.get(path)[0] == status


HANDSHAKE = {
    "Host": "test",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def request(headers: dict[str, str], line: str = "GET /ws HTTP/1.1") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in HANDSHAKE.items() if key != name}


REQUESTS: dict[str, tuple[bytes, int]] = {
    "good": (request(HANDSHAKE), 101),
    "keep-alive, Upgrade": (request({**HANDSHAKE, "Connection": "keep-alive, Upgrade"}), 101),
    "case of values": (request({**HANDSHAKE, "Upgrade": "WebSocket", "Connection": "upgrade"}), 101),
    "our subprotocol among others": (request({**HANDSHAKE, "Sec-WebSocket-Protocol": "mqtt, tusk.v1"}), 101),
    "only unknown subprotocols": (request({**HANDSHAKE, "Sec-WebSocket-Protocol": "mqtt"}), 400),
    "no upgrade": (request(without("Upgrade")), 426),
    "no key": (request(without("Sec-WebSocket-Key")), 400),
    "short key": (request({**HANDSHAKE, "Sec-WebSocket-Key": "AAAA"}), 400),
    "no version": (request(without("Sec-WebSocket-Version")), 426),
    "old version": (request({**HANDSHAKE, "Sec-WebSocket-Version": "8"}), 426),
    "no host": (request(without("Host")), 400),
    "other path": (request(HANDSHAKE, "GET /chat HTTP/1.1"), 404),
    "POST": (request({**HANDSHAKE, "Content-Length": "0"}, "POST /ws HTTP/1.1"), 405),
    "HTTP/1.0": (request(HANDSHAKE, "GET /ws HTTP/1.0"), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "header without a colon": (b"GET /ws HTTP/1.1\r\nHost: test\r\nnonsense\r\n\r\n", 400),
    "NUL in a header": (request({**HANDSHAKE, "X-A": "a\0b"}), 400),
    "key twice": (request(HANDSHAKE)[:-2] + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAQ==\r\n\r\n", 400),
    "host twice": (request(HANDSHAKE)[:-2] + b"Host: other\r\n\r\n", 400),
    "too many headers": (request({**HANDSHAKE, **{f"X-{n}": "v" for n in range(200)}}), 431),
    "huge header": (request({**HANDSHAKE, "X-A": "a" * 40_000}), 431),
    "bad token": (request({**HANDSHAKE, "Authorization": "Bearer a.b.c"}), 401),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_handshake(server: RunningServer, case: str) -> None:
    data, status = REQUESTS[case]
    head = answer_to(server, data)
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    if status == 426:
        assert b"\r\nsec-websocket-version: 13" in head.lower()
    if case == "our subprotocol among others":
        assert b"\r\nsec-websocket-protocol: tusk.v1" in head.lower()


def answer_to(server: RunningServer, data: bytes) -> bytes:
    """Everything up to the end of the response's head (more may have come with it)."""
    with open_socket(server) as plain:
        plain.sendall(data)
        head = b""
        while b"\r\n\r\n" not in head and (more := plain.recv(65536)):
            head += more
        return head


@contextlib.contextmanager
def open_socket(server: RunningServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        yield plain


@pytest.mark.parametrize("path", ["/", "/health", "/ws", "/nowhere"])
def test_head_is_answered_as_get_without_a_body(server: RunningServer, path: str) -> None:
    status, body = server.get(path)
    with open_socket(server) as plain:
        plain.sendall(f"HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        answer = b""
        while more := plain.recv(65536):
            answer += more
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"content-length: {len(body)}".encode() in head.lower() or path == "/health"  # whose body has a clock in it
    assert rest == b""


def test_query_token_is_off_and_never_logged(server: RunningServer) -> None:
    async def attempt() -> None:
        async with connect(f"{server.url}?token=canary-5e1f") as socket:
            assert json.loads(await socket.recv())["authenticated"] is False
        with pytest.raises(InvalidStatus):
            async with connect(server.url, additional_headers={"Authorization": "Bearer canary-5e1f.x.y"}):
                pass

    asyncio.run(attempt())
    assert "canary-5e1f" not in server.log_text()


def test_health_is_json(server: RunningServer) -> None:
    for path in ("/health", "/livez", "/readyz"):
        assert "status" in json.loads(server.get(path)[1])
