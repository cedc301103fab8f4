"""Real wire structs for tests of the web node: rows, heartbeats and an owner that publishes them.

`Owner` is the reference: the simplest implementation of the contract of `contracts.stats`.
"""

from __future__ import annotations

import msgspec

from aggregator.contracts.stats import (
    Heartbeat,
    PreviousWindow,
    Quality,
    ResyncChunk,
    ResyncRequest,
    WindowStats,
    usd_text,
)
from api.board.row import TokenRow

AS_OF = 1_700_000_000_000


def window(
    buy_micros: int = 0,
    sell_micros: int = 0,
    buys: int = 0,
    sells: int = 0,
    change_pct: float | None = None,
    traders: int | None = None,
) -> WindowStats:
    return WindowStats(
        open_time=AS_OF - 300_000,
        close_time=AS_OF,
        complete=True,
        trades=buys + sells,
        buys=buys,
        sells=sells,
        traders=buys + sells if traders is None else traders,
        buyers=buys,
        sellers=sells,
        volume_usd=usd_text(buy_micros + sell_micros),
        buy_volume_usd=usd_text(buy_micros),
        sell_volume_usd=usd_text(sell_micros),
        net_volume_usd=usd_text(buy_micros - sell_micros),
        volume_token="1",
        open_usd="1",
        high_usd="2",
        low_usd="0.5",
        close_usd="1.5",
        vwap_usd="1.25",
        price_change_pct=change_pct,
        largest_trade_usd=usd_text(max(buy_micros, sell_micros)),
        previous=PreviousWindow("2.000000", 3, -1.25),
        approximate=False,
    )


def row(
    token_id: str = "ethereum:0xaa",
    *,
    partition: int = 0,
    epoch: int = 1,
    seq: int = 1,
    next_offset: int = 10,
    symbol: str | None = None,
    as_of: int = AS_OF,
    stats: WindowStats | None = None,
) -> TokenRow:
    chain, _, token = token_id.partition(":")
    each = stats if stats is not None else window(buy_micros=seq * 1_000_000, buys=1)
    return TokenRow(
        token_id=token_id,
        chain=chain,
        token=token,
        symbol=symbol,
        partition=partition,
        epoch=epoch,
        seq=seq,
        next_offset=next_offset,
        as_of=as_of,
        watermark=as_of,
        stale=False,
        last_price_usd="1.5",
        last_trade_at=as_of,
        quality=Quality(),
        windows={"5m": each, "1h": each, "24h": each},
    )


class Owner:
    """The owner of one partition under one epoch."""

    def __init__(
        self, partition: int = 0, epoch: int = 1, next_offset: int = 0, partitions: int = 1
    ) -> None:
        self.partition = partition
        self.partitions = partitions
        self.epoch = epoch
        self.seq = 0
        self.next_offset = next_offset
        self.state = "live"
        self.rows: dict[str, TokenRow] = {}
        self.degraded: list[str] = []

    def trade(self, token_id: str = "ethereum:0xaa", offsets: int = 1) -> TokenRow:
        """Count a trade of the token and return its patch."""
        self.seq += 1
        self.next_offset += offsets
        patch = row(
            token_id,
            partition=self.partition,
            epoch=self.epoch,
            seq=self.seq,
            next_offset=self.next_offset,
            as_of=AS_OF + self.seq,
        )
        self.rows[token_id] = patch
        return patch

    def heartbeat(self, made_at: int | None = None) -> Heartbeat:
        """Return a heartbeat made `made_at` ms after AS_OF; by default one ms per patch."""
        return Heartbeat(
            partition=self.partition,
            partitions=self.partitions,
            epoch=self.epoch,
            seq=self.seq,
            next_offset=self.next_offset,
            target_offset=self.next_offset + 5,
            state=self.state,
            as_of=AS_OF + (self.seq if made_at is None else made_at),
            watermark=AS_OF,
            lag=3,
            degraded=self.degraded,
        )

    def answer(self, request: ResyncRequest, per_chunk: int = 2) -> list[ResyncChunk]:
        since = request.since if request.epoch == self.epoch else 0
        rows = [each for each in self.rows.values() if each.seq > since or since == 0]
        if self.state == "rebuilding":
            rows = []
        groups = [rows[i : i + per_chunk] for i in range(0, len(rows), per_chunk)] or [[]]
        return [
            ResyncChunk(
                partition=self.partition,
                epoch=self.epoch,
                seq=self.seq,
                next_offset=self.next_offset,
                state=self.state,
                full=since == 0,
                chunk=number,
                chunks=len(groups),
                tokens=[msgspec.Raw(msgspec.json.encode(each)) for each in group],
            )
            for number, group in enumerate(groups)
        ]
