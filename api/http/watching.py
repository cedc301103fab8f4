"""`/metrics`, and `/debug/pprof/…` if PROFILING is on.

`/metrics` is for the networks of METRICS_ALLOW without a proxy, or for a token with `ops:read`;
profiles need such a token.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import get_args

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from django_prometheus.exports import ExportToDjangoView

from aggregator.contracts.sources import SourceState
from aggregator.runtime import metrics
from aggregator.runtime.profiling import requests
from api.auth.client_ip import asks_from_inside
from api.auth.scopes import OPS_READ
from api.http.bearer import Bearer
from api.problem import Problem, response_of
from api.services import Services, services
from api.sockets.tally import TALLY

_operator = Bearer(OPS_READ)


@require_safe
async def metrics_page(request: HttpRequest) -> HttpResponse:
    """Answer with every metric of this process in Prometheus's text format."""
    if not asks_from_inside(request):
        try:
            await _operator(request)
        except Problem as problem:
            return response_of(problem)
    _observe(services())
    answer: HttpResponse = ExportToDjangoView(request)  # type: ignore[no-untyped-call]
    return answer


@require_safe
async def profile(request: HttpRequest, name: str) -> HttpResponse:
    """Answer with a profile of this process (`aggregator.runtime.profiling`) while it serves."""
    try:
        await _operator(request)
        if not settings.SWAPS.profiling:
            raise Problem(404, "route_not_found", "Profiling is off: PROFILING=1 turns it on.")
        taken = await asyncio.to_thread(requests.answer, name, request.GET.dict())
    except Problem as problem:
        return response_of(problem)
    except requests.Unasked as error:
        return response_of(Problem(error.status, "profile_refused", str(error)))
    disposition = f'inline; filename="{taken.file}"'
    return HttpResponse(
        taken.body,
        content_type=taken.content_type,
        headers={"Content-Disposition": disposition, "Cache-Control": "no-store"},
    )


def _observe(parts: Services) -> None:
    """Set the gauges that are computed on demand."""
    TALLY.report()
    now_ms = parts.now_ms()
    metrics.BOARD_TOKENS.set(len(parts.board.rows))
    metrics.BOARD_STALE.set(len(list(parts.board.stale_partitions(now_ms))))
    metrics.BOARD_LATE.set(parts.board.late_ms() / 1000)
    metrics.BOARD_MISPLACED.set(parts.board.misplaced)
    states = Counter(each.state for each in parts.feed.sources.status(now_ms))
    for state in get_args(SourceState):
        metrics.BOARD_SOURCES.labels(state).set(states[state])
    as_of = parts.board.as_of()
    if as_of is not None:
        metrics.BOARD_AGE.set(max(0.0, parts.now_s() - as_of / 1000))
    metrics.DEPENDENCY_UP.labels("nats").set(parts.feed.fault is None)
    metrics.DEPENDENCY_UP.labels("redis").set(parts.redis.fault is None)
