"""The trades for web nodes, one by one, and the last trades of each token.

Pure; the publisher gives it a thread and a connection. Trades are rendered here and not in the hot
loop, which only hands over the swaps that it applied.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from sys import intern
from typing import Final

from aggregator.contracts.event import ATTOS_PER_TOKEN
from aggregator.contracts.stats import decimal_text, usd_text
from aggregator.contracts.swaps import ABSENT, TEXTS, UNPRICED, Swaps
from aggregator.contracts.trades import Trade, TradeBatch

KEPT_A_TOKEN: Final = 200
"""Most trades of a token that an answer can contain."""
KEPT: Final = 50_000
"""Most trades kept for a partition; the tokens that traded longest ago are dropped first."""

_NUMBERS: Final = (
    *("n", "timestamp", "offset", "log_index", "block_number", "buy", "usd"),
    *("amount_low", "amount_mid", "amount_high", "price"),
)
_TEXTS: Final = [TEXTS.index(name) for name in ("tx_hash", "trader", "venue", "pool", "quote")]


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


def trade_batches(partition: int, epoch: int, applied: Iterable[Swaps]) -> list[TradeBatch]:
    """Return the trades among the applied swaps, grouped by token, in order.

    Every column of a trade is read as it stands: where a retraction took a swap out, `applied` has
    the numbers of that swap.
    """
    by_token: dict[str, list[Trade]] = {}
    for each in applied:
        for name, trade in _trades(each):
            by_token.setdefault(each.token_names[name].token_id, []).append(trade)
    return [
        TradeBatch(token_id=token_id, partition=partition, epoch=epoch, trades=trades)
        for token_id, trades in by_token.items()
    ]


def _trades(applied: Swaps) -> Iterator[tuple[int, Trade]]:
    """Yield the records that count as trades, each with the index of its token's name."""
    places = applied.swaps["n"].nonzero()[0]
    swaps, records = applied.swaps[places], applied.records[places]
    # Lists, because reading one element of an array costs as much as the rest of a trade.
    columns = [swaps[name].tolist() for name in _NUMBERS]
    names, removed = records["name"].tolist(), records["removed"].tolist()
    spans, text = applied.spans[places][:, _TEXTS].tolist(), applied.text.data
    for name, is_removed, places_of_texts, *numbers in zip(
        names, removed, spans, *columns, strict=True
    ):
        n, timestamp, offset, log_index, block, buy, usd, low, mid, high, price = numbers
        tx_hash, trader, venue, pool, quote = [
            None if begin == ABSENT else str(text[begin:end], "utf-8")
            for begin, end in places_of_texts
        ]
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
                tx_hash or "",
                log_index,
                is_removed,
                None if block == ABSENT else block,
            ),
        )
