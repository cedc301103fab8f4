"""The compiled loops of the window engine: apply a batch, begin a minute, read the numbers.

Every function changes `WindowColumns` in place and allocates nothing, so the caller makes room
first (`columns.with_room`). `columns.py` says what the arrays mean; `tests/spec/windows.py`
specifies the same engine in plain Python. `now` is a minute everywhere, and `spans` holds the
lengths of the windows in minutes, ascending. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import TRADES_A_MINUTE
from aggregator.contracts.units import MINUTE_MS
from aggregator.contracts.verdict import Verdict
from aggregator.runtime.compiled import compiled
from aggregator.windows.columns import (
    DIRTY,
    ENTRIES_FREE,
    NONE,
    PAIRS_USED,
    ROWS_FREE,
    SKIP_BITS,
    UNSAVED_ENTRIES,
    UNSAVED_ROWS,
    UNSAVED_TOKENS,
    WindowColumns,
)

_BASE: Final = 1_000_000_000
_COUNTED: Final = ord(Verdict.COUNTED.value)
_PROMOTED: Final = ord(Verdict.PROMOTED.value)
_LATE: Final = ord(Verdict.LATE.value)
_UNDONE: Final = ord(Verdict.UNDONE.value)
_DUPLICATE: Final = ord(Verdict.DUPLICATE.value)
SEEN: Final = 1
BOUGHT: Final = 2
SOLD: Final = 4


@compiled
def _mark_unsaved(columns: WindowColumns, number: int) -> None:
    """Add the token to the next snapshot."""
    token = columns.tokens[number]
    # The flag keeps each token in the list once, so the list never outgrows the tokens.
    if token.unsaved == 0:
        token.unsaved = 1
        columns.unsaved_tokens[columns.counts[UNSAVED_TOKENS]] = number
        columns.counts[UNSAVED_TOKENS] += 1


@compiled
def _mark_dirty(columns: WindowColumns, number: int) -> None:
    """Add the token to the next flush and to the next snapshot."""
    token = columns.tokens[number]
    if token.dirty == 0:
        token.dirty = 1
        columns.dirty[columns.counts[DIRTY]] = number
        columns.counts[DIRTY] += 1
    _mark_unsaved(columns, number)


@compiled
def _mark_row_unsaved(columns: WindowColumns, row: int) -> None:
    """Add the bucket to the next snapshot."""
    if columns.row_unsaved[row] == 0:
        columns.row_unsaved[row] = 1
        columns.unsaved_rows[columns.counts[UNSAVED_ROWS]] = row
        columns.counts[UNSAVED_ROWS] += 1


@compiled
def _find_row(columns: WindowColumns, number: int, minute: int) -> tuple[int, int]:
    """Return the row of the token's minute and the row before it, NONE for a missing one."""
    # Swaps arrive nearly in order, so most searches end at the newest row.
    row = columns.tokens[number].last
    while row != NONE and columns.rows[row].minute > minute:
        here, link = columns.rows[row].minute, columns.links[row]
        row = link.prev
        if minute >> SKIP_BITS < here >> SKIP_BITS and link.skip != NONE:
            bucket = columns.rows[link.skip]
            # The named row may have been freed and used again. Whatever row of the token it is now,
            # the search may go on from it, unless it lies beyond the minute.
            if bucket.token == number and minute <= bucket.minute < here:
                row = link.skip
    if row != NONE and columns.rows[row].minute == minute:
        return row, columns.links[row].prev
    return NONE, row


@compiled
def _skip_to(columns: WindowColumns, after: int, row: int, span: int) -> None:
    """Let the rows that begin at `after` skip to the new row where it is the newest of its span."""
    later = columns.rows[after].minute >> SKIP_BITS
    if later == span:
        return
    while after != NONE and columns.rows[after].minute >> SKIP_BITS == later:
        columns.links[after].skip = row
        after = columns.links[after].next


