"""What ClickHouse does in the background and for its readers: merges, TTL moves, queries."""

from __future__ import annotations

from typing import Final

from aggregator.clickhouse.health.rows import (
    Check,
    HealthQuery,
    Row,
    counted,
    has_table,
    judged,
    ok,
    size,
    span,
    watch,
)

_MERGE_S: Final = (1_800, 7_200)
_OVERDUE_PARTS: Final = (1, 100)
# ClickHouse looks for moves every few seconds, for drops every four hours.
_MOVE_OVERDUE_S: Final = 600
_DROP_OVERDUE_S: Final = 43_200
_SLOW_MS: Final = 1_000
_RUNNING_S: Final = (10, 60)
_FRESH_S: Final = 300


def merges(ask: HealthQuery) -> list[Row]:
    """Merges. Those under way."""
    ((running, longest, held),) = ask(
        "SELECT count(), max(elapsed), sum(total_size_bytes_compressed) FROM system.merges"
    )
    if not running:
        return [ok("Merges running", "none")]
    value = f"{running:,} of {size(held)}, the longest for {span(longest)}"
    advice = "A merge this long is stuck or starved: check the load of the disks."
    return [judged("Merges running", value, longest, _MERGE_S, advice)]


def moves(ask: HealthQuery) -> list[Row]:
    """Moves to S3. Those under way, those that are overdue, those of the last day."""
    ((running, held),) = ask("SELECT count(), sum(part_size) FROM system.moves")
    ((overdue,),) = ask(
        "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() "
        "AND notEmpty(`move_ttl_info.max`) AND arrayMax(`move_ttl_info.max`) > 0 "
        "AND arrayMax(`move_ttl_info.max`) < now() - %(seconds)s AND disk_name NOT IN ("
        "SELECT arrayJoin(disks) FROM system.storage_policies "
        "WHERE policy_name = 'tiered' AND volume_name = 'cold')",
        seconds=_MOVE_OVERDUE_S,
    )
    now = f"{counted(running, 'part')} of {size(held)} moving" if running else "none moving"
    advice = "Parts are past ARCHIVE_HOT but not on S3: see the errors above and S3's own log."
    return [
        ok("Moves to S3", f"{now}; {_moved_today(ask)}"),
        judged("Moves overdue", counted(overdue, "part"), overdue, _OVERDUE_PARTS, advice),
    ]


def _moved_today(ask: HealthQuery) -> str:
    if not has_table(ask, "part_log"):
        return "a log of moves (system.part_log) is not kept here"
    ((count, held),) = ask(
        "SELECT count(), sum(size_in_bytes) FROM system.part_log "
        "WHERE event_type = 'MovePart' AND event_time > now() - INTERVAL 1 DAY"
    )
    moved = f"{counted(count, 'part')} of {size(held)}" if count else "none"
    return f"{moved} in the last day"


def drops(ask: HealthQuery) -> list[Row]:
    """Deletions overdue. Parts that are past their life."""
    ((overdue,),) = ask(
        "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() "
        "AND toUnixTimestamp(delete_ttl_info_max) > 0 "
        "AND delete_ttl_info_max < now() - %(seconds)s",
        seconds=_DROP_OVERDUE_S,
    )
    advice = "They only cost space. Look for errors above, or run OPTIMIZE TABLE on the table."
    return [judged("Deletions overdue", counted(overdue, "part"), overdue, _OVERDUE_PARTS, advice)]


def slow_queries(ask: HealthQuery) -> list[Row]:
    """Slow queries. Those of the last hour, the slowest first."""
    if not has_table(ask, "query_log"):
        return [ok("Slow queries", "not kept here (the server has no system.query_log)")]
    rows = ask(
        "SELECT query_duration_ms, read_rows, memory_usage, substring(query, 1, 160) "
        "FROM system.query_log WHERE type = 'QueryFinish' AND query_kind = 'Select' "
        "AND query_duration_ms >= %(ms)s "
        "AND event_date >= today() - 1 AND event_time > now() - INTERVAL 1 HOUR "
        "ORDER BY query_duration_ms DESC LIMIT 5",
        ms=_SLOW_MS,
    )
    if not rows:
        return [ok("Slow queries", f"none above {_SLOW_MS / 1000:.0f} s in the last hour")]
    return [
        watch(
            f"Slow query, {span(ms / 1000)}",
            f"{counted(read, 'row')} read, {size(memory)}: {' '.join(query.split())}",
            "One is harmless. Many: ask for shorter ranges, or give ClickHouse more cores.",
        )
        for ms, read, memory, query in rows
    ]


def running(ask: HealthQuery) -> list[Row]:
    """Queries running. How many, and for how long."""
    ((count, longest),) = ask(
        "SELECT count(), max(elapsed) FROM system.processes WHERE query_id != queryID()"
    )
    if not count:
        return [ok("Queries running", "none but this page's")]
    value = f"{count:,}, the longest for {span(longest)}"
    advice = "See system.processes; KILL QUERY ends one."
    return [judged("Queries running", value, longest, _RUNNING_S, advice)]


def server(ask: HealthQuery) -> list[Row]:
    """Version. And how long it has been up."""
    ((version, uptime),) = ask("SELECT version(), uptime()")
    up = f"up {span(uptime)}"
    if uptime < _FRESH_S:
        advice = "It was started a moment ago. If that was not an operator, its log says why."
        started = watch("Uptime", up, advice)
    else:
        started = ok("Uptime", up)
    return [ok("Version", str(version)), started]


WORK_CHECKS: Final[tuple[Check, ...]] = (moves, drops, merges)
QUERY_CHECKS: Final[tuple[Check, ...]] = (slow_queries, running)
SERVER_CHECKS: Final[tuple[Check, ...]] = (server,)
