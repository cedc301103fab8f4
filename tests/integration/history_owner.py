"""An owner in a separate process: windows full of minutes, the real publisher and hot loop.

`history_owner.py NATS_URL EPOCH TOKENS MINUTES` fills two partitions with TOKENS tokens that trade
every minute and prints `ready`. When it reads a line, it takes the partitions and lets every token
trade once; after that some tokens trade every 100 ms. It uses neither Kafka nor Redis.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from aggregator.contracts.stats import Heartbeat
from aggregator.contracts.swaps import swaps_of
from aggregator.contracts.units import MINUTE_MS
from aggregator.counting.announcer import Announcer
from aggregator.counting.partition import PartitionOwner
from aggregator.decoding.rules import decode_swap
from aggregator.member.log import LogExtent
from aggregator.nats.publisher import Publisher
from aggregator.runtime.clock import monotonic_ms
from aggregator.runtime.config import load
from tests.unit.counting.world import event

PARTITIONS = 2


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Market:
    """One partition and its tokens."""

    def __init__(self, partition: int, epoch: int, tokens: list[str], minutes: int) -> None:
        now = now_ms()
        self.owner = PartitionOwner(
            config=load({}),
            partition=partition,
            epoch=epoch,
            topic_id="",
            extent=LogExtent(start=0, end=0, since=0),
            reject_from=0,
            forward_from=0,
            now_ms=now,
        )
        events = [event(number, now, token) for number, token in enumerate(tokens)]
        decoded = [decode_swap(json.dumps(each).encode(), now, MINUTE_MS) for each in events]
        self._batch = swaps_of(decoded)
        self._random = np.random.default_rng(partition)
        begin = now - now % MINUTE_MS - minutes * MINUTE_MS
        for minute in range(minutes):
            self.trade(begin + minute * MINUTE_MS)

    def trade(self, timestamp: int, first: int = 0, count: int | None = None) -> None:
        """Let this many tokens trade once each."""
        chosen = self._batch.part(first, len(self._batch) if count is None else first + count)
        swaps, records = chosen.swaps.copy(), chosen.records.copy()
        swaps["timestamp"] = records["recorded"] = timestamp
        swaps["offset"] = self.owner.next_offset + np.arange(len(swaps))
        # Each trade is another one.
        markers = self._random.integers(0, 2**63, (len(swaps), 2)).astype(np.uint64)
        batch = msgspec.structs.replace(chosen, swaps=swaps, records=records, markers=markers)
        self.owner.apply(self.owner.judge(batch, np.zeros(len(swaps), np.bool_)))


def compile_engine() -> None:
    """Compile every loop before the clock starts: a fresh checkout takes a minute for it."""
    market = Market(0, 1, ["A", "B"], 2)
    market.owner.advance(now_ms())
    market.owner.go_live()
    market.trade(now_ms())
    market.owner.take_patches()
    market.owner.windows.minutes("ethereum:A")


def heartbeat(owner: PartitionOwner) -> Heartbeat:
    return owner.heartbeat(
        partitions=PARTITIONS,
        now_ms=now_ms(),
        monotonic_ms=monotonic_ms(),
        end=owner.next_offset,
        degraded=[],
        stalled=False,
    )


def main(url: str, epoch: int, tokens: int, minutes: int) -> None:
    names = [[f"T{p}-{n}" for n in range(tokens // PARTITIONS)] for p in range(PARTITIONS)]
    markets = [Market(p, epoch, names[p], minutes) for p in range(PARTITIONS)]
    owners = {market.owner.partition: market.owner for market in markets}
    compile_engine()
    print("ready", flush=True)
    sys.stdin.readline()
    publisher = Publisher(url)
    publisher.start()
    while not publisher.connected:
        time.sleep(0.01)
    ignore: Any = SimpleNamespace(note=lambda _: None, drop=lambda _: None)
    announcer = Announcer(publisher, ignore, ignore, PARTITIONS)
    for market in markets:
        announcer.taken(market.owner)
        market.owner.advance(now_ms())
        announcer.live(market.owner)
        market.trade(now_ms())
    next_beat, turn = 0, 0
    while True:
        now = now_ms()
        turn += 1
        if turn % 5 == 0:
            for market in markets:
                market.trade(now, turn % (tokens // PARTITIONS), 10)
        for owner in owners.values():
            owner.advance(now)
        announcer.check()
        announcer.publish_changes(list(owners.values()))
        announcer.answer_histories(owners)
        if now >= next_beat:
            next_beat = now + 1_000
            for owner in owners.values():
                publisher.heartbeat(heartbeat(owner))
        time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
