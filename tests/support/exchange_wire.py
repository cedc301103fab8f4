"""What five exchanges put on the wire for a made-up trade, written apart from the code under test.

Formats as in the documents that the venues publish; `tests/unit/sources/exchange/test_venues.py`
has recorded frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

BEGIN_MS = 1_790_000_000_000
STEP_MS = 10


class Made(NamedTuple):
    """A trade that happened on the loopback exchange; numbers begin with 1 for each symbol."""

    symbol: str
    number: int

    @property
    def name(self) -> str:
        return str(UUID(int=self.number))

    @property
    def price(self) -> str:
        return f"{60_000 + self.number % 977}.{self.number % 10}"

    @property
    def amount(self) -> str:
        return f"0.00{self.number % 89 + 10}0"

    @property
    def side(self) -> str:
        return "buy" if self.number % 3 else "sell"

    @property
    def ms(self) -> int:
        return BEGIN_MS + self.number * STEP_MS

    @property
    def iso(self) -> str:
        return (
            f"{datetime.fromtimestamp(self.ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{self.ms % 1000:03}Z"
        )


SYMBOLS = {
    "binance": ("BTCUSDT", "ETHUSDT"),
    "bybit": ("BTCUSDT", "ETHUSDT"),
    "coinbase": ("BTC-USD", "ETH-USD"),
    "kraken": ("BTC/USD", "DOGE/USD"),
    "okx": ("BTC-USDT", "ETH-USDT"),
}
MAKERS_SIDE = {"buy": "sell", "sell": "buy"}
OLD_NAMES = {"BTC": "XBT", "DOGE": "XDG"}


def split(symbol: str) -> tuple[str, str]:
    """Return base and quote of one of SYMBOLS."""
    for quote in ("USDT", "USD"):
        if symbol.endswith(quote):
            return symbol.removesuffix(quote).rstrip("-/"), quote
    raise ValueError(symbol)


def frame(venue: str, trade: Made) -> str:
    """Return the frame that a venue sends for a trade."""
    i, symbol = trade.number, trade.symbol
    match venue:
        case "binance":
            data: Any = {"e": "trade", "E": trade.ms + 1, "s": symbol, "t": i, "p": trade.price}
            data |= {"q": trade.amount, "T": trade.ms, "m": trade.side == "sell", "M": True}
            return json.dumps({"stream": f"{symbol.lower()}@trade", "data": data})
        case "coinbase":
            ids = {"trade_id": i, "maker_order_id": "a", "taker_order_id": "b", "sequence": 9 * i}
            data = {"type": "match", **ids, "side": MAKERS_SIDE[trade.side], "size": trade.amount}
            return json.dumps(
                data | {"price": trade.price, "product_id": symbol, "time": trade.iso}
            )
        case "kraken":
            # JSON numbers, with the digits as they are.
            row = (
                f'{{"symbol":"{symbol}","side":"{trade.side}","price":{trade.price},'
                f'"qty":{trade.amount},"ord_type":"limit","trade_id":{i},"timestamp":"{trade.iso}"}}'
            )
            return f'{{"channel":"trade","type":"update","data":[{row}]}}'
        case "okx":
            arg = {"channel": "trades-all", "instId": symbol}
            return json.dumps({"arg": arg, "data": [_okx(trade)]})
        case "bybit":
            row = {"T": trade.ms, "s": symbol, "S": trade.side.capitalize(), "v": trade.amount}
            row |= {"p": trade.price, "L": "PlusTick", "i": trade.name, "BT": False, "seq": 7 * i}
            topic = f"publicTrade.{symbol}"
            return json.dumps({"topic": topic, "type": "snapshot", "ts": trade.ms, "data": [row]})
    raise ValueError(venue)


def answers(venue: str, text: str) -> tuple[list[str], list[str]]:
    """Return the symbols that a message subscribes to, and the venue's answers to the message."""
    if text == "ping":
        return [], ["pong"]
    message = json.loads(text)
    match venue:
        case "binance":
            if message["method"] != "SUBSCRIBE":
                return [], [json.dumps({"result": [], "id": message["id"]})]
            symbols = [stream.removesuffix("@trade").upper() for stream in message["params"]]
            return symbols, [json.dumps({"result": None, "id": message["id"]})]
        case "coinbase":
            symbols = message["product_ids"]
            channels = [{"name": "matches", "product_ids": symbols}]
            return symbols, [json.dumps({"type": "subscriptions", "channels": channels})]
        case "kraken":
            if message["method"] == "ping":
                return [], [json.dumps({"method": "pong"})]
            symbols = message["params"]["symbol"]
            return symbols, [_kraken_ack(symbol) for symbol in symbols]
        case "okx":
            symbols = [arg["instId"] for arg in message["args"]]
            return symbols, [json.dumps({"event": "subscribe", "arg": a}) for a in message["args"]]
        case "bybit":
            ack = {"success": True, "ret_msg": "", "conn_id": "c", "op": message["op"]}
            symbols = [topic.removeprefix("publicTrade.") for topic in message.get("args", [])]
            return symbols, [json.dumps(ack)]
    raise ValueError(venue)


