"""`POST /api/ingest/swaps`: swaps of a client, checked line by line and written to Kafka.

The answer has a verdict on each line: 200 if the broker has acknowledged every good one, a problem
if no line was good, or for what is not the lines' fault (DESIGN 15).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any, Final

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI

from aggregator.runtime import metrics
from api.auth.jwt import Claims
from api.auth.ratelimit import LINES_A_UNIT
from api.auth.scopes import SWAPS_WRITE
from api.board.answers import json
from api.board.overview_params import refuse_unknown
from api.http import ingest_examples as examples
from api.http.bearer import Bearer, charge
from api.http.openapi import answers, taking
from api.ingest.body import events_of, is_packed, unpacked
from api.ingest.service import unavailable
from api.ingest.verdicts import LineVerdicts, RefusedLine
from api.problem import Problem
from api.services import Services, services

# zlib releases the interpreter's lock; less than this is unpacked faster than a thread starts.
_IN_A_THREAD_BYTES: Final = 8_192
_OUTCOMES: Final = {
    "swaps_rejected": "rejected",
    "chain_forbidden": "rejected",
    "rate_limited": "limited",
    "ingest_off": "off",
    "ingest_busy": "busy",
    "ingest_unavailable": "unavailable",
}


class IngestAnswer(msgspec.Struct, frozen=True):
    """Kafka has acknowledged `accepted` swaps; `errors` has the first 100 of the `rejected` ones.

    Do not send a rejected line again before it is corrected.
    """

    accepted: int
    rejected: int
    errors: list[RefusedLine]


SHAPES: Final = (IngestAnswer,)


def add_routes(api: NinjaAPI) -> None:
    """Register the route on the API."""
    described = answers(
        IngestAnswer,
        examples.ANSWER,
        x400="body_invalid",
        x403="scope_missing, chain_forbidden",
        x404="ingest_off",
        x413="request_too_large",
        x415="media_type_unsupported, encoding_unsupported",
        x422="swaps_rejected, parameter_invalid",
        x503="ingest_unavailable, ingest_busy",
    )
    api.post(
        "/ingest/swaps",
        auth=Bearer(SWAPS_WRITE),
        operation_id="ingest_swaps",
        tags=["ingest"],
        openapi_extra=taking(described, examples.BODIES),
    )(ingest_swaps)


async def ingest_swaps(request: HttpRequest) -> HttpResponse:
    """Take up to 5,000 swaps, as NDJSON or as a JSON array or object, plain or with gzip.

    Each line is checked by the rules of the event (docs/design.md, section 3), and its bytes are
    written to Kafka under the canonical id of its token. 200 means that Kafka has acknowledged
    every good line; the others are listed. After a 503, a 429 or a lost connection send the whole
    body again: a repeat of a swap is not counted. Costs 1, and 1 more for every 100 lines.
    """
    begun, outcome = time.perf_counter(), "abandoned"
    try:
        answer = await _ingested(request, services())
        outcome = "partial" if answer.rejected else "accepted"
    except Problem as problem:
        outcome = _OUTCOMES.get(problem.code, "invalid")
        raise
    finally:
        metrics.INGEST_REQUESTS.labels(outcome).inc()
        metrics.INGEST_SECONDS.observe(time.perf_counter() - begun)
    return json(answer)


async def _ingested(request: HttpRequest, parts: Services) -> IngestAnswer:
    refuse_unknown(request)
    parts.ingest.require_on()
    claims: Claims = request.auth  # type: ignore[attr-defined]
    with ExitStack() as held:
        content = _body(request)
        held.enter_context(parts.ingest.room.hold(len(content)))
        if is_packed(request.META.get("HTTP_CONTENT_ENCODING", "")):
            content = await _unpacked(content, parts.config.body_limit)
            held.enter_context(parts.ingest.room.hold(len(content)))
        events = events_of(content, request.META.get("CONTENT_TYPE", ""))
        if cost := len(events.values) // LINES_A_UNIT:
            await charge(parts, request, claims.subject, cost)
        writer = await parts.ingest.writer()
        verdicts = await writer.check(events, round(parts.now_s() * 1000), claims.chains)
        _count_refused(verdicts)
        if not verdicts.records:
            raise _none_good(verdicts)
        publication = await writer.write(verdicts, claims.subject)
    metrics.INGEST_LINES.labels("accepted").inc(publication.acknowledged)
    if not publication.complete:
        reasons = [failure.reason for failure in publication.failures.values()]
        raise unavailable((reasons or ["no answer"])[0], publication.acknowledged)
    return IngestAnswer(publication.acknowledged, verdicts.refused, verdicts.errors)


def _body(request: HttpRequest) -> bytes:
    try:
        return request.body
    except RequestDataTooBig:
        raise Problem(413, "request_too_large", "The request's body is too large.") from None


async def _unpacked(packed: bytes, most_bytes: int) -> bytes:
    if len(packed) < _IN_A_THREAD_BYTES:
        return unpacked(packed, most_bytes)
    return await asyncio.to_thread(unpacked, packed, most_bytes)


def _count_refused(verdicts: LineVerdicts) -> None:
    for reason, count in verdicts.reasons.items():
        metrics.INGEST_LINES.labels(reason).inc(count)


def _none_good(verdicts: LineVerdicts) -> Problem:
    """Return the problem for a body without a good line: 403 if only the chains are at fault."""
    listed: dict[str, Any] = {
        "accepted": 0,
        "rejected": verdicts.refused,
        "errors": verdicts.errors,
    }
    first = verdicts.errors[0]
    if set(verdicts.reasons) == {"chain"}:
        return Problem(403, "chain_forbidden", f"No line is allowed: {first.message}.", **listed)
    field = f"{first.field}: " if first.field else ""
    detail = f"No line is a swap; line {first.line}: {field}{first.message}"
    return Problem(422, "swaps_rejected", detail, **listed)
