"""Compares what the owners and the reader showed with the truth of the log.

Every token is compared in every number, at the end and at many of the instants at which the reader
saw it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from aggregator.contracts.stats import PreviousWindow, TokenStats, WindowStats
from tests.chaos.expected import Expected
from tests.support.oracle import MINUTE, PreviousNumbers, TokenNumbers, WindowNumbers

_EXACT = ("trades", "buys", "sells", "complete")
_USD = ("volume_usd", "buy_volume_usd", "sell_volume_usd", "net_volume_usd")
# A bucket keeps extremes and not its swaps, so after a retraction these may be as they were.
_DISTINCT = ("traders", "buyers", "sellers")
_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
_SHOWN_CHECKED = 400
# A token of so many records takes too long to be computed at many instants.
_TOO_MANY = 3_000
AT_THE_END = "at the end"


@dataclass
class Findings:
    """Everything wrong. `lost` and `double` count swaps at the end, `checked` compared rows."""

    violations: list[str] = field(default_factory=list)
    lost: int = 0
    double: int = 0
    checked: int = 0

    def trades(self, shown: int, expected: int) -> None:
        """Note a wrong count of trades."""
        self.lost += max(0, expected - shown)
        self.double += max(0, shown - expected)


def judge_owners(
    expected: Expected, rows: Mapping[tuple[str, int], TokenStats], findings: Findings
) -> None:
    """Compare the owners' final rows, by (token, partition), with the whole log."""
    for token in sorted(expected.tokens):
        row = rows.get((token, expected.partition(token)))
        if row is None:
            _missing(expected, token, findings)
        else:
            # Offsets after the row's next_offset changed no number of it: it is the final row.
            _judge_row(expected, row, 2**63, findings, AT_THE_END)
    for token, partition in rows:
        if token not in expected.tokens or partition != expected.partition(token):
            findings.violations.append(f"{token} on {partition}: shown, but not in the log")


def judge_shown(
    expected: Expected, shown: Sequence[TokenStats], rng: random.Random, findings: Findings
) -> None:
    """Compare rows that the reader saw during the run with the log up to their next_offset."""
    rows = {}
    for row in shown:
        if row.token_id not in expected.tokens or row.partition != expected.partition(row.token_id):
            where = f"{row.token_id} on {row.partition}"
            findings.violations.append(f"{where}: was shown, but is not in the log")
        elif expected.records(row.token_id) < _TOO_MANY:
            rows[row.token_id, row.next_offset, row.as_of // MINUTE] = row
    for row in rng.sample(list(rows.values()), min(len(rows), _SHOWN_CHECKED)):
        _judge_row(expected, row, row.next_offset, findings, "on the way")


def _missing(expected: Expected, token: str, findings: Findings) -> None:
    """Note a token without a row, unless all its swaps are of minutes to come."""
    numbers = expected.numbers(token, 2**63, expected.newest)
    trades = numbers.windows[expected.windows[-1][0]].trades
    findings.trades(0, trades)
    if trades or numbers.late or numbers.duplicates or numbers.retracted:
        findings.violations.append(f"{token}: not shown, but it has {trades} trades")


def _judge_row(
    expected: Expected, row: TokenStats, next_offset: int, findings: Findings, when: str
) -> None:
    findings.checked += 1
    truth = expected.numbers(row.token_id, next_offset, row.as_of)
    faults = _counter_faults(row, truth)
    for name, numbers in truth.windows.items():
        faults += [f"{name}.{fault}" for fault in _window_faults(row.windows[name], numbers)]
    if faults:
        if when == AT_THE_END:
            longest = expected.windows[-1][0]
            findings.trades(row.windows[longest].trades, truth.windows[longest].trades)
        findings.violations.append(
            f"{row.token_id} on {row.partition} {when} (epoch {row.epoch}, seq {row.seq}, "
            f"next_offset {row.next_offset}, as_of {row.as_of}): {'; '.join(faults)}"
        )


def _counter_faults(row: TokenStats, truth: TokenNumbers) -> list[str]:
    wrong = _Wrong()
    for name in ("unpriced", "duplicates", "late", "retracted"):
        wrong.unless_equal(name, getattr(row.quality, name), getattr(truth, name))
    wrong.unless_equal("symbol", row.symbol, truth.symbol)
    wrong.unless_equal("last_trade_at", row.last_trade_at, truth.last_trade_at)
    wrong.unless_near("last_price_usd", row.last_price_usd, truth.last_price_usd)
    return wrong.faults


def _window_faults(shown: WindowStats, truth: WindowNumbers) -> list[str]:
    wrong = _Wrong()
    for name in _EXACT:
        wrong.unless_equal(name, getattr(shown, name), getattr(truth, name))
    for name in _USD:
        wrong.unless_equal(name, micros(getattr(shown, name)), getattr(truth, name))
    wrong.unless_equal("volume_token", Fraction(shown.volume_token), truth.volume_token)
    wrong.unless_near("vwap_usd", shown.vwap_usd, truth.vwap_usd)
    wrong.unless_equal("approximate", shown.approximate, truth.retraction_touched)
    wrong.faults += _previous_faults(shown.previous, truth.previous)
    if truth.retraction_touched:
        return wrong.faults
    for name in _DISTINCT:
        wrong.unless_equal(name, getattr(shown, name), getattr(truth, name))
    for name in _PRICES:
        wrong.unless_near(name, getattr(shown, name), getattr(truth, name))
    wrong.unless_rounded("price_change_pct", shown.price_change_pct, truth.price_change_pct)
    largest = None if shown.largest_trade_usd is None else micros(shown.largest_trade_usd)
    wrong.unless_equal("largest_trade_usd", largest, truth.largest_trade_usd)
    return wrong.faults


def _previous_faults(shown: PreviousWindow | None, truth: PreviousNumbers | None) -> list[str]:
    wrong = _Wrong()
    if shown is None or truth is None:
        wrong.unless_equal("previous", shown, truth)
        return wrong.faults
    wrong.unless_equal("previous.trades", shown.trades, truth.trades)
    wrong.unless_equal("previous.volume_usd", micros(shown.volume_usd), truth.volume_usd)
    if not truth.retraction_touched:
        name = "previous.price_change_pct"
        wrong.unless_rounded(name, shown.price_change_pct, truth.price_change_pct)
    return wrong.faults


class _Wrong:
    """Collects the numbers that are wrong."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def unless_equal(self, name: str, shown: object, right: object) -> None:
        if shown != right:
            self.faults.append(f"{name} is {shown}, not {right}")

    def unless_near(self, name: str, shown: str | None, right: Fraction | None) -> None:
        """Compare a price, a float that is right to nine digits."""
        if shown is None or right is None:
            self.unless_equal(name, shown, right)
        elif abs(Fraction(shown) - right) > abs(right) / 10**9:
            self.faults.append(f"{name} is {shown}, not {float(right)}")

    def unless_rounded(self, name: str, shown: float | None, right: Fraction | None) -> None:
        """Compare a percentage, which has four decimals."""
        if shown is None or right is None:
            self.unless_equal(name, shown, right)
        elif abs(shown - float(right)) > 0.5001e-4 + 1e-9 * abs(float(right)):
            self.faults.append(f"{name} is {shown}, not {float(right)}")


def micros(usd: str) -> int:
    """Convert dollars as text to micro-USD."""
    return int(Decimal(usd) * 1_000_000)
