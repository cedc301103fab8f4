"""While a call is repeated the heartbeats say "stalled"; when it works, reading continues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aggregator.counting.aggregator import Aggregator
from aggregator.runtime.config import load
from aggregator.runtime.errors import Retry
from aggregator.runtime.health import Health


class Recorder:
    """A log that records its calls, and a broker that can be reached."""

    unreachable = ""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def still_reachable(self) -> bool:
        return not self.unreachable

    def pause(self, _partitions: Sequence[int]) -> None:
        self.calls.append("pause")

    def resume(self, _partitions: Sequence[int]) -> None:
        self.calls.append("resume")


class Beats(Health):
    """Keeps the reasons of every heartbeat."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[list[str]] = []

    def beat(self, reasons: Sequence[str], degraded: Sequence[str] = ()) -> None:
        super().beat(reasons, degraded)
        self.reasons.append(list(reasons))


def an_aggregator(health: Health, recorder: Recorder) -> Aggregator:
    """Return an aggregator without partitions that is due for a heartbeat at every reading."""
    nothing = cast(Any, None)
    seconds = count(0, 1_000)
    aggregator = Aggregator(
        config=load({}),
        markers=nothing,
        snapshots=nothing,
        dead_letters=nothing,
        publisher=cast(Any, SimpleNamespace(connected=True)),
        rows=nothing,
        health=health,
        stop=threading.Event(),
        monotonic_ms=lambda: next(seconds),
    )
    aggregator._log.close()
    aggregator._log = cast(Any, recorder)
    return aggregator


def retried(*answers: Retry | str) -> Callable[[], str]:
    given = iter(answers)

    def call() -> str:
        answer = next(given)
        if isinstance(answer, Retry):
            raise answer
        return answer

    return call


@pytest.mark.parametrize("engine", ["kafka", "redis"])
def test_reading_goes_on_when_the_call_has_worked(engine: str) -> None:
    recorder = Recorder()
    aggregator = an_aggregator(Health(), recorder)
    assert aggregator._patiently(engine, retried(Retry("asleep"), "awake")) == "awake"
    assert recorder.calls == ["pause", "resume"]


@pytest.mark.parametrize("engine", ["kafka", "redis"])
def test_every_heartbeat_says_stalled_until_that_call_has_worked(engine: str) -> None:
    """The broker can be reached meanwhile: an answer to another question must not count."""
    beats = Beats()
    aggregator = an_aggregator(beats, Recorder())
    call = retried(Retry("asleep"), Retry("still asleep"), "awake")
    assert aggregator._patiently(engine, call) == "awake"
    assert len(beats.reasons) >= 2
    assert all(reasons[0].startswith(f"{engine}: ") for reasons in beats.reasons)
    aggregator._heartbeat(0)
    assert beats.readiness.ready


def test_a_fault_of_the_consumer_is_not_cleared_by_another_call() -> None:
    recorder = Recorder()
    recorder.unreachable = "all brokers down"
    beats = Beats()
    aggregator = an_aggregator(beats, recorder)
    aggregator._heartbeat(0)
    assert aggregator._patiently("kafka", lambda: "sent") == "sent"
    aggregator._heartbeat(0)
    assert beats.reasons == [["kafka: all brokers down"]] * 2
