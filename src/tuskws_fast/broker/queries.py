"""Questions that change nothing: history, rooms, presence. Each returns the bodies of its answer, nearly always one.

What a caller may not see is answered like what is not there: a private room is no room, a user one shares no room
with is offline and was never seen.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from tuskws_fast.broker import answers
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.members import checked_room_name, checked_since
from tuskws_fast.broker.moderation import Args, Caller, visible_room
from tuskws_fast.broker.state import Core, Room
from tuskws_fast.protocol import codec
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.permissions import HISTORY, PRESENCE
from tuskws_fast.rooms.presence import OFFLINE
from tuskws_fast.rooms.recovery import page_since, replay_since


class Queries:
    def __init__(self, core: Core) -> None:
        self._core = core

    # -- history ---------------------------------------------------------------------------------------------------

    def history(self, caller: Caller, args: Args) -> list[bytes]:
        """For members, and for those whose claims grant `history` here.

        With `limit` and `since`, the *oldest* messages after `since`, and `offset` is that of the last one given, so
        that asking again from there misses nothing. Without `since`, the newest.
        """
        room = visible_room(self._core, caller, args)
        self._check_reader(room, caller)
        since, limit = checked_since(args.get("since")), args.get("limit")
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise Refused(ErrorCode.BAD_MESSAGE, "`limit` must be an integer, not below 0")
        history, core = room.history, self._core
        shelf_bytes = core.limits.replay_bytes_max
        if since is None:
            newest, offset = len(history) if limit is None else limit, history.top
            replay = replay_since(history, room.epoch, room.base, None, newest, core.now, shelf_bytes)
        else:
            replay, offset = page_since(history, room.epoch, room.base, since, limit, core.now, shelf_bytes)
        head: dict[str, Any] = {
            "type": "history",
            "room": room.name,
            "epoch": room.epoch,
            "offset": offset,
            "recovered": replay.recovered,
        }
        return answers.pages(head, head, replay.bodies, self._core.limits.page_bytes)

    def _check_reader(self, room: Room, caller: Caller) -> None:
        if caller.person is None:
            return
        if room.is_banned(caller.person.id, self._core.now):
            raise Refused(ErrorCode.FORBIDDEN)
        if caller.is_member(room):
            if not caller.rights_in(room) & HISTORY:
                raise Refused(ErrorCode.FORBIDDEN)
        elif not caller.rights & HISTORY:
            raise Refused(ErrorCode.NOT_IN_ROOM)

    # -- rooms -----------------------------------------------------------------------------------------------------

    def room_info(self, caller: Caller, args: Args) -> list[bytes]:
        room = visible_room(self._core, caller, args)
        info: dict[str, Any] = {"type": "room_info", "room": room.name, "member_count": len(room.members)}
        info["creator"] = room.creator or None
        info["settings"] = room.settings.shown(self._core.bounds)
        return [codec.encode(info)]

    def list_rooms(self, caller: Caller, args: Args) -> list[bytes]:
        """The caller's own rooms first, then public ones (for the server: all), up to `list_rooms_max`."""
        most = self._core.limits.list_rooms_max
        own = caller.person.rooms if caller.person is not None else {}
        listed = dict(own)
        for shard in self._core.shards:
            for room in shard.rooms() if caller.person is None else shard.public.values():
                if len(listed) > most:
                    break
                listed[room.name] = room
        entries = [{"room": name, "member_count": len(room.members)} for name, room in listed.items()]
        answer: dict[str, Any] = {"type": "rooms", "rooms": entries[:most]}
        if len(entries) > most:
            self._core.counters["list_rooms_max"] += 1
            answer["more"] = True
        return [codec.encode(answer)]

    def room_count(self, caller: Caller, args: Args) -> list[bytes]:
        return [codec.encode({"type": "room_count", "count": self._core.room_count})]

    # -- presence --------------------------------------------------------------------------------------------------

    def get_presence(self, caller: Caller, args: Args) -> list[bytes]:
        """The members of a room one is in, or the users named; at most `presence_state_max`."""
        most = self._core.limits.presence_state_max
        answer: dict[str, Any] = {"type": "presence_state"}
        if args.get("room") is not None:
            room = visible_room(self._core, caller, {"room": checked_room_name(args["room"])})
            if not (caller.person is None or caller.is_member(room) or caller.rights & PRESENCE):
                raise Refused(ErrorCode.NOT_IN_ROOM)
            users = list(islice(room.members, most + 1))
            if len(users) > most:
                self._core.counters["presence_state_max"] += 1
                answer["more"] = True
                del users[most:]
        else:
            users = self._checked_users(args.get("users"))
        answer["users"] = [self._seen_by(caller, user) for user in users]
        return [codec.encode(answer)]

    def _checked_users(self, users: object) -> list[str]:
        if not isinstance(users, list) or len(users) > self._core.limits.presence_state_max:
            raise Refused(ErrorCode.BAD_MESSAGE, "`users` must be a list of user ids, not too long")
        try:
            return [names.user_id(user) for user in users]
        except ValueError:
            raise Refused(ErrorCode.BAD_MESSAGE, "`users` must be a list of user ids") from None

    def _seen_by(self, caller: Caller, user: str) -> dict[str, Any]:
        person = self._core.person(user)
        if person is None or not (
            caller.person is None or caller.rights & PRESENCE or caller.person.shares_room_with(person)
        ):
            return answers.presence_entry(user, OFFLINE, None)
        return answers.presence_entry(user, person.view.show(), person.view.seen_at(self._core.wall))
