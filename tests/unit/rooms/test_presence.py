"""The best of a user's leases, and what of it is news."""

import pytest

from tuskws_fast.rooms.presence import View, merged


@pytest.mark.parametrize(
    ("leases", "status"),
    [
        ([], "offline"),
        (["offline", "offline"], "offline"),
        (["away", "offline"], "away"),
        (["away", "online"], "online"),
        (["online", "busy", "away"], "busy"),
    ],
)
def test_the_most_present_lease_is_the_users_status(leases: list[str], status: str) -> None:
    assert merged(leases) == status


def test_only_what_differs_from_the_last_push_is_news() -> None:
    view = View()
    assert not view.merge(["offline"], 1.0)
    assert view.merge(["online"], 2.0)
    view.pushed = view.status
    assert not view.merge(["online", "away"], 3.0)
    assert view.merge(["away"], 4.0)
    assert not view.merge(["online"], 5.0), "back to what others know"


def test_last_seen_is_the_moment_of_going_and_now_while_there() -> None:
    view = View()
    assert view.seen_at(1.0) is None
    view.merge(["online"], 2.0)
    assert view.seen_at(3.0) == 3.0
    view.merge(["offline"], 4.0)
    view.merge([], 9.0)
    assert view.seen_at(10.0) == 4.0, "an invisible user was last seen when it became invisible"
