"""The numbers of tokens as they travel, read from the columns: `TokenStats` as JSON. Pure.

The layout is the contract's own, with gaps where tokens differ. A compiled loop collects the
integers in the order of the gaps, numpy the floats, and `rendering.py` fills them in. Nothing is
changed in the columns but extremes that had to be looked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import ATTOS_PER_TOKEN, MICROS_PER_USD
from aggregator.contracts.stats import (
    PCT_DIGITS,
    PreviousWindow,
    Quality,
    TokenStats,
    WindowStats,
    change_pct,
)
from aggregator.contracts.units import MINUTE_MS
from aggregator.windows import kernels
from aggregator.windows.columns import LIMBS, NONE, Columns
from aggregator.windows.rendering import (
    AMOUNT,
    COUNT,
    FLAG,
    FLOAT,
    PRICE,
    TEXT,
    TIME,
    TOP_USD,
    USD,
    Template,
    carry,
)
from aggregator.windows.snapshot import Name

_BASE: Final = 1_000_000_000
_TOKEN_INTS: Final = 6
# Of the integers of a window: 6 counts, 4 sums in USD, the amount, the largest trade, the flag.
_VOLUME: Final = 6
_AMOUNT: Final = _VOLUME + 4 * 2
_WINDOW_INTS: Final = _AMOUNT + LIMBS + 2 + 1
_PREVIOUS_INTS: Final = 2 + 1
_WEIGHED: Final = (_VOLUME, _VOLUME + 1, *range(_AMOUNT, _AMOUNT + LIMBS))
_ATTOS_PER_MICRO: Final = ATTOS_PER_TOKEN // MICROS_PER_USD
_NEAR: Final = 1e-3
_FAR: Final = 1e9


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the log all rows of one reading stand; see `TokenStats`."""

    partition: int
    epoch: int
    next_offset: int
    as_of: int
    watermark: int | None


class Frame:
    """What all tokens share of one window at one instant: its edges, and whether it is complete."""

    def __init__(
        self, name: str, span: int, minute: int, complete_from: Callable[[int], bool]
    ) -> None:
        self.name = name
        self.open_time = (minute - span + 1) * MINUTE_MS
        self.close_time = (minute + 1) * MINUTE_MS
        self.complete = complete_from(self.open_time)
        self.previous_complete = complete_from(self.open_time - span * MINUTE_MS)


def rows_of(
    columns: Columns,
    spans: Array,
    tokens: Array,
    *,
    minute: int,
    names: Sequence[Name | None],
    symbols: Sequence[str],
    place: Place,
    frames: Sequence[Frame],
    first_seq: int,
    seq_step: int,
) -> list[bytes]:
    """The rows of tokens, given by their places in the columns; `frames` are of `minute`."""
    previous = np.array([frame.previous_complete for frame in frames])
    width = _TOKEN_INTS + len(spans) * _WINDOW_INTS + int(previous.sum()) * _PREVIOUS_INTS
    ints = np.empty((len(tokens), width), np.int64)
    points = np.empty((len(tokens), len(spans), 6))
    kernels.prices(columns, spans, tokens, minute, points)
    collect(columns, tokens, previous, ints, points)
    ints[:, 0] = first_seq + seq_step * np.arange(len(tokens))
    known = columns.tokens[tokens]
    texts = [
        (names[token], None if symbol == NONE else symbols[symbol])
        for token, symbol in zip(tokens.tolist(), known["symbol"].tolist(), strict=True)
    ]
    floats = _floats(known, ints, points, previous)
    return _template(place, frames).rows(ints, texts, floats.tolist())


def _floats(known: Array, ints: Array, points: Array, previous: Array) -> Array:
    """The floats of each row in the order of `_template`."""
    opened, closed, previous_opened, previous_closed, high, low = np.moveaxis(points, 2, 0)
    starts = _TOKEN_INTS + np.cumsum([0, *(_WINDOW_INTS + _PREVIOUS_INTS * previous[:-1])])
    vwaps = _vwaps(ints[:, np.add.outer(starts, _WEIGHED)])
    changes, previous_changes = _changes(opened, closed), _changes(previous_opened, previous_closed)
    columns = [np.where(known["price_at"] == NONE, np.nan, known["price"])]
    for w, whole in enumerate(previous.tolist()):
        columns += [opened[:, w], high[:, w], low[:, w], closed[:, w], vwaps[:, w], changes[:, w]]
        if whole:
            columns.append(previous_changes[:, w])
    return np.column_stack(columns)


