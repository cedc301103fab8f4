"""The demo's issuer: its key pair, and tokens that the service accepts."""

from __future__ import annotations

import io
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from aggregator.runtime.config import load
from api.auth.access import Access, SubjectLimits
from api.auth.demo_issuer import ensure_keys
from api.auth.jwt import Verifier
from api.auth.keys import KeyFile


@pytest.fixture
def issuer(tmp_path: Path, settings: object) -> Path:
    settings.ISSUER_DIR = tmp_path / "issuer"  # type: ignore[attr-defined]
    return tmp_path / "issuer"


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("issue_token", *arguments, stdout=out)
    return out.getvalue()


def verifier(issuer: Path) -> Verifier:
    config = load({})
    keys = KeyFile(issuer / "public.pem")
    access = Access(SubjectLimits(1, 1))
    return Verifier(keys, config.jwt_issuer, config.jwt_audience, config.jwt_leeway_ms, access)


def test_it_prints_a_token_that_the_service_accepts_and_nothing_else(issuer: Path) -> None:
    out = run("--sub", "someone", "--ttl", "30m", "--scope", "stats:read ws:connect")
    assert out.count("\n") == 1
    claims = verifier(issuer).verify(out.strip(), time.time())
    assert claims.subject == "someone"
    assert claims.scopes == {"stats:read", "ws:connect"}
    assert 1_790 < claims.expires_at - time.time() <= 1_800


def test_keys_are_made_once_and_the_private_one_is_the_owners(issuer: Path) -> None:
    assert run("--init-only") == ""
    private = (issuer / "private.pem").read_bytes()
    assert stat.S_IMODE((issuer / "private.pem").stat().st_mode) == 0o600
    run("--sub", "someone")
    assert (issuer / "private.pem").read_bytes() == private
    assert {path.name for path in issuer.iterdir()} == {"private.pem", "public.pem"}


def test_concurrent_calls_end_with_one_key(issuer: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda _: ensure_keys(issuer).private_numbers(), range(4)))
    assert len({each.d for each in keys}) == 1


def test_a_lost_public_key_is_written_again(issuer: Path) -> None:
    run("--init-only")
    (issuer / "public.pem").unlink()
    token = run("--sub", "someone").strip()
    assert verifier(issuer).verify(token, time.time()).subject == "someone"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "--sub", id="no subject"),
        pytest.param(["--sub", " "], "--sub", id="blank subject"),
        pytest.param(["--sub", "x", "--ttl", "soon"], "give a duration", id="bad ttl"),
        pytest.param(["--sub", "x", "--ttl", "1ms"], "at least 1s", id="ttl below a second"),
    ],
)
def test_bad_arguments(issuer: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(*arguments)


def test_a_spoilt_key_is_named(issuer: Path) -> None:
    issuer.mkdir()
    (issuer / "private.pem").write_text("spoilt")
    with pytest.raises(CommandError, match="cannot be used"):
        run("--sub", "x")
