"""The routes under /api. Every one asks for a token; the answers are encoded from the structs.

All views are coroutines that run in the server's event loop, where the board lives.
"""

# ruff: noqa: ARG001 - ninja passes by name what a view need not use.
from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response
from ninja import NinjaAPI, Query
from ninja.errors import ValidationError

from aggregator.contracts.stats import TokenStats
from api.board.board import PartitionStatus
from api.board.overview import Overview
from api.http.params import OverviewParams, parameter_problem
from api.problem import Problem, response_of
from api.security.bearer import OPS_READ, STATS_READ, Bearer
from api.services import services

_encode = msgspec.json.Encoder().encode
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Status(msgspec.Struct, frozen=True):
    """The answer of `/api/status`. `nats` is null while NATS is well, else what is wrong."""

    as_of: int | None
    nats: str | None
    degraded: list[str]
    partitions: list[PartitionStatus]


def _answers(struct: type[msgspec.Struct], **others: str) -> dict[str, Any]:
    """The OpenAPI of an operation that answers with the struct, others by status code."""
    schema = {"$ref": f"#/components/schemas/{struct.__name__}"}
    responses: dict[str, Any] = {
        code.removeprefix("x"): {"description": description} for code, description in others.items()
    }
    responses["200"] = {"description": "OK", "content": {"application/json": {"schema": schema}}}
    return {"responses": responses}


api = NinjaAPI(
    title="Swap aggregator",
    version="1",
    docs_url=None,
    openapi_url=None,
    urls_namespace="api",
    auth=Bearer(None),
)


@api.exception_handler(Problem)
def on_problem(_request: HttpRequest, problem: Problem) -> HttpResponse:
    """A problem that a view raised."""
    return response_of(problem)


@api.exception_handler(ValidationError)
def on_bad_parameter(_request: HttpRequest, error: ValidationError) -> HttpResponse:
    """A parameter that breaks its rule."""
    return response_of(parameter_problem(error))


@api.get(
    "/overview", auth=Bearer(STATS_READ), openapi_extra=_answers(Overview, x422="bad parameter")
)
async def overview(request: HttpRequest, params: Query[OverviewParams]) -> HttpResponse:
    """Totals and top tokens of one window; the totals are over all tokens that match."""
    parts = services()
    query = params.query([name for name, _ in parts.config.windows])
    return _json(parts.overview.read(query, parts.now_ms()))


@api.get(
    "/tokens/{path:token_id}/stats",
    auth=Bearer(STATS_READ),
    openapi_extra=_answers(TokenStats, x304="not modified", x404="token_not_found"),
)
async def token_stats(request: HttpRequest, token_id: str) -> HttpResponse:
    """All windows of one token; its id may hold "/" and ":"."""
    parts = services()
    now_ms = parts.now_ms()
    row = parts.board.get(token_id, now_ms)
    if row is None:
        if not parts.board.complete():
            raise Problem(
                503,
                "board_not_ready",
                "This node does not know every token yet; see /readyz.",
                headers={"Retry-After": "1"},
            )
        raise Problem(404, "token_not_found", "No such token.")
    etag = f'"{row.epoch}-{row.seq}-stale"' if row.stale else f'"{row.epoch}-{row.seq}"'
    response = _json(row)
    response.headers["ETag"] = etag
    conditional = get_conditional_response(request, etag=etag, response=response)
    assert isinstance(conditional, HttpResponse)
    return conditional


@api.get("/status", auth=Bearer(OPS_READ), openapi_extra=_answers(Status))
async def status(request: HttpRequest) -> HttpResponse:
    """Every partition: how far it is, its owner's lag and watermark, and whether it is stale."""
    parts = services()
    return _json(
        Status(
            as_of=parts.board.as_of(),
            nats=parts.feed.fault,
            degraded=parts.board.degraded(),
            partitions=parts.board.status(parts.now_ms()),
        )
    )


@api.get("/openapi.json", include_in_schema=False)
async def openapi(request: HttpRequest) -> HttpResponse:
    """This API in OpenAPI 3.1."""
    schema = api.get_openapi_schema()
    _, components = msgspec.json.schema_components(
        [Overview, TokenStats, Status], ref_template="#/components/schemas/{name}"
    )
    schema["components"]["schemas"].update(components)
    return _json(schema)


@api.api_operation(_METHODS, "/{path:rest}", include_in_schema=False)
async def nothing_here(request: HttpRequest, rest: str) -> HttpResponse:
    """Any other address, for callers with a token; without one they get 401 like everywhere."""
    raise Problem(404, "route_not_found", "There is nothing at this address.")


def _json(value: object) -> HttpResponse:
    return HttpResponse(_encode(value), content_type="application/json")
