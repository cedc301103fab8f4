"""Another member with the name that a member has: it joins once, and goes without a word."""

from __future__ import annotations

from confluent_kafka import Consumer

from aggregator.runtime.config import Config
from tests.support.processes import wait_until


def take_name(config: Config) -> None:
    """Have the group give all of KAFKA_GROUP to another holder of KAFKA_INSTANCE_ID."""
    passing = Consumer(
        {
            "bootstrap.servers": config.kafka_bootstrap,
            "group.id": config.kafka_group,
            "group.instance.id": config.kafka_instance_id,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6_000,
            # It reads a message while it waits; a position of its own would undo the service's.
            "enable.auto.commit": False,
        }
    )
    passing.subscribe([config.kafka_topic])

    def joined() -> bool:
        passing.poll(0.1)
        return bool(passing.assignment())

    wait_until(joined, 60, "its turn")
    passing.close()
