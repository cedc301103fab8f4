"""The query parameters of the API, and the errors that name an invalid one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from django.http import HttpRequest
from ninja import Field, Schema
from ninja.errors import ValidationError
from pydantic import BeforeValidator, WithJsonSchema

from aggregator.contracts.event import MICROS_PER_USD
from api.board.cursors import place_of
from api.board.overview import MAX_LIMIT, ORDERS, SORTS, Order, OverviewQuery, RowPlace, Sort
from api.nearest import hint, nearest
from api.problem import Problem

_ALLOWED: Final = {"sort": list(SORTS), "order": list(ORDERS)}
# The years that ClickHouse's DateTime holds, in whole days.
LATEST_MS: Final = 2**32 // 86_400 * 86_400_000
_DIGITS: Final = re.compile(r"-?[0-9]+")
# In a query string "+" means a blank, so a zone such as +02:00 arrives with a blank.
_BLANK_OFFSET: Final = re.compile(r" (?=[0-9]{2}:?[0-9]{2}\Z)")


def _ms(given: Any) -> Any:
    """Convert ISO 8601 with a zone to ms since the epoch; leave anything else to pydantic."""
    if not isinstance(given, str) or _DIGITS.fullmatch(given.strip()):
        return given
    try:
        when = datetime.fromisoformat(_BLANK_OFFSET.sub("+", given))
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise ValueError("give ms since the epoch, or ISO 8601 with a zone: 2026-11-30T00:00:00Z")
    return int(when.timestamp() * 1_000)


Instant = Annotated[
    int,
    Field(ge=0, le=LATEST_MS),
    BeforeValidator(_ms),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": LATEST_MS}, {"type": "string"}]}
    ),
]
"""ms since the epoch, as a number or in ISO 8601."""


SEARCH: Final = (
    "part of a symbol, of a name given by the operators or of a token; with a colon, of a whole "
    "token id. Exact matches of a symbol, name or id come first, then those that begin with the "
    "text, then the rest; within each by `sort`"
)


class OverviewParams(Schema):
    """The parameters of `/api/overview`."""

    window: str | None = Field(None, description="one of the windows that are kept")
    sort: Sort = "volume_usd"
    order: Order = "desc"
    chain: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    min_volume_usd: Decimal = Field(Decimal(0), ge=0, le=10**15)
    min_trades: int = Field(0, ge=0, le=2**53)
    q: str = Field("", max_length=128, description=SEARCH)
    limit: int = Field(50, ge=1, le=MAX_LIMIT)

    def query(self, windows: list[str]) -> OverviewQuery:
        """Return these parameters as a query; raise Problem if `windows` lacks the window."""
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
        description="next_cursor of the page before, with the same other parameters (`limit` may "
        "change); a token whose value stays is on exactly one page, one whose value falls may come "
        "again, one whose value rises may be missed",
    )

    def after(self, query: OverviewQuery) -> RowPlace | None:
        """Return the place of the cursor; raise Problem if the cursor belongs to another query."""
        if self.cursor is None:
            return None
        place = place_of(self.cursor, query)
        if place is None:
            raise bad(
                "cursor", "give the next_cursor of an answer unchanged, with the same parameters"
            )
        return place


def bad(parameter: str, detail: str, **extra: Any) -> Problem:
    """Return a 422 for one parameter; `extra` are further members of its entry."""
    return _problem([{"parameter": parameter, "detail": detail, **extra}])


def refuse_unknown(request: HttpRequest, schema: type[Schema] | None = None) -> None:
    """Raise Problem 422 if the query has parameters that the route does not know."""
    if not request.GET:
        return
    fields = {} if schema is None else schema.model_fields
    known = [field.alias or name for name, field in fields.items()]
    unknown = [name for name in request.GET if name not in known]
    if unknown:
        raise _problem([_unknown(name, known) for name in unknown])


def _unknown(name: str, known: list[str]) -> dict[str, Any]:
    entry = {
        "parameter": name[:64],
        "detail": f"there is no such parameter here{hint(name, known)}",
    }
    meant = nearest(name, known)
    return entry if meant is None else entry | {"nearest": meant}


def parameter_problem(error: ValidationError, given: Mapping[str, str]) -> Problem:
    """Return a 422 that names each invalid parameter and its valid values, not the given one."""
    return _problem([fault_of(each, given) for each in error.errors])


def fault_of(error: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of pydantic's errors as an entry of a problem; `given` are the parameters."""
    # name the parameter, not the position within a list, which means nothing to the client
    names = [part for part in error["loc"] if isinstance(part, str)]
    parameter = names[-1] if names else "query"
    entry = {"parameter": parameter, "detail": error["msg"].removeprefix("Value error, ")}
    if parameter in _ALLOWED:
        allowed = entry["allowed"] = _ALLOWED[parameter]
        meant = nearest(str(given.get(parameter, "")), allowed)
        entry |= {} if meant is None else {"nearest": meant}
    return entry


def _problem(errors: list[dict[str, Any]]) -> Problem:
    said = "; ".join(sentence(each) for each in errors)
    return Problem(422, "parameter_invalid", said, parameter=errors[0]["parameter"], errors=errors)


def sentence(error: dict[str, Any]) -> str:
    """Return an entry of a problem as a sentence."""
    if "allowed" in error:
        meant = f"; did you mean {error['nearest']}?" if "nearest" in error else ""
        return f"{error['parameter']}: give one of {', '.join(error['allowed'])}{meant}"
    return f"{error['parameter']}: {error['detail']}"
