"""What version 0.1 left, put into the engines of a test (tests/data/upgrade-0.1).

All times are shifted by one constant, so that the newest row came in just now. Only the values in
Redis keep theirs: this version does not read them.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from clickhouse_driver import Client
from confluent_kafka import Consumer, Producer, TopicPartition

from aggregator.clickhouse import schema
from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import load
from tests.support.archived import Archive
from tests.support.service import Service

PARTITIONS = 4
FILES = Path(__file__).parents[1] / "data" / "upgrade-0.1"
_RECORDED_TOPIC = b"raw-swaps"
_LAST_SCHEMA_FILE = "006"
_TIMES = ("timestamp", "ingested_at")
_DECIMALS = ("amount", "amount_usd")


class OldRow(NamedTuple):
    """A row of the archive of 0.1."""

    tx_hash: str
    token: str
    letter: str


class OldVersion:
    """The recording, re-based to the present; each `load_` puts one part into an engine."""

    def __init__(self, service: Service) -> None:
        self._service = service
        names, *rows = _lines("raw_swaps")
        self._rows = [dict(zip(names, row, strict=True)) for row in rows]
        self._shift = wall_ms() - max(row["ingested_at"] for row in self._rows)
        self._records = [self._present(each) for each in _lines("records")]

    @property
    def rows(self) -> list[OldRow]:
        """The rows of raw_swaps."""
        return [OldRow(row["tx_hash"], row["token"], row["verdict"]) for row in self._rows]

    def events(self, case: str) -> list[dict[str, Any]]:
        """Return the swaps of a case as they were added, by the order of their numbers."""
        found = {}
        for record in self._records:
            event = _event(record["value"])
            if event.get("venue") == case:
                event.pop("removed", None)
                found.setdefault((event["tx_hash"], event["token"]), event)
        return [found[name] for name in sorted(found)]

    def load(self, kept: Archive, directory: Path) -> None:
        """Load everything."""
        self.load_kafka()
        self.load_redis()
        self.load_archive(kept, directory)
        for commit in _lines("commits"):
            self.commit(**commit)

    def load_kafka(self) -> None:
        """Produce the records, each to its partition and with its timestamp."""
        producer = Producer({"bootstrap.servers": self._service.env["KAFKA_BOOTSTRAP"]})
        for each in self._records:
            producer.produce(self._service.topic, **each)
        assert producer.flush(20) == 0

    def load_redis(self) -> int:
        """Restore the keys under the name of the topic, and return how many."""
        keys = _lines("redis")
        topic = self._service.topic.encode()
        with redis.Redis.from_url(self._service.env["REDIS_URL"]) as client:
            for each in keys:
                key = base64.b64decode(each["key"]).replace(_RECORDED_TOPIC, topic)
                client.restore(key, max(0, each["pttl"]), base64.b64decode(each["dump"]))
        return len(keys)

    def load_archive(self, kept: Archive, directory: Path) -> None:
        """Create the tables as 0.1 did, and insert its rows; the views add them up."""
        _old_schema(kept, directory)
        rows = [self._typed(row) for row in self._rows]
        columns = ", ".join(f"`{name}`" for name in rows[0])
        with Client.from_url(kept.url) as client:
            client.execute(
                f"INSERT INTO raw_swaps ({columns}) VALUES", [list(row.values()) for row in rows]
            )

    def commit(self, *, group: str, partition: int, offset: int, metadata: str) -> None:
        """Commit as a member of a group of 0.1, which `group` names by its setting."""
        if group == "ARCHIVER_GROUP":
            watermark, *rest = json.loads(metadata)
            metadata = json.dumps([watermark + self._shift, *rest])
        member = Consumer(
            {
                "bootstrap.servers": self._service.env["KAFKA_BOOTSTRAP"],
                "group.id": self._service.env[group],
            }
        )
        place = TopicPartition(self._service.topic, partition, offset, metadata)
        member.commit(offsets=[place], asynchronous=False)
        member.close()

    def _present(self, record: dict[str, Any]) -> dict[str, Any]:
        event = _event(record["value"])
        if event:
            event["timestamp"] += self._shift
            record["value"] = json.dumps(event)
        return record | {"timestamp": record["timestamp"] + self._shift}

    def _typed(self, row: dict[str, Any]) -> dict[str, Any]:
        typed = row | {"marker": bytes.fromhex(row["marker"])}
        for name in _TIMES:
            typed[name] = datetime.fromtimestamp((row[name] + self._shift) / 1000, UTC)
        for name in _DECIMALS:
            typed[name] = None if row[name] is None else Decimal(row[name])
        return typed


def _lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (FILES / f"{name}.jsonl").read_text().splitlines()]


def _event(value: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(value)
    except ValueError:
        return {}
    return event


def _old_schema(kept: Archive, directory: Path) -> None:
    """Apply the schema files that 0.1 had, and note them as applied."""
    directory.mkdir()
    for path in _old_files():
        shutil.copy(path, directory)
    clickhouse = ClickHouseClient(kept.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_FILES", directory)
        schema.ensure_schema(clickhouse, load({"CLICKHOUSE_URL": kept.url}))
    clickhouse.close()


def _old_files() -> Iterator[Path]:
    for path in sorted(schema._FILES.glob("[0-9]*.sql")):
        if path.name[:3] <= _LAST_SCHEMA_FILE:
            yield path
