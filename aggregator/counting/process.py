"""The aggregator process, from Kafka through the windows to NATS: every part is assembled here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Final

import structlog

from aggregator.archiving.in_process import ArchiverThread
from aggregator.counting.announcer import Announcer
from aggregator.counting.board_cache import BoardCache
from aggregator.counting.saver import SnapshotSaver
from aggregator.counting.sink import CountingSink
from aggregator.decoding.decoder import compile_decoder
from aggregator.member.kafka import KafkaLog
from aggregator.member.loop import MemberLoop
from aggregator.member.outbox import Outbox
from aggregator.member.topics import ensure_topics
from aggregator.nats.publisher import Publisher
from aggregator.redis.board_rows import RedisBoardRows
from aggregator.redis.client import RedisClient
from aggregator.redis.snapshots import RedisSnapshots
from aggregator.runtime.clock import TrustedClock
from aggregator.runtime.config import Config
from aggregator.runtime.health import Health
from aggregator.seen.seen import compile_seen
from aggregator.windows.engine import warm_up

log = structlog.get_logger(__name__)

_WORKERS: Final = 4
"""Threads that take partitions over and read records back; each waits for Redis or Kafka."""


def run_aggregator(
    config: Config, stop: threading.Event, health: Health, *, archive: bool = True
) -> None:
    """Run until `stop` is set. Raises Fatal where to continue would do harm.

    `archive` runs an archiver on a thread where the deployment has a ClickHouse. `health` receives
    the state of the process every second.
    """
    compile_aggregator()
    with ExitStack() as closing:
        publisher = Publisher(config.nats_url)
        publisher.start()
        closing.callback(publisher.stop)
        rows = BoardCache(RedisBoardRows(config.redis_url, config.kafka_topic))
        rows.start()
        closing.callback(rows.stop)
        archive_fault: Callable[[], str] = str
        if archive and config.clickhouse_url:
            archiver = ArchiverThread(config, stop, publisher.archive_status)
            archiver.start()
            archive_fault = partial(getattr, archiver, "fault")
            closing.callback(archiver.join)
            closing.callback(stop.set)
        client = RedisClient(config.redis_url)
        closing.callback(client.close)
        snapshots = RedisSnapshots(client, config.kafka_topic, config.kafka_retention_ms)
        saver = SnapshotSaver(snapshots)
        saver.start()
        closing.callback(saver.stop)
        executor = ThreadPoolExecutor(_WORKERS, "takeover")
        closing.callback(executor.shutdown, wait=False, cancel_futures=True)
        # The broker refuses forwards that are stamped by a clock that jumped ahead.
        clock = TrustedClock()
        outbox = Outbox(config, now_ms=clock.now_ms)
        closing.callback(outbox.close)
        kafka = KafkaLog(config)
        announcer = Announcer(publisher, rows, health)
        sink = CountingSink(
            config=config,
            member_log=kafka,
            snapshots=snapshots,
            saver=saver,
            outbox=outbox,
            announcer=announcer,
            executor=executor,
            archive_fault=archive_fault,
            clock=clock,
        )
        loop = MemberLoop(
            kafka,
            sink,
            batch_size=config.batch_size,
            stop=stop,
            prepare=lambda: _make_topics(config),
            joined=announcer.note_partitions,
        )
        sink.loop_faults = loop.faults
        loop.run()


def _make_topics(config: Config) -> None:
    for topic in ensure_topics(config):
        log.info("topic_made", topic=topic)


def compile_aggregator() -> None:
    """Compile the loops, or load them from numba's cache: no swap waits for the compiler."""
    began = time.perf_counter()
    warm_up()
    compile_decoder()
    compile_seen()
    log.info("engine_compiled", seconds=round(time.perf_counter() - began, 2))
