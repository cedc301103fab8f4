"""What an owner publishes of its partition: patches, tombstones, trades and histories."""

from __future__ import annotations

import json

import msgspec
import numpy as np

from aggregator.contracts.stats import TokenStats
from aggregator.contracts.swaps import swaps_of
from aggregator.counting.partition import PartitionOwner
from aggregator.decoding.rules import decode_swap
from aggregator.member.log import LogExtent
from aggregator.nats.resync import Patch
from aggregator.runtime.config import load
from tests.unit.counting.world import HOUR, MINUTE, T0, event

DAY = 24 * HOUR


def owner(end: int = 0) -> PartitionOwner:
    return PartitionOwner(
        config=load({}),
        partition=3,
        epoch=5,
        topic_id="",
        extent=LogExtent(start=0, end=end, since=0),
        reject_from=0,
        forward_from=0,
        now_ms=T0,
    )


def read(owner: PartitionOwner, *numbers: int, token: str = "A") -> None:
    """Apply the swaps of these numbers at the next offsets."""
    events = [json.dumps(event(number, T0, token)).encode() for number in numbers]
    decoded = [decode_swap(value, T0, MINUTE) for value in events]
    swaps = swaps_of(decoded, [owner.next_offset + n for n in range(len(numbers))])
    owner.apply(owner.judge(swaps, np.zeros(len(swaps), np.bool_)))


def rows(patches: list[Patch]) -> dict[str, TokenStats]:
    return {
        patch.token_id: msgspec.json.decode(patch.payload, type=TokenStats) for patch in patches
    }


def test_a_token_without_records_for_two_days_is_dropped_with_a_tombstone() -> None:
    one = owner()
    one.go_live()
    read(one, 0)
    read(one, 1, token="B")
    assert [patch.seq for patch in one.take_patches()] == [2, 3]
    one.advance(T0 + 2 * DAY - MINUTE)
    read(one, 1, token="B")  # a repeat
    assert not any(patch.last for patch in one.take_patches())
    one.advance(T0 + 2 * DAY)
    patches = one.take_patches()
    last = patches[-1]
    assert [patch.token_id for patch in patches if patch.last] == ["ethereum:A"]
    assert last.last
    assert rows([last])["ethereum:A"].windows == {}
    assert rows([last])["ethereum:A"].seq == one.seq
    assert [patch.seq for patch in patches] == list(range(one.seq - len(patches) + 1, one.seq + 1))
    assert set(rows(one.go_live())) == {"ethereum:B"}


def test_the_last_batches_of_a_replay_are_published_when_it_is_live() -> None:
    one = owner(end=60)
    for number in range(60):
        read(one, number)
        assert one.take_trades() == []
    one.go_live()
    published = one.take_trades()
    assert [batch.offsets.tolist() for batch in published] == [[offset] for offset in range(40, 60)]
    assert one.take_trades() == []
    read(one, 60, 60)
    (batch,) = one.take_trades()
    numbers = batch.swaps["n"].tolist()
    assert numbers[1] == 0
    assert numbers[0] == published[-1].swaps["n"][0] + 1


def test_a_history_counts_the_trades_up_to_its_n() -> None:
    one = owner()
    one.go_live()
    read(one, 0, 1, 2)
    n, from_ms, candles = one.history("ethereum:A", 2_880)
    assert from_ms == T0 - 2_879 * MINUTE
    read(one, 3)
    assert [candle.trades for candle in candles()] == [3]
    (first, second) = one.take_trades()
    assert first.swaps["n"].max() == n
    assert second.swaps["n"].tolist() == [n + 1]
