"""What was paused while an engine was asked again goes on, whoever cleared the fault."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aggregator.config import load
from aggregator.errors import Retry
from aggregator.health import Health
from aggregator.pipeline.aggregate import Aggregator


class Recorder:
    """A log that notes what it is told, and a broker that can be reached."""

    unreachable = ""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self, _partitions: Sequence[int]) -> None:
        self.told.append("pause")

    def resume(self, _partitions: Sequence[int]) -> None:
        self.told.append("resume")


@pytest.mark.parametrize("engine", ["kafka", "redis"])
def test_reading_goes_on_after_a_fault_that_a_heartbeat_has_cleared(engine: str) -> None:
    nothing = cast(Any, None)
    aggregator = Aggregator(
        config=load({}),
        markers=nothing,
        snapshots=nothing,
        dead_letters=nothing,
        publisher=cast(Any, SimpleNamespace(connected=True)),
        rows=nothing,
        health=Health(),
        stop=threading.Event(),
    )
    recorder = Recorder()
    aggregator._log.close()
    aggregator._log = cast(Any, recorder)
    answers = iter([Retry("asleep"), "awake"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, Retry):
            raise answer
        return answer

    assert aggregator._patiently(engine, call) == "awake"
    assert recorder.told == ["pause", "resume"]
