"""The routes of a token's past, answered from the archive: trades, candles, days.

Asked in a pool of threads (`api.archive.questions`), so the event loop goes on. Each range has a
limit that the problem names, so that one request cannot make ClickHouse read all it has. The
trades that the archive does not have yet come from the token's stream on this node.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

import msgspec
from django.core import signing
from django.http import HttpRequest, HttpResponse
from ninja import Field, NinjaAPI, Query, Schema

from aggregator.clickhouse.reader import TradePosition
from aggregator.contracts.history import ArchivedCandle, ArchivedTrade, Day
from aggregator.contracts.ids import TokenId
from aggregator.contracts.units import DAY_MS
from api.archive.newest import Newest, Wanted, archived_only, with_newest
from api.board.overview_params import LATEST_MS, Instant, refuse_unknown
from api.http import history_examples as examples
from api.http.bearer import HISTORY_READ, Bearer
from api.http.ids import asked_token, not_found
from api.problem import Problem
from api.services import services
from api.trades.stream import KEPT, TokenStream

Interval = Literal["1m", "5m", "15m", "1h", "4h", "1d"]
Side = Literal["buy", "sell"]

INTERVALS_MS: Final[dict[str, int]] = {
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}
MAX_TRADES: Final = 1_000
MAX_CANDLES: Final = 1_500
MAX_DAYS: Final = 1_830
_DEFAULT_CANDLES: Final = 300
_DEFAULT_DAYS: Final = 30

# Trades wait some seconds for the archive: who asks for older ones needs no stream.
_NEWEST_MS: Final = 3_600_000
# How long the first question of a token waits for its stream.
_STREAM_S: Final = 0.3
_LOOK_S: Final = 0.02

_encode = msgspec.json.Encoder().encode


class Trades(msgspec.Struct, frozen=True):
    """Trades, newest first; `next_cursor` is null where there are no older ones in the range.

    `live` tells that those are among them that are counted, but not archived yet.
    """

    trades: list[ArchivedTrade]
    next_cursor: str | None
    live: bool


class Candles(msgspec.Struct, frozen=True):
    """Candles, oldest first; an interval without a trade has none."""

    candles: list[ArchivedCandle]


class Days(msgspec.Struct, frozen=True):
    """Days, oldest first; a day without a trade has none."""

    days: list[Day]


SHAPES: Final = (Trades, Candles, Days)


class RangeParams(Schema):
    """A range of time: from inclusive, to exclusive."""

    from_: Instant | None = Field(None, alias="from", description="ms or ISO 8601, inclusive")
    to: Instant | None = Field(None, description="ms or ISO 8601, exclusive; default: now")


class TradesParams(RangeParams):
    """The parameters of trades."""

    limit: int = Field(100, ge=1, le=MAX_TRADES)
    side: Side | None = Field(None, description="only buys, or only sells")
    cursor: str | None = Field(None, max_length=1_000, description="next_cursor of the page before")


class CandlesParams(RangeParams):
    """The parameters of candles."""

    interval: Interval = Field("1m", description="length of a candle; they begin at UTC multiples")
    limit: int | None = Field(
        None, ge=1, le=MAX_CANDLES, description="the newest so many candles of the range"
    )


def add_routes(api: NinjaAPI) -> None:
    """Register the routes on the API."""
    limits = f"bad parameter, or more than {MAX_CANDLES:,} candles"
    base = "/tokens/{path:token_id}"
    auth = Bearer(HISTORY_READ)
    api.get(
        f"{base}/trades",
        auth=auth,
        operation_id="token_trades",
        tags=["history"],
        openapi_extra=_answers(Trades, examples.TRADES, "bad parameter"),
    )(trades)
    api.get(
        f"{base}/candles",
        auth=auth,
        operation_id="token_candles",
        tags=["history"],
        openapi_extra=_answers(Candles, examples.CANDLES, limits),
    )(candles)
    api.get(
        f"{base}/daily",
        auth=auth,
        operation_id="token_days",
        tags=["history"],
        openapi_extra=_answers(Days, examples.DAYS, "bad parameter"),
    )(daily)


async def trades(request: HttpRequest, token_id: str, params: Query[TradesParams]) -> HttpResponse:
    """The trades of a token, newest first, without those that were retracted.

    Pages do not shift while trades arrive: a page goes on behind the last trade of the one before.
    The newest, which the archive gets some seconds later, come from memory, with `live` true; their
    `block_number` is null until then. `live` is false where this node has none of the token in
    memory, or fewer than wait to be archived: then all are archived ones.
    """
    refuse_unknown(request, TradesParams)
    token = _token(token_id)
    token_id = str(token)
    since, until = params.from_ or 0, LATEST_MS if params.to is None else params.to
    _require_order(since, until)
    # A cursor goes on with the question that it is the answer to.
    salt = f"trades {token_id} {params.side}"
    after = None if params.cursor is None else _position(params.cursor, salt)
    # Asked for first, so that no trade can leave it before the archive is seen to have it.
    stream = _stream(token_id, until if after is None else after.ms + 1)
    found = await services().history.ask(
        lambda reader: reader.trades(
            *token, since=since, until=until, side=params.side, limit=params.limit, after=after
        )
    )
    page = archived_only(found)
    newest = None if stream is None else await _newest(stream)
    if newest is not None:
        wanted = Wanted(token.chain, since, until, params.side, params.limit, after)
        page = with_newest(found, newest, wanted)
    if not page.trades and after is None:
        await _require_known(token)
    cursor = None if page.next is None else signing.dumps(page.next, salt=salt)
    return _json(Trades(page.trades, cursor, page.live))


def _stream(token_id: str, until: int) -> TokenStream | None:
    """The stream of a token that trades now, None where the trades asked for are all older."""
    parts = services()
    now_ms = int(parts.now_s() * 1000)
    if until <= now_ms - _NEWEST_MS or parts.board.get(token_id, parts.now_ms()) is None:
        return None
    return parts.streams.recent(token_id)


async def _newest(stream: TokenStream) -> Newest | None:
    """What the stream holds; one that was not looked at before is waited for a little."""
    for _ in range(int(_STREAM_S / _LOOK_S)):
        if not stream.wants_history:
            break
        await asyncio.sleep(_LOOK_S)
    if stream.wants_history or stream.partition is None:
        return None
    return Newest(stream.partition, stream.trades, KEPT)


async def candles(
    request: HttpRequest, token_id: str, params: Query[CandlesParams]
) -> HttpResponse:
    """Open, high, low, close and volumes of each interval that has a trade, oldest first.

    `from` is taken down and `to` up to the next multiple of the interval. Without `from` the newest
    300 intervals, or `limit` where that is more. `limit` leaves the newest so many.
    """
    refuse_unknown(request, CandlesParams)
    token = _token(token_id)
    length = INTERVALS_MS[params.interval]
    reach = max(params.limit or 0, _DEFAULT_CANDLES)
    since, until = _aligned_range(
        params, length, reach, MAX_CANDLES, f"candles of {params.interval}"
    )
    found = await services().history.ask(
        lambda reader: reader.candles(*token, since=since, until=until, interval_ms=length)
    )
    if not found:
        await _require_known(token)
    return _json(Candles(found if params.limit is None else found[-params.limit :]))


async def daily(request: HttpRequest, token_id: str, params: Query[RangeParams]) -> HttpResponse:
    """The totals of each UTC day that has a trade, oldest first; by default the last 30 days."""
    refuse_unknown(request, RangeParams)
    token = _token(token_id)
    since, until = _aligned_range(params, DAY_MS, _DEFAULT_DAYS, MAX_DAYS, "days")
    found = await services().history.ask(
        lambda reader: reader.days(*token, since=since, until=until)
    )
    if not found:
        await _require_known(token)
    return _json(Days(found))


def _answers(struct: type[msgspec.Struct], example: Any, bad: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{struct.__name__}"}
    content = {"application/json": {"schema": schema, "example": example}}
    return {
        "responses": {
            "200": {"description": "OK", "content": content},
            "404": {"description": "token_not_found"},
            "422": {"description": f"{bad}; parameter_invalid or token_invalid"},
            "503": {"description": "history_unavailable, history_busy or history_too_slow"},
        }
    }


def _token(token_id: str) -> TokenId:
    token = asked_token(token_id)
    if services().board.hides(str(token)):
        raise not_found()
    return token


async def _require_known(token: TokenId) -> None:
    """An empty answer is one for a token that exists; raises Problem 404 for any other."""
    parts = services()
    if parts.board.get(str(token), parts.now_ms()) is None and not await parts.history.ask(
        lambda reader: reader.knows(*token)
    ):
        raise not_found()


def _aligned_range(
    params: RangeParams, length: int, default: int, most: int, what: str
) -> tuple[int, int]:
    """[from, to) in ms, widened to multiples of `length`; by default the newest `default` of them.

    Raises Problem 422 where it holds more than `most`.
    """
    until = int(services().now_s() * 1000) if params.to is None else params.to
    end = -(-until // length) * length
    since = max(0, end - default * length) if params.from_ is None else params.from_
    _require_order(since, until)
    since, until = since // length * length, end
    count = (until - since) // length
    if count > most:
        raise _bad(
            "from",
            f"the range holds {count:,} {what}, at most {most:,} are answered at once; ask for a "
            "shorter range",
            limit=most,
        )
    return since, until


def _require_order(since: int, until: int) -> None:
    if since >= until:
        raise _bad("from", "must lie before `to` (default: now); give an earlier time")


def _position(cursor: str, salt: str) -> TradePosition:
    try:
        return TradePosition(*signing.loads(cursor, salt=salt))
    except signing.BadSignature:
        raise _bad(
            "cursor", "give the next_cursor of an answer unchanged, with the same token and side"
        ) from None


def _bad(parameter: str, detail: str, **extra: Any) -> Problem:
    return Problem(
        422,
        "parameter_invalid",
        f"{parameter}: {detail}",
        parameter=parameter,
        errors=[{"parameter": parameter, "detail": detail, **extra}],
    )


def _json(value: object) -> HttpResponse:
    return HttpResponse(_encode(value), content_type="application/json")
