"""Where the archive's bytes are: disks, and parts by table and disk."""

from __future__ import annotations

from typing import Any, Final

from aggregator.clickhouse.connection import REPAIR_GUIDE
from aggregator.clickhouse.health.rows import (
    Check,
    HealthQuery,
    Row,
    act,
    counted,
    judged,
    ok,
    size,
    watch,
)
from aggregator.clickhouse.tables import POLICY, TABLES

_FULL: Final = (0.8, 0.9)
# ClickHouse delays inserts at 1,000 parts in a partition and refuses them at 3,000.
_PARTS: Final = (300, 1_000)
# An object store reports practically unlimited space.
_ENDLESS: Final = 2**60


def disks(ask: HealthQuery) -> list[Row]:
    """Disks of the policy. How full each volume is."""
    rows = ask(
        "SELECT volume_name, disk, type, is_broken, free_space, total_space, held, parts FROM ("
        "  SELECT volume_name, volume_priority, arrayJoin(disks) AS disk"
        "  FROM system.storage_policies WHERE policy_name = %(policy)s) AS volumes "
        "LEFT JOIN (SELECT name, if(object_storage_type = 'None', type, object_storage_type) AS "
        "  type, is_broken, free_space, total_space FROM system.disks) AS d ON d.name = disk "
        "LEFT JOIN (SELECT disk_name, sum(bytes_on_disk) AS held, count() AS parts"
        "  FROM system.parts WHERE database = currentDatabase() AND table IN %(tables)s"
        "  GROUP BY disk_name) AS p"
        "  ON p.disk_name = disk "
        "ORDER BY volume_priority, disk",
        policy=POLICY,
        tables=TABLES,
    )
    if not rows:
        return [
            act(
                "Storage policy",
                f"{POLICY} is missing",
                "Put infra/clickhouse/storage.xml in the server's config.d and start it again.",
            )
        ]
    return [_disk(row) for row in rows]


def _disk(row: tuple[Any, ...]) -> Row:
    volume, disk, kind, broken, free, total, held, count = row
    what = f"{volume} · {disk} ({kind})"
    holds = f"{size(held)} of the archive in {counted(count, 'part')}"
    if broken:
        return act(what, f"broken; {holds}", "See the server's log; the disk is not used.")
    if total >= _ENDLESS or total == 0:
        return ok(what, holds)
    used = 1 - free / total
    advice = (
        "Make room, or shorten ARCHIVE_HOT so that parts move on earlier: when the disk is full, "
        "inserts fail."
    )
    value = f"{size(total - free)} of {size(total)} used, {size(free)} free; {holds}"
    return judged(what, value, used, _FULL, advice, share=used)


def parts(ask: HealthQuery) -> list[Row]:
    """Parts. By table and disk, with the oldest and newest partition."""
    rows = ask(
        "SELECT table, disk_name, countIf(active), countIf(NOT active), sumIf(rows, active), "
        "sumIf(bytes_on_disk, active), minIf(partition, active), maxIf(partition, active) "
        "FROM system.parts WHERE database = currentDatabase() AND table IN %(tables)s "
        "GROUP BY table, disk_name ORDER BY indexOf(%(order)s, table), disk_name",
        tables=TABLES,
        order=list(TABLES),
    )
    fullest = _fullest(ask)
    found = [_parts_row(fullest, *row) for row in rows]
    empty = [table for table in TABLES if table not in {row[0] for row in rows}]
    return [*found, *(ok(table, "no rows") for table in empty)]


def _fullest(ask: HealthQuery) -> dict[str, int]:
    """Return, for each table, the active parts of the partition that has most."""
    rows = ask(
        "SELECT table, max(parts) FROM (SELECT table, partition, count() AS parts "
        "FROM system.parts WHERE active AND database = currentDatabase() "
        "GROUP BY table, partition) GROUP BY table"
    )
    return dict(rows)


def _parts_row(fullest: dict[str, int], table: str, disk: str, *numbers: Any) -> Row:
    active, inactive, rows, held, oldest, newest = numbers
    value = (
        f"{counted(active, 'active part')}, {inactive:,} inactive; {counted(rows, 'row')}, "
        f"{size(held)}"
    )
    if active:
        per_row = f", {held / rows:.0f} B a row" if rows else ""
        value += f"{per_row}; {oldest}" + (f" to {newest}" if newest != oldest else "")
    advice = (
        f"{fullest.get(table, 0):,} parts in one partition: merges do not keep up. Raise "
        "ARCHIVE_BATCH and ARCHIVE_LINGER, or give ClickHouse more cores."
    )
    return judged(f"{table} on {disk}", value, fullest.get(table, 0), _PARTS, advice)


def detached(ask: HealthQuery) -> list[Row]:
    """Broken parts. Those that ClickHouse has detached because it could not read them."""
    ((broken,),) = ask(
        "SELECT count() FROM system.detached_parts "
        "WHERE database = currentDatabase() AND reason LIKE 'broken%%'"
    )
    if broken:
        advice = f"Rows are missing: {REPAIR_GUIDE} brings them back from Kafka."
        return [act("Broken parts", f"{broken:,} detached", advice)]
    return [ok("Broken parts", "none")]


def mutations(ask: HealthQuery) -> list[Row]:
    """Mutations. Changes of data that are not done."""
    rows = ask(
        "SELECT table, command, parts_to_do, latest_fail_reason FROM system.mutations "
        "WHERE NOT is_done AND database = currentDatabase() LIMIT 5"
    )
    if not rows:
        return [ok("Unfinished mutations", "none")]
    return [
        act(f"Mutation of {table}", f"{command}: {why}", "It makes no progress: see the reason.")
        if why
        else watch(
            f"Mutation of {table}", f"{command}: {counted(todo, 'part')} to do", "It is running."
        )
        for table, command, todo, why in rows
    ]


DISK_CHECKS: Final[tuple[Check, ...]] = (disks,)
TABLE_CHECKS: Final[tuple[Check, ...]] = (parts, detached, mutations)
