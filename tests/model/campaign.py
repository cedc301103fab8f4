"""Many schedules: a tally of their violations, and the smallest schedule that shows one."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import NamedTuple

from tests.model.oracle import play
from tests.model.rules import FAULTS, RULES

SCHEDULES = "schedules with a violation"
_CHUNK = 250


class Tally(NamedTuple):
    """How many schedules show each violation, and the first seed of each."""

    counts: Counter[str]
    first_seeds: dict[str, int]


def rules_without(*off: str) -> frozenset[str]:
    """Return all rules but some."""
    return frozenset(RULES) - set(off)


def campaign(
    rules: frozenset[str], faults: list[str], schedules: int, first_seed: int = 0
) -> Tally:
    """Play seeds in this process."""
    tally = Tally(Counter({SCHEDULES: 0}), {})
    for seed in range(first_seed, first_seed + schedules):
        violations = set(play(seed, rules, faults))
        tally.counts[SCHEDULES] += bool(violations)
        for violation in violations:
            tally.counts[violation] += 1
            tally.first_seeds.setdefault(violation, seed)
    return tally


def parallel_campaign(
    rules: frozenset[str], faults: list[str], schedules: int, first_seed: int = 0
) -> Tally:
    """Play seeds on all cores."""
    seeds = range(first_seed, first_seed + schedules, _CHUNK)
    sizes = [min(_CHUNK, first_seed + schedules - seed) for seed in seeds]
    whole = Tally(Counter(), {})
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for part in pool.map(campaign, repeat(rules), repeat(faults), sizes, seeds):
            for violation, count in part.counts.items():
                whole.counts[violation] += count
            for violation, seed in part.first_seeds.items():
                whole.first_seeds.setdefault(violation, seed)
    return whole


def minimise(
    rules: frozenset[str], violation: str, tries: int = 3000
) -> tuple[int, int | None, list[str]]:
    """Return the fewest swaps, a seed and the fewest faults that still show a violation."""

    def first(swaps: int, faults: list[str]) -> int | None:
        shows = (seed for seed in range(tries) if violation in play(seed, rules, faults, swaps))
        return next(shows, None)

    faults = list(FAULTS)
    for swaps in (1, 2, 3, 4, 6, 9):
        seed = first(swaps, faults)
        if seed is None:
            continue
        for fault in FAULTS:
            fewer = [each for each in faults if each != fault]
            if (found := first(swaps, fewer)) is not None:
                faults, seed = fewer, found
        return swaps, seed, faults
    return 0, None, faults
