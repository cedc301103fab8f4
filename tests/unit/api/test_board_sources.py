"""What a web node reports about the sources."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aggregator.contracts.sources import SourceStatus
from api.board.sources import Sources

LIVE = SourceStatus(
    source="eth", kind="evm", subject="ethereum", state="live", as_of=100_000, sent_until=90_000
)


def status(**fields: Any) -> SourceStatus:
    return msgspec.structs.replace(LIVE, **fields)


def test_no_fault_without_sources_or_with_healthy_ones() -> None:
    sources = Sources()
    assert sources.status(0) == []
    sources.record(status(source="b"), 100)
    sources.record(status(source="a", state="catching_up"), 100)
    assert [each.source for each in sources.status(1_000)] == ["a", "b"]
    assert sources.faults(1_000) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"state": "stopped", "note": "wrong chain"}, "stopped: wrong chain"),
        ({"state": "waiting", "note": "no RPC answers"}, "waiting: no RPC answers"),
        ({"state": "standby"}, "a process stands by, and none owns the source"),
        ({"sent_until": 20_000}, "80 s of its swaps are not yet in Kafka"),
        ({"unpriced_tokens": ["weth"]}, "no reference price of weth"),
    ],
)
def test_what_needs_attention_is_a_sentence(fields: dict[str, Any], fault: str) -> None:
    sources = Sources()
    sources.record(status(**fields), 0)
    assert sources.faults(100) == [f"source eth: {fault}"]


def test_a_source_without_a_process_is_silent_and_forgotten_after_a_day() -> None:
    sources = Sources()
    sources.record(LIVE, 0)
    assert sources.status(5_001)[0].state == "silent"
    assert sources.faults(5_001) == ["source eth: no process reports; start run_source again"]
    sources.record(status(source="base", state="stopped", note="wrong chain"), 0)
    assert sources.faults(5_001)[0] == "source base: stopped: wrong chain"
    assert sources.status(86_400_001) == []


def test_a_process_that_stands_by_counts_once_the_owner_is_silent() -> None:
    sources = Sources()
    sources.record(status(owner="a:1"), 0)
    sources.record(status(owner="b:2", state="standby"), 1_000)
    assert sources.status(1_000)[0].owner == "a:1"
    sources.record(status(owner="b:2", state="standby"), 5_001)
    assert sources.status(5_001)[0].state == "standby"
    sources.record(status(owner="b:2"), 6_000)
    assert sources.status(6_000)[0].state == "live"


def test_a_backfill_that_ended_is_no_longer_shown() -> None:
    sources = Sources()
    sources.record(status(state="catching_up"), 0)
    sources.record(status(state="ended"), 1_000)
    assert sources.status(9_000) == []
