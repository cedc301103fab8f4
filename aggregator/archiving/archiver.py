"""The archiver: a member of ARCHIVER_GROUP whose sink is the archive."""

from __future__ import annotations

import threading
from typing import Final

from aggregator.archiving.sink import ArchivingSink, Publish
from aggregator.clickhouse.native import compile_encoders
from aggregator.decoding.decoder import compile_decoder
from aggregator.member.kafka import KafkaLog
from aggregator.member.loop import MemberLoop
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config
from aggregator.runtime.health import Health
from aggregator.seen.seen import compile_seen

_POLL_LIMIT: Final = 5_000


def run_archiver(
    config: Config, stop: threading.Event, publish: Publish, health: Health | None = None
) -> None:
    """Archive until `stop` is set. Raises Fatal if continuing would do harm.

    `health` receives a heartbeat every second.
    """
    compile_archiver()
    swap_log = KafkaLog(config, group=config.archiver_group, queued_kb=8_192)
    sink = ArchivingSink(config, swap_log, publish, health or Health())
    loop = MemberLoop(
        swap_log,
        sink,
        batch_size=_POLL_LIMIT,
        stop=stop,
        prepare=lambda: ensure_topics(config),
        joined=sink.joined,
    )
    sink.loop_faults = loop.faults
    loop.run()


def compile_archiver() -> None:
    """Compile the decoder, the encoders and the fold of ids, or load them from numba's cache."""
    compile_decoder()
    compile_encoders()
    compile_seen()
