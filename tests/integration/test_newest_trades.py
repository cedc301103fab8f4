"""Trades over REST before and after the archive has them, on the whole service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from infra.embedded.stack import Stack
from tests.support.archived import Archive, Archiver, wait_archived
from tests.support.processes import wait_until
from tests.support.service import Service, swap

pytestmark = pytest.mark.engines

PATH = "/api/tokens/ethereum:T0/trades"


@pytest.fixture
def service(tmp_path: Path, stack: Stack, kept: Archive) -> Iterator[Service]:
    settings = {"CLICKHOUSE_URL": kept.url, "KAFKA_GROUP_PROTOCOL": "consumer"}
    with Service(tmp_path, stack, **settings) as running:
        ensure_topics(load(running.env))
        arguments = ["issue_token", "--sub", "test", "--scope", "stats:read ops:read history:read"]
        running.token = running.manage(*arguments).stdout.strip()
        yield running


def asked(service: Service, **params: Any) -> dict[str, Any]:
    answer = service.get(PATH, **params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def numbers(body: dict[str, Any]) -> list[int]:
    return [int(trade["tx_hash"], 16) for trade in body["trades"]]


def without_block(trade: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trade.items() if name != "block_number"}


def test_the_newest_trades_are_there_before_they_are_archived(
    service: Service, kept: Archive
) -> None:
    service.aggregator("aggregator", "--no-archiver")
    service.web()
    # Decides on the swaps, and then waits for its batch to fill.
    with Archiver(service.env, ARCHIVE_LINGER="1h") as idle:
        wait_until(lambda: idle.all(lambda s: s.state == "archiving"), 90, "an archiver")
        service.wait_ready(120)
        tens = [swap(n, token="T0", block_number=5) for n in range(30)]
        service.produce([*tens, swap(7, token="T0", block_number=5, removed=True), tens[3]])
        service.wait_trades(29, 60)
        counted = [n for n in range(29, -1, -1) if n != 7]
        wait_until(lambda: numbers(asked(service)) == counted, 60, "the trades of memory")
        before = asked(service)
        assert before["live"]
        assert before["next_cursor"] is None
        assert {trade["block_number"] for trade in before["trades"]} == {5}
        assert kept.count() == 0
        first = asked(service, limit=10)
        assert numbers(first) == counted[:10]
        idle.stop()
    with Archiver(service.env, ARCHIVE_LINGER="50ms") as archiver:
        wait_archived(service, kept, 90)
        archiver.stop()
    second = asked(service, limit=10, cursor=first["next_cursor"])
    third = asked(service, limit=10, cursor=second["next_cursor"])
    assert numbers(first) + numbers(second) + numbers(third) == counted
    assert third["next_cursor"] is None
    after = asked(service)
    assert {trade["block_number"] for trade in after["trades"]} == {5}
    assert [*map(without_block, after["trades"])] == [*map(without_block, before["trades"])]
    # Some that are archived, some that are not.
    service.produce([swap(n, token="T0") for n in range(30, 33)])
    service.wait_trades(32, 60)
    wait_until(lambda: numbers(asked(service)) == [32, 31, 30, *counted], 60, "both")
    assert kept.count() == 31
