"""From produce to REST through real processes and engines, and back again after each is killed."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from aggregator.contracts.names import snapshot_keys
from aggregator.runtime.config import load
from aggregator.runtime.redis_client import redis_client
from infra.embedded.stack import Stack
from tests.support.namesake import take_name
from tests.support.processes import wait_until
from tests.support.service import ETHEREUM_DAY, Service, swap

MICRO = Decimal("0.000001")


def instant(line: dict[str, Any]) -> float:
    """When a log line was written, s since the epoch."""
    return datetime.fromisoformat(line["at"]).timestamp()


@pytest.fixture
def service(tmp_path: Path, stack: Stack) -> Iterator[Service]:
    with Service(tmp_path, stack) as running:
        yield running


def test_the_ethereum_day_reaches_rest_number_for_number(service: Service) -> None:
    """Sums made here from the file alone; 1 % of the events are fed twice."""
    trades: dict[str, int] = defaultdict(int)
    volume: dict[str, Decimal] = defaultdict(Decimal)
    bought: dict[str, Decimal] = defaultdict(Decimal)
    with gzip.open(ETHEREUM_DAY, "rt") as lines:
        for line in lines:
            event = json.loads(line)
            token_id = f"{event['chain']}:{event['token']}"
            usd = Decimal(event["amount_usd"]).quantize(MICRO, ROUND_HALF_EVEN)
            trades[token_id] += 1
            volume[token_id] += usd
            bought[token_id] += usd if event["side"] == "buy" else 0

    service.aggregator()
    service.web()
    service.wait_ready()
    fed = service.manage("feed", str(ETHEREUM_DAY), "--shift-to-now", "--duplicates", "0.01")
    assert fed.returncode == 0, fed.stderr
    overview = service.wait_trades(24_222)

    assert sum(trades.values()) == 24_222
    totals = overview["totals"]
    assert Decimal(totals["volume_usd"]) == sum(volume.values())
    assert Decimal(totals["buy_volume_usd"]) == sum(bought.values())
    assert totals["tokens"] == len(trades) == 429
    shown = {token["token_id"]: token["windows"]["24h"] for token in overview["tokens"]}
    assert {token_id: window["trades"] for token_id, window in shown.items()} == trades
    assert {t: Decimal(window["volume_usd"]) for t, window in shown.items()} == volume
    ranked = [Decimal(token["windows"]["24h"]["volume_usd"]) for token in overview["tokens"]]
    assert ranked == sorted(ranked, reverse=True)
    duplicates = sum(token["quality"]["duplicates"] for token in overview["tokens"])
    assert 150 < duplicates < 350

    weth = "ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
    one = service.get(f"/api/tokens/{weth}/stats").json()
    assert one["symbol"] == "WETH"
    assert one["windows"]["24h"]["trades"] == trades[weth]


def test_bad_events_end_in_the_dead_letters_and_good_ones_count(service: Service) -> None:
    service.aggregator()
    service.web()
    service.wait_ready()
    future = time.time_ns() // 1_000_000 + 3_600_000
    bad = {
        b"{": ("not_json", ""),
        swap(1, side="hold"): ("rule", "side"),
        swap(2, amount="-1"): ("rule", "amount"),
        swap(3, timestamp=future): ("future", "timestamp"),
        swap(4, chain=None): ("type", "chain"),
    }
    service.produce([swap(10), *bad, swap(11), None, swap(12)], partition=1)
    service.wait_trades(3)
    letters = service.dead_letters(6)
    assert [letter.value() for letter in letters] == [*bad, None]
    for letter, (reason, field) in zip(letters, [*bad.values(), ("empty", "")], strict=True):
        headers = {name: value.decode() for name, value in letter.headers() or []}
        assert (headers["reason"], headers["field"]) == (reason, field)
        assert headers["source-topic"] == service.topic
        assert headers["source-partition"] == "1"
        assert headers["detail"]
        assert abs(int(headers["at"]) - time.time() * 1000) < 60_000
        assert letter.key() == b"k"
    assert [int(dict(m.headers() or [])["source-offset"]) for m in letters] == [1, 2, 3, 4, 5, 7]


def test_numbers_survive_kill_9_of_the_aggregator(service: Service) -> None:
    first = service.aggregator("first")
    service.web()
    service.wait_ready()
    service.produce([swap(n) for n in range(3_000)] + [b"bad"])
    before = service.wait_trades(3_000)
    first.kill()
    service.produce([swap(n) for n in range(2_500, 5_000)])
    wait_until(lambda: service.overview()["stale"], 10, "staleness shown")
    assert service.overview()["totals"] == before["totals"]

    second = service.aggregator("second")
    after = service.wait_trades(5_000)
    service.wait_ready()
    assert Decimal(after["totals"]["volume_usd"]) == Decimal("10.5") * 5_000
    epochs = {token["epoch"] for token in after["tokens"]}
    assert min(epochs) > max(token["epoch"] for token in before["tokens"])
    # A dead letter may come again when the process dies before its commit, never not at all.
    origins = {dict(letter.headers() or [])["source-offset"] for letter in service.dead_letters(1)}
    assert len(origins) == 1

    second.terminate()
    began = time.monotonic()
    assert second.wait(10) == 0
    assert time.monotonic() - began < 5
    (stopped,) = service.logged(second, "stopped")
    # Of the swaps of the first process, those that it had saved are not counted again.
    assert 2_000 <= stopped["counted"] <= 5_000
    assert stopped["duplicate"] == 500


def test_a_restart_is_warm(service: Service) -> None:
    """The second process reads on from the first one's snapshot and shows the same numbers."""
    first = service.aggregator("first")
    service.web()
    service.wait_ready()
    service.produce([swap(n, trader=f"0x{n % 50:040x}") for n in range(2_000)])
    before = service.wait_trades(2_000)
    first.terminate()
    assert first.wait(10) == 0

    second = service.aggregator("second")
    wait_until(lambda: len(service.logged(second, "partition_live")) == 4, 20, "four partitions")
    service.wait_ready()
    after = service.overview()
    assert after["totals"] == before["totals"]
    acquired = service.logged(second, "partition_acquired")
    assert all(each["restored"] for each in acquired)
    assert sum(each["replay_from"] for each in acquired) == 2_000
    assert all(each["replay_from"] == each["replay_to"] for each in acquired)
    shown = {token["token_id"]: token["windows"]["24h"]["traders"] for token in after["tokens"]}
    assert shown == {t["token_id"]: t["windows"]["24h"]["traders"] for t in before["tokens"]}
    assert set(shown.values()) == {50}


