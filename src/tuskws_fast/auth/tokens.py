"""Who speaks: a JWT (HMAC only, by PyJWT) becomes an `Identity`, or a `TokenError`. Nothing in between.

PyJWT verifies the signature. Everything else is decided here, because its defaults accept tokens without `exp`, with
`exp` of 1e308 or "9999999999", any issuer when none is configured, and a three-byte key. The order is the rule:

    size, alphabet  ->  header  ->  signature  ->  payload  ->  times  ->  issuer, audience  ->  claims
    (before any         (allow-     (PyJWT, with the key and
    base64 or JSON)     list)       algorithm configuration chose, never the token)

No claim is looked at before the signature holds, so that `token_expired` tells a forger nothing. Base64 and JSON come
after the size check: a token of 1 MB costs 60 ms even when its signature is wrong. A key written twice is refused, in
the header and at every depth of the payload: parsers differ in which of the two they believe. orjson cannot see that,
so this is the one place that reads JSON with the standard library.

Clocks: `exp` has no leeway (an expired token is expired); `nbf` and `iat` may be some seconds ahead of us.

A valid token is remembered under its hash until it expires, because verifying costs about 50 us and a thousand tabs
that reconnect bring the same one. Refused tokens are not: they could fill the memory for free.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jwt
from jwt.utils import base64url_decode

from tuskws_fast.auth.revocation import Revocations
from tuskws_fast.protocol.codes import ErrorCode
from tuskws_fast.rooms import names
from tuskws_fast.rooms.permissions import CREATE, PRESENCE, Grants

MAX_TOKEN_BYTES = 8 * 1024
MAX_TOKEN_TTL_S = 24 * 3600.0
LEEWAY_S = 5.0
MAX_USERNAME_CHARS = 128
MAX_NAMES = 64  # entries of `roles`, of `permissions`, of one `rooms` entry
MAX_NAME_CHARS = 64
MAX_ROOM_PATTERNS = 128
MAX_SECRETS = 8
MAX_CACHED = 10_000

# The algorithms offered and the shortest key each may have: as long as its hash (RFC 7518 section 3.2).
KEY_BYTES_MIN: Mapping[str, int] = {"HS256": 32, "HS384": 48, "HS512": 64}

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_KID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9_.:@/-]{1,128}|[A-Za-z0-9_.:@/-]{0,127}\*", re.ASCII)
_HEADER_FIELDS = frozenset({"alg", "typ", "kid"})
_TYPES = frozenset({"jwt", "at+jwt"})


class TokenError(Exception):
    """The token is refused. `code` and `text` go to the client; neither ever holds a part of the token."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Identity(NamedTuple):
    """What a token proved. Immutable, and shared by all connections that brought the same token. Every guest has one
    too, hence a tuple: a frozen dataclass takes 2 us longer to make, a thirtieth of a handshake."""

    user: str
    username: str
    roles: tuple[str, ...]
    grants: Grants
    expires_at: float | None
    token_id: str | None = None
    issued_at: float | None = None

    @property
    def can_presence(self) -> bool:
        """May see the presence of people it shares no room with."""
        return bool(self.grants.everywhere & PRESENCE)

    @property
    def can_create(self) -> bool:
        """May create rooms of any name with settings."""
        return bool(self.grants.everywhere & CREATE)


