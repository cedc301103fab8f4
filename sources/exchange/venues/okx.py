"""OKX spot: the channel `trades-all`, one message for each fill (`trades` may join several).

Formats: okx.com/docs-v5, "WS / All trades channel" and "GET / Trades history".
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
    known_side,
    next_below,
    positive,
    trade_number,
)
from sources.exchange.venue import Limits, reader, unknown

_PAGE: Final = 100


class _Row(msgspec.Struct, gc=False, rename="camel"):
    inst_id: str
    trade_id: str
    px: Decimal
    sz: Decimal
    side: str
    ts: str
    count: str = "1"


class _Arg(msgspec.Struct, gc=False, rename="camel"):
    channel: str = ""
    inst_id: str = ""


class _Frame(msgspec.Struct, gc=False):
    arg: _Arg | None = None
    data: list[_Row] | None = None
    event: str = ""
    code: str = ""
    msg: str = ""


class _Market(msgspec.Struct, rename="camel"):
    inst_id: str
    base_ccy: str
    quote_ccy: str
    state: str


class _Rows(msgspec.Struct):
    code: str
    msg: str = ""
    data: list[_Row] = []


class _Markets(msgspec.Struct):
    code: str
    msg: str = ""
    data: list[_Market] = []


_read_frame: Final = reader(_Frame)
_read_rows: Final = reader(_Rows)
_read_markets: Final = reader(_Markets)


class Okx:
    """Closes a connection that says nothing for 30 s, so the ping is asked for."""

    name = "okx"
    label = "OKX"
    stream_url = "wss://ws.okx.com:8443/ws/v5/business"
    rest_url = "https://www.okx.com"
    numbered = True
    answers_each_symbol = True
    # 480 subscriptions an hour and connection; 20 requests for past trades in 2 s, half of it used.
    limits = Limits(300, 50, message_s=0.4, request_s=0.2)
    ping = b"ping"

    def subscribe(self, symbols: Sequence[str], number: int) -> bytes:  # noqa: ARG002
        args = [{"channel": "trades-all", "instId": symbol} for symbol in symbols]
        return msgspec.json.encode({"op": "subscribe", "args": args})

    def read(self, frame: bytes) -> Message:
        if frame == b"pong":
            return VenueHeartbeat({})
        message = _read_frame(frame)
        if message.data is not None:
            if message.arg is None or message.arg.channel not in {"trades-all", "trades"}:
                raise unknown(frame)
            return [_trade(row) for row in message.data]
        match message.event:
            case "subscribe":
                return Ack()
            case "error":
                named = [message.arg.inst_id] if message.arg and message.arg.inst_id else ()
                return Refusal(named, f"{message.code}: {message.msg}")
            case "notice":
                return Closing(f"{message.code}: {message.msg}")
            case "channel-conn-count":
                return VenueHeartbeat({})
        raise unknown(frame)

    def instruments(self) -> str:
        return "/api/v5/public/instruments?instType=SPOT"

    def read_instruments(self, body: bytes) -> Sequence[Instrument]:
        answer = _read_markets(body)
        _check(answer.code, answer.msg)
        return [
            Instrument(each.inst_id, each.base_ccy, each.quote_ccy, each.inst_id)
            for each in answer.data
            if each.state == "live"
        ]

    def newest(self, market: Instrument) -> str:
        return f"/api/v5/market/history-trades?instId={market.rest}&type=1&limit={_PAGE}"

    def fill(self, market: Instrument, gap: TradeGap, page: VenuePage | None) -> str | None:
        """Ask downwards from an id, which `after` excludes."""
        below = next_below(gap, page)
        return None if below is None else f"{self.newest(market)}&after={below}"

    def read_page(self, market: Instrument, body: bytes) -> VenuePage:
        answer = _read_rows(body)
        _check(answer.code, answer.msg)
        if any(row.inst_id != market.rest for row in answer.data):
            raise BadMessage("frame", "instId", f"not {market.rest}")
        return VenuePage(sorted(map(_trade, answer.data), key=lambda trade: int(trade.id)))


def _trade(row: _Row) -> ExchangeTrade:
    if row.count != "1":
        # A joined fill has the id of its last one: the others would look like a gap indefinitely.
        raise BadMessage("frame", "count", f"{row.count[:20]}: several fills in one message")
    if not (row.trade_id.isdecimal() and row.ts.isdecimal() and len(row.trade_id) < 20):
        raise BadMessage("frame", "tradeId", f"{row.trade_id[:40]} at {row.ts[:40]}: not numbers")
    return ExchangeTrade(
        row.inst_id,
        trade_number(int(row.trade_id), "tradeId"),
        positive(row.px, "px"),
        positive(row.sz, "sz"),
        known_side(row.side, "side"),
        in_ms(int(row.ts), "ts"),
    )


def _check(code: str, text: str) -> None:
    if code != "0":
        raise BadMessage("frame", "code", f"{code}: {text}")
