"""Compares what REST, the clients and the archive show at the end with the log's tally.

Every function returns the differences in words; an empty list means that all is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from tests.gameday.tally import (
    COUNTED,
    EARLY,
    LATE,
    MINUTE,
    UNDOING,
    VOID,
    Minute,
    Tally,
    Token,
    window,
)

WINDOWS: Final = {"5m": 5, "1h": 60, "24h": 1440}
_SIGNS: Final = {COUNTED: 1, LATE: 1, UNDOING: -1, EARLY: 0, VOID: 0}
Row = dict[str, Any]


def micros(usd: str) -> int:
    """Convert dollars as text to micro-USD."""
    return int(Decimal(usd).scaleb(6))


def attos(amount: str) -> int:
    """Convert tokens as text to 10^-18 token."""
    return int(Decimal(amount).scaleb(18))


def row_faults(tally: Tally, row: Row) -> list[str]:
    """A token's stats, of REST or a WebSocket, each number at its own `as_of`."""
    token = tally.tokens.get(row["token_id"])
    if token is None:
        return [f"{row['token_id']}: shown, but not in the log"]
    wrong = _Wrong(f"{row['token_id']} at {row['as_of']}")
    everything = window(token, row["as_of"], 10**7)
    quality = row["quality"]
    wrong.unless_equal("duplicates", quality["duplicates"], token.duplicates)
    wrong.unless_equal("late", quality["late"], token.late)
    wrong.unless_equal("unpriced", quality["unpriced"], everything.unpriced)
    wrong.unless_equal("retracted", quality["retracted"], everything.retracted + token.retracted)
    wrong.unless_equal("symbol", row["symbol"], token.symbol)
    wrong.unless_equal("last_trade_at", row["last_trade_at"], everything.last_at or None)
    wrong.unless_near("last_price_usd", row["last_price_usd"], _price(everything.last))
    since = tally.begins.get(token.partition)
    for name, minutes in WINDOWS.items():
        wrong.prefix = f"{name}."
        _window_faults(wrong, row["windows"][name], token, row["as_of"], minutes, since)
    return wrong.faults


def _window_faults(
    wrong: _Wrong, shown: Row, token: Token, as_of: int, minutes: int, since: int | None
) -> None:
    truth = window(token, as_of, minutes)
    first = as_of // MINUTE - minutes + 1
    wrong.unless_equal("complete", shown["complete"], since is not None and since <= first * MINUTE)
    _sum_faults(wrong, shown, truth)
    wrong.unless_equal("sells", shown["sells"], truth.trades - truth.buys)
    wrong.unless_equal("approximate", shown["approximate"], truth.touched)
    if not truth.touched:
        wrong.unless_equal("traders", shown["traders"], len(truth.buyers | truth.sellers))
        wrong.unless_equal("buyers", shown["buyers"], len(truth.buyers))
        wrong.unless_equal("sellers", shown["sellers"], len(truth.sellers))
        largest = shown["largest_trade_usd"]
        wrong.unless_equal("largest", None if largest is None else micros(largest), truth.largest)
        _price_faults(wrong, shown, truth)
    if shown["previous"] is not None:
        before = window(token, as_of, minutes, back=1)
        wrong.unless_equal("previous.trades", shown["previous"]["trades"], before.trades)
        volume = micros(shown["previous"]["volume_usd"])
        wrong.unless_equal("previous.volume_usd", volume, before.volume)


def _sum_faults(wrong: _Wrong, shown: Row, truth: Minute) -> None:
    wrong.unless_equal("trades", shown["trades"], truth.trades)
    wrong.unless_equal("buys", shown["buys"], truth.buys)
    wrong.unless_equal("volume_usd", micros(shown["volume_usd"]), truth.volume)
    wrong.unless_equal("buy_volume_usd", micros(shown["buy_volume_usd"]), truth.buy_volume)
    wrong.unless_equal("volume_token", attos(shown["volume_token"]), truth.amount)
    if truth.volume and truth.amount:
        vwap = truth.volume / 1e6 / (truth.amount / 1e18)
        wrong.unless_near("vwap_usd", shown["vwap_usd"], vwap)


def _price_faults(wrong: _Wrong, shown: Row, truth: Minute) -> None:
    wrong.unless_near("open_usd", shown["open_usd"], _price(truth.first))
    wrong.unless_near("close_usd", shown["close_usd"], _price(truth.last))
    wrong.unless_near("high_usd", shown["high_usd"], truth.high or None)
    wrong.unless_near("low_usd", shown["low_usd"], truth.low if truth.first else None)


