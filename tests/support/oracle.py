"""Recomputes the windows, slowly and plainly, from the text of DESIGN 3, 4 and 5 alone.

From the raw log it computes what every token must show at an instant. Every number is exact: money
is whole micro-USD, amounts and prices are fractions. It keeps no state between instants and shares
no code with the engine that it checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

MINUTE = 60_000


@dataclass(frozen=True, eq=False)
class Logged:
    """One record of the log: the event as in its JSON, its position and its record time (ms).

    Two records are never equal, even with the same content.
    """

    event: dict[str, Any]
    partition: int
    offset: int
    record_timestamp: int


@dataclass(frozen=True)
class PreviousNumbers:
    """The previous window of a window; `retraction_touched` as in `WindowNumbers`."""

    trades: int
    volume_usd: int
    price_change_pct: Fraction | None
    retraction_touched: bool


@dataclass(frozen=True)
class WindowNumbers:
    """One window of one token. USD in whole micro-USD, amounts in tokens, prices in USD.

    `complete`: the history covers the whole window. `retraction_touched`: a swap was taken out of
    one of its minutes. A bucket keeps extremes only, so there the engine's prices, largest trade
    and distinct traders need not be those of the swaps that are left.
    """

    trades: int
    buys: int
    sells: int
    traders: int
    buyers: int
    sellers: int
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
    largest_trade_usd: int | None
    complete: bool
    previous: PreviousNumbers | None
    retraction_touched: bool


@dataclass
class TokenNumbers:
    """One token at one instant. Last price, last trade and symbol are of all swaps ever counted.

    `minutes` are those in which a swap was counted, retracted or not. `unretracted` holds the
    windows as if no swap had ever been taken out.
    """

    unpriced: int = 0
    duplicates: int = 0
    late: int = 0
    retracted: int = 0
    symbol: str | None = None
    last_price_usd: Fraction | None = None
    last_trade_at: int | None = None
    minutes: set[int] = field(default_factory=set)
    windows: dict[str, WindowNumbers] = field(default_factory=dict)
    unretracted: dict[str, WindowNumbers] = field(default_factory=dict)


@dataclass
class _Fate:
    """What becomes of the records that can be decoded, by verdict."""

    counted: list[Logged] = field(default_factory=list)
    undone: list[Logged] = field(default_factory=list)
    late: list[Logged] = field(default_factory=list)
    duplicates: list[Logged] = field(default_factory=list)
    void: list[Logged] = field(default_factory=list)

    def of(self, token: str, now: int) -> _Fate:
        """Return one token's part, without swaps of minutes that have not begun at `now`."""
        return _Fate(
            counted=_begun(_of(token, self.counted), now),
            undone=_begun(_of(token, self.undone), now),
            late=_of(token, self.late),
            duplicates=_of(token, self.duplicates),
            void=_of(token, self.void),
        )

    def known(self) -> bool:
        """Whether there is any record."""
        return any((self.counted, self.undone, self.late, self.duplicates, self.void))


def recompute(
    log: Iterable[Logged],
    *,
    now: int,
    windows: Sequence[tuple[str, int]],
    grace_ms: int,
    max_future_ms: int,
    history_from: int | None = None,
) -> dict[str, TokenNumbers]:
    """Return every token of the log at `now` (ms), by token id. `windows` are (name, minutes).

    The history of a token's partition begins at `history_from`, or at the earliest event counted.
    """
    accepted = [
        # An event too far ahead of its record goes to the dead-letter topic and has no effect.
        logged
        for logged in log
        if logged.event["timestamp"] <= logged.record_timestamp + max_future_ms
    ]
    everything = _decide(accepted, grace_ms, max_future_ms)
    partition_of = {token_id(logged.event): logged.partition for logged in accepted}
    numbers = {}
    for token, partition in partition_of.items():
        fate = everything.of(token, now)
        if not fate.known():
            continue
        shown = numbers[token] = _counters(fate)
        since = history_from
        if since is None:
            since = _earliest(partition, _begun(everything.counted, now))
        standing = [one for one in fate.counted if one not in fate.undone]
        for name, minutes in windows:
            shown.windows[name] = _window(standing, fate.undone, now, minutes, since)
            shown.unretracted[name] = _window(fate.counted, [], now, minutes, since)
    return numbers


