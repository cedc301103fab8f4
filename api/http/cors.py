"""CORS: which pages of other origins may read the API in a browser (Fetch standard).

Tokens travel in a header, never in a cookie, so credentials are not allowed: a page can only use a
token that it has been given.
"""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from api.auth.origins import Origins

_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match",
    "Access-Control-Max-Age": "600",
}
_READABLE: Final = (
    "ETag, Retry-After, WWW-Authenticate, X-RateLimit-Limit, X-RateLimit-Remaining, "
    "X-RateLimit-Reset"
)


def preflight(request: HttpRequest, origins: Origins) -> HttpResponse | None:
    """Return the answer to a CORS preflight request; None for any other request."""
    asked = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.META
    if request.method != "OPTIONS" or not asked or not _allowed(request, origins):
        return None
    return HttpResponse(status=204, headers=_PREFLIGHT)


def allow(request: HttpRequest, response: HttpResponseBase, origins: Origins) -> None:
    """Allow a page of a listed origin to read the answer, problems included."""
    patch_vary_headers(response, ("Origin",))
    if _allowed(request, origins):
        response.headers["Access-Control-Allow-Origin"] = request.META["HTTP_ORIGIN"]
        response.headers["Access-Control-Expose-Headers"] = _READABLE


def _allowed(request: HttpRequest, origins: Origins) -> bool:
    origin = request.META.get("HTTP_ORIGIN")
    return origin is not None and origins.allow(origin, None)
