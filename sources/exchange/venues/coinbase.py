"""Coinbase Exchange: the channels `matches` and `heartbeat`.

Formats: docs.cdp.coinbase.com/exchange, "WebSocket Channels" and "Get product trades".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec

from aggregator.runtime.errors import BadMessage
from sources.exchange.trades import (
    Ack,
    ExchangeTrade,
    Instrument,
    Message,
    Refusal,
    Side,
    TradeGap,
    VenueHeartbeat,
    VenuePage,
    known_side,
    ms_of,
    next_below,
    positive,
    trade_number,
)
from sources.exchange.venue import Limits, reader, unknown

_PAGE: Final = 1000


class _Frame(msgspec.Struct, gc=False):
    type: str
    trade_id: int = 0
    side: str = ""
    size: Decimal | None = None
    price: Decimal | None = None
    product_id: str = ""
    time: datetime | None = None
    last_trade_id: int = 0
    message: str = ""
    reason: str = ""


class _Row(msgspec.Struct, gc=False):
    trade_id: int
    side: str
    size: Decimal
    price: Decimal
    time: datetime


class _Product(msgspec.Struct):
    id: str
    base_currency: str
    quote_currency: str
    status: str = "online"


_read_frame: Final = reader(_Frame)
_read_rows: Final = reader(list[_Row])
_read_products: Final = reader(list[_Product])


class Coinbase:
    """Sends the maker's side, so it is turned round; heartbeats name the newest trade."""

    name = "coinbase"
    label = "Coinbase"
    stream_url = "wss://ws-feed.exchange.coinbase.com"
    rest_url = "https://api.exchange.coinbase.com"
    numbered = True
    answers_each_symbol = False
    limits = Limits(500, 100, message_s=0.2, request_s=0.2)
    ping = b""

    def subscribe(self, symbols: Sequence[str], number: int) -> bytes:  # noqa: ARG002
        """Return a subscribe; a later one adds to those before."""
        channels = ["matches", "heartbeat"]
        return msgspec.json.encode(
            {"type": "subscribe", "product_ids": list(symbols), "channels": channels}
        )

    def read(self, frame: bytes) -> Message:
        """`last_match` is the newest trade before the subscription, and may be a repeat."""
        message = _read_frame(frame)
        match message.type:
            case "match" | "last_match":
                return (_trade(message),)
            case "heartbeat":
                # A product that has had no trade, and some that have, are reported as 0.
                newest = message.last_trade_id
                return VenueHeartbeat({message.product_id: newest} if newest else {})
            case "subscriptions":
                return Ack()
            case "error":
                return Refusal((), f"{message.message}: {message.reason}")
        raise unknown(frame)

    def instruments(self) -> str:
        return "/products"

    def read_instruments(self, body: bytes) -> Sequence[Instrument]:
        return [
            Instrument(each.id, each.base_currency, each.quote_currency, each.id)
            for each in _read_products(body)
            if each.status == "online"
        ]

    def newest(self, market: Instrument) -> str:
        return f"/products/{market.rest}/trades?limit={_PAGE}"

    def fill(self, market: Instrument, gap: TradeGap, page: VenuePage | None) -> str | None:
        """Ask downwards from an id, which `after` excludes."""
        below = next_below(gap, page)
        return None if below is None else f"{self.newest(market)}&after={below}"

    def read_page(self, market: Instrument, body: bytes) -> VenuePage:
        rows = sorted(_read_rows(body), key=lambda row: row.trade_id)
        return VenuePage(
            [
                ExchangeTrade(
                    market.symbol,
                    trade_number(row.trade_id, "trade_id"),
                    positive(row.price, "price"),
                    positive(row.size, "size"),
                    _taker(row.side),
                    ms_of(row.time, "time"),
                )
                for row in rows
            ]
        )


def _trade(message: _Frame) -> ExchangeTrade:
    if message.size is None or message.price is None or message.time is None:
        raise BadMessage("frame", "", "a match needs size, price and time")
    if not message.product_id:
        raise BadMessage("frame", "product_id", "a match needs product_id")
    return ExchangeTrade(
        message.product_id,
        trade_number(message.trade_id, "trade_id"),
        positive(message.price, "price"),
        positive(message.size, "size"),
        _taker(message.side),
        ms_of(message.time, "time"),
    )


def _taker(maker: str) -> Side:
    return "buy" if known_side(maker, "side") == "sell" else "sell"
