"""Bearer tokens: who the caller is and what it may do, from a JSON Web Token signed with RS256.

The algorithm is pinned, so a token cannot choose how it is checked (RFC 8725, 3.1). Claims are
those of RFC 7519; `scope` is RFC 8693's space-separated list. Holds a public key only. Time is an
argument; nothing here knows of HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidAlgorithmError, InvalidSignatureError, InvalidTokenError

from aggregator.errors import ConfigError, SwapsError

ALGORITHM: Final = "RS256"
LEAST_KEY_BITS: Final = 2048
LONGEST_TOKEN: Final = 8_192
VERIFIED_KEPT: Final = 4_096
_LATEST_TIME: Final = 2**53


class TokenRefused(SwapsError):
    """This token lets nobody in. `code` is stable, `claim` names the claim at fault ("" if none).

    The text never holds the token or a claim's value.
    """

    def __init__(self, code: str, detail: str, claim: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.claim = claim


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says. `expires_at` is seconds since the epoch."""

    subject: str
    scopes: frozenset[str]
    expires_at: float
    token_id: str | None


def load_public_key(path: Path | None) -> RSAPublicKey:
    """The RSA public key in the PEM file. Raises ConfigError that says what is wrong with it."""
    if path is None:
        raise ConfigError(["JWT_PUBLIC_KEY_FILE is not set"])
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"JWT_PUBLIC_KEY_FILE: {path}: {error.strerror}"]) from None
    if b"PRIVATE KEY" in pem:
        raise ConfigError(
            [f"JWT_PUBLIC_KEY_FILE: {path} holds a private key; the service must never have one"]
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError([f"JWT_PUBLIC_KEY_FILE: {path} holds no PEM public key"]) from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigError([f"JWT_PUBLIC_KEY_FILE: {path} holds a key that is not RSA"])
    if key.key_size < LEAST_KEY_BITS:
        raise ConfigError(
            [f"JWT_PUBLIC_KEY_FILE: {path}: {key.key_size} bits, at least {LEAST_KEY_BITS} needed"]
        )
    return key


class Verifier:
    """Checks tokens against one key, issuer and audience."""

    def __init__(self, key: RSAPublicKey, issuer: str, audience: str, leeway_ms: int) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_ms / 1000
        self._jws = PyJWS(algorithms=[ALGORITHM])
        # An RSA check costs some 50 µs and a client sends the same token with every request.
        self._verified: dict[bytes, Claims] = {}

    def verify(self, token: str, now_s: float) -> Claims:
        """The claims of the token; TokenRefused says why it is refused. `now_s` is wall time."""
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise TokenRefused("token_malformed", "The token is not a JSON Web Token.")
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(digest)
        if claims is not None and now_s < claims.expires_at + self._leeway_s:
            return claims
        claims = self._check_claims(self._payload(token), now_s)
        while len(self._verified) >= VERIFIED_KEPT:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = claims
        return claims

    def _payload(self, token: str) -> dict[str, Any]:
        try:
            signed = self._jws.decode(token, self._key, algorithms=[ALGORITHM])
        except InvalidAlgorithmError:
            raise TokenRefused(
                "token_algorithm", f"The token must be signed with {ALGORITHM}."
            ) from None
        except InvalidSignatureError:
            raise TokenRefused(
                "token_signature", "The signature does not fit the key of this service."
            ) from None
        except (InvalidTokenError, ValueError, TypeError):
            raise TokenRefused("token_malformed", "The token is not a JSON Web Token.") from None
        try:
            payload = msgspec.json.decode(signed, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            raise TokenRefused("token_malformed", "The token's claims are not an object.") from None
        return payload

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
        return Claims(subject, _scopes(payload), expires_at, token_id)

    def _is_for_us(self, payload: Mapping[str, Any]) -> bool:
        audience = payload.get("aud")
        if isinstance(audience, str):
            return audience == self._audience
        if isinstance(audience, list) and all(isinstance(each, str) for each in audience):
            return self._audience in audience
        raise _bad_claim("aud", "must be a text or a list of texts")


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
