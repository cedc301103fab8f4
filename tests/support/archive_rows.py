"""An archive for tests: its own database with the schema, and rows as the archiver writes them.

The expected contents of the tables are computed here from the rows alone, in plain Python.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from uuid import uuid4

from clickhouse_driver import Client

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.schema import ensure_schema
from aggregator.contracts.units import DAY_MS
from aggregator.runtime.config import Config, load


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of raw_swaps; `number` makes its transaction, `block` its marker differ."""

    number: int
    timestamp: int
    token: str = "0xaa"
    chain: str = "ethereum"
    side: str = "buy"
    amount: str = "2"
    usd: str | None = "10.5"
    price: float | None = 5.25
    sign: int = 1
    removed: bool = False
    verdict: str = "C"
    block: str | None = None
    trader: str | None = "0xbeef"
    partition: int = 0
    topic_id: str = ""

    @property
    def tx_hash(self) -> str:
        return f"0x{self.number:064x}"

    @property
    def marker(self) -> bytes:
        # A row that names no topic has the marker of the version before.
        last = self.token if self.topic_id else self.block
        identity = f"{self.chain}:{self.tx_hash}:0:{last}"
        return hashlib.blake2b(identity.encode(), digest_size=16).digest()

    def undone(self) -> Row:
        """The retraction of this row."""
        fields = self.__dict__ | {"sign": -1, "removed": True, "verdict": "U"}
        return Row(**fields)


_COLUMNS = (
    "chain, token, timestamp, sign, removed, tx_hash, log_index, block_number, block_hash, symbol,"
    " quote, venue, pool, trader, side, amount, amount_usd, price_usd, marker, verdict,"
    " `partition`, `offset`, log_offset, topic_id, ingested_at"
)


def insert(config: Config, rows: Sequence[Row], first_offset: int = 0, token: str = "") -> None:
    """Insert the rows, a block for each UTC day, as the archiver does; `token` names the blocks."""
    now = dt.datetime.now(dt.UTC)
    by_day: dict[int, list[tuple[object, ...]]] = {}
    for offset, row in enumerate(rows, first_offset):
        usd = None if row.usd is None else Decimal(row.usd)
        by_day.setdefault(row.timestamp // DAY_MS, []).append(
            (
                *(row.chain, row.token, dt.datetime.fromtimestamp(row.timestamp / 1000, dt.UTC)),
                *(row.sign, row.removed, row.tx_hash, 0, 7, row.block),
                *("SYM", "USDC", "uniswap", "0xpool", row.trader, row.side),
                *(Decimal(row.amount), usd, row.price),
                *(row.marker, row.verdict, row.partition, offset),
                *(offset if row.topic_id else 0, row.topic_id, now),
            )
        )
    with Client.from_url(config.clickhouse_url) as client:
        for day, block in by_day.items():
            columns = [list(column) for column in zip(*block, strict=True)]
            settings = {"insert_deduplication_token": f"{token}:{day}"} if token else {}
            client.execute(
                f"INSERT INTO raw_swaps ({_COLUMNS}) VALUES",
                columns,
                columnar=True,
                settings=settings,
            )


@contextmanager
def archive(server_url: str, **settings: str) -> Iterator[tuple[ClickHouseClient, Config]]:
    """Create a database with the schema and its settings; drop it at the end."""
    name = f"archive_{uuid4().hex[:10]}"
    _once(server_url, f"CREATE DATABASE {name}")
    url = server_url.rpartition("/")[0] + f"/{name}"
    config = load({"CLICKHOUSE_URL": url, **settings})
    clickhouse = ClickHouseClient(url)
    try:
        ensure_schema(clickhouse, config)
        yield clickhouse, config
    finally:
        clickhouse.close()
        _once(server_url, f"DROP DATABASE {name} SYNC")


def _once(url: str, query: str) -> None:
    """Run a query over its own connection: the test may have killed the server since."""
    server = ClickHouseClient(url)
    server.execute(query)
    server.close()
