"""Writes blocks of rows to raw_swaps, and asks what a writer must know about its blocks.

A block holds rows of one partition of the log and one UTC day, and has a token: ClickHouse drops a
block whose token it has seen, both in the table and in each view (DESIGN 4 rule 10). Knows nothing
of Kafka and Redis.
"""

from __future__ import annotations

from typing import Final, NamedTuple

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
from aggregator.clickhouse.tables import ARCHIVE_EPOCHS, RAW_SWAPS
from aggregator.contracts.arrays import Array
from aggregator.contracts.event import Swap
from aggregator.contracts.swaps import ABSENT, TEXTS, UNPRICED, Swaps, swaps_of
from aggregator.contracts.units import DAY_MS

_INSERT_S: Final = 60
# A backfill begins its insert within 30 s of the odd epoch, and the server ends it after _INSERT_S.
ABANDONED_MS: Final = 180_000
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
LETTERS: Final = "CLUVTNnPuG"
"""The letters of rows: those of `Verdict` that change an id, and the two of the archive alone."""
# Indexed by a letter: its place in LETTERS, whether it has a row, and the sign of the row.
_PLACES: Final = np.zeros(256, np.uint8)
_PLACES[list(LETTERS.encode())] = range(len(LETTERS))
HAS_ROW: Final = np.zeros(256, np.bool_)
HAS_ROW[list(LETTERS.encode())] = True
SIGNS: Final = np.zeros(256, np.int8)
SIGNS[list(b"CLUu")] = [1, 1, -1, -1]


class ArchiveBlock(msgspec.Struct, frozen=True):
    """Rows of one partition and one day, in log order.

    `swaps.swaps["verdict"]` holds letters of LETTERS; a row of sign -1 has the values of the row
    that it negates. `ingested_at` is in ms since the epoch.
    """

    partition: int
    day: int
    swaps: Swaps
    ingested_at: int


class Span(NamedTuple):
    """Where a block lies: its day (days since the epoch), its first and its last offset."""

    day: int
    first: int
    last: int


class Epoch(NamedTuple):
    """The epoch of a partition's archive, and how long ago it was raised, by the server's clock."""

    number: int
    age_ms: int

    @property
    def writing(self) -> bool:
        """Whether a backfill may be inserting now: one that died does not count for long."""
        return self.number % 2 == 1 and self.age_ms < ABANDONED_MS


class ArchiveWriter:
    """The archive as its writers use it. Every call raises Unavailable or Refused.

    `topic_id` is Kafka's id of the topic: offsets mean nothing without it, because a topic may be
    made again under its name, and another topic may be archived in the same database.
    """

    def __init__(self, clickhouse: ClickHouseClient, topic_id: str) -> None:
        self._clickhouse = clickhouse
        self._topic_id = topic_id
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
        return f"{self._topic_id}:{partition}:{span.first}-{span.last}"

    def insert(self, block: ArchiveBlock, token: str) -> None:
        """Insert the block over the connection that `connect` opened, unless its token is known.

        Returns after the table and the views have it.
        """
        columns = _columns(block, self._topic_id)
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
        # The signs +1 and -1 cancel out in the views. Rows of sign 0 would not reach the views, and
        # their tokens would stay free there.
        rows = swaps_of([swap, msgspec.structs.replace(swap, removed=True)], [span.first] * 2)
        rows.swaps["verdict"] = list(b"CU")
        self.insert(
            ArchiveBlock(partition, span.day, rows, ingested_at), self.token(partition, span)
        )

    def landed(self, partition: int, span: Span) -> bool:
        """Return whether rows of the block are in the table; poison rows do not count."""
        ((count,),) = self._clickhouse.execute(
            f"SELECT count() FROM {RAW_SWAPS} WHERE partition = %(partition)s "  # noqa: S608
            "AND topic_id = %(topic)s AND offset BETWEEN %(first)s AND %(last)s AND chain != '' "
            "AND toDate(timestamp, 'UTC') = toDate(%(day)s)",
            {"partition": partition, "topic": self._topic_id, **span._asdict()},
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
        The index on ingested_at leaves out what is older, on S3 too.
        """
        ((count,),) = self._clickhouse.execute(
            "SELECT uniqExact(topic_id, partition, ingested_at, "  # noqa: S608
            f"toDate(timestamp, 'UTC')) FROM {RAW_SWAPS} "
            "WHERE ingested_at >= fromUnixTimestamp64Milli(%(at)s, 'UTC')",
            {"at": ingested_at},
        )
        return int(count)

    def epoch(self, partition: int) -> Epoch:
        """Return the epoch of a partition: it rises when rows come in beside the archiver's."""
        ((number, age_ms),) = self._clickhouse.execute(
            "SELECT max(epoch), toInt64(dateDiff('millisecond', max(raised_at), now64(3))) "  # noqa: S608
            f"FROM {ARCHIVE_EPOCHS} WHERE topic_id = %(topic)s AND partition = %(partition)s",
            {"topic": self._topic_id, "partition": partition},
        )
        return Epoch(int(number), int(age_ms))

    def raise_epoch(self, partition: int, number: int) -> None:
        """Raise the epoch of a partition."""
        self._clickhouse.execute(
            f"INSERT INTO {ARCHIVE_EPOCHS} (topic_id, partition, epoch) "
            "SELECT %(topic)s, %(partition)s, %(epoch)s",
            {"topic": self._topic_id, "partition": partition, "epoch": number},
        )


def day_of(timestamps: Array) -> Array:
    """Convert ms since the epoch to days since the epoch; a UTC day is a partition of the table."""
    return timestamps // DAY_MS


def _columns(block: ArchiveBlock, topic_id: str) -> dict[str, Column]:
    swaps, records, count = block.swaps.swaps, block.swaps.records, len(block.swaps)
    texts = {
        name: Texts(block.swaps.text, block.swaps.spans[:, place])
        for place, name in enumerate(TEXTS)
    }
    topic = np.frombuffer(topic_id.encode() or b"\0", np.uint8)
    return texts | {
        "topic_id": Texts(topic, np.full((count, 2), (0, len(topic_id.encode())), np.int32)),
        "timestamp": swaps["timestamp"],
        "sign": SIGNS[swaps["verdict"]],
        "removed": records["removed"],
        "log_index": swaps["log_index"],
        "leg": records["leg"],
        "block_number": Sparse(swaps["block_number"], swaps["block_number"] == ABSENT),
        "block_check": records["block_check"],
        "side": Choice(("sell", "buy"), swaps["buy"]),
        "amount": Wide((swaps["amount_high"], swaps["amount_mid"], swaps["amount_low"])),
        "amount_usd": Sparse(swaps["usd"], swaps["usd"] == UNPRICED),
        "price_usd": Sparse(swaps["price"], np.isnan(swaps["price"])),
        "reserve_token": Sparse(records["reserve_token"], np.isnan(records["reserve_token"])),
        "reserve_quote": Sparse(records["reserve_quote"], np.isnan(records["reserve_quote"])),
        "marker": block.swaps.markers,
        "verdict": Choice(LETTERS, _PLACES[swaps["verdict"]]),
        "partition": np.full(count, block.partition),
        "offset": swaps["offset"],
        "log_offset": swaps["offset"],
        "ingested_at": np.full(count, block.ingested_at),
    }


_COLUMNS: Final = tuple(_columns(ArchiveBlock(0, 0, swaps_of(()), 0), ""))
