"""Engines, a ledger and a reader in memory, compared with `tests/support/oracle.py`.

The comparison is of what a reader sees: the stats as they were last published, where a token is
published again only when the engine marked it dirty. Every test runs on each of `ENGINES`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import PreviousWindow, TokenStats, WindowStats
from aggregator.contracts.swaps import swaps_of
from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import BadMessage
from aggregator.windows.engine import ColumnarWindows
from tests.spec.windows import ReferenceWindows
from tests.support.oracle import (
    MINUTE,
    DecidedRecord,
    Logged,
    PreviousNumbers,
    TokenNumbers,
    WindowNumbers,
    recompute,
)
from tests.unit.windows.ledger import Ledger

ENGINES = [ReferenceWindows, ColumnarWindows]
Engine = type[ReferenceWindows] | type[ColumnarWindows]
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)

SMALL = (("1m", 1), ("3m", 3), ("7m", 7))
GRACE = 7 * MINUTE
MAX_FUTURE = 5 * MINUTE
T0 = 1_760_000_040_000 // MINUTE * MINUTE
LONG_AGO = T0 - 24 * 60 * MINUTE


def apply(
    engine: ReferenceWindows | ColumnarWindows,
    swaps: Sequence[Swap | None],
    offsets: Sequence[int],
    letters: str,
    undone: Mapping[int, Swap],
) -> None:
    """Have an engine of either kind do what was decided, see `ReferenceWindows.apply`."""
    if isinstance(engine, ReferenceWindows):
        engine.apply(swaps, offsets, letters, undone)
        return
    taken_out = swaps_of(list(undone.values()))
    engine.apply(
        swaps_of(swaps, offsets),
        np.frombuffer(letters.encode(), np.uint8),
        np.array(list(undone), np.int64),
        taken_out.swaps,
    )


class Service:
    """Engines, ledgers and a reader that keeps the newest published stats of every token.

    What is read between two publications is one batch. An event that is too far ahead of its record
    is a bad record.
    """

    def __init__(
        self,
        engine: Engine,
        now: int,
        windows: tuple[tuple[str, int], ...] = SMALL,
        history_from: int | None = LONG_AGO,
    ) -> None:
        self.now = now
        self.log: list[Logged] = []
        self.board: dict[str, TokenStats] = {}
        self.engines: dict[int, ReferenceWindows | ColumnarWindows] = {}
        self.decided: list[DecidedRecord] = []
        self._engine = engine
        self._windows = windows
        self._history_from = history_from
        self._ledgers: dict[int, Ledger] = {}
        self._batch: list[tuple[int, int, Swap | None]] = []
        self._swaps: list[Swap | None] = []

    def engine(self, partition: int = 0) -> ReferenceWindows | ColumnarWindows:
        """Return the engine of one partition."""
        if partition not in self.engines:
            self.engines[partition] = self._engine(
                partition=partition,
                windows=self._windows,
                now_ms=self.now,
                history_from=self._history_from,
            )
            self._ledgers[partition] = Ledger(GRACE)
        return self.engines[partition]

    def read(self, event: dict[str, Any], partition: int = 0) -> None:
        """Append one record to the log now."""
        offset = len(self.log)
        self.log.append(Logged(event, partition, offset, self.now))
        swap: Swap | None = None
        try:
            swap = decode_swap(json.dumps(event).encode(), self.now, MAX_FUTURE)
        except BadMessage as rejected:
            assert rejected.reason == "future"
        self._swaps.append(swap)
        self._batch.append((partition, offset, swap))

    def settle(self) -> None:
        """Decide and apply what was read."""
        for partition in sorted({partition for partition, *_ in self._batch}):
            part = [(offset, swap) for p, offset, swap in self._batch if p == partition]
            engine, letters, undone = self.engine(partition), "", {}
            for place, (offset, swap) in enumerate(part):
                letter, counted_at = self._ledgers[partition].decide(
                    swap, offset, self.log[offset].record_timestamp
                )
                letters += letter
                taken_out = None
                if counted_at is not None:
                    taken_out, counted = self.log[counted_at], self._swaps[counted_at]
                    assert counted is not None
                    undone[place] = counted
                self.decided.append(DecidedRecord(self.log[offset], letter, taken_out))
            offsets = [offset for offset, _ in part]
            apply(engine, [swap for _, swap in part], offsets, letters, undone)
        self._batch.clear()

    def publish(self, now: int, *, forget: bool = False) -> None:
        """Apply what was read, move the clock to `now`, publish dirty tokens to the reader."""
        self.settle()
        self.now = now
        for engine in self.engines.values():
            engine.advance(now)
            for token in engine.take_dirty():
                self.board[token] = engine.stats(token, epoch=1, seq=1, next_offset=len(self.log))
            for token in engine.forget_idle() if forget else ():
                del self.board[token]

    def truth(self) -> dict[str, TokenNumbers]:
        """Compute from the decided records what the board must show."""
        return recompute(
            self.decided, now=self.now, windows=self._windows, history_from=self._history_from
        )

    def assert_right(self, *, forgetful: bool = False) -> None:
        """Assert that every token of the board shows what the log says, and no bucket is too many.

        `forgetful`: idle tokens may have been dropped with their counters, tokens with trades not.
        """
        truth = self.truth()
        oldest = self.now // MINUTE - 2 * max(minutes for _, minutes in self._windows) + 1
        needed = {
            token: sum(minute >= oldest for minute in numbers.minutes)
            for token, numbers in truth.items()
        }
        assert sum(one.bucket_count for one in self.engines.values()) == sum(needed.values())
        if forgetful:
            truth = {
                token: numbers
                for token, numbers in truth.items()
                if needed[token] or token in self.board
            }
        assert self.board.keys() == truth.keys()
        for token, expected in truth.items():
            shown = self.board[token]
            if not forgetful:
                assert_counters(shown, expected)
            for name, numbers in expected.windows.items():
                assert_window(shown.windows[name], numbers, expected.unretracted[name])


def assert_counters(shown: TokenStats, expected: TokenNumbers) -> None:
    quality = shown.quality
    assert (quality.unpriced, quality.duplicates, quality.late, quality.retracted) == (
        expected.unpriced,
        expected.duplicates,
        expected.late,
        expected.retracted,
    )
    assert (shown.symbol, shown.last_trade_at) == (expected.symbol, expected.last_trade_at)
    assert_close(shown.last_price_usd, expected.last_price_usd)


def assert_window(shown: WindowStats, expected: WindowNumbers, unretracted: WindowNumbers) -> None:
    assert (shown.trades, shown.buys, shown.sells) == (
        expected.trades,
        expected.buys,
        expected.sells,
    )
    assert micros(shown.volume_usd) == expected.volume_usd
    assert micros(shown.buy_volume_usd) == expected.buy_volume_usd
    assert micros(shown.sell_volume_usd) == expected.sell_volume_usd
    assert micros(shown.net_volume_usd) == expected.net_volume_usd
    assert Fraction(shown.volume_token) == expected.volume_token
    assert_close(shown.vwap_usd, expected.vwap_usd)
    assert shown.complete == expected.complete
    assert_previous(shown.previous, expected.previous)
    assert shown.approximate == expected.retraction_touched
    if shown.approximate:
        assert_between(shown, expected, unretracted)
        return
    assert (shown.traders, shown.buyers, shown.sellers) == (
        expected.traders,
        expected.buyers,
        expected.sellers,
    )
    assert optional_micros(shown.largest_trade_usd) == expected.largest_trade_usd
    assert_close(shown.open_usd, expected.open_usd)
    assert_close(shown.high_usd, expected.high_usd)
    assert_close(shown.low_usd, expected.low_usd)
    assert_close(shown.close_usd, expected.close_usd)
    assert_change(shown.price_change_pct, expected.price_change_pct)


def assert_previous(shown: PreviousWindow | None, expected: PreviousNumbers | None) -> None:
    if expected is None:
        assert shown is None
        return
    assert shown is not None
    assert (shown.trades, micros(shown.volume_usd)) == (expected.trades, expected.volume_usd)
    if not expected.retraction_touched:
        assert_change(shown.price_change_pct, expected.price_change_pct)


def assert_between(shown: WindowStats, expected: WindowNumbers, unretracted: WindowNumbers) -> None:
    """After a retraction extremes lie between those of the swaps left and those of all swaps."""
    if expected.trades == 0:
        shown_prices = (shown.open_usd, shown.high_usd, shown.low_usd, shown.close_usd)
        assert shown_prices == (None, None, None, None)
        assert shown.largest_trade_usd is None
    assert expected.traders <= shown.traders <= unretracted.traders
    assert expected.buyers <= shown.buyers <= unretracted.buyers
    assert expected.sellers <= shown.sellers <= unretracted.sellers
    largest = optional_micros(shown.largest_trade_usd)
    assert_ascending(expected.largest_trade_usd, largest, unretracted.largest_trade_usd)
    high = None if shown.high_usd is None else Fraction(shown.high_usd)
    low = None if shown.low_usd is None else Fraction(shown.low_usd)
    assert_ascending(expected.high_usd, high, unretracted.high_usd)
    assert_ascending(unretracted.low_usd, low, expected.low_usd)


def assert_ascending(*numbers: Fraction | int | None) -> None:
    """Assert that the known numbers do not descend by more than a float's rounding."""
    known = [number for number in numbers if number is not None]
    for one, other in pairwise(known):
        assert one <= other + abs(other) * Fraction(1, 10**9)


def assert_change(shown: float | None, expected: Fraction | None) -> None:
    if expected is None:
        assert shown is None
    else:
        assert shown == pytest.approx(float(expected), rel=1e-9, abs=0.5001e-4)


def assert_close(shown: str | None, expected: Fraction | None) -> None:
    if expected is None:
        assert shown is None
    else:
        assert shown is not None
        assert abs(Fraction(shown) - expected) <= abs(expected) / 10**9


def micros(usd: str) -> int:
    exact = Decimal(usd) * 1_000_000
    assert exact == int(exact)
    return int(exact)


def optional_micros(usd: str | None) -> int | None:
    return None if usd is None else micros(usd)


def swap_event(at: int, number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a plain buy of 2 TKN for 10 USD at `at`; `number` names the transaction."""
    event = {
        "chain": "ethereum",
        "tx_hash": f"0x{number:064x}",
        "log_index": 0,
        "timestamp": at,
        "token": "TKN",
        "side": "buy",
        "amount": "2",
        "amount_usd": "10",
    }
    return {**event, **changes}
