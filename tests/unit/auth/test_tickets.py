"""A ticket names a session of this node's life, or is refused: as forged, or as over."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuskws_fast.auth.tickets import CHARS, Tickets
from tuskws_fast.auth.tokens import TokenError

KEY, LIFE = b"k" * 32, b"s" * 32


@given(session=st.integers(0, 2**64 - 1))
def test_ticket_names_its_session(session: int) -> None:
    tickets = Tickets(KEY, LIFE)
    ticket = tickets.issue(session)
    assert len(ticket) == CHARS
    assert tickets.session_of(ticket) == session
    assert tickets.issue(session) == ticket


@given(bit=st.integers(0, 30 * 8 - 1))
def test_no_bit_of_it_can_be_changed(bit: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(Tickets(KEY, LIFE).issue(7)))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TokenError) as refused:
        Tickets(KEY, LIFE).session_of(base64.urlsafe_b64encode(raw).decode())
    assert refused.value.code == "bad_token"


@given(text=st.text(max_size=60))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(TokenError) as refused:
        Tickets(KEY, LIFE).session_of(text)
    assert refused.value.code == "bad_token"


@pytest.mark.parametrize("junk", ["!", "=", " ", "\n", "é"])
def test_nothing_may_stand_in_it_that_a_decoder_skips(junk: str) -> None:
    ticket = Tickets(KEY, LIFE).issue(7)
    for changed in (junk + ticket, ticket[:20] + junk + ticket[20:], ticket[:-1] + junk):
        with pytest.raises(TokenError):
            Tickets(KEY, LIFE).session_of(changed)


def test_ticket_of_an_earlier_life_is_over_and_of_another_key_forged() -> None:
    ticket = Tickets(KEY, LIFE).issue(7)
    for tickets, code in ((Tickets(KEY, b"t" * 32), "token_expired"), (Tickets(b"j" * 32, LIFE), "bad_token")):
        with pytest.raises(TokenError) as refused:
            tickets.session_of(ticket)
        assert refused.value.code == code
