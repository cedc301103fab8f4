"""Keeps the service's processes running: restarts those that end and reports when they work again.

A process that ends repeatedly is reported each time and restarted with growing pauses. This module
knows neither what a process does nor how to check it: its `Job` defines both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.embedded.engine import Process

# The pause before the first, second, ... restart in a row; the last one repeats.
PAUSES_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# After this much work, the pauses start from the beginning again.
STEADY_S: Final = 30.0
# A process that runs but does not work is reported after this time.
SLOW_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """A process that should always run.

    `command` is called before each start. `proof` returns None while a started process does not
    work yet, then a text that follows "started again, "; "{after}" in it becomes the seconds since
    the process ended.
    """

    name: str
    command: Callable[[], list[str]]
    environment: dict[str, str]
    directory: Path
    proof: Callable[[Process], str | None]


@dataclass(slots=True)
class _Watched:
    job: Job
    process: Process
    ended_at: float | None = None
    """When its end was detected; None while it works."""
    how: str = ""
    start_at: float | None = None
    """When to restart it; None while it runs."""
    started_at: float = 0.0
    worked_since: float = 0.0
    ends: int = 0
    """Consecutive ends, none of them after STEADY_S of work."""
    slow_reported: bool = field(default=False)


class Supervisor:
    """Watches the processes given to `add`; `tend` does one round and never blocks."""

    def __init__(
        self,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a `report` that prints one line and a monotonic `clock` in seconds."""
        self._report = report
        self._clock = clock
        self._watched: list[_Watched] = []

    def add(self, job: Job, process: Process) -> None:
        """Watch a process that runs and works already."""
        self._watched.append(_Watched(job, process, worked_since=self._clock()))

    def tend(self) -> bool:
        """Detect ends, restart what is due, report what works; return whether a pid changed."""
        changed = [self._tend(each) for each in self._watched]
        return any(changed)

    def _tend(self, watched: _Watched) -> bool:
        now = self._clock()
        if watched.start_at is None and (status := watched.process.status) is not None:
            self._ended(watched, status, now)
        if watched.start_at is not None:
            return self._start_when_due(watched, now)
        if watched.ended_at is not None:
            self._look_for_proof(watched, watched.ended_at, now)
        return False

    def _ended(self, watched: _Watched, status: int, now: float) -> None:
        job, worked = watched.job, watched.ended_at is None
        if worked and now - watched.worked_since >= STEADY_S:
            watched.ends = 0
        if worked:
            watched.ended_at = now
        pause = PAUSES_S[min(watched.ends, len(PAUSES_S) - 1)]
        watched.ends += 1
        watched.how = how_it_ended(status)
        watched.start_at = now + pause
        if pause:
            last = watched.process.tail(1).strip() or "(it wrote nothing)"
            self._report(
                f"{job.name} {watched.how}, its end number {watched.ends} in a row; "
                f"next start in {pause:.0f} s; {watched.process.log} ends with: {last}"
            )

    def _start_when_due(self, watched: _Watched, now: float) -> bool:
        assert watched.start_at is not None
        if now < watched.start_at:
            return False
        job = watched.job
        watched.process.launch(job.command(), job.environment, job.directory)
        watched.start_at = None
        watched.started_at = now
        watched.slow_reported = False
        return True

    def _look_for_proof(self, watched: _Watched, ended_at: float, now: float) -> None:
        proof = watched.job.proof(watched.process)
        if proof is not None:
            # The check itself may have taken a moment.
            now = self._clock()
            after = f"{now - ended_at:.1f} s"
            self._report(
                f"{watched.job.name} {watched.how}: started again, {proof.format(after=after)}"
            )
            watched.ended_at = None
            watched.worked_since = now
        elif now - watched.started_at >= SLOW_S and not watched.slow_reported:
            watched.slow_reported = True
            self._report(
                f"{watched.job.name} {watched.how}: it was started again {SLOW_S:.0f} s ago and "
                f"does not work yet; see {watched.process.log}"
            )


def how_it_ended(status: int) -> str:
    """Describe an exit status; a negative one is the signal that ended the process."""
    if status < 0:
        return f"was killed (signal {-status})"
    return f"ended with status {status}"
