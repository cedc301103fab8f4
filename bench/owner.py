"""A partition's owner on NATS that publishes patches at a fixed interval, for fan-out benchmarks.

    python -m bench.owner NATS_URL TOKENS EVERY_MS

Patches have the real shape and size. `as_of` is the instant at which a patch was due, so that an
owner that cannot keep up shows as delay. Answers resyncs and sends heartbeats as the aggregator
does.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import nats
from nats.aio.msg import Msg

from aggregator.contracts.names import heartbeat_subject, resync_subject, token_subject
from aggregator.contracts.stats import (
    Heartbeat,
    PreviousWindow,
    Quality,
    ResyncChunk,
    TokenStats,
    WindowStats,
)

PARTITION = 0
EPOCH = 1
WINDOWS = {"5m": 5, "1h": 60, "24h": 1440}


def token_id(number: int) -> str:
    """Return the id of a token."""
    return f"ethereum:0x{number}"


def patch(number: int, seq: int, as_of: int) -> TokenStats:
    """Return a patch whose numbers change with `seq`."""
    windows = {name: _window(minutes, seq, as_of) for name, minutes in WINDOWS.items()}
    return TokenStats(
        token_id=token_id(number),
        chain="ethereum",
        token=f"0x{number}",
        symbol=f"TOK{number}",
        partition=PARTITION,
        epoch=EPOCH,
        seq=seq,
        next_offset=seq * 3,
        as_of=as_of,
        watermark=as_of,
        stale=False,
        last_price_usd=f"0.{1_000_000 + seq % 99_991}",
        last_trade_at=as_of,
        quality=Quality(3, 12, 1, 0),
        windows=windows,
    )


def _window(minutes: int, seq: int, as_of: int) -> WindowStats:
    trades = minutes * 10 + seq % 1_000
    opened = as_of - as_of % 60_000 - (minutes - 1) * 60_000
    price = f"0.{1_000_000 + seq % 99_991}"
    return WindowStats(
        open_time=opened,
        close_time=opened + minutes * 60_000,
        complete=True,
        trades=trades,
        buys=trades // 2,
        sells=trades - trades // 2,
        traders=trades // 3,
        buyers=trades // 4,
        sellers=trades // 5,
        volume_usd=f"{trades * 211}.{seq % 1_000_000:06d}",
        buy_volume_usd=f"{trades * 111}.{seq % 1_000_000:06d}",
        sell_volume_usd=f"{trades * 100}.000000",
        net_volume_usd=f"{trades * 11}.{seq % 1_000_000:06d}",
        volume_token=f"{trades * 1_993}.{seq % 1_000_000:06d}",
        open_usd=price,
        high_usd=price,
        low_usd=price,
        close_usd=price,
        vwap_usd=price,
        price_change_pct=round(seq % 999 / 37, 4),
        largest_trade_usd=f"{trades}.500000",
        previous=PreviousWindow(f"{trades * 190}.000000", trades - 1, 1.25),
        approximate=False,
    )


async def serve(url: str, tokens: int, every_s: float) -> None:
    """Publish until the process ends."""
    client = await nats.connect(url)
    rows: dict[int, bytes] = {}
    seq = 0

    async def on_resync(message: Msg) -> None:
        chunk = ResyncChunk(
            partition=PARTITION,
            epoch=EPOCH,
            seq=seq,
            next_offset=seq * 3,
            state="live",
            full=True,
            chunk=0,
            chunks=1,
            tokens=[msgspec.Raw(each) for each in rows.values()],
        )
        await client.publish(message.reply, msgspec.json.encode(chunk))

    await client.subscribe(resync_subject(PARTITION), cb=on_resync)
    print('{"event":"publishing"}', flush=True)
    due, beat_at = time.time(), 0.0
    while True:
        as_of = int(due * 1_000)
        for number in range(tokens):
            seq += 1
            rows[number] = msgspec.json.encode(patch(number, seq, as_of))
            await client.publish(token_subject(token_id(number)), rows[number])
        if due >= beat_at:
            beat_at = due + 1
            await client.publish(
                heartbeat_subject(PARTITION), msgspec.json.encode(_heartbeat(seq, as_of))
            )
        due += every_s
        await asyncio.sleep(max(0, due - time.time()))


def _heartbeat(seq: int, as_of: int) -> Heartbeat:
    return Heartbeat(
        partition=PARTITION,
        partitions=1,
        epoch=EPOCH,
        seq=seq,
        next_offset=seq * 3,
        target_offset=0,
        state="live",
        as_of=as_of,
        watermark=as_of,
        lag=0,
        degraded=[],
    )


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) / 1_000))
