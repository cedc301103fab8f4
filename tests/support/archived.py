"""What the archive must hold, computed from the log alone, and archivers to test it with.

The expected rows are read from the topic's messages by their JSON; nothing here uses the code under
test. Each test's archive is its own database.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaException, TopicPartition

from aggregator.archiving.archiver import run_archiver
from aggregator.contracts.stats import ArchiveStatus
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config, load
from aggregator.runtime.health import Health
from infra.embedded.stack import Stack
from tests.support.service import Service

Place = tuple[int, int]
Row = tuple[int, int, str, int]
"""partition, offset, tx_hash, sign."""
Sums = dict[tuple[str, int], tuple[int, Decimal]]
"""(token, minute or day in s) to (trades, volume in USD)."""


@dataclass(frozen=True)
class Expected:
    """The contents of raw_swaps, candles_1m and daily_token_agg."""

    rows: list[Row]
    candles: Sums
    days: Sums


def messages(bootstrap: str, topic: str, partitions: int = 4) -> list[tuple[Place, bytes | None]]:
    """Return every message of the topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid4().hex, "log_level": 0})
    found: list[tuple[Place, bytes | None]] = []
    try:
        for partition in range(partitions):
            place = TopicPartition(topic, partition)
            first, end = _extent(consumer, place)
            consumer.assign([TopicPartition(topic, partition, first)])
            last = first - 1
            while last < end - 1:
                for message in consumer.consume(1_000, 1.0):
                    assert message.error() is None, message.error()
                    last = message.offset()
                    found.append(((partition, last), message.value()))
    finally:
        consumer.close()
    return found


