"""The thin shell around `state`: one `websockets` connection at a time, and calls that await their answers.

    async with Client("ws://localhost:8080", token) as client:
        room = await client.join("general")
        await room.broadcast("hello")
        async for push in client:
            print(push)

One task lives as long as the client: connect, resume or authenticate, read until the connection is gone, wait (full
jitter, 0.5 s doubling to 30 s), again; for ever, unless the server says that it is pointless (401 and other 4xx, close
4500-4999, a refused token). What outlives a connection is in `ClientState`; what is here is I/O and time.

What is to be sent is queued in order and written by a second task of the connection, so that no call waits for a
socket, and thousands of publications sent again cannot stop the reading of their own answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tuskws_fast.client.errors import AuthError, ClientClosed, CommandError, ConnectionLost, ConnectRefused
from tuskws_fast.client.pushes import Callback, Pushes
from tuskws_fast.client.room import Room
from tuskws_fast.client.state import Backoff, ClientState, CommandId, Message, Step
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import CloseCode, ErrorCode, may_reconnect

SUBPROTOCOL = "tusk.v1"
PLANNED = "planned reconnect"
# The server closes half a second after the moment that it gave; if it does not, we do.
PATIENCE_S = 3.0
# With these it closes whom it has told to come back.
_MOVED = frozenset({CloseCode.GOING_AWAY, CloseCode.RESTART, CloseCode.DRAINED})
FRAME_BYTES_MAX = 16 * 1024 * 1024
REFRESH_BEFORE_S = 30.0
CONFIRM_EVERY_S = 0.5
# How often a resumption is asked for that the server cannot carry out yet.
RESUME_TRIES = 5
# Answers to an upgrade that stay the same however often one asks.
_REFUSALS = frozenset({400, 401, 403, 404, 426})

Token = str | Callable[[], str | Awaitable[str]]


class Client:
    """`token`: a string, or a function (may be async) asked for a fresh one on each connection and before it expires.

    `hello`: fields of the `hello` command, e.g. `{"presence": "all"}`. `timeout_s`: how long a command may take, 0 = as
    long as it takes. `reconnect` False: the first loss of the connection ends the client.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        *,
        hello: dict[str, Any] | None = None,
        reconnect: bool = True,
        timeout_s: float = 30.0,
        open_timeout_s: float = 10.0,
        ping_interval_s: float = 20.0,
        backoff: Backoff | None = None,
        **connect_options: Any,
    ) -> None:
        self.url = url
        self.state = ClientState(secrets.token_hex(6))
        self.welcome: Message = {}
        self.user: Message | None = None
        self._token = token
        self._hello = hello
        self._reconnect = reconnect
        self._timeout_s = timeout_s or None
        self._backoff = backoff or Backoff()
        self._connect_options: dict[str, Any] = {
            "subprotocols": [SUBPROTOCOL],
            "max_size": FRAME_BYTES_MAX,
            "open_timeout": open_timeout_s,
            "ping_interval": ping_interval_s,
            "ping_timeout": ping_interval_s,
            **connect_options,
        }
        self._connection: ClientConnection | None = None
        self._answers: dict[CommandId, asyncio.Future[Message]] = {}
        self._pushes = Pushes(self._on_done)
        self._expires_at: float | None = None
        self._confirming = False
        self._outgoing: deque[str] = deque()
        self._to_write = asyncio.Event()
        self._up = asyncio.Event()
        self._moving = False
        self._closing = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Return once connected and authenticated; raises what ended the client (see `errors`) if that comes first."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        up = asyncio.ensure_future(self._up.wait())
        try:
            await asyncio.wait((up, self._task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self._up.is_set():
            raise self._end()
        return self

    async def close(self) -> None:
        """A clean end: memberships and presence end at once."""
        self._closing = True
        if self._connection is not None:
            await self._confirm_last(self._connection)
            await self._connection.close(CloseCode.NORMAL)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._fail_all(ClientClosed())
        self._pushes.end()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def ended(self) -> bool:
        return self._closing or (self._task is not None and self._task.done())

    def _end(self) -> Exception:
        """Why there is no connection and will be none."""
        task = self._task
        if task is not None and task.done() and not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                return error
        return ClientClosed("the client is closed")

    # -- commands ----------------------------------------------------------------------------------------------------

    async def request(self, kind: str, **fields: Any) -> Message:
        """Send any command and await its answer. Raises `CommandError` for an error, `ConnectionLost` for none."""
        await self._wait_until_up()
        command_id = self.state.next_id()
        answer = self._expect(command_id)
        self._send({"type": kind, "id": command_id, **fields})
        return await self._answer(command_id, answer)

    async def join(self, room: str, *, password: str | None = None, history: int | None = None) -> Room:
        """Be in `room` from now on, over every reconnection, until `leave` (or a `room_lost` push)."""
        if self.ended:
            raise self._end()
        if room in self.state.rooms:
            raise CommandError({"code": ErrorCode.ALREADY_IN_ROOM, "message": ErrorCode.ALREADY_IN_ROOM.text})
        command_id, commands = self.state.join(room, password, history)
        answer = self._expect(command_id)
        self._send(*commands)
        return Room(self, await self._answer(command_id, answer))

    async def leave(self, room: str) -> None:
        self._resolve(self.state.leave(room))
        if self.connected:
            try:
                await self.request("leave_room", room=room)
            except ConnectionLost:
                return  # nothing joins it again: the grace ends the membership

    async def broadcast(self, room: str, message: Any, **options: Any) -> Message:
        """Publish and await the `ack`. Sent again after a loss of the connection or a refusal that names a time
        (`rate_limited`, the server recovering from a fault), and not published twice.

        `options` are the command's own: `echo`, `ack` (a level), `receipt` (then `receipt` pushes come, see `ack`).
        """
        return await self._publish({"type": "broadcast", "room": room, "message": message, **options})

    async def private_message(self, to: str, message: Any, **options: Any) -> Message:
        """As `broadcast`, to every connection of the user `to`."""
        return await self._publish({"type": "private_message", "to": to, "message": message, **options})

    async def ack(self, room: str, offset: int) -> None:
        """Confirm everything in `room` up to `offset`: who published it with `receipt=True` is told how many have."""
        await self._wait_until_up()
        self._send({"type": "ack", "room": room, "offset": offset})

    async def presence(self, status: str) -> None:
        await self.request("presence", status=status)

    async def get_presence(self, *, users: list[str] | None = None, room: str | None = None) -> list[Message]:
        asked: dict[str, Any] = {"users": users} if users is not None else {"room": room}
        answer: list[Message] = (await self.request("get_presence", **asked))["users"]
        return answer

    async def history(self, room: str, *, since: tuple[str, int] | None = None, limit: int | None = None) -> Message:
        fields: dict[str, Any] = {"room": room}
        if since is not None:
            fields["since"] = {"epoch": since[0], "offset": since[1]}
        if limit is not None:
            fields["limit"] = limit
        return await self.request("history", **fields)

    async def create_room(self, room: str, **settings: Any) -> Message:
        return await self.request("create_room", room=room, settings=settings)

    async def ping(self) -> float:
        """The server's clock."""
        answer: float = (await self.request("ping"))["timestamp"]
        return answer

    async def _publish(self, command: Message) -> Message:
        if self.ended:
            raise self._end()
        _text(command)  # what JSON cannot say must fail here, not on every connection from now on
        command_id, commands = self.state.publish(command)
        answer = self._expect(command_id)
        self._send(*commands)
        return await self._answer(command_id, answer, timeout_s=None)

    async def _wait_until_up(self) -> None:
        if not self.connected:
            async with asyncio.timeout(self._timeout_s):
                await self.connect()

    def _expect(self, command_id: CommandId) -> asyncio.Future[Message]:
        answer = self._answers[command_id] = asyncio.get_running_loop().create_future()
        return answer

    async def _answer(
        self, command_id: CommandId, answer: asyncio.Future[Message], timeout_s: float | None = 0.0
    ) -> Message:
        try:
            async with asyncio.timeout(self._timeout_s if timeout_s == 0.0 else timeout_s):
                message = await answer
        finally:
            self._answers.pop(command_id, None)
        if message["type"] == "error":
            raise CommandError(message)
        return message

    # -- pushes ------------------------------------------------------------------------------------------------------

    def on(self, kind: str, callback: Callback) -> None:
        """Call `callback(push)` for pushes of this type (`"*"`: of any); what is awaitable in its result is awaited."""
        self._pushes.on(kind, callback)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Every push without a callback, in order. Ends when `close` was called; raises what ended the client else."""
        async for push in self._pushes.iterate():
            yield push
        if not self._closing:
            raise self._end()

    # -- connection --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                floor_s, planned = 0.0, False
                try:
                    planned = await self._converse()
                except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
                    floor_s = _retry_after_s(error)
                if not self._reconnect and not self._closing:
                    raise ConnectionLost("the connection is gone")
                # What the server asked for is a floor, the jitter comes on top; in a drain the server did the jitter.
                await asyncio.sleep(0.0 if planned else floor_s + self._backoff.next_delay_s())
        except Exception as error:
            self._fail_all(error)
            raise
        finally:
            self._pushes.end()

    async def _converse(self) -> bool:
        """One connection, from upgrade to end. True: it ended when the server had said it would."""
        self._moving = False
        async with connect(self.url, **self._connect_options) as connection:
            self._connection = connection
            writer = asyncio.create_task(self._write(connection))
            try:
                resumed = await self._introduce(connection)
                self._up.set()
                self._backoff.reset()
                if resumed is not None:
                    await self._apply(self.state.connection_resumed(resumed))
                else:
                    self._send(*self.state.connection_ready())
                while True:
                    await self._receive(codec.decode(await connection.recv()))
            except ConnectionClosed:
                pass  # what it means is in the close code, below
            finally:
                writer.cancel()
                self._on_lost()
        if not may_reconnect(connection.close_code or CloseCode.GOING_AWAY):
            raise ConnectRefused(connection.close_code or 0, connection.close_reason or "")
        return self._moving and connection.close_code in _MOVED

    async def _write(self, connection: ClientConnection) -> None:
        try:
            while True:
                while self._outgoing:
                    await connection.send(self._outgoing.popleft())
                self._to_write.clear()
                await self._to_write.wait()
        except ConnectionClosed:
            return  # the reader sees it too, and acts

    async def _introduce(self, connection: ClientConnection) -> Message | None:
        """Everything up to a session with an identity; answers are read here, nothing else comes before it. Returns the
        answer that resumed the last one, if that was possible."""
        self.welcome = codec.decode(await connection.recv())
        if self._hello is not None:
            await connection.send(_text({"type": "hello", **self._hello}))
        resumed = await self._resume(connection)
        if resumed is not None:
            return resumed
        if self._token is None:
            self.user = self.welcome.get("user")
            self.state.ticket = self.welcome.get("session")
            return None
        token = self._token if isinstance(self._token, str) else self._token()
        if inspect.isawaitable(token):
            token = await token
        await connection.send(_text({"type": "auth", "token": token}))
        while (answer := codec.decode(await connection.recv()))["type"] not in ("auth_success", "auth_failed", "error"):
            await self._receive(answer)
        if answer["type"] != "auth_success":
            if callable(self._token) and answer.get("code") in (ErrorCode.TOKEN_EXPIRED, ErrorCode.RATE_LIMITED):
                raise ConnectionError(f"token refused: {answer['code']}")  # the next one may be fresh
            raise AuthError(answer)
        self._on_auth_success(answer)
        return None

    async def _resume(self, connection: ClientConnection) -> Message | None:
        for _ in range(RESUME_TRIES):
            command = self.state.resumption()
            if command is None:
                return None
            await connection.send(_text(command))
            answer: Message = codec.decode(await connection.recv())
            while answer.get("id") != command["id"]:
                await self._receive(answer)
                answer = codec.decode(await connection.recv())
            if answer["type"] == "resumed":
                self.user = answer["user"]
                self._refresh_in_time()
                return answer
            if answer["code"] not in (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED):
                break
            await asyncio.sleep(float(answer.get("retry_after", 1.0)))
        self.state.ticket = None
        return None

    def _on_auth_success(self, answer: Message) -> None:
        self.user = answer["user"]
        self.state.ticket = answer.get("session")
        self._expires_at = answer.get("expires_at")
        self._refresh_in_time()

    def _refresh_in_time(self) -> None:
        if self._expires_at is not None and callable(self._token):
            left_s = self._expires_at - time.time()
            self._later(max(left_s - REFRESH_BEFORE_S, left_s / 2, 0.0), self._refresh_token)

    async def _refresh_token(self) -> None:
        assert callable(self._token), "only a function can give a fresh token"
        token = self._token()
        if inspect.isawaitable(token):
            token = await token
        answer = await self.request("auth", token=token)
        if answer["type"] == "auth_success":
            self._on_auth_success(answer)
        # Refused: this session ends when its first token does (4001), and the next one begins with another.

    async def _receive(self, message: Message) -> None:
        if message.get("type") == "reconnect":
            self._on_planned_reconnect(message)
        await self._apply(self.state.receive(message))

    async def _apply(self, step: Step) -> None:
        self._resolve(step)
        self._send(*step.commands)
        for delay_s, command in step.delayed:
            self._later(delay_s, partial(self._send, command))
        if step.resume_after_s is not None:
            self._later(step.resume_after_s, lambda: self._send(*self.state.resume()))
        for push in step.pushes:
            await self._pushes.put(push)

    def _on_done(self, push: Message) -> None:
        """The application has a push. Private messages are confirmed, at most twice a second: the server keeps them
        until then."""
        if self.state.deal_with(push) and not self._confirming:
            self._confirming = True
            self._later(CONFIRM_EVERY_S, self._confirm)

    def _confirm(self) -> None:
        self._confirming = False
        self._send(*self.state.confirmation())

    async def _confirm_last(self, connection: ClientConnection) -> None:
        """What would be confirmed a moment later, or the next client of this user would be sent it again."""
        for command in self.state.confirmation():
            with contextlib.suppress(ConnectionClosed):
                await connection.send(_text(command))

    def _resolve(self, step: Step) -> None:
        for command_id, message in step.answers:
            answer = self._answers.get(command_id)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def _on_planned_reconnect(self, message: Message) -> None:
        """The server will close, at a moment that it chose for us, and a little later."""
        connection = self._connection
        assert connection is not None, "a message came over it"
        self._moving = True
        self._later(message["after_ms"] / 1000, partial(self._move, connection))

    async def _move(self, connection: ClientConnection) -> None:
        """Ask nothing more here: that waits for the next connection. The server is to close, because it knows what is
        still on its way to us."""
        self._up.clear()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await connection.wait_closed()
        except TimeoutError:
            # 1001, not 1000: we are coming back, so the memberships are to be kept for the grace.
            await connection.close(CloseCode.GOING_AWAY, PLANNED)

    def _send(self, *commands: Message) -> None:
        """Queue for this connection. Without one there is nothing to do: what matters is sent again on the next."""
        if self._connection is not None and commands:
            self._outgoing.extend(_text(command) for command in commands)
            self._to_write.set()

    def _later(self, delay_s: float, action: Callable[[], Awaitable[object] | None]) -> None:
        """Run `action` after `delay_s`, unless this connection is gone by then."""

        def start() -> None:
            self._timers.discard(timer)
            task = asyncio.create_task(_run_action(action))
            self._side_tasks.add(task)
            task.add_done_callback(self._side_tasks.discard)

        timer = asyncio.get_running_loop().call_later(delay_s, start)
        self._timers.add(timer)

    def _on_lost(self) -> None:
        self._connection = None
        self._up.clear()
        self._outgoing.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.state.connection_lost()
        surviving = self.state.surviving_ids()
        for command_id, answer in self._answers.items():
            if command_id not in surviving and not answer.done():
                answer.set_exception(ConnectionLost("the connection was lost before the answer came"))

    def _fail_all(self, error: Exception) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)


async def _run_action(action: Callable[[], Awaitable[object] | None]) -> None:
    try:
        result = action()
        if result is not None:
            await result
    except (ConnectionLost, ConnectionClosed, TimeoutError):
        return  # the connection is on its way out: the next one does all this again


def _text(command: Message) -> str:
    return codec.encode(command).decode()


def _retry_after_s(error: Exception) -> float:
    """How long the server asked to wait, 0 if it said nothing. Raises where asking again is pointless."""
    if not isinstance(error, InvalidStatus):
        return 0.0
    response = error.response
    if response.status_code in _REFUSALS:
        raise ConnectRefused(response.status_code, (response.body or b"").decode(errors="replace")[:200]) from error
    try:
        return float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0  # a date, which is allowed: the backoff alone will do
