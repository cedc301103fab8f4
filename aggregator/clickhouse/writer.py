"""Writes blocks of swaps to raw_swaps, and reads back what a writer must know about them.

A block holds swaps of one partition of the log and one UTC day, and has a token: ClickHouse drops a
block whose token it has seen, both in the table and in each view (DESIGN 4 rule 10). Knows nothing
of Kafka and Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.native import (
    Choice,
    Column,
    Encode,
    Sparse,
    Texts,
    Wide,
    encoder_of,
)
from aggregator.clickhouse.tables import RAW_SWAPS
from aggregator.contracts.archive_rows import ABSENT, TEXTS, ArchivedMarker, SwapRows, as_rows
from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import UNPRICED
from aggregator.contracts.event import Swap
from aggregator.contracts.units import DAY_MS

_INSERT_S: Final = 60
_PAGE: Final = 50_000
_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    # Deduplicate in each view as well: after an insert that reached the table but not every view,
    # the repeat must still reach the views that lack it.
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # The server ends an insert after this time: one of a dead writer must not arrive after that of
    # its successor.
    "max_execution_time": _INSERT_S,
    # Keep a block whole, because one token covers one block.
    "max_insert_block_size": 1_000_000,
}
# The chain of a poison row, which takes a token and is no swap: no chain has this name.
_NO_CHAIN: Final = ""
_VERDICTS: Final = "CLUV"
# Indexed by the letter of a verdict: its place in _VERDICTS, and the sign of its row.
_VERDICT_PLACES: Final = np.zeros(256, np.uint8)
_SIGNS: Final = np.zeros(256, np.int8)
_VERDICT_PLACES[list(_VERDICTS.encode())] = range(len(_VERDICTS))
_SIGNS[list(_VERDICTS.encode())] = [1, 1, -1, 0]


class ArchiveBlock(msgspec.Struct, frozen=True):
    """Canonical swaps and retractions of one partition and one day, in log order.

    Their verdicts are letters of C, L, U, V; `ingested_at` is in ms since the epoch.
    """

    partition: int
    day: int
    swaps: SwapRows
    ingested_at: int


class Span(NamedTuple):
    """Where a block lies: its day (days since the epoch), its first and its last offset."""

    day: int
    first: int
    last: int


class ArchiveWriter:
    """The archive as its writers use it. Every call raises Unavailable or Refused."""

    def __init__(self, clickhouse: ClickHouseClient, topic: str) -> None:
        self._clickhouse = clickhouse
        self._topic = topic
        self._encoders: list[tuple[str, str, Encode]] = []

    def connect(self) -> None:
        """Open the connection that `insert` uses, and look up the types of the table's columns."""
        self._clickhouse.connect()
        if not self._encoders:
            columns = self._clickhouse.columns_of(RAW_SWAPS, _COLUMNS)
            self._encoders = [(name, kind, encoder_of(kind)) for name, kind in columns]

    def close(self) -> None:
        """Close the connection."""
        self._clickhouse.close()

    def token(self, partition: int, span: Span) -> str:
        """Return the token of the only block that may ever hold these offsets of that day."""
        return f"{self._topic}:{partition}:{span.first}-{span.last}"

    def insert(self, block: ArchiveBlock, token: str) -> None:
        """Insert the block over the connection that `connect` opened, unless its token is known.

        Returns after the table and the views have it.
        """
        columns = _columns(block)
        encoded = [(name, kind, encode(columns[name])) for name, kind, encode in self._encoders]
        settings = _SETTINGS | {"insert_deduplication_token": token}
        self._clickhouse.insert(RAW_SWAPS, encoded, len(block.swaps), settings)

    def poison(self, partition: int, span: Span, ingested_at: int) -> None:
        """Take the token of a block that can never be built again, without a change of any sum.

        An insert under that token that is still on its way is then dropped.
        """
        swap = Swap(
            token_id="",
            chain=_NO_CHAIN,
            token="",
            tx_hash="",
            log_index=0,
            timestamp=span.day * DAY_MS,
            is_buy=True,
            amount_attos=0,
            usd_micros=None,
            price_usd=None,
            removed=False,
            marker=bytes(16),
        )
        # The signs +1 and -1 cancel out in the views. Void rows (sign 0) would not reach the views,
        # and their tokens would stay free there.
        rows = as_rows([swap, msgspec.structs.replace(swap, removed=True)])
        rows.swaps["offset"] = span.first
        rows.swaps["verdict"] = list(b"CU")
        self.insert(
            ArchiveBlock(partition, span.day, rows, ingested_at), self.token(partition, span)
        )

    def landed(self, partition: int, span: Span) -> bool:
        """Return whether rows of the block are in the table; poison rows do not count."""
        ((count,),) = self._clickhouse.execute(
            f"SELECT count() FROM {RAW_SWAPS} WHERE partition = %(partition)s "  # noqa: S608
            "AND offset BETWEEN %(first)s AND %(last)s AND chain != '' "
            "AND toDate(timestamp, 'UTC') = toDate(%(day)s)",
            {"partition": partition, "first": span.first, "last": span.last, "day": span.day},
        )
        return bool(count)

    def disk_bytes(self) -> list[tuple[str, int]]:
        """Return the compressed bytes of this database by disk."""
        rows: list[tuple[str, int]] = self._clickhouse.execute(
            "SELECT disk_name, sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database = currentDatabase() GROUP BY disk_name"
        )
        return rows

    def blocks_since(self, ingested_at: int) -> int:
        """Return about how many blocks were inserted since `ingested_at` (ms).

        ClickHouse forgets tokens in the order of the inserts, so this says which it still knows.
        """
        ((count,),) = self._clickhouse.execute(
            "SELECT uniqExact(partition, ingested_at, toDate(timestamp, 'UTC')) "  # noqa: S608
            f"FROM {RAW_SWAPS} WHERE ingested_at >= fromUnixTimestamp64Milli(%(at)s)",
            {"at": ingested_at},
        )
        return int(count)

    def next_offset(self, partition: int) -> int:
        """Return the offset after the last row of a partition; 0 if it has no row."""
        ((last, count),) = self._clickhouse.execute(
            f"SELECT max(offset), count() FROM {RAW_SWAPS} "  # noqa: S608
            "WHERE partition = %(partition)s",
            {"partition": partition},
        )
        return int(last) + 1 if count else 0

    def offsets_between(self, partition: int, first: int, end: int) -> set[int]:
        """Return the offsets of [first, end) of a partition that are in the table."""
        rows = self._clickhouse.execute(
            f"SELECT DISTINCT offset FROM {RAW_SWAPS} WHERE partition = %(partition)s "  # noqa: S608
            "AND offset >= %(first)s AND offset < %(end)s AND chain != ''",
            {"partition": partition, "first": first, "end": end},
        )
        return {offset for (offset,) in rows}

    def markers_from(self, partition: int, first: int) -> Iterator[list[ArchivedMarker]]:
        """Yield the markers of a partition from an offset on, in log order, a page at a time."""
        while True:
            # LIMIT 1 BY: a block that was inserted twice and is not merged yet counts once.
            rows = self._archived(
                "partition = %(partition)s AND offset >= %(first)s AND chain != '' "
                f"ORDER BY offset LIMIT 1 BY offset LIMIT {_PAGE}",
                {"partition": partition, "first": first},
            )
            if rows:
                yield rows
            if len(rows) < _PAGE:
                return
            first = rows[-1].offset + 1

    def markers_of(self, swaps: SwapRows) -> list[ArchivedMarker]:
        """Return the markers of the rows that hold one of these swaps or its retraction.

        Finds only rows whose event time lies within a day of one of the swaps.
        """
        if not len(swaps):
            return []
        times = swaps.swaps["timestamp"]
        return self._archived(
            "(chain, token) IN %(tokens)s AND hex(marker) IN %(markers)s "
            "AND timestamp >= fromUnixTimestamp64Milli(%(since)s) "
            "AND timestamp <= fromUnixTimestamp64Milli(%(until)s) "
            "ORDER BY partition, offset",
            {
                "tokens": tuple({swaps.texts(place)[:2] for place in range(len(swaps))}),
                "markers": tuple({each.hex().upper() for each in swaps.rows["marker"].tolist()}),
                "since": int(times.min()) - DAY_MS,
                "until": int(times.max()) + DAY_MS,
            },
        )

    def _archived(self, condition: str, params: dict[str, Any]) -> list[ArchivedMarker]:
        rows = self._clickhouse.execute(
            "SELECT hex(marker), partition, offset, removed, toString(verdict) "  # noqa: S608
            f"FROM {RAW_SWAPS} WHERE {condition}",
            params,
        )
        return [
            ArchivedMarker(bytes.fromhex(marker), partition, offset, bool(removed), verdict)
            for marker, partition, offset, removed, verdict in rows
        ]


