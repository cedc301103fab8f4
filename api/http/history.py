"""The history routes, answered from the archive: trades, candles and days of a token.

Queries run in a pool of threads (`api.archive.questions`) and do not block the event loop. Each
range has a limit, which the problem names, so that one request cannot make ClickHouse read
everything. Trades that are not archived yet come from the token's stream on this node.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Field, NinjaAPI, Query, Schema

from aggregator.clickhouse.reader import TradePosition
from aggregator.contracts.history import ArchivedCandle, ArchivedTrade, Day
from aggregator.contracts.ids import TokenId
from aggregator.contracts.intervals import INTERVALS_MS, Interval
from aggregator.contracts.units import DAY_MS
from api.archive.newest import Newest, Wanted, archived_only, with_newest
from api.auth.scopes import HISTORY_READ
from api.board.answers import json
from api.board.cursors import sealed, unsealed
from api.board.overview_params import LATEST_MS, Instant, bad, refuse_unknown
from api.http import history_examples as examples
from api.http.bearer import Bearer
from api.http.ids import asked_token, not_found
from api.http.openapi import answers
from api.services import services
from api.trades.stream import KEPT, TokenStream

Side = Literal["buy", "sell"]

MAX_TRADES: Final = 1_000
MAX_CANDLES: Final = 1_500
MAX_DAYS: Final = 1_830
_DEFAULT_CANDLES: Final = 300
_DEFAULT_DAYS: Final = 30

# Trades are archived after some seconds: a query for older ones needs no stream.
_NEWEST_MS: Final = 3_600_000
# How long the first query of a token waits for its stream.
_STREAM_S: Final = 0.3
_LOOK_S: Final = 0.02


class TradesAnswer(msgspec.Struct, frozen=True):
    """Trades, newest first; `next_cursor` is null if the range has no older ones.

    `live` is whether trades that are counted, but not archived yet, are included.
    """

    trades: list[ArchivedTrade]
    next_cursor: str | None
    live: bool


class CandlesAnswer(msgspec.Struct, frozen=True):
    """Candles, oldest first; an interval without a trade has no candle."""

    candles: list[ArchivedCandle]


class DaysAnswer(msgspec.Struct, frozen=True):
    """Days, oldest first; a day without a trade is left out."""

    days: list[Day]


SHAPES: Final = (TradesAnswer, CandlesAnswer, DaysAnswer)


class RangeParams(Schema):
    """A range of time: `from` is inclusive, `to` exclusive."""

    from_: Instant | None = Field(None, alias="from", description="ms or ISO 8601, inclusive")
    to: Instant | None = Field(None, description="ms or ISO 8601, exclusive; default: now")


class TradesParams(RangeParams):
    """The parameters of the trades route."""

    limit: int = Field(100, ge=1, le=MAX_TRADES)
    side: Side | None = Field(None, description="only buys, or only sells")
    cursor: str | None = Field(None, max_length=1_000, description="next_cursor of the page before")


class CandlesParams(RangeParams):
    """The parameters of the candles route."""

    interval: Interval = Field(
        "1m", description="length of a candle; candles begin at multiples of it in UTC"
    )
    limit: int | None = Field(
        None, ge=1, le=MAX_CANDLES, description="return only this many of the newest candles"
    )


def add_routes(api: NinjaAPI) -> None:
    """Register the routes on the API."""
    found = "token_not_found"
    refused = "parameter_invalid, token_invalid"
    failed = "history_unavailable, history_busy, history_too_slow"
    problems = {"x404": found, "x422": refused, "x503": failed}
    base = "/tokens/{path:token_id}"
    auth = Bearer(HISTORY_READ)
    api.get(
        f"{base}/trades",
        auth=auth,
        operation_id="token_trades",
        tags=["history"],
        openapi_extra=answers(TradesAnswer, examples.TRADES, **problems),
    )(trades)
    api.get(
        f"{base}/candles",
        auth=auth,
        operation_id="token_candles",
        tags=["history"],
        openapi_extra=answers(CandlesAnswer, examples.CANDLES, **problems),
    )(candles)
    api.get(
        f"{base}/daily",
        auth=auth,
        operation_id="token_days",
        tags=["history"],
        openapi_extra=answers(DaysAnswer, examples.DAYS, **problems),
    )(daily)


async def trades(request: HttpRequest, token_id: str, params: Query[TradesParams]) -> HttpResponse:
    """The trades of a token, newest first, without retracted ones.

    Pages do not shift while trades arrive: a page begins after the last trade of the page before.
    The newest trades, which are archived some seconds later, come from memory, and `live` is true.
    `live` is false if this node has no trades of the token in memory,
    or fewer than are waiting to be archived; then all trades are archived ones.
    """
    refuse_unknown(request, TradesParams)
    token = _token(token_id)
    token_id = str(token)
    since, until = params.from_ or 0, LATEST_MS if params.to is None else params.to
    _require_order(since, until)
    # The salt ties a cursor to the query that returned it.
    salt = f"trades {token_id} {params.side}"
    after = None if params.cursor is None else _position(params.cursor, salt)
    # Get the stream before the query, so that no trade can leave it before it is archived.
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
    cursor = None if page.next is None else sealed(page.next, salt)
    return json(TradesAnswer(page.trades, cursor, page.live))


def _stream(token_id: str, until: int) -> TokenStream | None:
    """Return the stream of a live token; None if the query asks for older trades only."""
    parts = services()
    now_ms = int(parts.now_s() * 1000)
    if until <= now_ms - _NEWEST_MS or parts.board.get(token_id, parts.now_ms()) is None:
        return None
    return parts.streams.recent(token_id)


async def _newest(stream: TokenStream) -> Newest | None:
    """Return the trades of the stream; wait briefly for a stream that has just been opened."""
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

    `from` is rounded down and `to` up to a multiple of the interval. Without `from` the range is
    the newest 300 intervals, or `limit` intervals if that is more. `limit` keeps only that many of
    the newest candles.
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
    return json(CandlesAnswer(found if params.limit is None else found[-params.limit :]))


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
    return json(DaysAnswer(found))


def _token(token_id: str) -> TokenId:
    token = asked_token(token_id)
    if services().board.hides(str(token)):
        raise not_found()
    return token


async def _require_known(token: TokenId) -> None:
    """Raise Problem 404 for a token that neither the board nor the archive knows."""
    parts = services()
    if parts.board.get(str(token), parts.now_ms()) is None and not await parts.history.ask(
        lambda reader: reader.knows(*token)
    ):
        raise not_found()


def _aligned_range(
    params: RangeParams, length: int, default: int, most: int, what: str
) -> tuple[int, int]:
    """Return [from, to) in ms, widened to multiples of `length`; by default the newest `default`.

    Raises Problem 422 if the range holds more than `most` of them.
    """
    until = int(services().now_s() * 1000) if params.to is None else params.to
    end = -(-until // length) * length
    since = max(0, end - default * length) if params.from_ is None else params.from_
    _require_order(since, until)
    since, until = since // length * length, end
    count = (until - since) // length
    if count > most:
        raise bad(
            "from",
            f"the range holds {count:,} {what}, at most {most:,} fit in one answer; ask for a "
            "shorter range",
            limit=most,
        )
    return since, until


def _require_order(since: int, until: int) -> None:
    if since >= until:
        raise bad("from", "must lie before `to` (default: now); give an earlier time")


def _position(cursor: str, salt: str) -> TradePosition:
    position = unsealed(cursor, salt, TradePosition)
    if position is None:
        raise bad(
            "cursor", "give the next_cursor of an answer unchanged, with the same token and side"
        )
    return position
