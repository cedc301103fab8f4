"""Writes blocks of swaps to raw_swaps, and reads back what a writer must know of them.

One block is of one partition of the log and one UTC day, and has a token: ClickHouse drops a block
whose token it has seen, in the table and behind each view alike (DESIGN 4 rule 9). Knows nothing of
Kafka and Redis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from aggregator.contracts.event import Swap
from aggregator.stores.clickhouse.connection import ClickHouse
from aggregator.stores.clickhouse.native import Encode, encoder_of
from aggregator.stores.clickhouse.tables import RAW_SWAPS

DAY_MS: Final = 86_400_000
_INSERT_S: Final = 60
_PAGE: Final = 50_000
_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # None of a dead writer may arrive after its successor's.
    "max_execution_time": _INSERT_S,
    "max_insert_block_size": 1_000_000,
}
# A poison row takes a token and is no swap: no chain has this name.
_NO_CHAIN: Final = ""
_SIGNS: Final[dict[str, int]] = {"C": 1, "L": 1, "U": -1, "V": 0}


class Block(msgspec.Struct, frozen=True):
    """Canonical swaps and retractions of one partition and one day, in log order.

    `verdicts` are one letter of C, L, U, V each; `ingested_at` is in ms since the epoch.
    """

    partition: int
    day: int
    offsets: Sequence[int]
    swaps: Sequence[Swap]
    verdicts: Sequence[str]
    ingested_at: int


class Span(NamedTuple):
    """Where a block lies: its day (days since the epoch), its first and its last offset."""

    day: int
    first: int
    last: int


class Archived(NamedTuple):
    """What the archive knows of one row: enough to make its marker again."""

    marker: bytes
    partition: int
    offset: int
    removed: bool
    verdict: str


class ArchiveWriter:
    """The archive as its writers use it. Every call raises Unavailable or Refused."""

    def __init__(self, clickhouse: ClickHouse, topic: str) -> None:
        self._clickhouse = clickhouse
        self._topic = topic
        self._encoders: list[tuple[str, str, Encode]] = []

    def connect(self) -> None:
        """Open the connection that `insert` uses, and learn the table's columns."""
        self._clickhouse.connect()
        if not self._encoders:
            columns = self._clickhouse.columns_of(RAW_SWAPS, _COLUMNS)
            self._encoders = [(name, kind, encoder_of(kind)[0]) for name, kind in columns]

    def close(self) -> None:
        """Close the connection."""
        self._clickhouse.close()

    def token(self, partition: int, span: Span) -> str:
        """The token of the one block that may ever hold these offsets of that day."""
        return f"{self._topic}:{partition}:{span.first}-{span.last}"

    def insert(self, block: Block, token: str) -> None:
        """Insert the block, over the connection that `connect` opened, unless its token is known.

        Returns after the table and the views have it.
        """
        self._insert(_columns(block), token)

    def poison(self, partition: int, span: Span, ingested_at: int) -> None:
        """Take the token of a block that can never be made again; the sums stay as they are."""
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
        # Signs +1 and -1: a block of void rows would not reach the views.
        retraction = msgspec.structs.replace(swap, removed=True)
        self._insert(
            _columns(
                Block(
                    partition,
                    span.day,
                    [span.first, span.first],
                    [swap, retraction],
                    "CU",
                    ingested_at,
                )
            ),
            self.token(partition, span),
        )

    def _insert(self, columns: dict[str, Sequence[Any]], token: str) -> None:
        encoded = [(name, kind, encode(columns[name])) for name, kind, encode in self._encoders]
        settings = _SETTINGS | {"insert_deduplication_token": token}
        self._clickhouse.insert(RAW_SWAPS, encoded, len(columns["offset"]), settings)

    def landed(self, partition: int, span: Span) -> bool:
        """Whether rows of the block are in the table; a poison row is not."""
        ((count,),) = self._clickhouse.execute(
            f"SELECT count() FROM {RAW_SWAPS} WHERE partition = %(partition)s "  # noqa: S608
            "AND offset BETWEEN %(first)s AND %(last)s AND chain != '' "
            "AND toDate(timestamp, 'UTC') = toDate(%(day)s)",
            {"partition": partition, "first": span.first, "last": span.last, "day": span.day},
        )
        return bool(count)

    def disk_bytes(self) -> list[tuple[str, int]]:
        """How many compressed bytes of this database lie on which disk."""
        rows: list[tuple[str, int]] = self._clickhouse.execute(
            "SELECT disk_name, sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND database = currentDatabase() GROUP BY disk_name"
        )
        return rows

    def blocks_since(self, ingested_at: int) -> int:
        """About how many blocks were inserted since then: tokens are forgotten in that order."""
        ((count,),) = self._clickhouse.execute(
            "SELECT uniqExact(partition, ingested_at, toDate(timestamp, 'UTC')) "  # noqa: S608
            f"FROM {RAW_SWAPS} WHERE ingested_at >= fromUnixTimestamp64Milli(%(at)s)",
            {"at": ingested_at},
        )
        return int(count)

    def next_offset(self, partition: int) -> int:
        """The offset behind the last row of a partition; 0 where there is none."""
        ((last, count),) = self._clickhouse.execute(
            f"SELECT max(offset), count() FROM {RAW_SWAPS} "  # noqa: S608
            "WHERE partition = %(partition)s",
            {"partition": partition},
        )
        return int(last) + 1 if count else 0

    def offsets_between(self, partition: int, first: int, behind: int) -> set[int]:
        """The offsets of [first, behind) of a partition that are in the table."""
        rows = self._clickhouse.execute(
            f"SELECT DISTINCT offset FROM {RAW_SWAPS} WHERE partition = %(partition)s "  # noqa: S608
            "AND offset >= %(first)s AND offset < %(behind)s AND chain != ''",
            {"partition": partition, "first": first, "behind": behind},
        )
        return {offset for (offset,) in rows}

    def rows_from(self, partition: int, first: int) -> Iterator[list[Archived]]:
        """Every row of a partition from an offset on, in log order, some at a time."""
        while True:
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

    def rows_of(self, swaps: Sequence[Swap]) -> list[Archived]:
        """The rows that hold one of these swaps or its retraction, found by the marker.

        A row's event time must lie within a day of one of theirs.
        """
        if not swaps:
            return []
        times = [swap.timestamp for swap in swaps]
        return self._archived(
            "(chain, token) IN %(tokens)s AND hex(marker) IN %(markers)s "
            "AND timestamp >= fromUnixTimestamp64Milli(%(since)s) "
            "AND timestamp <= fromUnixTimestamp64Milli(%(until)s) "
            "ORDER BY partition, offset",
            {
                "tokens": tuple({(swap.chain, swap.token) for swap in swaps}),
                "markers": tuple({swap.marker.hex().upper() for swap in swaps}),
                "since": min(times) - DAY_MS,
                "until": max(times) + DAY_MS,
            },
        )

    def _archived(self, condition: str, params: dict[str, Any]) -> list[Archived]:
        rows = self._clickhouse.execute(
            "SELECT hex(marker), partition, offset, removed, toString(verdict) "  # noqa: S608
            f"FROM {RAW_SWAPS} WHERE {condition}",
            params,
        )
        return [
            Archived(bytes.fromhex(marker), partition, offset, bool(removed), verdict)
            for marker, partition, offset, removed, verdict in rows
        ]


