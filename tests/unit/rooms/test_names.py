"""Which names there are, and that two spellings of one are one."""

import pytest

from tuskws_fast.rooms import names


@pytest.mark.parametrize("name", ["a", "general", "a.b:c@d/e-f_9", "Z" * 128])
def test_a_room_name_is_its_own_normal_form(name: str) -> None:
    assert names.room_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "Z" * 129, "a b", "a\n", "\na", "caf\u00e9", "a*", "a\x00", "\u200b", None, 7, ["a"], b"a"]
)
def test_what_is_no_room_name_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="room name"):
        names.room_name(name)


def test_a_room_name_is_compared_in_nfc() -> None:
    assert names.room_name("\u212a") == "K"


@pytest.mark.parametrize("user", ["a", "Zo\u00eb M\u00fcller", "\u5f20\u4f1f", "x" * 128, " "])
def test_a_user_id_is_taken_as_it_is(user: str) -> None:
    assert names.user_id(user) == user


@pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", "a\x00", "\u202ea", "\u0085", None, 7, ["a"]])
def test_what_is_no_user_id_is_refused(user: object) -> None:
    with pytest.raises(ValueError, match="user id"):
        names.user_id(user)
