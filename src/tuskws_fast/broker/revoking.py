"""Taking back what a token or a session allows: at once, on every worker, and for as long as the token would be good.

    revoke ─▶ fact (settings file) ─▶ Revoked to every worker: refuse from now on, close (4510) what is connected by it
           └▶ sessions end here, connected or not: their memberships too, and their tickets

A session that is revoked is over; nothing is kept of it, because no ticket can be shown after a restart of the node.
What concerns tokens is kept until the last of them would have expired (`token_ttl_s`; without such a bound, for good).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuskws_fast.auth.revocation import SESSION, TOKEN, USER, Revocation, concerns
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.keeping import Keeping
from tuskws_fast.broker.people import People
from tuskws_fast.broker.state import Core, Out, Session
from tuskws_fast.broker.tickets import Tickets
from tuskws_fast.ipc.records import Claims, Revoked
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names

TOKEN_ID_CHARS_MAX = 64


class Revoking:
    def __init__(self, core: Core, people: People, tickets: Tickets, keeping: Keeping) -> None:
        self._core = core
        self._people = people
        self._tickets = tickets
        self._keeping = keeping

    def revoke(self, args: Mapping[str, Any], out: Out) -> int:
        """One of `user`, `token` (a `jti`) and `session` (its number). Returns how many sessions ended. Raises
        `Refused`."""
        what, name = _checked(args)
        core = self._core
        ttl_s = core.limits.token_ttl_s
        revocation = Revocation(core.wall, core.wall + ttl_s if ttl_s else None)
        if what != SESSION:
            if (what, name) not in core.revocations and len(core.revocations) >= core.limits.revocations_max:
                core.counters["revocations_max"] += 1
                raise Refused(ErrorCode.OVERLOADED, "Too many revocations are in force")
            self._keeping.keep_revocation(what, name, revocation, out)
        for worker in core.workers:
            out.append((worker, Revoked(what, name, *revocation)))
        ended = 0
        for session in [each for each in core.sessions.values() if _fits(each, what, name, revocation)]:
            self._people.end(session, out)
            ended += not session.lost
        self._tickets.revoke(lambda user, claims, ticket: _is_meant(what, name, revocation, user, claims, ticket))
        self._tickets.go_on(out)
        return ended

    def everything(self, worker: int) -> Out:
        """What a worker that has only come up has to refuse."""
        return [(worker, Revoked(what, name, *found)) for (what, name), found in self._core.revocations.items()]


def _checked(args: Mapping[str, Any]) -> tuple[str, str]:
    given = [(what, args[what]) for what in (USER, TOKEN, SESSION) if args.get(what) is not None]
    if len(given) != 1:
        raise Refused(ErrorCode.BAD_MESSAGE, "Exactly one of `user`, `token` and `session` is revoked")
    what, name = given[0]
    if what == SESSION:
        if not isinstance(name, int) or isinstance(name, bool) or name <= 0:
            raise Refused(ErrorCode.BAD_MESSAGE, "`session` must be a session")
        return what, f"{name:d}"
    if what == TOKEN:
        if not (isinstance(name, str) and 1 <= len(name) <= TOKEN_ID_CHARS_MAX and name.isprintable()):
            raise Refused(ErrorCode.BAD_MESSAGE, "`token` must be a `jti`")
        return what, name
    try:
        return what, names.user_id(name)
    except ValueError:
        raise Refused(ErrorCode.BAD_MESSAGE, "`user` must be a user id") from None


def _fits(session: Session, what: str, name: str, revocation: Revocation) -> bool:
    return _is_meant(what, name, revocation, session.person.id, session.claims, session.ticket)


def _is_meant(what: str, name: str, revocation: Revocation, user: str, claims: Claims | None, ticket: int) -> bool:
    if what == SESSION:
        return f"{ticket:d}" == name
    _, _, _, token_id, issued_at = claims if claims is not None else (None, 0, [], None, None)
    return token_id == name if what == TOKEN else user == name and concerns(revocation, issued_at)
