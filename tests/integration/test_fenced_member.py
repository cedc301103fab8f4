"""A member of the group whose name another one took ends with a clear word: it reads no more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import uuid4

import pytest

from aggregator.config import load
from aggregator.errors import Fatal
from aggregator.ingest.log import SwapLog
from aggregator.ingest.topics import ensure_topics
from infra.embedded.stack import Stack


class Quiet:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def on_assign(self, partitions: Sequence[int]) -> None:
        self.held.update(partitions)

    def on_revoke(self, partitions: Sequence[int]) -> None:
        self.held.difference_update(partitions)

    on_lost = on_revoke


def poll_until_assigned(swap_log: SwapLog, listener: Quiet) -> None:
    deadline = time.monotonic() + 60
    while not listener.held:
        assert time.monotonic() < deadline, "no partition was assigned"
        swap_log.poll(100, 0.1)


def test_a_member_whose_name_was_taken_ends(stack: Stack) -> None:
    topic = f"swaps-{uuid4().hex[:8]}"
    config = load(
        {
            **stack.env(),
            "KAFKA_TOPIC": topic,
            "KAFKA_GROUP": f"group-{topic}",
            "KAFKA_INSTANCE_ID": "archiver-1",
        }
    )
    ensure_topics(config)
    first, second = Quiet(), Quiet()
    older = SwapLog(config, first)
    older.subscribe()
    poll_until_assigned(older, first)
    newer = SwapLog(config, second)
    newer.subscribe()
    try:
        poll_until_assigned(newer, second)
        deadline = time.monotonic() + 60
        with pytest.raises(Fatal, match="start this process again"):
            while time.monotonic() < deadline:
                older.poll(100, 0.1)
    finally:
        newer.close()
        older.close()
