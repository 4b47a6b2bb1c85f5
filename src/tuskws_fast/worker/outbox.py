"""A worker's way to the broker: records out, and the answers that are still owed for them.

Every command that the broker decides gets a tag; the answer brings it back. When the broker dies, what was asked and
not answered depends on the journal. With one, publications, joins and leaves are asked of its successor again, which
knows by connection and tag what the dead one carried out. Without one, and for all other commands, each waiting client
is told `unavailable` and may repeat: whether it was done is not known.

Nothing is lost on the way up. When the ring is full the link keeps what was sent in its overflow, and the connections
whose commands met a full ring are not read from until it has drained: back-pressure goes to those who publish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tuskws_fast.ipc.link import Link, LinkOverrun, LinkPoisoned
from tuskws_fast.ipc.records import Join, Leave, Private, Publish, UpRecord
from tuskws_fast.protocol.codes import ErrorCode, error_body

if TYPE_CHECKING:
    from tuskws_fast.worker.session import Session


# When to try again without a broker: the next one is there in a quarter of a second, if all is well.
BROKER_AWAY_S = 0.25


class Pending(NamedTuple):
    """Who waits for an answer: a session's command, or a handler of the application (`future`)."""

    session: Session | None
    command_id: str | int | None
    always: bool  # the success reply is sent without an id too
    future: asyncio.Future[bytes] | None


class Outbox:
    """`give_up(reason)` is called when the link cannot be used any more; the broker's replacement brings another.

    `asks_again`: a broker knows what the one before it carried out.
    """

    def __init__(
        self, call_soon: Callable[..., object], give_up: Callable[[str], None], asks_again: bool = False
    ) -> None:
        self.link: Link | None = None
        self.asked_again = 0
        self._asks_again = asks_again
        # What was sent and not answered yet, as far as it can be asked again, in the order in which it was sent.
        self._asked: dict[int, Publish | Private | Join | Leave] = {}
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
        if not last:
            return self._pending.get(tag)
        self._asked.pop(tag, None)
        return self._pending.pop(tag, None)

    def ask(self, record: Publish | Private | Join | Leave, session: Session | None = None) -> None:
        """As `send`, for what a broker's death may not end."""
        if self._asks_again and record.tag:
            self._asked[record.tag] = record
        self.send(record, session)

    def ask_again(self) -> None:
        """A new broker has been told who is here: bring it what the dead one did not answer."""
        self.asked_again += len(self._asked)
        for record in list(self._asked.values()):
            self.send(record)

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
        """The broker died: every question that cannot be asked again is answered `unavailable`."""
        if self.link is not None:
            self.link.close()
        self.link = None
        pending = {tag: waiting for tag, waiting in self._pending.items() if tag not in self._asked}
        for tag in pending:
            del self._pending[tag]
        body = error_body(
            ErrorCode.UNAVAILABLE, "The server is recovering from a fault; try again", retry_after=BROKER_AWAY_S
        )
        for waiting in pending.values():
            if waiting.future is not None:
                if not waiting.future.done():
                    waiting.future.set_result(body)
            elif waiting.session is not None:
                waiting.session.reply(body, waiting.command_id)
        self.release_held()
