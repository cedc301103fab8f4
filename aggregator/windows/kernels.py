"""The loops of the columnar engine, compiled: one batch in, one minute on, one answer out.

Every function changes `Columns` in place and allocates nothing, so the caller makes room first
(`columns.with_room`). `reference.py` says the same in plain Python; `columns.py` says what the
arrays mean. `now` is a minute everywhere, `spans` the lengths of the windows in
minutes, ascending. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import TRADES_A_MINUTE
from aggregator.contracts.units import MINUTE_MS
from aggregator.runtime.compiled import compiled
from aggregator.windows.columns import (
    DIRTY,
    EARLIEST,
    ENTRIES_FREE,
    NONE,
    PAIRS_USED,
    ROWS_FREE,
    UNSAVED_ENTRIES,
    UNSAVED_ROWS,
    UNSAVED_TOKENS,
    Columns,
)

_BASE: Final = 1_000_000_000
_COUNTED: Final = ord("C")
_LATE: Final = ord("L")
_UNDONE: Final = ord("U")
_DUPLICATE: Final = ord("D")
SEEN: Final = 1
BOUGHT: Final = 2
SOLD: Final = 4


@compiled
def observe(times: Array, record_times: Array, rules: Array, watermark: int, late: Array) -> int:
    """Fill `late` in log order; the new watermark. `rules` are (grace_ms, max_future_ms)."""
    grace, max_future = rules[0], rules[1]
    for i in range(len(times)):
        time = times[i]
        if watermark != NONE:
            late[i] = (time // MINUTE_MS + 1) * MINUTE_MS <= watermark - grace
        newest = min(time, record_times[i] + max_future)
        watermark = max(watermark, newest)
    return watermark


@compiled
def _mark_unsaved(c: Columns, token: int) -> None:
    t = c.tokens[token]
    if t.unsaved == 0:
        t.unsaved = 1
        c.unsaved_tokens[c.counts[UNSAVED_TOKENS]] = token
        c.counts[UNSAVED_TOKENS] += 1


@compiled
def _touch(c: Columns, token: int) -> None:
    t = c.tokens[token]
    if t.dirty == 0:
        t.dirty = 1
        c.dirty[c.counts[DIRTY]] = token
        c.counts[DIRTY] += 1
    _mark_unsaved(c, token)


@compiled
def _touch_row(c: Columns, row: int) -> None:
    if c.row_unsaved[row] == 0:
        c.row_unsaved[row] = 1
        c.unsaved_rows[c.counts[UNSAVED_ROWS]] = row
        c.counts[UNSAVED_ROWS] += 1


@compiled
def _find_row(c: Columns, token: int, minute: int) -> tuple[int, int]:
    """(the row of the minute or NONE, the row before it or NONE)."""
    row = c.tokens[token].last
    while row != NONE and c.rows[row].minute > minute:
        row = c.links[row].prev
    if row != NONE and c.rows[row].minute == minute:
        return row, c.links[row].prev
    return NONE, row


@compiled
def _new_row(c: Columns, token: int, minute: int, before: int) -> int:
    """A row linked behind `before` in its token's list and at the head of its minute's."""
    c.counts[ROWS_FREE] -= 1
    row = c.rows_free[c.counts[ROWS_FREE]]
    r = c.rows[row]
    r.token, r.minute = token, minute
    r.trades = r.buys = r.points = r.undone = 0
    r.volume0 = r.volume1 = r.buy_volume0 = r.buy_volume1 = 0
    r.amount0 = r.amount1 = r.amount2 = r.amount3 = r.amount4 = 0
    r.largest = NONE
    link, t = c.links[row], c.tokens[token]
    link.prev = before
    if before == NONE:
        link.next = t.first
        t.first = row
    else:
        link.next = c.links[before].next
        c.links[before].next = row
    if link.next == NONE:
        t.last = row
    else:
        c.links[link.next].prev = row
    place = minute % len(c.row_heads)
    link.sibling = c.row_heads[place]
    c.row_heads[place] = row
    return row


@compiled
def _enter_lists(c: Columns, spans: Array, row: int, now: int) -> None:
    """A new row may be the first of its token in a window, or in the window before it."""
    r = c.rows[row]
    for w in range(len(spans)):
        win = c.windows[r.token, w]
        span = spans[w]
        if r.minute > now - span:
            if win.first == NONE or c.rows[win.first].minute > r.minute:
                win.first = row
        elif r.minute > now - 2 * span and (
            win.previous_first == NONE or c.rows[win.previous_first].minute > r.minute
        ):
            win.previous_first = row


@compiled
def _mix(token: int, trader: int) -> int:
    """A 64-bit key of (token, trader), never 0 (splitmix64, Steele, Lea and Flood, 2014)."""
    x = np.uint64(trader) ^ (np.uint64(token) * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return x if x != np.uint64(0) else np.uint64(1)


@compiled
def _pair_place(pairs: Array, key: int) -> int:
    """Where `key` stands in the table, or the empty place where it would."""
    mask = np.uint64(len(pairs) - 1)
    place = key & mask
    while pairs[place].key != np.uint64(0) and pairs[place].key != key:
        place = (place + np.uint64(1)) & mask
    return place


@compiled
def _see(c: Columns, spans: Array, token: int, key: int, minute: int, flags: int, now: int) -> int:
    """Note that a pair was seen in `minute`; the flags by which that was news."""
    place = _pair_place(c.pairs, key)
    p = c.pairs[place]
    if p.key == np.uint64(0):
        p.key = key
        p.seen = p.bought = p.sold = NONE
        c.counts[PAIRS_USED] += 1
    news = 0
    if flags & SEEN and minute > p.seen:
        for w in range(len(spans)):
            if minute > now - spans[w] >= p.seen:
                c.windows[token, w].traders += 1
        p.seen = minute
        news |= SEEN
    if flags & BOUGHT and minute > p.bought:
        for w in range(len(spans)):
            if minute > now - spans[w] >= p.bought:
                c.windows[token, w].buyers += 1
        p.bought = minute
        news |= BOUGHT
    if flags & SOLD and minute > p.sold:
        for w in range(len(spans)):
            if minute > now - spans[w] >= p.sold:
                c.windows[token, w].sellers += 1
        p.sold = minute
        news |= SOLD
    return news


@compiled
def _new_entry(c: Columns, token: int, key: int, minute: int, flags: int) -> int:
    c.counts[ENTRIES_FREE] -= 1
    entry = c.entries_free[c.counts[ENTRIES_FREE]]
    e = c.entries[entry]
    e.key, e.token, e.minute, e.flags = key, token, minute, flags
    place = minute % len(c.entry_heads)
    e.next = c.entry_heads[place]
    c.entry_heads[place] = entry
    return entry


@compiled
def _trade(c: Columns, spans: Array, s: Any, minute: int, now: int) -> None:
    """A trader, and which side."""
    key = _mix(s.token, s.trader)
    flags = SEEN | (BOUGHT if s.buy else SOLD)
    news = _see(c, spans, s.token, key, minute, flags, now)
    if news:
        entry = _new_entry(c, s.token, key, minute, news)
        c.unsaved_entries[c.counts[UNSAVED_ENTRIES]] = c.entries[entry]
        c.counts[UNSAVED_ENTRIES] += 1


@compiled
def _sum(into: Any, s: Any, sign: int) -> None:
    """Add a swap's sums to a row or a window."""
    into.trades += sign
    into.buys += sign * s.buy
    if s.usd != NONE:
        into.volume0 += sign * (s.usd % _BASE)
        into.volume1 += sign * (s.usd // _BASE)
        if s.buy:
            into.buy_volume0 += sign * (s.usd % _BASE)
            into.buy_volume1 += sign * (s.usd // _BASE)
        into.amount0 += sign * (s.amount_low % _BASE)
        into.amount1 += sign * (s.amount_low // _BASE)
        into.amount2 += sign * (s.amount_mid % _BASE)
        into.amount3 += sign * (s.amount_mid // _BASE)
        into.amount4 += sign * s.amount_high


@compiled
def _merge(into: Any, r: Any, sign: int) -> None:
    """Add a whole row's sums to a window."""
    into.trades += sign * r.trades
    into.buys += sign * r.buys
    into.volume0 += sign * r.volume0
    into.volume1 += sign * r.volume1
    into.buy_volume0 += sign * r.buy_volume0
    into.buy_volume1 += sign * r.buy_volume1
    into.amount0 += sign * r.amount0
    into.amount1 += sign * r.amount1
    into.amount2 += sign * r.amount2
    into.amount3 += sign * r.amount3
    into.amount4 += sign * r.amount4
    into.undone += sign * r.undone


@compiled
def _sum_previous(win: Any, s: Any, sign: int) -> None:
    """Add a swap to the window before."""
    win.previous_trades += sign
    if s.usd != NONE:
        win.previous_volume0 += sign * (s.usd % _BASE)
        win.previous_volume1 += sign * (s.usd // _BASE)


@compiled
def _merge_previous(win: Any, r: Any, sign: int) -> None:
    """Add a whole row to the window before."""
    win.previous_trades += sign * r.trades
    win.previous_volume0 += sign * r.volume0
    win.previous_volume1 += sign * r.volume1


@compiled
def _price_row(r: Any, s: Any) -> None:
    at, offset, price = s.timestamp, s.offset, s.price
    if r.points == 0:
        r.open_at = r.close_at = at
        r.open_offset = r.close_offset = offset
        r.open = r.close = r.high = r.low = price
    else:
        if at < r.open_at or (at == r.open_at and offset < r.open_offset):
            r.open_at, r.open_offset, r.open = at, offset, price
        if at > r.close_at or (at == r.close_at and offset > r.close_offset):
            r.close_at, r.close_offset, r.close = at, offset, price
        r.high = max(r.high, price)
        r.low = min(r.low, price)
    r.points += 1


@compiled
def _stretch(win: Any, high: float, low: float) -> None:
    """A price range came into a window."""
    if np.isnan(win.high):
        win.high, win.low = high, low
    else:
        win.high = max(win.high, high)
        win.low = min(win.low, low)


@compiled
def _note_newest(t: Any, s: Any) -> None:
    t.traded_at = max(t.traded_at, s.timestamp)
    if s.symbol != NONE and (
        s.timestamp > t.symbol_at or (s.timestamp == t.symbol_at and s.offset > t.symbol_offset)
    ):
        t.symbol, t.symbol_at, t.symbol_offset = s.symbol, s.timestamp, s.offset
    if not np.isnan(s.price) and (
        s.timestamp > t.price_at or (s.timestamp == t.price_at and s.offset > t.price_offset)
    ):
        t.price, t.price_at, t.price_offset = s.price, s.timestamp, s.offset


@compiled
def _count(c: Columns, spans: Array, s: Any, now: int) -> None:
    t = c.tokens[s.token]
    _note_newest(t, s)
    if s.usd == NONE:
        t.unpriced += 1
    if c.counts[EARLIEST] == NONE or s.timestamp < c.counts[EARLIEST]:
        c.counts[EARLIEST] = s.timestamp
    minute = s.timestamp // MINUTE_MS
    if minute <= now - 2 * spans[-1]:
        return
    row, before = _find_row(c, s.token, minute)
    if row == NONE:
        row = _new_row(c, s.token, minute, before)
        _enter_lists(c, spans, row, now)
    _touch_row(c, row)
    r = c.rows[row]
    _sum(r, s, 1)
    priced = not np.isnan(s.price)
    if priced:
        _price_row(r, s)
    r.largest = max(r.largest, s.usd)
    for w in range(len(spans)):
        win = c.windows[s.token, w]
        if minute > now - spans[w]:
            _sum(win, s, 1)
            win.largest = max(win.largest, s.usd)
            if priced:
                _stretch(win, s.price, s.price)
        elif minute > now - 2 * spans[w]:
            _sum_previous(win, s, 1)
    if s.trader != np.uint64(0) and minute > now - spans[-1]:
        _trade(c, spans, s, minute, now)


@compiled
def _undo(c: Columns, spans: Array, s: Any, now: int) -> None:
    t = c.tokens[s.token]
    t.retracted += 1
    if s.usd == NONE:
        # A token that was forgotten and came back does not know of the swap any more.
        t.unpriced = max(0, t.unpriced - 1)
    minute = s.timestamp // MINUTE_MS
    if minute <= now - 2 * spans[-1]:
        return
    row, before = _find_row(c, s.token, minute)
    if row == NONE:
        # The swap was counted on another partition: taken out here, right in the sum over both.
        row = _new_row(c, s.token, minute, before)
        _enter_lists(c, spans, row, now)
    _touch_row(c, row)
    r = c.rows[row]
    _sum(r, s, -1)
    r.undone += 1
    if r.trades == 0:
        r.points = 0
        r.largest = NONE
    for w in range(len(spans)):
        win = c.windows[s.token, w]
        if minute > now - spans[w]:
            _sum(win, s, -1)
            win.undone += 1
            win.stale = 1
        elif minute > now - 2 * spans[w]:
            _sum_previous(win, s, -1)


@compiled
def number(c: Columns, swaps: Array) -> None:
    """Fill `n` of what counts in the windows, now or later, and of what is taken out again."""
    for i in range(len(swaps)):
        s = swaps[i]
        if s.verdict in (_COUNTED, _UNDONE):
            t = c.tokens[s.token]
            if t.trades == 0:
                t.trades = s.timestamp // MINUTE_MS * TRADES_A_MINUTE
            t.trades += 1
            s.n = t.trades
            _mark_unsaved(c, s.token)


@compiled
def apply(c: Columns, spans: Array, swaps: Array, now: int) -> None:
    """Do what was decided of each swap, none of them of a minute after `now` (a minute)."""
    for i in range(len(swaps)):
        s = swaps[i]
        _touch(c, s.token)
        t = c.tokens[s.token]
        t.touched = max(now, 1)
        if s.verdict == _COUNTED:
            _count(c, spans, s, now)
        elif s.verdict == _DUPLICATE:
            t.duplicates += 1
        elif s.verdict == _LATE:
            t.late += 1
        elif s.verdict == _UNDONE:
            _undo(c, spans, s, now)


@compiled
def _leave_window(c: Columns, w: int, minute: int) -> None:
    """The rows of `minute` go from window w to the one before it."""
    row = c.row_heads[minute % len(c.row_heads)]
    while row != NONE:
        r, link = c.rows[row], c.links[row]
        win = c.windows[r.token, w]
        _merge(win, r, -1)
        win.first = link.next
        if (r.points and (r.high >= win.high or r.low <= win.low)) or r.largest >= win.largest:
            win.stale = 1
        _merge_previous(win, r, 1)
        if win.previous_first == NONE:
            win.previous_first = row
        _touch(c, r.token)
        row = link.sibling


@compiled
def _leave_previous(c: Columns, w: int, minute: int, oldest_of_window: int) -> None:
    """The rows of `minute` go from the window before window w to nowhere."""
    row = c.row_heads[minute % len(c.row_heads)]
    while row != NONE:
        r, link = c.rows[row], c.links[row]
        win = c.windows[r.token, w]
        _merge_previous(win, r, -1)
        after = link.next
        inside = after != NONE and c.rows[after].minute < oldest_of_window
        win.previous_first = after if inside else NONE
        _touch(c, r.token)
        row = link.sibling


@compiled
def _leave_entries(c: Columns, w: int, minute: int) -> None:
    """Pairs that were last seen in `minute` no longer count in window w."""
    entry = c.entry_heads[minute % len(c.entry_heads)]
    while entry != NONE:
        e = c.entries[entry]
        p = c.pairs[_pair_place(c.pairs, e.key)]
        win = c.windows[e.token, w]
        if e.flags & SEEN and p.seen == minute:
            win.traders -= 1
        if e.flags & BOUGHT and p.bought == minute:
            win.buyers -= 1
        if e.flags & SOLD and p.sold == minute:
            win.sellers -= 1
        entry = e.next


@compiled
def _free_rows(c: Columns, minute: int) -> None:
    """Forget the rows of `minute`, each the first of its token."""
    place = minute % len(c.row_heads)
    row = c.row_heads[place]
    while row != NONE:
        r, link = c.rows[row], c.links[row]
        t = c.tokens[r.token]
        t.first = link.next
        if link.next == NONE:
            t.last = NONE
        else:
            c.links[link.next].prev = NONE
        r.minute = NONE
        c.rows_free[c.counts[ROWS_FREE]] = row
        c.counts[ROWS_FREE] += 1
        row = link.sibling
    c.row_heads[place] = NONE


@compiled
def _free_entries(c: Columns, minute: int) -> None:
    place = minute % len(c.entry_heads)
    entry = c.entry_heads[place]
    while entry != NONE:
        c.entries_free[c.counts[ENTRIES_FREE]] = entry
        c.counts[ENTRIES_FREE] += 1
        entry = c.entries[entry].next
    c.entry_heads[place] = NONE


@compiled
def step(c: Columns, spans: Array, now: int) -> None:
    """The minute `now` has begun: rows and pairs leave the windows that they are too old for."""
    longest = spans[-1]
    for w in range(len(spans)):
        span = spans[w]
        _leave_previous(c, w, now - 2 * span, now - span)
        _leave_window(c, w, now - span)
        _leave_entries(c, w, now - span)
    _free_entries(c, now - longest)
    _free_rows(c, now - 2 * longest)


@compiled
def _refresh(c: Columns, win: Any) -> None:
    """High, low and largest anew from the window's rows."""
    win.high = win.low = np.nan
    win.largest = NONE
    row = win.first
    while row != NONE:
        r = c.rows[row]
        if r.points:
            _stretch(win, r.high, r.low)
        win.largest = max(win.largest, r.largest)
        row = c.links[row].next
    win.stale = 0


@compiled
def _open_from(c: Columns, row: int, before: int) -> float:
    """The first price from `row` on, in minutes < `before`."""
    while row != NONE and c.rows[row].minute < before:
        if c.rows[row].points:
            return c.rows[row].open
        row = c.links[row].next
    return np.nan


@compiled
def _close_back(c: Columns, row: int, after: int) -> float:
    """The last price from `row` back, in minutes > `after`."""
    while row != NONE and c.rows[row].minute > after:
        if c.rows[row].points:
            return c.rows[row].close
        row = c.links[row].prev
    return np.nan


@compiled
def prices(c: Columns, spans: Array, tokens: Array, now: int, out: Array) -> None:
    """Fill out[i, w] with (open, close, previous open, previous close); refresh the extremes."""
    for i in range(len(tokens)):
        t = c.tokens[tokens[i]]
        for w in range(len(spans)):
            win, span = c.windows[tokens[i], w], spans[w]
            if win.stale:
                _refresh(c, win)
            out[i, w, 0] = _open_from(c, win.first, now + 1)
            out[i, w, 1] = _close_back(c, t.last, now - span)
            out[i, w, 2] = _open_from(c, win.previous_first, now - span + 1)
            newest = t.last if win.first == NONE else c.links[win.first].prev
            out[i, w, 3] = _close_back(c, newest, now - 2 * span)


@compiled
def rehash(old: Array, new: Array, counts: Array, oldest: int) -> None:
    """Move the pairs that were seen in a minute > `oldest` to the empty table `new`."""
    used = 0
    for i in range(len(old)):
        if old[i].key != np.uint64(0) and old[i].seen > oldest:
            new[_pair_place(new, old[i].key)] = old[i]
            used += 1
    counts[PAIRS_USED] = used


@compiled
def rows_of(c: Columns, minute: int, out: Array) -> int:
    """Fill `out` with the places of a minute's rows; how many."""
    used = 0
    row = c.row_heads[minute % len(c.row_heads)]
    while row != NONE:
        out[used] = row
        used += 1
        row = c.links[row].sibling
    return used


@compiled
def rows_of_token(c: Columns, token: int, out: Array) -> int:
    """Fill `out` with the places of a token's rows, the oldest first; how many."""
    used = 0
    row = c.tokens[token].first
    while row != NONE:
        out[used] = row
        used += 1
        row = c.links[row].next
    return used


@compiled
def entries_of(c: Columns, minute: int, out: Array) -> int:
    """Fill `out` with the places of a minute's entries; how many."""
    used = 0
    entry = c.entry_heads[minute % len(c.entry_heads)]
    while entry != NONE:
        if c.entries[entry].minute == minute:
            out[used] = entry
            used += 1
        entry = c.entries[entry].next
    return used


@compiled
def load_rows(c: Columns, spans: Array, saved: Array, now: int) -> None:
    """Link saved rows, in ascending minutes, and add them to the windows."""
    for i in range(len(saved)):
        minute, token = saved[i].minute, saved[i].token
        if minute <= now - 2 * spans[-1]:
            continue
        row = _new_row(c, token, minute, c.tokens[token].last)
        c.rows[row] = saved[i]
        r = c.rows[row]
        _enter_lists(c, spans, row, now)
        for w in range(len(spans)):
            win = c.windows[token, w]
            if minute > now - spans[w]:
                _merge(win, r, 1)
                win.stale = 1
            elif minute > now - 2 * spans[w]:
                _merge_previous(win, r, 1)


@compiled
def load_entries(c: Columns, spans: Array, saved: Array, now: int) -> None:
    """Note saved entries, given in ascending minutes: the newest first, which settles its pair."""
    for i in range(len(saved) - 1, -1, -1):
        e = saved[i]
        if e.minute > now - spans[-1]:
            _see(c, spans, e.token, e.key, e.minute, e.flags, now)
            _new_entry(c, e.token, e.key, e.minute, e.flags)
