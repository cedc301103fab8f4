"""The base class of commands that run until they are asked to stop.

It handles signals, the monitoring port, and the one clear line at a fault. A subclass implements
the work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand

from aggregator.runtime import faults, monitor, tracing
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal
from aggregator.runtime.health import Health

log = structlog.get_logger(__name__)


class ProcessCommand(BaseCommand):
    """Runs until SIGTERM or Ctrl-C; a second one ends immediately. Exit status 1 at a Fatal."""

    requires_system_checks = ()
    service = ""
    """The service name of the process's spans."""

    def run(self, config: Config, stop: threading.Event, health: Health, **_options: Any) -> None:
        """Work until `stop` is set, and report to `health`. Raises Fatal if it cannot continue."""
        raise NotImplementedError

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run until asked to stop; exit with status 1 and one clear line at a Fatal."""
        config: Config = settings.SWAPS
        stop = threading.Event()

        def ask_to_stop(number: int, _frame: object) -> None:
            # A second signal gets the default action, in case stopping hangs.
            signal.signal(number, signal.SIG_DFL)
            stop.set()

        signal.signal(signal.SIGTERM, ask_to_stop)
        signal.signal(signal.SIGINT, ask_to_stop)
        try:
            health = Health()
            tracing.start(config, self.service)
            if config.metrics_port:
                monitor.serve(config, health)
            faults.install(os.environ.get("SWAPS_FAULT", ""))
            self.run(config, stop, health, **options)
        except Fatal as error:
            log.error("stopped_by_fault", error=str(error))
            self.stderr.write(str(error))
            sys.exit(1)
