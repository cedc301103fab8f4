"""The board's numbers in columns, one array per number, for queries over many tokens.

Each token has a slot; the slot of a token that was removed is reused. `catch_up` copies what
changed on the board since its last call, so the numbers do not change between two calls. Sorted
orders are kept until then, so all queries with the same sort share one sorting. Pure, like the
board.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from aggregator.contracts.stats import usd_micros
from api.board.board import Board
from api.board.row import TokenRow

Sort = Literal[
    "volume_usd",
    "buy_volume_usd",
    "sell_volume_usd",
    "net_volume_usd",
    "trades",
    "buys",
    "sells",
    "traders",
    "buyers",
    "sellers",
    "price_change_pct",
    "last_trade_at",
]
Order = Literal["asc", "desc"]
Slots = NDArray[np.int64]
Mask = NDArray[np.bool_]

SORTS: Final = get_args(Sort)
ORDERS: Final = get_args(Order)

_WHOLE: Final = tuple(name for name in SORTS if name != "price_change_pct")
_LEAST: Final = np.iinfo(np.int64).min
_MOST: Final = np.iinfo(np.int64).max
_FIRST_CAPACITY: Final = 1_024
# Terminates id, symbol and name: no id contains white space, no registered name a line feed.
_END: Final = "\n"
_EXACT: Final = 0
_BEGINS: Final = 1
_CONTAINS: Final = 2
RANKS: Final = (_EXACT, _BEGINS, _CONTAINS)
"""How well a token matches a search, best first."""


class RowPlace(NamedTuple):
    """The position of a token in a sorted list, comparable with other positions.

    `value` is the number sorted by, negated for a descending order; unknown numbers follow all
    known ones. A search lists the tokens of one `rank` after those of the better rank.
    """

    unknown: bool
    value: float
    token_id: str
    rank: int = _EXACT


class Ordered(NamedTuple):
    """The slots of a window's tokens in one order, and the keys that they are sorted by."""

    slots: Slots
    keys: NDArray[Any]