def day_of(timestamp: int) -> int:
    """Days since the epoch of ms since the epoch: a UTC day is a partition of the table."""
    return timestamp // DAY_MS


def _columns(block: Block) -> dict[str, Sequence[Any]]:
    swaps, rows = block.swaps, len(block.swaps)
    return {
        "chain": [swap.chain for swap in swaps],
        "token": [swap.token for swap in swaps],
        "timestamp": [swap.timestamp for swap in swaps],
        "sign": [_SIGNS[letter] for letter in block.verdicts],
        "removed": [swap.removed for swap in swaps],
        "tx_hash": [swap.tx_hash for swap in swaps],
        "log_index": [swap.log_index for swap in swaps],
        "block_number": [swap.block_number for swap in swaps],
        "block_hash": [swap.block_hash for swap in swaps],
        "symbol": [swap.symbol for swap in swaps],
        "quote": [swap.quote for swap in swaps],
        "venue": [swap.venue for swap in swaps],
        "pool": [swap.pool for swap in swaps],
        "trader": [swap.trader for swap in swaps],
        "side": ["buy" if swap.is_buy else "sell" for swap in swaps],
        "amount": [swap.amount_attos for swap in swaps],
        "amount_usd": [swap.usd_micros for swap in swaps],
        "price_usd": [swap.price_usd for swap in swaps],
        "marker": [swap.marker for swap in swaps],
        "verdict": block.verdicts,
        "partition": [block.partition] * rows,
        "offset": block.offsets,
        "ingested_at": [block.ingested_at] * rows,
    }


_COLUMNS: Final = tuple(_columns(Block(0, 0, (), (), "", 0)))
