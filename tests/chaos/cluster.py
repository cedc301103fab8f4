"""The processes of one run: its own Redis and NATS, aggregators that come and go, and a topic.

Does what a step says, and knows which processes ended as they should. The broker belongs to the
lane (`campaign`), which plays one run at a time.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from redis import Redis as RedisClient

from infra.embedded.engine import Process
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.chaos.schedule import PARTITIONS
from tests.chaos.traffic import Message

ROOT = Path(__file__).parents[2]
MOST_AGGREGATORS = 3
FLUSH_S = 90
ANSWER_S = 20
ENDS_WITHIN_S = 60
# The save of a burst is some KB of Redis's log; the start of an owner some hundred bytes.
SAVED_BYTES = 3_000
# As far as the events may be ahead: the service refuses a topic without such a bound.
AHEAD = {"message.timestamp.after.max.ms": "300000"}


class Broken(AssertionError):
    """The service did what it must never do: it stopped on its own, or got stuck."""


@dataclass
class Member:
    """One aggregator process, armed with `fault`."""

    process: Process
    fault: str
    frozen: bool = False

    @property
    def name(self) -> str:
        return self.process.name

    def stopped_itself(self) -> bool:
        """Whether it has met a fault that stops it with SIGSTOP."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        return self.process.running and stat.read_text().rpartition(")")[2].split()[0] == "T"


