"""The query parameters of the API, and how a bad one is named to the client."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from ninja import Field, Schema
from ninja.errors import ValidationError

from aggregator.contracts.event import MICROS_PER_USD
from api.board.overview import MAX_LIMIT, ORDERS, SORTS, Order, OverviewQuery, Place, Sort
from api.http.cursors import place_of
from api.problem import Problem

_ALLOWED: Final = {"sort": list(SORTS), "order": list(ORDERS)}


class OverviewParams(Schema):
    """The parameters of `/api/overview`."""

    window: str | None = Field(None, description="one of the windows that are kept")
    sort: Sort = "volume_usd"
    order: Order = "desc"
    chain: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    min_volume_usd: Decimal = Field(Decimal(0), ge=0, le=10**15)
    min_trades: int = Field(0, ge=0, le=2**53)
    q: str = Field("", max_length=128, description="part of a symbol or of a token id")
    limit: int = Field(50, ge=1, le=MAX_LIMIT)

    def query(self, windows: list[str]) -> OverviewQuery:
        """These parameters as a query; raises Problem where the window is none of `windows`."""
        window = self.window if self.window is not None else windows[-1]
        if window not in windows:
            raise bad("window", "unknown", allowed=windows)
        return OverviewQuery(
            window=window,
            sort=self.sort,
            order=self.order,
            chain=self.chain,
            min_volume_micros=int(self.min_volume_usd * MICROS_PER_USD),
            min_trades=self.min_trades,
            q=self.q.strip(),
            limit=self.limit,
        )


class OverviewPageParams(OverviewParams):
    """The parameters of `/api/overview`: those of an overview, and the page."""

    cursor: str | None = Field(
        None,
        max_length=1_000,
        description="next_cursor of the page before, with the same other parameters; pages do not "
        "shift while numbers change",
    )

    def after(self, query: OverviewQuery) -> Place | None:
        """The place that the cursor names; raises Problem where it is none of this question."""
        if self.cursor is None:
            return None
        place = place_of(self.cursor, query)
        if place is None:
            raise bad(
                "cursor", "give the next_cursor of an answer unchanged, with the same parameters"
            )
        return place


def bad(parameter: str, detail: str, **extra: Any) -> Problem:
    """A 422 of one parameter; `extra` are members of its entry."""
    return _problem([{"parameter": parameter, "detail": detail, **extra}])


def parameter_problem(error: ValidationError) -> Problem:
    """A 422 that names each bad parameter and what it may be; never echoes the value."""
    errors = []
    for each in error.errors:
        # a list's entry is named by the list: its position says nothing to the client
        names = [part for part in each["loc"] if isinstance(part, str)]
        parameter = names[-1] if names else "query"
        entry = {"parameter": parameter, "detail": each["msg"]}
        if parameter in _ALLOWED:
            entry["allowed"] = _ALLOWED[parameter]
        errors.append(entry)
    return _problem(errors)


def _problem(errors: list[dict[str, Any]]) -> Problem:
    said = "; ".join(_sentence(each) for each in errors)
    return Problem(422, "parameter_invalid", said, parameter=errors[0]["parameter"], errors=errors)


def _sentence(error: dict[str, Any]) -> str:
    if "allowed" in error:
        return f"{error['parameter']}: give one of {', '.join(error['allowed'])}"
    return f"{error['parameter']}: {error['detail']}"