class BoardColumns:
    """Hold the rows of `board` as of the last call of `catch_up`."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._changed = set(board.rows)
        board.listen(self._note)
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._rows: list[TokenRow | None] = []
        self._texts: list[str] = []
        self._after_chain: list[int] = []
        self._chain_numbers: dict[str, int] = {}
        self._chains = np.zeros(_FIRST_CAPACITY, np.int32)
        self._ids: list[str] = []
        self._by_id: Slots = np.zeros(0, np.int64)
        self._windows: dict[str, _Window] = {}

    def catch_up(self) -> None:
        """Copy what has changed on the board since the last call."""
        if not self._changed:
            return
        changed, self._changed = self._changed, set()
        known = self._slots.keys()
        gone = [token_id for token_id in changed if token_id not in self._board.rows]
        new = [token_id for token_id in changed - known if token_id in self._board.rows]
        self._release([token_id for token_id in gone if token_id in known])
        self._assign_slots(new)
        slots = [self._slots[token_id] for token_id in changed if token_id in self._slots]
        for slot, row in ((self._slots[t], self._board.rows[t]) for t in changed & known):
            self._rows[slot] = row
            names = (row.token_id, row.symbol or "", row.name or "")
            self._texts[slot] = "".join(f"{each}{_END}" for each in names).casefold()
            self._after_chain[slot] = len(row.chain) + 1
        if gone or new:
            self._ids.sort()
            self._by_id = np.fromiter(map(self._slots.__getitem__, self._ids), np.int64)
        for name, window in self._windows.items():
            window.put(slots, [self.row(slot) for slot in slots], name)

    def window(self, name: str) -> _Window:
        """Return the columns of a window; the first call creates them."""
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = _Window(len(self._chains))
            slots = list(self._slots.values())
            window.put(slots, [self.row(slot) for slot in slots], name)
        return window

    def row(self, slot: int) -> TokenRow:
        """Return the row of a slot in use."""
        row = self._rows[slot]
        assert row is not None
        return row

    def of_chain(self, chain: str) -> Mask:
        """Return the slots of a chain's tokens."""
        mask: Mask = self._chains == self._chain_numbers.get(chain, -1)
        return mask

    def containing(self, text: str, among: Mask) -> Mask:
        """Return those slots whose token, symbol or name contains the text, ignoring case.

        A text with a colon may match any part of the id. One without is not searched for in the
        chain, which every token of that chain shares.
        """
        wanted, texts, after_chain = text.casefold(), self._texts, self._after_chain
        mask = among.copy()
        found = np.flatnonzero(among)
        if ":" in wanted:
            holds = (wanted in texts[slot] for slot in found.tolist())
        else:
            holds = (wanted in texts[slot][after_chain[slot] :] for slot in found.tolist())
        mask[found] = np.fromiter(holds, np.bool_)
        return mask

    def ranks(self, text: str, slots: Slots) -> NDArray[np.int8]:
        """Return how well each of these slots, which contain the text, matches it."""
        wanted = text.casefold()
        return np.fromiter((self._rank(wanted, slot) for slot in slots.tolist()), np.int8)

    def _rank(self, wanted: str, slot: int) -> int:
        # Use only fast text operations: a short text may be in every one of 100,000 tokens.
        text, token = self._texts[slot], self._after_chain[slot]
        whole = f"{wanted}{_END}"
        if text.startswith(whole, token) or text.startswith(whole) or f"{_END}{whole}" in text:
            return _EXACT
        if text.startswith(wanted, token) or f"{_END}{wanted}" in text:
            return _BEGINS
        return _CONTAINS

    def ordered(self, name: str, sort: Sort, order: Order) -> Ordered:
        """Return the tokens of a window in that order; ties are in order of token id."""
        return self.window(name).ordered(sort, order, self._by_id)

    def place(self, ordered: Ordered, index: int, rank: int) -> RowPlace:
        """Return the position of the token at `index` of an order, with its rank in a search."""
        token_id = self.row(int(ordered.slots[index])).token_id
        key = ordered.keys[index].item()
        if key == _MOST or math.isnan(key):
            return RowPlace(True, 0, token_id, rank)
        return RowPlace(False, key, token_id, rank)

    def index_after(self, ordered: Ordered, place: RowPlace) -> int:
        """Return the index of the first token after the place; no token need be at the place."""
        keys = ordered.keys
        unknown = np.nan if keys.dtype == np.float64 else _MOST
        value = unknown if place.unknown else place.value
        first, end = (int(np.searchsorted(keys, value, side)) for side in ("left", "right"))
        ties: Sequence[int] = ordered.slots  # type: ignore[assignment]
        return bisect_right(
            ties, place.token_id, first, end, key=lambda slot: self.row(slot).token_id
        )

    def _note(self, token_id: str) -> None:
        self._changed.add(token_id)
        # Without queries, the ids of tokens that came and went must not accumulate.
        if len(self._changed) > 2 * (len(self._board.rows) + len(self._slots)) + _FIRST_CAPACITY:
            self._changed = {t for t in self._changed if t in self._board.rows or t in self._slots}

    def _release(self, token_ids: Iterable[str]) -> None:
        gone = set(token_ids)
        for token_id in gone:
            slot = self._slots.pop(token_id)
            self._free.append(slot)
            self._rows[slot] = None
            self._texts[slot] = ""
            self._chains[slot] = -1
            for window in self._windows.values():
                window.held[slot] = False
        if gone:
            self._ids = [token_id for token_id in self._ids if token_id not in gone]

    def _assign_slots(self, token_ids: Iterable[str]) -> None:
        for token_id in token_ids:
            slot = self._free.pop() if self._free else self._new_slot()
            self._slots[token_id] = slot
            self._ids.append(token_id)
            chain = self._board.rows[token_id].chain
            number = self._chain_numbers.setdefault(chain, len(self._chain_numbers))
            self._chains[slot] = number

    def _new_slot(self) -> int:
        slot = len(self._rows)
        self._rows.append(None)
        self._texts.append("")
        self._after_chain.append(0)
        if slot == len(self._chains):
            self._chains = np.concatenate([self._chains, np.full(slot, -1, np.int32)])
            for window in self._windows.values():
                window.grow(slot)
        return slot


