"""Every way in which a token can be wrong is a row here; the rules are in the opening of auth/tokens.py."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import warnings
from typing import Any

import jwt
import pytest

from tuskws_fast.auth.tokens import MAX_TOKEN_BYTES, Identity, TokenError, Verifier, make_token
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms.permissions import EVERYTHING, HISTORY, JOIN, PUBLISH

SECRET = "a-secret-of-more-than-thirty-two-bytes"
NOW = 1_800_000_000.0
GOOD = {"sub": "ann", "exp": NOW + 600}
HEADER = {"alg": "HS256", "typ": "JWT"}


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: object, header: object = HEADER, secret: str = SECRET, hash_name: str = "sha256") -> str:
    """A token with a right signature over whatever stands in it: what PyJWT would refuse to make."""
    content = f"{segment(header)}.{segment(payload)}"
    return f"{content}.{segment(hmac.new(secret.encode(), content.encode(), hash_name).digest())}"


def verifier(**options: Any) -> Verifier:
    return Verifier([SECRET], **options)


def refusal(token: str, now: float = NOW, **options: Any) -> ErrorCode:
    with pytest.raises(TokenError) as refused:
        verifier(**options).verify(token, now)
    return refused.value.code


def accepted(claims: dict[str, Any], now: float = NOW, **options: Any) -> Identity:
    return verifier(**options).verify(signed(claims), now)


def test_good_token_gives_an_identity() -> None:
    identity = accepted(
        {**GOOD, "username": "Ann B.", "roles": ["staff"], "jti": "t-1", "rooms": {"dev-*": ["publish"]}}
    )
    assert (identity.user, identity.username, identity.roles) == ("ann", "Ann B.", ("staff",))
    assert (identity.expires_at, identity.token_id) == (NOW + 600, "t-1")
    assert identity.grants.for_room("dev-1") == PUBLISH
    assert identity.grants.for_room("ops") == 0


def test_username_defaults_to_the_user_id() -> None:
    assert accepted(GOOD).username == "ann"


def test_permissions_hold_everywhere_and_admin_may_do_everything() -> None:
    assert accepted({**GOOD, "permissions": ["join", "history", "fly"]}).grants.for_room("any") == JOIN | HISTORY
    assert accepted({**GOOD, "roles": ["admin"]}).grants.for_room("any") == EVERYTHING
    assert accepted({**GOOD, "permissions": ["presence"]}).can_presence
    assert not accepted({**GOOD, "rooms": {"*": ["presence"]}}).can_presence
    assert accepted({**GOOD, "permissions": ["create"]}).can_create


HEADERS_REFUSED = {
    "alg none": {"alg": "none"},
    "alg none in other case": {"alg": "NonE"},
    "algorithm of another family": {"alg": "RS256"},
    "HMAC algorithm that is not configured": {"alg": "HS512"},
    "no alg": {"typ": "JWT"},
    "alg is a list": {"alg": ["HS256"]},
    "alg is null": {"alg": None},
    "crit": {**HEADER, "crit": ["exp"]},
    "b64": {**HEADER, "b64": False, "crit": ["b64"]},
    "jwk": {**HEADER, "jwk": {"kty": "oct", "k": "AAAA"}},
    "jku": {**HEADER, "jku": "https://example.com/keys"},
    "x5u": {**HEADER, "x5u": "https://example.com/cert"},
    "cty": {**HEADER, "cty": "JWT"},
    "kid with a path": {**HEADER, "kid": "../../etc/passwd"},
    "kid with SQL": {**HEADER, "kid": "' OR 1=1 --"},
    "kid too long": {**HEADER, "kid": "k" * 65},
    "kid is a number": {**HEADER, "kid": 7},
    "another typ": {**HEADER, "typ": "logout+jwt"},
    "typ is a number": {**HEADER, "typ": 1},
    "header is a list": ["HS256"],
    "header is null": None,
    "alg twice": b'{"alg":"HS256","alg":"HS256"}',
    "header is not JSON": b"{",
    "header is not UTF-8": b'{"alg":"HS256","kid":"\xff"}',
}


@pytest.mark.parametrize("header", HEADERS_REFUSED.values(), ids=HEADERS_REFUSED)
def test_header_is_refused(header: object) -> None:
    assert refusal(signed(GOOD, header)) is ErrorCode.BAD_TOKEN


CLAIMS_REFUSED = {
    "no exp": {"sub": "ann"},
    "exp is a string": {"sub": "ann", "exp": "9999999999"},
    "exp is true": {"sub": "ann", "exp": True},
    "exp is null": {"sub": "ann", "exp": None},
    "exp is 1e308": {"sub": "ann", "exp": 1e308},
    "exp overflows a float": b'{"sub":"ann","exp":1e999}',
    "exp has 400 digits": b'{"sub":"ann","exp":' + b"9" * 400 + b"}",
    "exp has 5000 digits": b'{"sub":"ann","exp":' + b"9" * 5000 + b"}",
    "exp is NaN": b'{"sub":"ann","exp":NaN}',
    "NaN where nobody reads": b'{"sub":"ann","exp":1800000600,"x":NaN}',
    "exp is Infinity": b'{"sub":"ann","exp":Infinity}',
    "exp beyond 24 hours": {"sub": "ann", "exp": NOW + 24 * 3600 + 1},
    "nbf in the future": {**GOOD, "nbf": NOW + 6},
    "nbf is a string": {**GOOD, "nbf": "0"},
    "iat in the future": {**GOOD, "iat": NOW + 6},
    "iat is huge": {**GOOD, "iat": 1e300},
    "iat is a list": {**GOOD, "iat": [1]},
    "no sub": {"exp": NOW + 600},
    "sub is a number": {**GOOD, "sub": 7},
    "sub is null": {**GOOD, "sub": None},
    "sub is empty": {**GOOD, "sub": ""},
    "sub is too long": {**GOOD, "sub": "a" * 129},
    "sub with a newline": {**GOOD, "sub": "ann\nadmin"},
    "sub with NUL": {**GOOD, "sub": "ann\0"},
    "sub is a lone surrogate": b'{"sub":"\\ud800","exp":1800000600}',
    "sub twice": b'{"sub":"ann","sub":"bob","exp":1800000600}',
    "a name twice inside": b'{"sub":"ann","exp":1800000600,"rooms":{"a":[],"a":["join"]}}',
    "payload is a list": ["ann"],
    "payload is null": None,
    "payload is not JSON": b"ann",
    "payload is deep": b"[" * 5000,
    "username is a number": {**GOOD, "username": 1},
    "username is null": {**GOOD, "username": None},
    "username with a control character": {**GOOD, "username": "a\x1b[31m"},
    "username is too long": {**GOOD, "username": "a" * 129},
    "roles is a string": {**GOOD, "roles": "admin"},
    "roles is an object": {**GOOD, "roles": {"admin": True}},
    "a role is null": {**GOOD, "roles": [None]},
    "too many roles": {**GOOD, "roles": ["r"] * 65},
    "permissions is null": {**GOOD, "permissions": None},
    "a permission is a list": {**GOOD, "permissions": [["join"]]},
    "rooms is a list": {**GOOD, "rooms": ["join"]},
    "rooms entry is a string": {**GOOD, "rooms": {"a": "join"}},
    "rooms action is a number": {**GOOD, "rooms": {"a": [1]}},
    "rooms pattern is empty": {**GOOD, "rooms": {"": ["join"]}},
    "rooms pattern with a star inside": {**GOOD, "rooms": {"a*b": ["join"]}},
    "rooms pattern too long": {**GOOD, "rooms": {"a" * 129: ["join"]}},
    "too many rooms": {**GOOD, "rooms": {f"r{i}": [] for i in range(129)}},
    "jti is a number": {**GOOD, "jti": 5},
}


@pytest.mark.parametrize("claims", CLAIMS_REFUSED.values(), ids=CLAIMS_REFUSED)
def test_claims_are_refused(claims: object) -> None:
    assert refusal(signed(claims)) is ErrorCode.BAD_TOKEN


TEXTS_REFUSED = {
    "empty": "",
    "two segments": "a.b",
    "four segments": signed(GOOD) + ".x",
    "not ASCII": signed(GOOD) + "é",
    "digits that are not ASCII": signed(GOOD).replace(".", ".\u0661", 1),
    "newline at the end": signed(GOOD) + "\n",
    "padding": signed(GOOD) + "=",
    "junk in the signature": signed(GOOD)[:-4] + "!" + signed(GOOD)[-4:],
    "standard base64 alphabet": "+/+/." + signed(GOOD).partition(".")[2],
    "no signature": signed(GOOD).rpartition(".")[0] + ".",
    "other signature": signed(GOOD, secret=SECRET + "!"),
    "other payload, same signature": ".".join(
        [segment(HEADER), segment({**GOOD, "sub": "bob"}), signed(GOOD).rpartition(".")[2]]
    ),
    "impossible base64 length": "a.a.a",
    "above 8 KiB": signed({**GOOD, "pad": "x" * MAX_TOKEN_BYTES}),
}


@pytest.mark.parametrize("token", TEXTS_REFUSED.values(), ids=TEXTS_REFUSED)
def test_text_is_refused(token: str) -> None:
    assert refusal(token) is ErrorCode.BAD_TOKEN


def test_oversized_token_is_refused_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = verifier()
    monkeypatch.setattr("tuskws_fast.auth.tokens.hashlib.blake2b", None)
    monkeypatch.setattr("tuskws_fast.auth.tokens.base64url_decode", None)
    with pytest.raises(TokenError, match="8 KiB"):
        checked.verify("a" * 1_000_000, NOW)


def test_token_of_just_8_kib_is_read() -> None:
    spare = MAX_TOKEN_BYTES - len(signed({**GOOD, "pad": ""}))
    token = signed({**GOOD, "pad": "x" * (spare * 3 // 4)})
    assert MAX_TOKEN_BYTES - 4 < len(token) <= MAX_TOKEN_BYTES
    assert verifier().verify(token, NOW).user == "ann"


def test_expired_token_says_so_only_when_its_signature_is_right() -> None:
    old = {"sub": "ann", "exp": NOW - 1}
    assert refusal(signed(old)) is ErrorCode.TOKEN_EXPIRED
    assert refusal(signed(old, secret=SECRET + "!")) is ErrorCode.BAD_TOKEN


def test_exp_has_no_leeway_and_nbf_and_iat_have_some_seconds() -> None:
    assert refusal(signed({"sub": "ann", "exp": NOW})) is ErrorCode.TOKEN_EXPIRED
    assert accepted({"sub": "ann", "exp": NOW + 0.5}).user == "ann"
    assert accepted({**GOOD, "nbf": NOW + 5, "iat": NOW + 5}).user == "ann"
    assert accepted({**GOOD, "nbf": NOW + 30, "iat": NOW + 30}, leeway_s=30).user == "ann"
    assert refusal(signed({**GOOD, "nbf": NOW + 1}), leeway_s=0) is ErrorCode.BAD_TOKEN


def test_longest_lifetime_is_configurable_and_exact() -> None:
    assert accepted({"sub": "ann", "exp": NOW + 24 * 3600}).user == "ann"
    assert refusal(signed({"sub": "ann", "exp": NOW + 61}), max_token_ttl_s=60) is ErrorCode.BAD_TOKEN
    assert accepted({"sub": "ann", "exp": NOW + 1e9}, max_token_ttl_s=0).expires_at == NOW + 1e9


def test_missing_exp_is_accepted_only_on_request() -> None:
    assert accepted({"sub": "ann"}, allow_no_exp=True).expires_at is None
    assert refusal(signed({"sub": "ann", "exp": "no"}), allow_no_exp=True) is ErrorCode.BAD_TOKEN


@pytest.mark.parametrize(
    "issuer", [None, "evil", "https://id.example.com/", "https://id.example", 7, ["https://id.example.com"]]
)
def test_issuer_must_be_the_configured_one_when_one_is(issuer: object) -> None:
    claims = GOOD if issuer is None else {**GOOD, "iss": issuer}
    assert refusal(signed(claims), issuer="https://id.example.com") is ErrorCode.BAD_TOKEN
    assert accepted({**GOOD, "iss": "https://id.example.com"}, issuer="https://id.example.com").user == "ann"


@pytest.mark.parametrize("audience", [None, "cha", "chat2", [], ["other"], ["chat", 1], {"chat": 1}, 7])
def test_audience_must_hold_the_configured_one_when_one_is(audience: object) -> None:
    claims = GOOD if audience is None else {**GOOD, "aud": audience}
    assert refusal(signed(claims), audience="chat") is ErrorCode.BAD_TOKEN
    assert accepted({**GOOD, "aud": "chat"}, audience="chat").user == "ann"
    assert accepted({**GOOD, "aud": ["mail", "chat"]}, audience="chat").user == "ann"


def test_issuer_and_audience_are_ignored_when_none_is_configured() -> None:
    assert accepted({**GOOD, "iss": "anyone", "aud": ["any"]}).user == "ann"


def test_each_configured_algorithm_is_accepted() -> None:
    secret = SECRET * 2
    checked = Verifier([secret], algorithms=["HS256", "HS512"])
    for algorithm, hash_name in (("HS256", "sha256"), ("HS512", "sha512")):
        assert checked.verify(signed(GOOD, {"alg": algorithm}, secret, hash_name), NOW).user == "ann"
    with pytest.raises(TokenError):
        checked.verify(signed(GOOD, {"alg": "HS384"}, secret, "sha384"), NOW)


def test_key_rotation_by_sequence_accepts_old_and_new() -> None:
    old = "the-older-secret-that-is-long-enough!"
    checked = Verifier([SECRET, old])
    assert checked.verify(signed(GOOD, secret=old), NOW).user == "ann"
    assert checked.verify(signed(GOOD), NOW).user == "ann"


def test_kid_chooses_among_configured_keys_and_only_those() -> None:
    other = "the-other-secret-that-is-long-enough!"
    checked = Verifier({"a": SECRET, "b": other})
    assert checked.verify(signed(GOOD, {**HEADER, "kid": "b"}, other), NOW).user == "ann"
    for header, secret in (({**HEADER, "kid": "a"}, other), ({**HEADER, "kid": "c"}, SECRET), (HEADER, SECRET)):
        with pytest.raises(TokenError) as refused:
            checked.verify(signed(GOOD, header, secret), NOW)
        assert refused.value.code is ErrorCode.BAD_TOKEN


PUBLIC_KEY = "-----BEGIN PUBLIC KEY-----\n" + "A" * 64 + "\n-----END PUBLIC KEY-----"


@pytest.mark.parametrize(
    ("secrets", "options", "says"),
    [
        (["short"], {}, "5 bytes"),
        (["x" * 31], {}, "at least 32"),
        (["x" * 32], {"algorithms": ["HS512"]}, "at least 64"),
        ([], {}, "1 to 8"),
        (["x" * 32] * 9, {}, "1 to 8"),
        ("x" * 32, {}, "not one string"),
        ({"../a": "x" * 32}, {}, "key id"),
        (["x" * 32], {"algorithms": ["none"]}, "'none'"),
        (["x" * 32], {"algorithms": ["RS256"]}, "'RS256'"),
        (["x" * 32], {"algorithms": []}, "non-empty"),
        (["x" * 32], {"algorithms": "HS256"}, "list"),
        ([PUBLIC_KEY], {}, "cannot be used"),
        (["x" * 32], {"max_token_ttl_s": -1}, "lifetime"),
        (["x" * 32], {"leeway_s": float("nan")}, "leeway"),
        (["x" * 32], {"max_token_ttl_s": float("inf")}, "lifetime"),
    ],
)
def test_unsafe_configuration_is_refused_with_a_reason(secrets: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Verifier(secrets, **options)


def test_verified_token_is_remembered_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = verifier()
    token = signed(GOOD)
    first = checked.verify(token, NOW)
    monkeypatch.setattr(jwt.PyJWS, "decode_complete", None)  # a second verification would be seen
    assert checked.verify(token, NOW + 599) is first
    with pytest.raises(TokenError) as refused:
        checked.verify(token, NOW + 600)
    assert refused.value.code is ErrorCode.TOKEN_EXPIRED
    assert checked.cached == 0


def test_cache_is_bounded_and_holds_no_refused_token() -> None:
    checked = verifier(cached_max=3)
    for i in range(10):
        checked.verify(signed({**GOOD, "jti": f"t{i}"}), NOW)
        with pytest.raises(TokenError):
            checked.verify(signed({**GOOD, "jti": f"t{i}"}, secret="y" * 32), NOW)
    assert checked.cached == 3


def test_error_never_quotes_the_token() -> None:
    canary = "canary5e1f"
    for token in (signed({**GOOD, "sub": canary, "exp": canary}), signed(GOOD, {**HEADER, canary: 1}), f"{canary}.é.x"):
        with pytest.raises(TokenError) as refused:
            verifier().verify(token, NOW)
        assert canary not in str(refused.value)
        assert segment(canary) not in str(refused.value)


def test_made_token_is_accepted_and_carries_its_claims() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = make_token(SECRET, "ann", now=NOW, ttl_s=60, username="Ann", roles=["staff"], rooms={"a": ["join"]})
        identity = verifier().verify(token, NOW)
    assert (identity.user, identity.username, identity.roles, identity.expires_at) == (
        "ann",
        "Ann",
        ("staff",),
        NOW + 60,
    )
    assert verifier(allow_no_exp=True).verify(make_token(SECRET, "ann", now=NOW, ttl_s=None), NOW).expires_at is None


def test_made_token_can_name_its_key() -> None:
    token = make_token(SECRET, "ann", now=NOW, kid="k1")
    assert Verifier({"k1": SECRET}).verify(token, NOW).user == "ann"


def test_the_hash_that_names_a_cached_token_is_of_the_whole_text() -> None:
    """Two tokens that differ only in their signature are two entries: the second is verified, and refused."""
    checked = verifier()
    token = signed(GOOD)
    checked.verify(token, NOW)
    forged = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
    assert hashlib.sha256(forged.encode()).digest() != hashlib.sha256(token.encode()).digest()
    with pytest.raises(TokenError):
        checked.verify(forged, NOW)
