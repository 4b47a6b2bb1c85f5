"""A worker's parts without sockets: a connection that remembers what it was told, and a link that remembers records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tuskws_fast_ext.frame import Frame

from tuskws_fast.auth.tokens import Verifier
from tuskws_fast.ipc.records import UpRecord
from tuskws_fast.protocol import codec
from tuskws_fast.worker.commands import Commands
from tuskws_fast.worker.hub import Hub
from tuskws_fast.worker.identities import Identities
from tuskws_fast.worker.inbox import Inbox
from tuskws_fast.worker.outbox import Outbox
from tuskws_fast.worker.session import Session, Terms


class Wire:
    """Stands where a `Connection` does: `sent` are the messages, `closed` the close code."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.frames: list[bytes] = []
        self.closed: int | None = None
        self.batch = False
        self.trusted = False
        self.is_closing = False
        self.is_lost = False
        self.reading = True
        self.last_input = 0.0
        self.transport = self
        self.is_close_frame_sent = False

    def set_batch(self, batch: bool) -> None:
        self.batch = batch

    def trust(self) -> None:
        self.trusted = True

    def send(self, frame: Frame) -> None:
        wire = frame.encoded()
        self.frames.append(wire)
        if wire[0] == 0x81:
            self.sent.append(codec.decode(wire[2:] if wire[1] < 126 else wire[4:]))

    def close(self, code: int, reason: bytes = b"") -> None:
        self.closed, self.is_closing = code, True

    def fail(self, code: int, reason: bytes) -> None:
        self.close(code)

    def abort(self) -> None:
        self.closed, self.is_closing = 1006, True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def pop(self) -> Any:
        """The oldest message not looked at yet."""
        return self.sent.pop(0)


class Line:
    """Stands where a `Link` does."""

    def __init__(self) -> None:
        self.sent: list[UpRecord] = []
        self.congested = False

    def send(self, record: UpRecord) -> bool:
        self.sent.append(record)
        return True

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> list[UpRecord]:
        taken, self.sent = self.sent, []
        return taken


class Allowance:
    """Stands where `Limits` does: everything is admitted, and the rates allow until a wait is set."""

    def __init__(self) -> None:
        self.wait = 0.0
        self.address_wait = 0.0
        self.token_wait = 0.0
        self.password_wait = 0.0
        self.refused_tokens = 0
        self.users_full = False
        self.released: list[str] = []

    def key(self, kind: str, name: str) -> int:
        return hash((kind, name)) & 0xFFFF

    def address_key(self, address: str) -> int:
        return 1

    def take(self, rate_key: int, now: float) -> float:
        return self.wait

    def take_stranger(self, address_key: int, now: float) -> float:
        return self.address_wait

    def take_password_try(self, address: str, now: float) -> float:
        return self.password_wait

    def wait_for_token(self, address: str, now: float) -> float:
        return self.token_wait

    def count_refused_token(self, address: str, now: float) -> None:
        self.refused_tokens += 1

    def admit_user(self, user: str) -> bool:
        return not self.users_full

    def release_user(self, user: str) -> None:
        self.released.append(user)

    def release_address(self, address: str) -> None:
        self.released.append(address)

    def release_connection(self) -> None:
        self.released.append("connection")


class Tally(Counter[int]):
    """Stands where `Counters` does."""

    def add(self, column: int, n: int = 1) -> None:
        self[column] += n


class Desk:
    """`Commands` with everything around it in reach."""

    def __init__(
        self,
        require_auth: bool = False,
        verifier: Verifier | None = None,
        message_max: int = 1024,
        items_max: int = 4096,
        asks_again: bool = False,
    ) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.line = Line()
        self.allowance = Allowance()
        self.counters = Tally()
        self.outbox = Outbox(lambda callback: None, lambda reason: None, asks_again)
        self.outbox.link = self.line  # type: ignore[assignment]
        self.sessions: dict[int, Session] = {}
        self.watchers: set[Session] = set()
        # What the loop is to call, and when: `wait`.
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.hub = Hub(lambda: self.wall, lambda *position: None, 0.0, lambda delay, callback: None, lambda: self.now)
        self.identities = Identities(
            Terms(require_auth, message_max, items_max, 30.0, "tuskws-fast/test"),
            self.outbox,
            self.hub,
            self.allowance,  # type: ignore[arg-type]
            verifier,
            self.counters,  # type: ignore[arg-type]
            self.sessions,
            self.watchers,
            lambda: self.wall,
            lambda: self.now,
            lambda session: None,
            lambda: 1_000 + len(self.sessions),
            lambda delay, callback: self.later.append((self.now + delay, callback)),
        )
        self.commands = Commands(
            self.identities,
            self.outbox,
            self.hub,
            self.allowance,  # type: ignore[arg-type]
            self.counters,  # type: ignore[arg-type]
            lambda: self.wall,
            lambda: self.now,
        )

    def wait(self, seconds: float) -> None:
        """Let time pass, and what was put off come about."""
        until = self.now + seconds
        while due := sorted((each for each in self.later if each[0] <= until), key=lambda each: each[0]):
            self.later.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = until

    def inbox(self, escape_html: bool = False) -> Inbox:
        """What applies the broker's records to the sessions of this desk."""
        return Inbox(
            self.hub,
            self.outbox,
            self.sessions,
            self.watchers,
            lambda: self.wall,
            self.identities.revoke,
            escape_html,
        )

    def connect(self, number: int = 1) -> tuple[Session, Wire]:
        """An open session; its `welcome` is the first message on the wire."""
        session = Session(self.commands, number, "127.0.0.1", self.now)
        wire = Wire()
        wire.last_input = self.now
        session.connection = wire  # type: ignore[assignment]
        session.on_open()
        return session, wire
