"""The outermost middleware: refuses foreign hosts, turns every error into a problem document,
and takes the API past the middleware of the pages.

Django's own middleware is for pages (sessions, forms, messages) and each class of it costs a hop
to a thread and back. The API and the probes know no session, cookie or form, so they are answered
here directly, in the event loop where the board lives.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from django.core.exceptions import DisallowedHost
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import resolve
from django.utils.decorators import async_only_middleware
from structlog.contextvars import bound_contextvars

from aggregator import metrics
from aggregator.tracing import server_span
from api.http.compression import compress
from api.http.correlation import HEADER, correlation_of
from api.http.cors import allow, preflight
from api.http.headers import harden
from api.problem import CONTENT_TYPE, Problem, response_of
from api.security.bearer import DECISION
from api.security.client_ip import from_trusted_proxy
from api.security.ratelimit import Decision
from api.services import services

View = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

# A load balancer's probe, and a scrape of Prometheus, name the node by its address.
PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_CODES: Final = {
    400: ("request_malformed", "The request cannot be understood."),
    404: ("route_not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take that method; see Allow."),
    413: ("request_too_large", "The request is too large."),
    500: ("internal_error", "Something went wrong here; it is in the log."),
}


def is_for_programs(path: str) -> bool:
    """Whether a path is of the API, a probe or a profile: no page, no session, no cookie."""
    return path.startswith(("/api/", "/debug/")) or path in PROBES or path == "/api"


@async_only_middleware
def guard(get_response: View) -> View:
    """Wrap the site."""
    direct: View = convert_exception_to_response(_view)  # type: ignore[assignment]

    async def answer(request: HttpRequest) -> HttpResponseBase:
        begun = time.perf_counter()
        meta, method = request.META, request.method if request.method in _METHODS else "other"
        caller = correlation_of(meta.get("HTTP_X_REQUEST_ID", ""), meta.get("HTTP_TRACEPARENT", ""))
        with (
            bound_contextvars(request_id=caller.request_id, trace_id=caller.trace_id),
            server_span(f"{method}", _trace_headers(meta), http__request__method=method) as span,
        ):
            response = await respond(request)
            route = request.resolver_match.route if request.resolver_match else "unknown"
            span.rename(f"{method} /{route}")
            span.note(http__route=f"/{route}", http__response__status_code=response.status_code)
        response.headers[HEADER] = caller.request_id
        if is_for_programs(request.path):
            metrics.HTTP_REQUESTS.labels(route, method, response.status_code).inc()
            metrics.HTTP_SECONDS.labels(route).observe(time.perf_counter() - begun)
        return response

    async def respond(request: HttpRequest) -> HttpResponseBase:
        probe, program = request.path in PROBES, is_for_programs(request.path)
        if "HTTP_X_FORWARDED_PROTO" in request.META and not from_trusted_proxy(request):
            del request.META["HTTP_X_FORWARDED_PROTO"]
        if not probe and not _host_allowed(request):
            return response_of(
                Problem(400, "host_not_allowed", "This host name is not served here.")
            )
        response = await (_for_programs(request, direct) if program else get_response(request))
        decision = request.META.get(DECISION)
        if isinstance(decision, Decision):
            for name, value in decision.headers.items():
                response.headers.setdefault(name, value)
        harden(request, response, page=not program)
        return response

    return answer


def _trace_headers(meta: Mapping[str, str]) -> dict[str, str]:
    names = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE"}
    return {name: meta[key] for name, key in names.items() if key in meta}


async def _for_programs(request: HttpRequest, direct: View) -> HttpResponse:
    """The answer of the API or a probe: problems as documents, compressed, readable by origins."""
    origins = services().cors_origins
    head = request.method == "HEAD"
    if head:
        # answered as GET is, without the body (RFC 9110, 9.3.2)
        request.method = "GET"
    response = preflight(request, origins)
    if response is None:
        answered = _as_problem(await direct(request))
        assert isinstance(answered, HttpResponse)
        response = answered
    await compress(request, response)
    allow(request, response, origins)
    if response.status_code not in {204, 304}:
        response.headers["Content-Length"] = str(len(response.content))
    if head:
        response.content = b""
    return response


async def _view(request: HttpRequest) -> HttpResponseBase:
    request.resolver_match = match = resolve(request.path_info)
    response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
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
