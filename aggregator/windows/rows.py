"""Board rows read from the columns: the `TokenStats` of many tokens as JSON.

The layout is the contract's own `TokenStats` with gaps where tokens differ. A compiled loop
collects the integers in the order of the gaps, numpy computes the floats, and `rendering.py` fills
them in. The columns stay as they are, except for extremes that must be computed again. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

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
from aggregator.runtime.compiled import compiled
from aggregator.windows import kernels
from aggregator.windows.columns import LIMBS, NONE, WindowColumns
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
# The integers of a token come first: seq, last trade, unpriced, duplicates, late, retracted.
_TOKEN_INTS: Final = 6
# Then those of each window: 6 counts, 4 sums in USD (two digits each), the amount, the largest
# trade (two digits), the volume and the trades of the previous window where it is known, the flag.
# Texts, floats and integers fill the gaps of `_template` in order, so each order is fixed there.
_VOLUME: Final = 6
_AMOUNT: Final = _VOLUME + 4 * 2
_WINDOW_INTS: Final = _AMOUNT + LIMBS + 2 + 1
_PREVIOUS_INTS: Final = 2 + 1
_WEIGHED: Final = (_VOLUME, _VOLUME + 1, *range(_AMOUNT, _AMOUNT + LIMBS))
_ATTOS_PER_MICRO: Final = ATTOS_PER_TOKEN // MICROS_PER_USD
# Where `_changes` leaves the rounding of a percentage to the contract's own function.
_NEAR: Final = 1e-3
_FAR: Final = 1e9


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """What all rows of one call share: the owner, and how far it has read; see `TokenStats`."""

    partition: int
    epoch: int
    next_offset: int
    as_of: int
    watermark: int | None


class WindowEdges:
    """What all tokens share of one window at one instant: its edges, and whether it is complete.

    The window of `span` minutes at `minute` is [open_time, close_time) in ms, with the running
    minute.
    """

    def __init__(
        self, name: str, span: int, minute: int, complete: bool, previous_complete: bool
    ) -> None:
        self.name = name
        self.open_time = (minute - span + 1) * MINUTE_MS
        self.close_time = (minute + 1) * MINUTE_MS
        self.complete = complete
        self.previous_complete = previous_complete


def render_rows(
    columns: WindowColumns,
    spans: Array,
    tokens: Array,
    *,
    minute: int,
    names: Sequence[Name | None],
    symbols: Sequence[str],
    origin: RowOrigin,
    edges: Sequence[WindowEdges],
    first_seq: int,
    seq_step: int,
) -> list[bytes]:
    """Return the rows of the tokens, given by number; `edges` are the windows' at `minute`.

    The first row has the seq `first_seq`, and each further one `seq_step` more.
    """
    previous = np.array([each.previous_complete for each in edges])
    width = _TOKEN_INTS + len(spans) * _WINDOW_INTS + int(previous.sum()) * _PREVIOUS_INTS
    ints = np.empty((len(tokens), width), np.int64)
    # Of each token and window: open, close, previous open, previous close, high, low.
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
    return _template(origin, edges).rows(ints, texts, floats.tolist())


def _floats(known: Array, ints: Array, points: Array, previous: Array) -> Array:
    """Return the floats of each row in the order of `_template`."""
    opened, closed, previous_opened, previous_closed, high, low = np.moveaxis(points, 2, 0)
    # Where the integers of each window begin: a window without a previous one is shorter.
    starts = _TOKEN_INTS + np.cumsum([0, *(_WINDOW_INTS + _PREVIOUS_INTS * previous[:-1])])
    vwaps = _vwaps(ints[:, np.add.outer(starts, _WEIGHED)])
    changes, previous_changes = _changes(opened, closed), _changes(previous_opened, previous_closed)
    columns = [np.where(known["price_at"] == NONE, np.nan, known["price"])]
    for w, whole in enumerate(previous.tolist()):
        columns += [opened[:, w], high[:, w], low[:, w], closed[:, w], vwaps[:, w], changes[:, w]]
        if whole:
            columns.append(previous_changes[:, w])
    return np.column_stack(columns)


def _template(origin: RowOrigin, edges: Sequence[WindowEdges]) -> Template:
    """Return the row that all tokens share, made for each call: edges move with the clock."""
    return Template(
        TokenStats(
            token_id=TEXT,
            chain=TEXT,
            token=TEXT,
            symbol=TEXT,
            partition=origin.partition,
            epoch=origin.epoch,
            seq=COUNT,
            next_offset=origin.next_offset,
            as_of=origin.as_of,
            watermark=origin.watermark,
            stale=False,
            last_price_usd=PRICE,
            last_trade_at=TIME,
            quality=Quality(unpriced=COUNT, duplicates=COUNT, late=COUNT, retracted=COUNT),
            windows={each.name: _window(each) for each in edges},
        )
    )


def _window(edges: WindowEdges) -> WindowStats:
    return WindowStats(
        open_time=edges.open_time,
        close_time=edges.close_time,
        complete=edges.complete,
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
        if edges.previous_complete
        else None,
        approximate=FLAG,
    )


@compiled
def collect(
    columns: WindowColumns, tokens: Array, previous: Array, ints: Array, points: Array
) -> None:
    """Fill `ints` in the order of `_template` and points[i, w, 4:] with (high, low).

    The seq is left to the caller. `previous` says of each window whether its previous window is
    known, and so has gaps.
    """
    for i in range(len(tokens)):
        token, row = columns.tokens[tokens[i]], ints[i]
        row[1], row[2], row[3] = token.traded_at, token.unpriced, token.duplicates
        row[4], row[5] = token.late, token.retracted
        k = _TOKEN_INTS
        for index in range(len(previous)):
            window = columns.windows[tokens[i], index]
            row[k], row[k + 1], row[k + 2] = window.trades, window.buys, window.trades - window.buys
            row[k + 3], row[k + 4], row[k + 5] = window.traders, window.buyers, window.sellers
            volume0, volume1 = window.volume0, window.volume1
            buys0, buys1 = window.buy_volume0, window.buy_volume1
            k += _VOLUME
            # Volume, buy volume, sell volume, net volume. Digits subtract one by one; the carry
            # afterwards brings them into range.
            row[k], row[k + 1] = volume0, volume1
            row[k + 2], row[k + 3] = buys0, buys1
            row[k + 4], row[k + 5] = volume0 - buys0, volume1 - buys1
            row[k + 6], row[k + 7] = 2 * buys0 - volume0, 2 * buys1 - volume1
            for usd in range(k, k + 8, 2):
                carry(row[usd : usd + 2])
            k += 8
            row[k], row[k + 1], row[k + 2] = window.amount0, window.amount1, window.amount2
            row[k + 3], row[k + 4] = window.amount3, window.amount4
            carry(row[k : k + LIMBS])
            k += LIMBS
            row[k] = row[k + 1] = NONE
            if window.largest != NONE:
                row[k], row[k + 1] = window.largest % _BASE, window.largest // _BASE
            k += 2
            if previous[index]:
                row[k], row[k + 1] = window.previous_volume0, window.previous_volume1
                carry(row[k : k + 2])
                row[k + 2] = window.previous_trades
                k += _PREVIOUS_INTS
            row[k] = window.undone
            k += 1
            points[i, index, 4], points[i, index, 5] = window.high, window.low


def _vwaps(weighed: Array) -> Array:
    """Return volume_usd / volume_token as `vwap_text` rounds it; NaN where there is none.

    `weighed` holds carried digits of base 10^9: two of the volume, then those of the amount. The
    division is one of whole numbers of any size, so no loop over int64 can make it.
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
    """Return `change_pct` of each pair of prices; NaN where one is NaN."""
    scale = 10.0**PCT_DIGITS
    scaled = (closed - opened) / opened * 100 * scale
    rounded = np.rint(scaled) / scale
    # Floats cannot decide near the middle of two roundings, nor where they have no such digits.
    # These few are left to the contract's exact function.
    way = np.abs(scaled - np.trunc(scaled))
    hard = (np.abs(way - 0.5) < _NEAR) | (np.abs(scaled) > _FAR)
    for place in zip(*np.nonzero(hard), strict=True):
        rounded[place] = change_pct(float(opened[place]), float(closed[place]))
    return rounded
