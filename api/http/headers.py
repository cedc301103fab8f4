"""Security headers of pages and API answers.

Pages get a Content-Security-Policy with a fresh nonce for every request: a template writes
`<script nonce="{{ csp_nonce }}">`, and an injected script does not run.
"""

from __future__ import annotations

import secrets
from typing import Final

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.functional import SimpleLazyObject

_NONCE: Final = "swaps.csp_nonce"

API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'{nonce}; style-src 'self'{nonce}; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)


def csp_nonce(request: HttpRequest) -> dict[str, object]:
    """Provide `csp_nonce` to templates (a context processor); generated on first use."""
    return {"csp_nonce": SimpleLazyObject(lambda: nonce_of(request))}


def nonce_of(request: HttpRequest) -> str:
    """Return the request's nonce."""
    nonce: str = request.META.setdefault(_NONCE, secrets.token_urlsafe(16))
    return nonce


def harden(request: HttpRequest, response: HttpResponseBase, *, page: bool) -> None:
    """Add the headers that are missing; `page` is whether the answer is a page for a browser."""
    headers = response.headers
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if not page:
        headers.setdefault("Cache-Control", "private, no-cache")
        headers.setdefault("Content-Security-Policy", API_POLICY)
    else:
        nonce = request.META.get(_NONCE)
        source = f" 'nonce-{nonce}'" if nonce else ""
        headers.setdefault("Content-Security-Policy", PAGE_POLICY.format(nonce=source))
        headers.setdefault("X-Frame-Options", "DENY")
        headers.setdefault("Referrer-Policy", "same-origin")
        headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
    if settings.SECURE_HSTS_SECONDS and request.is_secure():
        headers.setdefault(
            "Strict-Transport-Security",
            f"max-age={settings.SECURE_HSTS_SECONDS}; includeSubDomains; preload",
        )
