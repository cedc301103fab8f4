"""Redis is flushed, loses a block, or fails over and back: every swap counts once."""

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

from aggregator.contracts.names import block_key, snapshot_keys
from infra.embedded.stack import Stack
from tests.chaos.expected import WINDOWS
from tests.support.archived import Archive, archiving, messages, wait_archived
from tests.support.oracle import Logged, Rules, TokenNumbers, decide, recompute
from tests.support.processes import wait_until
from tests.support.redis_faults import redis_pair
from tests.support.service import Service, swap

# Several engines and processes start here, which takes a busy machine some time.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

PARTITIONS = 4
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
        Logged(json.loads(each.value or b""), *each.place, each.timestamp, each.origin)
        for each in messages(service.env["KAFKA_BOOTSTRAP"], service.topic)
    ]
    return recompute(
        decide(log, Rules(homes=PARTITIONS)),
        now=time.time_ns() // 1_000_000,
        windows=WINDOWS,
        history_from=None,
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
    service.wait_ready(within_s)


@contextmanager
def running(directory: Path, stack: Stack, kept: Archive, archives: bool) -> Iterator[Service]:
    """A service with or without an archive."""
    if archives:
        with archiving(directory, stack, kept) as service:
            yield service
    else:
        with Service(directory, stack) as service:
            yield service


def saved(client: redis.Redis, service: Service) -> dict[int, tuple[int, int]]:
    """The epoch and the call of each partition's save."""
    heads = {p: snapshot_keys(service.topic, p).head for p in range(PARTITIONS)}
    found = {p: client.hmget(head, "epoch", "save") for p, head in heads.items()}
    return {
        p: (int(epoch), int(save.rpartition(b":")[2]))
        for p, (epoch, save) in found.items()
        if epoch and save
    }


def wait_saved(client: redis.Redis, service: Service) -> dict[int, int]:
    """Wait until every partition is saved again; return the epochs."""
    before = saved(client, service)

    def all_newer() -> bool:
        now = saved(client, service)
        return len(now) == PARTITIONS and all(now[p] > before.get(p, (0, 0)) for p in now)

    wait_until(all_newer, 60, "a save of every partition")
    return {p: epoch for p, (epoch, _) in saved(client, service).items()}


@pytest.mark.parametrize("archives", [False, True], ids=["no archive", "archive"])
def test_a_flush_makes_the_owner_save_everything_again(
    tmp_path: Path, stack: Stack, kept: Archive, archives: bool
) -> None:
    with running(tmp_path, stack, kept, archives) as service:
        aggregator = service.aggregator()
        service.web()
        service.wait_ready()
        with Load(service) as load_, redis.Redis.from_url(service.engines.redis.url) as client:
            load_.wait(600)
            epochs = wait_saved(client, service)
            for _ in range(2):
                client.flushall()
                load_.wait(600)
                # The live owner keeps its epoch: web nodes need not load the board again.
                assert wait_saved(client, service) == epochs
        wait_for_truth(service)
        # What was saved after the flush is a whole state: a new owner goes on from it.
        aggregator.kill()
        service.aggregator("second")
        service.produce([swap(n, token=f"T{n % 4}") for n in range(0, 40, 4)], partition=0)
        wait_for_truth(service)
        if archives:
            wait_archived(service, kept)


def test_a_flush_while_nobody_counts_is_a_rebuild_from_the_log(
    tmp_path: Path, stack: Stack
) -> None:
    with Service(tmp_path, stack) as service:
        aggregator = service.aggregator()
        service.web()
        service.wait_ready()
        with Load(service) as load_, redis.Redis.from_url(service.engines.redis.url) as client:
            load_.wait(600)
            epochs = wait_saved(client, service)
            aggregator.kill()
            client.flushall()
            load_.wait(600)
            service.aggregator("second")
            later = wait_saved(client, service)
            assert all(later[p] > epochs[p] for p in epochs), "Kafka keeps the epoch too"
        wait_for_truth(service)


def test_a_deleted_block_makes_the_next_owner_rebuild(tmp_path: Path, stack: Stack) -> None:
    with Service(tmp_path, stack) as service:
        aggregator = service.aggregator()
        service.web()
        service.wait_ready()
        with redis.Redis.from_url(service.engines.redis.url) as client:
            block = block_key(service.topic, 0, 0)
            for first in range(0, 4 * 9_000, 4 * 3_000):
                some = range(first, first + 4 * 3_000, 4)
                service.produce([swap(n, token="T0") for n in some], partition=0)
            wait_until(lambda: bool(client.exists(block)), 60, "a closed block")
            aggregator.kill()
            assert client.delete(block) == 1
        second = service.aggregator("second")
        service.produce([swap(n, token="T0") for n in range(0, 400, 4)], partition=0)
        wait_for_truth(service)
        (missing,) = service.logged(second, "snapshot_block_missing")
        assert missing["key"] == block.decode()


def test_a_failover_and_back_counts_every_swap_once(tmp_path: Path, stack: Stack) -> None:
    """The old master stays up and answers READONLY on the open connections."""
    with redis_pair(tmp_path / "pair") as pair, Service(tmp_path, stack) as service:
        service.env["REDIS_URL"] = pair.url
        pair.demote(pair.second, pair.first)
        aggregator = service.aggregator()
        service.web()
        service.wait_ready()
        with Load(service) as load_:
            load_.wait(400)
            epochs = wait_saved(pair.client(pair.first), service)
            for old, new in ((pair.first, pair.second), (pair.second, pair.first)):
                pair.promote(new)
                # The old master is given saves that the new one lacks.
                load_.wait(400)
                wait_saved(pair.client(old), service)
                pair.demote(old, new)
                pair.point_at(new)
                load_.wait(400)
                assert wait_saved(pair.client(new), service) == epochs
        wait_for_truth(service)
        aggregator.kill()
        service.aggregator("second")
        service.produce([swap(n, token=f"T{n % 4}") for n in range(0, 40, 4)], partition=0)
        wait_for_truth(service)
