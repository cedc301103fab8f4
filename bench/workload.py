"""The swaps that the benchmarks produce, and the sums that the windows must then show."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from aggregator.contracts.units import MINUTE_MS
from aggregator.feed.producer import Feeder, feed_producer
from aggregator.feed.progress import FeedProgress
from aggregator.feed.stream import Record, with_repeats
from aggregator.feed.synthetic import Shape, spread, swaps
from aggregator.member.topics import ensure_topics
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from bench.service import WrongResult

JITTER_MS = 20_000
REPEATED = 0.01

_USD = b'"amount_usd":"'


class WorkloadTotals(NamedTuple):
    """Trades and volume over all tokens."""

    trades: int = 0
    volume_micros: int = 0


@dataclass(frozen=True)
class Workload:
    """The number of messages, duplicates and tokens in the topic."""

    events: int
    duplicates: int
    tokens: int


class WorkloadTally:
    """Sums trades and volume of the sent swaps by minute of the event."""

    def __init__(self) -> None:
        self._trades: Counter[int] = Counter()
        self._volume: Counter[int] = Counter()

    def add(self, timestamp: int, micros: int) -> None:
        """Add one swap that is not a repeat."""
        minute = timestamp // MINUTE_MS
        self._trades[minute] += 1
        self._volume[minute] += micros

    def noting(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records and add each that is not a repeat."""
        for record in records:
            if not record.repeat:
                assert record.timestamp is not None
                self.add(record.timestamp, usd_micros(record.value))
            yield record

    def window(self, now_minute: int, minutes: int) -> WorkloadTotals:
        """Return what a window of that length shows while `now_minute` is running."""
        inside = range(now_minute - minutes + 1, now_minute + 1)
        return WorkloadTotals(
            sum(self._trades[minute] for minute in inside),
            sum(self._volume[minute] for minute in inside),
        )


def usd_micros(value: bytes) -> int:
    """Return the `amount_usd` of a synthetic event, which always has six decimals."""
    begins = value.index(_USD) + len(_USD)
    return int(value[begins : value.index(b'"', begins)].replace(b".", b""))


def stream(events: int, tokens: int, seed: int, span_ms: int) -> Iterator[Record]:
    """Return exactly `events` messages over the `span_ms` before now, 1 % of them repeats."""
    times = spread(events, wall_ms(), span_ms, JITTER_MS, seed)
    # The repeats displace the last new events, so the count is exact.
    records = with_repeats(swaps(Shape(tokens=tokens, seed=seed), times), REPEATED, seed)
    return islice(records, events)


def fill(
    config: Config,
    events: int,
    tokens: int,
    seed: int,
    span_ms: int,
    tally: WorkloadTally | None = None,
) -> Workload:
    """Create the topic and fill it with the stream."""
    ensure_topics(config)
    publisher = feed_producer(config)
    progress = FeedProgress(
        write=sys.stderr.write,
        terminal=sys.stderr.isatty(),
        clock=time.monotonic,
        share=lambda: progress.events / events,
        queue=publisher.queued,
    )
    records = stream(events, tokens, seed, span_ms)
    Feeder(config, publisher, progress).run(records if tally is None else tally.noting(records))
    progress.finish(publisher.failed)
    if publisher.failed or progress.events != events:
        raise WrongResult(f"the topic is not filled: {publisher.first_failure}")
    return Workload(events, progress.repeats, tokens)
