"""Reads the archive on a real server: trades by page; candles and days against plain Python."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aggregator.clickhouse.connection import ClickHouseClient, Unavailable
from aggregator.clickhouse.reader import HistoryReader, TradePosition
from aggregator.contracts.history import ArchivedCandle, ArchivedTrade
from aggregator.contracts.units import DAY_MS, MINUTE_MS
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from infra.embedded.clickhouse import ClickHouse as ClickHouseEngine
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.archive_rows import Row, archive, insert

DAY = 1_795_392_000_000  # 2026-11-23
TOKEN = ("ethereum", "0xaa")


@pytest.fixture
def made(stack: Stack) -> Iterator[tuple[ClickHouseClient, Config, HistoryReader]]:
    with archive(stack.clickhouse.url, ARCHIVE_KEEP="3650d", ARCHIVE_HOT="3000d") as (
        clickhouse,
        config,
    ):
        reader = HistoryReader(config.clickhouse_url)
        yield clickhouse, config, reader
        reader.close()


def pages(reader: HistoryReader, limit: int, **question: object) -> Iterator[list[ArchivedTrade]]:
    after: TradePosition | None = None
    asked = {"since": 0, "until": DAY + 100 * DAY_MS, "side": None} | question
    while True:
        page = reader.trades(*TOKEN, limit=limit, after=after, **asked)  # type: ignore[arg-type]
        yield page.trades
        after = page.next
        if after is None:
            return


def numbers(trades: list[ArchivedTrade]) -> list[int]:
    return [int(trade.tx_hash, 16) for trade in trades]


def test_a_trade_as_it_was_archived(made: tuple[ClickHouseClient, Config, HistoryReader]) -> None:
    _, config, reader = made
    row = Row(
        number=1,
        timestamp=DAY + 123,
        amount="0.000000000000000001",
        usd="999999999999.999999",
        price=1e-9,
        side="sell",
    )
    insert(config, [row])
    (page,) = pages(reader, 10)
    assert page == [
        ArchivedTrade(
            event_id=f"ethereum:{row.tx_hash}:0",
            timestamp=DAY + 123,
            side="sell",
            amount="0.000000000000000001",
            amount_usd="999999999999.999999",
            price_usd="0.000000001",
            trader="0xbeef",
            venue="uniswap",
            pool="0xpool",
            quote="USDC",
            tx_hash=row.tx_hash,
            log_index=0,
            block_number=7,
        )
    ]


def test_what_does_not_count_does_not_show(
    made: tuple[ClickHouseClient, Config, HistoryReader],
) -> None:
    _, config, reader = made
    kept, gone = Row(number=1, timestamp=DAY), Row(number=2, timestamp=DAY)
    late = Row(number=3, timestamp=DAY - 5 * DAY_MS, verdict="L", usd=None, price=None)
    void = Row(number=4, timestamp=DAY, sign=0, verdict="V")
    moved = Row(number=5, timestamp=DAY, block="0x1")
    insert(config, [kept, gone, void, moved])
    insert(config, [gone.undone(), moved.undone(), Row(number=5, timestamp=DAY, block="0x2"), late])
    insert(config, [kept])  # again, under another token, and not merged yet
    (page,) = pages(reader, 10)
    assert numbers(page) == [5, 1, 3]
    assert page[2].amount_usd is None
    assert page[2].price_usd is None


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_a_swap_that_is_included_again_shows_once_as_its_newest_row(
    made: tuple[ClickHouseClient, Config, HistoryReader], limit: int
) -> None:
    """What shows depends on the sum of the signs, and not on whether there was a retraction."""
    _, config, reader = made

    def row(number: int, at: int = 0, **fields: Any) -> Row:
        return Row(number=number, timestamp=DAY + at, topic_id="T", **fields)

    stands, gone, moved = row(1), row(2), row(3)
    rows = [
        *(stands, stands.undone(), row(1, trader="0xnew")),
        *(gone, gone.undone(), gone, gone.undone()),
        # Included again with another time.
        *(moved, moved.undone(), row(3, at=7)),
        row(4, at=9),
    ]
    insert(config, rows)
    insert(config, rows)  # twice, and not merged
    found = [trade for page in pages(reader, limit) for trade in page]
    assert [(int(each.tx_hash, 16), each.timestamp - DAY) for each in found] == [
        *((4, 9), (3, 7), (1, 0))
    ]
    if limit > 2:
        assert found[-1].trader == "0xnew"


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_pages_are_filled_past_what_was_retracted(
    made: tuple[ClickHouseClient, Config, HistoryReader], limit: int
) -> None:
    _, config, reader = made
    rows = [Row(number=n, timestamp=DAY + n // 3) for n in range(40)]
    insert(config, rows)
    insert(config, [row.undone() for row in rows if row.number % 10])
    insert(config, rows[::10])  # twice, and not merged
    found = list(pages(reader, limit))
    assert [number for page in found for number in numbers(page)] == [30, 20, 10, 0]
    assert all(len(page) == limit for page in found[:-1])


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_hold_each_trade_once_and_in_order(
    made: tuple[ClickHouseClient, Config, HistoryReader], limit: int
) -> None:
    _, config, reader = made
    draw = random.Random(limit)
    rows = [
        # many in the same millisecond, over nine days with gaps
        Row(
            number=number,
            timestamp=DAY - draw.choice([0, 1, 4, 9]) * DAY_MS + draw.randrange(20),
            side=draw.choice(["buy", "sell"]),
        )
        for number in range(60)
    ]
    insert(config, rows)
    insert(config, [Row(number=1_000, timestamp=DAY, token="0xbb")])
    expected = sorted(rows, key=lambda row: (row.timestamp, row.tx_hash), reverse=True)
    found = [trade for page in pages(reader, limit) for trade in page]
    assert numbers(found) == [row.number for row in expected]
    sells = [trade for page in pages(reader, limit, side="sell") for trade in page]
    assert numbers(sells) == [row.number for row in expected if row.side == "sell"]
    since, until = DAY - 4 * DAY_MS + 3, DAY + 7
    some = [trade for page in pages(reader, limit, since=since, until=until) for trade in page]
    assert numbers(some) == [row.number for row in expected if since <= row.timestamp < until]


def test_a_page_stays_while_trades_arrive(
    made: tuple[ClickHouseClient, Config, HistoryReader],
) -> None:
    _, config, reader = made
    insert(config, [Row(number=n, timestamp=DAY + n) for n in range(20)])
    walk = pages(reader, 8)
    seen = numbers(next(walk))
    insert(config, [Row(number=100, timestamp=DAY + 50), Row(number=101, timestamp=DAY + 19)])
    for page in walk:
        seen += numbers(page)
    assert seen == list(range(19, -1, -1))


def test_days_whose_swaps_are_deleted_end_the_walk(
    made: tuple[ClickHouseClient, Config, HistoryReader],
) -> None:
    clickhouse, config, reader = made
    insert(config, [Row(number=n, timestamp=DAY - n * DAY_MS) for n in range(40)])
    for day in range(5, 40):
        date = dt.datetime.fromtimestamp((DAY - day * DAY_MS) / 1000, dt.UTC).date()
        clickhouse.execute(f"ALTER TABLE raw_swaps DROP PARTITION '{date}'")
    (page,) = pages(reader, 100)
    assert numbers(page) == [0, 1, 2, 3, 4]


def oracle(rows: list[Row], length: int) -> list[ArchivedCandle]:
    """Compute the candles of the rows by the rules of the docstrings, in the plainest way."""
    candles = []
    for begin in sorted({row.timestamp // length * length for row in rows}):
        inside = [row for row in rows if row.timestamp // length * length == begin]
        live = [
            row
            for row in inside
            if sum(r.sign for r in inside if r.timestamp // MINUTE_MS == row.timestamp // MINUTE_MS)
            and row.sign > 0
        ]
        trades = sum(row.sign for row in inside)
        if not trades:
            continue
        priced = [row for row in inside if row.usd is not None]
        usd = sum((row.sign * Decimal(row.usd or 0) for row in priced), Decimal(0))
        buys = sum((r.sign * Decimal(r.usd or 0) for r in priced if r.side == "buy"), Decimal(0))
        amount = sum((row.sign * Decimal(row.amount) for row in priced), Decimal(0))
        prices = [row for row in live if row.price is not None]
        first = min(prices, key=lambda row: row.timestamp, default=None)
        last = max(prices, key=lambda row: row.timestamp, default=None)
        text = [None if p is None else f"{p.price:g}" for p in (first, last)]
        candles.append(
            ArchivedCandle(
                open_time=begin,
                close_time=begin + length,
                open_usd=text[0],
                high_usd=f"{max(p.price or 0 for p in prices):g}" if prices else None,
                low_usd=f"{min(p.price or 0 for p in prices):g}" if prices else None,
                close_usd=text[1],
                volume_usd=f"{usd:.6f}",
                buy_volume_usd=f"{buys:.6f}",
                sell_volume_usd=f"{usd - buys:.6f}",
                volume_token=f"{amount.normalize():f}",
                trades=trades,
                vwap_usd=None if not amount else str(float(usd / amount)).removesuffix(".0"),
            )
        )
    return candles


@pytest.mark.parametrize("minutes", [1, 5, 15, 60, 240, 1440])
def test_candles_and_days_equal_the_oracle(
    made: tuple[ClickHouseClient, Config, HistoryReader], minutes: int
) -> None:
    _, config, reader = made
    draw = random.Random(5)
    times = draw.sample(range(DAY, DAY + 2 * DAY_MS, 1_000), 300)
    times += [DAY, DAY + MINUTE_MS - 1, DAY + DAY_MS - 1, DAY + DAY_MS, DAY + 7 * MINUTE_MS]
    rows = []
    for number, timestamp in enumerate(sorted(times)):
        usd = draw.choice([None, *range(1, 9)])
        rows.append(
            Row(
                number=number,
                timestamp=timestamp,
                side=draw.choice(["buy", "sell"]),
                usd=None if usd is None else str(usd),
                price=None if usd is None else usd / 2,
            )
        )
    # Every seventh swap is retracted: it is mostly the only trade of its minute.
    rows += [row.undone() for row in rows[::7]]
    for start in range(0, len(rows), 50):
        insert(config, rows[start : start + 50], first_offset=start)
    length = minutes * MINUTE_MS
    found = reader.candles(*TOKEN, since=DAY, until=DAY + 2 * DAY_MS, interval_ms=length)
    assert found == oracle(rows, length)
    if minutes != 1440:
        return
    days = reader.days(*TOKEN, since=DAY, until=DAY + 2 * DAY_MS)
    for day, candle in zip(days, found, strict=True):
        inside = [row for row in rows if candle.open_time <= row.timestamp < candle.close_time]
        assert day.day in {"2026-11-23", "2026-11-24"}
        assert day.volume_usd == candle.volume_usd
        assert day.net_volume_usd == (
            f"{Decimal(candle.buy_volume_usd) - Decimal(candle.sell_volume_usd):.6f}"
        )
        assert day.buys == sum(row.sign for row in inside if row.side == "buy")
        assert day.sells == sum(row.sign for row in inside if row.side == "sell")
        assert day.unpriced == sum(row.sign for row in inside if row.usd is None)
        assert day.retracted == sum(row.sign < 0 for row in inside)
        assert (day.trades, day.vwap_usd) == (candle.trades, candle.vwap_usd)


def test_hostile_names_are_only_names(
    made: tuple[ClickHouseClient, Config, HistoryReader],
) -> None:
    _, config, reader = made
    hostile = "'; DROP TABLE raw_swaps; --%(x)s\\"
    insert(config, [Row(number=1, timestamp=DAY, token=hostile)])
    page = reader.trades(
        "ethereum", hostile, since=0, until=DAY + 1, side=None, limit=5, after=None
    )
    assert numbers(page.trades) == [1]
    assert reader.knows("ethereum", hostile)
    assert not reader.knows("ethereum", "' OR 1=1 --")


def test_a_query_is_retried_after_a_restart_of_the_server(tmp_path: Path) -> None:
    with (
        Stack(tmp_path, only=(ClickHouseEngine,)) as own,
        archive(own.clickhouse.url) as (_, config),
    ):
        reader = HistoryReader(config.clickhouse_url)
        # Recent, because a row older than ARCHIVE_HOT goes to S3, which this stack lacks.
        insert(config, [Row(number=1, timestamp=wall_ms())])
        assert reader.knows(*TOKEN)
        own.clickhouse.kill()
        with pytest.raises(Unavailable):
            reader.knows(*TOKEN)
        own.clickhouse.start()
        assert reader.knows(*TOKEN)
        own.clickhouse.kill()
        own.clickhouse.start()
        assert reader.knows(*TOKEN)  # over a connection whose loss went unnoticed
        reader.close()


def test_a_server_that_is_down_is_unavailable() -> None:
    reader = HistoryReader(f"clickhouse://default:@127.0.0.1:{free_port()}/default")
    with pytest.raises(Unavailable):
        reader.knows(*TOKEN)
    reader.close()