def day_of(timestamps: Array) -> Array:
    """Convert ms since the epoch to days since the epoch; a UTC day is a partition of the table."""
    return timestamps // DAY_MS


def _columns(block: ArchiveBlock) -> dict[str, Column]:
    swaps, rows, count = block.swaps.swaps, block.swaps.rows, len(block.swaps)
    texts = {
        name: Texts(block.swaps.text, block.swaps.spans[:, place])
        for place, name in enumerate(TEXTS)
    }
    return texts | {
        "timestamp": swaps["timestamp"],
        "sign": _SIGNS[swaps["verdict"]],
        "removed": rows["removed"],
        "log_index": rows["log_index"],
        "block_number": Sparse(rows["block_number"], rows["block_number"] == ABSENT),
        "side": Choice(("sell", "buy"), swaps["buy"]),
        "amount": Wide((swaps["amount_high"], swaps["amount_mid"], swaps["amount_low"])),
        "amount_usd": Sparse(swaps["usd"], swaps["usd"] == UNPRICED),
        "price_usd": Sparse(swaps["price"], np.isnan(swaps["price"])),
        "marker": rows["marker"],
        "verdict": Choice(_VERDICTS, _VERDICT_PLACES[swaps["verdict"]]),
        "partition": np.full(count, block.partition),
        "offset": swaps["offset"],
        "ingested_at": np.full(count, block.ingested_at),
    }


_COLUMNS: Final = tuple(_columns(ArchiveBlock(0, 0, as_rows(()), 0)))
