"""Candles of one token: minutes from the owner, with the newest trades folded in.

Pure. Open and close are in the order of trading, `Trade.order`; sums are exact integers.
An hour or a day is made from its minutes, aligned to UTC. A trade that cannot be folded exactly (a
retraction) is reported by `wrong`, and the minutes are loaded from the owner again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from aggregator.contracts.event import ATTOS_PER_TOKEN
from aggregator.contracts.stats import token_text, usd_micros, usd_text, vwap_text
from aggregator.contracts.trades import HISTORY_MINUTES, CandleRow, Trade, TradeOrder
from aggregator.contracts.units import MINUTE_MS

HISTORY_MS: Final = HISTORY_MINUTES * MINUTE_MS
ROW_BYTES: Final = 400
"""The measured memory of one minute as it is stored."""
# An update repeats what changed in this time, so that a client misses nothing if an update is
# replaced by a newer one before it is sent.
REPEATED_MS: Final = 30_000


class LiveCandle(msgspec.Struct, frozen=True, gc=False):
    """The trades of [open_time, close_time), with the fields of GET /api/tokens/{token_id}/candles.

    Prices are null if no trade has one; vwap_usd = volume_usd / volume_token.
    """

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


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CandleRow).decode


class LiveCandles:
    """Hold the minutes of one token.

    The minutes are stored as JSON: a row of Python objects takes three times the memory, and all
    but the newest are read only for a snapshot.
    """

    def __init__(self) -> None:
        self.wrong = False
        """True if a trade could not be folded: `load` the minutes again."""
        self._rows: dict[int, bytes] = {}
        self._from_ms = 0
        self._depth_ms = 0
        self._changed_at: dict[int, int] = {}

    @property
    def size(self) -> int:
        """Return the estimated memory in bytes."""
        return len(self._rows) * ROW_BYTES

    def load(self, rows: Iterable[CandleRow], from_ms: int, depth_ms: int = HISTORY_MS) -> None:
        """Replace all minutes with the owner's, which are complete since `from_ms`.

        `forget_before` later drops minutes older than `depth_ms`.
        """
        self.wrong = False
        self._rows = {row.minute_ms: _encode(row) for row in rows}
        self._from_ms = from_ms
        self._depth_ms = depth_ms
        self._changed_at = {}

    def fold(self, trade: Trade, now_ms: int) -> None:
        """Count one more trade; set `wrong` if that cannot be done exactly."""
        if trade.removed:
            self.wrong = True
            return
        minute = _minute(trade)
        held = self._rows.get(minute)
        if held is None:
            row = CandleRow(minute, None, None, None, None, "0.000000", "0", 0)
        else:
            row = _decode(held)
        self._rows[minute] = _encode(self._with(row, trade))
        self._changed_at[minute] = now_ms

    def _with(self, row: CandleRow, trade: Trade) -> CandleRow:
        row = msgspec.structs.replace(row, trades=row.trades + 1)
        if trade.amount_usd is not None:
            row = msgspec.structs.replace(
                row,
                volume_usd=usd_text(usd_micros(row.volume_usd) + usd_micros(trade.amount_usd)),
                volume_token=token_text(_attos(row.volume_token) + _attos(trade.amount)),
            )
        if trade.price_usd is not None:
            price = trade.price_usd
            row = msgspec.structs.replace(
                self._with_ends(row, price, trade.order),
                high=price if row.high is None else max(row.high, price, key=float),
                low=price if row.low is None else min(row.low, price, key=float),
            )
        return row

    def _with_ends(self, row: CandleRow, price: str, place: TradeOrder) -> CandleRow:
        """Return the row with its open and close after one more trade."""
        replace = msgspec.structs.replace
        if row.open is None:
            return replace(row, open=price, close=price, opened_at=place, closed_at=place)
        first, last = row.opened_at, row.closed_at
        if first is None or last is None:
            # An owner of an earlier version does not report the positions of open and close.
            self.wrong = True
            return row
        if place < first:
            row = replace(row, open=price, opened_at=place)
        if place > last:
            row = replace(row, close=price, closed_at=place)
        return row

    def newest(self, interval_ms: int, limit: int) -> list[LiveCandle]:
        """Return the newest candles, oldest first; none that opened before the history begins."""
        opened = sorted({minute - minute % interval_ms for minute in self._rows})
        whole = [each for each in opened if each >= self._from_ms]
        return self._candles(whole[-limit:], interval_ms)

    def changed(self, interval_ms: int, now_ms: int) -> list[LiveCandle]:
        """Return the candles that changed in the last REPEATED_MS, oldest first."""
        recent = {m: at for m, at in self._changed_at.items() if now_ms - at <= REPEATED_MS}
        self._changed_at = recent
        opened = sorted({minute - minute % interval_ms for minute in recent})
        return self._candles([each for each in opened if each >= self._from_ms], interval_ms)

    def _candles(self, opened: list[int], interval_ms: int) -> list[LiveCandle]:
        rows: dict[int, list[CandleRow]] = {each: [] for each in opened}
        for minute in sorted(self._rows):
            group = rows.get(minute - minute % interval_ms)
            if group is not None:
                group.append(_decode(self._rows[minute]))
        return [_joined(each, interval_ms, group) for each, group in rows.items()]

    def forget_before(self, as_of: int) -> None:
        """Drop the minutes that are older than the history."""
        self._from_ms = max(self._from_ms, as_of - self._depth_ms)
        for minute in [each for each in self._rows if each < self._from_ms]:
            del self._rows[minute]
            self._changed_at.pop(minute, None)


def _joined(open_time: int, interval_ms: int, rows: list[CandleRow]) -> LiveCandle:
    priced = [row for row in rows if row.open is not None]
    volume = sum(usd_micros(row.volume_usd) for row in rows)
    amount = sum(_attos(row.volume_token) for row in rows)
    return LiveCandle(
        open_time=open_time,
        close_time=open_time + interval_ms,
        open_usd=priced[0].open if priced else None,
        high_usd=max((row.high for row in priced if row.high), key=float, default=None),
        low_usd=min((row.low for row in priced if row.low), key=float, default=None),
        close_usd=priced[-1].close if priced else None,
        volume_usd=usd_text(volume),
        volume_token=token_text(amount),
        trades=sum(row.trades for row in rows),
        vwap_usd=vwap_text(volume, amount),
    )


def _minute(trade: Trade) -> int:
    return trade.timestamp - trade.timestamp % MINUTE_MS


def _attos(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * ATTOS_PER_TOKEN + int(part.ljust(18, "0")[:18] or 0)