def test_a_web_node_that_starts_without_an_aggregator_shows_what_it_left(
    service: Service,
) -> None:
    first = service.aggregator("first")
    web = service.web("web-before")
    service.wait_ready()
    service.produce([swap(n) for n in range(2_000)])
    before = service.wait_trades(2_000)
    first.terminate()
    assert first.wait(10) == 0
    web.kill()
    service.web("web-after")
    after = service.wait_trades(2_000)
    assert after["stale"]
    assert after["totals"] == before["totals"]
    assert "no heartbeat" in service.reasons()

    service.aggregator("second")
    service.wait_ready()
    assert not service.wait_trades(2_000)["stale"]


def test_a_killed_process_with_a_name_gets_its_partitions_back_at_once(service: Service) -> None:
    """The group's session timeout is 6 s: without a name the second would wait for it."""
    named = {"KAFKA_INSTANCE_ID": "aggregator-0"}
    first = service.aggregator("first", **named)
    service.web()
    service.wait_ready()
    service.produce([swap(n) for n in range(500)])
    service.wait_trades(500)
    first.kill()
    second = service.aggregator("second", **named)
    service.produce([swap(n) for n in range(400, 600)])
    service.wait_trades(600)
    (start,) = service.logged(second, "engine_compiled")
    (assigned,) = service.logged(second, "assigned")
    assert len(assigned["partitions"]) == 4
    assert instant(assigned) - instant(start) < 5
    service.wait_ready()