def _extent(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """Return the log's first and end offset; a topic created just now may lack a leader."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=10)
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def expected(log: Iterable[tuple[Place, bytes | None]]) -> Expected:
    """Compute the archive of these messages, where every swap stays on one partition."""
    swaps: dict[str, dict[bool, tuple[Place, dict[str, Any]]]] = defaultdict(dict)
    for place, value in log:
        try:
            event = json.loads(value or b"")
            amount = Decimal(event["amount"])
        except (ValueError, KeyError, ArithmeticError):
            continue
        if amount <= 0:
            continue
        key = f"{event['tx_hash']}:{event['log_index']}:{event.get('block_hash')}"
        swaps[key].setdefault(bool(event.get("removed")), (place, event))
    rows: list[Row] = []
    candles: defaultdict[tuple[str, int], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    days: defaultdict[tuple[str, int], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    for found in swaps.values():
        void = True in found and (False not in found or found[True][0] < found[False][0])
        for removed, (place, event) in found.items():
            sign = 0 if void else -1 if removed else 1
            rows.append((*place, event["tx_hash"], sign))
            for sums, length in ((candles, 60), (days, 86_400)):
                if sign:
                    key_of_sum = (event["token"], event["timestamp"] // 1000 // length * length)
                    sums[key_of_sum][0] += sign
                    sums[key_of_sum][1] += sign * Decimal(event["amount_usd"] or 0)
    return Expected(sorted(rows), _sums(candles), _sums(days))


def _sums(found: dict[tuple[str, int], list[Any]]) -> Sums:
    return {key: (trades, usd) for key, (trades, usd) in found.items()}


class Archive:
    """The archive of one test in ClickHouse."""

    def __init__(self, server_url: str, name: str) -> None:
        self.server_url = server_url
        self.name = name
        self.url = server_url.rpartition("/")[0] + f"/{name}"

    def ask(self, query: str) -> Any:
        """Return the rows of a query, over its own connection: the server may have restarted."""
        with Client.from_url(self.url) as client:
            return client.execute(query)

    def count(self) -> int:
        """Return the rows of raw_swaps; 0 while there is no table or no server."""
        try:
            return int(self.ask("SELECT count() FROM raw_swaps WHERE chain != ''")[0][0])
        except Exception:
            return 0

    def held(self) -> Expected:
        """Return what the three tables hold, with each row and block as it was inserted."""
        rows = self.ask(
            "SELECT partition, offset, tx_hash, toInt8(sign) FROM raw_swaps WHERE chain != ''"
        )
        candles = self.ask(
            "SELECT token, toInt64(toUnixTimestamp(minute)), sum(trades), sum(volume_usd) "
            "FROM candles_1m WHERE chain != '' GROUP BY 1, 2"
        )
        days = self.ask(
            "SELECT token, toInt64(toUnixTimestamp(toDateTime(day, 'UTC'))), sum(trades), "
            "sum(volume_usd) FROM daily_token_agg WHERE chain != '' GROUP BY 1, 2"
        )
        return Expected(
            sorted(tuple(row) for row in rows),
            {(token, at): (trades, usd) for token, at, trades, usd in candles},
            {(token, at): (trades, usd) for token, at, trades, usd in days},
        )


@contextmanager
def archive(server_url: str) -> Iterator[Archive]:
    """Create a database for the block and drop it afterwards."""
    name = f"archiver_{uuid4().hex[:10]}"
    found = Archive(server_url, name)
    _once(server_url, f"CREATE DATABASE {name}")
    try:
        yield found
    finally:
        _once(server_url, f"DROP DATABASE {name} SYNC")


@contextmanager
def archiving(directory: Path, kafka: Stack, kept: Archive) -> Iterator[Service]:
    """Start a service with its topics, whose archivers insert after a short linger."""
    settings = {
        "CLICKHOUSE_URL": kept.url,
        "ARCHIVE_LINGER": "100ms",
        # Members of this protocol join ten times as fast as those of a classic group.
        "KAFKA_GROUP_PROTOCOL": "consumer",
    }
    with Service(directory, kafka, **settings) as running:
        ensure_topics(load(running.env))
        yield running


def _once(url: str, query: str) -> None:
    with Client.from_url(url) as client:
        client.execute(query)


def wait_archived(service: Service, archive: Archive, within_s: float = 40) -> Expected:
    """Wait until the archive holds exactly what the log says, row by row and sum by sum."""
    wanted = expected(messages(service.env["KAFKA_BOOTSTRAP"], service.topic))
    deadline = time.monotonic() + within_s
    while (count := archive.count()) < len(wanted.rows):
        assert time.monotonic() < deadline, f"{count} of {len(wanted.rows)} rows"
        time.sleep(0.05)
    # A block is visible in raw_swaps a moment before it is in the views.
    while (held := archive.held()) != wanted and time.monotonic() < deadline:
        assert held.rows == wanted.rows
        assert sum(trades for trades, _ in held.days.values()) <= sum(
            trades for trades, _ in wanted.days.values()
        )
        time.sleep(0.05)
    assert held.rows == wanted.rows
    assert held.candles == wanted.candles
    assert held.days == wanted.days
    return held


class Archiver:
    """An archiver on a thread of the test; `stop` ends it as SIGTERM would."""

    def __init__(self, env: dict[str, str], **settings: str) -> None:
        self.config: Config = load(env | settings)
        self.statuses: dict[int, ArchiveStatus] = {}
        self.fault: BaseException | None = None
        self.health = Health()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            run_archiver(self.config, self._stop, self._note, self.health)
        except BaseException as error:
            self.fault = error

    def _note(self, status: ArchiveStatus) -> None:
        self.statuses[status.partition] = status

    def all(self, holds: Callable[[ArchiveStatus], bool], partitions: int = 4) -> bool:
        """Return whether `holds` is true for the last status of every partition."""
        assert self.fault is None, self.fault
        return len(self.statuses) == partitions and all(map(holds, self.statuses.values()))

    def stop(self) -> None:
        """Stop it, and check that it had no fault."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.fault is None, self.fault

    def __enter__(self) -> Archiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


class LosesAnswers:
    """A proxy for ClickHouse; while `armed`, the server's answer to an insert never arrives."""

    def __init__(self, port: int) -> None:
        self.lost = 0
        self.armed = threading.Event()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pumps: list[tuple[socket.socket, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake the thread that accepts.
        _hang_up(self._listener)
        self._accepting.join()
        for client, thread in self._pumps:
            _hang_up(client)
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            thread = threading.Thread(target=self._pump, args=(client, server), daemon=True)
            thread.start()
            self._pumps.append((client, thread))

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        """Forward one connection both ways; after an INSERT, forward only one more answer."""
        inserting = threading.Event()

        def upwards() -> None:
            try:
                while data := client.recv(65_536):
                    if b"INSERT INTO raw_swaps" in data and self.armed.is_set():
                        inserting.set()
                    server.sendall(data)
            except OSError:
                pass
            finally:
                _hang_up(server)

        thread = threading.Thread(target=upwards, daemon=True)
        thread.start()
        answers = 0
        try:
            while data := server.recv(65_536):
                if inserting.is_set():
                    answers += 1
                if answers > 1:
                    # The first answer was the table's structure; this one says that the rows are
                    # in.
                    self.lost += 1
                    self.armed.clear()
                    break
                client.sendall(data)
        except OSError:
            pass
        finally:
            _hang_up(client)
            _hang_up(server)
            thread.join()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
