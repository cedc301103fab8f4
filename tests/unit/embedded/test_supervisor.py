"""Which processes are restarted and when, and what is printed. Time and processes are fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from infra.embedded.engine import Process
from infra.embedded.supervisor import PAUSES_S, SLOW_S, STEADY_S, Job, Supervisor


class OneProcess:
    """The part of `Process` that a supervisor uses; `end` ends it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.log = Path("log/worker.log")
        self.launched_at: list[float] = []
        self.commands: list[Sequence[str | Path]] = []
        self.world: World | None = None

    def launch(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None, cwd: Path | None
    ) -> None:
        assert self.world is not None
        assert (env, cwd) == ({"A": "1"}, Path("/here"))
        self.status = None
        self.commands.append(command)
        self.launched_at.append(self.world.now)

    def tail(self, lines: int) -> str:
        assert lines == 1
        return "its last words"


class World:
    """One supervised process, the clock, and the lines that were printed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.works = False
        self.process = OneProcess()
        self.process.world = self
        self.supervisor = Supervisor(self.lines.append, lambda: self.now)
        job = Job(
            "worker",
            lambda: ["work", f"{self.now:.0f}"],
            {"A": "1"},
            Path("/here"),
            lambda _: "counting after {after}; nothing is lost" if self.works else None,
        )
        self.supervisor.add(job, cast(Process, self.process))

    def wait(self, seconds: float) -> bool:
        """Tend ten times a second; return whether a pid changed."""
        changed = False
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            changed |= self.supervisor.tend()
        return changed


@pytest.fixture
def world() -> World:
    return World()


def test_while_it_runs_nothing_happens(world: World) -> None:
    assert not world.wait(60)
    assert world.lines == world.process.launched_at == []


def test_a_killed_process_is_restarted_immediately_and_its_return_is_reported(
    world: World,
) -> None:
    world.process.status = -9
    assert world.wait(0.1)
    assert len(world.process.launched_at) == 1
    assert world.lines == []
    assert not world.wait(1.8)
    world.works = True
    world.wait(5)
    assert world.lines == [
        "worker was killed (signal 9): started again, counting after 1.9 s; nothing is lost"
    ]


def test_the_command_is_asked_for_at_each_start(world: World) -> None:
    for _ in range(2):
        world.process.status = -9
        world.wait(2)
    assert [command[0] for command in world.process.commands] == ["work", "work"]
    assert len({command[1] for command in world.process.commands}) == 2


def test_one_that_ends_again_and_again_is_reported_and_waited_for_longer_each_time(
    world: World,
) -> None:
    for _ in range(200):
        world.process.status = 1
        world.wait(1)
    starts = world.process.launched_at
    pauses = [after - before for before, after in pairwise(starts)]
    expected = [*PAUSES_S[1:], *[PAUSES_S[-1]] * (len(pauses) - len(PAUSES_S) + 1)]
    assert len(pauses) > len(PAUSES_S)
    assert pauses == pytest.approx(expected, abs=1.2)
    assert world.lines[0] == (
        "worker ended with status 1, its end number 2 in a row; next start in 1 s; "
        "log/worker.log ends with: its last words"
    )
    assert len(world.lines) in {len(starts) - 1, len(starts)}


def test_after_steady_work_the_pauses_start_from_the_beginning(world: World) -> None:
    world.works = True
    for _ in range(3):
        world.process.status = -9
        world.wait(STEADY_S + 2)
    assert len(world.lines) == 3
    assert all("started again, counting after 0.1 s" in line for line in world.lines)


def test_one_that_runs_and_does_not_work_is_reported_once(world: World) -> None:
    world.process.status = -15
    world.wait(3 * SLOW_S)
    assert world.lines == [
        "worker was killed (signal 15): it was started again 30 s ago and does not work yet; "
        "see log/worker.log"
    ]
    world.works = True
    world.wait(1)
    assert "started again, counting after 90." in world.lines[-1]
