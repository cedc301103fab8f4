"""A part whose file was cut short: the archiver waits and says why; the runbook fixes it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.clickhouse.connection import REPAIR_GUIDE, ClickHouseClient
from aggregator.clickhouse.health.report import HealthVerdict, report
from aggregator.clickhouse.repair.totals import rebuild_day
from aggregator.clickhouse.repair.verify import verify_day
from aggregator.contracts.units import DAY_MS
from infra.embedded.stack import Stack
from tests.support.archived import Archive, Archiver, archiving, wait_archived
from tests.support.processes import wait_until
from tests.support.service import Service, swap


@pytest.fixture
def service(tmp_path: Path, stack: Stack, kept: Archive) -> Iterator[Service]:
    with archiving(tmp_path, stack, kept) as running:
        yield running


def cut_short(kept: Archive, table: str) -> str:
    """Cut the data of a table's largest part in half; return the part's name."""
    ((name, path),) = kept.ask(
        "SELECT name, path FROM system.parts WHERE active AND database = currentDatabase() "
        f"AND table = '{table}' ORDER BY rows DESC LIMIT 1"
    )
    data = Path(path) / "data.bin"
    os.truncate(data, data.stat().st_size // 2)
    kept.ask("SYSTEM DROP MARK CACHE")
    return str(name)


def manage(service: Service, *arguments: str) -> str:
    done = service.manage(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def differences(kept: Archive, day: dt.date) -> int:
    clickhouse = ClickHouseClient(kept.url)
    try:
        return verify_day(clickhouse, day, shown=0, progress=lambda *_: None).different
    finally:
        clickhouse.close()


def test_a_part_cut_short_is_waited_for_and_fixed(service: Service, kept: Archive) -> None:
    today = dt.datetime.now(dt.UTC).date()
    midnight = int(dt.datetime.combine(today, dt.time(), dt.UTC).timestamp()) * 1000
    # Swaps of both days and retractions, on more than one partition of the log.
    times = [midnight - DAY_MS // 2, midnight + 1_000]
    swaps = [swap(n, timestamp=times[n % 2] + n) for n in range(600)]
    undone = [swap(n, timestamp=times[n % 2] + n, removed=True) for n in range(0, 600, 9)]
    for partition in range(2):
        service.produce(swaps[partition::2], partition=partition)
    service.produce(undone[::2], partition=0)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        kept.ask("SYSTEM STOP MERGES raw_swaps")
        kept.ask("SYSTEM STOP MERGES candles_1m")
        archiver.stop()
    torn, torn_candles = cut_short(kept, "raw_swaps"), cut_short(kept, "candles_1m")
    service.produce([swap(n) for n in range(600, 650)], partition=2)

    # A new group has no offset, and must ask the archive.
    with Archiver(service.env, ARCHIVER_GROUP=f"new-{service.topic}") as archiver:
        wait_until(
            lambda: any(
                torn in reason and REPAIR_GUIDE in reason
                for reason in archiver.health.readiness.reasons
            ),
            30,
            "a reason that names the part and its fix",
        )
        assert not archiver.health.readiness.ready
        archiver.stop()
    page = {row.what: row for row in report(kept.url).attention}
    assert page[f"Part {torn}"].verdict is HealthVerdict.ACT
    assert REPAIR_GUIDE in page[f"Part {torn}"].advice

    kept.ask(f"ALTER TABLE raw_swaps DETACH PART '{torn}'")
    kept.ask(f"ALTER TABLE candles_1m DETACH PART '{torn_candles}'")
    days = [today - dt.timedelta(days=1), today]
    lost = kept.count()
    tomorrow = today + dt.timedelta(days=1)
    filled = manage(service, "backfill", "--from", str(days[0]), "--to", str(tomorrow))
    assert 0 < kept.count() - lost == int(filled.split()[-2])
    # The restored rows already count in their day's totals.
    assert any(differences(kept, day) for day in days)
    manage(service, "rebuild_totals", "--day", str(days[0]))
    clickhouse = ClickHouseClient(kept.url)
    rebuild_day(clickhouse, days[1])
    clickhouse.close()
    assert not any(differences(kept, day) for day in days)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept, restored=True)
        archiver.stop()
