"""Which tokens a revocation concerns, and for how long."""

from __future__ import annotations

import time

import pytest

from tuskws_fast.auth.revocation import TOKEN, USER, Revocation, Revocations
from tuskws_fast.auth.tokens import TokenError, Verifier, make_token
from tuskws_fast.protocol.codes import ErrorCode

SECRET = "a-secret-for-tests-of-more-than-32-bytes"


@pytest.mark.parametrize(
    ("user", "token_id", "issued_at", "refused"),
    [
        ("ann", None, 99.0, True),
        ("ann", None, 100.0, True),
        ("ann", None, 101.0, False),
        ("ann", None, None, True),
        ("bob", None, 99.0, False),
        ("bob", "t-1", 500.0, True),
        ("bob", "t-2", 500.0, False),
        ("bob", "ann", 1.0, False),
        ("t-1", None, 1.0, False),
    ],
)
def test_user_is_refused_what_was_issued_until_then_and_a_token_always(
    user: str, token_id: str | None, issued_at: float | None, refused: bool
) -> None:
    known = Revocations()
    known.add(USER, "ann", Revocation(100.5, 1_000.0))
    known.add(TOKEN, "t-1", Revocation(100.5, None))
    assert known.refuse(user, token_id, issued_at, 500.0) is refused


def test_it_is_over_when_no_such_token_can_be_good_any_more() -> None:
    known = Revocations()
    known.add(USER, "ann", Revocation(100.0, 200.0))
    known.add(TOKEN, "t-1", Revocation(100.0, 300.0))
    known.add(TOKEN, "for good", Revocation(100.0, None))
    assert known.refuse("ann", None, 1.0, 199.9)
    assert not known.refuse("ann", None, 1.0, 200.0)
    for now, left in ((199.0, 3), (200.0, 2), (299.0, 2), (10_000.0, 1)):
        known.expire(now)
        assert len(known) == left


def test_verifier_refuses_it_also_when_it_remembers_the_token() -> None:
    known = Revocations()
    verifier = Verifier([SECRET], revocations=known)
    now = time.time()
    token, other = make_token(SECRET, "ann", jti="t-1"), make_token(SECRET, "ann", jti="t-2")
    assert verifier.verify(token, now).token_id == "t-1"
    known.add(TOKEN, "t-1", Revocation(now, None))
    with pytest.raises(TokenError) as error:
        verifier.verify(token, now)
    assert (error.value.code, "revoked" in error.value.text) == (ErrorCode.BAD_TOKEN, True)
    assert verifier.verify(other, now).user == "ann"
