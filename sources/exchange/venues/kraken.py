"""Kraken: the channel `trade` of WebSocket v2; past trades by the REST request `Trades`.

Formats: docs.kraken.com, "Spot WebSocket v2, trade" and "Get Recent Trades". The stream sends
prices and sizes as JSON numbers, whose digits are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from aggregator.runtime.errors import BadMessage
from sources.exchange.trades import (
    Ack,
    ExchangeTrade,
    Instrument,
    Message,
    Refusal,
    TradeGap,
    VenueHeartbeat,
    VenuePage,
    in_ms,
    known_side,
    ms_of,
    positive,
    trade_number,
)
from sources.exchange.venue import Limits, reader, unknown

_PAGE: Final = 1000
# Requests and lists of markets have these older names; the stream has the newer ones.
_NEW_NAMES: Final = {"XBT": "BTC", "XDG": "DOGE"}
_SIDES: Final = {"b": "buy", "s": "sell"}


class _Row(msgspec.Struct, gc=False):
    symbol: str
    side: str
    price: Decimal
    qty: Decimal
    trade_id: int
    timestamp: datetime


class _Head(msgspec.Struct, gc=False):
    channel: str = ""
    method: str = ""
    success: bool | None = None
    error: str = ""
    symbol: str = ""


class _Frame(msgspec.Struct, gc=False):
    data: list[_Row]


class _Past(msgspec.Struct, array_like=True, gc=False):
    price: Decimal
    volume: Decimal
    time: Decimal
    side: str
    kind: str
    misc: str
    trade_id: int


class _Pair(msgspec.Struct):
    altname: str
    wsname: str = ""
    status: str = "online"


class _Answer(msgspec.Struct):
    error: list[str]
    result: dict[str, Any] = {}


class _Pairs(msgspec.Struct):
    error: list[str]
    result: dict[str, _Pair] = {}


_read_head: Final = reader(_Head)
_read_frame: Final = reader(_Frame)
_read_pairs: Final = reader(_Pairs)
_decode_answer: Final = msgspec.json.Decoder(_Answer, float_hook=Decimal).decode


class Kraken:
    """Numbers the trades of a pair; past trades are found by time."""

    name = "kraken"
    label = "Kraken"
    stream_url = "wss://ws.kraken.com/v2"
    rest_url = "https://api.kraken.com"
    numbered = True
    answers_each_symbol = True
    limits = Limits(250, 100, message_s=0.2, request_s=1.1)
    ping = b'{"method":"ping"}'

    def subscribe(self, symbols: Sequence[str], number: int) -> bytes:
        """Return a subscribe without a snapshot: what is missed is asked for."""
        params = {"channel": "trade", "symbol": list(symbols), "snapshot": False}
        return msgspec.json.encode({"method": "subscribe", "params": params, "req_id": number})

    def read(self, frame: bytes) -> Message:
        head = _read_head(frame)
        match head.channel or head.method:
            case "trade":
                return [_trade(row) for row in _read_frame(frame).data]
            case "heartbeat" | "status" | "pong":
                return VenueHeartbeat({})
            case "subscribe" if head.success:
                return Ack()
            case "subscribe" if head.success is False:
                return Refusal([head.symbol] if head.symbol else (), head.error)
        raise unknown(frame)

    def instruments(self) -> str:
        return "/0/public/AssetPairs"

    def read_instruments(self, body: bytes) -> Sequence[Instrument]:
        answer = _read_pairs(body)
        _check(answer.error)
        found = []
        for pair in answer.result.values():
            base, slash, quote = pair.wsname.partition("/")
            if slash and pair.status == "online":
                base, quote = _NEW_NAMES.get(base, base), _NEW_NAMES.get(quote, quote)
                found.append(Instrument(f"{base}/{quote}", base, quote, pair.altname))
        return found

    def newest(self, market: Instrument) -> str:
        return f"/0/public/Trades?pair={market.rest}&count={_PAGE}"

    def fill(self, market: Instrument, gap: TradeGap, page: VenuePage | None) -> str | None:
        """Ask upwards from a time in ns: that of the trade before the gap, then the cursor."""
        since = str(gap.after_ms * 1_000_000 - 1)
        if page is not None:
            if not page.trades or int(page.trades[-1].id) >= gap.last or not page.cursor:
                return None
            since = page.cursor
        return f"{self.newest(market)}&since={since}"

    def read_page(self, market: Instrument, body: bytes) -> VenuePage:
        try:
            answer = _decode_answer(body)
            _check(answer.error)
            cursor = answer.result.pop("last", "")
            rows = msgspec.convert(list(answer.result.values()), list[list[_Past]])
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise BadMessage("frame", "", f"{error}; begins {body[:120]!r}") from error
        trades = [_past(market.symbol, row) for each in rows for row in each]
        # Asked with its own cursor, the venue answers with the same one: there is nothing newer.
        return VenuePage(sorted(trades, key=_number), str(cursor) if len(trades) > 1 else "")


def _trade(row: _Row) -> ExchangeTrade:
    return ExchangeTrade(
        row.symbol,
        trade_number(row.trade_id, "trade_id"),
        positive(row.price, "price"),
        positive(row.qty, "qty"),
        known_side(row.side, "side"),
        ms_of(row.timestamp, "timestamp"),
    )


def _past(symbol: str, row: _Past) -> ExchangeTrade:
    return ExchangeTrade(
        symbol,
        trade_number(row.trade_id, "trade_id"),
        positive(row.price, "price"),
        positive(row.volume, "volume"),
        known_side(_SIDES.get(row.side, row.side), "side"),
        in_ms(int(positive(row.time, "time") * 1000), "time"),
    )


def _number(trade: ExchangeTrade) -> int:
    return int(trade.id)


def _check(errors: Sequence[str]) -> None:
    if errors:
        raise BadMessage("frame", "error", ", ".join(errors))