def candle_faults(tally: Tally, token_id: str, candles: Iterable[Row], as_of: int) -> list[str]:
    """A client's candles of a minute: exactly those in which something was counted.

    One whose trades were all retracted may still be shown, as empty.
    """
    wrong = _Wrong(f"{token_id} candles")
    token = tally.tokens[token_id]
    shown = {candle["open_time"] // MINUTE: candle for candle in candles}
    for at, candle in list(shown.items()):
        if candle["trades"] == 0 and at in token.minutes and not token.minutes[at].trades:
            del shown[at]
    begun = as_of // MINUTE
    truth = {at: minute for at, minute in token.minutes.items() if at <= begun and minute.trades}
    wrong.unless_equal("minutes", sorted(set(shown) - set(truth)), [])
    wrong.unless_equal("missing minutes", sorted(set(truth) - set(shown)), [])
    for at in sorted(set(shown) & set(truth)):
        wrong.prefix = f"{at * MINUTE}."
        candle, minute = shown[at], truth[at]
        wrong.unless_equal("trades", candle["trades"], minute.trades)
        wrong.unless_equal("volume_usd", micros(candle["volume_usd"]), minute.volume)
        wrong.unless_equal("volume_token", attos(candle["volume_token"]), minute.amount)
        if not minute.touched:
            _price_faults(wrong, candle, minute)
    return wrong.faults


def stream_faults(
    tally: Tally, token_id: str, sent: list[list[int]], newest: Iterable[int | None]
) -> list[str]:
    """Compare the trades that clients received, by number, with the log up to its end."""
    wrong = _Wrong(f"{token_id} trades")
    token = tally.tokens[token_id]
    stream = token.stream
    numbers = dict(sent)
    if not numbers:
        return [f"{token_id} trades: no client received any of {len(stream)}"] if stream else []
    last = token.first_number + len(stream) - 1
    off = [
        (n, at)
        for n, at in sorted(numbers.items())
        if not _is_at(stream, n - token.first_number, at)
    ]
    if off:
        wrong.unless_equal(f"{len(off)} of {len(numbers)}, first", off[0], "as in the log")
    lagging = [n for n in newest if n != last]
    wrong.unless_equal("clients that are not at the last one", lagging, [])
    return wrong.faults


def _is_at(stream: Any, index: int, offset: int) -> bool:
    return 0 <= index < len(stream) and stream[index] == offset


def archive_rows_faults(
    tally: Tally, partition: int, offsets: Iterable[int], signs: Iterable[int]
) -> list[str]:
    """raw_swaps of a partition, in offset order: each canonical record once."""
    right_offsets, fates = tally.rows.get(partition, ([], b""))
    held = list(zip(offsets, signs, strict=True))
    right = [(at, _SIGNS[fate]) for at, fate in zip(right_offsets, fates, strict=True)]
    if held == right:
        return []
    missing, extra = set(right) - set(held), set(held) - set(right)
    return [
        f"raw_swaps of partition {partition}: {len(held):,} rows of {len(right):,}; "
        f"{len(missing)} missing {sorted(missing)[:3]}, {len(extra)} too many {sorted(extra)[:3]}, "
        f"{len(held) - len(set(held))} double"
    ]


def archived_sums_faults(
    tally: Tally, table: str, length_s: int, held: Iterable[tuple[Any, ...]]
) -> list[str]:
    """(token_id, start in s, trades, volume, buy volume, amount) of an aggregate table."""
    minutes = length_s * 1000 // MINUTE
    truth: dict[tuple[str, int], list[int]] = {}
    for token_id, token in tally.tokens.items():
        for at, sums in token.archived.items():
            key = (token_id, at // minutes * length_s)
            total = truth.setdefault(key, [0, 0, 0, 0])
            for number, value in enumerate(
                (sums.trades, sums.volume, sums.buy_volume, sums.amount)
            ):
                total[number] += value
    shown = {
        (token_id, start): [trades, int(usd.scaleb(6)), int(buy.scaleb(6)), int(amount.scaleb(18))]
        for token_id, start, trades, usd, buy, amount in held
    }
    wrong = _Wrong(table)
    for key in sorted(set(truth) | set(shown)):
        wrong.unless_equal(str(key), shown.get(key, [0] * 4), truth.get(key, [0] * 4))
    return wrong.faults


def rest_candle_faults(tally: Tally, token_id: str, candles: Iterable[Row]) -> list[str]:
    """Candles of REST, from the archive: they include late swaps."""
    wrong = _Wrong(f"{token_id} candles of REST")
    truth = {at: each for at, each in tally.tokens[token_id].archived.items() if each.trades}
    shown = {candle["open_time"] // MINUTE: candle for candle in candles}
    wrong.unless_equal("minutes", sorted(shown), sorted(truth))
    for at in set(shown) & set(truth):
        wrong.prefix = f"{at * MINUTE}."
        wrong.unless_equal("trades", shown[at]["trades"], truth[at].trades)
        wrong.unless_equal("volume_usd", micros(shown[at]["volume_usd"]), truth[at].volume)
        wrong.unless_equal("volume_token", attos(shown[at]["volume_token"]), truth[at].amount)
    return wrong.faults


def rest_daily_faults(tally: Tally, token_id: str, days: Iterable[Row]) -> list[str]:
    """The day or days of a token, summed."""
    wrong = _Wrong(f"{token_id} days of REST")
    truth = list(tally.tokens[token_id].archived.values())
    shown = list(days)
    wrong.unless_equal("trades", sum(d["trades"] for d in shown), sum(e.trades for e in truth))
    wrong.unless_equal("late", sum(day["late"] for day in shown), sum(e.late for e in truth))
    volume = sum(micros(day["volume_usd"]) for day in shown)
    wrong.unless_equal("volume_usd", volume, sum(each.volume for each in truth))
    return wrong.faults


class _Wrong:
    """Collects differences."""

    def __init__(self, of: str) -> None:
        self.faults: list[str] = []
        self.prefix = ""
        self._of = of

    def unless_equal(self, name: str, shown: object, right: object) -> None:
        if shown != right:
            self.faults.append(f"{self._of}: {self.prefix}{name} is {shown}, not {right}")

    def unless_near(self, name: str, shown: str | None, right: float | None) -> None:
        """A price is a float: right to nine digits."""
        if shown is None or right is None or abs(float(shown) - right) > abs(right) / 10**9:
            self.unless_equal(name, shown, right)


def _price(entry: tuple[Any, float] | None) -> float | None:
    return None if entry is None else entry[1]
