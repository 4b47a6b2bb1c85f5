"""What a room and a user may be called, and the one form in which a name is compared.

    room    1..128 of A-Z a-z 0-9 _ . : @ / -      brought to Unicode NFC first, then matched as a whole
    user    1..128 printable characters            taken as they are: a token's `sub` is not ours to rewrite

NFC first, because two spellings of one name must not become two rooms. (The pattern is ASCII, so what NFC changes can
only become ASCII where Unicode defines it as the same character, as the Kelvin sign is K.) Printable is Unicode's
word: no control, format or surrogate characters, so a name can be logged and shown as it is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

NAME_CHARS_MAX = 128
# Names checked lately; a busy room's comes with every message. Only what is a name is remembered.
NAMES_CACHED = 4096
_ROOM = re.compile(r"[A-Za-z0-9_.:@/-]{1,128}")


def room_name(value: object) -> str:
    """The normal form of a room's name. Raises `ValueError` where it is none."""
    if not isinstance(value, str) or len(value) > 4 * NAME_CHARS_MAX:
        raise ValueError("not a room name")
    return _normal_form(value)


@lru_cache(maxsize=NAMES_CACHED)
def _normal_form(value: str) -> str:
    name = value if value.isascii() else unicodedata.normalize("NFC", value)
    if _ROOM.fullmatch(name) is None:
        raise ValueError("not a room name")
    return name


def user_id(value: object) -> str:
    """`value`, if it can be a user's id. Raises `ValueError` where it cannot."""
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_CHARS_MAX or not value.isprintable():
        raise ValueError("not a user id")
    return value
