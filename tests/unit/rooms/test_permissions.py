"""Claims become rights: they add up, a pattern is a name or a prefix, and the admin may do everything."""

import pytest

from tuskws_fast.rooms.permissions import CREATE, EVERYTHING, JOIN, MODERATE, PRESENCE, Grants, matches, rights_of


@pytest.mark.parametrize(
    ("pattern", "room", "expected"),
    [
        ("team", "team", True),
        ("team", "team2", False),
        ("team-*", "team-7", True),
        ("team-*", "team-", True),
        ("team-*", "tea", False),
        ("*", "anything", True),
        ("", "x", False),
    ],
)
def test_a_pattern_is_a_name_or_a_prefix(pattern: str, room: str, expected: bool) -> None:
    assert matches(pattern, room) is expected


def test_unknown_actions_grant_nothing() -> None:
    assert rights_of(["join", "fly"]) == JOIN


def test_claims_of_all_patterns_that_match_add_up() -> None:
    grants = Grants.from_claims([], ["presence"], {"team-*": ["join"], "team-7": ["moderate"], "x": ["create"]})
    assert grants.for_room("team-7") == PRESENCE | JOIN | MODERATE
    assert grants.for_room("team-8") == PRESENCE | JOIN
    assert grants.for_room("y") == PRESENCE


def test_only_the_role_admin_may_do_everything() -> None:
    assert Grants.from_claims(["admin"], [], {}).for_room("any") == EVERYTHING
    assert Grants.from_claims(["Admin", "root"], ["create"], {}).for_room("any") == CREATE
