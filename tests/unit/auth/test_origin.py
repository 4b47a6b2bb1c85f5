"""The origin policy as a table: what a browser on some page sends, and whether it may connect."""

from __future__ import annotations

import pytest

from tuskws_fast.auth.origin import MAX_ALLOWED, OriginPolicy

ALLOWED = [
    "https://app.example.com",
    "http://dev.example.com:3000",
    "https://*.wild.example",
    "https://*.port.example:8443",
    "https://Mixed.Example.Org",
    "plain.example.net",
    "https://bücher.example",
    "http://[2001:DB8::0:1]:8080",
    "capacitor://localhost",
    "https://kiosk.example",
]
HOST = "chat.example.com"

YES, NO = True, False

ORIGINS = [
    # exact
    ("https://app.example.com", YES),
    ("https://app.example.com:443", YES),
    ("HTTPS://APP.EXAMPLE.COM", YES),
    ("http://app.example.com", NO),
    ("http://app.example.com:443", NO),
    ("https://app.example.com:8443", NO),
    ("https://app.example.com:0443", YES),
    ("wss://app.example.com", NO),
    ("https://app.example.com.", NO),
    ("https://app.example.com/", NO),
    ("https://app.example.com/path", NO),
    ("https://app.example.com@evil.example", NO),
    ("https://user@app.example.com", NO),
    ("https://app.example.com.evil.example", NO),
    ("https://evil-app.example.com", NO),
    ("https://sub.app.example.com", NO),
    ("https://app.example.com evil", NO),
    ("https://app.example.com, https://evil.example", NO),
    ("https://app.example.com\x00", NO),
    ("http://dev.example.com:3000", YES),
    ("http://dev.example.com", NO),
    ("http://dev.example.com:3001", NO),
    ("https://mixed.example.org", YES),
    ("https://plain.example.net", YES),
    ("http://plain.example.net", NO),
    ("capacitor://localhost", YES),
    ("capacitor://evil", NO),
    # wildcard: whole labels only
    ("https://a.wild.example", YES),
    ("https://a.b.wild.example", YES),
    ("https://wild.example", NO),
    ("https://notwild.example", NO),
    ("https://a-wild.example", NO),
    ("https://.wild.example", NO),
    ("https://a..wild.example", NO),
    ("https://*.wild.example", NO),
    ("http://a.wild.example", NO),
    ("https://a.wild.example:8443", NO),
    ("https://a.wild.example.", NO),
    ("https://a.wild.example.evil.example", NO),
    ("https://a.port.example:8443", YES),
    ("https://a.port.example", NO),
    # names beyond ASCII: browsers send punycode, and only that
    ("https://xn--bcher-kva.example", YES),
    ("https://bücher.example", NO),
    ("https://\u0430pp.example.com", NO),  # a Cyrillic a
    ("https://kiosk.example", YES),
    ("https://\u212aiosk.example", NO),  # the Kelvin sign, whose lower case is k
    # addresses
    ("http://[2001:db8::1]:8080", YES),
    ("http://[2001:db8:0:0:0:0:0:1]:8080", YES),
    ("http://[2001:db8::2]:8080", NO),
    ("http://[2001:db8::1", NO),
    ("http://[::::]:8080", NO),
    # not an origin
    ("null", NO),
    ("NULL", NO),
    ("", NO),
    ("*", NO),
    ("app.example.com", NO),
    ("https://", NO),
    ("https://app.example.com:", NO),
    ("https://app.example.com:0", NO),
    ("https://app.example.com:65536", NO),
    ("https://app.example.com:+443", NO),
    ("https://app.example.com:٤٤٣", NO),
    ("file://", NO),
    ("https://" + "a." * 300 + "wild.example", NO),
]


@pytest.mark.parametrize(("origin", "allowed"), ORIGINS)
def test_origin(origin: str, allowed: bool) -> None:
    assert OriginPolicy(ALLOWED).allows(origin, HOST) is allowed


def test_request_without_origin_passes() -> None:
    assert OriginPolicy(ALLOWED).allows(None, HOST)
    assert OriginPolicy([]).allows(None, None)


OWN = [
    ("http://chat.example.com", "chat.example.com", False, YES),
    ("http://chat.example.com:8080", "chat.example.com:8080", False, YES),
    ("http://CHAT.example.com:8080", "chat.EXAMPLE.com:8080", False, YES),
    ("http://chat.example.com", "chat.example.com:80", False, YES),
    ("https://chat.example.com", "chat.example.com", False, YES),  # a proxy in front ended TLS
    ("https://chat.example.com", "chat.example.com:443", True, YES),
    ("http://chat.example.com", "chat.example.com", True, NO),
    ("http://chat.example.com:8080", "chat.example.com:8081", False, NO),
    ("http://chat.example.com", "chat.example.com:8080", False, NO),
    ("http://evil.example", "chat.example.com", False, NO),
    ("http://chat.example.com.evil.example", "chat.example.com", False, NO),
    ("http://[::1]:8080", "[0:0::1]:8080", False, YES),
    ("capacitor://localhost", "localhost", False, NO),
    ("null", "null", False, NO),
    ("http://chat.example.com", None, False, NO),
    ("http://chat.example.com", "", False, NO),
    ("http://chat.example.com", "chat.example.com/x", False, NO),
    ("http://chat.example.com", "chat.example.com:99999", False, NO),
    ("http://chat.example.com", "[zz]", False, NO),
]


@pytest.mark.parametrize(("origin", "host", "secure", "allowed"), OWN)
def test_own_origin(origin: str, host: str | None, secure: bool, allowed: bool) -> None:
    assert OriginPolicy([]).allows(origin, host, secure) is allowed


def test_two_policies_decide_each_for_itself_in_both_orders() -> None:
    one, other = OriginPolicy(["https://one.example"]), OriginPolicy(["https://other.example"])
    for first, second in ((one, other), (other, one)):
        for policy in (first, second, first):
            assert policy.allows("https://one.example", HOST) is (policy is one)
            assert policy.allows("https://other.example", HOST) is (policy is other)


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "https://*",
        "https://*.com",
        "https://a.*.example.com",
        "https://*a.example.com",
        "null",
        "",
        "https://a/b",
        "https://a:0",
        "https://a b",
        "https://-a.example",
        "https://" + "ü" * 300 + ".example",
    ],
)
def test_unreadable_entry_is_an_error_that_names_it(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed origin"):
        OriginPolicy([entry])


def test_length_of_the_list_is_bounded() -> None:
    with pytest.raises(ValueError, match=str(MAX_ALLOWED)):
        OriginPolicy(f"https://h{i}.example" for i in range(MAX_ALLOWED + 1))
