"""`manage.py run_archiver`: archives every swap in ClickHouse, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand
from prometheus_client import start_http_server

from aggregator import faults
from aggregator.config import Config
from aggregator.errors import Fatal
from aggregator.pipeline.archive import run_archiver
from aggregator.pubsub.publisher import Publisher

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    """The archiver process."""

    help = (
        "Archives swaps from Kafka in ClickHouse (CLICKHOUSE_URL), each exactly once. "
        "run_aggregator runs one already, unless it was told --no-archiver; one more process in "
        "the same ARCHIVER_GROUP takes over part of the partitions. Settings come from the "
        "environment. SIGTERM or Ctrl-C finishes what is on its way and ends; a second one ends "
        "at once."
    )
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Run until asked to stop; exit status 1 with one clear line where it cannot go on."""
        config: Config = settings.SWAPS
        if not config.clickhouse_url:
            self._fail("CLICKHOUSE_URL is not set: this deployment has no archive")
        stop = threading.Event()

        def ask_to_stop(number: int, _frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            stop.set()

        signal.signal(signal.SIGTERM, ask_to_stop)
        signal.signal(signal.SIGINT, ask_to_stop)
        if config.metrics_port:
            try:
                start_http_server(config.metrics_port, config.metrics_host)
            except OSError as error:
                self._fail(f"METRICS_PORT {config.metrics_port} cannot be used: {error.strerror}")
        publisher = Publisher(config.nats_url, answers=False)
        publisher.start()
        try:
            faults.install(os.environ.get("SWAPS_FAULT", ""))
            run_archiver(config, stop, publisher.archive_status)
        except Fatal as error:
            self._fail(str(error))
        finally:
            publisher.stop()

    def _fail(self, why: str) -> None:
        log.error("stopped_by_fault", error=why)
        self.stderr.write(why)
        sys.exit(1)
