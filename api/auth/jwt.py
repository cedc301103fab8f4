"""Verifies bearer tokens: JSON Web Tokens signed with RS256.

The algorithm is pinned, so a token cannot choose how it is verified (RFC 8725, 3.1), and only
`alg`, `kid` and `typ` of its header are used. Claims follow RFC 7519; `scope` is the
space-separated list of RFC 8693; `chains` is this service's own. Time is an argument. Knows no
HTTP, files or networks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidSignatureError, InvalidTokenError

from aggregator.runtime.errors import SwapsError
from api.auth.keys import KeySource

ALGORITHM: Final = "RS256"
LONGEST_TOKEN: Final = 8_192
LONGEST_KEY_ID: Final = 256
LONGEST_NAME: Final = 256
VERIFIED_KEPT: Final = 16_384
# The same issuer signs other kinds of token, such as logout tokens; RFC 8725, 3.11: refuse them.
TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_LATEST_TIME: Final = 2**53
_PART: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


class TokenRefused(SwapsError):
    """The token is not accepted. `code` is stable, `claim` names the claim at fault, "" if none.

    The text never contains the token or the value of a claim.
    """

    def __init__(self, code: str, detail: str, claim: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.claim = claim


class KeyUnknown(TokenRefused):
    """The token names a key that is not in the keys read so far."""

    def __init__(self, kid: str | None) -> None:
        super().__init__("token_key", "The token's key is not one of this service's issuer.")
        self.kid = kid


class Claims(msgspec.Struct, frozen=True):
    """The claims of a verified token. `expires_at` is in seconds since the epoch.

    `chains` are the only chains whose swaps the caller may send; None does not restrict it.
    """

    subject: str
    scopes: frozenset[str]
    expires_at: float
    token_id: str | None
    chains: frozenset[str] | None = None


class TokenRevoked(Protocol):
    """Knows which tokens are revoked."""

    def refuses(self, claims: Claims, now_s: float) -> bool:
        """Return whether the token or its subject is revoked."""
        ...


class Verifier:
    """Verifies tokens against the keys, one issuer and one audience.

    A verified token is cached by its hash until it expires, the keys change or the cache is full;
    revocation is checked every time.
    """

    def __init__(
        self, keys: KeySource, issuer: str, audience: str, leeway_ms: int, revoked: TokenRevoked
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_ms / 1000
        self._revoked = revoked
        self._jws = PyJWS(algorithms=[ALGORITHM])
        # An RSA verification takes about 50 µs, and a client sends the same token every time.
        self._verified: dict[bytes, Claims] = {}
        self._verified_of = keys.generation

    @property
    def leeway_s(self) -> float:
        """The clock difference to the issuer that is tolerated, in seconds."""
        return self._leeway_s

    async def authenticate(self, token: str, now_s: float) -> Claims:
        """Verify the token, and refresh the keys first if it names an unknown one.

        For callers that can wait. It waits only if a refresh is due (`KeySource.look_for`).
        """
        try:
            return self.verify(token, now_s)
        except KeyUnknown as unknown:
            if not await self._keys.look_for(unknown.kid):
                raise
        return self.verify(token, now_s)

    def verify(self, token: str, now_s: float) -> Claims:
        """Return the claims of the token; raises TokenRefused. `now_s` is wall-clock seconds."""
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise _malformed("is not a JSON Web Token")
        if self._verified_of != self._keys.generation:
            self._verified.clear()
            self._verified_of = self._keys.generation
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(digest)
        if claims is None or now_s >= claims.expires_at + self._leeway_s:
            claims = self._check_claims(self._payload(token), now_s)
            while len(self._verified) >= VERIFIED_KEPT:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = claims
        if self._revoked.refuses(claims, now_s):
            raise TokenRefused("token_revoked", "The token was revoked.")
        return claims

    def _payload(self, token: str) -> dict[str, Any]:
        parts = token.split(".")
        if len(parts) != 3 or not all(map(_PART.match, parts[:2])):
            raise _malformed("is not a JSON Web Token")
        kid = _key_id(_object(_base64url(parts[0]), "header"))
        key = self._keys.find(kid)
        if key is None:
            raise KeyUnknown(kid)
        return _object(self._signed(token, parts[2], key), "payload")

    def _signed(self, token: str, signature: str, key: RSAPublicKey) -> bytes:
        try:
            # a lenient decoder would accept many spellings of one signature
            if not signature or _canonical(_base64url(signature)) != signature:
                raise InvalidSignatureError
            signed = self._jws.decode(token, key, algorithms=[ALGORITHM])
        except InvalidSignatureError:
            raise TokenRefused(
                "token_signature", "The signature does not fit the key of this service."
            ) from None
        except (InvalidTokenError, ValueError, TypeError):
            raise _malformed("is not a JSON Web Token") from None
        assert isinstance(signed, bytes)
        return signed

    def _check_claims(self, payload: Mapping[str, Any], now_s: float) -> Claims:
        subject = payload.get("sub")
        if not isinstance(subject, str) or not subject.strip():
            raise _bad_claim("sub", "must be a text that is not empty")
        expires_at = _time(payload, "exp")
        if now_s >= expires_at + self._leeway_s:
            raise TokenRefused("token_expired", "The token has expired.", "exp")
        for claim in ("iat", "nbf") if "nbf" in payload else ("iat",):
            if _time(payload, claim) > now_s + self._leeway_s:
                raise TokenRefused("token_not_yet_valid", "The token is not valid yet.", claim)
        if "iss" not in payload:
            raise _bad_claim("iss", "is missing")
        if payload["iss"] != self._issuer:
            raise TokenRefused("token_issuer", "The token is of another issuer.", "iss")
        if not self._is_for_us(payload):
            raise TokenRefused("token_audience", "The token is for another audience.", "aud")
        token_id = payload.get("jti")
        if token_id is not None and not isinstance(token_id, str):
            raise _bad_claim("jti", "must be a text")
        for claim, value in (("sub", subject), ("jti", token_id or "")):
            if len(value) > LONGEST_NAME or not value.isprintable():
                raise _bad_claim(claim, f"must be at most {LONGEST_NAME} printable characters")
        return Claims(subject, _scopes(payload), expires_at, token_id, _chains(payload))

    def _is_for_us(self, payload: Mapping[str, Any]) -> bool:
        audience = payload.get("aud")
        if isinstance(audience, str):
            return audience == self._audience
        if isinstance(audience, list) and all(isinstance(each, str) for each in audience):
            return self._audience in audience
        raise _bad_claim("aud", "must be a text or a list of texts")


def _malformed(why: str) -> TokenRefused:
    return TokenRefused("token_malformed", f"The token {why}.")


def _base64url(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _malformed("is not a JSON Web Token") from None


def _canonical(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _object(raw: bytes, part: str) -> dict[str, Any]:
    """Decode a JSON object in which no name occurs twice (RFC 7515, 4; RFC 8725, 2.4)."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _malformed(f"has a {part} that is no JSON object of distinct names") from None
    if not isinstance(value, dict):
        raise _malformed(f"has a {part} that is no JSON object of distinct names")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name occurs twice")
    return named


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _key_id(header: Mapping[str, Any]) -> str | None:
    """Return the `kid` of the header. Raises TokenRefused for anything but RS256."""
    if header.get("alg") != ALGORITHM:
        raise TokenRefused("token_algorithm", f"The token must be signed with {ALGORITHM}.")
    # "crit" lists extensions that a verifier must understand (RFC 7515, 4.1.11), "b64" is one of
    # them (unencoded payloads, RFC 7797). This verifier supports none.
    if "crit" in header or "b64" in header:
        raise _malformed("asks for an extension that is not known here")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise TokenRefused("token_type", "The token is of another type than an access token.")
    if "kid" not in header:
        return None
    kid = header["kid"]
    if not isinstance(kid, str) or not 0 < len(kid) <= LONGEST_KEY_ID:
        raise _malformed(f"has a kid that is no text of 1 to {LONGEST_KEY_ID} characters")
    return kid


def _bad_claim(claim: str, why: str) -> TokenRefused:
    return TokenRefused("token_claim", f"The claim `{claim}` {why}.", claim)


def _time(payload: Mapping[str, Any], claim: str) -> float:
    value = payload.get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad_claim(claim, "must be a number, seconds since the epoch")
    if not 0 <= value <= _LATEST_TIME:
        raise _bad_claim(claim, "must be a time, in seconds since the epoch")
    return float(value)


def _scopes(payload: Mapping[str, Any]) -> frozenset[str]:
    scope = payload.get("scope", "")
    if not isinstance(scope, str):
        raise _bad_claim("scope", "must be a text, scopes with spaces between")
    return frozenset(scope.split())


def _chains(payload: Mapping[str, Any]) -> frozenset[str] | None:
    if "chains" not in payload:
        return None
    chains = payload["chains"]
    if isinstance(chains, str):
        chains = chains.split()
    if not isinstance(chains, list) or not all(isinstance(each, str) for each in chains):
        raise _bad_claim("chains", "must be a list of chains, or a text with spaces between")
    return frozenset(chains)
