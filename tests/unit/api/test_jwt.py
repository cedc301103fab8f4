"""Tokens: what is let in, and every way in which a token may be wrong, with its code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aggregator.errors import ConfigError
from api.security.jwt import LONGEST_TOKEN, VERIFIED_KEPT, TokenRefused, Verifier, load_public_key

NOW = 1_700_000_000
LEEWAY_S = 10
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
GOOD = {
    "sub": "someone",
    "iss": "swaps-demo",
    "aud": "swaps",
    "iat": NOW,
    "exp": NOW + 60,
    "scope": "stats:read ws:connect",
}


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(KEY.public_key(), "swaps-demo", "swaps", LEEWAY_S * 1000)


def b64(raw: bytes | dict[str, Any]) -> str:
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: dict[str, Any], payload: bytes | dict[str, Any]) -> str:
    """Signed with the right key whatever the header says."""
    signing_input = f"{b64(header)}.{b64(payload)}".encode()
    signature = jwt.get_algorithm_by_name("RS256").sign(signing_input, KEY)
    return f"{signing_input.decode()}.{b64(signature)}"


def token(drop: str = "", **claims: Any) -> str:
    payload = {name: value for name, value in {**GOOD, **claims}.items() if name != drop}
    return raw_token({"alg": "RS256", "typ": "JWT"}, payload)


def hs256_with_the_public_key() -> str:
    signing_input = f"{b64({'alg': 'HS256', 'typ': 'JWT'})}.{b64(GOOD)}"
    mac = hmac.new(PUBLIC_PEM, signing_input.encode(), hashlib.sha256).digest()
    return f"{signing_input}.{b64(mac)}"


def with_payload_of_another() -> str:
    header, _, signature = token().split(".")
    return f"{header}.{b64({**GOOD, 'sub': 'root'})}.{signature}"


BAD: dict[str, tuple[Callable[[], str], str, str]] = {
    "empty": (lambda: "", "token_malformed", ""),
    "garbage": (lambda: "garbage", "token_malformed", ""),
    "two dots": (lambda: "..", "token_malformed", ""),
    "one dot": (lambda: "a.b", "token_malformed", ""),
    "five parts, encrypted": (lambda: token() + ".a.b", "token_malformed", ""),
    "empty header": (lambda: "." + token().split(".", 1)[1], "token_malformed", ""),
    "header is a list": (lambda: f"{b64(b'[]')}.{b64(GOOD)}.eA", "token_malformed", ""),
    "not ASCII": (lambda: token() + "é", "token_malformed", ""),
    "too long": (lambda: "e" * (LONGEST_TOKEN + 1), "token_malformed", ""),
    "payload is a list": (lambda: raw_token({"alg": "RS256"}, b"[1]"), "token_malformed", ""),
    "payload is no JSON": (lambda: raw_token({"alg": "RS256"}, b"\xff"), "token_malformed", ""),
    "payload holds NaN": (
        lambda: raw_token({"alg": "RS256"}, b'{"exp":NaN}'),
        "token_malformed",
        "",
    ),
    "unknown critical header": (
        lambda: raw_token({"alg": "RS256", "crit": ["x"], "x": 1}, GOOD),
        "token_malformed",
        "",
    ),
    "none": (lambda: f"{b64({'alg': 'none'})}.{b64(GOOD)}.", "token_algorithm", ""),
    "None in capitals": (lambda: f"{b64({'alg': 'NONE'})}.{b64(GOOD)}.", "token_algorithm", ""),
    "HS256 by the public key": (hs256_with_the_public_key, "token_algorithm", ""),
    "RS384": (lambda: jwt.encode(GOOD, KEY, algorithm="RS384"), "token_algorithm", ""),
    "PS256": (lambda: jwt.encode(GOOD, KEY, algorithm="PS256"), "token_algorithm", ""),
    "ES256": (
        lambda: jwt.encode(GOOD, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        "token_algorithm",
        "",
    ),
    "no algorithm": (lambda: raw_token({"typ": "JWT"}, GOOD), "token_algorithm", ""),
    "another key": (lambda: jwt.encode(GOOD, OTHER, algorithm="RS256"), "token_signature", ""),
    "its own key in jwk": (
        lambda: jwt.encode(GOOD, OTHER, algorithm="RS256", headers={"jwk": {"kty": "RSA"}}),
        "token_signature",
        "",
    ),
    "kid that is a path": (
        lambda: jwt.encode(GOOD, OTHER, algorithm="RS256", headers={"kid": "../../dev/null"}),
        "token_signature",
        "",
    ),
    "jku of another host": (
        lambda: jwt.encode(GOOD, OTHER, algorithm="RS256", headers={"jku": "https://example.org"}),
        "token_signature",
        "",
    ),
    "changed payload": (with_payload_of_another, "token_signature", ""),
    "no signature": (lambda: token().rpartition(".")[0] + ".", "token_signature", ""),
    "expired": (lambda: token(exp=NOW - LEEWAY_S), "token_expired", "exp"),
    "no exp": (lambda: token(drop="exp"), "token_claim", "exp"),
    "exp is a text": (lambda: token(exp=str(NOW + 60)), "token_claim", "exp"),
    "exp is true": (lambda: token(exp=True), "token_claim", "exp"),
    "exp is null": (lambda: token(exp=None), "token_claim", "exp"),
    "exp beyond time": (lambda: token(exp=10**400), "token_claim", "exp"),
    "exp below 0": (lambda: token(exp=-1), "token_claim", "exp"),
    "no iat": (lambda: token(drop="iat"), "token_claim", "iat"),
    "iat ahead": (lambda: token(iat=NOW + LEEWAY_S + 1), "token_not_yet_valid", "iat"),
    "nbf ahead": (lambda: token(nbf=NOW + LEEWAY_S + 1), "token_not_yet_valid", "nbf"),
    "nbf is a text": (lambda: token(nbf="now"), "token_claim", "nbf"),
    "no iss": (lambda: token(drop="iss"), "token_claim", "iss"),
    "another iss": (lambda: token(iss="other"), "token_issuer", "iss"),
    "iss is a list": (lambda: token(iss=["swaps-demo"]), "token_issuer", "iss"),
    "no aud": (lambda: token(drop="aud"), "token_claim", "aud"),
    "another aud": (lambda: token(aud="other"), "token_audience", "aud"),
    "aud only begins alike": (lambda: token(aud="swaps-admin"), "token_audience", "aud"),
    "no audience in the list": (lambda: token(aud=[]), "token_audience", "aud"),
    "aud is a number": (lambda: token(aud=1), "token_claim", "aud"),
    "aud holds a number": (lambda: token(aud=["swaps", 1]), "token_claim", "aud"),
    "no sub": (lambda: token(drop="sub"), "token_claim", "sub"),
    "sub is a number": (lambda: token(sub=7), "token_claim", "sub"),
    "sub is empty": (lambda: token(sub=""), "token_claim", "sub"),
    "sub is blank": (lambda: token(sub="  "), "token_claim", "sub"),
    "scope is a list": (lambda: token(scope=["stats:read"]), "token_claim", "scope"),
    "jti is a number": (lambda: token(jti=1), "token_claim", "jti"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_token(verifier: Verifier, name: str) -> None:
    make, code, claim = BAD[name]
    bad = make()
    with pytest.raises(TokenRefused) as refused:
        verifier.verify(bad, NOW)
    assert (refused.value.code, refused.value.claim) == (code, claim)
    assert not bad or bad not in str(refused.value)


def test_a_good_token_gives_subject_and_scopes(verifier: Verifier) -> None:
    claims = verifier.verify(token(jti="x"), NOW)
    assert claims.subject == "someone"
    assert claims.scopes == {"stats:read", "ws:connect"}
    assert (claims.expires_at, claims.token_id) == (NOW + 60, "x")


@pytest.mark.parametrize(
    ("claims", "now"),
    [
        pytest.param({}, NOW + 60 + LEEWAY_S - 1, id="expired within the leeway"),
        pytest.param({"iat": NOW + LEEWAY_S}, NOW, id="issued ahead within the leeway"),
        pytest.param({"nbf": NOW + LEEWAY_S}, NOW, id="valid from within the leeway"),
        pytest.param({"aud": ["other", "swaps"]}, NOW, id="one of several audiences"),
        pytest.param({"exp": NOW + 0.5}, NOW, id="fractional seconds"),
    ],
)
def test_good_token(verifier: Verifier, claims: dict[str, Any], now: float) -> None:
    assert verifier.verify(token(**claims), now).subject == "someone"


def test_no_scope_claim_gives_no_scope(verifier: Verifier) -> None:
    assert verifier.verify(token(drop="scope"), NOW).scopes == frozenset()


def test_a_token_verified_before_still_expires(verifier: Verifier) -> None:
    good = token()
    assert verifier.verify(good, NOW) is verifier.verify(good, NOW + 1)
    with pytest.raises(TokenRefused) as refused:
        verifier.verify(good, NOW + 60 + LEEWAY_S)
    assert refused.value.code == "token_expired"


def test_what_is_remembered_of_tokens_is_bounded(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.security.jwt.VERIFIED_KEPT", 3)
    assert VERIFIED_KEPT > 3
    for number in range(10):
        verifier.verify(token(sub=f"s{number}"), NOW)
    assert len(verifier._verified) == 3


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    return path


def test_a_public_key_is_loaded(tmp_path: Path) -> None:
    assert load_public_key(_file(tmp_path, PUBLIC_PEM)).key_size == 2048


def _private() -> bytes:
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(_private, "private key; the service must never have one", id="private"),
        pytest.param(lambda: PUBLIC_PEM + _private(), "private key", id="private beside public"),
        pytest.param(
            lambda: _public(rsa.generate_private_key(public_exponent=65537, key_size=1024)),
            "1024 bits, at least 2048",
            id="short",
        ),
        pytest.param(
            lambda: _public(ec.generate_private_key(ec.SECP256R1())), "not RSA", id="elliptic"
        ),
        pytest.param(lambda: b"hello", "no PEM public key", id="no key"),
        pytest.param(lambda: b"", "no PEM public key", id="empty"),
    ],
)
def test_bad_key_file(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_public_key(_file(tmp_path, content()))


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem: No such file"):
        load_public_key(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="JWT_PUBLIC_KEY_FILE is not set"):
        load_public_key(None)