def page(
    venue: str,
    target: str,
    tape: dict[str, list[Made]],
    most: int,
    symbols: Sequence[str] | None = None,
) -> Any:
    """Return the body of a venue's answer to a request.

    `most` limits the trades in it; `symbols` are the open markets, by default all of SYMBOLS.
    """
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    match venue:
        case "binance" if "historicalTrades" in url.path:
            trades = tape.get(query["symbol"], [])
            if "fromId" in query:
                trades = [t for t in trades if t.number >= int(query["fromId"])][:most]
            return [_binance(t) for t in trades[-most:]]
        case "coinbase" if url.path.endswith("/trades"):
            trades = tape.get(url.path.split("/")[2], [])
            below = int(query.get("after", 10**18))
            return [_coinbase(t) for t in reversed(trades) if t.number < below][:most]
        case "kraken" if url.path.endswith("/Trades"):
            named = {_old(symbol): trades for symbol, trades in tape.items()}
            trades, since = named.get(query["pair"], []), int(query.get("since", -1))
            trades = [t for t in trades if t.ms * 1_000_000 > since]
            trades = trades[:most] if "since" in query else trades[-most:]
            last = str(trades[-1].ms * 1_000_000) if trades else query.get("since", "0")
            rows = [_kraken(t) for t in trades]
            return {"error": [], "result": {f"X{query['pair']}": rows, "last": last}}
        case "okx" if "history-trades" in url.path:
            below = int(query.get("after", 10**18))
            trades = tape.get(query["instId"], [])
            rows = [_okx(t) for t in reversed(trades) if t.number < below][:most]
            return {"code": "0", "msg": "", "data": rows}
        case "bybit" if "recent-trade" in url.path:
            trades = tape.get(query["symbol"], [])[-most:]
            rows = [_bybit(t) for t in reversed(trades)]
            return {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": rows}}
    return _markets(venue, SYMBOLS[venue] if symbols is None else symbols)


def _markets(venue: str, symbols: Sequence[str]) -> Any:
    pairs = [(symbol, *split(symbol)) for symbol in symbols]
    match venue:
        case "binance":
            return {"symbols": [_binance_market(*pair) for pair in pairs]}
        case "coinbase":
            return [
                {"id": s, "base_currency": b, "quote_currency": q, "status": "online"}
                for s, b, q in pairs
            ]
        case "kraken":
            rows = {_old(s): {"altname": _old(s), "wsname": _ws(b, q)} for s, b, q in pairs}
            return {"error": [], "result": rows}
        case "okx":
            rows = [
                {"instId": s, "baseCcy": b, "quoteCcy": q, "state": "live"} for s, b, q in pairs
            ]
            return {"code": "0", "msg": "", "data": rows}
    rows = [{"symbol": s, "baseCoin": b, "quoteCoin": q, "status": "Trading"} for s, b, q in pairs]
    return {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": rows}}


def _binance_market(symbol: str, base: str, quote: str) -> dict[str, Any]:
    head = {"symbol": symbol, "status": "TRADING", "isSpotTradingAllowed": True}
    return head | {"baseAsset": base, "quoteAsset": quote}


def _binance(trade: Made) -> dict[str, Any]:
    quote = str(Decimal(trade.price) * Decimal(trade.amount))
    row = {"id": trade.number, "price": trade.price, "qty": trade.amount, "quoteQty": quote}
    return row | {"time": trade.ms, "isBuyerMaker": trade.side == "sell", "isBestMatch": True}


def _coinbase(trade: Made) -> dict[str, Any]:
    row = {"time": trade.iso, "trade_id": trade.number, "price": trade.price}
    return row | {"size": trade.amount, "side": MAKERS_SIDE[trade.side]}


def _kraken(trade: Made) -> list[Any]:
    return [trade.price, trade.amount, trade.ms / 1000, trade.side[0], "m", "", trade.number]


def _kraken_ack(symbol: str) -> str:
    result = {"channel": "trade", "snapshot": False, "symbol": symbol}
    return json.dumps({"method": "subscribe", "result": result, "success": True, "req_id": 1})


def _okx(trade: Made) -> dict[str, str]:
    row = {"instId": trade.symbol, "tradeId": str(trade.number), "px": trade.price}
    return row | {"sz": trade.amount, "side": trade.side, "ts": str(trade.ms), "source": "0"}


def _bybit(trade: Made) -> dict[str, Any]:
    row = {"execId": trade.name, "symbol": trade.symbol, "price": trade.price}
    row |= {"size": trade.amount, "side": trade.side.capitalize(), "time": str(trade.ms)}
    return row | {"isBlockTrade": False, "isRPITrade": False, "seq": str(7 * trade.number)}


def _old(symbol: str) -> str:
    base, quote = split(symbol)
    return OLD_NAMES.get(base, base) + quote


def _ws(base: str, quote: str) -> str:
    return f"{OLD_NAMES.get(base, base)}/{quote}"
