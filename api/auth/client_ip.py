"""The address that a request is counted under.

X-Forwarded-For is text that anybody can send, so it is read only as far as trusted proxies wrote
it: from the right, one entry for each proxy of TRUSTED_PROXIES, up to the first address that is
none. The server must run without `--proxy-headers`, which would believe the leftmost entry.
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

# What a peer without an address (a Unix socket) is counted under.
NO_ADDRESS: Final = "local"
_MOST_HOPS: Final = 16
# A home or an office has a whole /64 of IPv6; by address it would have 2^64 buckets.
_IPV6_PREFIX: Final = 64


@lru_cache(maxsize=8_192)
def client_ip(peer: str, forwarded_for: str, trusted: tuple[Network, ...]) -> str:
    """The client's address as text: IPv4 as it is, IPv6 as the address of its /64.

    `peer` is who opened the connection, `forwarded_for` the header's text ("" where absent).
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
    """The client's address of an HTTP request."""
    meta = request.META
    return client_ip(
        meta.get("REMOTE_ADDR") or "",
        meta.get("HTTP_X_FORWARDED_FOR", ""),
        settings.SWAPS.trusted_proxies,
    )


def scope_ip(scope: dict[str, Any], trusted: tuple[Network, ...]) -> str:
    """The client's address of an ASGI scope, HTTP or WebSocket."""
    client = scope.get("client")
    return client_ip(client[0] if client else "", forwarded_for(scope["headers"]), trusted)


def forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """X-Forwarded-For of all its lines, in their order."""
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    return b",".join(lines).decode("latin-1")


def asks_from_inside(request: HttpRequest) -> bool:
    """Whether somebody of the networks of METRICS_ALLOW asks, and not through a proxy."""
    if "HTTP_X_FORWARDED_FOR" in request.META or "HTTP_FORWARDED" in request.META:
        return False  # the peer is a proxy, and says so
    peer = _parse(request.META.get("REMOTE_ADDR") or "")
    return peer is not None and _within(peer, settings.SWAPS.metrics_allow)


def from_trusted_proxy(request: HttpRequest) -> bool:
    """Whether a trusted proxy opened the connection, so that what it adds may be believed."""
    peer = _parse(request.META.get("REMOTE_ADDR") or "")
    return peer is not None and _within(peer, settings.SWAPS.trusted_proxies)


def _parse(text: str) -> Address | None:
    """`1.2.3.4`, `1.2.3.4:567`, `2001:db8::1` or `[2001:db8::1]:567`, without a zone."""
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
