"""A page of archived trades with those in front that the archive does not have yet.

A trade is archived some seconds after it is counted; until then the token's stream on this node has
it. Both know a trade by its offset in the log, so none is given twice, and a page goes on behind a
trade wherever that one came from. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from aggregator.clickhouse.reader import Offset, TradePage, TradePosition
from aggregator.contracts.history import ArchivedTrade
from aggregator.contracts.trades import Trade

# Behind every marker, and what is not archived yet has none.
_ANY_MARKER: Final = "00" * 16


class Wanted(NamedTuple):
    """What a page is asked for, as `HistoryReader.trades` is."""

    chain: str
    since: int
    until: int
    side: str | None
    limit: int
    after: TradePosition | None


class Newest(NamedTuple):
    """The last trades of a token on this node, oldest first; `most` is how many are ever kept."""

    partition: int
    told: list[Trade]
    most: int


class Page(NamedTuple):
    """Trades, newest first, the position to go on behind, and whether memory had its say."""

    trades: list[ArchivedTrade]
    next: TradePosition | None
    live: bool


class _Placed(NamedTuple):
    position: TradePosition
    offset: Offset
    trade: ArchivedTrade


def archived_only(page: TradePage) -> Page:
    """The page as it is."""
    return Page(page.trades, page.next, False)


def with_newest(page: TradePage, newest: Newest, wanted: Wanted) -> Page:
    """The page with the trades that memory has and the archive has not.

    `live` is False, and the page as it is, where between the two there may be trades that neither
    has: an archiver that is more than the kept trades behind.
    """
    offsets = [Offset(newest.partition, told.offset) for told in newest.told]
    fresh = []
    for told, offset in zip(newest.told, offsets, strict=True):
        position = TradePosition(told.timestamp, told.tx_hash, told.log_index, _ANY_MARKER)
        # What lies behind the end of a full page is the next page's.
        here = page.next is None or position[:3] > page.next[:3]
        if here and _asked_for(position, told, wanted) and offset not in page.seen:
            fresh.append(_Placed(position, offset, _trade(wanted.chain, told)))
    if fresh and len(offsets) >= newest.most and not page.seen.intersection(offsets):
        return archived_only(page)
    known = zip(page.positions, page.offsets, page.trades, strict=True)
    placed = [*(_Placed(*each) for each in known), *fresh]
    gone = _retracted(placed, newest)
    live = sorted((each for each in placed if each.offset not in gone), key=_place, reverse=True)
    end = page.next
    if len(live) > wanted.limit:
        live = live[: wanted.limit]
        end = live[-1].position
    return Page([each.trade for each in live], end, True)


def _place(placed: _Placed) -> TradePosition:
    return placed.position


def _asked_for(position: TradePosition, told: Trade, wanted: Wanted) -> bool:
    behind = wanted.after is None or position[:3] < wanted.after[:3]
    in_range = wanted.since <= position.ms < wanted.until
    return not told.removed and behind and in_range and wanted.side in {None, told.side}


def _retracted(placed: Iterable[_Placed], newest: Newest) -> set[Offset]:
    """The offsets of those that memory has a retraction of.

    It undoes the last addition before it: the same transaction may come again in another block.
    """
    additions: dict[tuple[str, int], list[Offset]] = {}
    for each in placed:
        additions.setdefault(each.position[1:3], []).append(each.offset)
    gone: set[Offset] = set()
    for told in newest.told:
        if told.removed:
            same = additions.get((told.tx_hash, told.log_index), ())
            before = [
                each
                for each in same
                if each.partition == newest.partition and each.offset < told.offset
            ]
            gone.update(sorted(before)[-1:])
    return gone


def _trade(chain: str, told: Trade) -> ArchivedTrade:
    return ArchivedTrade(
        event_id=f"{chain}:{told.tx_hash}:{told.log_index}",
        timestamp=told.timestamp,
        side=told.side,
        amount=told.amount,
        amount_usd=told.amount_usd,
        price_usd=told.price_usd,
        trader=told.trader,
        venue=told.venue,
        pool=told.pool,
        quote=told.quote,
        tx_hash=told.tx_hash,
        log_index=told.log_index,
        block_number=None,
    )
