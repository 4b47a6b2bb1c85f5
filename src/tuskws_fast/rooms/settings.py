"""What a room's creator may decide about it, checked, and shown without its secret.

A field that is None follows the node's default, also when that default changes. The password is never kept: a salted
scrypt hash is, compared in constant time. Its cost (n=256: 0.25 MiB, 0.7 ms) is a compromise: the broker computes it
between other people's publications, so tries are limited per user and room as well, and a stolen hash of a *room*
password is worth less than that of a person's.

`persistent: true` is part of the protocol, but nothing here can keep its promise yet: it is refused as unavailable
rather than accepted and ignored.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

SLOW_CONSUMER_POLICIES = frozenset({"disconnect", "drop", "conflate"})
PASSWORD_CHARS_MAX = 128
MAX_MEMBERS_MAX = 2**31 - 1


class SettingsFault(ValueError):
    """The settings are not what the protocol says. The text names the field, never the value."""


class SettingsUnavailable(Exception):
    """Well-formed, but this node cannot do it."""


@dataclass(frozen=True, slots=True)
class SettingBounds:
    """The node's defaults, and how far a room may go beyond them."""

    max_members: int
    history_size: int
    history_size_max: int
    history_ttl_s: float
    history_ttl_max_s: float


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """`password` is `salt$hash` in hexadecimal, or None. `max_members` 0 means no bound."""

    max_members: int | None = None
    public: bool = True
    moderated: bool = False
    password: str | None = None
    history_size: int | None = None
    history_ttl: float | None = None
    slow_consumer: str = "disconnect"

    def shown(self, bounds: SettingBounds) -> dict[str, Any]:
        """What a client sees: effective values, and of the password only whether there is one."""
        return {
            "max_members": bounds.max_members if self.max_members is None else self.max_members,
            "public": self.public,
            "moderated": self.moderated,
            "password": self.password is not None,
            "history_size": bounds.history_size if self.history_size is None else self.history_size,
            "history_ttl": bounds.history_ttl_s if self.history_ttl is None else self.history_ttl,
            "persistent": False,
            "slow_consumer": self.slow_consumer,
        }

    def admits(self, password: str | None) -> bool:
        """Is this the room's password? Constant time in the password's content; true where the room has none."""
        if self.password is None:
            return True
        salt, _, expected = self.password.partition("$")
        return hmac.compare_digest(_digest(password or "", bytes.fromhex(salt)), bytes.fromhex(expected))

    def closed(self) -> RoomSettings:
        """The same, for invited users and those whose claims say so."""
        return replace(self, public=False)

    def kept(self) -> dict[str, Any]:
        """As plain values, the password's hash included: for the workers' keeping, never for a client."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


DEFAULT_SETTINGS = RoomSettings()


def changed(old: RoomSettings, wanted: Mapping[str, Any], bounds: SettingBounds, salt: bytes) -> RoomSettings:
    """`old` with what a client's `settings` object says; unknown fields are ignored, null means the node's default.

    `salt` is for a new password: any bytes that are not used twice. Raises `SettingsFault`, `SettingsUnavailable`.
    """
    new: dict[str, Any] = {}
    if "max_members" in wanted:
        new["max_members"] = _count(wanted, "max_members", MAX_MEMBERS_MAX)
    if "history_size" in wanted:
        new["history_size"] = _count(wanted, "history_size", bounds.history_size_max)
    if "history_ttl" in wanted:
        new["history_ttl"] = _seconds(wanted, "history_ttl", bounds.history_ttl_max_s)
    for name in ("public", "moderated"):
        if name in wanted:
            default: bool = getattr(DEFAULT_SETTINGS, name)
            new[name] = default if wanted[name] is None else _flag(wanted, name)
    if "password" in wanted:
        new["password"] = _hashed(wanted["password"], salt)
    if "slow_consumer" in wanted:
        new["slow_consumer"] = _policy(wanted)
    _check_promises(wanted)
    return replace(old, **new)


def restored(kept: object) -> RoomSettings:
    """The settings from what `kept` gave. Raises `SettingsFault`."""
    if not isinstance(kept, dict) or kept.keys() != {field.name for field in fields(RoomSettings)}:
        raise SettingsFault("kept settings have other fields")
    password = kept["password"]
    if password is not None:
        try:
            salt, _, digest = password.partition("$")
            well_formed = bool(bytes.fromhex(salt)) and len(bytes.fromhex(digest)) == _DIGEST_BYTES
        except (ValueError, AttributeError):
            well_formed = False
        if not well_formed:
            raise SettingsFault("kept password is malformed")
    return RoomSettings(
        max_members=_count(kept, "max_members", MAX_MEMBERS_MAX),
        public=_flag(kept, "public"),
        moderated=_flag(kept, "moderated"),
        password=password,
        history_size=_count(kept, "history_size", MAX_MEMBERS_MAX),
        history_ttl=_seconds(kept, "history_ttl", math.inf),
        slow_consumer=_policy(kept),
    )


_DIGEST_BYTES = 32


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=256, r=8, p=1, dklen=_DIGEST_BYTES)


def _hashed(password: object, salt: bytes) -> str | None:
    if password is None:
        return None
    if not isinstance(password, str) or not 1 <= len(password) <= PASSWORD_CHARS_MAX:
        raise SettingsFault(f"`password` must be null or a string of 1 to {PASSWORD_CHARS_MAX} characters")
    return f"{salt.hex()}${_digest(password, salt).hex()}"


def _flag(wanted: Mapping[str, Any], name: str) -> bool:
    value = wanted[name]
    if not isinstance(value, bool):
        raise SettingsFault(f"`{name}` must be true or false")
    return value


def _count(wanted: Mapping[str, Any], name: str, most: int) -> int | None:
    value = wanted[name]
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise SettingsFault(f"`{name}` must be an integer from 0 to {most}")
    return value


def _seconds(wanted: Mapping[str, Any], name: str, most: float) -> float | None:
    value = wanted[name]
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise SettingsFault(f"`{name}` must be a number of seconds from 0 to {most:g}")
    return value


def _policy(wanted: Mapping[str, Any]) -> str:
    policy = wanted["slow_consumer"]
    if policy is None:
        return DEFAULT_SETTINGS.slow_consumer
    if not isinstance(policy, str) or policy not in SLOW_CONSUMER_POLICIES:
        raise SettingsFault("`slow_consumer` must be disconnect, drop or conflate")
    return policy


def _check_promises(wanted: Mapping[str, Any]) -> None:
    persistent = wanted.get("persistent")
    if persistent is not None and not isinstance(persistent, bool):
        raise SettingsFault("`persistent` must be true or false")
    if persistent:
        raise SettingsUnavailable("Rooms cannot be persistent on this node")
