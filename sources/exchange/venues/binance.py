"""Binance spot: the stream `<symbol>@trade`, not aggTrade, whose ids are others.

Formats: developers.binance.com, "WebSocket Streams for Binance" and "Market Data endpoints".
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import msgspec

from aggregator.runtime.errors import BadMessage
from sources.exchange.trades import (
    Ack,
    Closing,
    ExchangeTrade,
    Instrument,
    Message,
    Refusal,
    TradeGap,
    VenueHeartbeat,
    VenuePage,
    in_ms,
    positive,
    trade_number,
)
from sources.exchange.venue import Limits, reader, unknown

_PAGE: Final = 1000


class _Data(msgspec.Struct, gc=False):
    e: str
    s: str = ""
    t: int = 0
    p: Decimal | None = None
    q: Decimal | None = None
    T: int = 0
    m: bool | None = None


class _Error(msgspec.Struct):
    msg: str = ""


class _Frame(msgspec.Struct, gc=False):
    data: _Data | None = None
    id: int | None = None
    result: list[str] | None = None
    error: _Error | None = None
    e: str = ""


class _Row(msgspec.Struct, gc=False, rename="camel"):
    id: int
    price: Decimal
    qty: Decimal
    time: int
    is_buyer_maker: bool


class _Symbol(msgspec.Struct, rename="camel"):
    symbol: str
    status: str
    base_asset: str
    quote_asset: str
    is_spot_trading_allowed: bool


class _Symbols(msgspec.Struct):
    symbols: list[_Symbol]


_read_frame: Final = reader(_Frame)
_read_rows: Final = reader(list[_Row])
_read_symbols: Final = reader(_Symbols)


class Binance:
    """Cuts each connection after 24 h; a connection takes 1,024 streams, 5 messages a second."""

    name = "binance"
    label = "Binance"
    stream_url = "wss://stream.binance.com:9443/stream"
    rest_url = "https://api.binance.com"
    numbered = True
    answers_each_symbol = False
    # 25 of the 6,000 weights a minute are one request for past trades; half of them are used.
    limits = Limits(1_024, 200, message_s=0.3, request_s=0.5, life_s=86_400)
    ping = b'{"method":"LIST_SUBSCRIPTIONS","id":0}'

    def subscribe(self, symbols: Sequence[str], number: int) -> bytes:
        """Return a SUBSCRIBE; stream names are in lower case."""
        streams = [f"{symbol.lower()}@trade" for symbol in symbols]
        return msgspec.json.encode({"method": "SUBSCRIBE", "params": streams, "id": number})

    def read(self, frame: bytes) -> Message:
        """`m` says that the buyer was the maker, so the taker sold."""
        message = _read_frame(frame)
        data = message.data
        if data is not None and data.e == "trade":
            return (_trade(data),)
        if message.error is not None:
            return Refusal((), message.error.msg)
        if message.id is not None:
            return Ack() if message.result is None else VenueHeartbeat({})
        if message.e == "serverShutdown" or (data is not None and data.e == "serverShutdown"):
            return Closing("serverShutdown")
        raise unknown(frame)

    def instruments(self) -> str:
        return "/api/v3/exchangeInfo?permissions=SPOT&showPermissionSets=false"

    def read_instruments(self, body: bytes) -> Sequence[Instrument]:
        return [
            Instrument(each.symbol, each.base_asset, each.quote_asset, each.symbol)
            for each in _read_symbols(body).symbols
            if each.status == "TRADING" and each.is_spot_trading_allowed
        ]

    def newest(self, market: Instrument) -> str:
        return f"/api/v3/historicalTrades?symbol={market.rest}&limit={_PAGE}"

    def fill(self, market: Instrument, gap: TradeGap, page: VenuePage | None) -> str | None:
        """Ask upwards from an id, which `fromId` includes."""
        begin = gap.first
        if page is not None:
            if not page.trades:
                return None
            begin = int(page.trades[-1].id) + 1
            if begin > gap.last:
                return None
        return f"{self.newest(market)}&fromId={begin}"

    def read_page(self, market: Instrument, body: bytes) -> VenuePage:
        return VenuePage(
            [
                ExchangeTrade(
                    market.symbol,
                    trade_number(row.id, "id"),
                    positive(row.price, "price"),
                    positive(row.qty, "qty"),
                    "sell" if row.is_buyer_maker else "buy",
                    in_ms(row.time, "time"),
                )
                for row in _read_rows(body)
            ]
        )


def _trade(data: _Data) -> ExchangeTrade:
    if data.p is None or data.q is None or data.m is None or not data.s:
        raise BadMessage("frame", "data", "a trade needs s, p, q and m")
    return ExchangeTrade(
        data.s,
        trade_number(data.t, "t"),
        positive(data.p, "p"),
        positive(data.q, "q"),
        "sell" if data.m else "buy",
        in_ms(data.T, "T"),
    )
