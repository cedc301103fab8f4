"""The windows computed again, slowly and in the open, from the words of DESIGN 3, 4 and 5 alone.

Takes the raw log and gives what every token must show at an instant. Every number is exact: money
is whole micro-USD, amounts and prices are fractions. It keeps no running state between instants and
shares no code with the engine that it checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

MINUTE = 60_000


@dataclass(frozen=True)
class Logged:
    """One record of the log: the event as JSON gives it, and where and when Kafka keeps it (ms)."""

    event: dict[str, Any]
    partition: int
    offset: int
    record_timestamp: int


@dataclass(frozen=True)
class WindowNumbers:
    """One window of one token. USD in whole micro-USD, amounts in tokens, prices in USD.

    `retraction_touched`: a swap was taken out of one of these minutes. A bucket keeps extremes
    only, so there the engine's prices need not be those of the swaps that are left.
    """

    trades: int
    buys: int
    sells: int
    volume_usd: int
    buy_volume_usd: int
    sell_volume_usd: int
    net_volume_usd: int
    volume_token: Fraction
    open_usd: Fraction | None
    high_usd: Fraction | None
    low_usd: Fraction | None
    close_usd: Fraction | None
    vwap_usd: Fraction | None
    price_change_pct: Fraction | None
    retraction_touched: bool


@dataclass
class TokenNumbers:
    """One token at one instant. The last price and trade are of all swaps ever counted.

    `minutes` are those in which a swap was ever counted, retracted or not.
    """

    unpriced: int = 0
    duplicates: int = 0
    late: int = 0
    retracted: int = 0
    last_price_usd: Fraction | None = None
    last_trade_at: int | None = None
    minutes: set[int] = field(default_factory=set)
    windows: dict[str, WindowNumbers] = field(default_factory=dict)


@dataclass
class _Fate:
    """What became of each record that is neither undecodable nor without effect."""

    counted: list[Logged] = field(default_factory=list)
    undone: list[Logged] = field(default_factory=list)
    late: list[Logged] = field(default_factory=list)
    duplicates: list[Logged] = field(default_factory=list)
    void: list[Logged] = field(default_factory=list)


def recompute(
    log: Iterable[Logged],
    *,
    now: int,
    windows: Sequence[tuple[str, int]],
    grace_ms: int,
    max_future_ms: int,
) -> dict[str, TokenNumbers]:
    """Every token of the log at `now` (ms), by token id. `windows` are (name, minutes)."""
    accepted = [
        # A record whose event is too far ahead goes to the dead letters and has no effect at all.
        logged
        for logged in log
        if logged.event["timestamp"] <= logged.record_timestamp + max_future_ms
    ]
    fate = _decide(accepted, grace_ms, max_future_ms)
    numbers = {token_id(logged.event): TokenNumbers() for logged in accepted}
    for token, shown in numbers.items():
        counted = _of(token, fate.counted)
        undone = _of(token, fate.undone)
        standing = [one for one in counted if one not in undone]
        shown.unpriced = sum(one.event.get("amount_usd") is None for one in standing)
        shown.duplicates = len(_of(token, fate.duplicates))
        shown.late = len(_of(token, fate.late))
        shown.retracted = len(undone)
        shown.last_trade_at = max((one.event["timestamp"] for one in counted), default=None)
        shown.minutes = {one.event["timestamp"] // MINUTE for one in counted}
        prices = _prices(counted)
        shown.last_price_usd = prices[-1] if prices else None
        for name, minutes in windows:
            shown.windows[name] = _window(
                [one for one in standing if _inside(one, now, minutes)],
                any(_inside(one, now, minutes) for one in undone),
            )
    return numbers


def _decide(log: list[Logged], grace_ms: int, max_future_ms: int) -> _Fate:
    """Read the log in order and say of each record what it does. `undone` holds the additions."""
    fate = _Fate()
    watermarks: dict[int, int] = {}
    additions: dict[tuple[Any, ...], Logged] = {}
    retractions: set[tuple[Any, ...]] = set()
    for logged in log:
        event, identity = logged.event, event_identity(logged.event)
        bucket_end = (event["timestamp"] // MINUTE + 1) * MINUTE
        watermark = watermarks.get(logged.partition)
        closed = watermark is not None and bucket_end <= watermark - grace_ms
        newest = min(event["timestamp"], logged.record_timestamp + max_future_ms)
        watermarks[logged.partition] = newest if watermark is None else max(watermark, newest)

        if event.get("removed", False):
            if identity in retractions:
                fate.duplicates.append(logged)
            elif additions.get(identity) in fate.counted:
                fate.undone.append(additions[identity])
            else:
                fate.void.append(logged)
            retractions.add(identity)
        else:
            if identity in additions:
                fate.duplicates.append(logged)
            elif identity in retractions:
                fate.void.append(logged)
            elif closed:
                fate.late.append(logged)
            else:
                fate.counted.append(logged)
            additions.setdefault(identity, logged)
    return fate


def _window(inside: list[Logged], retraction_touched: bool) -> WindowNumbers:
    priced = [one for one in inside if one.event.get("amount_usd") is not None]
    buys = [one for one in inside if one.event["side"] == "buy"]
    volume = sum(_micros(one) for one in priced)
    buy_volume = sum(_micros(one) for one in priced if one in buys)
    amount = sum((Fraction(one.event["amount"]) for one in priced), Fraction(0))
    prices = _prices(inside)
    change = (prices[-1] - prices[0]) / prices[0] * 100 if prices else None
    return WindowNumbers(
        trades=len(inside),
        buys=len(buys),
        sells=len(inside) - len(buys),
        volume_usd=volume,
        buy_volume_usd=buy_volume,
        sell_volume_usd=volume - buy_volume,
        net_volume_usd=buy_volume - (volume - buy_volume),
        volume_token=amount,
        open_usd=prices[0] if prices else None,
        high_usd=max(prices, default=None),
        low_usd=min(prices, default=None),
        close_usd=prices[-1] if prices else None,
        # A price of 0 is no price.
        vwap_usd=Fraction(volume, 1_000_000) / amount if volume else None,
        price_change_pct=change,
        retraction_touched=retraction_touched,
    )


def token_id(event: dict[str, Any]) -> str:
    """`chain:token`, an address in lower case."""
    return f"{event['chain']}:{_lower_hex(event['token'])}"


def event_identity(event: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two records the same swap; the block is part of it where it is given."""
    return (
        event["chain"],
        _lower_hex(event["tx_hash"]),
        event["log_index"],
        _lower_hex(event.get("block_hash")),
    )


def _lower_hex(text: str | None) -> str | None:
    return text.lower() if text is not None and text.startswith(("0x", "0X")) else text


def _of(token: str, log: list[Logged]) -> list[Logged]:
    return [one for one in log if token_id(one.event) == token]


def _inside(logged: Logged, now: int, minutes: int) -> bool:
    """Whether the event's minute is one of the last `minutes` minutes, the running one included."""
    running = now // MINUTE
    return running - minutes < logged.event["timestamp"] // MINUTE <= running


def _micros(logged: Logged) -> int:
    exact = Decimal(logged.event["amount_usd"]).scaleb(6, Context(prec=60))
    return int(exact.to_integral_value(ROUND_HALF_EVEN, Context(prec=60)))


def _prices(log: list[Logged]) -> list[Fraction]:
    """The prices in the order of trading: by event time, then by offset."""
    ordered = sorted(log, key=lambda one: (one.event["timestamp"], one.offset))
    return [price for one in ordered if (price := _price(one.event))]


def _price(event: dict[str, Any]) -> Fraction | None:
    if event.get("price_usd") is not None:
        return Fraction(event["price_usd"])
    if event.get("amount_usd") is not None:
        return Fraction(event["amount_usd"]) / Fraction(event["amount"])
    return None
