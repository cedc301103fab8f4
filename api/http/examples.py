"""Examples for the API's description, built from the structs that the routes answer with."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aggregator.contracts.sources import SourceStatus
from aggregator.contracts.stats import (
    ArchiveStatus,
    PreviousWindow,
    Quality,
    Tallies,
    WindowStats,
)
from api.board.board import PartitionStatus
from api.board.overview import Overview, OverviewTotals
from api.board.rates import CountRate
from api.board.row import TokenRow
from api.http.batch import TokenBatch
from api.http.status import Status

TOKEN_ID: Final = "ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"  # noqa: S105 - a token's id
UNKNOWN_ID: Final = "cosmos:ibc/27394FB092D2ECCD56123C74F36E4C1F"
CURSOR: Final = "W2ZhbHNlLC00MTU1MDAwMDAwMCwiZXRoZXJldW06MHhjMDJhIl0:1vNZ3q:4sBv0n9cQ"
_AS_OF: Final = 1_763_913_600_000

_WINDOW = WindowStats(
    open_time=_AS_OF - 86_340_000,
    close_time=_AS_OF + 60_000,
    complete=True,
    trades=118,
    buys=64,
    sells=54,
    traders=71,
    buyers=40,
    sellers=38,
    volume_usd="41550.000000",
    buy_volume_usd="23100.250000",
    sell_volume_usd="18449.750000",
    net_volume_usd="4650.500000",
    volume_token="14.25",  # noqa: S106 - an amount
    open_usd="2901.5",
    high_usd="2950",
    low_usd="2880.25",
    close_usd="2917.75",
    vwap_usd="2915.7894736842104",
    price_change_pct=0.5601,
    largest_trade_usd="5100.000000",
    previous=PreviousWindow("39800.000000", 109, -1.2),
    approximate=False,
)
_ROW = TokenRow(
    token_id=TOKEN_ID,
    chain="ethereum",
    token=TOKEN_ID.partition(":")[2],
    symbol="WETH",
    partition=2,
    epoch=7,
    seq=81_204,
    next_offset=902_118,
    as_of=_AS_OF,
    watermark=_AS_OF - 250,
    stale=False,
    last_price_usd="2917.75",
    last_trade_at=_AS_OF - 250,
    quality=Quality(unpriced=1, duplicates=3),
    windows={"24h": _WINDOW},
    name="Wrapped Ether",
    decimals=18,
    flags=("verified",),
)
_PARTITION = PartitionStatus(
    partition=2,
    state="live",
    stale=False,
    hydrated=True,
    in_sync=True,
    epoch=7,
    seq=81_204,
    next_offset=902_118,
    as_of=_AS_OF,
    owner_epoch=7,
    owner_seq=81_204,
    owner_next_offset=902_118,
    target_offset=890_000,
    lag=0,
    watermark=_AS_OF - 250,
    age_ms=412,
    late_ms=3,
    degraded=[],
    owner="aggregator-1:17",
    version="0.1.0",
    snapshot_age_ms=1_350,
    tallies=Tallies(records=12_118, duplicates=40, late=3, dead_letters=1),
)

OVERVIEW: Final[Any] = msgspec.to_builtins(
    Overview(
        as_of=_AS_OF,
        window="24h",
        totals=OverviewTotals(1, 118, 64, 54, "41550.000000", "23100.250000", "18449.750000"),
        tokens=[_ROW],
        stale=False,
        next_cursor=CURSOR,
    )
)
STATS: Final[Any] = msgspec.to_builtins(_ROW)
BATCH: Final[Any] = msgspec.to_builtins(TokenBatch([_ROW], [UNKNOWN_ID]))
STATUS: Final[Any] = msgspec.to_builtins(
    Status(
        ready=True,
        reasons=[],
        degraded=[],
        as_of=_AS_OF,
        nats=None,
        partitions=[_PARTITION],
        rates=[CountRate(2, 60_000, 201.5, 0.7, 0.05, 0.0, 0.0)],
        archive=[
            ArchiveStatus(2, "archiving", 901_950, 168, 840, [], None),
        ],
        sources=[
            SourceStatus(
                source="eth",
                kind="evm",
                subject="ethereum",
                state="live",
                as_of=_AS_OF,
                sent_until=_AS_OF - 9_000,
                head=21_400_120,
                sent_block=21_400_120,
                last_event=_AS_OF - 8_700,
                events=51_220,
                retractions=14,
                owner="host:4711",
                version="0.1.0",
            ),
        ],
        versions={"web": "0.1.0", "aggregators": ["0.1.0"], "python": "3.11.9"},
    )
)
