"""Each kind of offer against the sentence of RFC 7692 §7 that decides it, and the grammar of RFC 6455 §9.1."""

import time

import pytest

from tuskws_fast.protocol.extensions import (
    HEADER_BYTES_MAX,
    MalformedHeaderError,
    Offer,
    Policy,
    negotiate,
    parse,
)

SHARED = Policy()
DEDICATED = Policy(dedicated=True, window_bits=12)
WIDE = Policy(dedicated=True)

NAME = "permessage-deflate"
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def answer(offers: str, policy: Policy = SHARED) -> str | None:
    agreement = negotiate([offers.encode()], policy)
    return agreement.header if agreement is not None else None


LEGAL_OFFERS = {
    NAME: ANSWER,
    f"{NAME}; server_no_context_takeover": ANSWER,
    f"{NAME}; client_no_context_takeover": ANSWER,
    f"{NAME}; server_no_context_takeover; client_no_context_takeover": ANSWER,
    f"{NAME}; client_max_window_bits": ANSWER,
    f"{NAME}; client_max_window_bits=8": ANSWER,
    f"{NAME}; client_max_window_bits=15; server_no_context_takeover": ANSWER,
    f"{NAME}; server_max_window_bits=15": f"{ANSWER}; server_max_window_bits=15",
    f'{NAME}; server_max_window_bits="15"': f"{ANSWER}; server_max_window_bits=15",
    f'{NAME}; client_max_window_bits="1\\0"': ANSWER,
    f"{NAME};client_max_window_bits;server_no_context_takeover": ANSWER,
    f"\t{NAME} ; client_max_window_bits = 9 ": ANSWER,
    # A smaller window of the server would need a second compressed form of each message.
    f"{NAME}; server_max_window_bits=14": None,
    f"{NAME}; server_max_window_bits=8": None,
    f"{NAME}; server_max_window_bits=10, {NAME}": ANSWER,
    f"{NAME}; server_max_window_bits=10; client_max_window_bits, {NAME}; client_max_window_bits": ANSWER,
    f"x-webkit-deflate-frame, {NAME}": ANSWER,
    "permessage-bzip2; a=b": None,
    f", ,{NAME},,": ANSWER,
}


@pytest.mark.parametrize(("offers", "expected"), LEGAL_OFFERS.items())
def test_in_shared_mode_no_side_takes_its_context_over(offers: str, expected: str | None) -> None:
    assert answer(offers) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "unknown=1",
        "server_no_context_takeover=1",
        'client_no_context_takeover="x"',
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=015",
        "server_max_window_bits=1e1",
        "server_max_window_bits=-9",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=08",
        "client_max_window_bits=9a",
        "Server_No_Context_Takeover",
    ],
)
@pytest.mark.parametrize("policy", [SHARED, DEDICATED])
def test_an_offer_with_a_bad_parameter_is_declined_and_the_next_one_taken(parameters: str, policy: Policy) -> None:
    assert answer(f"{NAME}; {parameters}", policy) is None
    assert answer(f"{NAME}; {parameters}, {NAME}", policy) == answer(NAME, policy)


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        (f"{NAME}; client_max_window_bits", f"{NAME}; server_max_window_bits=12; client_max_window_bits=12"),
        (f"{NAME}; client_max_window_bits=10", f"{NAME}; server_max_window_bits=12; client_max_window_bits=10"),
        # A client that says nothing of its window cannot be bounded, so its context is not kept.
        (NAME, f"{NAME}; client_no_context_takeover; server_max_window_bits=12"),
        (
            f"{NAME}; server_max_window_bits=9; client_max_window_bits",
            f"{NAME}; server_max_window_bits=9; client_max_window_bits=12",
        ),
        (
            f"{NAME}; server_max_window_bits=15; client_no_context_takeover; client_max_window_bits=9",
            f"{NAME}; client_no_context_takeover; server_max_window_bits=12",
        ),
        (
            f"{NAME}; server_no_context_takeover; client_max_window_bits",
            f"{NAME}; server_no_context_takeover; client_max_window_bits=12",
        ),
        (
            f"{NAME}; server_no_context_takeover; server_max_window_bits=10; client_max_window_bits",
            f"{NAME}; server_no_context_takeover; server_max_window_bits=10; client_max_window_bits=12",
        ),
        # zlib makes no raw stream of 8 bits.
        (f"{NAME}; server_max_window_bits=8", None),
    ],
)
def test_dedicated_contexts_have_windows_of_at_most_the_bound(offers: str, expected: str | None) -> None:
    assert answer(offers, DEDICATED) == expected


def test_without_a_bound_a_client_may_always_take_its_context_over() -> None:
    agreement = negotiate([NAME.encode()], WIDE)
    assert agreement is not None
    assert agreement.client_takeover
    assert (agreement.server_window_bits, agreement.client_window_bits) == (15, 15)


def test_the_lines_of_a_header_are_one_list() -> None:
    agreement = negotiate([b"permessage-deflate; server_max_window_bits=9", b"permessage-deflate"], SHARED)
    assert agreement is not None
    assert agreement.header == ANSWER


def test_no_header_is_no_agreement() -> None:
    assert negotiate([], SHARED) is None


def test_more_than_four_offers_or_a_kibibyte_are_not_looked_at() -> None:
    assert answer(", ".join([NAME] * 4)) == ANSWER
    assert answer(", ".join([NAME] * 5)) is None
    assert answer(", ".join(["x", "y", "z", "w", NAME])) is None
    filler = f"{NAME}, x; y="
    assert answer(filler + "z" * (HEADER_BYTES_MAX - len(filler))) == ANSWER
    assert answer(filler + "z" * (HEADER_BYTES_MAX + 1 - len(filler))) is None
    # Over several lines too; the comma and space between them count.
    lines = [b"permessage-deflate", b"x; y=" + b"z" * (HEADER_BYTES_MAX - 18 - 5 - 2)]
    assert negotiate(lines, SHARED) is not None
    assert negotiate([*lines[:1], lines[1] + b"z"], SHARED) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        ";",
        f"{NAME};",
        f"{NAME}; ;x",
        f"{NAME}; =1",
        f"{NAME}; x=",
        f'{NAME}; x="',
        f'{NAME}; x="a',
        f'{NAME}; x="a\\',
        f'{NAME}; x=""',
        f'{NAME}; x="a b"',
        f'{NAME}; x="a"b',
        f"{NAME}; x=a b",
        f"{NAME} client_max_window_bits",
        f"{NAME}; x=a=b",
        "per(message",
        "perm\x00",
        "permessage-deflatä",
    ],
)
def test_what_breaks_the_grammar_is_an_error_of_the_handshake(value: str) -> None:
    with pytest.raises(MalformedHeaderError):
        negotiate([value.encode("latin-1")], SHARED)


def test_parameters_keep_their_order_and_quoted_values_lose_their_quotes() -> None:
    assert parse(b'a; b="c\\d"; b; e = f , g') == [
        Offer(b"a", ((b"b", b"cd"), (b"b", None), (b"e", b"f"))),
        Offer(b"g", ()),
    ]


@pytest.mark.parametrize("piece", ['"', "\\", ";", ",", " ", "\t", "a", "=", 'a="', 'a="\\"', "; a", " ,\t"])
def test_no_header_of_a_kibibyte_takes_long(piece: str) -> None:
    value = (piece * HEADER_BYTES_MAX)[:HEADER_BYTES_MAX].encode()
    started = time.process_time()
    for _ in range(20):
        try:
            parse(value)
        except MalformedHeaderError:
            pass
    assert time.process_time() - started < 0.5
