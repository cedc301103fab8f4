"""`manage.py run_aggregator`: reads Kafka, counts, publishes, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import threading
from typing import Any

from django.core.management.base import CommandParser

from aggregator.counting.process import run_aggregator
from aggregator.runtime.config import Config
from aggregator.runtime.health import Health
from aggregator.runtime.process import ProcessCommand


class Command(ProcessCommand):
    """The aggregator process."""

    service = "swaps-aggregator"
    help = (
        "Reads swaps from Kafka, counts each exactly once in the rolling windows and publishes "
        "every change on NATS. Another process in the same KAFKA_GROUP takes over part of the "
        "partitions. Settings come from the environment. SIGTERM or Ctrl-C drains, commits and "
        "exits; a second one exits immediately."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add `--no-archiver`."""
        parser.add_argument(
            "--no-archiver",
            action="store_true",
            help="do not archive in this process; run manage.py run_archiver for it",
        )

    def run(self, config: Config, stop: threading.Event, health: Health, **options: Any) -> None:
        """Count until `stop` is set."""
        run_aggregator(config, stop, health, archive=not options["no_archiver"])
