"""Archived and live trades as one list: each once, in order, for any page size."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from aggregator.clickhouse.reader import Offset, TradePage, TradePosition
from aggregator.contracts.history import ArchivedTrade
from aggregator.contracts.trades import Trade as LiveTrade
from api.archive.newest import Newest, Page, Wanted, with_newest

PARTITION = 3
MOST = 200
NOW = 1_795_400_000_000


def live(offset: int, ms: int = 0, *, removed: bool = False, side: str = "buy") -> LiveTrade:
    """Return a live trade; its hash is that of its offset. Without `ms`, a later one is newer."""
    return LiveTrade(
        n=offset,
        timestamp=NOW + (ms or offset),
        offset=offset,
        side=side,
        amount="1",
        amount_usd=None,
        price_usd=None,
        trader=None,
        venue=None,
        pool=None,
        quote=None,
        tx_hash=f"0x{offset:04x}",
        log_index=0,
        removed=removed,
    )


def undone(trade: LiveTrade, offset: int) -> LiveTrade:
    """Return the retraction of a trade."""
    fields = {name: getattr(trade, name) for name in trade.__struct_fields__}
    return LiveTrade(**fields | {"offset": offset, "n": offset, "removed": True})


class Model:
    """A token's log: the first offsets are archived, the last are in memory."""

    def __init__(self, log: list[LiveTrade], archived: int, most: int = MOST) -> None:
        self.log = log
        self.archived = archived
        self.most = most

    def page(self, limit: int, after: TradePosition | None, side: str | None = None) -> Page:
        wanted = Wanted("c", 0, NOW * 2, side, limit, after)
        return with_newest(self.archive(wanted), self.memory(), wanted)

    def archive(self, wanted: Wanted) -> TradePage:
        """Answer as the reader does."""
        log = self.log[: self.archived]
        rows = [(position(each), each) for each in log if not each.removed]
        rows = [row for row in rows if wanted.side in {None, row[1].side}]
        rows = sorted(r for r in rows if wanted.after is None or r[0] < wanted.after)[::-1]
        gone = {each.tx_hash for each in log if each.removed}
        live = [row for row in rows if row[1].tx_hash not in gone]
        page = live[: wanted.limit]
        end = page[-1][0] if len(live) > wanted.limit else None
        seen = [Offset(PARTITION, each.offset) for at, each in rows if end is None or at >= end]
        return TradePage(
            [archived(each) for _, each in page],
            end,
            [at for at, _ in page],
            [Offset(PARTITION, each.offset) for _, each in page],
            frozenset(seen),
        )

    def memory(self) -> Newest:
        return Newest(PARTITION, self.log[-self.most :], self.most)


def position(trade: LiveTrade) -> TradePosition:
    return TradePosition(trade.timestamp, trade.tx_hash, 0, "AB" * 16)


def archived(trade: LiveTrade) -> ArchivedTrade:
    names = set(ArchivedTrade.__struct_fields__) & set(trade.__struct_fields__)
    fields = {name: getattr(trade, name) for name in names}
    return ArchivedTrade(event_id=f"c:{trade.tx_hash}:0", **fields)


def hashes(trades: list[ArchivedTrade]) -> list[str]:
    return [trade.tx_hash for trade in trades]


def counting(log: list[LiveTrade]) -> list[str]:
    gone = {each.tx_hash for each in log if each.removed}
    kept = [each for each in log if not each.removed and each.tx_hash not in gone]
    return [each.tx_hash for each in sorted(kept, key=position, reverse=True)]


@pytest.mark.parametrize("limit", [1, 3, 7, 1_000])
@pytest.mark.parametrize("seed", range(8))
def test_pages_hold_every_trade_once_while_the_archive_catches_up(limit: int, seed: int) -> None:
    draw = random.Random(seed)
    log: list[LiveTrade] = []
    for offset in range(60):
        if log and draw.random() < 0.15:
            victims = [each for each in log if not each.removed]
            log.append(undone(draw.choice(victims), offset))
            log = [*log]
        else:
            log.append(live(offset, offset + draw.randint(-4, 4)))
    model = Model(log, draw.randrange(len(log)), MOST)
    found: list[str] = []
    after, pages = None, 0
    while True:
        page = model.page(limit, after)
        assert page.live
        assert len(page.trades) <= limit
        found += hashes(page.trades)
        after, pages = page.next, pages + 1
        if after is None:
            break
        model.archived = min(len(log), model.archived + draw.randrange(3))
    assert found == counting(log)
    assert pages >= len(found) // limit


def test_a_trade_looks_the_same_before_and_after_it_is_archived() -> None:
    log = [replace(live(1), block_number=7), replace(live(2), block_number=8)]
    before = Model(log, 1).page(10, None).trades
    after = Model(log, 2).page(10, None).trades
    assert [trade.block_number for trade in before] == [8, 7]
    assert before[0].event_id == "c:0x0002:0"
    assert before == after


def test_side_and_range_hold_for_memory_too() -> None:
    log = [live(1), live(2, side="sell"), live(3), live(4, side="sell")]
    assert hashes(Model(log, 1).page(10, None, "sell").trades) == ["0x0004", "0x0002"]
    narrow = Wanted("c", NOW + 2, NOW + 4, None, 10, None)
    model = Model(log, 0)
    assert hashes(with_newest(model.archive(narrow), model.memory(), narrow).trades) == [
        "0x0003",
        "0x0002",
    ]


def test_a_retraction_leaves_the_same_swap_in_a_later_block() -> None:
    first = live(1)
    again = LiveTrade(
        **{name: getattr(first, name) for name in first.__struct_fields__} | {"offset": 3}
    )
    log = [first, undone(first, 2), again]
    newest = Newest(PARTITION, log, MOST)
    empty = TradePage([], None, [], [], frozenset())
    page = with_newest(empty, newest, Wanted("c", 0, NOW * 2, None, 10, None))
    assert hashes(page.trades) == ["0x0001"]


def test_no_gap_where_memory_does_not_reach_back_to_the_archive() -> None:
    log = [live(offset) for offset in range(1, 40)]
    reaches = Model(log, 30, most=10).page(5, None)
    assert (reaches.live, hashes(reaches.trades)[0]) == (True, "0x0027")
    short = Model(log, 20, most=10).page(5, None)
    assert not short.live
    assert hashes(short.trades)[0] == "0x0014"
