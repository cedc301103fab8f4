"""Sources of keys: the PEM file and its faults, the JWKS with rotation and outages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aggregator.runtime.config import load
from aggregator.runtime.errors import ConfigError, Retry
from api.auth.access import Access, SubjectLimits
from api.auth.jwks import LOOK_EVERY_S, MOST_KEYS, REFRESH_EVERY_S, KeySet, parse_keys
from api.auth.jwt import KeyUnknown, Verifier
from api.auth.keys import KeyFile, load_public_key
from tests.unit.api.jwt_attacks import GOOD, KEY, NOW, OTHER, PUBLIC_PEM, SMALL, public_jwk
from tests.unit.api.key_host import KeyHost

URL = "https://issuer.example/jwks.json"
A, B = public_jwk(KEY) | {"kid": "a"}, public_jwk(OTHER) | {"kid": "b"}
N_OF_KEY, N_OF_OTHER = KEY.public_key().public_numbers().n, OTHER.public_key().public_numbers().n


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def _file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    return path


def _private() -> bytes:
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def _n(keys: KeyFile | KeySet, kid: str | None) -> int | None:
    key = keys.find(kid)
    return None if key is None else key.public_numbers().n


def test_a_public_key_is_loaded(tmp_path: Path) -> None:
    assert load_public_key(_file(tmp_path, PUBLIC_PEM)).key_size == 2048


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(_private, "private key; the service must never have one", id="private"),
        pytest.param(lambda: PUBLIC_PEM + _private(), "private key", id="private beside public"),
        pytest.param(lambda: _public(SMALL), "1024 bits, at least 2048", id="short"),
        pytest.param(
            lambda: _public(ec.generate_private_key(ec.SECP256R1())), "not RSA", id="elliptic"
        ),
        pytest.param(lambda: b"hello", "no PEM public key", id="no key"),
        pytest.param(lambda: b"", "no PEM public key", id="empty"),
    ],
)
def test_bad_key_file(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    path = _file(tmp_path, content())
    with pytest.raises(ConfigError, match=said):
        load_public_key(path)
    keys = KeyFile(path)
    assert keys.empty and said in (keys.fault or "")


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem: No such file"):
        load_public_key(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="JWT_PUBLIC_KEY_FILE is not set"):
        load_public_key(None)
    assert KeyFile(None).fault == "JWT_PUBLIC_KEY_FILE is not set"


def _rewrite(path: Path, content: bytes) -> None:
    """Replace the file atomically, as a deployment does."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


async def test_a_key_file_that_is_replaced_is_read_again_without_a_restart(tmp_path: Path) -> None:
    path = _file(tmp_path, PUBLIC_PEM)
    keys = KeyFile(path)
    assert (_n(keys, "any"), keys.generation) == (N_OF_KEY, 1)
    await keys.refresh()
    assert keys.generation == 1
    _rewrite(path, b"not a key")
    await keys.refresh()
    assert _n(keys, None) == N_OF_KEY
    assert "no PEM public key" in (keys.fault or "") and not keys.empty
    _rewrite(path, _public(OTHER))
    await keys.refresh()
    assert (_n(keys, None), keys.fault, keys.generation) == (N_OF_OTHER, None, 2)


async def test_a_key_file_that_comes_later_lets_callers_in(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "late.pem")
    assert keys.empty
    (tmp_path / "late.pem").write_bytes(PUBLIC_PEM)
    await keys.refresh()
    assert (keys.empty, keys.fault) == (False, None)


async def test_keys_rotate_without_a_restart() -> None:
    clock, host = Clock(), KeyHost(A)
    keys = KeySet(URL, clock, host.fetch)
    assert keys.empty and keys.fault is not None
    await keys.refresh()
    assert (_n(keys, "a"), _n(keys, "b"), keys.fault) == (N_OF_KEY, None, None)
    host.keys = [A, B]
    await keys.refresh()
    assert host.asked == 1, "not due yet"
    clock.now_s += REFRESH_EVERY_S
    await keys.refresh()
    assert (_n(keys, "a"), _n(keys, "b"), keys.generation) == (N_OF_KEY, N_OF_OTHER, 2)
    host.keys = [B]
    clock.now_s += REFRESH_EVERY_S
    await keys.refresh()
    assert (_n(keys, "a"), _n(keys, "b")) == (None, N_OF_OTHER)


async def test_an_unknown_kid_has_the_keys_read_at_most_once_in_30_s() -> None:
    clock, host = Clock(), KeyHost(A)
    keys = KeySet(URL, clock, host.fetch)
    await keys.refresh()
    assert not await keys.look_for("b")
    assert host.asked == 2
    for number in range(1_000):
        assert not await keys.look_for(f"unknown-{number}")
    assert host.asked == 2
    host.keys = [A, B]
    clock.now_s += LOOK_EVERY_S - 0.1
    assert not await keys.look_for("b")
    clock.now_s += 0.2
    assert await keys.look_for("b")
    assert (host.asked, _n(keys, "b")) == (3, N_OF_OTHER)


async def test_concurrent_lookups_share_one_request() -> None:
    host = KeyHost(A)
    keys = KeySet(URL, Clock(), host.fetch)
    await keys.refresh()
    host.keys = [B]
    found = await asyncio.gather(*(keys.look_for("b") for _ in range(100)))
    assert all(found) and host.asked == 2


