"""Which pages may open a WebSocket: a browser names its page's origin, and cannot lie about it.

Browsers put no same-origin rule on WebSockets, so the server must look (RFC 6455, 10.2). A program
sends no `Origin` and is let through: it could send any. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
_PORTS: Final = {"http": 80, "https": 443}


class Origins:
    """The allow-list: `scheme://host[:port]` each, or "*" for any."""

    def __init__(self, allowed: Iterable[str]) -> None:
        listed = list(allowed)
        self._any = ANY in listed
        self._allowed = {_parts(each) for each in listed if each != ANY} - {None}

    def allow(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of `origin` may connect; `host` is the request's Host header.

        A page of the very host that it connects to is our own.
        """
        if origin is None or self._any:
            return True
        parts = _parts(origin)
        if parts is None:
            return False
        return parts in self._allowed or (host is not None and _same_host(parts, host))


def _parts(origin: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of an origin (RFC 6454, 4); None where it is none, such as "null"."""
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
