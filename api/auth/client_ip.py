"""The client address that rate limits and logs use.

Anybody can send an X-Forwarded-For header, so only the part that trusted proxies wrote is used:
entries are read from the right while the address before them is in TRUSTED_PROXIES. The first
address outside TRUSTED_PROXIES is the client. The server must run without `--proxy-headers`, which
would trust the leftmost entry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Stands for a peer without an address, such as a Unix socket.
NO_ADDRESS: Final = "local"
_MOST_HOPS: Final = 16
# A home or an office has a whole /64 of IPv6. A bucket per address would give it 2^64 buckets.
_IPV6_PREFIX: Final = 64


@lru_cache(maxsize=8_192)
def client_ip(peer: str, forwarded_for: str, trusted: tuple[Network, ...]) -> str:
    """Return the client's address as text: IPv4 unchanged, IPv6 as the address of its /64.

    `peer` is the address that opened the connection, `forwarded_for` the text of the header, "" if
    it is absent.
    """
    client = _parse(peer)
    if client is None:
        return NO_ADDRESS
    if forwarded_for and _within(client, trusted):
        for entry in reversed(forwarded_for.split(",")[-_MOST_HOPS:]):
            said = _parse(entry.strip())
            if said is None:
                break
            client = said
            if not _within(client, trusted):
                break
    return _bucket(client)


def request_ip(request: HttpRequest) -> str:
    """Return the client's address of an HTTP request."""
    meta = request.META
    return client_ip(
        meta.get("REMOTE_ADDR") or "",
        meta.get("HTTP_X_FORWARDED_FOR", ""),
        settings.SWAPS.trusted_proxies,
    )


def scope_ip(scope: dict[str, Any], trusted: tuple[Network, ...]) -> str:
    """Return the client's address of an ASGI scope, HTTP or WebSocket."""
    client = scope.get("client")
    return client_ip(client[0] if client else "", forwarded_for(scope["headers"]), trusted)


def forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Join all X-Forwarded-For lines in their order."""
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    return b",".join(lines).decode("latin-1")


def asks_from_inside(request: HttpRequest) -> bool:
    """Return whether a peer in METRICS_ALLOW asks directly, without a proxy."""
    if "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META:
        return False  # the peer identifies itself as a proxy
    peer = _parse(request.META.get("REMOTE_ADDR") or "")
    return peer is not None and _within(peer, settings.SWAPS.metrics_allow)


def from_trusted_proxy(request: HttpRequest) -> bool:
    """Return whether a trusted proxy opened the connection, so that its headers can be trusted."""
    peer = _parse(request.META.get("REMOTE_ADDR") or "")
    return peer is not None and _within(peer, settings.SWAPS.trusted_proxies)


def _parse(text: str) -> Address | None:
    """Parse `1.2.3.4`, `1.2.3.4:567`, `2001:db8::1` or `[2001:db8::1]:567`; drop the zone."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _bucket(address: Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((address, _IPV6_PREFIX), strict=False).network_address)
