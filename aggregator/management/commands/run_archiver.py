"""`manage.py run_archiver`: archives every swap in ClickHouse, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import threading
from typing import Any

from aggregator.archiving.archiver import run_archiver
from aggregator.nats.publisher import Publisher
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal
from aggregator.runtime.health import Health
from aggregator.runtime.process import ProcessCommand


class Command(ProcessCommand):
    """The archiver process."""

    service = "swaps-archiver"
    help = (
        "Archives swaps from Kafka in ClickHouse (CLICKHOUSE_URL), each exactly once. "
        "run_aggregator includes an archiver unless it runs with --no-archiver; another process in "
        "the same ARCHIVER_GROUP takes over part of the partitions. Settings come from the "
        "environment. SIGTERM or Ctrl-C finishes the running inserts and exits; a second one exits "
        "immediately."
    )

    def run(self, config: Config, stop: threading.Event, health: Health, **_options: Any) -> None:
        """Archive until `stop` is set."""
        if not config.clickhouse_url:
            raise Fatal("CLICKHOUSE_URL is not set: this deployment has no archive")
        publisher = Publisher(config.nats_url, answers=False)
        publisher.start()
        try:
            run_archiver(config, stop, publisher.archive_status, health)
        finally:
            publisher.stop()
