"""Parts move to S3 by age and are dropped at the end of their lifetime; queries stay correct.

Runs on its own engine, whose lifetimes are seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.reader import HistoryReader
from aggregator.clickhouse.schema import ensure_schema
from aggregator.contracts.units import MINUTE_MS
from aggregator.runtime.config import load
from infra.embedded.clickhouse import ClickHouse as ClickHouseEngine
from infra.embedded.s3 import S3
from infra.embedded.stack import Stack
from tests.support.archive_rows import Row, archive, insert
from tests.support.processes import wait_until

TOKEN = ("ethereum", "0xaa")
ROWS = 4_000
LATE = 12


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, only=(S3, ClickHouseEngine)) as stack:
        yield stack


def disks(clickhouse: ClickHouseClient, table: str) -> dict[str, int]:
    """Return the rows in active parts by disk."""
    return dict(
        clickhouse.execute(
            "SELECT disk_name, toInt64(sum(rows)) FROM system.parts WHERE active "
            "AND database = currentDatabase() AND table = %(table)s GROUP BY disk_name",
            {"table": table},
        )
    )


def parts(clickhouse: ClickHouseClient, table: str) -> int:
    """Return the active parts of a table."""
    ((count,),) = clickhouse.execute(
        "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() "
        "AND table = %(table)s",
        {"table": table},
    )
    return int(count)


def cold_bytes(stack: Stack) -> int:
    """Return the bytes in the bucket."""
    return sum(path.stat().st_size for path in stack.s3.data.rglob("*") if path.is_file())


def test_parts_move_to_s3_and_then_go(own: Stack) -> None:
    lifetimes = {"ARCHIVE_HOT": "1h", "ARCHIVE_KEEP": "2h", "ARCHIVE_DAILY_KEEP": "10d"}
    with archive(own.clickhouse.url, **lifetimes) as (clickhouse, config):
        reader = HistoryReader(config.clickhouse_url)
        minute = time.time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS
        day = minute // 86_400_000 * 86_400_000
        old = max(day, minute - 20 * MINUTE_MS)  # within one UTC day at any hour
        rows = [Row(number=n, timestamp=old + n % 1_000) for n in range(ROWS)]
        insert(config, rows, token="first")

        def answers() -> tuple[object, ...]:
            span = {"since": old - MINUTE_MS, "until": minute + MINUTE_MS}
            page = reader.trades(*TOKEN, **span, side=None, limit=1_000, after=None)
            candles = reader.candles(*TOKEN, **span, interval_ms=MINUTE_MS)
            days = reader.days(*TOKEN, since=day, until=day + 86_400_000)
            return page, candles, days

        before = answers()
        assert disks(clickhouse, "raw_swaps") == {"default": ROWS}
        empty_bucket = cold_bytes(own)
        age_s = int(time.time() - old / 1000)

        ensure_schema(clickhouse, load(_settings(config.clickhouse_url, hot_s=max(1, age_s - 2))))
        wait_until(
            lambda: (
                disks(clickhouse, "raw_swaps") == {"cold": ROWS}
                and "default" not in disks(clickhouse, "candles_1m")
            ),
            60,
            "the move to S3",
        )
        assert answers() == before
        # 16 bytes of marker and 32 of transaction hash in each row cannot be compressed
        assert cold_bytes(own) - empty_bucket > ROWS * 20
        assert disks(clickhouse, "daily_token_agg") == {"default": 1}
        # a day inserted again after the move: its tokens are still known
        insert(config, rows, token="first")
        assert answers() == before
        # late swaps go to S3 too, and their many parts are merged
        for number in range(ROWS, ROWS + LATE):
            late = Row(number=number, timestamp=old, verdict="L")
            insert(config, [late], first_offset=number)
        assert reader.days(*TOKEN, since=day, until=day + 86_400_000)[0].trades == ROWS + LATE
        for table in ("raw_swaps", "candles_1m"):
            wait_until(lambda t=table: parts(clickhouse, t) <= LATE // 2, 60, f"merges of {table}")  # type: ignore[misc]
        assert disks(clickhouse, "raw_swaps") == {"cold": ROWS + LATE}

        keep_s = int(time.time() - old / 1000) + 2
        ensure_schema(clickhouse, load(_settings(config.clickhouse_url, hot_s=1, keep_s=keep_s)))
        wait_until(
            lambda: not disks(clickhouse, "raw_swaps") and not disks(clickhouse, "candles_1m"),
            60,
            "the end of life",
        )
        page, candles, days = answers()
        assert (page.trades, candles) == ([], [])  # type: ignore[attr-defined]
        assert days[0].trades == ROWS + LATE  # type: ignore[index]
        wait_until(lambda: cold_bytes(own) - empty_bucket < ROWS, 60, "an empty bucket")
        reader.close()


class NearlyFull(ClickHouseEngine):
    """An engine whose local disk has too little room, once it is started as `full`."""

    full = False

    def prepare(self) -> None:
        super().prepare()
        if not self.full:
            return
        policy = self.data / "config.d" / "storage.xml"
        text, found = re.subn(
            r"(<keep_free_space_bytes>)\d+(?=</)", rf"\g<1>{10**17}", policy.read_text()
        )
        assert found == 1
        policy.write_text(text)


def test_where_the_local_disk_is_nearly_full_new_parts_go_to_s3(tmp_path: Path) -> None:
    engines = Stack(tmp_path, only=(S3, NearlyFull))
    engine = next(each for each in engines.engines if isinstance(each, NearlyFull))
    engine.cold = engines.s3
    with engines, archive(engine.url) as (clickhouse, config):
        clickhouse.close()
        engine.stop()
        engine.full = True
        engine.start()
        now = time.time_ns() // 1_000_000
        insert(config, [Row(number=n, timestamp=now) for n in range(50)])
        assert disks(clickhouse, "raw_swaps") == {"cold": 50}
        reader = HistoryReader(config.clickhouse_url)
        span = {"since": now - MINUTE_MS, "until": now + MINUTE_MS}
        assert len(reader.trades(*TOKEN, **span, side=None, limit=100, after=None).trades) == 50
        reader.close()


def _settings(url: str, *, hot_s: int, keep_s: int = 7_200) -> dict[str, str]:
    return {
        "CLICKHOUSE_URL": url,
        "ARCHIVE_HOT": f"{hot_s}s",
        "ARCHIVE_KEEP": f"{keep_s}s",
        "ARCHIVE_DAILY_KEEP": "10d",
    }
