"""What the archive must hold, computed from the log alone, and archivers to test it with.

The expected rows are read from the topic's messages by their JSON and follow `tests.spec.seen`;
nothing here uses the code under test. Each test's archive is its own database.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaException, TopicPartition

from aggregator.archiving.archiver import run_archiver
from aggregator.archiving.sink import ArchivingSink
from aggregator.contracts.stats import ArchiveStatus
from aggregator.member.log import Polled
from aggregator.member.loop import MemberLoop
from aggregator.member.memory import MemoryLog, MemoryTopic
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config, load
from aggregator.runtime.health import Health
from infra.embedded.stack import Stack
from tests.spec.seen import EntrySpec, LogRecordSpec, SeenSpec, known_of
from tests.support.oracle import home_of
from tests.support.service import Service

Place = tuple[int, int]
Row = tuple[int, int, str, str, int]
"""partition, offset, tx_hash, letter, sign."""
Sums = dict[tuple[str, int], tuple[int, Decimal]]
"""(token, minute or day in s) to (trades, volume in USD)."""

HOUR_MS: Final = 3_600_000
TTL_MS: Final = 26 * HOUR_MS
GRACE_MS: Final = 24 * HOUR_MS
MAX_FUTURE_MS: Final = 300_000
_ORIGIN: Final = "origin"


class Message(NamedTuple):
    """A record of the topic."""

    place: Place
    timestamp: int
    value: bytes | None
    origin: Place | None = None


@dataclass(frozen=True)
class Expected:
    """The contents of raw_swaps, candles_1m and daily_token_agg."""

    rows: list[Row]
    candles: Sums
    days: Sums


@cache
def token_at(partition: int, number: int = 0, homes: int = 4) -> str:
    """Return a token of chain ethereum that is at home on a partition, another for each number."""
    found = (f"T{each}" for each in count() if home_of(f"ethereum:T{each}", homes) == partition)
    return next(name for at, name in enumerate(found) if at == number)


def messages(bootstrap: str, topic: str, partitions: int = 4) -> list[Message]:
    """Return every message of the topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid4().hex, "log_level": 0})
    found: list[Message] = []
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
                    at = (partition, last)
                    origin = _origin_in(message.headers() or ())
                    found.append(Message(at, message.timestamp()[1], message.value(), origin))
    finally:
        consumer.close()
    return found


def memory_messages(topic: MemoryTopic) -> list[Message]:
    """Return every message of a topic in memory."""
    return [
        Message((partition, each.offset), each.timestamp, each.value, _origin_in(each.headers))
        for partition in range(len(topic.partitions))
        for each in topic.records(partition)
    ]


def _origin_in(headers: Iterable[tuple[str, Any]]) -> Place | None:
    for name, value in headers:
        if name == _ORIGIN:
            partition, offset, *_ = value.decode().split(":")
            return int(partition), int(offset)
    return None


