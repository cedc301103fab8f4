"""The thread that renders answers to history questions.

Rendering two days of minutes takes tens of milliseconds of pure Python. On the publisher's thread
that time would delay heartbeats and patches. On this thread rendering competes with them for the
interpreter only. After each answer the thread sleeps as long as the answer took, so rendering never
uses more than half of the interpreter's time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from aggregator.runtime import metrics

log = structlog.get_logger(__name__)

REST_FACTOR: Final = 1.0


class Renderer:
    """Runs jobs one after the other. `histories.IN_FLIGHT` bounds how many wait."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history-renderer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the present job; waiting jobs are not run."""
        self._stopping.set()
        self._jobs.put(None)

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the thread. An exception in it is logged and does not end the thread."""
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            began = time.perf_counter()
            try:
                job()
            except Exception:
                log.exception("history_not_rendered")
            took = time.perf_counter() - began
            metrics.HISTORY_SECONDS.observe(took)
            self._stopping.wait(took * REST_FACTOR)
