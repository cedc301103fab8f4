"""The routes under /api. Data routes need a token; answers are encoded from structs.

All views are coroutines that run in the server's event loop, where the board lives.
`api.http.middleware` answers HEAD for every GET and compresses the answers.
"""

# ruff: noqa: ARG001 - ninja passes arguments by name that a view may not use.
from __future__ import annotations

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI, Query
from ninja.errors import ValidationError

from aggregator.runtime.version import VERSION
from api.auth.ratelimit import COST_BATCH, COST_OVERVIEW
from api.auth.scopes import OPS_READ, STATS_READ
from api.board.answers import answered, json, tagged
from api.board.overview import Overview
from api.board.overview_params import (
    OverviewPageParams,
    bad,
    parameter_problem,
    refuse_unknown,
)
from api.board.row import TokenRow
from api.http import examples, history, ingest
from api.http.batch import MOST_TOKENS, BatchParams, TokenBatch, ids_of
from api.http.bearer import Bearer
from api.http.docs import anybody, docs
from api.http.ids import asked_token, not_found
from api.http.openapi import answers, description_of
from api.http.openapi import tagged as with_etag
from api.http.status import Status, status_of
from api.problem import Problem, response_of
from api.services import Services, services

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

api = NinjaAPI(
    title="Swap aggregator",
    version=VERSION,
    description="Swaps counted exactly once in rolling windows. Times are ms since the epoch, "
    "money and prices decimal strings, unknown is null. Errors are problem documents (RFC 9457) "
    "with a stable `code`.",
    docs_url=None,
    openapi_url=None,
    urls_namespace="api",
    auth=Bearer(None),
)


@api.exception_handler(Problem)
def on_problem(_request: HttpRequest, problem: Problem) -> HttpResponse:
    """Answer a problem that a view raised."""
    return response_of(problem)


@api.exception_handler(ValidationError)
def on_bad_parameter(request: HttpRequest, error: ValidationError) -> HttpResponse:
    """Answer a parameter that breaks its rule with a 422."""
    return response_of(parameter_problem(error, request.GET))


@api.get(
    "/overview",
    auth=Bearer(STATS_READ, COST_OVERVIEW),
    operation_id="overview",
    tags=["live"],
    openapi_extra=with_etag(answers(Overview, examples.OVERVIEW, x422="parameter_invalid")),
)
async def overview(request: HttpRequest, params: Query[OverviewPageParams]) -> HttpResponse:
    """Totals and top tokens of one window; the totals are over all tokens that match.

    `next_cursor` is null on the last page. A page begins after the value and id of the last token
    of the page before: a token whose value stays is on exactly one page, one whose value falls may
    come again, one whose value rises may be missed.
    """
    refuse_unknown(request, OverviewPageParams)
    parts = services()
    query = params.query([name for name, _ in parts.config.windows])
    answer = parts.overviews.answer(query, params.after(query), parts.now_ms())
    return answered(request, answer.content, answer.etag)


@api.get(
    "/tokens/stats",
    auth=Bearer(STATS_READ, COST_BATCH),
    operation_id="tokens_stats",
    tags=["live"],
    openapi_extra=with_etag(
        answers(
            TokenBatch,
            examples.BATCH,
            x422="parameter_invalid, token_invalid",
            x503="board_not_ready",
        )
    ),
)
async def batch_stats(request: HttpRequest, params: Query[BatchParams]) -> HttpResponse:
    """All windows of up to 100 tokens; unknown and hidden ones are named in `missing`."""
    refuse_unknown(request, BatchParams)
    parts = services()
    now_ms = parts.now_ms()
    ids = ids_of(params.ids, lambda token_id: token_id in parts.board.rows)
    if not 1 <= len(ids) <= MOST_TOKENS:
        raise bad("ids", f"give 1 to {MOST_TOKENS} token ids")
    rows = {token_id: parts.board.get(token_id, now_ms) for token_id in ids}
    missing = [token_id for token_id, row in rows.items() if row is None]
    if missing:
        _require_complete(parts)
    return tagged(request, TokenBatch([row for row in rows.values() if row is not None], missing))


@api.get(
    "/tokens/{path:token_id}/stats",
    auth=Bearer(STATS_READ),
    operation_id="token_stats",
    tags=["live"],
    openapi_extra=with_etag(
        answers(
            TokenRow,
            examples.STATS,
            x404="token_not_found",
            x422="parameter_invalid, token_invalid",
            x503="board_not_ready",
        )
    ),
)
async def token_stats(request: HttpRequest, token_id: str) -> HttpResponse:
    """All windows of one token, by any spelling of its id, which may hold "/" and ":"."""
    refuse_unknown(request)
    parts = services()
    row = parts.board.get(str(asked_token(token_id)), parts.now_ms())
    if row is None:
        _require_complete(parts)
        raise not_found()
    return tagged(request, row, _etag(parts, row))


@api.get(
    "/status",
    auth=Bearer(OPS_READ),
    operation_id="status",
    tags=["operations"],
    openapi_extra=answers(Status, examples.STATUS, x422="parameter_invalid"),
)
async def status(request: HttpRequest) -> HttpResponse:
    """Every partition: state, offsets, owner, lag, watermark and snapshot; and the archive."""
    refuse_unknown(request)
    return json(status_of(services()))


history.add_routes(api)
ingest.add_routes(api)

api.get("/docs", auth=anybody, include_in_schema=False)(docs)


@api.get("/openapi.json", auth=anybody, include_in_schema=False)
async def openapi(request: HttpRequest) -> HttpResponse:
    """This API in OpenAPI 3.1."""
    refuse_unknown(request)
    return tagged(request, _description())


@cache
def _description() -> dict[str, Any]:
    shapes = (*history.SHAPES, *ingest.SHAPES)
    return description_of(api, [Overview, TokenRow, TokenBatch, Status, *shapes])


@api.api_operation(_METHODS, "/{path:rest}", include_in_schema=False)
async def nothing_here(request: HttpRequest, rest: str) -> HttpResponse:
    """Answer 404 for any other path; a caller without a token gets 401 as everywhere."""
    raise Problem(404, "route_not_found", "There is nothing at this address.")


def _require_complete(parts: Services) -> None:
    """Raise Problem 503 while this node does not know every token and cannot answer "unknown"."""
    if not parts.board.complete():
        raise Problem(
            503,
            "board_not_ready",
            "This node does not know every token yet; see /readyz.",
            headers={"Retry-After": "1"},
        )


def _etag(parts: Services, row: TokenRow) -> str:
    """Return `"<epoch>-<seq>"` with what else changes the row: registry version and staleness."""
    listing = parts.board.listing(row.token_id)
    words = [str(row.epoch), str(row.seq)]
    words += [f"r{listing.version}"] if listing is not None else []
    words += ["stale"] if row.stale else []
    return f'"{"-".join(words)}"'
