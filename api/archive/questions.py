"""Runs the views' queries of the archive in a bounded pool of threads; errors become problems.

The driver blocks, so it never runs in the event loop. If the pool and its queue are full, or while
ClickHouse is down, the answer is an immediate 503: no fault of the archive slows down live numbers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from aggregator.clickhouse.connection import Refused, Unavailable
from aggregator.clickhouse.reader import QUERY_S, HistoryReader
from aggregator.runtime.errors import SwapsError
from api.problem import Problem

log = structlog.get_logger(__name__)

THREADS: Final = 4
QUEUE: Final = 32
# A circuit breaker: after a failed query, the following ones fail immediately for this long.
_TRY_AGAIN_S: Final = 1.0
# TOO_MANY_ROWS, TIMEOUT_EXCEEDED, MEMORY_LIMIT_EXCEEDED, TOO_MANY_ROWS_OR_BYTES
_TOO_MUCH: Final = frozenset({158, 159, 241, 396})

T = TypeVar("T")


class History:
    """Queries the archive. `reader` is None if this deployment has no archive.

    `fault` is what is wrong with the archive, None while it works or before the first query.
    """

    def __init__(
        self,
        reader: HistoryReader | None,
        *,
        threads: int = THREADS,
        queue: int = QUEUE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._most = threads + queue
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, "history")
        self._asked = 0
        self._down_until = 0.0
        self.fault: str | None = None

    async def ask(self, question: Callable[[HistoryReader], T]) -> T:
        """Run `question` in a thread and return its answer; raises Problem 503 if it fails."""
        if self._reader is None:
            raise _unavailable("This deployment keeps no archive.", 3600)
        if self._clock() < self._down_until:
            raise _unavailable("The archive cannot be reached now; live numbers go on.", 1)
        if self._asked >= self._most:
            raise Problem(
                503,
                "history_busy",
                "Too many concurrent queries of the archive.",
                headers={"Retry-After": "1"},
            )
        self._asked += 1
        task = asyncio.get_running_loop().run_in_executor(self._pool, question, self._reader)
        # Decrement when the thread is free, not when the client gives up.
        task.add_done_callback(self._answered)
        try:
            found = await asyncio.shield(task)
        except (Unavailable, Refused) as error:
            raise self._problem(error) from error
        self.fault = None
        return found

    def close(self) -> None:
        """Shut down the pool; running queries end by their time limit."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._reader is not None:
            self._reader.close()

    def _answered(self, task: asyncio.Future[T]) -> None:
        self._asked -= 1
        if not task.cancelled():
            task.exception()  # mark it as retrieved: the client may have gone

    def _problem(self, error: Unavailable | Refused) -> Problem:
        if error.code in _TOO_MUCH:
            return Problem(
                503,
                "history_too_slow",
                f"The archive could not answer within {QUERY_S} s; ask for a shorter range.",
                headers={"Retry-After": "5"},
            )
        self._note(error)
        if isinstance(error, Unavailable) and not error.code:
            self._down_until = self._clock() + _TRY_AGAIN_S
        return _unavailable("The archive cannot be reached now; live numbers go on.", 5)

    def _note(self, error: SwapsError) -> None:
        if self.fault is None:
            log.warning("history_unavailable", error=str(error))
        self.fault = str(error)


def _unavailable(detail: str, retry_after_s: int) -> Problem:
    return Problem(503, "history_unavailable", detail, headers={"Retry-After": str(retry_after_s)})