@compiled
def _new_row(columns: WindowColumns, number: int, minute: int, before: int) -> int:
    """Take a free row; link it after `before` in its token's list and first in its minute's."""
    columns.counts[ROWS_FREE] -= 1
    row = columns.rows_free[columns.counts[ROWS_FREE]]
    bucket = columns.rows[row]
    bucket.token, bucket.minute = number, minute
    # The row may have been used before. The prices stay: `points` = 0 says that they mean nothing.
    bucket.trades = bucket.buys = bucket.points = bucket.undone = 0
    bucket.volume0 = bucket.volume1 = bucket.buy_volume0 = bucket.buy_volume1 = 0
    bucket.amount0 = bucket.amount1 = bucket.amount2 = bucket.amount3 = bucket.amount4 = 0
    bucket.largest = NONE
    link, token = columns.links[row], columns.tokens[number]
    link.prev = before
    if before == NONE:
        link.next = token.first
        token.first = row
    else:
        link.next = columns.links[before].next
        columns.links[before].next = row
    span = minute >> SKIP_BITS
    link.skip = before
    if before != NONE and columns.rows[before].minute >> SKIP_BITS == span:
        link.skip = columns.links[before].skip
    if link.next == NONE:
        token.last = row
    else:
        columns.links[link.next].prev = row
        _skip_to(columns, link.next, row, span)
    # The ring is longer than any row is kept, so two minutes never share a place.
    place = minute % len(columns.row_heads)
    link.sibling = columns.row_heads[place]
    columns.row_heads[place] = row
    return row


@compiled
def _enter_lists(columns: WindowColumns, spans: Array, row: int, now: int) -> None:
    """Make the new row the first of its token in the windows where it is the oldest.

    A row lies in the window itself, in the window before it, or in neither.
    """
    bucket = columns.rows[row]
    for index in range(len(spans)):
        window = columns.windows[bucket.token, index]
        span = spans[index]
        if bucket.minute > now - span:
            if window.first == NONE or columns.rows[window.first].minute > bucket.minute:
                window.first = row
        elif bucket.minute > now - 2 * span and (
            window.previous_first == NONE
            or columns.rows[window.previous_first].minute > bucket.minute
        ):
            window.previous_first = row


