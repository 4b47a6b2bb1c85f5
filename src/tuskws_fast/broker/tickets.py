"""Sessions that outlive their connection, and how one goes on as another.

    connected ──lost──▶ grace ──over──▶ resumable ──keep_alive_s──▶ forgotten
                          └──────────────┴── Resume ──▶ a new connection, with the same ticket

A ticket is the number of a session's first connection. What a session is made of (user, roles, claims, status, rooms)
lives in `Session` as long as there is one, then here, in memory: a broker's successor hears from the workers of the
sessions that are connected, and refuses the others as over.

Resuming restores what was, and no more: only rooms that the session was in when it ended, each authorised again by the
claims of the session, or of the token that this connection has shown. The new session enters the rooms before the old
one leaves them, so that nobody sees a resuming user go.

A session that is still connected elsewhere has to be let go of there first (`Supersede`, answered by `Detach`): what it
said until then is ordered before, and its user's connections are never counted twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.members import Members, checked_room_name, checked_since
from tuskws_fast.broker.people import People
from tuskws_fast.broker.state import Core, Out, Session
from tuskws_fast.broker.timers import Timer
from tuskws_fast.ipc.records import Attach, Claims, Reply, Resume, Resumed, Supersede
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms.permissions import Grants
from tuskws_fast.rooms.shelf import OnShelf

# What a room's body in `resumed` has at least room for, whatever those before it took: its head.
_HEAD_BYTES = 1024


def check_identity(roles: Sequence[object], claims: object) -> None:
    """Raises `Refused` for what no worker makes of a token."""
    if all(isinstance(role, str) for role in roles):
        match claims:
            case None:
                return
            case [None | int() | float(), int(), [*patterns], None | str(), None | int() | float()]:
                if all(isinstance(each, list) and [type(part) for part in each] == [str, int] for each in patterns):
                    return
    raise Refused(ErrorCode.BAD_MESSAGE, "Not what a token says")


def _check_known(known: object) -> None:
    match known:
        case None:
            return
        case [str(), str(), [*roles], claims]:
            check_identity(roles, claims)
        case _:
            raise Refused(ErrorCode.BAD_MESSAGE, "Not an identity")


class Ended(NamedTuple):
    """What is left of a session. `rooms`: name → the hash of the password it had shown there, if any."""

    user: str
    username: str
    roles: Sequence[str]
    claims: Claims | None
    status: str
    rooms: dict[str, str | None]
    until: float


def _never(worker: int, record: Resume, wish: OnShelf) -> None:
    raise wish


class Tickets:
    def __init__(self, core: Core, members: Members, people: People) -> None:
        self._core = core
        self._members = members
        self._people = people
        self._ended: OrderedDict[int, Ended] = OrderedDict()
        self._armed = False
        # The connection that a resumed session is now; one that never was resumed has its ticket's number.
        self._moved: dict[int, int] = {}
        # Resumptions that wait for a worker to let go: the old connection → who asked.
        self._waiting: dict[int, tuple[int, Resume]] = {}
        # Has a resumption that needs old messages run again when they are there.
        self.on_shelf: Callable[[int, Resume, OnShelf], None] = _never

    def __len__(self) -> int:
        return len(self._ended)

    # -- the life of a session -------------------------------------------------------------------------------------

    def attached(self, session: Session, record: Attach) -> None:
        session.roles, session.claims = record.roles, record.claims
        if record.ticket and record.ticket != session.ticket:
            session.ticket = record.ticket
            self._moved[record.ticket] = session.conn

    def ended(self, session: Session) -> None:
        """The session is about to leave its rooms, and can be resumed for a while."""
        core, ticket = self._core, session.ticket
        if self._moved.get(ticket, ticket) != session.conn:
            return  # it goes on as another
        self._moved.pop(ticket, None)
        if not core.limits.keep_alive_s:
            return
        passwords = session.passwords or {}
        until = core.now + core.limits.keep_alive_s
        person = session.person
        self._ended[ticket] = Ended(
            person.id,
            person.username,
            session.roles,
            session.claims,
            session.status,
            {name: passwords.get(name) for name in session.rooms},
            until,
        )
        if person.is_guest:
            person.ticket = ticket
        if len(self._ended) > core.limits.resumable_max:
            core.counters["resumable_max"] += 1
            self._drop(next(iter(self._ended)))
        self._arm(until)

    def _drop(self, ticket: int) -> None:
        """Nobody can go on with this session any more."""
        self._core.absent.ticket_over(self._ended.pop(ticket).user, ticket)

    def _arm(self, until: float) -> None:
        if not self._armed:
            self._armed = True
            self._core.timers.add(until, Timer.RESUMABLE)

    def revoke(self, is_meant: Callable[[str, Claims | None, int], bool]) -> None:
        """Of these sessions nobody may go on with one: asked with the user, the claims and the ticket of each."""
        for ticket in [t for t, each in self._ended.items() if is_meant(each.user, each.claims, t)]:
            self._drop(ticket)

    def forget(self) -> None:
        """Sessions that nobody resumed in time."""
        self._armed = False
        while self._ended:
            ticket, ended = next(iter(self._ended.items()))
            if ended.until > self._core.now:
                self._arm(ended.until)
                return
            self._drop(ticket)

    # -- resuming --------------------------------------------------------------------------------------------------

    def resume(self, worker: int, record: Resume, out: Out) -> None:
        _check_known(record.known)
        session = self._session(record.ticket)
        if session is None or session.lost:
            self._carry_out(worker, record, out)
            return
        if session.conn in self._waiting:
            raise Refused(ErrorCode.UNAVAILABLE, "The session is being resumed already", self._core.limits.takeover_s)
        self._check_user(record, session.person.id)
        self._waiting[session.conn] = (worker, record)
        self._core.timers.add(self._core.now + self._core.limits.takeover_s, Timer.TAKEOVER, f"{session.conn:d}")
        out.append((session.worker, Supersede(session.conn)))

    def go_on(self, out: Out) -> None:
        """Carry out what waited for a session that has been let go of since."""
        for conn in list(self._waiting):
            session = self._core.sessions.get(conn)
            if session is None or session.lost:
                worker, record = self._waiting.pop(conn)
                if worker in self._core.workers:
                    self._try(worker, record, out)

    def give_up(self, conn: int, out: Out) -> None:
        """The worker of `conn` does not answer: its session is lost, whatever the worker thinks."""
        session = self._core.sessions.get(conn)
        if conn in self._waiting and session is not None and not session.lost:
            self._core.counters["takeover_s"] += 1
            self._people.lose(session)
            self.go_on(out)

    def _try(self, worker: int, record: Resume, out: Out) -> None:
        try:
            try:
                self._carry_out(worker, record, out)
            except OnShelf as wish:
                self.on_shelf(worker, record, wish)
        except Refused as refused:
            out.append((worker, Reply(record.via, record.tag, False, answers.error(refused))))

    def _session(self, ticket: int) -> Session | None:
        session = self._core.sessions.get(self._moved.get(ticket, ticket))
        return session if session is not None and session.ticket == ticket else None

    def _check_user(self, record: Resume, user: str) -> None:
        if record.known is not None and record.known[0] != user:
            raise Refused(ErrorCode.FORBIDDEN, "The session is another user's")

    def _carry_out(self, worker: int, record: Resume, out: Out) -> None:
        core, ticket = self._core, record.ticket
        old = self._session(ticket)
        ended = self._ended.get(ticket) if old is None else self._as_ended(old)
        if ended is None:
            raise Refused(ErrorCode.TOKEN_EXPIRED, "The session is over")
        self._check_user(record, ended.user)
        username, roles, claims = ended.username, ended.roles, ended.claims
        if record.known is not None:
            _, username, roles, claims = record.known
        if claims is not None and claims[0] is not None and core.wall >= claims[0]:
            if old is None:
                self._drop(ticket)
            raise Refused(ErrorCode.TOKEN_EXPIRED)
        for name, position in record.rooms.items():
            if name in ended.rooms:
                self._members.check_reach(name, position)
        later: Out = []
        self._people.attach(
            Attach(
                record.conn, ended.user, username, list(roles), record.mode, ended.status, 0, claims, ticket, core.now
            ),
            False,
            later,
        )
        self._ended.pop(ticket, None)
        session = core.sessions[record.conn]
        self._enter_rooms(worker, session, record, ended.rooms, out)
        out += later
        if old is not None:
            self._people.end(old, out)
        core.counters["resumed"] += 1

    @staticmethod
    def _as_ended(session: Session) -> Ended:
        passwords = session.passwords or {}
        return Ended(
            session.person.id,
            session.person.username,
            session.roles,
            session.claims,
            session.status,
            {name: passwords.get(name) for name in session.rooms},
            0.0,
        )

    def _enter_rooms(
        self, worker: int, session: Session, record: Resume, known: dict[str, str | None], out: Out
    ) -> None:
        """`Resumed`, and behind it the pages of all replays that it has no room for."""
        claims = session.claims
        grants = Grants(claims[1], tuple((pattern, rights) for pattern, rights in claims[2])) if claims else Grants()
        rooms: list[tuple[str, str, int, str, bytes, int]] = []
        refused: dict[str, bytes] = {}
        pages: list[bytes] = []
        pushes: Out = []
        free = self._core.limits.page_bytes
        for name, position in record.rooms.items():
            try:
                since = checked_since(position)
                if checked_room_name(name) != name or name not in known:
                    raise Refused(ErrorCode.NOT_IN_ROOM, "The session was not in this room")
                joined = self._members.rejoin(
                    session, name, grants.for_room(name), since, known[name], max(free, _HEAD_BYTES), pushes
                )
            except Refused as error:
                self._core.counters[f"refused_{error.code.value}"] += 1
                refused[name] = answers.error(error)
                continue
            rooms.append((name, joined.epoch, joined.offset, joined.slow, joined.body, joined.told))
            free -= len(joined.body)
            pages += joined.pages
        out.append(
            (
                worker,
                Resumed(
                    session.conn,
                    record.tag,
                    record.via,
                    session.ticket,
                    session.person.id,
                    session.person.username,
                    list(session.roles),
                    claims,
                    session.status,
                    rooms,
                    refused,
                    not pages,
                ),
            )
        )
        for n, page in enumerate(pages, start=1):
            out.append((worker, Reply(session.conn, record.tag, True, page, n == len(pages))))
        out += pushes
