"""Redis is flushed, or fails over and back, while swaps come in: every swap counts once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from aggregator.runtime.config import load
from infra.embedded.stack import Stack
from tests.chaos.expected import GRACE, MAX_FUTURE, WINDOWS
from tests.support.archived import Archive, archiving, messages, wait_archived
from tests.support.oracle import Logged, TokenNumbers, recompute
from tests.support.processes import wait_until
from tests.support.redis_faults import redis_pair
from tests.support.service import Service, swap

# Several engines and processes start here, which takes a busy machine some time.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

_BATCH = 40


class Load:
    """Swaps without a pause, every tenth one repeated; a token stays on its partition."""

    def __init__(self, service: Service) -> None:
        self.sent = 0
        self._service = service
        self._events: list[bytes] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            first = len(self._events)
            fresh = [swap(n, token=f"T{n % 4}") for n in range(first, first + _BATCH)]
            self._events += fresh
            repeats = self._events[:: max(1, first // 4)][:4]
            for partition in range(4):
                some = fresh[partition::4] + [e for e in repeats if _partition(e) == partition]
                self._service.produce(some, partition=partition)
            self.sent += _BATCH

    def wait(self, more: int) -> None:
        """Wait until that many more swaps were sent."""
        until = self.sent + more
        wait_until(lambda: self.sent >= until, 60, f"{more} more swaps")


def _partition(event: bytes) -> int:
    return int(json.loads(event)["token"][1:])


def oracle(service: Service) -> dict[str, TokenNumbers]:
    """The windows of the present log in Kafka, computed by the slow oracle."""
    log = [
        Logged({"removed": False, **event}, partition, offset, event["timestamp"])
        for (partition, offset), value in messages(service.env["KAFKA_BOOTSTRAP"], service.topic)
        if (event := json.loads(value or b"{}"))
    ]
    return recompute(
        log,
        now=time.time_ns() // 1_000_000,
        windows=WINDOWS,
        grace_ms=GRACE,
        max_future_ms=MAX_FUTURE,
    )


def numbers(truth: dict[str, TokenNumbers]) -> dict[str, Any]:
    """The compared fields of each token."""
    return {
        token: (window.trades, window.buys, window.volume_usd)
        for token, each in truth.items()
        for window in (each.windows["24h"],)
    }


def shown(service: Service) -> dict[str, Any]:
    """The same as REST shows it."""
    found = {}
    for token in service.overview()["tokens"]:
        window = token["windows"]["24h"]
        micros = round(float(window["volume_usd"]) * 1_000_000)
        found[token["token_id"]] = (window["trades"], window["buys"], micros)
    return found


def wait_for_truth(service: Service, within_s: float = 90) -> None:
    """Wait until REST shows what the oracle computes, and the node is ready."""
    truth = numbers(oracle(service))
    try:
        wait_until(lambda: shown(service) == truth, within_s, "the oracle's windows")
    except AssertionError as error:
        raise AssertionError(
            f"{error}: {shown(service)} instead of {truth}; {service.reasons()}"
        ) from None
    service.wait_ready()


def _trades(service: Service) -> int:
    trades: int = service.overview()["totals"]["trades"]
    return trades


@contextmanager
def running(directory: Path, stack: Stack, kept: Archive, archives: bool) -> Iterator[Service]:
    """A service with or without an archive."""
    if archives:
        with archiving(directory, stack, kept) as service:
            yield service
    else:
        with Service(directory, stack) as service:
            yield service


@pytest.mark.parametrize("archives", [False, True], ids=["no archive", "archive"])
def test_a_flush_within_one_run_is_noticed_and_the_log_replayed(
    tmp_path: Path, stack: Stack, kept: Archive, archives: bool
) -> None:
    with running(tmp_path, stack, kept, archives) as service:
        aggregator = service.aggregator()
        service.web()
        service.wait_ready()
        with Load(service) as load_, redis.Redis.from_url(service.engines.redis.url) as client:
            for _ in range(2):
                load_.wait(600)
                client.flushall()
            load_.wait(600)
        wait_for_truth(service)
        assert len(service.logged(aggregator, "redis_new_incarnation")) >= 2
        if archives:
            wait_archived(service, kept)


@pytest.mark.parametrize("alone", [True, False], ids=["checkin alone", "with one partition's"])
def test_a_deleted_check_in_is_renewed(
    tmp_path: Path, stack: Stack, kept: Archive, alone: bool
) -> None:
    """An archiver without new claims renews it too: the windows may lag."""
    with archiving(tmp_path, stack, kept) as service:
        service.aggregator()
        service.web()
        service.wait_ready()
        service.produce([swap(n) for n in range(100)], partition=1)
        service.wait_trades(100)
        wait_archived(service, kept)
        topic = load(service.env).kafka_topic
        keys = [f"checkin:{topic}"] + ([] if alone else [f"archive:{topic}:1"])
        with redis.Redis.from_url(service.engines.redis.url) as client:
            assert client.delete(*keys) == len(keys)
            wait_until(lambda: bool(client.exists(keys[0])), 20, "the check-in")
            client.delete(*keys)
            service.produce([swap(n) for n in range(50, 150)], partition=1)
        service.wait_trades(150)
        service.wait_ready()
        wait_archived(service, kept)


def test_a_failover_and_back_counts_every_swap_once(tmp_path: Path, stack: Stack) -> None:
    """The old master stays up and answers READONLY on the open connections."""
    with redis_pair(tmp_path / "pair") as pair, Service(tmp_path, stack) as service:
        service.env["REDIS_URL"] = pair.url
        pair.demote(pair.second, pair.first)
        aggregator = service.aggregator()
        service.web()
        service.wait_ready()
        with Load(service) as load_:
            for old, new in ((pair.first, pair.second), (pair.second, pair.first)):
                load_.wait(400)
                pair.promote(new)
                pair.demote(old, new)
                pair.point_at(new)
                sent = load_.sent
                wait_until(
                    lambda sent=sent: _trades(service) > sent, 90, "counting on the new master"
                )  # type: ignore[misc]
            load_.wait(400)
        wait_for_truth(service)
        assert len(service.logged(aggregator, "redis_new_incarnation")) >= 2
