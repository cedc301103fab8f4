"""The token issuer of the demo: a key pair in a directory, generated if it is missing.

A real deployment uses an identity provider instead. Only `manage.py issue_token` calls this module;
the service never loads the private key.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

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
    """Return the private key of `directory`, and generate the key pair if there is none.

    private.pem is readable by its owner only; JWT_PUBLIC_KEY_FILE names public.pem. Safe to call
    from several processes at the same time: the first complete key wins. Raises Fatal if the keys
    cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        private_file = directory / PRIVATE_NAME
        if not private_file.exists():
            made = generate_private_key(public_exponent=65537, key_size=KEY_BITS)
            _put_once(private_file, _private_pem(made))
        key = load_pem_private_key(private_file.read_bytes(), password=None)
        if not isinstance(key, RSAPrivateKey):
            raise Fatal(f"{private_file} is not an RSA key: remove it to generate a new one")
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
    chains: Sequence[str] | None = None,
) -> str:
    """Return a signed token. `issued_at` is in seconds since the epoch, `ttl_ms` in ms.

    `chains` are those whose swaps the token may send; None: all.
    """
    claims: dict[str, Any] = {
        "sub": subject,
        "iss": issuer,
        "aud": audience,
        "iat": issued_at,
        "exp": issued_at + max(1, ttl_ms // 1000),
        "jti": uuid.uuid4().hex,
        "scope": scope,
    }
    if chains is not None:
        claims["chains"] = list(chains)
    return jwt.encode(claims, key, algorithm="RS256")


def _private_pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _temporary(beside: Path, content: bytes) -> Path:
    # mkstemp creates the file readable by its owner only.
    handle, name = tempfile.mkstemp(dir=beside.parent, prefix=f".{beside.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return Path(name)


def _put_once(path: Path, content: bytes) -> None:
    temporary = _temporary(path, content)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass  # another process was first: its key wins
    finally:
        temporary.unlink()


def _replace(path: Path, content: bytes) -> None:
    temporary = _temporary(path, content)
    temporary.chmod(0o644)
    temporary.replace(path)
