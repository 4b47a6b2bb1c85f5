"""Facts that must outlive the broker: in the settings file where there is a data directory, else a copy in each worker.

    with a directory      Fact(key, value) ─▶ storage.settings, before anybody is told      times are Unix time
    without

    broker ── Keep(key, version, value) ──▶ every worker         whenever the fact changes (None: forget it)
    next broker ◀── Kept(key, version, value) ── every worker    the highest version of a key wins

    key "room\\nNAME"            {"creator": …, "settings": {…}}   a private room stays private
        "ban\\nROOM\\nUSER"       {"until": … or null}              on the monotonic clock, which a boot of the machine
        "mute\\nROOM\\nUSER"      {"until": … or null}              starts anew, but a broker's death does not
        "invite\\nROOM\\nUSER"    {}
        "revoked\\nKIND\\nNAME"   {"before": …, "ends": … or null}        see `revoking`; Unix time

One fact a key, so that one more ban in a room costs one small record. A line break separates the parts because no room
name and no user id can hold one. What never was decided (a room that joining created) is no fact: `Restore` brings it
back.

Limit of the method: if the broker dies between telling two workers to forget a fact, the other one brings it back. It
errs towards closed doors: what comes back is a ban, or a room's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuskws_fast.auth.revocation import TOKEN, USER, Revocation
from tuskws_fast.broker.answers import Refused
from tuskws_fast.broker.ledger import Fact
from tuskws_fast.broker.state import Core, Out, Room
from tuskws_fast.broker.timers import Timer
from tuskws_fast.ipc.records import Keep, Kept, Revoked
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.settings import DEFAULT_SETTINGS, SettingsFault, restored

ROOM, BAN, MUTE, INVITE, REVOKED = "room", "ban", "mute", "invite", "revoked"
# Far beyond what a broker ever counts to, and far enough below what a record can carry (64 bits) to count on.
VERSION_MAX = 2**53


def fact_key(kind: str, *parts: str) -> str:
    return "\n".join((kind, *parts))


def _timed(value: Any, shift: float) -> Any:
    """The fact with its time on another clock."""
    if isinstance(value, dict) and isinstance(value.get("until"), int | float):
        return {**value, "until": value["until"] + shift}
    return value


class Keeping:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._facts: dict[str, tuple[int, Any]] = {}
        self._version = 0
        # Who has announced the winning version of a key: the others are given it when all have announced themselves.
        self._holders: dict[str, set[int]] = {}

    # -- making facts ----------------------------------------------------------------------------------------------

    def keep_room(self, room: Room, out: Out) -> None:
        value = {"creator": room.creator, "settings": room.settings.kept()}
        self._keep(fact_key(ROOM, room.name), value, out)

    def keep_ban(self, room: Room, user: str, until: float | None, out: Out) -> None:
        self._lapse(room.bans, user)
        room.ban(user, until)
        self._keep_sanction(fact_key(BAN, room.name, user), until, out)

    def keep_mute(self, room: Room, user: str, until: float | None, out: Out) -> None:
        self._lapse(room.mutes, user)
        room.mute(user, until)
        self._keep_sanction(fact_key(MUTE, room.name, user), until, out)

    def keep_invitation(self, room: Room, user: str, out: Out) -> None:
        room.invite(user)
        self._keep(fact_key(INVITE, room.name, user), {}, out)

    def keep_revocation(self, what: str, name: str, revocation: Revocation, out: Out) -> None:
        key = fact_key(REVOKED, what, name)
        self._revoke(key, what, name, revocation)
        self._keep(key, {"before": revocation.before, "ends": revocation.until}, out)

    def _revoke(self, key: str, what: str, name: str, revocation: Revocation) -> None:
        core = self._core
        core.revocations[what, name] = revocation
        if revocation.until is not None:
            core.timers.add(core.now + max(revocation.until - core.wall, 0.0), Timer.REVOKED, key)

    def _keep_sanction(self, key: str, until: float | None, out: Out) -> None:
        self._keep(key, {"until": until}, out)
        if until is not None:
            self._core.timers.add(until, Timer.SANCTION, key)

    def _lapse(self, sanctions: Mapping[str, float | None], user: str) -> None:
        """The ban or mute is about to be another one, or none."""
        if sanctions.get(user) is not None:
            self._core.timers.lapse()

    def _keep(self, key: str, value: Any, out: Out) -> None:
        self._version += 1
        if value is None:
            if self._facts.pop(key, None) is None:
                return
        else:
            self._facts[key] = (self._version, value)
        self._tell(key, value, out)

    def _tell(self, key: str, value: Any, out: Out) -> None:
        """Into the settings file, where there is one; else to every worker."""
        core = self._core
        if core.ledger.durable:
            core.ledger.facts.append(Fact(key, _timed(value, core.wall - core.now)))
        else:
            self._send(Keep(key, self._version, value), core.workers, out)

    @staticmethod
    def _send(record: Keep, workers: Any, out: Out) -> None:
        for worker in workers:
            out.append((worker, record))

    # -- forgetting ------------------------------------------------------------------------------------------------

    def lift(self, kind: str, room: Room, user: str, out: Out) -> None:
        """End a ban or a mute; nothing happens where there is none."""
        sanctions = room.bans if kind == BAN else room.mutes
        if user in sanctions:
            self._lapse(sanctions, user)
            del sanctions[user]
        room.settle()
        self._keep(fact_key(kind, room.name, user), None, out)

    def forget_room(self, room: Room, out: Out) -> None:
        self._keep(fact_key(ROOM, room.name), None, out)
        for kind, users in ((BAN, room.bans), (MUTE, room.mutes), (INVITE, room.invited)):
            for user in users:
                self._keep(fact_key(kind, room.name, user), None, out)
        for sanctions in (room.bans, room.mutes):
            for user in sanctions:
                self._lapse(sanctions, user)

    def end_sanction(self, key: str, deadline: float, out: Out) -> None:
        """The timer of a ban or mute: it is over unless it was renewed meanwhile."""
        kind, name, user = key.split("\n")
        room = self._core.room(name)
        if room is None:
            return
        sanctions = room.bans if kind == BAN else room.mutes
        if sanctions.get(user) == deadline:
            self.lift(kind, room, user, out)
            self._core.retire(room)

    def end_revocation(self, key: str, out: Out) -> None:
        """The timer of a revocation: it is over unless it was renewed meanwhile."""
        core = self._core
        _, what, name = key.split("\n")
        found = core.revocations.get((what, name))
        if found is None or found.until is None:
            return
        if found.until > core.wall:
            # The clock of Unix time was set back, or it was renewed.
            core.timers.add(core.now + found.until - core.wall, Timer.REVOKED, key)
            return
        del core.revocations[what, name]
        self._keep(key, None, out)

    # -- a restart -------------------------------------------------------------------------------------------------

    def restore(self, facts: Mapping[str, Any]) -> None:
        """The facts of the settings file. One that is damaged (None) or cannot be understood errs towards closed doors:
        a room is private, a sanction has no end, an invitation is none."""
        core = self._core
        for key, stored in facts.items():
            self._version += 1
            value = _timed(stored, core.now - core.wall)
            try:
                applied = self._apply(Kept(key, self._version, value))
            except Refused:
                core.counters["facts_damaged"] += 1
                closed = self._closed(key)
                if closed is None:
                    continue
                applied = self._apply(Kept(key, self._version, closed))
            self._facts[key] = (self._version, applied)

    def _closed(self, key: str) -> Any:
        kind, *parts = key.split("\n")
        if kind == REVOKED:
            return {"before": self._core.wall, "ends": None} if len(parts) == 2 else None
        try:
            names.room_name(parts[0])
        except (ValueError, IndexError):
            return None
        if kind == ROOM:
            return {"creator": "", "settings": DEFAULT_SETTINGS.closed().kept()}
        return {"until": None} if kind in (BAN, MUTE) and len(parts) == 2 else None

    # -- a new worker, a new broker --------------------------------------------------------------------------------

    def everything(self, worker: int) -> Out:
        """All facts, for a worker that has just come up: it keeps them where no file does."""
        if self._core.ledger.durable:
            return []
        return [(worker, Keep(key, version, value)) for key, (version, value) in self._facts.items()]

    def hear(self, worker: int, record: Kept, announcing: bool, out: Out) -> None:
        """A worker hands over a fact of the broker before this one."""
        known = self._facts.get(record.key)
        if known is not None and known[0] >= record.version:
            if known[0] == record.version and announcing:
                self._holders.setdefault(record.key, set()).add(worker)
            return
        value = self._apply(record)
        self._facts[record.key] = (record.version, value)
        self._version = max(self._version, record.version)
        if record.key.startswith(REVOKED + "\n"):
            _, what, name = record.key.split("\n")
            told = Revoked(what, name, *self._core.revocations[what, name])
            out += [(other, told) for other in self._core.workers if other != worker]
        if announcing:
            self._holders[record.key] = {worker}
        else:
            # It came late: the others were brought up to date without it.
            others = [other for other in self._core.workers if other != worker]
            self._send(Keep(record.key, record.version, value), others, out)

    def _apply(self, record: Kept) -> dict[str, Any]:
        """The fact's value, made anew: only what was understood is handed on. Raises `Refused` for what is no fact."""
        kind, *parts = record.key.split("\n")
        try:
            if not 0 < record.version <= VERSION_MAX:
                raise ValueError("no such version")
            if kind == REVOKED and len(parts) == 2:
                return self._apply_revocation(record.key, parts[0], parts[1], record.value)
            room_name = names.room_name(parts[0])
            if kind == ROOM and len(parts) == 1:
                return self._apply_room(room_name, record.value)
            if kind == INVITE and len(parts) == 2:
                user = names.user_id(parts[1])
                self._existing(room_name).invite(user)
                return {}
            if kind in (BAN, MUTE) and len(parts) == 2:
                until = record.value["until"]
                return self._apply_sanction(record.key, kind, room_name, names.user_id(parts[1]), until)
            raise ValueError("no such fact")
        except (ValueError, LookupError, TypeError) as error:
            raise Refused(ErrorCode.BAD_MESSAGE, "Not a fact to keep") from error

    def _existing(self, name: str) -> Room:
        return self._core.room(name) or self._core.new_room(name)

    def _apply_sanction(self, key: str, kind: str, name: str, user: str, until: Any) -> dict[str, Any]:
        if not (until is None or isinstance(until, int | float)):
            raise ValueError("a sanction ends at a time")
        room = self._existing(name)
        (room.ban if kind == BAN else room.mute)(user, until)
        if until is not None:
            self._core.timers.add(until, Timer.SANCTION, key)
        return {"until": until}

    def _apply_revocation(self, key: str, what: str, name: str, value: Any) -> dict[str, Any]:
        before, ends = value["before"], value["ends"]
        if what not in (USER, TOKEN) or not name.isprintable():
            raise ValueError("nothing that can be revoked")
        if not isinstance(before, int | float) or not (ends is None or isinstance(ends, int | float)):
            raise ValueError("a revocation has times")
        self._revoke(key, what, name, Revocation(before, ends))
        return {"before": before, "ends": ends}

    def _apply_room(self, name: str, value: Any) -> dict[str, Any]:
        settings, creator = restored(value["settings"]), value["creator"]
        if not isinstance(creator, str):
            raise SettingsFault("a creator is a user id")
        room = self._existing(name)
        room.creator = creator
        self._core.apply_settings(room, settings)
        return {"creator": creator, "settings": settings.kept()}

    def share(self, out: Out) -> None:
        """All workers have announced themselves: give each the facts that only others knew."""
        if self._core.ledger.durable:
            return
        for key, (version, value) in self._facts.items():
            lacking = [worker for worker in self._core.workers if worker not in self._holders.get(key, ())]
            self._send(Keep(key, version, value), lacking, out)
        self._holders.clear()
