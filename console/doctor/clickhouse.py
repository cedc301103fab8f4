"""Checks ClickHouse: version, clock, disks, the archive's tables, schema and storage policy."""

from __future__ import annotations

import time

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import missing_tables, outstanding, require_policy
from aggregator.runtime.config import Config
from aggregator.runtime.errors import SwapsError
from console.doctor.environment import of_room
from console.doctor.finding import TIMEOUT_S, Finding, of_clock

_OLDEST = (25, 3)


def check(config: Config) -> list[Finding]:
    """Return the findings; one FAIL if ClickHouse does not answer, one WARN if there is none."""
    if not config.clickhouse_url:
        fix = "set CLICKHOUSE_URL, unless you want no archive and no history"
        return [Finding("WARN", "clickhouse", "CLICKHOUSE_URL is empty: there is no archive", fix)]
    clickhouse = ClickHouseClient(config.clickhouse_url, connect_s=TIMEOUT_S, receive_s=TIMEOUT_S)
    try:
        return _check(clickhouse, config)
    except (SwapsError, OSError) as error:
        fix = "start it, or set CLICKHOUSE_URL to its address"
        return [Finding("FAIL", "clickhouse", str(error), fix)]
    finally:
        clickhouse.close()


def _check(clickhouse: ClickHouseClient, config: Config) -> list[Finding]:
    before = time.time_ns()
    ((version, now_ms),) = clickhouse.execute("SELECT version(), toUnixTimestamp64Milli(now64(3))")
    here_ms = (before + time.time_ns()) // 2_000_000
    address = f"{version} at {clickhouse.address}"
    found = [
        Finding("OK", "clickhouse", address),
        of_clock("clock of clickhouse", now_ms - here_ms),
    ]
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        found[0] = Finding("WARN", "clickhouse", address, "upgrade it: 26.9 is tested")
    found.append(_policy(clickhouse))
    found += [
        of_room(f"room on disk {name} of clickhouse", free, total)
        for name, free, total in clickhouse.execute(
            "SELECT name, free_space, total_space FROM system.disks WHERE type = 'Local'"
        )
    ]
    fix = "run manage.py ensure_topology"
    if missing := missing_tables(clickhouse):
        found.append(Finding("FAIL", "archive tables", f"missing: {', '.join(missing)}", _RESTORE))
    else:
        found.append(Finding("OK", "archive tables", "all there"))
    if "schema_files" in missing:
        return found
    if files := outstanding(clickhouse, config):
        found.append(Finding("FAIL", "archive schema", f"not applied: {', '.join(files)}", fix))
    else:
        found.append(Finding("OK", "archive schema", "up to date"))
    return found


_RESTORE = (
    "run manage.py ensure_topology; a table that existed before is not created again: restore it "
    "from a backup (docs/operations.md, Restore)"
)


def _policy(clickhouse: ClickHouseClient) -> Finding:
    try:
        require_policy(clickhouse)
    except SwapsError as error:
        fault, _, fix = str(error).partition(". ")
        return Finding("FAIL", "storage policy", fault, fix)
    return Finding("OK", "storage policy", "hot disk and cold volume are there")
