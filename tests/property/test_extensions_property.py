"""Whatever a client offers: the answer is one that RFC 7692 §7 allows to the offer, or there is none."""

from __future__ import annotations

from helpers.rfc7692 import allows, is_legal
from hypothesis import given
from hypothesis import strategies as st

from tuskws_fast.protocol.extensions import MalformedHeaderError, Offer, Policy, negotiate, parse

POLICIES = st.builds(Policy, st.booleans(), st.integers(9, 15))
FLAGS = st.sampled_from([b"server_no_context_takeover", b"client_no_context_takeover"])
BITS = st.sampled_from([b"server_max_window_bits", b"client_max_window_bits"])
SIZES = st.integers(6, 17).map(lambda n: b"%d" % n)
PARAMETERS = st.lists(
    st.one_of(
        st.tuples(FLAGS, st.none()),
        st.tuples(BITS, SIZES),
        st.tuples(BITS, st.none()),
        st.tuples(st.just(b"unknown"), st.none()),
        st.tuples(FLAGS, SIZES),
    ),
    max_size=4,
)
OFFERS = st.lists(
    st.builds(
        Offer,
        st.sampled_from([b"permessage-deflate", b"other"]),
        PARAMETERS.map(tuple),
    ),
    min_size=1,
    max_size=4,
)
SPACES = st.sampled_from([b"", b" ", b"\t "])


@st.composite
def written(draw: st.DrawFn, offers: list[Offer]) -> bytes:
    """The header, with any space and quoting that means the same."""
    texts = []
    for offer in offers:
        text = draw(SPACES) + offer.name + draw(SPACES)
        for key, value in offer.parameters:
            text += b";" + draw(SPACES) + key + draw(SPACES)
            if value is not None:
                quoted = b'"\\' + value + b'"' if draw(st.booleans()) else value
                text += b"=" + draw(SPACES) + quoted + draw(SPACES)
        texts.append(text)
    return b",".join(texts)


@given(st.data(), OFFERS)
def test_what_is_written_is_read_back(data: st.DataObject, offers: list[Offer]) -> None:
    assert parse(data.draw(written(offers))) == offers


@given(st.data(), OFFERS, POLICIES)
def test_an_answer_is_legal_and_what_both_sides_then_do(
    data: st.DataObject, offers: list[Offer], policy: Policy
) -> None:
    agreement = negotiate([data.draw(written(offers))], policy)
    legal = [offer for offer in offers if is_legal(offer)]
    if agreement is None:
        # Declined for our own reasons only: a smaller window of the server.
        assert all(b"server_max_window_bits" in dict(offer.parameters) for offer in legal)
        return
    [answer] = parse(agreement.header.encode())
    assert any(allows(offer, answer) for offer in legal)
    told = dict(answer.parameters)
    assert agreement.server_takeover == (b"server_no_context_takeover" not in told)
    assert agreement.client_takeover == (b"client_no_context_takeover" not in told)
    assert agreement.server_window_bits == int(told.get(b"server_max_window_bits") or 15)
    assert agreement.client_window_bits == int(told.get(b"client_max_window_bits") or 15)
    if not policy.dedicated:
        assert not agreement.server_takeover
        assert not agreement.client_takeover
    elif agreement.client_takeover:
        assert agreement.client_window_bits <= policy.window_bits


@given(st.lists(st.binary(max_size=300), max_size=4), POLICIES)
def test_any_bytes_are_answered_or_malformed(values: list[bytes], policy: Policy) -> None:
    try:
        agreement = negotiate(values, policy)
    except MalformedHeaderError:
        return
    # A header value goes out as it is: nothing of the client's may be in it.
    assert agreement is None or agreement.header.replace("; ", "").replace("=", "").replace("-", "_").isidentifier()
