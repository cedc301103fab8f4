"""Recomputes the windows, slowly and plainly, from decided records and the text of DESIGN 5 alone.

From the raw events it computes what every token must show at an instant. Every number is exact:
money is whole micro-USD, amounts and prices are fractions. It keeps no state between instants and
shares no code with the engines that it checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

from tests.support.oracle import (
    MINUTE,
    Logged,
    PreviousNumbers,
    TokenNumbers,
    WindowNumbers,
    token_id,
)


@dataclass(frozen=True, eq=False)
class DecidedRecord:
    """A record, the letter of its `Verdict`, and the record that it takes out of the windows."""

    logged: Logged
    letter: str
    undone: Logged | None = None


@dataclass
class _Fate:
    """What becomes of the records of one token; `undone` holds what was taken out."""

    counted: list[Logged] = field(default_factory=list)
    undone: list[Logged] = field(default_factory=list)
    late: int = 0
    duplicates: int = 0
    retractions: int = 0


def recompute(
    decided: Iterable[DecidedRecord],
    *,
    now: int,
    windows: Sequence[tuple[str, int]],
    history_from: int | None,
) -> dict[str, TokenNumbers]:
    """Return every token that has numbers at `now` (ms), by token id.

    `windows` are (name, minutes); `history_from` is the instant from which the history is complete.
    """
    fates: dict[str, _Fate] = {}
    for each in decided:
        changed = each.undone or each.logged
        waits = each.letter in "CPU" and changed.event["timestamp"] // MINUTE > now // MINUTE
        if each.letter not in "CPLDU" or (waits and not (each.letter == "U" and not each.undone)):
            continue
        fate = fates.setdefault(token_id(each.logged.event), _Fate())
        if each.letter in "CP":
            fate.counted.append(each.logged)
        fate.late += each.letter == "L"
        fate.duplicates += each.letter == "D"
        fate.retractions += each.letter == "U"
        if each.undone is not None:
            fate.undone.append(each.undone)
    return {
        token: _numbers(fate, now=now, windows=windows, since=history_from)
        for token, fate in fates.items()
    }


def _numbers(
    fate: _Fate, *, now: int, windows: Sequence[tuple[str, int]], since: int | None
) -> TokenNumbers:
    standing = [one for one in fate.counted if one not in fate.undone]
    prices = _prices(fate.counted)
    symbols = [one.event["symbol"] for one in _in_order(fate.counted) if one.event.get("symbol")]
    return TokenNumbers(
        unpriced=sum(one.event.get("amount_usd") is None for one in standing),
        duplicates=fate.duplicates,
        late=fate.late,
        retracted=fate.retractions,
        symbol=symbols[-1] if symbols else None,
        last_price_usd=prices[-1] if prices else None,
        last_trade_at=max((one.event["timestamp"] for one in fate.counted), default=None),
        minutes={one.event["timestamp"] // MINUTE for one in fate.counted},
        windows={
            name: _window(standing, fate.undone, now, minutes, since) for name, minutes in windows
        },
        unretracted={
            name: _window(fate.counted, [], now, minutes, since) for name, minutes in windows
        },
    )


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


def _lower_hex(text: str | None) -> str | None:
    return text.lower() if text is not None and text.startswith(("0x", "0X")) else text


def _change(prices: list[Fraction]) -> Fraction | None:
    return (prices[-1] - prices[0]) / prices[0] * 100 if prices else None


def _within(log: list[Logged], after: int, last: int) -> list[Logged]:
    """Return the records of the minutes (after, last]."""
    return [one for one in log if after < one.event["timestamp"] // MINUTE <= last]


def order_of(logged: Logged) -> tuple[int, int, int, int]:
    """Return what sorts records in the order of trading; a swap without a block comes first."""
    event: dict[str, Any] = logged.event
    block = event.get("block_number")
    return event["timestamp"], -1 if block is None else block, event["log_index"], logged.offset


def _in_order(log: list[Logged]) -> list[Logged]:
    return sorted(log, key=order_of)


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
