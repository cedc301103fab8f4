"""The metrics of a source and the status that its heartbeat carries agree."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

import msgspec
from prometheus_client import REGISTRY

from aggregator.contracts.sources import SourceStatus
from sources.metrics import SourceMetrics


def test_the_status_says_what_the_metrics_say() -> None:
    name = f"eth-{uuid4().hex}"
    found = SourceMetrics(name, "evm", "ethereum", now_ms=lambda: 9_000)

    def sample(metric: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"swaps_source_{metric}", {"source": name, **labels})

    assert (sample("owner"), sample("references_missing")) == (0, 0)
    assert sample("gaps_total", outcome="unfilled") == 0
    found.state("live")
    found.head(12)
    found.sent(7.5, block=11)
    found.events("swap", 4)
    found.events("retraction", 2)
    found.events("repeat", 0)
    found.gap(filled=True)
    found.gap(filled=False)
    found.reference("weth", Decimal("2990.5"), 7.0)
    assert sample("reference_price", token="weth") == 2990.5
    found.reference("weth", None, None)
    found.reference("weth", None, None)
    assert sample("reference_price", token="weth") is None
    assert sample("reference_seconds", token="weth") == 7
    assert (sample("owner"), sample("references_missing")) == (1, 1)
    assert (sample("head"), sample("sent_block"), sample("sent_seconds")) == (12, 11, 7.5)
    assert sample("events_total", kind="retraction") == 2

    status = found.status()
    assert status == SourceStatus(
        source=name,
        kind="evm",
        subject="ethereum",
        state="live",
        as_of=9_000,
        sent_until=7_500,
        head=12,
        sent_block=11,
        last_event=9_000,
        events=6,
        retractions=2,
        gaps_unfilled=1,
        unpriced_tokens=["weth"],
    )
    assert msgspec.json.decode(msgspec.json.encode(status), type=SourceStatus) == status

    found.kafka("kafka: no broker")
    assert (found.status().state, found.status().note) == ("waiting", "kafka: no broker")
    found.kafka("")
    assert found.status() == status

    found.state("stopped", "a reorganisation deeper than 256 blocks")
    assert sample("owner") == 0
    assert found.status().note == "a reorganisation deeper than 256 blocks"
