"""The one middleware: refuses foreign hosts, and turns every error into a problem document.

Natively asynchronous, so that no request hops to a thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import async_only_middleware

from api.problem import CONTENT_TYPE, Problem, response_of

View = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# A load balancer's probe names the node by its address.
PROBES: Final = frozenset({"/healthz", "/readyz"})

_CODES: Final = {
    400: ("request_malformed", "The request cannot be understood."),
    404: ("route_not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take that method; see Allow."),
    413: ("request_too_large", "The request is too large."),
    500: ("internal_error", "Something went wrong here; it is in the log."),
}


@async_only_middleware
def guard(get_response: View) -> View:
    """Wrap the site."""

    async def answer(request: HttpRequest) -> HttpResponseBase:
        probe = request.path in PROBES
        of_api = request.path == "/api" or request.path.startswith("/api/")
        if not probe and not _host_allowed(request):
            return response_of(
                Problem(400, "host_not_allowed", "This host name is not served here.")
            )
        response = await get_response(request)
        if (probe or of_api) and response.status_code >= 400:
            response = _as_problem(response)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if probe or of_api:
            response.headers.setdefault("Cache-Control", "private, no-cache")
        return response

    return answer


def _host_allowed(request: HttpRequest) -> bool:
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True


def _as_problem(response: HttpResponseBase) -> HttpResponseBase:
    known = _CODES.get(response.status_code)
    if known is None or response.headers.get("Content-Type") == CONTENT_TYPE:
        return response
    allow = response.headers.get("Allow")
    headers = {"Allow": allow} if allow else None
    return response_of(Problem(response.status_code, *known, headers=headers))
