"""The application's own code in a worker: middleware, `handle_message`, `@on` handlers, and what they may call.

    command ─▶ middleware 1 ─▶ … ─▶ handle_message ─▶ the @on handler of its type, or the protocol's own command

A session's commands run one at a time and in order, in one task that lives only while it has any. A handler that
raises costs its command (`internal`), never the connection. Where the application registered nothing for a command,
`wants` says no and the command takes the worker's own path: it costs one dictionary look-up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tuskws_fast.errors import TuskwsError
from tuskws_fast.ipc import records
from tuskws_fast.ipc.records import CONN_SERVER, Level
from tuskws_fast.metrics import Metric
from tuskws_fast.protocol import codec, messages
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.permissions import EVERYTHING
from tuskws_fast.worker.session import Session

if TYPE_CHECKING:
    from tuskws_fast.worker.commands import Commands

log = logging.getLogger(__name__)

# Commands that may wait for a session's handlers; above it the connection is not read from until half are done.
WAITING_MAX = 64

Message = dict[str, Any]
Handler = Callable[["Client", Message], Awaitable[None]]
Next = Callable[["Client", Message], Awaitable[None]]
Middleware = Callable[["Client", Message, Next], Awaitable[None]]


class CommandRefused(TuskwsError):
    """What was asked for is not possible. Raised by calls of the application; raised *by* a handler, it becomes the
    `error` reply to the command."""

    def __init__(self, code: ErrorCode, text: str | None = None) -> None:
        super().__init__(text or code.text)
        self.code = code
        self.text = text or code.text


class Client:
    """A connection, as handlers see it. Valid while the connection is open; `send` after its end does nothing."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def id(self) -> str:
        """The `connection_id` that the client was told in `welcome`."""
        return f"{self._session.number:x}"

    @property
    def user_id(self) -> str | None:
        """None before authentication."""
        return self._session.user

    @property
    def username(self) -> str:
        return self._session.username

    @property
    def roles(self) -> tuple[str, ...]:
        return self._session.roles

    @property
    def rooms(self) -> frozenset[str]:
        return frozenset(self._session.rooms)

    @property
    def address(self) -> str:
        return self._session.address

    def send(self, message: Message) -> None:
        """Send one JSON object to this client."""
        self._session.reply(codec.encode(message))

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._session.connection.close(code, reason.encode()[:123])

    def __repr__(self) -> str:
        return f"<Client {self.id} user={self.user_id!r}>"


class Application:
    """What the workers run for the application. `tuskws_fast.WebSocketServer` is its public face.

    `bound` is the worker's side once the worker has started; before that (and in the supervisor) there is none.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.middleware: list[Middleware] = []
        self.bound: Handlers | None = None

    async def handle_message(self, conn: Client, data: Message) -> None:
        """Handle one command. Override it to see all of them; `super().handle_message(conn, data)` goes on as usual."""
        assert self.bound is not None, "messages are handled in a worker"
        handler = self.handlers.get(data["type"])
        if handler is not None:
            await handler(conn, data)
        else:
            self.bound.carry_out(conn, data)

    @property
    def sees_everything(self) -> bool:
        return bool(self.middleware) or type(self).handle_message is not _PLAIN_HANDLE_MESSAGE


_PLAIN_HANDLE_MESSAGE = Application.handle_message


class Handlers:
    """The bridge between a worker and its application."""

    def __init__(self, app: Application, commands: Commands, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._commands = commands
        self._loop = loop
        self._everything = app.sees_everything
        self._waiting: dict[Session, deque[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        chain: Next = app.handle_message
        for middleware in reversed(app.middleware):
            chain = _wrap(middleware, chain)
        self._chain = chain
        app.bound = self

    async def stop(self) -> None:
        """Let what is running end; the clients are gone already."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    def wants(self, session: Session, kind: str) -> bool:
        # A session whose handlers are busy keeps its order: what comes behind waits, whoever will handle it.
        return self._everything or kind in self._app.handlers or session in self._waiting

    def accept(self, session: Session, command: Message) -> None:
        waiting = self._waiting.get(session)
        if waiting is None:
            waiting = self._waiting[session] = deque((command,))
            task = self._loop.create_task(self._run(session, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        waiting.append(command)
        if len(waiting) == WAITING_MAX:
            session.connection.pause_reading()

    async def _run(self, session: Session, waiting: deque[Message]) -> None:
        client = Client(session)
        while waiting and not session.connection.is_lost:
            command = waiting.popleft()
            if len(waiting) == WAITING_MAX // 2:
                session.connection.resume_reading()
            command_id = messages.id_of(command)
            try:
                await self._chain(client, command)
            except CommandRefused as refused:
                session.refuse(refused.code, command_id, refused.text)
            except Exception:
                self._commands.counters.add(Metric.HANDLER_FAILED)
                log.exception("a handler failed", extra={"command": command["type"]})
                session.refuse(ErrorCode.INTERNAL, command_id)
        del self._waiting[session]

    def carry_out(self, client: Client, command: Message) -> None:
        """The protocol's own handling of `command`."""
        self._commands.carry_out(client._session, command)

    # -- what the application may call -------------------------------------------------------------------------------

    def client(self, connection_id: str) -> Client | None:
        """An open connection of this worker."""
        session = self._commands.identities.sessions.get(int(connection_id, 16))
        return Client(session) if session is not None else None

    async def call(self, op: str, args: Message) -> Message:
        """Ask the broker in the server's own name. Raises `CommandRefused`."""
        return await self._asked(lambda tag: records.Call(CONN_SERVER, tag, EVERYTHING, op, args))

    async def publish(self, room: str, message: object, exclude: Client | None) -> Message:
        """Publish in the server's name. An object with a `type` is pushed as it is (its room, position and time are
        stamped by the server); any other value becomes the `message` of a `room_message` from `server`."""
        body = _server_push(names.room_name(room), message)
        conn = exclude._session.number if exclude is not None else CONN_SERVER
        return await self._asked(
            lambda tag: records.Publish(conn, tag, EVERYTHING, Level.DEFAULT, False, False, room, "", body, True)
        )

    def push_to_all(self, message: Message, exclude: Client | None) -> None:
        """Push `message` to every connection of the node."""
        conn = exclude._session.number if exclude is not None else CONN_SERVER
        self._commands.outbox.send(records.All(conn, codec.encode(message)))

    async def _asked(self, record: Callable[[int], records.UpRecord]) -> Message:
        outbox = self._commands.outbox
        if not outbox.connected:
            raise CommandRefused(ErrorCode.UNAVAILABLE, "The server is recovering from a fault")
        future: asyncio.Future[bytes] = self._loop.create_future()
        outbox.send(record(outbox.expect(None, None, future=future)))
        answer: Message = codec.decode(await future)
        if answer["type"] == "error":
            raise CommandRefused(ErrorCode[answer["code"].upper()], answer["message"])
        return answer


# Set by the server for every publication; an application's own values for them are not passed on.
_STAMPED = frozenset({"room", "timestamp", "epoch", "offset", "id"})


def _server_push(room: str, message: object) -> bytes:
    if isinstance(message, dict) and isinstance(message.get("type"), str):
        fields = {key: value for key, value in message.items() if key not in _STAMPED}
    else:
        fields = {"type": "room_message", "message": message, "from": "server"}
    return codec.encode({**fields, "room": room})[:-1]


def _wrap(middleware: Middleware, following: Next) -> Next:
    async def call(client: Client, message: Message) -> None:
        await middleware(client, message, following)

    return call
