"""Sources of the RSA public keys that verify tokens.

`KeyFile` reads a PEM file, `api.auth.jwks.KeySet` a JWKS URL; `Verifier` knows neither. A source
that cannot be read keeps its last keys and reports a fault.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from aggregator.runtime.errors import ConfigError

LEAST_KEY_BITS: Final = 2048
# Verification time grows with the square of the size, and no issuer uses longer keys.
MOST_KEY_BITS: Final = 8192


class KeySource(Protocol):
    """Keys by `kid`. `generation` increases with every change of the keys."""

    generation: int

    @property
    def fault(self) -> str | None:
        """Why the last read failed; None if it succeeded."""
        ...

    @property
    def empty(self) -> bool:
        """Whether there is no key at all, so that no token can be verified."""
        ...

    def find(self, kid: str | None) -> RSAPublicKey | None:
        """Return the key with that id; None if there is none."""
        ...

    async def refresh(self) -> None:
        """Read the keys again if that is due; keep the old ones if it fails."""
        ...

    async def look_for(self, kid: str | None) -> bool:
        """Read the keys for an unknown `kid` if that is due; return whether they changed."""
        ...


def size_fault(key: RSAPublicKey) -> str | None:
    """Return what is wrong with the size of the key; None if it is accepted."""
    if not LEAST_KEY_BITS <= key.key_size <= MOST_KEY_BITS:
        return f"{key.key_size} bits, at least {LEAST_KEY_BITS} needed and at most {MOST_KEY_BITS}"
    return None


def load_public_key(path: Path | None) -> RSAPublicKey:
    """Return the RSA public key of a PEM file. Raises ConfigError that names the fault."""
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
    if (why := size_fault(key)) is not None:
        raise ConfigError([f"JWT_PUBLIC_KEY_FILE: {path}: {why}"])
    return key


class KeyFile:
    """One key in a PEM file, for every `kid`; read again when the file changes."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; `fault` says why if it holds no usable key."""
        self.generation = 0
        self._path = path
        self._key: RSAPublicKey | None = None
        self._fault: str | None = None
        self._stamp: tuple[int, int] | None = None
        self._read()

    @property
    def fault(self) -> str | None:
        """What is wrong with the file now; None if nothing is."""
        return self._fault

    @property
    def empty(self) -> bool:
        """Whether no usable key has been read yet."""
        return self._key is None

    def find(self, kid: str | None) -> RSAPublicKey | None:  # noqa: ARG002 - one key for all
        """Return the key of the file."""
        return self._key

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        if self._changed():
            self._read()

    async def look_for(self, kid: str | None) -> bool:  # noqa: ARG002 - a file names no kid
        """Read the file again if it has changed; return whether the key is new."""
        before = self.generation
        await self.refresh()
        return self.generation != before

    def _changed(self) -> bool:
        return self._path is not None and (self._stamp is None or self._now() != self._stamp)

    def _now(self) -> tuple[int, int] | None:
        assert self._path is not None
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def _read(self) -> None:
        self._stamp = self._now() if self._path is not None else None
        try:
            self._key = load_public_key(self._path)
        except ConfigError as error:
            self._fault = "; ".join(error.faults)
            return
        self._fault = None
        self.generation += 1