def _counters(fate: _Fate) -> TokenNumbers:
    standing = [one for one in fate.counted if one not in fate.undone]
    prices = _prices(fate.counted)
    symbols = [one.event["symbol"] for one in _in_order(fate.counted) if one.event.get("symbol")]
    return TokenNumbers(
        unpriced=sum(one.event.get("amount_usd") is None for one in standing),
        duplicates=len(fate.duplicates),
        late=len(fate.late),
        retracted=len(fate.undone),
        symbol=symbols[-1] if symbols else None,
        last_price_usd=prices[-1] if prices else None,
        last_trade_at=max((one.event["timestamp"] for one in fate.counted), default=None),
        minutes={one.event["timestamp"] // MINUTE for one in fate.counted},
    )


def _earliest(partition: int, counted: list[Logged]) -> int | None:
    times = [one.event["timestamp"] for one in counted if one.partition == partition]
    return min(times, default=None)


def _decide(log: list[Logged], grace_ms: int, max_future_ms: int) -> _Fate:
    """Decide in log order what each record does. `undone` holds the additions, not retractions."""
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


def _window(
    standing: list[Logged], undone: list[Logged], now: int, minutes: int, since: int | None
) -> WindowNumbers:
    last = now // MINUTE
    inside = _within(standing, last - minutes, last)
    priced = [one for one in inside if one.event.get("amount_usd") is not None]
    buys = [one for one in inside if one.event["side"] == "buy"]
    sells = [one for one in inside if one.event["side"] == "sell"]
    volume = sum(_micros(one) for one in priced)
    buy_volume = sum(_micros(one) for one in priced if one in buys)
    amount = sum((Fraction(one.event["amount"]) for one in priced), Fraction(0))
    prices = _prices(inside)
    return WindowNumbers(
        trades=len(inside),
        buys=len(buys),
        sells=len(sells),
        traders=_distinct_traders(inside),
        buyers=_distinct_traders(buys),
        sellers=_distinct_traders(sells),
        volume_usd=volume,
        buy_volume_usd=buy_volume,
        sell_volume_usd=volume - buy_volume,
        net_volume_usd=buy_volume - (volume - buy_volume),
        volume_token=amount,
        open_usd=prices[0] if prices else None,
        high_usd=max(prices, default=None),
        low_usd=min(prices, default=None),
        close_usd=prices[-1] if prices else None,
        # A price of 0 counts as no price.
        vwap_usd=Fraction(volume, 1_000_000) / amount if volume else None,
        price_change_pct=_change(prices),
        largest_trade_usd=max((_micros(one) for one in priced), default=None),
        complete=_reaches(since, last - minutes),
        previous=_previous(standing, undone, last - minutes, minutes, since),
        retraction_touched=bool(_within(undone, last - minutes, last)),
    )


def _previous(
    standing: list[Logged], undone: list[Logged], last: int, minutes: int, since: int | None
) -> PreviousNumbers | None:
    if not _reaches(since, last - minutes):
        return None
    inside = _within(standing, last - minutes, last)
    return PreviousNumbers(
        trades=len(inside),
        volume_usd=sum(_micros(one) for one in inside if one.event.get("amount_usd") is not None),
        price_change_pct=_change(_prices(inside)),
        retraction_touched=bool(_within(undone, last - minutes, last)),
    )


def _reaches(since: int | None, before_first: int) -> bool:
    """Whether a history that begins at `since` covers the minutes after `before_first`."""
    return since is not None and since <= (before_first + 1) * MINUTE


def _distinct_traders(log: list[Logged]) -> int:
    named = {_lower_hex(one.event.get("trader")) for one in log}
    return len(named - {None})


def _change(prices: list[Fraction]) -> Fraction | None:
    return (prices[-1] - prices[0]) / prices[0] * 100 if prices else None


def token_id(event: dict[str, Any]) -> str:
    """Return `chain:token`, with an address in lower case."""
    return f"{event['chain']}:{_lower_hex(event['token'])}"


def event_identity(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a swap; the block is part of it where it is given."""
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


def _begun(log: list[Logged], now: int) -> list[Logged]:
    return [one for one in log if one.event["timestamp"] // MINUTE <= now // MINUTE]


def _within(log: list[Logged], after: int, last: int) -> list[Logged]:
    """Return the records of the minutes (after, last]."""
    return [one for one in log if after < one.event["timestamp"] // MINUTE <= last]


def _in_order(log: list[Logged]) -> list[Logged]:
    """Return the records in the order of trading: by event time, then by offset."""
    return sorted(log, key=lambda one: (one.event["timestamp"], one.offset))


def _micros(logged: Logged) -> int:
    exact = Decimal(logged.event["amount_usd"]).scaleb(6, Context(prec=60))
    return int(exact.to_integral_value(ROUND_HALF_EVEN, Context(prec=60)))


def _prices(log: list[Logged]) -> list[Fraction]:
    return [price for one in _in_order(log) if (price := _price(one.event))]


def _price(event: dict[str, Any]) -> Fraction | None:
    if event.get("price_usd") is not None:
        return Fraction(event["price_usd"])
    if event.get("amount_usd") is not None:
        return Fraction(event["amount_usd"]) / Fraction(event["amount"])
    return None
