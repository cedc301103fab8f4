"""Sends a feed to Kafka: the loop that sends records through the swap producer.

Records are sent byte for byte, with the time of their event as their timestamp (`record_time`). A
full local queue pauses the loop (backpressure); records that the broker does not accept are
counted. Knows nothing of what the records mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from aggregator.feed.progress import FeedProgress
from aggregator.feed.stream import Record, record_time
from aggregator.producing.producer import SwapProducer
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config

_POLL_S: Final = 0.1
_FLUSH_S: Final = 30.0
# A shorter pause costs more CPU than it improves the pace.
_LEAST_WAIT_S: Final = 0.002


def feed_producer(config: Config) -> SwapProducer:
    """Return the producer of a feed, which counts what was not delivered."""
    # Uncompressed, as most producers send: the benchmarks measure readers with a feed's records.
    return SwapProducer(config, linger_ms=5, compression="none", errors_only=True)


class Feeder:
    """The loop: takes records, sends them, reports progress, and stops on request.

    It is also the `Pacer` of its streams, because it processes delivery reports while it waits.
    """

    def __init__(self, config: Config, producer: SwapProducer, progress: FeedProgress) -> None:
        self._producer = producer
        # Half the retention, so that readers have days to read what is sent now.
        self._kept_ms = config.kafka_retention_ms // 2
        self._progress = progress
        self._stopping = False

    def stop(self) -> None:
        """Stop after the current record. May be called from a signal handler."""
        self._stopping = True

    def now(self) -> float:
        """Return the seconds of the monotonic clock."""
        return time.monotonic()

    def until(self, instant: float) -> bool:
        """Wait until `instant` while polling the producer; return False after `stop`."""
        while not self._stopping and (left := instant - self.now()) > _LEAST_WAIT_S:
            self._producer.poll(min(left, _POLL_S))
            self._progress.tick()
        return not self._stopping

    def settle(self) -> None:
        """Wait until the broker has accepted or refused every sent record, or until `stop`."""
        while not self._stopping and self._producer.queued():
            self._producer.poll(_POLL_S)
            self._progress.tick()

    def run(self, records: Iterable[Record]) -> None:
        """Send all records, or until `stop`.

        Returns, or re-raises an error of `records`, with an empty local queue. Records that the
        broker has not accepted within 30 s after the last one count as failed.
        """
        try:
            for record in records:
                if self._stopping or not self._send(record):
                    break
                self._progress.events += 1
                self._progress.repeats += record.repeat
                self._progress.unreadable += record.key is None
                self._progress.tick()
        finally:
            self._drain()

    def _send(self, record: Record) -> bool:
        while not self._queue(record):
            if self._stopping:
                return False
            self._producer.poll(_POLL_S)
            self._progress.tick()
        return True

    def _queue(self, record: Record) -> bool:
        timestamp_ms = record_time(record.timestamp, wall_ms(), self._kept_ms)
        return self._producer.send(record.key, record.value, timestamp_ms=timestamp_ms)

    def _drain(self) -> None:
        deadline = self.now() + _FLUSH_S
        while self._producer.queued() and self.now() < deadline:
            self._producer.poll(_POLL_S)
            self._progress.tick()
        if self._producer.queued():
            self._producer.abandon()
