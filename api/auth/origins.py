"""Decides which web pages may open a WebSocket, by the `Origin` that the browser sends.

Browsers apply no same-origin policy to WebSockets, so the server must check the origin (RFC 6455,
10.2). A program that sends no `Origin` is allowed, because it could send any. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
_PORTS: Final = {"http": 80, "https": 443}


class Origins:
    """The allow-list: entries of the form `scheme://host[:port]`, or "*" for any origin."""

    def __init__(self, allowed: Iterable[str]) -> None:
        listed = list(allowed)
        self._any = ANY in listed
        self._allowed = {_parts(each) for each in listed if each != ANY} - {None}

    def allow(self, origin: str | None, host: str | None) -> bool:
        """Return whether a page of `origin` may connect; `host` is the request's Host header.

        A page that connects to its own host is always allowed.
        """
        if origin is None or self._any:
            return True
        parts = _parts(origin)
        if parts is None:
            return False
        return parts in self._allowed or (host is not None and _same_host(parts, host))


def _parts(origin: str) -> tuple[str, str, int] | None:
    """Return (scheme, host, port) of an origin (RFC 6454, 4); None for other text."""
    try:
        split = urlsplit(origin.strip().lower())
        port = split.port or _PORTS.get(split.scheme)
    except ValueError:
        return None
    if split.scheme not in _PORTS or not split.hostname or port is None:
        return None
    return split.scheme, split.hostname, port


def _same_host(parts: tuple[str, str, int], host: str) -> bool:
    scheme, name, port = parts
    return _parts(f"{scheme}://{host}") == (scheme, name, port)
