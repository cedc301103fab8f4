"""Simulate the rules of docs/exactly-once.md.

all      play N schedules with every fault; exit status 1 where one shows a violation
ablate   the same with each rule switched off in turn
table    each fault on its own
one      one schedule, step by step; lines with BAD say what is wrong
min      the smallest schedule that shows --violation
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.model.campaign import SCHEDULES, Tally, minimise, parallel_campaign, rules_without
from tests.model.oracle import play
from tests.model.rules import FAULTS, RULES


def main() -> int:
    """Run one command; return the exit status."""
    options = _parse()
    off = [rule for rule in options.off.split(",") if rule]
    faults = [fault for fault in options.faults.split(",") if fault]
    rules = rules_without(*off)
    if options.what == "one":
        print(play(options.seed, rules, faults, options.swaps, trace=True))
        return 0
    if options.what == "min":
        swaps, seed, fewest = minimise(rules, options.violation)
        print(f"{options.violation}: {swaps} swaps, seed {seed}, faults {','.join(fewest)}")
        return 0
    cases = {"all": (rules, faults)}
    if options.what == "ablate":
        cases = {rule: (rules - {rule}, faults) for rule in RULES if rule not in off}
    elif options.what == "table":
        cases = {fault: (rules, [fault]) for fault in FAULTS}
    violated = False
    for name, case in cases.items():
        begun = time.monotonic()
        tally = parallel_campaign(*case, options.n, options.seed)
        violated |= bool(tally.counts[SCHEDULES])
        print(_line(name, tally, options.n, time.monotonic() - begun), flush=True)
    return int(violated and options.what != "ablate")


def _line(name: str, tally: Tally, schedules: int, seconds: float) -> str:
    found = ", ".join(
        f"{violation} {count} (seed {tally.first_seeds[violation]})"
        for violation, count in tally.counts.most_common()
        if violation in tally.first_seeds
    )
    violated = tally.counts[SCHEDULES]
    return f"{name:<10}{violated:>7} of {schedules} in {seconds:.0f} s  {found}".rstrip()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "tests.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["all", "ablate", "table", "one", "min"])
    parser.add_argument("-n", type=int, default=1000, help="schedules")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma separated")
    parser.add_argument("--off", default="", help="rules switched off, comma separated")
    parser.add_argument("--swaps", type=int, help="how many swaps a schedule has")
    parser.add_argument("--violation", help="the name of one, for min")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
