"""Many runs in parallel: each lane has its own broker and plays one run after the other.

A run spends nearly all its time waiting (for Kafka to drop a dead member, for an engine to come
back), so more lanes than cores are useful.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from aggregator.windows.engine import warm_up
from infra.embedded.kafka import Kafka
from infra.embedded.stack import Stack
from tests.chaos.run import Result, run
from tests.chaos.schedule import Schedule, schedule

LANES = 5


class Campaign:
    """Plays schedules in `directory`, `lanes` at a time; the brokers stop with the `with` block."""

    def __init__(self, directory: Path, lanes: int = LANES) -> None:
        self._directory = directory
        self._pool = ThreadPoolExecutor(lanes, "lane", self._open_lane)
        self._lane = threading.local()
        self._lanes = iter(range(lanes))
        self._brokers = ExitStack()
        self._lock = threading.Lock()
        self._played: Counter[int] = Counter()

    def __enter__(self) -> Self:
        # On a fresh checkout the first aggregators would all compile the engine at the same time.
        warm_up()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._brokers.close()

    def _open_lane(self) -> None:
        with self._lock:
            lane = next(self._lanes)
        broker = Stack(self._directory / f"lane-{lane}", only=(Kafka,))
        broker.start()
        with self._lock:
            self._brokers.callback(broker.stop)
        self._lane.broker = broker

    def play(self, what: Schedule) -> Future[Result]:
        """Return a future of the result."""
        self._played[what.seed] += 1
        name = f"seed-{what.seed}-{self._played[what.seed]}"
        return self._pool.submit(lambda: run(what, self._directory / name, self._lane.broker))

    def play_seeds(self, seeds: Iterable[int]) -> dict[int, Future[Result]]:
        """Return futures of the results by seed."""
        return {seed: self.play(schedule(seed)) for seed in seeds}


def table(results: Iterable[Result]) -> str:
    """Return a table of how much was tried, and what was lost or counted twice."""
    results = list(results)
    done: Counter[str] = sum((result.done for result in results), Counter())
    letters: Counter[str] = sum((result.letters for result in results), Counter())
    rows = {
        "seeds": len(results),
        "records": sum(result.events for result in results),
        "rows compared": sum(result.findings.checked for result in results),
        **dict(sorted(done.items())),
        **{f"letter {name}": number for name, number in sorted(letters.items())},
        "violations": sum(len(result.findings.violations) for result in results),
        "lost": sum(result.findings.lost for result in results),
        "double": sum(result.findings.double for result in results),
        "failed seeds": sum(result.failed for result in results),
    }
    return "\n".join(f"{name:<18}{count:>8}" for name, count in rows.items())


def explain(result: Result) -> str:
    """Describe a failed run: what was wrong, what was done, how to play it again."""
    steps = "\n".join(f"  {number:>2} {step}" for number, step in enumerate(result.schedule.steps))
    seed = result.schedule.seed
    wrong = "\n".join(f"  {each[:1500]}" for each in result.findings.violations[:20])
    return (
        f"seed {seed}: {len(result.findings.violations)} violations\n{wrong}\n"
        f"schedule (span {result.schedule.span_ms} ms):\n{steps}\n"
        f"logs and evidence: {result.directory}\n"
        f"again: make chaos SEED={seed}"
    )
