"""Records what version 0.1 leaves in Kafka, Redis and ClickHouse.

Run once, in a checkout of 0.1 (commit e855a12), whose own test tools it uses:
`python record.py DIRECTORY`. README.md describes the files. The `venue` of a swap names its case,
with "-away" for tokens whose producer has another partitioner than the rest.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from infra.embedded.stack import Stack
from tests.support.archived import Archiver, archive
from tests.support.processes import wait_until
from tests.support.service import Service

PARTITIONS = 4
COLUMNS = (
    "chain",
    "token",
    "sign",
    "removed",
    "tx_hash",
    "log_index",
    "block_number",
    "block_hash",
    "symbol",
    "quote",
    "venue",
    "pool",
    "trader",
    "price_usd",
    "`partition`",
    "`offset`",
)
CONVERTED = (
    "toUnixTimestamp64Milli(timestamp)",
    "toUnixTimestamp64Milli(ingested_at)",
    "toString(side)",
    "toString(amount)",
    "toString(amount_usd)",
    "toString(verdict)",
    "hex(marker)",
)
Sent = list[tuple[str, str, int, dict[str, Any]]]
"""partitioner, key, record timestamp, event; in the order of sending."""


def _home(key: str) -> int:
    """murmur2 of Java clients."""
    data, mixed = key.encode(), 0x9747B28C ^ len(key.encode())
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * 0x5BD1E995 & 0xFFFFFFFF
        word = (word ^ word >> 24) * 0x5BD1E995 & 0xFFFFFFFF
        mixed = (mixed * 0x5BD1E995 & 0xFFFFFFFF) ^ word
    if whole < len(data):
        mixed ^= int.from_bytes(data[whole:], "little")
        mixed = mixed * 0x5BD1E995 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return ((mixed ^ mixed >> 15) & 0x7FFFFFFF) % PARTITIONS


def _tokens(away: bool) -> list[str]:
    """Eight tokens, two of each home; `away` ones have another partition by CRC-32."""
    found: dict[int, list[str]] = {home: [] for home in range(PARTITIONS)}
    for number in count():
        token = f"{'A' if away else 'T'}{number}"
        key = f"ethereum:{token}"
        home = _home(key)
        moved = zlib.crc32(key.encode()) % PARTITIONS != home
        if len(found[home]) < 2 and (moved or not away):
            found[home].append(token)
        if all(len(names) == 2 for names in found.values()):
            return [name for names in found.values() for name in names]
    raise AssertionError


class _Traffic:
    """Swaps of the last 50 minutes, one record about every 10 s."""

    def __init__(self, now: int) -> None:
        self.sent: Sent = []
        self._draw = random.Random(1)
        self._clock = now - 3_000_000
        self._numbers = count(1)
        self._tokens = {away: _tokens(away) for away in (False, True)}

    def event(self, case: str, *, away: bool, ago: int = 1_000, **fields: Any) -> dict[str, Any]:
        number = next(self._numbers)
        tokens = self._tokens[away]
        return {
            "chain": "ethereum",
            "tx_hash": f"0x{number:064x}",
            "log_index": number % 5,
            "timestamp": self._clock - ago,
            "token": tokens[number % len(tokens)],
            "side": "buy" if number % 3 else "sell",
            "amount": str(self._draw.randint(1, 9)),
            "amount_usd": f"{self._draw.randint(100, 99_999) / 100:.2f}",
            "trader": f"0x{number % 6:040x}",
            "venue": f"{case}-away" if away else case,
        } | fields

    def send(self, event: dict[str, Any], **fields: Any) -> None:
        self._clock += self._draw.randint(8_000, 12_000)
        key = f"ethereum:{event['token']}"
        away = event["venue"].endswith("-away")
        self.sent.append(("consistent" if away else "murmur2", key, self._clock, event | fields))

    def run(self) -> None:
        for away in (False, True):
            for _ in range(2 if away else 3):  # their swaps come after the upgrade
                self.send(self.event("open", away=away), removed=True)
        for step in range(40):
            away = step % 4 == 3
            plain = [self.event("plain", away=away) for _ in range(3)]
            for event in plain:
                self.send(event)
            if step % 3 == 0:
                self.send(plain[0])
            if step % 5 == 1:
                self._pair(away)
            if step % 8 == 5:
                self._late(away)
        for away in (False, True):
            self._reversed(away)
            self._blocks(away)
            self._pair(away)
            self._late(away)
        self._legs("legs")
        self._legs("legs-again")
        self._moved()

    def _pair(self, away: bool) -> None:
        event = self.event("retracted", away=away)
        self.send(event)
        self.send(event, removed=True, amount_usd="1.00")

    def _reversed(self, away: bool) -> None:
        for _ in range(2):
            event = self.event("void", away=away)
            self.send(event, removed=True)
            self.send(event)

    def _blocks(self, away: bool) -> None:
        event = self.event("blocks", away=away, block_hash="0xa1")
        self.send(event)
        self.send(event, removed=True)
        self.send(event, block_hash="0xb2")

    def _late(self, away: bool) -> None:
        self.send(self.event("late", away=away, ago=600_000))
        event = self.event("late-retracted", away=away, ago=600_000)
        self.send(event)
        self.send(event, removed=True)

    def _legs(self, case: str) -> None:
        """Two tokens of one swap: for 0.1 the second leg repeats the first."""
        event = self.event(case, away=False)
        self.send(event)
        others = [each for each in self._tokens[False] if each != event["token"]]
        self.send(event, token=others[0])

    def _moved(self) -> None:
        """A swap that both producers send: for 0.1 a repeat, on another partition."""
        for _ in range(3):
            event = self.event("moved", away=True)
            self.send(event)
            self.send(event, venue="moved")


def _produce(service: Service, sent: Sent) -> None:
    producers = {
        name: Producer({"bootstrap.servers": service.env["KAFKA_BOOTSTRAP"], "partitioner": name})
        for name in ("consistent", "murmur2")
    }
    for partitioner, key, timestamp, event in sent:
        value = json.dumps(event).encode()
        producers[partitioner].produce(service.topic, value, key, timestamp=timestamp)
        producers[partitioner].flush(10)
    producers["murmur2"].produce(service.topic, b"{", "ethereum:T0", timestamp=sent[-1][2])
    producers["murmur2"].flush(10)


def _records(service: Service) -> Iterator[dict[str, Any]]:
    consumer = Consumer({"bootstrap.servers": service.env["KAFKA_BOOTSTRAP"], "group.id": "x"})
    for partition in range(PARTITIONS):
        _, end = consumer.get_watermark_offsets(TopicPartition(service.topic, partition))
        consumer.assign([TopicPartition(service.topic, partition, 0)])
        last = -1
        while last < end - 1:
            for message in consumer.consume(500, 1.0):
                last = message.offset()
                yield {
                    "partition": partition,
                    "key": message.key().decode(),
                    "value": message.value().decode(),
                    "timestamp": message.timestamp()[1],
                }
    consumer.close()


def _commits(service: Service) -> Iterator[dict[str, Any]]:
    for group in ("KAFKA_GROUP", "ARCHIVER_GROUP"):
        consumer = Consumer(
            {"bootstrap.servers": service.env["KAFKA_BOOTSTRAP"], "group.id": service.env[group]}
        )
        places = [TopicPartition(service.topic, each) for each in range(PARTITIONS)]
        for place in consumer.committed(places, timeout=10):
            yield {
                "group": group,
                "partition": place.partition,
                "offset": place.offset,
                "metadata": place.metadata,
            }
        consumer.close()


def _keys(service: Service) -> Iterator[dict[str, Any]]:
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        for key in sorted(client.keys()):
            yield {
                "key": base64.b64encode(key.replace(service.topic.encode(), b"raw-swaps")).decode(),
                "dump": base64.b64encode(client.dump(key)).decode(),
                "pttl": client.pttl(key),
            }


def _rows(kept: Any) -> Iterator[Any]:
    """The names of the columns, then the values of each row."""
    names = [name.strip("`") for name in COLUMNS]
    names += ["timestamp", "ingested_at", "side", "amount", "amount_usd", "verdict", "marker"]
    query = f"SELECT {', '.join(COLUMNS + CONVERTED)} FROM raw_swaps ORDER BY partition, offset"
    yield names
    yield from kept.ask(query)


def main(directory: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        Stack(Path(temporary) / "kafka") as stack,
        archive(stack.clickhouse.url) as kept,
        Service(Path(temporary), stack, CLICKHOUSE_URL=kept.url, ARCHIVE_LINGER="100ms") as service,
    ):
        ensure_topics(load(service.env))
        traffic = _Traffic(int(time.time() * 1000))
        traffic.run()
        _produce(service, traffic.sent)
        with Archiver(service.env) as archiver:
            aggregator = service.aggregator(CLICKHOUSE_URL="")
            service.web()
            service.wait_ready(120)
            wait_until(lambda: archiver.all(lambda each: each.lag == 0), 120, "lag 0")
            time.sleep(6)  # the last snapshots and commits
            archiver.stop()
        aggregator.terminate()
        assert aggregator.wait(20) == 0
        for name, lines in (
            ("records", _records(service)),
            ("commits", _commits(service)),
            ("redis", _keys(service)),
            ("raw_swaps", _rows(kept)),
        ):
            text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
            (directory / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
