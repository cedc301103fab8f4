"""`python -m tests.chaos`: play many seeds, or one seed again, and print a table at the end."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
import time
from pathlib import Path

import structlog

from tests.chaos.campaign import LANES, Campaign, explain, table
from tests.chaos.schedule import Schedule, schedule


def main() -> int:
    """Play the seeds; exit status 1 where one failed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    options = _parse()
    schedules = [schedule(seed) for seed in _seeds(options)]
    if options.only is not None:
        schedules = [_part(each, options.only) for each in schedules]
    directory = options.dir or Path(tempfile.mkdtemp(prefix="chaos-"))
    begun = time.monotonic()
    results = []
    with Campaign(directory, min(options.lanes, len(schedules))) as campaign:
        for playing in [campaign.play(each) for each in schedules]:
            result = playing.result()
            results.append(result)
            word = "FAILED" if result.failed else "right"
            print(f"seed {result.schedule.seed}: {word}, {result.seconds:.0f} s", flush=True)
            if result.failed:
                print(explain(result), flush=True)
    print(table(results))
    print(f"{'seconds':<18}{time.monotonic() - begun:>8.0f}")
    return int(any(result.failed for result in results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play only this seed")
    parser.add_argument("--repeat", type=int, default=1, help="how often to play --seed")
    parser.add_argument("--only", type=_numbers, help="play only these steps, as in 0,2-5,9")
    parser.add_argument("--lanes", type=int, default=LANES, help="how many runs at a time")
    parser.add_argument("--dir", type=Path, help="where to put data and evidence")
    return parser.parse_args()


def _seeds(options: argparse.Namespace) -> list[int]:
    if options.seed is not None:
        return [options.seed] * options.repeat
    return list(range(options.first, options.first + options.seeds))


def _numbers(text: str) -> frozenset[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _part(whole: Schedule, only: frozenset[int]) -> Schedule:
    steps = tuple(step for number, step in enumerate(whole.steps) if number in only)
    return dataclasses.replace(whole, steps=steps)


if __name__ == "__main__":
    raise SystemExit(main())
