"""An aggregator while its host's clock is set: due work continues, and the numbers stay right."""

from __future__ import annotations

import pytest

from aggregator.runtime.clock import CONFIRM_MS
from tests.unit.counting.world import HOUR, MINUTE, SECOND, Process, World, send

ROUND_MS = 100


class Machine:
    """A world with one machine; a producer with the true time trades every so often."""

    def __init__(self) -> None:
        self.world = World()
        self.process: Process = self.world.process()
        self.sent = 0

    def trade(self) -> None:
        send(self.world, self.sent)
        self.sent += 1

    def run(self, ms: int, *, trade_every: int | None = None) -> None:
        """Run rounds of the loop for `ms`, with a trade at every multiple of `trade_every` ms."""
        for _ in range(ms // ROUND_MS):
            self.world.pass_time(ROUND_MS)
            if trade_every is not None and self.world.now % trade_every == 0:
                self.trade()
            self.process.round()

    @property
    def degraded(self) -> list[str]:
        return self.process.health.readiness.degraded

    @property
    def trades_5m(self) -> int:
        return self.world.trades(window="5m")

    @property
    def as_of_error(self) -> int:
        return abs(self.world.readers.newest_beats[0].as_of - self.world.now)


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.run(10 * MINUTE, trade_every=10 * SECOND)
    assert made.trades_5m == pytest.approx(30, abs=6)
    return made


def test_a_clock_set_back_an_hour_stops_nothing(machine: Machine) -> None:
    machine.world.wall_ahead = -HOUR
    beats, saved = len(machine.world.readers.beats[0]), machine.world.server.writes
    machine.run(MINUTE, trade_every=10 * SECOND)
    assert len(machine.world.readers.beats[0]) - beats >= 59
    assert machine.world.server.writes - saved >= 6
    assert machine.trades_5m == pytest.approx(30, abs=6)
    assert machine.as_of_error < SECOND
    assert any("3600 s back from" in each for each in machine.degraded)
    assert machine.process.health.readiness.ready


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR])
def test_one_reading_ahead_empties_nothing(machine: Machine, leap: int) -> None:
    machine.world.wall_ahead = leap
    machine.run(ROUND_MS)
    machine.world.wall_ahead = 0
    machine.run(10 * SECOND, trade_every=SECOND)
    assert machine.trades_5m == pytest.approx(40, abs=6)
    assert machine.as_of_error < SECOND
    assert machine.degraded == []


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR])
def test_a_clock_that_stays_ahead_of_the_log_is_not_followed(machine: Machine, leap: int) -> None:
    machine.world.wall_ahead = leap
    machine.run(5 * MINUTE, trade_every=10 * SECOND)
    assert machine.trades_5m == pytest.approx(30, abs=6)
    assert any(f"{leap // SECOND} s ahead" in each for each in machine.degraded)


def test_a_machine_that_was_suspended_follows_the_log_immediately(machine: Machine) -> None:
    """The monotonic clock stood still for an hour while trades waited in the log."""
    for _ in range(60):
        machine.world.now += MINUTE
        machine.trade()
    machine.run(2 * SECOND, trade_every=SECOND)
    assert machine.trades_5m == pytest.approx(7, abs=2)
    assert machine.degraded == []


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR])
def test_a_wrong_clock_on_a_quiet_log_is_put_right_without_a_restart(
    machine: Machine, leap: int
) -> None:
    """No record contradicts it, so it is followed; set back, the windows are again the log's."""
    before = machine.world.readers.rows["ethereum:A"]
    machine.world.wall_ahead = leap
    machine.run(CONFIRM_MS + MINUTE)
    assert machine.trades_5m == 0
    assert any(f"{leap // SECOND} s ahead" in each for each in machine.degraded)
    machine.world.wall_ahead = 0
    machine.run(CONFIRM_MS + MINUTE)
    machine.trade()
    machine.run(10 * SECOND)
    row = machine.world.readers.rows["ethereum:A"]
    assert row.epoch > before.epoch
    assert abs(row.as_of - machine.world.now) < MINUTE
    assert row.windows["1h"].trades == before.windows["1h"].trades + 1
    assert row.windows["24h"].trades == before.windows["24h"].trades + 1
    assert any("is followed" in each for each in machine.degraded)


def test_a_late_loop_reports_that_it_is_late(machine: Machine) -> None:
    machine.world.pass_time(5 * SECOND)
    machine.run(ROUND_MS)
    assert any("late" in each for each in machine.world.readers.newest_beats[0].degraded)
    machine.run(2 * SECOND)
    assert machine.degraded == []
