"""The archiver on a thread of the aggregator's process, restarted after a fault."""

from __future__ import annotations

import threading
from typing import Final

import structlog

from aggregator.archiving.archiver import compile_archiver, run_archiver
from aggregator.archiving.sink import Publish
from aggregator.contracts.stats import ArchiveStatus
from aggregator.runtime import metrics
from aggregator.runtime.backoff import CircuitBreaker
from aggregator.runtime.config import Config

log = structlog.get_logger(__name__)

_JOIN_S: Final = 10.0


class ArchiverThread:
    """Runs an archiver beside the aggregator; a fault stops the archiver alone, which restarts."""

    def __init__(self, config: Config, stop: threading.Event, publish: Publish) -> None:
        self.fault = ""
        self._config = config
        self._stop = stop
        self._publish = publish
        self._thread = threading.Thread(target=self._run, name="archiver", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        # Compile before the thread starts: compilation would stall the other threads at work.
        compile_archiver()
        self._thread.start()

    def join(self) -> None:
        """Wait up to 10 s for the thread's end, after `stop` was set."""
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        breaker = CircuitBreaker("archiver")
        while not self._stop.is_set():
            try:
                run_archiver(self._config, self._stop, self._note)
            except Exception as error:
                self.fault = str(error) or repr(error)
                metrics.ARCHIVE_RESTARTS.inc()
                log.exception("archiver_died", error=self.fault)
                breaker.failed(self.fault)
                self._stop.wait(breaker.open_for_s)

    def _note(self, status: ArchiveStatus) -> None:
        self.fault = ""
        self._publish(status)
