"""What creators, moderators and the server decide about a room: its settings, its end, and who is kept out of it.

A room that one may not see does not exist, for every command here and in `queries`: `no_such_room`, the same answer
as for a name nobody uses. Only who sees it is told `forbidden`.

Whatever is decided is a fact that every worker keeps a copy of (`keeping`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.keeping import BAN, MUTE, Keeping
from tuskws_fast.broker.members import Members, checked_room_name
from tuskws_fast.broker.state import Core, Out, Person, Room
from tuskws_fast.ipc.records import SlowConsumer
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.permissions import CREATE, EVERYTHING, JOIN, MODERATE
from tuskws_fast.rooms.settings import DEFAULT_SETTINGS, RoomSettings, SettingsFault, SettingsUnavailable, changed

Args = Mapping[str, Any]


class Caller(NamedTuple):
    """Who asks: `person` is None for the server itself, which may do everything. `rights` are those of claims."""

    person: Person | None
    rights: int

    @property
    def user(self) -> str:
        return self.person.id if self.person is not None else ""

    def rights_in(self, room: Room) -> int:
        return EVERYTHING if self.person is None else room.rights(self.person.id, self.rights)

    def is_member(self, room: Room) -> bool:
        return self.person is not None and self.person.id in room.members


def visible_room(core: Core, caller: Caller, args: Args) -> Room:
    """The room named in `args`, if there is one that the caller may know of."""
    room = core.room(checked_room_name(args.get("room")))
    if room is None or not (caller.is_member(room) or caller.rights_in(room) & (JOIN | MODERATE)):
        raise Refused(ErrorCode.NO_SUCH_ROOM)
    return room


class Moderation:
    def __init__(self, core: Core, members: Members, keeping: Keeping) -> None:
        self._core = core
        self._members = members
        self._keeping = keeping

    # -- rooms -----------------------------------------------------------------------------------------------------

    def create_room(self, caller: Caller, args: Args, out: Out) -> bytes:
        name = checked_room_name(args.get("room"))
        if caller.person is not None and not caller.rights & CREATE:
            raise Refused(ErrorCode.FORBIDDEN)
        if self._core.room(name) is not None:
            raise Refused(ErrorCode.ROOM_EXISTS)
        settings = self._changed(DEFAULT_SETTINGS, args.get("settings"))
        self._members.check_may_create()
        room = self._core.new_room(name)
        room.creator = caller.user
        return self._settle("room_created", room, settings, out)

    def update_room(self, caller: Caller, args: Args, out: Out) -> bytes:
        """What changes holds from now on: nobody is evicted by it."""
        room = self._moderated_room(caller, args)
        settings = self._changed(room.settings, args.get("settings"))
        return self._settle("room_updated", room, settings, out)

    def _settle(self, kind: str, room: Room, settings: RoomSettings, out: Out) -> bytes:
        if settings.slow_consumer != room.settings.slow_consumer:
            for worker in room.members.workers:
                out.append((worker, SlowConsumer(room.name, settings.slow_consumer)))
        self._core.apply_settings(room, settings)
        self._keeping.keep_room(room, out)
        return answers.room_settings(kind, room.name, settings.shown(self._core.bounds))

    def _changed(self, old: RoomSettings, wanted: object) -> RoomSettings:
        if wanted is None:
            wanted = {}
        if not isinstance(wanted, dict):
            raise Refused(ErrorCode.BAD_MESSAGE, "`settings` must be an object")
        try:
            # The source of epochs never says the same twice, which is all that a salt needs.
            return changed(old, wanted, self._core.bounds, self._core.epoch_source().encode())
        except SettingsFault as fault:
            raise Refused(ErrorCode.BAD_MESSAGE, str(fault)) from fault
        except SettingsUnavailable as fault:
            raise Refused(ErrorCode.UNAVAILABLE, str(fault)) from fault

    def delete_room(self, caller: Caller, args: Args, out: Out) -> bytes:
        room = self._moderated_room(caller, args)
        self._keeping.forget_room(room, out)
        self._members.delete(room, out)
        return answers.room_deleted(room.name)

    # -- people in rooms -------------------------------------------------------------------------------------------

    def kick(self, caller: Caller, args: Args, out: Out) -> bytes:
        """Remove a user; with `seconds` they cannot come back for that long (a ban with an end)."""
        room, user, until = self._sanction(caller, args)
        if user not in room.members:
            raise Refused(ErrorCode.NOT_IN_ROOM, "The user is not in the room")
        if until is not None and until > self._core.now:
            self._check_sanctions(room, user, room.bans)
            self._keeping.keep_ban(room, user, until, out)
        self._members.evict(room, user, "kicked", out)
        return answers.ack(room.name)

    def ban(self, caller: Caller, args: Args, out: Out) -> bytes:
        """Out, and not in again: for `seconds`, for good without them; 0 lifts a ban."""
        room, user, until = self._sanction(caller, args)
        if until is not None and until <= self._core.now:
            self._keeping.lift(BAN, room, user, out)
            self._core.retire(room)
            return answers.ack(room.name)
        self._check_sanctions(room, user, room.bans)
        self._keeping.keep_ban(room, user, until, out)
        self._members.evict(room, user, "banned", out)
        return answers.ack(room.name)

    def mute(self, caller: Caller, args: Args, out: Out) -> bytes:
        """May read but not speak: for `seconds`, for good without them; 0 lifts it."""
        room, user, until = self._sanction(caller, args)
        if until is not None and until <= self._core.now:
            self._keeping.lift(MUTE, room, user, out)
            self._core.retire(room)
            return answers.ack(room.name)
        self._check_sanctions(room, user, room.mutes)
        self._keeping.keep_mute(room, user, until, out)
        return answers.ack(room.name)

    def invite(self, caller: Caller, args: Args, out: Out) -> bytes:
        """(Server API) `user` may join the private room, and do there what everyone may in a public one."""
        room = visible_room(self._core, caller, args)
        user = checked_user(args)
        self._check_sanctions(room, user, room.invited)
        self._keeping.keep_invitation(room, user, out)
        return answers.ack(room.name)

    def _moderated_room(self, caller: Caller, args: Args) -> Room:
        room = visible_room(self._core, caller, args)
        if not caller.rights_in(room) & MODERATE:
            raise Refused(ErrorCode.FORBIDDEN)
        return room

    def _sanction(self, caller: Caller, args: Args) -> tuple[Room, str, float | None]:
        """The room, whom it concerns, and until when (None: without end)."""
        room = self._moderated_room(caller, args)
        user, seconds = checked_user(args), args.get("seconds")
        if seconds is None:
            return room, user, None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise Refused(ErrorCode.BAD_MESSAGE, "`seconds` must be a number, not below 0")
        return room, user, self._core.now + seconds

    def _check_sanctions(self, room: Room, user: str, own: Container[str]) -> None:
        """One more of them; renewing one is always possible."""
        if user not in own and len(room.bans) + len(room.mutes) + len(room.invited) >= self._core.limits.sanctions_max:
            self._core.counters["sanctions_max"] += 1
            raise Refused(ErrorCode.OVERLOADED, "The room has too many bans, mutes and invitations")


def checked_user(args: Args) -> str:
    try:
        return names.user_id(args.get("user"))
    except ValueError:
        raise Refused(ErrorCode.BAD_MESSAGE, "`user` must be a user id") from None
