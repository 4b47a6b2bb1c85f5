"""A worker's way to the broker: records out, and the answers that are still owed for them.

Every command that the broker decides gets a tag; the answer brings it back. A tag lives until its answer, or until the
broker dies: then each waiting client is told `unavailable`. It may repeat; whether the dead broker had published is
not known, and its successor does not know the ids of before.

Nothing is lost on the way up. When the ring is full the link keeps what was sent in its overflow, and the connections
whose commands met a full ring are not read from until it has drained: back-pressure goes to those who publish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tuskws_fast.ipc.link import Link, LinkOverrun, LinkPoisoned
from tuskws_fast.ipc.records import UpRecord
from tuskws_fast.protocol.codes import ErrorCode, error_body

if TYPE_CHECKING:
    from tuskws_fast.worker.session import Session


class Pending(NamedTuple):
    """Who waits for an answer: a session's command, or a handler of the application (`future`)."""

    session: Session | None
    command_id: str | int | None
    always: bool  # the success reply is sent without an id too
    future: asyncio.Future[bytes] | None


class Outbox:
    """`give_up(reason)` is called when the link cannot be used any more; the broker's replacement brings another."""

    def __init__(self, call_soon: Callable[..., object], give_up: Callable[[str], None]) -> None:
        self.link: Link | None = None
        self._call_soon = call_soon
        self._give_up = give_up
        self._scheduled = False
        self._tag = 0
        self._pending: dict[int, Pending] = {}
        self._held: set[Session] = set()

    @property
    def connected(self) -> bool:
        return self.link is not None

    def expect(
        self,
        session: Session | None,
        command_id: str | int | None,
        always: bool = False,
        future: asyncio.Future[bytes] | None = None,
    ) -> int:
        """A fresh tag, whose answer goes to `session` (or `future`). The caller puts it into the record it sends."""
        # 32 bits on the wire; a tag is answered within seconds, so a reuse after 4 billion commands meets no other.
        self._tag = self._tag % 0xFFFFFFFF + 1
        self._pending[self._tag] = Pending(session, command_id, always, future)
        return self._tag

    def answered(self, tag: int, last: bool = True) -> Pending | None:
        """Who waits for `tag`; None when it is gone meanwhile. A `last` answer ends the wait."""
        return self._pending.pop(tag, None) if last else self._pending.get(tag)

    def send(self, record: UpRecord, session: Session | None = None) -> None:
        """Queue `record`; all of a loop turn leave together. `session` is held back if the ring is full."""
        link = self.link
        if link is None:
            return
        try:
            link.send(record)
        except (LinkOverrun, LinkPoisoned) as error:
            self._give_up(str(error))
            return
        if session is not None and link.congested and session not in self._held:
            self._held.add(session)
            session.connection.pause_reading()
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Publish what was sent; read again from those who were held back if the ring took it all."""
        self._scheduled = False
        link = self.link
        if link is None:
            return
        try:
            link.flush()
        except LinkPoisoned as error:
            self._give_up(str(error))
            return
        if self._held and not link.congested:
            self.release_held()

    def release_held(self) -> None:
        held, self._held = self._held, set()
        for session in held:
            session.connection.resume_reading()

    def forget(self, session: Session) -> None:
        """The session ended. Its answers may still come; nobody is there to get them."""
        self._held.discard(session)

    def disconnect(self) -> None:
        """The broker died: every open question is answered `unavailable`."""
        if self.link is not None:
            self.link.close()
        self.link = None
        pending, self._pending = self._pending, {}
        body = error_body(ErrorCode.UNAVAILABLE, "The server is recovering from a fault; try again", retry_after=1.0)
        for waiting in pending.values():
            if waiting.future is not None:
                if not waiting.future.done():
                    waiting.future.set_result(body)
            elif waiting.session is not None:
                waiting.session.reply(body, waiting.command_id)
        self.release_held()
