"""Secrets come from files, and no message repeats a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.runtime.config import SECRETS, load
from aggregator.runtime.errors import ConfigError


def test_a_secret_is_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-a-file\n")
    assert load({"DJANGO_SECRET_KEY_FILE": str(file)}).django_secret_key == "from-a-file"
    file.write_text("redis://:word@redis.internal:6379/0\n")
    assert load({"REDIS_URL_FILE": str(file)}).redis_url == "redis://:word@redis.internal:6379/0"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DJANGO_SECRET_KEY_FILE: .*none cannot be read"):
        load({"DJANGO_SECRET_KEY_FILE": str(tmp_path / "none")})


def test_a_secret_given_twice_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("b")
    with pytest.raises(ConfigError, match="not both"):
        load({"DJANGO_SECRET_KEY": "a", "DJANGO_SECRET_KEY_FILE": str(file)})


def test_only_secrets_have_a_file(tmp_path: Path) -> None:
    file = tmp_path / "issuer"
    file.write_text("evil")
    assert load({"JWT_ISSUER_FILE": str(file)}).jwt_issuer == "swaps-demo"
    assert "JWT_ISSUER" not in SECRETS


def test_a_fault_does_not_repeat_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgres://user:pass-word@host")
    with pytest.raises(ConfigError) as fault:
        load({"REDIS_URL_FILE": str(file), "NATS_URL": "http://user:pass-word@host:1"})
    assert len(fault.value.faults) == 2
    assert "pass-word" not in str(fault.value)


@pytest.mark.parametrize("text", ["5", "5/", "0/1m", "5/1d", "x/5m", "5/0m", "5/m"])
def test_bad_attempts(text: str) -> None:
    with pytest.raises(ConfigError, match="LOGIN_RATE"):
        load({"LOGIN_RATE": text})


def test_good_attempts() -> None:
    assert load({"LOGIN_RATE": "3/90s"}).login_rate == (3, 90)