def test_a_process_whose_name_was_taken_goes_on_by_itself(service: Service) -> None:
    """A broker that was away may fence a process though nobody else has its name."""
    named = {"KAFKA_INSTANCE_ID": "aggregator-0", "KAFKA_GROUP_PROTOCOL": "classic"}
    process = service.aggregator(**named)
    service.web()
    service.wait_ready()
    service.produce([swap(n) for n in range(500)])
    service.wait_trades(500)
    take_name(load(service.env | named))
    wait_until(lambda: bool(service.logged(process, "name_fenced")), 30, "the fence")
    service.produce([swap(n) for n in range(400, 600)])
    service.wait_trades(600)
    service.wait_ready()
    assert process.running


def test_an_emptied_redis_gets_the_whole_state_of_the_living_owner(service: Service) -> None:
    """The numbers and the epoch stay; the next owner finds everything again."""
    first = service.aggregator("first")
    service.web()
    service.wait_ready()
    service.produce([swap(n) for n in range(1_000)])
    before = service.wait_trades(1_000)
    redis = service.engines.redis
    redis.kill()
    shutil.rmtree(redis.data)
    redis.start()
    service.produce([swap(n) for n in range(900, 1_500)])
    after = service.wait_trades(1_500)
    service.wait_ready()
    epochs = {token["epoch"] for token in before["tokens"]}
    assert {token["epoch"] for token in after["tokens"]} == epochs
    wait_until(lambda: committed(service) == 1_600, 20, "the saves after the loss")
    # A partition without new records notices the loss some seconds later.
    wait_until(lambda: saved_partitions(service) == {0, 1, 2, 3}, 30, "a state of each partition")
    first.kill()
    second = service.aggregator("second")
    service.produce([swap(n) for n in range(1_400, 1_600)])
    service.wait_trades(1_600)
    assert all(each["restored"] for each in service.logged(second, "partition_acquired"))


def test_without_redis_data_a_new_owner_rebuilds_from_the_log(service: Service) -> None:
    first = service.aggregator("first")
    service.web()
    service.wait_ready()
    service.produce([swap(n) for n in range(1_000)])
    before = service.wait_trades(1_000)
    first.terminate()
    assert first.wait(10) == 0
    redis = service.engines.redis
    redis.kill()
    shutil.rmtree(redis.data)
    redis.start()
    second = service.aggregator("second")
    service.produce([swap(n) for n in range(900, 1_500)])
    after = service.wait_trades(1_500)
    service.wait_ready()
    assert not any(each["restored"] for each in service.logged(second, "partition_acquired"))
    epochs = {token["epoch"] for token in before["tokens"]}
    assert min(token["epoch"] for token in after["tokens"]) > max(epochs)


def saved_partitions(service: Service) -> set[int]:
    """Return the partitions of which Redis holds a state."""
    with redis_client(service.env["REDIS_URL"]) as client:
        return {
            partition
            for partition in range(4)
            if client.hexists(snapshot_keys(service.topic, partition).head, "header")
        }