def _extent(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """Return the log's first and end offset; a topic created just now may lack a leader."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=10)
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class _Row(NamedTuple):
    place: Place
    letter: str
    sign: int
    event: Mapping[str, Any]
    block: int


@dataclass
class _Oracle:
    """The archive of one partition's log, in plain code."""

    partition: int
    homes: int
    seen: SeenSpec = field(
        default_factory=lambda: SeenSpec(TTL_MS, GRACE_MS, MAX_FUTURE_MS, next_offset=0)
    )
    rows: dict[bytes, list[_Row]] = field(default_factory=lambda: defaultdict(list))
    blocks: dict[str, int] = field(default_factory=dict)

    def read(self, message: Message) -> None:
        event = _event_of(message)
        record = LogRecordSpec(message.place[1], b"", 0, message.timestamp, bad=True)
        if event is None:
            self.seen.judge(record)
            return
        names = (event["chain"], event["tx_hash"], event["log_index"], event["token"])
        key = ":".join(map(str, names)).encode()
        record = LogRecordSpec(
            message.place[1],
            key,
            event["timestamp"],
            message.timestamp,
            removed=bool(event.get("removed")),
            block=self._block(event.get("block_hash")),
            away=home_of(f"{event['chain']}:{event['token']}", self.homes) != self.partition,
            origin=message.origin,
        )
        letter, _ = self.seen.judge(record, self._known(key))
        self._archive(key, record, letter, event)

    def _block(self, block_hash: str | None) -> int:
        return 0 if block_hash is None else self.blocks.setdefault(block_hash, len(self.blocks) + 1)

    def _known(self, key: bytes) -> dict[bytes, EntrySpec]:
        return known_of([(key, row.letter, row.place[1], row.block) for row in self.rows[key]])

    def _archive(
        self, key: bytes, record: LogRecordSpec, letter: str, event: Mapping[str, Any]
    ) -> None:
        place = (self.partition, record.offset)
        if not record.removed or letter not in "UIDT":
            if letter in "CLVTNnP":
                sign = 1 if letter in "CL" else 0
                self.rows[key].append(_Row(place, letter, sign, event, record.block))
            return
        up = self._standing(key)
        taken = [row for row in up if row.block and row.block == record.block] or up[-1:]
        if len(up) > (letter == "I"):
            name = "U" if letter == "U" else "u"
            self.rows[key].append(_Row(place, name, -1, taken[0].event, taken[0].block))
        elif letter in "UT":
            name = "G" if letter == "U" else "T"
            self.rows[key].append(_Row(place, name, 0, event, record.block))

    def _standing(self, key: bytes) -> list[_Row]:
        up: list[_Row] = []
        for row in self.rows[key]:
            if row.sign > 0:
                up.append(row)
            elif row.sign < 0:
                same = [each for each in up if each.event is row.event]
                up.remove(same[-1])
        return up


def _event_of(message: Message) -> dict[str, Any] | None:
    try:
        event: dict[str, Any] = json.loads(message.value or b"")
        amount = Decimal(event["amount"])
    except (ValueError, KeyError, ArithmeticError):
        return None
    future = event["timestamp"] > message.timestamp + MAX_FUTURE_MS and message.origin is None
    if amount <= 0 or (future and not event.get("removed")):
        return None
    return event


def expected(log: Iterable[Message], homes: int = 4) -> Expected:
    """Compute the archive of these messages."""
    oracles: dict[int, _Oracle] = {}
    for message in log:
        partition = message.place[0]
        oracles.setdefault(partition, _Oracle(partition, homes)).read(message)
    rows: list[Row] = []
    candles: defaultdict[tuple[str, int], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    days: defaultdict[tuple[str, int], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    of_all = [each for oracle in oracles.values() for held in oracle.rows.values() for each in held]
    for place, letter, sign, event, _ in of_all:
        rows.append((*place, event["tx_hash"], letter, sign))
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
            "SELECT partition, offset, tx_hash, toString(verdict), toInt8(sign) FROM raw_swaps "
            "WHERE chain != ''"
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


def wait_archived(
    service: Service, archive: Archive, within_s: float = 40, *, restored: bool = False
) -> Expected:
    """Wait until the archive holds exactly what the log says, row by row and sum by sum.

    A swap that a backfill has `restored` may count as late, since the windows have passed it.
    """
    log = messages(service.env["KAFKA_BOOTSTRAP"], service.topic)
    return wait_for_rows(archive, expected(log), within_s, restored=restored)


def wait_for_rows(
    archive: Archive, wanted: Expected, within_s: float = 40, *, restored: bool = False
) -> Expected:
    """Wait until the archive holds exactly this, row by row and sum by sum."""

    def held_rows() -> Expected:
        found = archive.held()
        return replace(found, rows=_without_late(found.rows)) if restored else found

    if restored:
        wanted = replace(wanted, rows=_without_late(wanted.rows))
    deadline = time.monotonic() + within_s
    while (found := archive.count()) < len(wanted.rows):
        assert time.monotonic() < deadline, f"{found} of {len(wanted.rows)} rows"
        time.sleep(0.05)
    # A block is visible in raw_swaps a moment before it is in the views.
    while (held := held_rows()) != wanted and time.monotonic() < deadline:
        assert held.rows == wanted.rows
        time.sleep(0.05)
    assert held.rows == wanted.rows
    assert held.candles == wanted.candles
    assert held.days == wanted.days
    return held


def _without_late(rows: list[Row]) -> list[Row]:
    """Return the rows with one letter for swaps, on time or late."""
    return [(*row[:3], "C" if row[3] == "L" else row[3], row[4]) for row in rows]


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


class _PacedLog(MemoryLog):
    """A log in memory that waits for records as a client does."""

    def poll(self, limit: int, timeout_s: float) -> Polled:
        polled = super().poll(limit, timeout_s)
        if not polled.records:
            time.sleep(timeout_s)
        return polled


class _Killed(BaseException):
    """Ends an archiver's loop as a fault of its own would."""


class MemoryArchiver:
    """An archiver of a topic in memory, on a thread; `stop` drains it, `kill` does not."""

    def __init__(self, topic: MemoryTopic, archive: Archive, **settings: str) -> None:
        given = {"CLICKHOUSE_URL": archive.url, "ARCHIVE_LINGER": "20ms", **settings}
        self.config: Config = load(given)
        self.statuses: dict[int, ArchiveStatus] = {}
        self.fault: BaseException | None = None
        self._killed = False
        self.log = _PacedLog(topic, "archivers")
        self.sink = ArchivingSink(self.config, self.log, self._note, Health())
        self._stop = threading.Event()
        self._loop = MemberLoop(
            self.log, self.sink, batch_size=1_000, stop=self._stop, joined=self.sink.joined
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:
            self.fault = error

    def _note(self, status: ArchiveStatus) -> None:
        self.statuses[status.partition] = status
        if self._killed:
            raise _Killed

    def stop(self) -> None:
        """Stop it, and check that it had no fault."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.fault is None, self.fault

    def kill(self) -> None:
        """End it within a second, without draining."""
        self._killed = True
        self._thread.join(30)
        assert isinstance(self.fault, _Killed), self.fault

    def __enter__(self) -> MemoryArchiver:
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