async def test_an_outage_of_the_host_serves_the_keys_that_are_there() -> None:
    clock, host = Clock(), KeyHost(A)
    keys = KeySet(URL, clock, host.fetch)
    await keys.refresh()
    host.down = True
    clock.now_s += 3_600
    await keys.refresh()
    assert _n(keys, "a") == N_OF_KEY
    assert keys.fault == f"JWT_JWKS_URL {URL}: connection refused"
    for _ in range(100):
        await keys.refresh()
    assert host.asked == 2, "an outage is not hammered"
    host.down = False
    clock.now_s += 6
    await keys.refresh()
    assert keys.fault is None


async def test_a_token_of_a_new_key_is_let_in_by_authenticate() -> None:
    clock, host = Clock(), KeyHost(A)
    keys = KeySet(URL, clock, host.fetch)
    await keys.refresh()
    verifier = Verifier(keys, "swaps-demo", "swaps", 0, Access(SubjectLimits(1, 1)))
    fresh = jwt.encode(GOOD, OTHER, algorithm="RS256", headers={"kid": "b"})
    with pytest.raises(KeyUnknown):
        await verifier.authenticate(fresh, NOW)
    host.keys = [A, B]
    with pytest.raises(KeyUnknown):
        await verifier.authenticate(fresh, NOW)
    clock.now_s += LOOK_EVERY_S
    with pytest.raises(KeyUnknown):
        verifier.verify(fresh, NOW)
    assert (await verifier.authenticate(fresh, NOW)).subject == "someone"
    assert verifier.verify(fresh, NOW).subject == "someone"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="without keys"),
        pytest.param(b'{"keys":{}}', id="keys are an object"),
        pytest.param(b'{"keys":[]}', id="no key"),
        pytest.param(b'{"keys":[null,1,"x"]}', id="keys are no objects"),
        pytest.param(b"[" * 100_000, id="nested deep"),
        pytest.param(json.dumps({"keys": [A] * (MOST_KEYS + 1)}).encode(), id="too many"),
    ],
)
def test_a_bad_document_is_refused_whole(bad: bytes) -> None:
    with pytest.raises(Retry):
        parse_keys(bad)


UNUSABLE: dict[str, dict[str, Any]] = {
    "elliptic": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    "symmetric": {"kty": "oct", "k": "AAAA"},
    "for encryption": A | {"use": "enc"},
    "for another algorithm": A | {"alg": "RS512"},
    "for signing only": A | {"key_ops": ["sign"]},
    "operations are no list": A | {"key_ops": "verify"},
    "private": A | {"d": "AAAA"},
    "small": public_jwk(SMALL),
    "huge": A | {"n": "w" * 4_000},
    "exponent 1": A | {"e": "AQ"},
    "even exponent": A | {"e": "Ag"},
    "no modulus": {"kty": "RSA", "e": "AQAB"},
    "modulus is a number": A | {"n": 7},
    "modulus is no base64": A | {"n": "!!!!"},
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_key_for_another_purpose_is_ignored(name: str) -> None:
    named, only = parse_keys(json.dumps({"keys": [UNUSABLE[name] | {"kid": "x"}, B]}).encode())
    assert list(named) == ["b"]
    assert only is not None and only.public_numbers().n == N_OF_OTHER
    with pytest.raises(Retry, match="no RSA key"):
        parse_keys(json.dumps({"keys": [UNUSABLE[name]]}).encode())


def test_of_two_keys_with_one_kid_the_first_counts_and_none_serves_without_a_kid() -> None:
    twice = json.dumps({"keys": [A, B | {"kid": "a"}]}).encode()
    named, only = parse_keys(twice)
    assert named["a"].public_numbers().n == N_OF_KEY
    assert only is None


async def test_a_document_without_usable_keys_does_not_take_good_ones_away() -> None:
    clock, host = Clock(), KeyHost(A)
    keys = KeySet(URL, clock, host.fetch)
    await keys.refresh()
    host.keys = []
    clock.now_s += REFRESH_EVERY_S
    await keys.refresh()
    assert _n(keys, "a") == N_OF_KEY
    assert "no RSA key" in (keys.fault or "")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://issuer.example/jwks", "https"),
        ("file:///etc/passwd", "https"),
        ("ftp://issuer.example/jwks", "https"),
        ("https://user:secret@issuer.example/jwks", "without user"),
        ("https:///jwks", "https"),
        ("issuer.example", "https"),
    ],
)
def test_a_jwks_address_that_is_not_safe_is_refused_at_start(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load({"JWT_JWKS_URL": url})


@pytest.mark.parametrize("url", ["https://issuer.example/jwks", "http://127.0.0.1:9/jwks", ""])
def test_a_good_jwks_address(url: str) -> None:
    assert load({"JWT_JWKS_URL": url}).jwt_jwks_url == url


def test_two_sources_of_keys_are_a_fault() -> None:
    with pytest.raises(ConfigError, match="JWT_JWKS_URL: give it or JWT_PUBLIC_KEY_FILE"):
        load({"JWT_JWKS_URL": "https://a.example/", "JWT_PUBLIC_KEY_FILE": "key.pem"})