def committed(service: Service) -> int:
    """Return the sum of the offsets that the aggregators' group has committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": service.env["KAFKA_BOOTSTRAP"],
            "group.id": service.env["KAFKA_GROUP"],
            "log_level": 0,
        }
    )
    try:
        places = [TopicPartition(service.topic, partition) for partition in range(4)]
        return sum(max(0, each.offset) for each in consumer.committed(places, timeout=10))
    finally:
        consumer.close()


def test_records_placed_by_another_partitioner_count_once(service: Service) -> None:
    """Half of the producers place by crc32; repeats of a swap come on both partitions."""
    aggregator = service.aggregator()
    service.web()
    service.wait_ready()
    events = [swap(n, token=f"T{n % 50}") for n in range(2_000)]
    for partitioner in ("murmur2", "consistent"):
        producer = Producer(
            {
                "bootstrap.servers": service.env["KAFKA_BOOTSTRAP"],
                "partitioner": partitioner,
                "log_level": 0,
            }
        )
        for n, value in enumerate(events):
            producer.produce(service.topic, value, f"ethereum:T{n % 50}".lower())
        assert producer.flush(20) == 0
    after = service.wait_trades(2_000)
    assert {token["windows"]["24h"]["trades"] for token in after["tokens"]} == {40}
    aggregator.kill()
    service.aggregator("second")
    service.wait_ready()
    assert service.wait_trades(2_000)["totals"] == after["totals"]


def test_offsets_that_kafka_dropped_unread_are_reported(service: Service) -> None:
    first = service.aggregator("first")
    service.web()
    service.wait_ready()
    service.produce([swap(n, token="T") for n in range(100)], partition=2)
    service.wait_trades(100)
    first.terminate()
    assert first.wait(10) == 0
    service.produce([swap(n, token="T") for n in range(100, 200)], partition=2)
    service.delete_records(2, 150)
    service.aggregator("second")
    service.wait_trades(150)
    wait_until(lambda: "offsets 100 to 149" in service.reasons(), 10, "the gap in /readyz")
    (token,) = service.overview()["tokens"]
    assert not any(window["complete"] for window in token["windows"].values())


def test_by_event_time_an_old_day_is_counted_as_it_was(service: Service) -> None:
    service.aggregator(CLOCK="event")
    service.web()
    service.wait_ready()
    fed = service.manage("feed", str(ETHEREUM_DAY))
    assert fed.returncode == 0, fed.stderr
    overview = service.wait_trades(24_222)
    newest = max(token["last_trade_at"] for token in overview["tokens"])
    assert newest == 1_650_499_190_000
    assert all(token["as_of"] <= newest for token in overview["tokens"])


def test_while_redis_is_away_the_numbers_stay_fresh(service: Service) -> None:
    aggregator = service.aggregator()
    service.web()
    service.wait_ready()
    service.produce([swap(n) for n in range(1_000)])
    before = service.wait_trades(1_000)
    service.engines.redis.kill()
    service.produce([swap(n) for n in range(900, 2_000)])
    during = service.wait_trades(2_000)
    assert not during["stale"]
    wait_until(lambda: "nothing saved for" in service.reasons(), 20, "it to be reported")
    assert service.get("/readyz").status_code == 200
    service.produce([swap(n) for n in range(1_900, 2_100)])
    assert not service.wait_trades(2_100)["stale"]
    service.engines.redis.start()
    wait_until(lambda: "nothing saved for" not in service.reasons(), 20, "saves again")
    assert aggregator.running
    after = service.wait_trades(2_100)
    epochs = {token["epoch"] for token in before["tokens"]}
    assert {token["epoch"] for token in after["tokens"]} == epochs
    aggregator.kill()
    second = service.aggregator("second")
    service.produce([swap(n) for n in range(2_050, 2_200)])
    service.wait_trades(2_200)
    assert all(each["restored"] for each in service.logged(second, "partition_acquired"))


def test_engines_that_come_late_are_waited_for(service: Service) -> None:
    service.engines.redis.kill()
    service.engines.nats.kill()
    aggregator = service.aggregator()
    service.web()
    wait_until(lambda: bool(service.logged(aggregator, "retrying")), 20, "a retry of redis")
    answer = service.get("/readyz")
    assert answer.status_code == 503
    assert "nats" in answer.text.lower()
    service.engines.redis.start()
    service.engines.nats.start()
    service.wait_ready()
    service.produce([swap(1)])
    service.wait_trades(1)


def test_bad_settings_stop_the_start_with_every_fault_named(service: Service) -> None:
    done = service.manage("run_aggregator", GRACE="soon", KAFKA_PARTITIONS="none", CLOCK="moon")
    assert done.returncode == 2
    for variable in ("GRACE", "KAFKA_PARTITIONS", "CLOCK"):
        assert variable in done.stderr
    assert "Traceback" not in done.stderr
