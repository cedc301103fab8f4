"""`manage.py run_aggregator`: reads Kafka, counts, publishes, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from prometheus_client import start_http_server

from aggregator import faults
from aggregator.config import Config
from aggregator.errors import Fatal
from aggregator.pipeline.aggregate import run_aggregator

log = structlog.get_logger(__name__)


class Command(BaseCommand):
    """The aggregator process."""

    help = (
        "Reads swaps from Kafka, counts each exactly once in the rolling windows and publishes "
        "every change on NATS. One more process in the same KAFKA_GROUP takes over part of the "
        "partitions. Settings come from the environment. SIGTERM or Ctrl-C drains, commits and "
        "ends; a second one ends at once."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """The one option."""
        parser.add_argument(
            "--no-archiver",
            action="store_true",
            help="do not archive in this process; run manage.py run_archiver for it",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run until asked to stop; exit status 1 with one clear line where it cannot go on."""
        config: Config = settings.SWAPS
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
        try:
            faults.install(os.environ.get("SWAPS_FAULT", ""))
            run_aggregator(config, stop, archive=not options["no_archiver"])
        except Fatal as error:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        log.error("stopped_by_fault", error=why)
        self.stderr.write(why)
        sys.exit(1)
