"""Runs a source from its parts until it is asked to stop; the only place that knows all of them.

A process runs one source. While another process owns the source's journal, it stands by; when it
loses the ownership, it drops everything and stands by again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Protocol

import structlog

from aggregator.contracts.sources import SourceStatus
from aggregator.runtime.backoff import CircuitBreaker
from aggregator.runtime.errors import Fatal, Fenced, Retry, SwapsError
from aggregator.runtime.health import Health
from sources.chain import follow_chain
from sources.chain_config import ChainConfig
from sources.config import AnySource
from sources.exchange.session import run as follow_exchange
from sources.heartbeat import SourceHeartbeat
from sources.metrics import SourceMetrics
from sources.ports import SourceJournal, SourceSink

_REPORT_S: Final = 1.0

Show = Callable[[SourceStatus], None]

log = structlog.get_logger(__name__)


class ClosingSink(SourceSink, Protocol):
    """A sink that ends with its source."""

    async def close(self) -> None:
        """Wait for what is not acknowledged, for a bounded time, and end."""
        ...


OpenPorts = Callable[[Callable[[str], None]], tuple[SourceJournal, ClosingSink]]
"""Opens a journal and a sink; called again after the ownership was lost.

Its argument gets what is wrong with the broker, "" while it answers. It may block. Raises Retry
while the broker cannot be reached.
"""

Beside = Callable[[], Coroutine[Any, Any, None]]
"""What runs as long as the process."""

Follow = Callable[[SourceSink, SourceJournal, SourceMetrics], Awaitable[None]]
"""Owns the journal and sends until it is cancelled, or until a backfill has ended."""


def run_source(
    source: AnySource,
    open_ports: OpenPorts,
    stop: threading.Event,
    *,
    health: Health,
    show: Show,
    nats_url: str = "",
) -> None:
    """Run a source until `stop` is set or a backfill has ended.

    `show` gets its status each second, and so do web nodes over NATS unless `nats_url` is "".
    Raises Fatal where the source cannot go on without a person.
    """
    follow: Follow
    if isinstance(source, ChainConfig):
        metrics = SourceMetrics(source.name, "evm", source.chain)
        follow = partial(follow_chain, source)
    else:
        metrics = SourceMetrics(source.name, "exchange", source.venue)
        follow = partial(follow_exchange, source)
    beside = [SourceHeartbeat(nats_url, metrics.status).run] if nats_url else []
    asyncio.run(
        run(follow, metrics, open_ports, stop=stop, health=health, show=show, beside=beside)
    )


async def run(
    follow: Follow,
    metrics: SourceMetrics,
    open_ports: OpenPorts,
    *,
    stop: threading.Event,
    health: Health,
    show: Show,
    beside: Sequence[Beside] = (),
) -> None:
    """Do what `run_source` says with any way to follow a source, and with what runs `beside` it."""

    def report() -> None:
        status = metrics.status()
        health.beat(*readiness_of(status))
        show(status)

    async def reporting() -> None:
        while True:
            report()
            await asyncio.sleep(_REPORT_S)

    tasks = [
        asyncio.create_task(_own_and_run(follow, metrics, open_ports)),
        asyncio.create_task(asyncio.to_thread(stop.wait)),
        asyncio.create_task(reporting()),
        *(asyncio.create_task(each()) for each in beside),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except Fatal as error:
        metrics.state("stopped", str(error))
        raise
    finally:
        stop.set()  # ends the thread that waits for it
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        report()


async def _own_and_run(follow: Follow, metrics: SourceMetrics, open_ports: OpenPorts) -> None:
    """Run the source, again after each loss of its ownership, until a backfill has ended."""
    breaker = CircuitBreaker("kafka")
    while True:
        try:
            journal, sink = await asyncio.to_thread(open_ports, metrics.kafka)
        except Retry as error:
            metrics.state("waiting", str(error))
            breaker.failed(str(error))
            await asyncio.sleep(breaker.open_for_s)
            continue
        breaker.worked()
        try:
            await follow(sink, journal, metrics)
        except (SwapsError, ExceptionGroup) as error:
            cause = first_of(error)
            if not isinstance(cause, Fenced):
                raise cause from error
            log.warning("source_fenced", error=str(cause))
        else:
            metrics.state("ended")
            return
        finally:
            # What is under way must have an end before another process may take over.
            await sink.close()
            await journal.close()


def first_of(error: Exception) -> Exception:
    """Return an error, or the first one of a group, of whatever depth."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def readiness_of(status: SourceStatus) -> tuple[list[str], list[str]]:
    """Return what stops the work of a process, and what it has to report beside its work.

    A process that stands by is ready: that is its work.
    """
    match status.state:
        case "starting":
            return ["starting"], []
        case "waiting" | "stopped" | "silent" | "ended":
            return [status.note or status.state], []
        case "standby":
            return [], [f"source {status.source} has another owner; this process stands by"]
        case "catching_up":
            return [], ["catching up"]
        case "live":
            unpriced = ", ".join(status.unpriced_tokens)
            return [], [f"no reference price of {unpriced}"] if unpriced else []
