"""Engines, markers and a reader in memory, held against `tests/oracle.py`.

What is compared is what a reader sees: the stats as they were last published, where only tokens
that the engine called dirty are published again.
"""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import TokenStats, WindowStats
from aggregator.contracts.verdict import Verdict
from aggregator.errors import DeadLetter
from aggregator.ingest.decode import decode_swap
from aggregator.window.engine import PartitionWindows
from tests.oracle import MINUTE, Logged, TokenNumbers, WindowNumbers, recompute

SMALL = (("1m", 1), ("3m", 3), ("7m", 7))
GRACE = 2 * MINUTE
MAX_FUTURE = 5 * MINUTE
T0 = 1_760_000_040_000 // MINUTE * MINUTE


class Markers:
    """The verdicts of DESIGN 4 rules 1 and 2, as the marker store gives them, in memory."""

    def __init__(self) -> None:
        self._swaps: dict[bytes, Verdict] = {}
        self._retracted: set[bytes] = set()

    def decide(self, swap: Swap, late: bool) -> Verdict:
        """The verdict on the next record of the log."""
        known = self._swaps.get(swap.marker)
        if swap.removed:
            if swap.marker in self._retracted:
                return Verdict.DUPLICATE
            self._retracted.add(swap.marker)
            return Verdict.UNDONE if known is Verdict.COUNTED else Verdict.VOID
        if known is not None:
            return Verdict.DUPLICATE
        if swap.marker in self._retracted:
            verdict = Verdict.VOID
        else:
            verdict = Verdict.LATE if late else Verdict.COUNTED
        self._swaps[swap.marker] = verdict
        return verdict


class Service:
    """Engines, markers and a reader that keeps the newest published stats of every token."""

    def __init__(self, now: int, windows: tuple[tuple[str, int], ...] = SMALL) -> None:
        self.now = now
        self.log: list[Logged] = []
        self.board: dict[str, TokenStats] = {}
        self._windows = windows
        self._engines: dict[int, PartitionWindows] = {}
        self._markers = Markers()

    def _engine(self, partition: int) -> PartitionWindows:
        if partition not in self._engines:
            self._engines[partition] = PartitionWindows(
                partition=partition,
                windows=self._windows,
                grace_ms=GRACE,
                max_future_ms=MAX_FUTURE,
                now_ms=self.now,
            )
        return self._engines[partition]

    def read(self, event: dict[str, Any], partition: int = 0) -> None:
        """One record arrives at the log now and is applied."""
        logged = Logged(event, partition, len(self.log), self.now)
        self.log.append(logged)
        try:
            swap = decode_swap(json.dumps(event).encode(), self.now, MAX_FUTURE)
        except DeadLetter as rejected:
            assert rejected.reason == "future"
            return
        engine = self._engine(partition)
        late = engine.observe(swap.timestamp, self.now)
        engine.apply(swap, logged.offset, self._markers.decide(swap, late))

    def publish(self, now: int, *, forget: bool = False) -> None:
        """The clock moves to `now` and what is dirty reaches the reader."""
        self.now = now
        for engine in self._engines.values():
            engine.advance(now)
            for token in engine.take_dirty():
                self.board[token] = engine.stats(token, epoch=1, seq=1, next_offset=len(self.log))
            if forget:
                engine.forget_idle()

    def truth(self) -> dict[str, TokenNumbers]:
        """What the board must show, computed from the log."""
        return recompute(
            self.log, now=self.now, windows=self._windows, grace_ms=GRACE, max_future_ms=MAX_FUTURE
        )

    def assert_right(self, *, counters: bool = True) -> None:
        """Every token of the board shows what the log says, and no bucket is kept for nothing."""
        truth = self.truth()
        oldest = self.now // MINUTE - max(minutes for _, minutes in self._windows) + 1
        needed = sum(minute >= oldest for token in truth.values() for minute in token.minutes)
        assert sum(engine.bucket_count for engine in self._engines.values()) == needed
        assert self.board.keys() == truth.keys()
        for token, expected in truth.items():
            shown = self.board[token]
            if counters:
                assert_counters(shown, expected)
            for name, numbers in expected.windows.items():
                assert_window(shown.windows[name], numbers)


def assert_counters(shown: TokenStats, expected: TokenNumbers) -> None:
    quality = shown.quality
    assert (quality.unpriced, quality.duplicates, quality.late, quality.retracted) == (
        expected.unpriced,
        expected.duplicates,
        expected.late,
        expected.retracted,
    )
    assert shown.last_trade_at == expected.last_trade_at
    assert_close(shown.last_price_usd, expected.last_price_usd)


def assert_window(shown: WindowStats, expected: WindowNumbers) -> None:
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
    if expected.retraction_touched:
        assert_prices_enclose(shown, expected)
        return
    assert_close(shown.open_usd, expected.open_usd)
    assert_close(shown.high_usd, expected.high_usd)
    assert_close(shown.low_usd, expected.low_usd)
    assert_close(shown.close_usd, expected.close_usd)
    if expected.price_change_pct is None:
        assert shown.price_change_pct is None
    else:
        assert shown.price_change_pct == pytest.approx(
            float(expected.price_change_pct), rel=1e-9, abs=0.5001e-4
        )


def assert_prices_enclose(shown: WindowStats, expected: WindowNumbers) -> None:
    """After a retraction the range may be wider than what is left, never narrower."""
    if expected.trades == 0:
        shown_prices = (shown.open_usd, shown.high_usd, shown.low_usd, shown.close_usd)
        assert shown_prices == (None, None, None, None)
    if expected.high_usd is None or expected.low_usd is None:
        return
    assert shown.high_usd is not None
    assert shown.low_usd is not None
    assert float(shown.high_usd) >= float(expected.high_usd) * (1 - 1e-9)
    assert float(shown.low_usd) <= float(expected.low_usd) * (1 + 1e-9)


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


def swap_event(at: int, number: int = 0, **changes: Any) -> dict[str, Any]:
    """A plain buy of 2 TKN for 10 USD at `at`; `number` makes the transaction."""
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
