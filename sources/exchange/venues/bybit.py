"""Bybit v5 spot: the topic `publicTrade.<symbol>`.

Formats: bybit-exchange.github.io/docs/v5, "Trade" and "Get Recent Public Trades". Trade ids have no
order that can be relied on, and at most the newest 60 trades can be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    TradeGap,
    VenueHeartbeat,
    VenuePage,
    in_ms,
    known_side,
    positive,
)
from sources.exchange.venue import Limits, reader, unknown

_PAGE: Final = 60
_TOPIC: Final = "publicTrade."


class _Row(msgspec.Struct, gc=False):
    T: int
    s: str
    S: str
    v: Decimal
    p: Decimal
    i: str


class _Frame(msgspec.Struct, gc=False):
    topic: str = ""
    data: list[_Row] | None = None
    op: str = ""
    success: bool | None = None
    ret_msg: str = ""


class _Past(msgspec.Struct, gc=False, rename="camel"):
    exec_id: str
    symbol: str
    price: Decimal
    size: Decimal
    side: str
    time: str


class _Pasts(msgspec.Struct):
    rows: list[_Past] = msgspec.field(name="list")


class _Market(msgspec.Struct, rename="camel"):
    symbol: str
    base_coin: str
    quote_coin: str
    status: str


class _Markets(msgspec.Struct):
    rows: list[_Market] = msgspec.field(name="list")


class _Answer(msgspec.Struct, rename="camel"):
    ret_code: int
    ret_msg: str = ""
    result: msgspec.Raw = msgspec.Raw(b"{}")


_read_frame: Final = reader(_Frame)
_read_answer: Final = reader(_Answer)
_read_pasts: Final = reader(_Pasts)
_read_markets: Final = reader(_Markets)


class Bybit:
    """Names trades by texts, so a gap is reported after a cut and not always filled."""

    name = "bybit"
    label = "Bybit"
    stream_url = "wss://stream.bybit.com/v5/public/spot"
    rest_url = "https://api.bybit.com"
    numbered = False
    answers_each_symbol = False
    limits = Limits(200, 10, message_s=0.2, request_s=0.1)
    ping = b'{"op":"ping"}'

    def subscribe(self, symbols: Sequence[str], number: int) -> bytes:
        """Return a subscribe; the venue takes at most 10 topics a message."""
        topics = [_TOPIC + symbol for symbol in symbols]
        return msgspec.json.encode({"op": "subscribe", "req_id": str(number), "args": topics})

    def read(self, frame: bytes) -> Message:
        message = _read_frame(frame)
        if message.data is not None and message.topic.startswith(_TOPIC):
            return [_trade(row) for row in message.data]
        match message.op:
            case "subscribe" if message.success:
                return Ack()
            case "subscribe" if message.success is False:
                return Refusal((), message.ret_msg)
            case "ping" | "pong":
                return VenueHeartbeat({})
        raise unknown(frame)

    def instruments(self) -> str:
        return "/v5/market/instruments-info?category=spot&limit=1000"

    def read_instruments(self, body: bytes) -> Sequence[Instrument]:
        return [
            Instrument(each.symbol, each.base_coin, each.quote_coin, each.symbol)
            for each in _read_markets(_result(body)).rows
            if each.status == "Trading"
        ]

    def newest(self, market: Instrument) -> str:
        return f"/v5/market/recent-trade?category=spot&symbol={market.rest}&limit={_PAGE}"

    def fill(self, market: Instrument, gap: TradeGap, page: VenuePage | None) -> str | None:  # noqa: ARG002
        return None

    def read_page(self, market: Instrument, body: bytes) -> VenuePage:
        rows = _read_pasts(_result(body)).rows
        if any(row.symbol != market.rest for row in rows):
            raise BadMessage("frame", "symbol", f"not {market.rest}")
        # The venue answers the newest first; trades of one ms keep its order.
        return VenuePage([_past(row) for row in reversed(rows)])


def _trade(row: _Row) -> ExchangeTrade:
    return ExchangeTrade(
        row.s,
        _id(row.i),
        positive(row.p, "p"),
        positive(row.v, "v"),
        known_side(row.S, "S"),
        in_ms(row.T, "T"),
    )


def _past(row: _Past) -> ExchangeTrade:
    if not row.time.isdecimal():
        raise BadMessage("frame", "time", f"{row.time[:40]}: not a number")
    return ExchangeTrade(
        row.symbol,
        _id(row.exec_id),
        positive(row.price, "price"),
        positive(row.size, "size"),
        known_side(row.side, "side"),
        in_ms(int(row.time), "time"),
    )


def _id(text: str) -> str:
    """Return an id that fits into a tx_hash (DESIGN 3)."""
    if 0 < len(text) <= 64 and text.isprintable() and " " not in text and ":" not in text:
        return text
    raise BadMessage("frame", "i", f"{text[:64]!r}: not an id")


def _result(body: bytes) -> bytes:
    answer = _read_answer(body)
    if answer.ret_code != 0:
        raise BadMessage("frame", "retCode", f"{answer.ret_code}: {answer.ret_msg}")
    return bytes(answer.result)
