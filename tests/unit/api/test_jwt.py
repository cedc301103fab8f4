"""Verification of tokens: which are accepted, and the code of every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.auth.access import Access, AccessState, RevocationEntry, SubjectLimits
from api.auth.jwks import KeySet
from api.auth.jwt import VERIFIED_KEPT, TokenRefused, Verifier
from api.auth.keys import KeyFile
from tests.unit.api.jwt_attacks import (
    ATTACKS,
    KEY,
    KID,
    LEEWAY_S,
    NOW,
    OTHER,
    PUBLIC_PEM,
    public_jwk,
    token,
)
from tests.unit.api.key_host import KeyHost


@pytest.fixture
def access() -> Access:
    return Access(SubjectLimits(10, 10))


def verifier_of(keys: KeyFile | KeySet, access: Access) -> Verifier:
    return Verifier(keys, "swaps-demo", "swaps", LEEWAY_S * 1000, access)


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    path = tmp_path / "public.pem"
    path.write_bytes(PUBLIC_PEM)
    return KeyFile(path)


@pytest.fixture
async def key_set() -> KeySet:
    host = KeyHost(public_jwk(KEY) | {"kid": KID})
    keys = KeySet("https://issuer.example/jwks.json", lambda: 0.0, host.fetch)
    await keys.refresh()
    return keys


@pytest.fixture
def verifier(key_file: KeyFile, access: Access) -> Verifier:
    return verifier_of(key_file, access)


def refusal(verifier: Verifier, bad: str, now_s: float = NOW) -> tuple[str, str]:
    with pytest.raises(TokenRefused) as refused:
        verifier.verify(bad, now_s)
    assert not bad or bad not in str(refused.value)
    return refused.value.code, refused.value.claim


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_with_a_key_set(key_set: KeySet, access: Access, name: str) -> None:
    make, expected = ATTACKS[name]
    assert refusal(verifier_of(key_set, access), make()) == expected


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_with_a_key_file(verifier: Verifier, name: str) -> None:
    make, expected = ATTACKS[name]
    # the key of a file serves every kid, so a wrong kid fails by its signature
    assert refusal(verifier, make()) == (
        ("token_signature", "") if expected[0] == "token_key" else expected
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_again_and_a_good_token_beside_it_is_not(
    verifier: Verifier, name: str
) -> None:
    bad = ATTACKS[name][0]()
    first = refusal(verifier, bad)
    assert verifier.verify(token(), NOW).subject == "someone"
    assert refusal(verifier, bad) == first


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(ATTACKS) >= 40


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
        pytest.param({"header": {"typ": "at+JWT"}}, NOW, id="access token of RFC 9068"),
        pytest.param({"header": {"x5t": "abc"}}, NOW, id="a header that is not asked for"),
    ],
)
def test_good_token(verifier: Verifier, claims: dict[str, Any], now: float) -> None:
    assert verifier.verify(token(**claims), now).subject == "someone"


def test_no_scope_claim_gives_no_scope(verifier: Verifier) -> None:
    assert verifier.verify(token(drop="scope"), NOW).scopes == frozenset()


def test_a_token_verified_before_still_expires(verifier: Verifier) -> None:
    good = token()
    assert verifier.verify(good, NOW) is verifier.verify(good, NOW + 1)
    assert refusal(verifier, good, NOW + 60 + LEEWAY_S) == ("token_expired", "exp")


def test_the_cache_of_tokens_is_bounded(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.auth.jwt.VERIFIED_KEPT", 3)
    assert VERIFIED_KEPT > 3
    for number in range(10):
        verifier.verify(token(sub=f"s{number}"), NOW)
    assert len(verifier._verified) == 3


@pytest.mark.parametrize(
    "revoked",
    [
        pytest.param(RevocationEntry("jti", "j1"), id="the token"),
        pytest.param(RevocationEntry("sub", "someone"), id="the subject"),
        pytest.param(RevocationEntry("sub", "someone", until=NOW + 1), id="for a time"),
    ],
)
def test_a_revoked_token_is_refused_even_where_it_was_verified_before(
    verifier: Verifier, access: Access, revoked: RevocationEntry
) -> None:
    good = token(jti="j1")
    assert verifier.verify(good, NOW).token_id == "j1"
    access.take(AccessState(1, [revoked], {}))
    assert refusal(verifier, good) == ("token_revoked", "")
    assert verifier.verify(token(jti="j2", sub="other"), NOW).subject == "other"
    access.take(AccessState(2, [], {}))
    assert verifier.verify(good, NOW).token_id == "j1"


def test_a_revocation_expires_and_matches_its_own_kind_only(
    verifier: Verifier, access: Access
) -> None:
    entries = [
        RevocationEntry("sub", "someone", until=NOW),
        RevocationEntry("jti", "someone"),
        RevocationEntry("sub", "j"),
    ]
    access.take(AccessState(1, entries, {}))
    assert verifier.verify(token(jti="j"), NOW).subject == "someone"
    assert verifier.verify(token(), NOW).token_id is None


async def test_a_removed_key_ends_the_tokens_that_it_verified(
    access: Access,
) -> None:
    host = KeyHost(public_jwk(KEY) | {"kid": KID})
    now_s = 0.0
    keys = KeySet("https://issuer.example/jwks.json", lambda: now_s, host.fetch)
    await keys.refresh()
    verifier = verifier_of(keys, access)
    good = token()
    assert verifier.verify(good, NOW).subject == "someone"
    host.keys = [public_jwk(OTHER) | {"kid": "next"}]
    now_s = 301.0
    await keys.refresh()
    assert refusal(verifier, good) == ("token_key", "")