class Cluster:
    """The processes of a run; only the broker and its topic outlive the `with` block."""

    def __init__(
        self, directory: Path, broker: Stack, name: str, settings: Mapping[str, str]
    ) -> None:
        self.directory = directory
        self._settings = settings
        self.engines = Stack(directory / "engines", only=(Redis, Nats))
        self.members: list[Member] = []
        self.done: Counter[str] = Counter()
        self.topic, self.group = name, f"group-{name}"
        self._broker = broker
        self._address = broker.kafka.address
        # Kept, since a future of an admin client that was collected never completes.
        self._admin = self._new_admin()
        self._closing = ExitStack()
        self._started = 0
        self._written_before = 0
        self._copy = directory / "redis-copy"
        self._producer = Producer(
            {
                "bootstrap.servers": self._address,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": FLUSH_S * 1000,
                "log_level": 0,
            }
        )
        self._refused: list[str] = []
        # Reads the log and the group's commits, and never joins the group.
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._address,
                "group.id": self.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )

    def __enter__(self) -> Self:
        self._closing.enter_context(self.engines)
        swaps = NewTopic(self.topic, PARTITIONS, 1, config=AHEAD)
        topics = [swaps, NewTopic(f"{self.topic}.dlq", 1, 1)]
        for made in self._admin.create_topics(topics).values():
            made.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.process.kill()
        self._consumer.close()
        self._closing.close()

    @property
    def running(self) -> list[Member]:
        """The members that are not frozen."""
        return [member for member in self.members if not member.frozen]

    def start(self, fault: str = "") -> Member | None:
        """Start one more aggregator, unless there are enough."""
        if len(self.members) >= MOST_AGGREGATORS:
            return None
        self._started += 1
        name = f"aggregator-{self._started}"
        process = Process(name, self.directory / f"{name}.log", self.engines.guard)
        settings = {
            "KAFKA_BOOTSTRAP": self._address,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_DLQ_TOPIC": f"{self.topic}.dlq",
            "KAFKA_GROUP": self.group,
            "KAFKA_PARTITIONS": str(PARTITIONS),
            "BATCH_SIZE": "50",
            "COMMIT_INTERVAL": "300ms",
            "SNAPSHOT_INTERVAL": "250ms",
            "LOG_FORMAT": "json",
            "SWAPS_FAULT": fault,
            **self._settings,
        }
        command = [sys.executable, "manage.py", "run_aggregator"]
        process.launch(command, os.environ | self.engines.env() | settings, ROOT)
        self.members.append(Member(process, fault))
        return self.members[-1]

    def kill(self, member: Member) -> None:
        """Kill an aggregator with -9."""
        member.process.kill()
        self.members.remove(member)

    def terminate(self, member: Member) -> None:
        """Send SIGTERM; the process must end in order and soon. Raises Broken."""
        member.process.terminate()
        status = member.process.wait(ENDS_WITHIN_S)
        self.members.remove(member)
        if status != 0 and (status != -signal.SIGTERM or member.process.tail()):
            # A process that has logged nothing yet has not installed its SIGTERM handler.
            raise Broken(f"{member.name} ended with {status} on SIGTERM: {member.process.tail(3)}")

    def freeze(self, member: Member) -> None:
        """Stop an aggregator with SIGSTOP."""
        os.kill(member.process.pid, signal.SIGSTOP)
        member.frozen = True

    def thaw(self) -> None:
        """Wake all frozen aggregators with SIGCONT."""
        for member in self.members:
            if member.frozen:
                os.kill(member.process.pid, signal.SIGCONT)
                member.frozen = False

    def bury(self) -> None:
        """Remove armed aggregators that met their fault. Raises Broken where another one ended."""
        for member in list(self.members):
            if member.process.running:
                continue
            self.members.remove(member)
            if not (member.fault and member.process.wait() == -signal.SIGKILL):
                raise Broken(f"{member.name} ended on its own: {member.process.tail(5)}")
            self.done[member.fault.partition(":")[0]] += 1

    def _new_admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._address, "log_level": 0})

    def group_members(self) -> int | None:
        """Return how many members the group has; None while it rebalances or does not answer."""
        try:
            asked = self._admin.describe_consumer_groups([self.group], request_timeout=2)
            group = asked[self.group].result(3)
        except (KafkaException, TimeoutError):
            # A client whose call was cut by the end of the broker may wait indefinitely.
            self._admin = self._new_admin()
            return None
        return len(group.members) if group.state.name == "STABLE" else None

    def redis_written(self) -> int:
        """Return the size of Redis's append-only file in bytes."""
        return sum(path.stat().st_size for path in self._append_only_files())

    def _append_only_files(self) -> list[Path]:
        return sorted((self.engines.redis.data / "appendonlydir").glob("*.incr.aof"))

    def kill_redis(self, lost: float) -> None:
        """Kill Redis with -9 and delete a share of what it wrote since the last burst (1: all)."""
        redis = self.engines.redis
        redis.kill()
        if lost == 1:
            shutil.rmtree(redis.data)
        elif lost > 0:
            (file,) = self._append_only_files()
            size = file.stat().st_size
            since_burst = max(0, size - self._written_before)
            os.truncate(file, size - round(since_burst * lost))

    def cut_redis(self, *, replica: bool) -> None:
        """Make Redis refuse writes, as the replica of a dead master or a master without one."""
        with self._redis() as client:
            if replica:
                client.replicaof("127.0.0.1", 1)
            else:
                client.config_set("min-replicas-to-write", 1)

    def mend_redis(self) -> None:
        """Let Redis take writes again."""
        with self._redis() as client:
            client.replicaof("NO", "ONE")
            client.config_set("min-replicas-to-write", 0)

    def _redis(self) -> RedisClient:
        return RedisClient.from_url(self.engines.redis.url)

    def copy_redis(self) -> None:
        """Keep a copy of Redis's data as it is on disk now."""
        shutil.copytree(self.engines.redis.data, self._copy, dirs_exist_ok=True)

    def restore_redis(self) -> None:
        """Kill Redis with -9 and start it on the copy."""
        redis = self.engines.redis
        redis.kill()
        shutil.rmtree(redis.data)
        shutil.copytree(self._copy, redis.data)
        redis.start()

    def restart_broker(self) -> None:
        """Kill the broker with -9 and start it on the same data."""
        self._broker.kafka.kill()
        self._broker.kafka.start()

    def produce(self, messages: Sequence[Message]) -> None:
        """Hand messages to the producer, which retries automatically and keeps their order."""
        if self.engines.redis.running:
            self._written_before = self.redis_written()
        for message in messages:
            stamp = {} if message.timestamp is None else {"timestamp": message.timestamp}
            self._producer.produce(
                self.topic,
                message.value,
                message.key,
                message.partition,
                on_delivery=self._sent,
                **stamp,
            )
        self._producer.poll(0)

    def _sent(self, error: Any, _: object) -> None:
        if error is not None:
            self._refused.append(str(error))

    def flush(self) -> None:
        """Wait until the broker has acknowledged every message."""
        left = self._producer.flush(FLUSH_S)
        assert left == 0, f"{left} messages not taken by the broker"
        assert not self._refused, self._refused[:5]

    def saved(self) -> bool:
        """Whether Redis has written at least a save since the last burst."""
        return self.redis_written() > self._written_before + SAVED_BYTES

    def ends(self) -> dict[int, int]:
        """Return the end offset of each partition."""
        return {p: self._end(self.topic, p) for p in range(PARTITIONS)}

    def _end(self, topic: str, partition: int) -> int:
        asked = TopicPartition(topic, partition)
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                found = self._consumer.get_watermark_offsets(asked, timeout=ANSWER_S)
            except KafkaException:
                # A partition of a new topic may have no leader yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                assert found is not None, f"{topic} [{partition}]: no answer"
                return int(found[1])

    def epochs(self) -> dict[int, int]:
        """Return the newest epoch of each partition from the group's commit metadata."""
        found = self._committed()
        return {p.partition: msgspec.json.decode(p.metadata)["epoch"] for p in found if p.metadata}

    def committed(self) -> dict[int, int]:
        """Return the offset of each partition that the group has committed."""
        return {p.partition: p.offset for p in self._committed()}

    def _committed(self) -> list[TopicPartition]:
        asked = [TopicPartition(self.topic, p) for p in range(PARTITIONS)]
        try:
            return list(self._consumer.committed(asked, timeout=10))
        except KafkaException:
            return []

    def read(self, topic: str, partition: int) -> list[Any]:
        """Return every record of a partition."""
        end = self._end(topic, partition)
        self._consumer.assign([TopicPartition(topic, partition, 0)])
        records: list[Any] = []
        deadline = time.monotonic() + 30
        while end and (not records or records[-1].offset() < end - 1):
            assert time.monotonic() < deadline, f"{topic} [{partition}] cannot be read back"
            records += [m for m in self._consumer.consume(1_000, 0.1) if m.error() is None]
        self._consumer.unassign()
        return records