@compiled
def _mix(token: int, trader: int) -> int:
    """Return a 64-bit key of (token, trader), never 0: splitmix64 (Steele, Lea, Flood, 2014)."""
    x = np.uint64(trader) ^ (np.uint64(token) * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return x if x != np.uint64(0) else np.uint64(1)


@compiled
def _pair_place(pairs: Array, key: int) -> int:
    """Return the place of `key` in the hash table, or the empty place where it belongs."""
    # Linear probing. Every operand is unsigned: numba would turn a mixed sum into a float.
    mask = np.uint64(len(pairs) - 1)
    place = key & mask
    while pairs[place].key != np.uint64(0) and pairs[place].key != key:
        place = (place + np.uint64(1)) & mask
    return place


@compiled
def _see(
    columns: WindowColumns, spans: Array, number: int, key: int, minute: int, flags: int, now: int
) -> int:
    """Note that a pair was seen in `minute`; return the flags for which that was news.

    A window counts a pair while the newest minute in which it was seen lies inside. So a sighting
    raises the count only where it lies inside and the newest one before it does not, and a
    sighting that is no newer changes nothing.
    """
    place = _pair_place(columns.pairs, key)
    pair = columns.pairs[place]
    if pair.key == np.uint64(0):
        pair.key = key
        pair.seen = pair.bought = pair.sold = NONE
        columns.counts[PAIRS_USED] += 1
    news = 0
    if flags & SEEN and minute > pair.seen:
        for index in range(len(spans)):
            if minute > now - spans[index] >= pair.seen:
                columns.windows[number, index].traders += 1
        pair.seen = minute
        news |= SEEN
    if flags & BOUGHT and minute > pair.bought:
        for index in range(len(spans)):
            if minute > now - spans[index] >= pair.bought:
                columns.windows[number, index].buyers += 1
        pair.bought = minute
        news |= BOUGHT
    if flags & SOLD and minute > pair.sold:
        for index in range(len(spans)):
            if minute > now - spans[index] >= pair.sold:
                columns.windows[number, index].sellers += 1
        pair.sold = minute
        news |= SOLD
    return news


@compiled
def _new_entry(columns: WindowColumns, number: int, key: int, minute: int, flags: int) -> int:
    """Take a free entry and put it first in its minute's list."""
    columns.counts[ENTRIES_FREE] -= 1
    place = columns.entries_free[columns.counts[ENTRIES_FREE]]
    entry = columns.entries[place]
    entry.key, entry.token, entry.minute, entry.flags = key, number, minute, flags
    head = minute % len(columns.entry_heads)
    entry.next = columns.entry_heads[head]
    columns.entry_heads[head] = place
    return place


@compiled
def _note_trader(columns: WindowColumns, spans: Array, swap: Any, minute: int, now: int) -> None:
    """Count the swap's trader, and the side that they took."""
    key = _mix(swap.token, swap.trader)
    flags = SEEN | (BOUGHT if swap.buy else SOLD)
    news = _see(columns, spans, swap.token, key, minute, flags, now)
    # An entry for every swap would grow with the swaps; news come once per trader, side and minute.
    if news:
        place = _new_entry(columns, swap.token, key, minute, news)
        columns.unsaved_entries[columns.counts[UNSAVED_ENTRIES]] = columns.entries[place]
        columns.counts[UNSAVED_ENTRIES] += 1


@compiled
def _sum(into: Any, swap: Any, sign: int) -> None:
    """Add a swap's sums to a bucket or a window; `sign` is 1 or -1."""
    into.trades += sign
    into.buys += sign * swap.buy
    if swap.usd != NONE:
        # Digits are added without a carry: a subtraction is exact, and `rows.py` carries once.
        into.volume0 += sign * (swap.usd % _BASE)
        into.volume1 += sign * (swap.usd // _BASE)
        if swap.buy:
            into.buy_volume0 += sign * (swap.usd % _BASE)
            into.buy_volume1 += sign * (swap.usd // _BASE)
        # A swap has its amount in digits of base 10^18, each of them two digits here.
        into.amount0 += sign * (swap.amount_low % _BASE)
        into.amount1 += sign * (swap.amount_low // _BASE)
        into.amount2 += sign * (swap.amount_mid % _BASE)
        into.amount3 += sign * (swap.amount_mid // _BASE)
        into.amount4 += sign * swap.amount_high


@compiled
def _merge(into: Any, bucket: Any, sign: int) -> None:
    """Add a whole bucket's sums to a window."""
    into.trades += sign * bucket.trades
    into.buys += sign * bucket.buys
    into.volume0 += sign * bucket.volume0
    into.volume1 += sign * bucket.volume1
    into.buy_volume0 += sign * bucket.buy_volume0
    into.buy_volume1 += sign * bucket.buy_volume1
    into.amount0 += sign * bucket.amount0
    into.amount1 += sign * bucket.amount1
    into.amount2 += sign * bucket.amount2
    into.amount3 += sign * bucket.amount3
    into.amount4 += sign * bucket.amount4
    into.undone += sign * bucket.undone


@compiled
def _sum_previous(window: Any, swap: Any, sign: int) -> None:
    """Add a swap to the previous window."""
    window.previous_trades += sign
    if swap.usd != NONE:
        window.previous_volume0 += sign * (swap.usd % _BASE)
        window.previous_volume1 += sign * (swap.usd // _BASE)


@compiled
def _merge_previous(window: Any, bucket: Any, sign: int) -> None:
    """Add a whole bucket to the previous window."""
    window.previous_trades += sign * bucket.trades
    window.previous_volume0 += sign * bucket.volume0
    window.previous_volume1 += sign * bucket.volume1


@compiled
def _before(
    at: int,
    block: int,
    log: int,
    offset: int,
    other_at: int,
    other_block: int,
    other_log: int,
    other_offset: int,
) -> bool:
    """Whether the first swap comes before the other one in the order of trading."""
    if at != other_at:
        return at < other_at
    if block != other_block:
        return block < other_block
    if log != other_log:
        return log < other_log
    return offset < other_offset


@compiled
def _price_bucket(bucket: Any, swap: Any) -> None:
    """Take the swap's price into the bucket's open, close, high and low."""
    ms, price = swap.timestamp - bucket.minute * MINUTE_MS, swap.price
    block, log, offset = swap.block_number, swap.log_index, swap.offset
    first = bucket.points == 0
    if first:
        bucket.high = bucket.low = price
    else:
        bucket.high = max(bucket.high, price)
        bucket.low = min(bucket.low, price)
    if first or _before(
        ms,
        block,
        log,
        offset,
        bucket.open_ms,
        bucket.open_block,
        bucket.open_log,
        bucket.open_offset,
    ):
        bucket.open_ms, bucket.open_block, bucket.open_log = ms, block, log
        bucket.open_offset, bucket.open = offset, price
    if first or _before(
        bucket.close_ms,
        bucket.close_block,
        bucket.close_log,
        bucket.close_offset,
        ms,
        block,
        log,
        offset,
    ):
        bucket.close_ms, bucket.close_block, bucket.close_log = ms, block, log
        bucket.close_offset, bucket.close = offset, price
    bucket.points += 1


@compiled
def _add(bucket: Any, swap: Any) -> None:
    """Count a swap in its bucket."""
    _sum(bucket, swap, 1)
    if not np.isnan(swap.price):
        _price_bucket(bucket, swap)
    # An unpriced swap has usd = NONE = -1, which is below every size.
    bucket.largest = max(bucket.largest, swap.usd)


@compiled
def _take_out(bucket: Any, swap: Any) -> None:
    """Take a counted swap out of its bucket."""
    _sum(bucket, swap, -1)
    bucket.undone += 1
    # A bucket keeps extremes and not its swaps, so they stay until no swap is left.
    if bucket.trades == 0:
        bucket.points = 0
        bucket.largest = NONE


@compiled
def count_apart(swaps: Array, places: Array, rows: Array) -> None:
    """Count swaps of future minutes in rows[places[i]], which belong to no window."""
    for i in range(len(swaps)):
        if swaps[i].verdict == _UNDONE:
            _take_out(rows[places[i]], swaps[i])
        else:
            _add(rows[places[i]], swaps[i])


@compiled
def _stretch(window: Any, high: float, low: float) -> None:
    """Widen the window's price range to hold `high` and `low`."""
    # NaN is the range of a window without a price; min and max would keep it.
    if np.isnan(window.high):
        window.high, window.low = high, low
    else:
        window.high = max(window.high, high)
        window.low = min(window.low, low)


@compiled
def _note_newest(token: Any, swap: Any) -> None:
    """Keep the token's newest trade time, and its symbol and price by the order of trading."""
    at, block, log, offset = swap.timestamp, swap.block_number, swap.log_index, swap.offset
    token.traded_at = max(token.traded_at, at)
    if swap.symbol != NONE and _before(
        token.symbol_at,
        token.symbol_block,
        token.symbol_log,
        token.symbol_offset,
        at,
        block,
        log,
        offset,
    ):
        token.symbol, token.symbol_at, token.symbol_block = swap.symbol, at, block
        token.symbol_log, token.symbol_offset = log, offset
    if not np.isnan(swap.price) and _before(
        token.price_at,
        token.price_block,
        token.price_log,
        token.price_offset,
        at,
        block,
        log,
        offset,
    ):
        token.price, token.price_at, token.price_block = swap.price, at, block
        token.price_log, token.price_offset = log, offset


@compiled
def _count(columns: WindowColumns, spans: Array, swap: Any, now: int) -> None:
    """Count a swap in its bucket and in every window that holds its minute."""
    token = columns.tokens[swap.token]
    _note_newest(token, swap)
    if swap.usd == NONE:
        token.unpriced += 1
    minute = swap.timestamp // MINUTE_MS
    # No window or previous window reaches further back, and the ring has no place for it.
    if minute <= now - 2 * spans[-1]:
        return
    row, before = _find_row(columns, swap.token, minute)
    if row == NONE:
        row = _new_row(columns, swap.token, minute, before)
        _enter_lists(columns, spans, row, now)
    _mark_row_unsaved(columns, row)
    _add(columns.rows[row], swap)
    for index in range(len(spans)):
        window = columns.windows[swap.token, index]
        if minute > now - spans[index]:
            _sum(window, swap, 1)
            window.largest = max(window.largest, swap.usd)
            if not np.isnan(swap.price):
                _stretch(window, swap.price, swap.price)
        elif minute > now - 2 * spans[index]:
            _sum_previous(window, swap, 1)
    if swap.trader != np.uint64(0) and minute > now - spans[-1]:
        _note_trader(columns, spans, swap, minute, now)


@compiled
def _undo(columns: WindowColumns, spans: Array, swap: Any, now: int) -> None:
    """Take a counted swap out again. Sums stay exact; the windows are marked approximate."""
    token = columns.tokens[swap.token]
    if swap.usd == NONE:
        # A token that was forgotten and came back does not know of the swap any more.
        token.unpriced = max(0, token.unpriced - 1)
    minute = swap.timestamp // MINUTE_MS
    if minute <= now - 2 * spans[-1]:
        return
    row, _ = _find_row(columns, swap.token, minute)
    if row == NONE:
        return
    _mark_row_unsaved(columns, row)
    _take_out(columns.rows[row], swap)
    for index in range(len(spans)):
        window = columns.windows[swap.token, index]
        if minute > now - spans[index]:
            _sum(window, swap, -1)
            window.undone += 1
            window.stale = 1
        elif minute > now - 2 * spans[index]:
            _sum_previous(window, swap, -1)


@compiled
def assign_trade_numbers(columns: WindowColumns, swaps: Array, trades: Array) -> None:
    """Fill `n` of every swap: of trades the token's next number, of others 0.

    `trades` (bool) marks the swaps that count in the windows, now or later, or are taken out again.
    Numbers depend on the log alone, so they are given before swaps of future minutes are held.
    """
    for i in range(len(swaps)):
        swap = swaps[i]
        swap.n = 0
        if trades[i]:
            token = columns.tokens[swap.token]
            if token.trades == 0:
                token.trades = swap.timestamp // MINUTE_MS * TRADES_A_MINUTE
            token.trades += 1
            swap.n = token.trades
            _mark_unsaved(columns, swap.token)


@compiled
def apply(columns: WindowColumns, spans: Array, swaps: Array, now: int) -> None:
    """Do what was decided of each record; no counted or undone swap may be of a minute > `now`.

    Records without a token change nothing.
    """
    for i in range(len(swaps)):
        swap = swaps[i]
        if swap.token == NONE:
            continue
        _mark_dirty(columns, swap.token)
        token = columns.tokens[swap.token]
        # 0 means "before the first record", and a replay at event time begins at minute 0.
        token.touched = max(now, 1)
        if swap.verdict in (_COUNTED, _PROMOTED):
            _count(columns, spans, swap, now)
        elif swap.verdict == _DUPLICATE:
            token.duplicates += 1
        elif swap.verdict == _LATE:
            token.late += 1
        elif swap.verdict == _UNDONE:
            token.retracted += 1
            # Only a retraction that takes something out has a number.
            if swap.n != 0:
                _undo(columns, spans, swap, now)


@compiled
def _leave_window(columns: WindowColumns, index: int, minute: int) -> None:
    """Move the rows of `minute` from a window to its previous window."""
    row = columns.row_heads[minute % len(columns.row_heads)]
    while row != NONE:
        bucket, link = columns.rows[row], columns.links[row]
        window = columns.windows[bucket.token, index]
        _merge(window, bucket, -1)
        window.first = link.next
        # Sums can be subtracted, extremes cannot: where the leaving bucket may have held one, the
        # next read computes them again from the rows that are left.
        if (
            bucket.points and (bucket.high >= window.high or bucket.low <= window.low)
        ) or bucket.largest >= window.largest:
            window.stale = 1
        _merge_previous(window, bucket, 1)
        # Minutes leave in order, so the row is the oldest only where there is no other yet.
        if window.previous_first == NONE:
            window.previous_first = row
        _mark_dirty(columns, bucket.token)
        row = link.sibling


@compiled
def _leave_previous(columns: WindowColumns, index: int, minute: int, oldest_of_window: int) -> None:
    """Take the rows of `minute` out of the previous window."""
    row = columns.row_heads[minute % len(columns.row_heads)]
    while row != NONE:
        bucket, link = columns.rows[row], columns.links[row]
        window = columns.windows[bucket.token, index]
        _merge_previous(window, bucket, -1)
        # The token's list runs on into the window itself, whose rows are not in the one before.
        after = link.next
        inside = after != NONE and columns.rows[after].minute < oldest_of_window
        window.previous_first = after if inside else NONE
        _mark_dirty(columns, bucket.token)
        row = link.sibling


@compiled
def _leave_entries(columns: WindowColumns, index: int, minute: int) -> None:
    """Stop counting in a window the pairs that were last seen in `minute`."""
    place = columns.entry_heads[minute % len(columns.entry_heads)]
    while place != NONE:
        entry = columns.entries[place]
        pair = columns.pairs[_pair_place(columns.pairs, entry.key)]
        window = columns.windows[entry.token, index]
        # A pair seen again since then has an entry in a later minute, and leaves with that one.
        if entry.flags & SEEN and pair.seen == minute:
            window.traders -= 1
        if entry.flags & BOUGHT and pair.bought == minute:
            window.buyers -= 1
        if entry.flags & SOLD and pair.sold == minute:
            window.sellers -= 1
        place = entry.next


@compiled
def _free_rows(columns: WindowColumns, minute: int) -> None:
    """Free the rows of `minute`, each the first of its token."""
    place = minute % len(columns.row_heads)
    row = columns.row_heads[place]
    while row != NONE:
        bucket, link = columns.rows[row], columns.links[row]
        token = columns.tokens[bucket.token]
        token.first = link.next
        if link.next == NONE:
            token.last = NONE
        else:
            columns.links[link.next].prev = NONE
        # The row may still stand in the list of unsaved rows, which skips rows without a minute.
        bucket.minute = NONE
        columns.rows_free[columns.counts[ROWS_FREE]] = row
        columns.counts[ROWS_FREE] += 1
        row = link.sibling
    columns.row_heads[place] = NONE


@compiled
def _free_entries(columns: WindowColumns, minute: int) -> None:
    """Free the entries of `minute`."""
    head = minute % len(columns.entry_heads)
    place = columns.entry_heads[head]
    while place != NONE:
        columns.entries_free[columns.counts[ENTRIES_FREE]] = place
        columns.counts[ENTRIES_FREE] += 1
        place = columns.entries[place].next
    columns.entry_heads[head] = NONE


@compiled
def begin_minute(columns: WindowColumns, spans: Array, now: int) -> None:
    """Begin the minute `now`: rows and pairs leave the windows that they are too old for."""
    longest = spans[-1]
    for index in range(len(spans)):
        span = spans[index]
        # A previous window gives up its oldest minute before it takes in the next: only then does
        # an empty `previous_first` say that the row which enters is the oldest.
        _leave_previous(columns, index, now - 2 * span, now - span)
        _leave_window(columns, index, now - span)
        _leave_entries(columns, index, now - span)
    # Last, when no window needs them. Previous windows have no distinct traders, so entries go
    # after one length of the longest window and rows after two.
    _free_entries(columns, now - longest)
    _free_rows(columns, now - 2 * longest)


@compiled
def _refresh_extremes(columns: WindowColumns, window: Any) -> None:
    """Compute high, low and largest again from the window's rows."""
    window.high = window.low = np.nan
    window.largest = NONE
    row = window.first
    while row != NONE:
        bucket = columns.rows[row]
        if bucket.points:
            _stretch(window, bucket.high, bucket.low)
        window.largest = max(window.largest, bucket.largest)
        row = columns.links[row].next
    window.stale = 0


@compiled
def _open_from(columns: WindowColumns, row: int, before: int) -> float:
    """Return the first price from `row` on, in minutes < `before`; NaN where there is none."""
    while row != NONE and columns.rows[row].minute < before:
        if columns.rows[row].points:
            return columns.rows[row].open
        row = columns.links[row].next
    return np.nan


@compiled
def _close_back(columns: WindowColumns, row: int, after: int) -> float:
    """Return the last price from `row` back, in minutes > `after`; NaN where there is none."""
    while row != NONE and columns.rows[row].minute > after:
        if columns.rows[row].points:
            return columns.rows[row].close
        row = columns.links[row].prev
    return np.nan


@compiled
def prices(columns: WindowColumns, spans: Array, tokens: Array, now: int, out: Array) -> None:
    """Fill out[i, w] with (open, close, previous open, previous close); refresh the extremes.

    Windows keep no open and close: the token's list gives them in a step or two, while to keep
    them right would cost work whenever a bucket enters or leaves.
    """
    for i in range(len(tokens)):
        token = columns.tokens[tokens[i]]
        for index in range(len(spans)):
            window, span = columns.windows[tokens[i], index], spans[index]
            if window.stale:
                _refresh_extremes(columns, window)
            out[i, index, 0] = _open_from(columns, window.first, now + 1)
            out[i, index, 1] = _close_back(columns, token.last, now - span)
            out[i, index, 2] = _open_from(columns, window.previous_first, now - span + 1)
            # The previous window ends where the window begins, or with the token's last row.
            newest = token.last if window.first == NONE else columns.links[window.first].prev
            out[i, index, 3] = _close_back(columns, newest, now - 2 * span)


@compiled
def rehash(old: Array, new: Array, counts: Array, oldest: int) -> None:
    """Move the pairs that were seen in a minute > `oldest` to the empty table `new`.

    Moving is how pairs are deleted: to empty a place would break the probing of other keys.
    """
    used = 0
    for i in range(len(old)):
        if old[i].key != np.uint64(0) and old[i].seen > oldest:
            new[_pair_place(new, old[i].key)] = old[i]
            used += 1
    counts[PAIRS_USED] = used


@compiled
def rows_of_minute(columns: WindowColumns, minute: int, out: Array, used: int) -> int:
    """Write the places of a minute's rows to `out` from `used` on; return where they end."""
    row = columns.row_heads[minute % len(columns.row_heads)]
    while row != NONE:
        out[used] = row
        used += 1
        row = columns.links[row].sibling
    return used


@compiled
def rows_of_token(columns: WindowColumns, number: int, out: Array) -> int:
    """Fill `out` with the places of a token's rows, the oldest first; return how many there are."""
    used = 0
    row = columns.tokens[number].first
    while row != NONE:
        out[used] = row
        used += 1
        row = columns.links[row].next
    return used


@compiled
def entries_of_minute(columns: WindowColumns, minute: int, out: Array, used: int) -> int:
    """Write the places of a minute's entries to `out` from `used` on; return where they end."""
    place = columns.entry_heads[minute % len(columns.entry_heads)]
    while place != NONE:
        # Minutes that lie a ring apart share a list.
        if columns.entries[place].minute == minute:
            out[used] = place
            used += 1
        place = columns.entries[place].next
    return used


@compiled
def load_rows(columns: WindowColumns, spans: Array, saved: Array, now: int) -> None:
    """Link saved rows, given in ascending minutes, and add them to the windows."""
    for i in range(len(saved)):
        minute, number = saved[i].minute, saved[i].token
        if minute <= now - 2 * spans[-1]:
            continue
        # Ascending minutes make each row the newest of its token, so none is searched for.
        row = _new_row(columns, number, minute, columns.tokens[number].last)
        columns.rows[row] = saved[i]
        bucket = columns.rows[row]
        _enter_lists(columns, spans, row, now)
        for index in range(len(spans)):
            window = columns.windows[number, index]
            if minute > now - spans[index]:
                _merge(window, bucket, 1)
                window.stale = 1
            elif minute > now - 2 * spans[index]:
                _merge_previous(window, bucket, 1)


@compiled
def load_entries(columns: WindowColumns, spans: Array, saved: Array, now: int) -> None:
    """Note saved entries, given in ascending minutes."""
    # The newest sighting of each kind comes first and decides its pair; an older one is no news.
    for i in range(len(saved) - 1, -1, -1):
        entry = saved[i]
        if entry.minute > now - spans[-1]:
            _see(columns, spans, entry.token, entry.key, entry.minute, entry.flags, now)
            _new_entry(columns, entry.token, entry.key, entry.minute, entry.flags)
