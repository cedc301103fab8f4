"""Whether swaps reach the archive, and whether each is certain to be there once."""

from __future__ import annotations

import re
from typing import Final

from aggregator.clickhouse.connection import unreadable_part
from aggregator.clickhouse.health.rows import (
    Check,
    HealthQuery,
    HealthVerdict,
    Row,
    act,
    counted,
    judged,
    ok,
    span,
    unreadable,
    watch,
)
from aggregator.clickhouse.tables import RAW_SWAPS, TABLES

_LAG_S: Final = (60, 600)
_WINDOW: Final = 10_000
_WINDOW_OF = re.compile(r"non_replicated_deduplication_window = (\d+)")
_ERRORS_SHOWN: Final = 5

# What an operator can do about errors that have a fix, by ClickHouse's error code.
_FIXES: Final = {
    210: "The network between ClickHouse and S3 or a client broke; check whether it persists.",
    241: "Queries need more memory than there is: raise the server's limit or its memory.",
    243: "Free disk space, or shorten ARCHIVE_HOT so that parts move to S3 earlier.",
    252: "Inserts come faster than merges: raise ARCHIVE_BATCH, or give ClickHouse more cores.",
    499: "S3 refuses or fails: check its address and keys in storage.xml, and its own log.",
}
_URGENT: Final = frozenset({243, 252, 499})


def tables(ask: HealthQuery) -> list[Row]:
    """Schema. The tables and views that the archiver needs."""
    wanted = {*TABLES, "daily_token_agg_view", "candles_1m_view"}
    rows = ask("SELECT name FROM system.tables WHERE database = currentDatabase()")
    missing = sorted(wanted - {name for (name,) in rows})
    if missing:
        return [act("Schema", f"missing: {', '.join(missing)}", "Run manage.py ensure_topology.")]
    return [ok("Schema", counted(len(wanted), "table and view", "tables and views"))]


def insert_lag(ask: HealthQuery) -> list[Row]:
    """Newest insert. How long ago the archiver wrote its newest row."""
    # Read the newest parts only: the column of a whole day would take seconds.
    rows = ask(
        "SELECT dateDiff('second', max(ingested_at), now64(3)) FROM raw_swaps WHERE _part IN ("
        "SELECT name FROM system.parts WHERE database = currentDatabase() AND table = %(table)s "
        "AND active ORDER BY modification_time DESC LIMIT 3) HAVING count() > 0",
        table=RAW_SWAPS,
    )
    if not rows:
        return [
            watch("Newest insert", "nothing is archived yet", "Start the archiver, or wait for it.")
        ]
    age = max(0, rows[0][0])
    advice = (
        "If swaps do arrive: check that an archiver runs (run_aggregator or run_archiver), its "
        "log and the archive lag in /api/status."
    )
    return [judged("Newest insert", f"{span(age)} ago", age, _LAG_S, advice)]


def failed_inserts(ask: HealthQuery) -> list[Row]:
    """Failed inserts. Since the server started."""
    events = dict(
        ask(
            "SELECT event, value FROM system.events WHERE event IN "
            "('FailedInsertQuery', 'InsertQuery', 'InsertedRows', 'RejectedInserts')"
        )
    )
    failed = events.get("FailedInsertQuery", 0) + events.get("RejectedInserts", 0)
    value = f"{failed:,} of {events.get('InsertQuery', 0):,} since the start"
    if failed:
        advice = "The archiver retries, so nothing is lost; the errors below say why."
        return [watch("Failed inserts", value, advice)]
    return [ok("Failed inserts", value)]


def recent_errors(ask: HealthQuery) -> list[Row]:
    """Errors of the last hour. The newest first, without those of clients' queries."""
    rows = ask(
        "SELECT name, code, sum(value), dateDiff('second', max(last_error_time), now()), "
        "argMax(last_error_message, last_error_time) FROM system.errors "
        "WHERE last_error_time > now() - INTERVAL 1 HOUR GROUP BY name, code "
        "ORDER BY max(last_error_time) DESC LIMIT %(shown)s",
        shown=_ERRORS_SHOWN,
    )
    if not rows:
        return [ok("Errors of the last hour", "none")]
    return [_error(*row) for row in rows]


def _error(name: str, code: int, count: int, age: int, message: str) -> Row:
    when = f"{counted(count, 'time')}, last {span(max(0, age))} ago"
    if part := unreadable_part(code, message):
        return unreadable(part, f"{name}, {when}")
    return Row(
        f"Error {name}",
        f"{when}: {_short(message)}",
        HealthVerdict.ACT if code in _URGENT else HealthVerdict.WATCH,
        _FIXES.get(code, "Harmless while it is rare; otherwise look in the server's log."),
    )


def deduplication(ask: HealthQuery) -> list[Row]:
    """Insert tokens. The settings that make a repeated insert change nothing."""
    rows = ask(
        "SELECT name, engine_full FROM system.tables "
        "WHERE database = currentDatabase() AND name IN %(tables)s ORDER BY name",
        tables=TABLES,
    )
    kept = {name: _window(engine) for name, engine in rows}
    short = [f"{name} {window:,}" for name, window in kept.items() if window < _WINDOW]
    found = []
    if short:
        found.append(
            act(
                "Insert tokens kept",
                ", ".join(short),
                "A batch sent twice could count twice: ALTER TABLE … MODIFY SETTING "
                f"non_replicated_deduplication_window = {_WINDOW}.",
            )
        )
    elif kept:
        found.append(ok("Insert tokens kept", f"{min(kept.values()):,} on each table"))
    settings = dict(
        ask(
            "SELECT name, value FROM system.settings WHERE name IN "
            "('async_insert', 'deduplicate_blocks_in_dependent_materialized_views')"
        )
    )
    return [*found, _async_insert(settings.get("async_insert", "0"))]


def _async_insert(default: str) -> Row:
    if default == "0":
        return ok("Asynchronous inserts", "off")
    return ok("Asynchronous inserts", "off for the archiver, which says so with each insert")


def _window(engine: str) -> int:
    match = _WINDOW_OF.search(engine)
    return int(match[1]) if match else 0


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= 160 else f"{line[:160]}…"


CHECKS: Final[tuple[Check, ...]] = (
    insert_lag,
    failed_inserts,
    recent_errors,
    tables,
    deduplication,
)
