"""`manage.py verify_archive` on a real archive: no output if all agrees, exact if it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.contracts.units import DAY_MS, MINUTE_MS
from aggregator.runtime.config import Config
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.archive_rows import Row, archive, insert

ROOT = Path(__file__).parents[2]
DAY = 1_795_392_000_000  # 2026-11-23


@pytest.fixture
def made(stack: Stack) -> Iterator[tuple[ClickHouseClient, Config]]:
    with archive(stack.clickhouse.url, ARCHIVE_KEEP="3650d", ARCHIVE_HOT="3000d") as both:
        _, config = both
        rows = [
            Row(
                number=n,
                timestamp=DAY + n * 7 * MINUTE_MS // 2,
                token=f"0x{n % 3}",
                side="buy" if n % 2 else "sell",
                usd=None if n % 5 == 0 else f"{n}.5",
                price=None if n % 5 == 0 else n / 4 + 1,
                verdict="L" if n % 11 == 0 else "C",
            )
            for n in range(200)
        ]
        insert(config, rows)
        insert(config, [row.undone() for row in rows[::9]], first_offset=200)
        insert(config, [Row(number=900, timestamp=DAY, sign=0, verdict="V")], first_offset=300)
        insert(config, [Row(number=901, timestamp=DAY + DAY_MS)], first_offset=301)
        yield both


def verify(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "verify_archive", *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, "CLICKHOUSE_URL": config.clickhouse_url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_all_agree(made: tuple[ClickHouseClient, Config]) -> None:
    done = verify(made[1], "--day", "2026-11-23")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "2026-11-23: 223 rows, 3 tokens, 200 candles, no difference"
    )
    assert "compared 25 of 25 slices" in done.stderr


def test_a_day_without_a_row(made: tuple[ClickHouseClient, Config]) -> None:
    done = verify(made[1], "--day", "2026-11-20", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 0


def test_a_total_that_counts_twice_is_found(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    clickhouse.execute(
        "INSERT INTO daily_token_agg (chain, token, day, trades, volume_usd) "
        "SELECT 'ethereum', '0x1', toDate('2026-11-23'), 1, 2.5"
    )
    done = verify(config, "--day", "2026-11-23", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    fields = {each["field"]: each for each in found["differences"]}
    assert set(fields) == {"trades", "volume_usd"}
    assert found["different"] == 2
    assert fields["trades"]["table"] == "daily_token_agg"
    assert (fields["trades"]["token"], fields["trades"]["at"]) == ("0x1", "2026-11-23")
    assert int(fields["trades"]["found"]) == int(fields["trades"]["expected"]) + 1


def test_candles_that_are_missing_are_found(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    clickhouse.execute("ALTER TABLE candles_1m DROP PARTITION '2026-11-23'")
    done = verify(config, "--day", "2026-11-23", "--show", "3")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("candles_1m ethereum:0x0 2026-11-23 00:00:00 trades: nothing")
    assert lines[3].startswith("and ")


def test_a_day_is_mended_as_the_docs_say(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    views = dict(
        clickhouse.execute(
            "SELECT name, as_select FROM system.tables WHERE database = currentDatabase() "
            "AND engine = 'MaterializedView'"
        )
    )
    clickhouse.execute("ALTER TABLE candles_1m DROP PARTITION '2026-11-23'")
    clickhouse.execute("INSERT INTO daily_token_agg SELECT * FROM daily_token_agg")
    clickhouse.execute("DELETE FROM daily_token_agg WHERE day = '2026-11-23'")
    assert verify(config, "--day", "2026-11-23").returncode == 1
    for table in ("daily_token_agg", "candles_1m"):
        select = views[f"{table}_view"].replace(
            "WHERE sign != 0", "FINAL WHERE sign != 0 AND toDate(timestamp, 'UTC') = '2026-11-23'"
        )
        assert "FINAL" in select
        clickhouse.execute(f"INSERT INTO {table} {select}")
    done = verify(config, "--day", "2026-11-23")
    assert done.returncode == 0, done.stdout


def test_a_row_that_is_gone_from_raw_swaps_is_found(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    clickhouse.execute(
        "ALTER TABLE raw_swaps DELETE WHERE `offset` = 7 SETTINGS mutations_sync = 2"
    )
    done = verify(config, "--day", "2026-11-23", "--json")
    assert done.returncode == 1
    tables = {each["table"] for each in json.loads(done.stdout)["differences"]}
    assert tables == {"daily_token_agg", "candles_1m"}


def test_swaps_that_do_not_count_once_are_found(made: tuple[ClickHouseClient, Config]) -> None:
    """One stands twice, of one only the retraction is there; one that came again is right."""
    _, config = made
    twice, alone, again = (
        Row(number=n, timestamp=DAY + 5 * MINUTE_MS, token="0x1", topic_id="T")
        for n in (500, 501, 502)
    )
    rows = [twice, twice, alone.undone(), again, again.undone(), again]
    insert(config, rows, first_offset=500)
    done = verify(config, "--day", "2026-11-23", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["differences"] == [
        {
            "table": "raw_swaps",
            "chain": "ethereum",
            "token": "0x1",
            "at": "2026-11-23 00:00:00",
            "field": "swaps_not_counted_once",
            "expected": "0",
            "found": "2",
        }
    ]


def test_the_same_row_twice_in_raw_swaps_is_one(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    # bypasses the views, as an insert whose views failed would leave it
    clickhouse.execute("DROP TABLE daily_token_agg_view")
    clickhouse.execute("DROP TABLE candles_1m_view")
    clickhouse.execute("INSERT INTO raw_swaps SELECT * FROM raw_swaps WHERE `offset` < 10")
    assert verify(config, "--day", "2026-11-23").returncode == 0


@pytest.mark.parametrize("day", ["2026-13-01", "yesterdays"])
def test_an_invalid_day_is_refused(made: tuple[ClickHouseClient, Config], day: str) -> None:
    done = verify(made[1], "--day", day)
    assert done.returncode == 2
    assert f"argument --day: '{day}' is no day; give YYYY-MM-DD (UTC)" in done.stderr


def test_a_server_that_is_down(made: tuple[ClickHouseClient, Config]) -> None:
    nobody = f"clickhouse://default:@127.0.0.1:{free_port()}/default"
    command = [sys.executable, "manage.py", "verify_archive", "--day", "today"]
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CLICKHOUSE_URL": nobody},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "clickhouse at 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