class Verifier:
    """Verifies tokens against the configured keys.

    `secrets` is a sequence (each is tried, the newest first: how a key is rotated; `kid` is then not consulted) or a
    mapping from `kid` to secret (the token must name one of them). `issuer` and `audience` are mandatory in the token
    once they are given. What `revocations` says is refused. `max_token_ttl_s` 0 is no limit; `leeway_s` is how far
    `nbf` and `iat` may be ahead of us. Raises `ValueError`, fit to be shown to an operator, for a configuration that is
    not safe.
    """

    def __init__(
        self,
        secrets: Sequence[str | bytes] | Mapping[str, str | bytes],
        *,
        algorithms: Sequence[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | None = None,
        allow_no_exp: bool = False,
        max_token_ttl_s: float = MAX_TOKEN_TTL_S,
        leeway_s: float = LEEWAY_S,
        cached_max: int = MAX_CACHED,
        revocations: Revocations | None = None,
    ) -> None:
        self._algorithms = _checked_algorithms(algorithms)
        self._by_kid: dict[str, bytes] | None = None
        self._secrets: list[bytes] = []
        if isinstance(secrets, Mapping):
            self._by_kid = {_checked_kid(kid): self._checked_secret(secret) for kid, secret in secrets.items()}
        elif isinstance(secrets, (str, bytes)):
            raise ValueError("secrets must be a sequence or a mapping of secrets, not one string")
        else:
            self._secrets = [self._checked_secret(secret) for secret in secrets]
        if not 1 <= len(secrets) <= MAX_SECRETS:
            raise ValueError(f"1 to {MAX_SECRETS} token secrets are needed, not {len(secrets)}")
        for name, seconds in (("longest lifetime", max_token_ttl_s), ("leeway", leeway_s)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"the {name} of a token must be a number of seconds, not {seconds}")
        self._issuer = issuer
        self._audience = audience
        self._allow_no_exp = allow_no_exp
        self._max_ttl_s = max_token_ttl_s or math.inf
        self._leeway_s = leeway_s
        self._jws = jwt.PyJWS(algorithms=list(self._algorithms))
        self._cache: dict[bytes, Identity] = {}
        self._cached_max = cached_max
        self._revocations = revocations

    def _checked_secret(self, secret: str | bytes) -> bytes:
        key = secret.encode() if isinstance(secret, str) else bytes(secret)
        for algorithm in self._algorithms:
            if len(key) < KEY_BYTES_MIN[algorithm]:
                raise ValueError(
                    f"the token secret has {len(key)} bytes, {algorithm} needs at least {KEY_BYTES_MIN[algorithm]}"
                    " (`openssl rand -base64 48` makes one)"
                )
        try:
            # PyJWT refuses what looks like a public key in PEM or SSH form: the classic confusion of HMAC and RSA.
            for algorithm in self._algorithms:
                jwt.get_algorithm_by_name(algorithm).prepare_key(key)
        except jwt.InvalidKeyError as error:
            raise ValueError(f"the token secret cannot be used: {error}") from error
        return key

    def verify(self, token: str, now: float) -> Identity:
        """The identity that `token` proves at `now` (Unix time). Raises `TokenError`, and nothing else."""
        if len(token) > MAX_TOKEN_BYTES or not _COMPACT.fullmatch(token):
            _refuse("not a signed token of at most 8 KiB")
        digest = _digest(token)
        known = self._cache.get(digest)
        if known is None:
            known = self._verify(token, now)
            if len(self._cache) >= self._cached_max:
                del self._cache[next(iter(self._cache))]
            self._cache[digest] = known
        elif known.expires_at is not None and known.expires_at <= now:
            del self._cache[digest]
            raise TokenError(ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_EXPIRED.text)
        revocations = self._revocations
        if revocations is not None and revocations.refuse(known.user, known.token_id, known.issued_at, now):
            _refuse("revoked")
        return known

    @property
    def cached(self) -> int:
        """How many verified tokens are remembered."""
        return len(self._cache)

    def remembers(self, token: str) -> bool:
        """Whether it was verified before: then asking again costs nothing. It may have expired meanwhile."""
        return len(token) <= MAX_TOKEN_BYTES and token.isascii() and _digest(token) in self._cache

    def _verify(self, token: str, now: float) -> Identity:
        header = _decode_object(token[: token.index(".")])
        payload = self._signed_payload(token, self._candidate_keys(header), header["alg"])
        claims = _parse_object(payload)
        expires_at = self._check_times(claims, now)
        self._check_parties(claims)
        return _identity(claims, expires_at, _time(claims, "iat"))

    def _candidate_keys(self, header: dict[str, Any]) -> Sequence[bytes]:
        if not header.keys() <= _HEADER_FIELDS:
            _refuse("the header has fields other than alg, typ and kid")
        algorithm, kind, kid = header.get("alg"), header.get("typ"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            _refuse("the algorithm is not one that is configured")
        if kind is not None and not (isinstance(kind, str) and kind.lower() in _TYPES):
            _refuse("the token is of another type")
        if kid is not None and not (isinstance(kid, str) and _KID.fullmatch(kid)):
            _refuse("malformed kid")
        if self._by_kid is None:
            return self._secrets
        if kid not in self._by_kid:
            _refuse("unknown kid")
        return (self._by_kid[kid],)

    def _signed_payload(self, token: str, keys: Sequence[bytes], algorithm: str) -> bytes:
        for key in keys:
            try:
                payload = self._jws.decode_complete(token, key, algorithms=[algorithm])["payload"]
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                _refuse("malformed")
            return bytes(payload)
        _refuse("the signature does not match")

    def _check_times(self, claims: dict[str, Any], now: float) -> float | None:
        expires_at = _time(claims, "exp")
        not_before = _time(claims, "nbf")
        issued_at = _time(claims, "iat")
        if expires_at is None:
            if not self._allow_no_exp:
                _refuse("exp is missing")
        elif expires_at <= now:
            raise TokenError(ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_EXPIRED.text)
        elif expires_at - now > self._max_ttl_s:
            _refuse("exp is too far in the future")
        if not_before is not None and not_before > now + self._leeway_s:
            _refuse("not valid yet")
        if issued_at is not None and issued_at > now + self._leeway_s:
            _refuse("issued in the future")
        return expires_at

    def _check_parties(self, claims: dict[str, Any]) -> None:
        if self._issuer is not None and claims.get("iss") != self._issuer:
            _refuse("another issuer")
        if self._audience is not None:
            audience = claims.get("aud")
            listed = audience if isinstance(audience, list) else [audience]
            # An entry that is no string makes the whole claim one that nobody of ours has written.
            if not all(isinstance(entry, str) for entry in listed) or self._audience not in listed:
                _refuse("another audience")


def make_token(
    secret: str | bytes,
    user: str,
    *,
    ttl_s: float | None = 3600.0,
    now: float | None = None,
    algorithm: str = "HS256",
    kid: str | None = None,
    **claims: Any,
) -> str:
    """A signed token for `user` (for operators, tests, demos); `ttl_s` None leaves `exp` out, `claims` are added."""
    issued_at = time.time() if now is None else now
    payload: dict[str, Any] = {"sub": user, "iat": int(issued_at)}
    if ttl_s is not None:
        payload["exp"] = int(issued_at + ttl_s)
    payload.update(claims)
    return jwt.encode(payload, secret, algorithm=algorithm, headers=None if kid is None else {"kid": kid})


def _digest(token: str) -> bytes:
    # 16 bytes of a cryptographic hash: a collision would be someone else's identity.
    return hashlib.blake2b(token.encode("ascii"), digest_size=16).digest()


# -- reading ---------------------------------------------------------------------------------------------------------


def _refuse(why: str) -> NoReturn:
    raise TokenError(ErrorCode.BAD_TOKEN, f"{ErrorCode.BAD_TOKEN.text}: {why}")


def _decode_object(segment: str) -> dict[str, Any]:
    try:
        data = base64url_decode(segment)
    except ValueError:
        _refuse("malformed")
    return _parse_object(data)


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        _refuse("not JSON, or a name stands twice in it")
    if not isinstance(value, dict):
        _refuse("not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A time claim as a float. `type` and not `isinstance`: True is an int."""
    if name not in claims:
        return None
    value = claims[name]
    try:
        seconds = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        _refuse(f"{name} is not a time")
    return seconds


def _identity(claims: dict[str, Any], expires_at: float | None, issued_at: float | None) -> Identity:
    try:
        user = names.user_id(claims.get("sub"))
    except ValueError:
        _refuse("sub is not a user id")
    username = claims.get("username", user)
    if not (_is_text(username, MAX_USERNAME_CHARS)):
        _refuse("username is not a printable string")
    token_id = claims.get("jti")
    if token_id is not None and not _is_text(token_id, MAX_NAME_CHARS):
        _refuse("jti is not a printable string")
    roles = _names(claims.get("roles", []), "roles")
    permissions = _names(claims.get("permissions", []), "permissions")
    grants = Grants.from_claims(roles, permissions, _room_patterns(claims.get("rooms", {})))
    return Identity(user, username, tuple(roles), grants, expires_at, token_id, issued_at)


def _is_text(value: object, chars_max: int) -> bool:
    """Printable excludes control characters, lone surrogates and every kind of line break."""
    return isinstance(value, str) and 1 <= len(value) <= chars_max and value.isprintable()


def _names(value: object, claim: str) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        _refuse(f"{claim} is not a list of at most {MAX_NAMES} names")
    if not all(_is_text(name, MAX_NAME_CHARS) for name in value):
        _refuse(f"{claim} holds something that is not a name")
    return value


def _room_patterns(value: object) -> dict[str, list[str]]:
    if not isinstance(value, dict) or len(value) > MAX_ROOM_PATTERNS:
        _refuse(f"rooms is not an object of at most {MAX_ROOM_PATTERNS} patterns")
    for pattern in value:
        # A star anywhere but at the end would silently match nothing: say so instead.
        if not _PATTERN.fullmatch(pattern):
            _refuse("rooms holds something that is not a room pattern")
    return {pattern: _names(actions, "rooms") for pattern, actions in value.items()}


# -- configuration ---------------------------------------------------------------------------------------------------


def _checked_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    if isinstance(algorithms, str) or not algorithms:
        raise ValueError("token algorithms must be a non-empty list")
    for algorithm in algorithms:
        if algorithm not in KEY_BYTES_MIN:
            raise ValueError(f"token algorithm {algorithm!r} is not one of {', '.join(KEY_BYTES_MIN)}")
    return tuple(algorithms)


def _checked_kid(kid: str) -> str:
    if not _KID.fullmatch(kid):
        raise ValueError(f"key id {kid!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return kid
