"""An aggregator while its host's clock is set: due work continues, and the numbers stay right."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from aggregator.contracts.batch import SwapBatch
from aggregator.contracts.stats import Heartbeat, TokenStats
from aggregator.counting.aggregator import Aggregator
from aggregator.counting.board_cache import PublishedRows
from aggregator.nats.resync import Patch
from aggregator.runtime.clock import CONFIRM_MS, TrustedClock
from aggregator.runtime.config import load
from aggregator.runtime.health import Health
from tests.fakes.markers import MemoryMarkers
from tests.fakes.snapshots import MemoryServer, MemorySession, MemorySnapshots
from tests.fakes.swap_log import MemoryLog
from tests.unit.windows.service import T0, swap_event

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
ROUND_MS = 100
TOKEN = "ethereum:A"


class Reader:
    """A publisher that keeps the token's newest numbers and every heartbeat."""

    connected = True

    def __init__(self) -> None:
        self.row: TokenStats | None = None
        self.beats: list[Heartbeat] = []
        self.patches = 0

    def check(self) -> None: ...

    def take(self, _partition: int, _epoch: int) -> None: ...

    def drop(self, _partition: int) -> None: ...

    def take_questions(self) -> list[Any]:
        return []

    def trades(self, _partition: int, _epoch: int, _applied: Sequence[SwapBatch]) -> None: ...

    def load(self, _partition: int, rows: Sequence[Patch], _seq: int, _next_offset: int) -> None:
        self._read(rows)

    def publish(self, _partition: int, patches: Sequence[Patch], _next_offset: int) -> None:
        self.patches += len(patches)
        self._read(patches)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        self.beats.append(heartbeat)

    def _read(self, patches: Sequence[Patch]) -> None:
        for patch in patches:
            self.row = msgspec.json.decode(patch.payload, type=TokenStats)

    @property
    def trades_5m(self) -> int:
        assert self.row is not None
        # The tombstone of a token whose windows have been empty for days has no windows.
        return self.row.windows["5m"].trades if self.row.windows else 0


class Rows:
    def note(self, _published: PublishedRows) -> None: ...

    def drop(self, _partition: int) -> None: ...


class Machine:
    """An aggregator on a machine whose clocks the test sets, and a producer with the true time."""

    def __init__(self) -> None:
        self.wall, self.monotonic, self.true = T0, 77_000, T0
        self.log, self.reader, self.server = MemoryLog(), Reader(), MemoryServer()
        self.session = MemorySession(self.server)
        self.session.connect()
        self.health = Health(lambda: self.monotonic / 1000)
        self.aggregator = self._aggregator()
        self._sent = 0

    def _aggregator(self) -> Aggregator:
        made = Aggregator(
            config=load({"KAFKA_PARTITIONS": "1"}),
            markers=cast(Any, MemoryMarkers()),
            snapshots=MemorySnapshots(self.session),
            dead_letters=cast(Any, None),
            publisher=cast(Any, self.reader),
            rows=Rows(),
            health=self.health,
            stop=threading.Event(),
            clock=TrustedClock(lambda: self.wall, lambda: self.monotonic),
            monotonic_ms=lambda: self.monotonic,
        )
        made._log.close()
        made._log = made._takeover._log = made._checkpoint._log = cast(Any, self.log)
        made.on_assign([0])
        return made

    def trade(self) -> None:
        event = swap_event(self.true, self._sent, token="A")
        self._sent += 1
        self.log.append(json.dumps(event).encode(), self.true)

    def run(self, ms: int, *, trade_every: int | None = None) -> None:
        """Run rounds of the loop for `ms`, with a trade at every multiple of `trade_every` ms."""
        for _ in range(ms // ROUND_MS):
            self.wall += ROUND_MS
            self.monotonic += ROUND_MS
            self.true += ROUND_MS
            if trade_every is not None and self.true % trade_every == 0:
                self.trade()
            self.aggregator._round()

    @property
    def degraded(self) -> list[str]:
        return self.health.readiness.degraded


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.run(10 * MINUTE, trade_every=10 * SECOND)
    assert made.reader.trades_5m == pytest.approx(30, abs=6)
    return made


def test_a_clock_set_back_an_hour_stops_nothing(machine: Machine) -> None:
    machine.wall -= HOUR
    beats, patches, commits = (
        len(machine.reader.beats),
        machine.reader.patches,
        len(machine.log.commits),
    )
    machine.run(MINUTE, trade_every=10 * SECOND)
    assert len(machine.reader.beats) - beats >= 59
    assert machine.reader.patches - patches >= 6
    assert len(machine.log.commits) - commits >= 29
    assert machine.reader.trades_5m == pytest.approx(30, abs=6)
    assert abs(machine.reader.beats[-1].as_of - machine.true) < SECOND
    assert any("3600 s back from" in each for each in machine.degraded)
    assert machine.health.readiness.ready


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR])
def test_one_reading_ahead_empties_nothing(machine: Machine, leap: int) -> None:
    machine.wall += leap
    machine.run(ROUND_MS)
    machine.wall -= leap
    machine.run(10 * SECOND, trade_every=SECOND)
    assert machine.reader.trades_5m == pytest.approx(40, abs=6)
    assert abs(machine.reader.beats[-1].as_of - machine.true) < SECOND
    assert machine.degraded == []


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR])
def test_a_clock_that_stays_ahead_of_the_log_is_not_followed(machine: Machine, leap: int) -> None:
    machine.wall += leap
    machine.run(5 * MINUTE, trade_every=10 * SECOND)
    assert machine.reader.trades_5m == pytest.approx(30, abs=6)
    assert any(f"{leap // SECOND} s ahead" in each for each in machine.degraded)


def test_a_machine_that_was_suspended_follows_the_log_immediately(machine: Machine) -> None:
    """The monotonic clock stood still for an hour while trades waited in the log."""
    for _ in range(60):
        machine.wall += MINUTE
        machine.true += MINUTE
        machine.trade()
    machine.run(2 * SECOND, trade_every=SECOND)
    assert machine.reader.trades_5m == pytest.approx(7, abs=2)
    assert machine.degraded == []
    assert machine.aggregator._owners[0].windows._held == []


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR])
def test_a_wrong_clock_on_a_quiet_log_is_put_right_without_a_restart(
    machine: Machine, leap: int
) -> None:
    """No record contradicts it, so it is followed; set back, the windows are again the log's."""
    before = machine.reader.row
    assert before is not None
    machine.wall += leap
    machine.run(CONFIRM_MS + MINUTE)
    assert machine.reader.trades_5m == 0
    assert any(f"{leap // SECOND} s ahead" in each for each in machine.degraded)
    machine.wall -= leap
    machine.run(CONFIRM_MS + MINUTE)
    machine.trade()
    machine.run(10 * SECOND)
    row = machine.reader.row
    assert row is not None
    assert row.epoch > before.epoch
    assert abs(row.as_of - machine.true) < MINUTE
    assert row.windows["1h"].trades == before.windows["1h"].trades + 1
    assert row.windows["24h"].trades == before.windows["24h"].trades + 1
    assert any("is followed" in each for each in machine.degraded)


def test_a_late_loop_reports_that_it_is_late(machine: Machine) -> None:
    machine.monotonic += 5 * SECOND
    machine.wall += 5 * SECOND
    machine.true += 5 * SECOND
    machine.run(ROUND_MS)
    assert any("late" in each for each in machine.reader.beats[-1].degraded)
    machine.run(2 * SECOND)
    assert machine.degraded == []
