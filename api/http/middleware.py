"""The outermost middleware: host check, rate limit, access log, problem documents, routing.

Everything but the admin bypasses Django's own middleware, which serves sessions, forms and messages
and costs a switch to a thread and back per class. The API, the probes, the dashboard and static
files have no session, cookie or form, so they are answered directly in the event loop, where the
board lives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Final

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import Resolver404, resolve
from django.utils.decorators import async_only_middleware
from structlog.contextvars import bound_contextvars

from aggregator.runtime import metrics
from aggregator.runtime.tracing import server_span
from api.auth.client_ip import asks_from_inside, from_trusted_proxy
from api.auth.ratelimit import COST_ADMIN, COST_PAGE, RateDecision
from api.correlation import HEADER, correlation_of
from api.http import access_log
from api.http.bearer import DECISION, charge
from api.http.compression import compress
from api.http.cors import allow, preflight
from api.http.headers import harden
from api.problem import CONTENT_TYPE, Problem, response_of
from api.services import services

View = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# Load balancers and Prometheus address a node by its IP, so the host check skips these paths.
PROBES: Final = frozenset({"/healthz", "/readyz", "/readyz/node", "/metrics"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_CODES: Final = {
    400: ("request_malformed", "The request cannot be understood."),
    404: ("route_not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take that method; see Allow."),
    413: ("request_too_large", "The request is too large."),
    500: ("internal_error", "Something went wrong here; it is in the log."),
}


@cache
def _not_found_page() -> bytes:
    """The page "No such page", rendered once: nothing of a request is in it."""
    return render_to_string("404.html").encode()


def is_for_programs(path: str) -> bool:
    """Return whether a path belongs to the API, a probe or a profile, not to a page."""
    return path.startswith(("/api/", "/debug/")) or path in PROBES or path == "/api"


def needs_django(path: str) -> bool:
    """Return whether a path belongs to the admin, which uses sessions, forms and the database."""
    return path.startswith("/admin/") or path == "/admin"


def _charges_itself(path: str) -> bool:
    """Return whether the views of a path charge their own cost, by subject too."""
    return path.startswith(("/api/", "/debug/")) or path in {"/api", "/metrics", "/demo-token"}


@async_only_middleware
def guard(get_response: View) -> View:
    """Wrap the whole site."""
    direct: View = convert_exception_to_response(_view)  # type: ignore[assignment]

    async def answer(request: HttpRequest) -> HttpResponseBase:
        begun = time.perf_counter()
        meta, method = request.META, request.method if request.method in _METHODS else "other"
        caller = correlation_of(meta.get("HTTP_X_REQUEST_ID", ""), meta.get("HTTP_TRACEPARENT", ""))
        with (
            bound_contextvars(request_id=caller.request_id, trace_id=caller.trace_id),
            server_span(f"{method}", _trace_headers(meta), http__request__method=method) as span,
        ):
            try:
                response = await respond(request)
            except asyncio.CancelledError:
                access_log.request(
                    request, caller, _route(request), None, time.perf_counter() - begun
                )
                raise
            route = _route(request)
            span.rename(f"{method} /{route}")
            span.note(http__route=f"/{route}", http__response__status_code=response.status_code)
        response.headers[HEADER] = caller.request_id
        took = time.perf_counter() - begun
        if is_for_programs(request.path):
            metrics.HTTP_REQUESTS.labels(route, method, response.status_code).inc()
            metrics.HTTP_SECONDS.labels(route).observe(took)
        access_log.request(request, caller, route, response, took)
        return response

    async def respond(request: HttpRequest) -> HttpResponseBase:
        path = request.path
        probe, program = path in PROBES, is_for_programs(path)
        if "HTTP_X_FORWARDED_PROTO" in request.META and not from_trusted_proxy(request):
            del request.META["HTTP_X_FORWARDED_PROTO"]
        free = probe and asks_from_inside(request)
        try:
            if not free and not _charges_itself(path):
                cost = COST_ADMIN if needs_django(path) else COST_PAGE
                await charge(services(), request, None, cost)
            response = await answered(request, program, probe)
            if not free and DECISION not in request.META:
                # no view has charged: a preflight, or a method that the route does not have
                await charge(services(), request, None, COST_PAGE)
        except Problem as problem:
            response = response_of(problem)
        decision = request.META.get(DECISION)
        if isinstance(decision, RateDecision):
            for name, value in decision.headers.items():
                response.headers.setdefault(name, value)
        harden(request, response, page=not program)
        return response

    async def answered(request: HttpRequest, program: bool, probe: bool) -> HttpResponseBase:
        if not probe and not _host_allowed(request):
            return response_of(
                Problem(400, "host_not_allowed", "This host name is not served here.")
            )
        if needs_django(request.path):
            return await get_response(request)
        return _to_https(request) or await _directly(request, direct, program)

    return answer


def _route(request: HttpRequest) -> str:
    return request.resolver_match.route if request.resolver_match else "unknown"


def _to_https(request: HttpRequest) -> HttpResponse | None:
    """Redirect a browser from HTTP to HTTPS, as Django's SecurityMiddleware does."""
    if not settings.SECURE_SSL_REDIRECT or is_for_programs(request.path) or request.is_secure():
        return None
    return HttpResponsePermanentRedirect(f"https://{request.get_host()}{request.get_full_path()}")


def _trace_headers(meta: Mapping[str, str]) -> dict[str, str]:
    names = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE"}
    return {name: meta[key] for name, key in names.items() if key in meta}


async def _directly(request: HttpRequest, direct: View, program: bool) -> HttpResponse:
    """Answer without Django's middleware, and compress the answer.

    For a path of programs, errors become problem documents and CORS headers are added.
    """
    origins = services().cors_origins
    head = request.method == "HEAD"
    if head:
        # answer as GET without the body (RFC 9110, 9.3.2)
        request.method = "GET"
    response = preflight(request, origins) if program else None
    if response is None:
        answered = await direct(request)
        answered = _as_problem(answered) if program else _as_page(answered)
        assert isinstance(answered, HttpResponse)
        response = answered
    await compress(request, response)
    if program:
        allow(request, response, origins)
    if response.status_code not in {204, 304}:
        response.headers["Content-Length"] = str(len(response.content))
    if head:
        response.content = b""
        request.method = "HEAD"
    return response


async def _view(request: HttpRequest) -> HttpResponseBase:
    try:
        request.resolver_match = match = resolve(request.path_info)
    except Resolver404:
        # Django's own handling switches to a thread and renders a template
        return HttpResponse(status=404)
    response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
    return response


def _as_page(response: HttpResponseBase) -> HttpResponseBase:
    """Give a bare 404 the page that a browser shows; one that has a body keeps it."""
    if response.status_code == HTTPStatus.NOT_FOUND and not getattr(response, "content", b""):
        return HttpResponse(_not_found_page(), status=HTTPStatus.NOT_FOUND)
    return response


def _host_allowed(request: HttpRequest) -> bool:
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True


def _as_problem(response: HttpResponseBase) -> HttpResponseBase:
    if response.status_code < 400:
        return response
    known = _CODES.get(response.status_code)
    if known is None or response.headers.get("Content-Type") == CONTENT_TYPE:
        return response
    methods = response.headers.get("Allow")
    headers = {"Allow": methods.replace("GET", "GET, HEAD")} if methods else None
    return response_of(Problem(response.status_code, *known, headers=headers))