def _template(place: Place, frames: Sequence[Frame]) -> Template:
    return Template(
        TokenStats(
            token_id=TEXT,
            chain=TEXT,
            token=TEXT,
            symbol=TEXT,
            partition=place.partition,
            epoch=place.epoch,
            seq=COUNT,
            next_offset=place.next_offset,
            as_of=place.as_of,
            watermark=place.watermark,
            stale=False,
            last_price_usd=PRICE,
            last_trade_at=TIME,
            quality=Quality(unpriced=COUNT, duplicates=COUNT, late=COUNT, retracted=COUNT),
            windows={frame.name: _window(frame) for frame in frames},
        )
    )


def _window(frame: Frame) -> WindowStats:
    return WindowStats(
        open_time=frame.open_time,
        close_time=frame.close_time,
        complete=frame.complete,
        trades=COUNT,
        buys=COUNT,
        sells=COUNT,
        traders=COUNT,
        buyers=COUNT,
        sellers=COUNT,
        volume_usd=USD,
        buy_volume_usd=USD,
        sell_volume_usd=USD,
        net_volume_usd=USD,
        volume_token=AMOUNT,
        open_usd=PRICE,
        high_usd=PRICE,
        low_usd=PRICE,
        close_usd=PRICE,
        vwap_usd=PRICE,
        price_change_pct=FLOAT,
        largest_trade_usd=TOP_USD,
        previous=PreviousWindow(volume_usd=USD, trades=COUNT, price_change_pct=FLOAT)
        if frame.previous_complete
        else None,
        approximate=FLAG,
    )


@njit(cache=True, nogil=True)
def collect(c: Columns, tokens: Array, previous: Array, ints: Array, points: Array) -> None:
    """Fill `ints` in the order of `_template`, but seq, and points[i, w, 4:] with (high, low)."""
    for i in range(len(tokens)):
        t, row = c.tokens[tokens[i]], ints[i]
        row[1], row[2], row[3] = t.traded_at, t.unpriced, t.duplicates
        row[4], row[5] = t.late, t.retracted
        k = _TOKEN_INTS
        for w in range(len(previous)):
            win = c.windows[tokens[i], w]
            row[k], row[k + 1], row[k + 2] = win.trades, win.buys, win.trades - win.buys
            row[k + 3], row[k + 4], row[k + 5] = win.traders, win.buyers, win.sellers
            v0, v1, b0, b1 = win.volume0, win.volume1, win.buy_volume0, win.buy_volume1
            k += _VOLUME
            row[k], row[k + 1] = v0, v1
            row[k + 2], row[k + 3] = b0, b1
            row[k + 4], row[k + 5] = v0 - b0, v1 - b1
            row[k + 6], row[k + 7] = 2 * b0 - v0, 2 * b1 - v1
            for usd in range(k, k + 8, 2):
                carry(row[usd : usd + 2])
            k += 8
            row[k], row[k + 1], row[k + 2] = win.amount0, win.amount1, win.amount2
            row[k + 3], row[k + 4] = win.amount3, win.amount4
            carry(row[k : k + LIMBS])
            k += LIMBS
            row[k] = row[k + 1] = NONE
            if win.largest != NONE:
                row[k], row[k + 1] = win.largest % _BASE, win.largest // _BASE
            k += 2
            if previous[w]:
                row[k], row[k + 1] = win.previous_volume0, win.previous_volume1
                carry(row[k : k + 2])
                row[k + 2] = win.previous_trades
                k += _PREVIOUS_INTS
            row[k] = win.undone
            k += 1
            points[i, w, 4], points[i, w, 5] = win.high, win.low


def _vwaps(weighed: Array) -> Array:
    """volume_usd / volume_token as `vwap_text` rounds it; NaN where there is none.

    Of the digits of base 10^9 that `carry` made: two of the volume, then those of the amount.
    """
    answers = []
    for v0, v1, a0, a1, a2, a3, a4 in weighed.reshape(-1, len(_WEIGHED)).tolist():
        volume = v0 + _BASE * v1
        amount = a0 + _BASE * a1
        if a2 or a3 or a4:
            amount += ATTOS_PER_TOKEN * (a2 + _BASE * (a3 + _BASE * a4))
        answers.append(volume * _ATTOS_PER_MICRO / amount if amount and volume else np.nan)
    return np.array(answers).reshape(weighed.shape[:-1])


def _changes(opened: Array, closed: Array) -> Array:
    """`change_pct` of each pair; NaN where a price is."""
    scale = 10.0**PCT_DIGITS
    scaled = (closed - opened) / opened * 100 * scale
    rounded = np.rint(scaled) / scale
    # Near the middle of two roundings, or where a float has no such digits, it takes more care.
    way = np.abs(scaled - np.trunc(scaled))
    hard = (np.abs(way - 0.5) < _NEAR) | (np.abs(scaled) > _FAR)
    for place in zip(*np.nonzero(hard), strict=True):
        rounded[place] = change_pct(float(opened[place]), float(closed[place]))
    return rounded
