"""Keeps the service's processes running: one that ends is started again, and its return reported.

A process that ends again and again is reported each time and started with growing pauses. Knows
neither what a process does nor how it is asked: its `Job` says both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infra.embedded.engine import Process

# Before the first, second, ... start in a row; the last pause holds for all further ones.
PAUSES_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# A process that has worked for so long starts the pauses from the beginning.
STEADY_S: Final = 30.0
# When a process that runs but does not work yet is reported.
SLOW_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """A process that should always run.

    `command` is asked before each start. `proof` says what a started process was seen to do, in
    words that follow "started again, "; "{after}" in them becomes the seconds since its end. None
    means that it does not work yet.
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
    """When its end was noticed; None while it works."""
    how: str = ""
    start_at: float | None = None
    """When to start it; None while it runs."""
    started_at: float = 0.0
    worked_since: float = 0.0
    ends: int = 0
    """Ends in a row, none of them after STEADY_S of work."""
    slow_reported: bool = field(default=False)


class Supervisor:
    """Watches the processes given to `add`; `tend` does one round and never waits."""

    def __init__(
        self,
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`report` prints one line; `clock` gives seconds that never go back."""
        self._report = report
        self._clock = clock
        self._watched: list[_Watched] = []

    def add(self, job: Job, process: Process) -> None:
        """Watch a process that runs and works."""
        self._watched.append(_Watched(job, process, worked_since=self._clock()))

    def tend(self) -> bool:
        """Notice ends, start what is due, report what works again; True where a pid changed."""
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
            # The proof may have taken a moment to ask for.
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
    """An exit status in words: negative is the signal that ended the process."""
    if status < 0:
        return f"was killed (signal {-status})"
    return f"ended with status {status}"
