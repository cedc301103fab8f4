"""The service's messages as docs/websocket.md describes them, decoded from JSON.

Pure. Money, amounts and prices are decimal strings, times are ms since the epoch, unknown is None.
Fields that are not declared here are ignored, as the protocol requires.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from swapclient.errors import ProtocolFault

T = TypeVar("T")
Channel = Literal["token_stats", "trades", "candles", "overview", "status"]
Interval = Literal["1m", "5m", "15m", "1h", "4h", "1d"]


class Previous(msgspec.Struct, frozen=True, gc=False):
    """The window of the same length before this one."""

    volume_usd: str
    trades: int
    price_change_pct: float | None


class WindowStats(msgspec.Struct, frozen=True, gc=False):
    """One rolling window of a token, [open_time, close_time)."""

    open_time: int
    close_time: int
    complete: bool
    trades: int
    buys: int
    sells: int
    traders: int
    buyers: int
    sellers: int
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str
    net_volume_usd: str
    volume_token: str
    open_usd: str | None
    high_usd: str | None
    low_usd: str | None
    close_usd: str | None
    vwap_usd: str | None
    price_change_pct: float | None
    largest_trade_usd: str | None
    previous: Previous | None = None
    approximate: bool = False


class Quality(msgspec.Struct, frozen=True, gc=False):
    """Counters of a token's unpriced, duplicate, late and retracted swaps."""

    unpriced: int = 0
    duplicates: int = 0
    late: int = 0
    retracted: int = 0


class TokenStats(msgspec.Struct, frozen=True, gc=False):
    """Everything known of one token; `windows` by name, such as "1h".

    `name`, `decimals` and `flags` ("verified", "spam") come from the service's operators.
    """

    token_id: str
    chain: str
    token: str
    symbol: str | None
    epoch: int
    seq: int
    as_of: int
    watermark: int | None
    stale: bool
    last_price_usd: str | None
    last_trade_at: int | None
    quality: Quality
    windows: dict[str, WindowStats]
    name: str | None = None
    decimals: int | None = None
    flags: tuple[str, ...] = ()


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One swap of a token; `removed` retracts an earlier one of the same tx_hash and log_index."""

    n: int
    timestamp: int
    offset: int
    side: str
    amount: str
    amount_usd: str | None
    price_usd: str | None
    trader: str | None
    venue: str | None
    pool: str | None
    quote: str | None
    tx_hash: str
    log_index: int
    removed: bool
    block_number: int | None = None


class Candle(msgspec.Struct, frozen=True, gc=False):
    """The trades of [open_time, close_time); prices are None if no trade has one."""

    open_time: int
    close_time: int
    open_usd: str | None
    high_usd: str | None
    low_usd: str | None
    close_usd: str | None
    volume_usd: str
    volume_token: str
    trades: int
    vwap_usd: str | None


class Totals(msgspec.Struct, frozen=True, gc=False):
    """Sums over all tokens that match an overview's filter."""

    tokens: int
    trades: int
    buys: int
    sells: int
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str


class Overview(msgspec.Struct, frozen=True):
    """Totals and top tokens of one window, with all windows of each token."""

    as_of: int | None
    window: str
    totals: Totals
    tokens: list[TokenStats]
    stale: bool


class Partition(msgspec.Struct, frozen=True, gc=False):
    """The freshness of one partition; `age_ms` is the age of its owner's last message."""

    partition: int
    state: str
    stale: bool
    epoch: int
    seq: int
    as_of: int | None
    watermark: int | None
    lag: int | None
    age_ms: int | None


class Status(msgspec.Struct, frozen=True):
    """`stale`: some numbers of the node may be old; `connected`: the node reaches its sources."""

    stale: bool
    connected: bool
    partitions: list[Partition]


class Trades(msgspec.Struct, frozen=True):
    """`data` of the channel trades; `n` is the number of the token's last trade, 0 without one."""

    trades: list[Trade]
    n: int | None = None


class Candles(msgspec.Struct, frozen=True):
    """`data` of the channel candles."""

    candles: list[Candle]


class Missing(msgspec.Struct, frozen=True):
    """`data` of a gap."""

    from_n: int
    to_n: int | None
    restarted: bool


class Fault(msgspec.Struct, frozen=True):
    """The error of a request."""

    code: str
    message: str


class Freshness(msgspec.Struct, frozen=True):
    """`data` of `welcome` and `heartbeat`."""

    stale: bool


class Expiring(msgspec.Struct, frozen=True):
    """`data` of auth_expiring."""

    expires_in_ms: int


class RetryAfter(msgspec.Struct, frozen=True):
    """`data` of server_shutdown and of the error rate_limited."""

    retry_after_ms: int


class Message(msgspec.Struct, frozen=True):
    """One element of a frame; `data` is decoded once its type is known.

    `asked` is the request's spelling of the token, if it differs from `token`, the canonical id.
    """

    type: str
    channel: str | None = None
    token: str | None = None
    asked: str | None = None
    interval: str | None = None
    params: dict[str, Any] | None = None
    method: str | None = None
    req_id: str | int | None = None
    epoch: int = 0
    seq: int = 0
    as_of: int | None = None
    watermark: int | None = None
    code: str = ""
    message: str = ""
    error: Fault | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode_frame = msgspec.json.Decoder(list[Message]).decode
_decoders: dict[Any, Any] = {}


def read_frame(frame: bytes | str) -> list[Message]:
    """Decode the messages of a frame. Raises ProtocolFault."""
    try:
        return _decode_frame(frame)
    except msgspec.MsgspecError as error:
        raise ProtocolFault(f"a frame: {error}") from error


def read_data(message: Message, kind: type[T]) -> T:
    """Decode the message's data. Raises ProtocolFault."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        data: T = decoder.decode(message.data)
    except msgspec.MsgspecError as error:
        raise ProtocolFault(f"{message.channel or message.type}: {error}") from error
    return data
