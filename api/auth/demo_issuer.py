"""The demo's token issuer: its own key pair in a directory, made where missing.

A real deployment has an identity provider instead. Only `manage.py issue_token` uses this; the
service never loads the private key.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from aggregator.runtime.errors import Fatal

PRIVATE_NAME: Final = "private.pem"
PUBLIC_NAME: Final = "public.pem"
KEY_BITS: Final = 2048


def ensure_keys(directory: Path) -> RSAPrivateKey:
    """The key pair of `directory`, made if there is none; raises Fatal where it cannot be used.

    private.pem is readable by its owner only, public.pem is what JWT_PUBLIC_KEY_FILE names. Safe
    from two processes at once: the first key that is complete stays.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        private_file = directory / PRIVATE_NAME
        if not private_file.exists():
            made = generate_private_key(public_exponent=65537, key_size=KEY_BITS)
            _put_once(private_file, _private_pem(made))
        key = load_pem_private_key(private_file.read_bytes(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise Fatal(f"{private_file} holds no RSA key: remove it to have a new one made")
        public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public_file = directory / PUBLIC_NAME
        if not public_file.exists() or public_file.read_bytes() != public_pem:
            _replace(public_file, public_pem)
    except (OSError, ValueError) as error:
        raise Fatal(f"the demo issuer's keys in {directory} cannot be used: {error}") from error
    return key


def issue(
    key: RSAPrivateKey,
    *,
    subject: str,
    issuer: str,
    audience: str,
    scope: str,
    issued_at: int,
    ttl_ms: int,
) -> str:
    """A signed token; `issued_at` is seconds since the epoch."""
    claims = {
        "sub": subject,
        "iss": issuer,
        "aud": audience,
        "iat": issued_at,
        "exp": issued_at + max(1, ttl_ms // 1000),
        "jti": uuid.uuid4().hex,
        "scope": scope,
    }
    return jwt.encode(claims, key, algorithm="RS256")


def _private_pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _temporary(beside: Path, content: bytes) -> Path:
    # mkstemp makes the file readable by its owner only.
    handle, name = tempfile.mkstemp(dir=beside.parent, prefix=f".{beside.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(name)


def _put_once(path: Path, content: bytes) -> None:
    temporary = _temporary(path, content)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass  # Another process was first; its key is the one.
    finally:
        temporary.unlink()


def _replace(path: Path, content: bytes) -> None:
    temporary = _temporary(path, content)
    temporary.chmod(0o644)
    temporary.replace(path)