class _Window:
    """Hold one window's numbers; `held` masks the slots of tokens that have the window."""

    def __init__(self, capacity: int) -> None:
        self.held: Mask = np.zeros(capacity, np.bool_)
        self._whole = np.zeros((len(_WHOLE), capacity), np.int64)
        self._change = np.full(capacity, np.nan)
        self._orders: dict[tuple[Sort, Order], Ordered] = {}

    def whole(self, name: str) -> Slots:
        """Return a column of integers; USD are in micro-USD."""
        column: Slots = self._whole[_WHOLE.index(name)]
        return column

    def put(self, slots: list[int], rows: list[TokenRow], name: str) -> None:
        """Store the numbers of these rows in these slots."""
        self._orders.clear()
        numbers = [_numbers(row, name) for row in rows]
        with_it = [slot for slot, each in zip(slots, numbers, strict=True) if each is not None]
        self.held[slots] = False
        if with_it:
            found = [each for each in numbers if each is not None]
            self.held[with_it] = True
            self._whole[:, with_it] = _array([whole for whole, _ in found]).T
            self._change[with_it] = [change for _, change in found]

    def grow(self, by: int) -> None:
        """Add slots."""
        self.held = np.concatenate([self.held, np.zeros(by, np.bool_)])
        self._whole = np.concatenate([self._whole, np.zeros((len(_WHOLE), by), np.int64)], axis=1)
        self._change = np.concatenate([self._change, np.full(by, np.nan)])

    def ordered(self, sort: Sort, order: Order, by_id: Slots) -> Ordered:
        """Return the slots of `by_id` that have the window, sorted; ties keep their order."""
        made = self._orders.get((sort, order))
        if made is None:
            slots = by_id[self.held[by_id]]
            keys = self._keys(sort, order)[slots]
            sorting = np.argsort(keys, kind="stable")
            made = self._orders[sort, order] = Ordered(slots[sorting], keys[sorting])
        return made

    def _keys(self, sort: Sort, order: Order) -> NDArray[Any]:
        if sort == "price_change_pct":
            return -self._change if order == "desc" else self._change
        values = self.whole(sort)
        return np.where(values == _LEAST, _MOST, -values if order == "desc" else values)


def _numbers(row: TokenRow, window: str) -> tuple[tuple[int, ...], float] | None:
    """Return the row's numbers in the order of _WHOLE and its price change; None without window."""
    stats = row.windows.get(window)
    if stats is None:
        return None
    whole = (
        usd_micros(stats.volume_usd),
        usd_micros(stats.buy_volume_usd),
        usd_micros(stats.sell_volume_usd),
        usd_micros(stats.net_volume_usd),
        stats.trades,
        stats.buys,
        stats.sells,
        stats.traders,
        stats.buyers,
        stats.sellers,
        _LEAST if row.last_trade_at is None else row.last_trade_at,
    )
    change = stats.price_change_pct
    return whole, np.nan if change is None else change


def _array(rows: list[tuple[int, ...]]) -> NDArray[np.int64]:
    """Return the rows as 64-bit integers; a number beyond their range is clamped."""
    try:
        return np.array(rows, np.int64)
    except OverflowError:
        fitting = [[min(max(each, -_MOST + 1), _MOST - 1) for each in row] for row in rows]
        # An unknown time is _LEAST and must stay it: clamping would make it a known time.
        for made, row in zip(fitting, rows, strict=True):
            made[-1] = row[-1]
        return np.array(fitting, np.int64)
