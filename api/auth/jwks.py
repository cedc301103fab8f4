"""Keys from a JWKS URL (RFC 7517), cached in memory and refreshed periodically.

The URL is a setting and never comes from a token. A token that names an unknown key triggers a
refresh, at most one in 30 s for any number of such tokens. While the host is unreachable, the last
good set stays in use. Size and time are bounded and no redirect is followed, because the host may
be hostile.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import http.client
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from aggregator.runtime.errors import Retry
from api.auth.keys import size_fault

LOOK_EVERY_S: Final = 30.0
REFRESH_EVERY_S: Final = 300.0
RETRY_EVERY_S: Final = 5.0
TIMEOUT_S: Final = 5.0
LARGEST_BYTES: Final = 256 * 1024
MOST_KEYS: Final = 64
_SOCKET_S: Final = 2.0

log = structlog.get_logger(__name__)

Fetch = Callable[[str], Awaitable[bytes]]


class KeySet:
    """The keys at `url`. `now_s` is a monotonic clock in seconds."""

    def __init__(self, url: str, now_s: Callable[[], float], fetch: Fetch | None = None) -> None:
        self.generation = 0
        self._url = url
        self._now_s = now_s
        self._fetch = fetch or fetch_document
        self._keys: dict[str, RSAPublicKey] = {}
        self._only: RSAPublicKey | None = None
        self._fault: str | None = "not read yet"
        self._due_s = float("-inf")
        self._look_due_s = float("-inf")
        self._reading: asyncio.Lock = asyncio.Lock()
        self._seen: dict[str | None, tuple[int, int]] = {}

    @property
    def fault(self) -> str | None:
        """Why the last read failed; None if it succeeded."""
        return None if self._fault is None else f"JWT_JWKS_URL {self._url}: {self._fault}"

    @property
    def empty(self) -> bool:
        """Whether no set has been read yet."""
        return not self._keys and self._only is None

    def find(self, kid: str | None) -> RSAPublicKey | None:
        """Return the key with that id; without an id, the set's only key."""
        return self._only if kid is None else self._keys.get(kid)

    async def refresh(self) -> None:
        """Read the set if it is due: every 5 min, and every 5 s while reading fails."""
        if self._now_s() >= self._due_s:
            async with self._reading:
                if self._now_s() >= self._due_s:
                    await self._read()

    async def look_for(self, kid: str | None) -> bool:
        """Read the set for a key that is not in it, unless such a read began in the last 30 s.

        Return whether the keys changed or the key is there now.
        """
        before = self.generation
        async with self._reading:
            # another caller may have read the set while this one waited for the lock
            if self.find(kid) is None and self._now_s() >= self._look_due_s:
                self._look_due_s = self._now_s() + LOOK_EVERY_S
                await self._read()
        return self.generation != before or self.find(kid) is not None

    async def _read(self) -> None:
        try:
            keys, only = parse_keys(await self._fetch(self._url))
        except Retry as error:
            self._fault = str(error)
            self._due_s = self._now_s() + RETRY_EVERY_S
            return
        self._fault = None
        self._due_s = self._now_s() + REFRESH_EVERY_S
        seen = {
            kid: _identity(key) for kid, key in [*keys.items(), (None, only)] if key is not None
        }
        if seen != self._seen:
            log.info("jwks_read", url=self._url, keys=sorted(keys))
            self._keys, self._only, self._seen = keys, only, seen
            self.generation += 1


def _identity(key: RSAPublicKey) -> tuple[int, int]:
    numbers = key.public_numbers()
    return numbers.n, numbers.e


def parse_keys(document: bytes) -> tuple[dict[str, RSAPublicKey], RSAPublicKey | None]:
    """Return the usable keys of a JWKS by `kid`, and the key for tokens without a `kid`.

    A key is usable if it is RSA (RFC 7518, 6.3.1), meant for RS256 signatures, and neither too
    short nor too long. The first of several keys with the same `kid` wins. A token without a `kid`
    has a key only if the set has exactly one. Raises Retry if no key is usable, so that an empty or
    broken answer does not replace good keys.
    """
    try:
        keys = msgspec.json.decode(document)["keys"]
    except (msgspec.DecodeError, RecursionError, TypeError, KeyError):
        raise Retry("the answer is not a JWKS document") from None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise Retry(f"the answer is not a JWKS document of at most {MOST_KEYS} keys")
    usable = [(jwk, key) for jwk in keys if (key := _key_of(jwk)) is not None]
    if not usable:
        raise Retry("the document holds no RSA key for RS256 signatures")
    named: dict[str, RSAPublicKey] = {}
    for jwk, key in usable:
        if isinstance(kid := jwk.get("kid"), str):
            named.setdefault(kid, key)
    return named, usable[0][1] if len(usable) == 1 else None


def _key_of(jwk: Any) -> RSAPublicKey | None:
    """Return the key of one member; None if it is not for RS256 signatures."""
    if not isinstance(jwk, dict) or jwk.get("kty") != "RSA":
        return None
    meant = jwk.get("use", "sig") == "sig" and jwk.get("alg", "RS256") == "RS256"
    operations = jwk.get("key_ops", ["verify"])
    if not meant or not isinstance(operations, list) or "verify" not in operations:
        return None
    if "d" in jwk:
        log.error("jwks_private_key", detail="the JWKS contains a private key; it is ignored")
        return None
    try:
        key = RSAPublicNumbers(_whole(jwk["e"]), _whole(jwk["n"])).public_key()
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    return key if size_fault(key) is None else None


def _whole(text: str) -> int:
    """Decode a Base64urlUInt (RFC 7518, section 2)."""
    padded = text + "=" * (-len(text) % 4)
    return int.from_bytes(base64.b64decode(padded, altchars=b"-_", validate=True), "big")


async def fetch_document(url: str) -> bytes:
    """GET the URL in a thread. Raises Retry if it fails, is slow or the answer is too large.

    Follows no redirect and uses no proxy: only the host of the setting is contacted.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = (
        http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=_SOCKET_S, context=ssl.create_default_context()
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname, parts.port, timeout=_SOCKET_S)
    )
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    opened: list[socket.socket] = []
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await asyncio.to_thread(_get, connection, path, opened)
    except TimeoutError:
        raise Retry(f"no complete answer within {TIMEOUT_S:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise Retry(f"{type(error).__name__}: {error}") from None
    finally:
        # Unblock a thread that still reads from a slow host. Closing the connection is not enough:
        # it has released the socket already if the answer has no Content-Length.
        for each in opened:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        connection.close()


def _get(connection: http.client.HTTPConnection, path: str, opened: list[socket.socket]) -> bytes:
    connection.connect()
    assert connection.sock is not None
    opened.append(connection.sock)
    connection.request("GET", path, headers={"Accept": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise Retry(f"answered with status {response.status}")
    document = response.read(LARGEST_BYTES + 1)
    if len(document) > LARGEST_BYTES:
        raise Retry(f"the document is larger than {LARGEST_BYTES} bytes")
    return document
