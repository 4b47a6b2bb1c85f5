"""The raw protocol on picows by hand: a frame is built once, and what one turn of the loop brought to a room leaves in
one write a member. With --plain each message is a `send` a member. --port P; prints "ready P".

This is what a page of Python reaches on the library that our server is built on, without our protocol, order or checks.
"""

from __future__ import annotations

import argparse
import asyncio
import struct

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


class Room:
    def __init__(self) -> None:
        self.members: dict[WSTransport, None] = {}
        self.pending: list[bytes] = []

    def flush(self) -> None:
        data = b"".join(self.pending)
        self.pending.clear()
        for member in self.members:
            member.underlying_transport.write(data)


def framed(payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((0x81, length)) + payload
    if length < 65536:
        return struct.pack(">BBH", 0x81, 126, length) + payload
    return struct.pack(">BBQ", 0x81, 127, length) + payload


class Member(WSListener):  # type: ignore[misc]
    def __init__(self, room: Room | None, *, plain: bool) -> None:
        self.room = room
        self.plain = plain

    def on_ws_connected(self, transport: WSTransport) -> None:
        if self.room is not None:
            self.room.members[transport] = None

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.room is not None:
            self.room.members.pop(transport, None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif self.room is None:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())
        elif self.plain:
            payload = frame.get_payload_as_bytes()
            for member in self.room.members:
                member.send(frame.msg_type, payload)
        else:
            if not self.room.pending:
                asyncio.get_running_loop().call_soon(self.room.flush)
            self.room.pending.append(framed(frame.get_payload_as_bytes()))


async def main(port: int, plain: bool) -> None:
    rooms: dict[bytes, Room] = {}

    def listener(request: WSUpgradeRequest) -> Member:
        path = bytes(request.path)
        return Member(None if path == b"/echo" else rooms.setdefault(path, Room()), plain=plain)

    server = await ws_create_server(listener, "127.0.0.1", port, backlog=4096)
    print(f"ready {port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--plain", action="store_true")
    flags = parser.parse_args()
    uvloop.run(main(flags.port, flags.plain))
