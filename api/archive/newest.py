"""Merges a page of archived trades with newer trades that the archive does not have yet.

A trade is archived some seconds after it is counted; until then the token's stream on this node
holds it. Archive and stream identify a trade by its offset in the log, so no trade appears twice,
and the next page continues after a trade of either source. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from aggregator.clickhouse.reader import Offset, TradePage, TradePosition
from aggregator.contracts.history import ArchivedTrade
from aggregator.contracts.trades import Trade as LiveTrade

# Sorts before every archived marker; a live trade has no marker yet.
_ANY_MARKER: Final = "00" * 16


class Wanted(NamedTuple):
    """The query of a page, with the arguments of `HistoryReader.trades`."""

    chain: str
    since: int
    until: int
    side: str | None
    limit: int
    after: TradePosition | None


class Newest(NamedTuple):
    """The last trades of a token on this node, oldest first; at most `most` of them are kept."""

    partition: int
    trades: list[LiveTrade]
    most: int


class Page(NamedTuple):
    """Trades, newest first.

    `next` is the position after which the next page begins, None on the last page; `live` is
    whether trades of memory were merged.
    """

    trades: list[ArchivedTrade]
    next: TradePosition | None
    live: bool


class _Placed(NamedTuple):
    position: TradePosition
    offset: Offset
    trade: ArchivedTrade


def archived_only(page: TradePage) -> Page:
    """Return the page without trades of memory."""
    return Page(page.trades, page.next, False)


def with_newest(page: TradePage, newest: Newest, wanted: Wanted) -> Page:
    """Return the page with the trades that memory has and the archive does not have yet.

    The page is returned unchanged, with `live` False, if trades may be missing between the two:
    the archiver lags by more trades than memory keeps.
    """
    offsets = [Offset(newest.partition, live.offset) for live in newest.trades]
    fresh = []
    for live, offset in zip(newest.trades, offsets, strict=True):
        position = TradePosition(live.timestamp, live.tx_hash, live.log_index, _ANY_MARKER)
        # Trades after the end of a full page belong to the next page.
        here = page.next is None or position[:3] > page.next[:3]
        if here and _asked_for(position, live, wanted) and offset not in page.seen:
            fresh.append(_Placed(position, offset, _trade(wanted.chain, live)))
    if fresh and len(offsets) >= newest.most and not page.seen.intersection(offsets):
        return archived_only(page)
    known = zip(page.positions, page.offsets, page.trades, strict=True)
    placed = [*(_Placed(*each) for each in known), *fresh]
    gone = _retracted(placed, newest)
    kept = sorted((each for each in placed if each.offset not in gone), key=_place, reverse=True)
    end = page.next
    if len(kept) > wanted.limit:
        kept = kept[: wanted.limit]
        end = kept[-1].position
    return Page([each.trade for each in kept], end, True)


def _place(placed: _Placed) -> TradePosition:
    return placed.position


def _asked_for(position: TradePosition, live: LiveTrade, wanted: Wanted) -> bool:
    follows = wanted.after is None or position[:3] < wanted.after[:3]
    in_range = wanted.since <= position.ms < wanted.until
    return not live.removed and follows and in_range and wanted.side in {None, live.side}


def _retracted(placed: Iterable[_Placed], newest: Newest) -> set[Offset]:
    """Return the offsets of the trades that a retraction in memory takes back.

    A retraction undoes the last addition before it, because the same transaction may be added again
    in another block.
    """
    additions: dict[tuple[str, int], list[Offset]] = {}
    for each in placed:
        additions.setdefault(each.position[1:3], []).append(each.offset)
    gone: set[Offset] = set()
    for live in newest.trades:
        if live.removed:
            same = additions.get((live.tx_hash, live.log_index), ())
            before = [
                each
                for each in same
                if each.partition == newest.partition and each.offset < live.offset
            ]
            gone.update(sorted(before)[-1:])
    return gone


def _trade(chain: str, live: LiveTrade) -> ArchivedTrade:
    return ArchivedTrade(
        event_id=f"{chain}:{live.tx_hash}:{live.log_index}",
        timestamp=live.timestamp,
        side=live.side,
        amount=live.amount,
        amount_usd=live.amount_usd,
        price_usd=live.price_usd,
        trader=live.trader,
        venue=live.venue,
        pool=live.pool,
        quote=live.quote,
        tx_hash=live.tx_hash,
        log_index=live.log_index,
        block_number=live.block_number,
    )
