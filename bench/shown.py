"""The numbers of all tokens, read from the aggregators as a web node does (`swaps.resync.*`)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import nats

from aggregator.contracts.names import resync_subject
from aggregator.contracts.stats import ResyncChunk, ResyncRequest, usd_micros
from bench.service import PARTITIONS, WrongResult
from bench.workload import WorkloadTotals

_WITHIN_S = 60
_PENDING_BYTES = 2**30


class _Window(msgspec.Struct):
    trades: int
    volume_usd: str


class _Row(msgspec.Struct):
    windows: dict[str, _Window]


_decode_chunk = msgspec.json.Decoder(ResyncChunk).decode
_decode_row = msgspec.json.Decoder(_Row).decode


def shown(nats_url: str, window: str = "24h") -> WorkloadTotals:
    """Return trades and volume of one window, over all tokens of all partitions."""
    return asyncio.run(_shown(nats_url, window))


async def _shown(nats_url: str, window: str) -> WorkloadTotals:
    client = await nats.connect(nats_url)
    trades = volume = 0
    try:
        for partition in range(PARTITIONS):
            for row in await _rows(client, partition):
                stats = _decode_row(row).windows[window]
                trades += stats.trades
                volume += usd_micros(stats.volume_usd)
    finally:
        await client.close()
    return WorkloadTotals(trades, volume)


async def _rows(client: Any, partition: int) -> list[msgspec.Raw]:
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox, pending_bytes_limit=_PENDING_BYTES)
    question = msgspec.json.encode(ResyncRequest(epoch=0, since=0))
    await client.publish(resync_subject(partition), question, reply=inbox)
    rows: list[msgspec.Raw] = []
    received, expected = 0, 1
    while received < expected:
        message = await answers.next_msg(timeout=_WITHIN_S)
        chunk = _decode_chunk(message.data)
        if chunk.state != "live":
            raise WrongResult(f"partition {partition} is {chunk.state}")
        received, expected = received + 1, chunk.chunks
        rows += chunk.tokens
    await answers.unsubscribe()
    return rows
