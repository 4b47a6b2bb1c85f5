"""What a client may set, what it sees of it, and that nobody sees the password."""

from typing import Any

import pytest

from tuskws_fast.protocol import codec
from tuskws_fast.rooms.settings import (
    DEFAULT_SETTINGS,
    RoomSettings,
    SettingBounds,
    SettingsFault,
    SettingsUnavailable,
    changed,
    restored,
)

BOUNDS = SettingBounds(0, 100, 10_000, 300.0, 86_400.0)


def settings(**wanted: Any) -> RoomSettings:
    return changed(DEFAULT_SETTINGS, wanted, BOUNDS, b"salt")


def test_what_is_not_said_follows_the_nodes_defaults() -> None:
    assert settings().shown(BOUNDS) == {
        "max_members": 0,
        "public": True,
        "moderated": False,
        "password": False,
        "history_size": 100,
        "history_ttl": 300.0,
        "persistent": False,
        "slow_consumer": "disconnect",
    }


def test_what_is_said_holds_and_the_rest_stays() -> None:
    first = settings(max_members=5, public=False, history_size=0, history_ttl=1.5)
    second = changed(first, {"moderated": True, "max_members": None}, BOUNDS, b"salt")
    shown = second.shown(BOUNDS)
    assert (shown["public"], shown["moderated"], shown["max_members"]) == (False, True, 0)
    assert (shown["history_size"], shown["history_ttl"]) == (0, 1.5)


def test_unknown_fields_are_ignored() -> None:
    assert settings(colour="blue") == DEFAULT_SETTINGS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_members", -1),
        ("max_members", True),
        ("max_members", 1.5),
        ("max_members", 2**31),
        ("public", 1),
        ("public", "yes"),
        ("moderated", []),
        ("password", ""),
        ("password", "x" * 129),
        ("password", 7),
        ("history_size", 10_001),
        ("history_size", "9"),
        ("history_ttl", -0.1),
        ("history_ttl", 86_401),
        ("history_ttl", False),
        ("history_ttl", float("nan")),
        ("persistent", 1),
        ("slow_consumer", "explode"),
        ("slow_consumer", ["drop"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name_without_repeating_it(field: str, value: object) -> None:
    with pytest.raises(SettingsFault, match=f"`{field}`") as caught:
        settings(**{field: value})
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("wanted", [{"persistent": True}])
def test_a_promise_that_cannot_be_kept_is_not_made(wanted: dict[str, Any]) -> None:
    with pytest.raises(SettingsUnavailable):
        settings(**wanted)


def test_a_promise_that_is_not_asked_for_is_fine() -> None:
    assert settings(persistent=False, slow_consumer="disconnect") == DEFAULT_SETTINGS
    assert settings(persistent=None, slow_consumer=None) == DEFAULT_SETTINGS


def test_a_password_admits_only_itself_and_is_nowhere_to_be_seen() -> None:
    room = settings(password="sesame \u2603")
    assert room.admits("sesame \u2603")
    assert not room.admits("sesame")
    assert not room.admits("")
    assert not room.admits(None)
    assert room.shown(BOUNDS)["password"] is True
    assert "sesame" not in repr(room)


def test_the_same_password_with_another_salt_is_another_hash() -> None:
    one = changed(DEFAULT_SETTINGS, {"password": "x"}, BOUNDS, b"1")
    two = changed(DEFAULT_SETTINGS, {"password": "x"}, BOUNDS, b"2")
    assert one.password != two.password


def test_a_password_goes_only_when_it_is_set_to_null() -> None:
    room = settings(password="x")
    assert changed(room, {"public": False}, BOUNDS, b"s").password == room.password
    assert changed(room, {"password": None}, BOUNDS, b"s").admits(None)


def test_settings_survive_a_workers_keeping() -> None:
    room = settings(password="x", max_members=3, history_ttl=2.5, public=False)
    assert restored(codec.decode(codec.encode(room.kept()))) == room


@pytest.mark.parametrize(
    "damage",
    [
        {"password": "no hash"},
        {"password": 7},
        {"password": "zz$00"},
        {"public": None},
        {"max_members": "3"},
        {"history_ttl": -1},
        {"more": 1},
    ],
)
def test_damaged_settings_are_not_restored(damage: dict[str, Any]) -> None:
    with pytest.raises(SettingsFault):
        restored({**DEFAULT_SETTINGS.kept(), **damage})


@pytest.mark.parametrize("kept", [None, [], {}, "x"])
def test_what_is_no_settings_is_not_restored(kept: object) -> None:
    with pytest.raises(SettingsFault):
        restored(kept)
