"""The RSA keys that tokens are verified with: where they come from, and when they are read again.

`KeyFile` reads a PEM file, `api.auth.jwks.KeySet` a JWKS address; `Verifier` knows neither. A
source keeps what it has while it cannot be read, and says so. Public keys only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from aggregator.runtime.errors import ConfigError

LEAST_KEY_BITS: Final = 2048
# A check costs with the square of the size; no issuer uses more.
MOST_KEY_BITS: Final = 8192


class KeySource(Protocol):
    """Keys by `kid`. `generation` grows with every change of the keys."""

    generation: int

    @property
    def fault(self) -> str | None:
        """Why the keys could not be read again the last time; None while all is well."""
        ...

    @property
    def empty(self) -> bool:
        """Whether there is no key at all, so that nobody can be let in."""
        ...

    def find(self, kid: str | None) -> RSAPublicKey | None:
        """The key of that id; None where there is none."""
        ...

    async def refresh(self) -> None:
        """Read the keys again where that is due; keeps what there is where it fails."""
        ...

    async def look_for(self, kid: str | None) -> bool:
        """Whether the keys changed after a token named a key that is not known."""
        ...


def size_fault(key: RSAPublicKey) -> str | None:
    """What is wrong with the size of the key, None where it is good."""
    if not LEAST_KEY_BITS <= key.key_size <= MOST_KEY_BITS:
        return f"{key.key_size} bits, at least {LEAST_KEY_BITS} needed and at most {MOST_KEY_BITS}"
    return None


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
    if (why := size_fault(key)) is not None:
        raise ConfigError([f"JWT_PUBLIC_KEY_FILE: {path}: {why}"])
    return key


class KeyFile:
    """One key in a PEM file, read again when the file changes; it serves any `kid`."""

    def __init__(self, path: Path | None) -> None:
        """Reads the file, and remembers the fault where there is no usable key in it."""
        self.generation = 0
        self._path = path
        self._key: RSAPublicKey | None = None
        self._fault: str | None = None
        self._stamp: tuple[int, int] | None = None
        self._read()

    @property
    def fault(self) -> str | None:
        """What is wrong with the file now."""
        return self._fault

    @property
    def empty(self) -> bool:
        """Whether no usable key was ever read."""
        return self._key is None

    def find(self, kid: str | None) -> RSAPublicKey | None:  # noqa: ARG002 - one key for all
        """The key of the file."""
        return self._key

    async def refresh(self) -> None:
        """Read the file again where it was written since."""
        if self._changed():
            self._read()

    async def look_for(self, kid: str | None) -> bool:  # noqa: ARG002 - a file names no kid
        """The file as it is now."""
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
