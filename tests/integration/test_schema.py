"""The archive's tables on a real server: created once, also by two processes, and their sums."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from aggregator.clickhouse import schema
from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import ensure_schema
from aggregator.contracts.units import DAY_MS, MINUTE_MS
from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import Fatal
from infra.embedded.clickhouse import ClickHouse as ClickHouseEngine
from infra.embedded.stack import Stack
from tests.support.archive_rows import Row, archive, insert

ROOT = Path(__file__).parents[2]
DAY = 1_795_392_000_000  # 2026-11-23


def _run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def made(stack: Stack) -> Iterator[tuple[ClickHouseClient, Config]]:
    with archive(stack.clickhouse.url, ARCHIVE_KEEP="3650d") as both:
        yield both


def test_a_second_run_changes_nothing(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    before = clickhouse.execute(
        "SELECT name, engine_full FROM system.tables WHERE database = "
        "currentDatabase() ORDER BY name"
    )
    assert {name for name, _ in before} >= {"raw_swaps", "daily_token_agg", "candles_1m"}
    assert ensure_schema(clickhouse, config) == []
    assert before == clickhouse.execute(
        "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() "
        "ORDER BY name"
    )


def test_a_new_duration_changes_only_the_ttl(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    shorter = load({"CLICKHOUSE_URL": config.clickhouse_url, "ARCHIVE_HOT": "90s"})
    assert ensure_schema(clickhouse, shorter) == ["006_ttl.sql"]
    ((engine,),) = clickhouse.execute(
        "SELECT engine_full FROM system.tables WHERE database = currentDatabase() "
        "AND name = 'raw_swaps'"
    )
    assert "toIntervalSecond(90) TO VOLUME 'cold'" in engine
    assert ensure_schema(clickhouse, shorter) == []


def test_two_processes_apply_it_at_the_same_time(stack: Stack) -> None:
    server = ClickHouseClient(stack.clickhouse.url)
    database = f"twice_{uuid4().hex[:8]}"
    server.execute(f"CREATE DATABASE {database}")
    topic = f"topic-{uuid4().hex[:8]}"
    env = {
        **os.environ,
        **stack.env(),
        "CLICKHOUSE_URL": stack.clickhouse.url.rpartition("/")[0] + f"/{database}",
        "KAFKA_TOPIC": topic,
        "KAFKA_DLQ_TOPIC": f"{topic}.dlq",
    }
    command = [sys.executable, "manage.py", "ensure_topology"]
    try:
        both = [
            subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for _ in range(2)
        ]
        for process in both:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output.decode()
        found = {
            name
            for (name,) in server.execute(
                "SELECT name FROM system.tables WHERE database = %(name)s", {"name": database}
            )
        }
        assert found >= {"raw_swaps", "daily_token_agg_view", "candles_1m_view", "schema_files"}
        last = _run(command, env)
        assert last.stdout.splitlines() == ["topics: in place", "archive: in place"]
    finally:
        server.execute(f"DROP DATABASE {database} SYNC")
        server.close()


def test_without_an_archive_only_the_topics_are_made(stack: Stack) -> None:
    topic = f"topic-{uuid4().hex[:8]}"
    env = {**os.environ, **stack.env(), "CLICKHOUSE_URL": ""}
    sources = f"{topic}.sources"
    env |= {"KAFKA_TOPIC": topic, "KAFKA_DLQ_TOPIC": f"{topic}.dlq", "KAFKA_SOURCES_TOPIC": sources}
    command = [sys.executable, "manage.py", "ensure_topology"]
    done = _run(command, env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"topics: {topic}, {topic}.dlq, {sources}",
        "archive: none, CLICKHOUSE_URL is empty",
    ]


class WithoutStorage(ClickHouseEngine):
    """A server without storage.xml."""

    def prepare(self) -> None:
        super().prepare()
        (self.data / "config.d" / "storage.xml").unlink()


def test_a_server_without_the_policy_is_refused_and_storage_xml_is_named(tmp_path: Path) -> None:
    with Stack(tmp_path, only=(WithoutStorage,)) as bare:
        clickhouse = ClickHouseClient(bare.clickhouse.url)
        try:
            with pytest.raises(Fatal, match=re.escape("infra/clickhouse/storage.xml")):
                ensure_schema(clickhouse, load({"CLICKHOUSE_URL": bare.clickhouse.url}))
        finally:
            clickhouse.close()


def test_an_edited_file_is_refused(
    made: tuple[ClickHouseClient, Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clickhouse, config = made
    for path in schema._FILES.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(schema, "_FILES", tmp_path)
    assert ensure_schema(clickhouse, config) == []
    edited = tmp_path / "001_raw_swaps.sql"
    edited.write_text(edited.read_text().replace("log_index UInt64", "log_index UInt32"))
    with pytest.raises(Fatal, match=r"001_raw_swaps\.sql was edited"):
        ensure_schema(clickhouse, config)


def test_sums_are_exact_by_sign(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    kept = Row(number=1, timestamp=DAY + 5_000, usd="0.000001", amount="1e-18", price=3.0)
    gone = Row(number=2, timestamp=DAY + 6_000, usd="999999999999.999999", price=9.0, side="sell")
    unpriced = Row(number=3, timestamp=DAY + 7_000, usd=None, price=None, trader=None)
    late = Row(number=4, timestamp=DAY + 8_000, usd="4", amount="1", price=4.0, verdict="L")
    void = Row(number=5, timestamp=DAY + 9_000, sign=0, verdict="V", price=77.0)
    insert(config, [kept, gone, unpriced])
    insert(config, [gone.undone(), late, void], first_offset=3)
    (day,) = clickhouse.execute(
        "SELECT sum(trades), sum(buys), sum(unpriced), sum(late), sum(retracted), "
        "toString(sum(volume_usd)), toString(sum(buy_volume_usd)), toString(sum(volume_token)), "
        "argMinMerge(open_usd), argMaxMerge(close_usd), max(high_usd), min(low_usd), "
        "uniqCombinedMerge(14)(traders) FROM daily_token_agg"
    )
    volume = "4.000001"
    assert day[:8] == (3, 3, 1, 1, 1, volume, volume, "1.000000000000000001")
    # Prices come from what was inserted: the retracted swap still sets the day's high.
    assert day[8:] == (3.0, 4.0, 9.0, 3.0, 1)
    (minute,) = clickhouse.execute(
        "SELECT toUnixTimestamp(minute) * 1000, sum(trades), toString(sum(volume_usd)) "
        "FROM candles_1m GROUP BY minute"
    )
    assert minute == (DAY, 3, volume)
    ((raw,),) = clickhouse.execute("SELECT count() FROM raw_swaps FINAL")
    assert raw == 6


def test_rows_that_differ_in_meaning_are_never_merged(
    made: tuple[ClickHouseClient, Config],
) -> None:
    clickhouse, config = made
    first = Row(number=1, timestamp=DAY, block="0xb1")
    again = Row(number=1, timestamp=DAY, block="0xb2")
    void = Row(number=2, timestamp=DAY, sign=0, verdict="V")
    void_removal = Row(number=2, timestamp=DAY, sign=0, verdict="V", removed=True)
    rows = [first, first.undone(), again, void, void_removal]
    insert(config, rows)
    insert(config, [first], first_offset=99)  # an insert whose token was forgotten
    clickhouse.execute("OPTIMIZE TABLE raw_swaps FINAL")
    found = clickhouse.execute(
        "SELECT event_id, block_hash, sign, removed FROM raw_swaps ORDER BY ALL"
    )
    assert len(found) == len(rows)
    assert {row[0] for row in found} == {
        f"ethereum:{first.tx_hash}:0",
        f"ethereum:{void.tx_hash}:0",
    }
    assert sum(row[2] for row in found) == 1


def test_views_group_by_utc_minute_and_day(made: tuple[ClickHouseClient, Config]) -> None:
    clickhouse, config = made
    rows = [
        Row(number=n, timestamp=at)
        for n, at in enumerate([DAY - 1, DAY, DAY + MINUTE_MS - 1, DAY + MINUTE_MS, DAY + DAY_MS])
    ]
    insert(config, rows)
    minutes = clickhouse.execute(
        "SELECT toUnixTimestamp(minute) AS at, sum(trades) FROM candles_1m GROUP BY at ORDER BY at"
    )
    begin = DAY // 1000
    assert minutes == [(begin - 60, 1), (begin, 2), (begin + 60, 1), (begin + 86_400, 1)]
    days = clickhouse.execute(
        "SELECT toString(day), sum(trades) FROM daily_token_agg GROUP BY day ORDER BY day"
    )
    assert days == [("2026-11-22", 1), ("2026-11-23", 3), ("2026-11-24", 1)]
