"""The trades for web nodes, one by one, and the last trades of each token.

Pure; the publisher gives it a thread and a connection. Trades are rendered here and not in the hot
loop, which only hands over the swaps that it applied.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from sys import intern
from typing import Final

from aggregator.contracts.batch import UNPRICED, SwapBatch
from aggregator.contracts.event import ATTOS_PER_TOKEN
from aggregator.contracts.stats import decimal_text, usd_text
from aggregator.contracts.trades import Trade, TradeBatch

KEPT_A_TOKEN: Final = 200
"""Most trades of a token that an answer can contain."""
KEPT: Final = 50_000
"""Most trades kept for a partition; the tokens that traded longest ago are dropped first."""

_COLUMNS: Final = (
    *("n", "timestamp", "offset", "buy", "usd"),
    *("amount_low", "amount_mid", "amount_high", "price"),
)


class RecentTrades:
    """The last trades of each token of a partition, in ascending `n` without holes."""

    def __init__(self, kept_a_token: int = KEPT_A_TOKEN, kept: int = KEPT) -> None:
        self._kept_a_token = kept_a_token
        self._kept = kept
        self._held = 0
        self._by_token: OrderedDict[str, deque[Trade]] = OrderedDict()

    def add(self, token_id: str, trades: Sequence[Trade]) -> None:
        """Keep the next trades of a token."""
        held = self._by_token.get(token_id)
        if held is None or (held and held[-1].n + 1 != trades[0].n):
            # The numbering started over, so the kept trades have numbers of another count.
            self._held -= len(held or ())
            held = self._by_token[token_id] = deque(maxlen=self._kept_a_token)
        before = len(held)
        held.extend(trades)
        self._held += len(held) - before
        self._by_token.move_to_end(token_id)
        while self._held > self._kept and len(self._by_token) > 1:
            _, dropped = self._by_token.popitem(last=False)
            self._held -= len(dropped)

    def of(self, token_id: str, up_to: int) -> list[Trade]:
        """Return the kept trades of a token with an `n` of at most `up_to`."""
        return [trade for trade in self._by_token.get(token_id, ()) if trade.n <= up_to]


def trade_batches(partition: int, epoch: int, applied: Iterable[SwapBatch]) -> list[TradeBatch]:
    """Return the trades among the applied swaps, grouped by token, in order."""
    by_token: dict[str, list[Trade]] = {}
    for each in applied:
        for name, trade in _trades(each):
            by_token.setdefault(each.token_names[name].token_id, []).append(trade)
    return [
        TradeBatch(token_id=token_id, partition=partition, epoch=epoch, trades=trades)
        for token_id, trades in by_token.items()
    ]


def _trades(batch: SwapBatch) -> Iterator[tuple[int, Trade]]:
    """Yield the swaps that count as trades, each with the index of its token's name."""
    places = batch.swaps["n"].nonzero()[0]
    swaps = batch.swaps[places]
    # Lists, because reading one element of an array costs as much as the rest of a trade.
    columns = [swaps[name].tolist() for name in _COLUMNS]
    names, removed = batch.names[places].tolist(), batch.removed[places].tolist()
    for place, name, is_removed, *numbers in zip(
        places.tolist(), names, removed, *columns, strict=True
    ):
        n, timestamp, offset, buy, usd, low, mid, high, price = numbers
        tx_hash, log_index, trader, venue, pool, quote = batch.texts(place)
        # Thousands of kept trades share few venues, pools and quotes: keep one text of each.
        venue, pool, quote = venue and intern(venue), pool and intern(pool), quote and intern(quote)
        whole = high * ATTOS_PER_TOKEN + mid if high else mid
        # Positional arguments: keywords would cost a third of the construction.
        yield (
            name,
            Trade(
                n,
                timestamp,
                offset,
                "buy" if buy else "sell",
                f"{whole}.{low:018d}".rstrip("0") if low else str(whole),
                None if usd == UNPRICED else usd_text(usd),
                None if price != price else decimal_text(price),  # noqa: PLR0124 - NaN alone
                trader,
                venue,
                pool,
                quote,
                tx_hash,
                log_index,
                is_removed,
            ),
        )
